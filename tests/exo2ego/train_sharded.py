"""LoRA trainings that a test starts with ``accelerate launch`` and FSDP: whole, interrupted and resumed, refused.

usage: train_sharded.py OUT
"""

import runpy
import sys
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

from egoloom.errors import UserError
from egoloom.exo2ego.autoencoder_training import train_tiny_vae
from egoloom.exo2ego.generation import GenerationConfig, generate
from egoloom.exo2ego.lora import save_lora
from egoloom.exo2ego.pipeline import EgoXPipeline
from egoloom.exo2ego.tiny import TinyConfig, build_tiny_pipeline
from egoloom.exo2ego.training import TrainingResult, train_generator
from egoloom.exo2ego.training_config import GeneratorTraining

TINY = TinyConfig(z_dim=12, num_layers=2, num_heads=2, head_dim=16, ffn_dim=64, prediction="velocity")
SETTINGS = {"num_steps": 6, "learning_rate": 3e-3, "warmup_steps": 2, "lora_rank": 4, "ema_decay": 0.9}


def build(tiny: TinyConfig = TINY):
    """Returns four takes of a wall and an untrained pipeline."""
    make = runpy.run_path(str(Path(__file__).with_name("conftest.py")))["build_sample"]
    samples = [make(seed=seed) for seed in range(4)]
    vae = train_tiny_vae([sample.truth_TCHW for sample in samples], tiny, show_progress=False)
    return samples, build_tiny_pipeline(tiny, vae=vae)


def train(out: Path, batch_size: int, on_checkpoint=None, **changes) -> tuple[TrainingResult, EgoXPipeline, list]:
    """Trains; the batch size is that of a process."""
    samples, pipeline = build()
    config = GeneratorTraining(
        **{**SETTINGS, "batch_size": batch_size, "checkpoint_every": 2, "gradient_clip": 0.05, **changes}
    )
    result = train_generator(samples, config, pipeline, run_dir=out, show_progress=False, on_checkpoint=on_checkpoint)
    return result, pipeline, samples


def frames_of(pipeline: EgoXPipeline, samples: list) -> torch.Tensor:
    """Returns a generated clip."""
    pipeline.set_progress_bar_config(disable=True)
    return generate(pipeline, samples[:1], GenerationConfig(num_steps=2))[0]


def crash(step: int) -> None:
    """Interrupts a run after its first checkpoint."""
    raise KeyboardInterrupt


def main(out: Path) -> None:
    """Trains with FSDP what the test compares with one process and with itself resumed."""
    _, pipeline, samples = train(out / "whole", 1)
    sharded = [isinstance(parameter, DTensor) for parameter in pipeline.transformer.parameters()]
    assert all(sharded), f"{sharded.count(False)} parameters are not sharded"
    save_lora(pipeline.transformer, out / "lora")
    torch.save(frames_of(pipeline, samples), out / f"frames_{torch.distributed.get_rank()}.pt")
    try:
        train(out / "broken", 1, on_checkpoint=crash)
    except KeyboardInterrupt:
        train(out / "broken", 1)
    rank = torch.distributed.get_rank()
    try:
        train(out / "refused", 1, lora_rank=None)
    except UserError as error:
        (out / f"refused_{rank}.txt").write_text(str(error))
    samples, pipeline = build(TINY.model_copy(update={"geometry_mode": "vmf"}))
    try:
        train_generator(samples, GeneratorTraining(**SETTINGS), pipeline, run_dir=out / "refused", show_progress=False)
    except UserError as error:
        (out / f"vmf_{rank}.txt").write_text(str(error))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
