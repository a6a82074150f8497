"""Memory of the generator's training against the number of takes: latents on disk, and all in memory as a comparison.

    python benchmarks/generator_memory.py [--store STORE] [--takes 20 80] [--steps 20] [--json]

Each training runs in a process of its own, the recipe ``kitchen-tiny`` from finding the takes to its last step, on one
thread. Memory is the peak of the resident set above that after the imports. Without a store the takes are made first:

    egoloom kitchen --num-clips 80 --size 64 --exo-size 224 128 --fps 9 --out STORE
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SPLITS = ("train", "unlabelled", "validation", "test", "unseen_participant", "unseen_kitchen")
WAYS = ("disk", "memory")


def resident_mb(key: str) -> float:
    """``VmRSS`` now, or its peak ``VmHWM``, of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1e3


def train(way: str, store: Path, num_takes: int, steps: int) -> dict[str, float]:
    """Trains in this process and returns what it needed."""
    import numba  # noqa: F401
    import torch

    from egoloom.augmentation.generator_inputs import training_samples
    from egoloom.exo2ego.autoencoder_training import stored_tiny_vae, train_tiny_vae
    from egoloom.exo2ego.latent_manifest import origins
    from egoloom.exo2ego.presets import generator_recipe
    from egoloom.exo2ego.tiny import build_tiny_pipeline
    from egoloom.exo2ego.training import train_generator

    torch.set_num_threads(1)
    recipe = generator_recipe("kitchen-tiny")
    training = recipe.training.model_copy(update={"num_steps": steps})
    before = resident_mb("VmRSS")
    samples = training_samples([store], recipe.size_px, recipe.num_frames, num_takes, SPLITS)
    assert recipe.tiny is not None
    assert len(samples) == num_takes, f"{store} has {len(samples)} takes with a recorded ego view"
    with tempfile.TemporaryDirectory() as name:
        run = Path(name)
        if way == "memory":
            kept = list(samples)
            videos = [video for sample in kept for video in (sample.exo_TCHW, sample.truth_TCHW) if video is not None]
            pipeline = build_tiny_pipeline(recipe.tiny, vae=train_tiny_vae(videos, recipe.tiny, show_progress=False))
            result = train_generator(kept, training, pipeline, show_progress=False)
        else:
            vae = stored_tiny_vae(samples.videos(), origins(samples), recipe.tiny, run / "latents")
            pipeline = build_tiny_pipeline(recipe.tiny, vae=vae)
            result = train_generator(samples, training, pipeline, run_dir=run, show_progress=False)
        files = [path.stat().st_size for path in (run / "latents").glob("0*.safetensors")]
    return {
        "peak_mb": resident_mb("VmHWM") - before,
        "num_clips": result.num_clips,
        "bytes_a_clip": sum(files) / max(1, len(files)),
        "loss": result.losses[-1],
    }


def measure(way: str, store: Path, num_takes: int, steps: int) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--train", way, "--store", str(store), "--takes", str(num_takes)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--steps", str(steps)], env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def full_size_clip_bytes(folder: Path) -> int:
    """Size of the file of one clip of Wan 2.1 14B: 49 frames, 784 + 448 x 448 px, a caption of 100 tokens."""
    import torch

    from egoloom.exo2ego.bias import DirectionTables
    from egoloom.exo2ego.conditioning import canvas_mask, condition
    from egoloom.exo2ego.latent_cache import save_clip
    from egoloom.exo2ego.layout import CanvasLayout
    from egoloom.exo2ego.training_cache import CachedClip

    layout = CanvasLayout(num_frames=13, height=56, exo_width=98, ego_width=56)
    exo, prior = torch.randn(1, 16, 13, 56, 98), torch.randn(1, 16, 13, 56, 56)
    directions = torch.randn(1, 13, layout.num_exo_tokens, 3)
    tables = DirectionTables(torch.randn(1, 13, layout.ego_tokens_per_frame, 3), directions)
    text = torch.zeros(1, 512, 4096, dtype=torch.bfloat16)
    text[:, :100] = 1
    given = condition(exo, prior, canvas_mask(layout))
    clip = CachedClip(layout, exo, prior, torch.randn_like(prior), given, tables, text, torch.randn(1, 257, 1280))
    save_clip(clip, folder / "clip.safetensors")
    return (folder / "clip.safetensors").stat().st_size


def make_takes(store: Path, num_takes: int) -> None:
    """Makes kitchen takes of the size that the recipe reads."""
    command = [sys.executable, "-m", "egoloom", "kitchen", "--num-clips", str(num_takes), "--out", str(store)]
    command += ["--size", "64", "--exo-size", "224", "128", "--fps", "9", "--workers", "1"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def compare(options: argparse.Namespace) -> dict[str, object]:
    """Returns the figures of all trainings."""
    with tempfile.TemporaryDirectory() as name:
        store = options.store or Path(name) / "takes"
        if options.store is None:
            make_takes(store, max(options.takes))
        few, many = min(options.takes), max(options.takes)
        report: dict[str, object] = {"takes": [few, many], "steps": options.steps}
        rows = {(way, count): measure(way, store, count, options.steps) for way in WAYS for count in (few, many)}
        for way in WAYS:
            peaks = [rows[way, count]["peak_mb"] for count in (few, many)]
            report[f"{way}_peak_mb"] = peaks
            report[f"{way}_mb_a_take"] = (peaks[1] - peaks[0]) / (many - few)
        report["same_losses"] = all(rows["disk", n]["loss"] == rows["memory", n]["loss"] for n in (few, many))
        report["kb_a_clip"] = rows["disk", many]["bytes_a_clip"] / 1e3
        report["full_size_mb_a_clip"] = full_size_clip_bytes(Path(name)) / 1e6
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, help="a clip store of kitchen takes; made where absent")
    parser.add_argument("--takes", type=int, nargs="+", default=[20, 80])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--train", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        print(json.dumps(train(options.train, options.store, options.takes[0], options.steps)))
        return
    report = compare(options)
    if options.json:
        print(json.dumps(report))
        return
    for key, value in report.items():
        print(f"{key:24} {value}")


if __name__ == "__main__":
    main()
