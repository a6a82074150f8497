"""Makes a trained generator the one that ships: its files go into the package, the transformer in half precision.

    python scripts/ship_generator.py runs/tiny

Half precision halves the size; the pipeline loads it as float32 again.
"""

import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from egoloom.exo2ego.shipped import SHIPPED, load_generator

WEIGHTS = Path("transformer/diffusion_pytorch_model.safetensors")


def main() -> int:
    """Replaces the shipped files by those of the run and loads them once."""
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "model/model_index.json").is_file():
        print(f"usage: {Path(__file__).name} RUN    (a run folder of: egoloom exo2ego train kitchen-tiny)")
        return 2
    model = Path(sys.argv[1]) / "model"
    shutil.copytree(model, SHIPPED, dirs_exist_ok=True)
    half = {name: weight.to(torch.float16) for name, weight in load_file(model / WEIGHTS).items()}
    save_file(half, SHIPPED / WEIGHTS, metadata={"format": "pt"})
    load_generator()
    print(f"{SHIPPED}: {sum(path.stat().st_size for path in SHIPPED.rglob('*') if path.is_file()) / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
