"""Distillation: what a step of the student costs with cached soft labels and with all teachers online, in one run.

    python benchmarks/distillation.py [--json]
    python benchmarks/distillation.py --full-step          one optimiser step of the full-size EPIC recipe

The reference's way runs every teacher at every step in fp32 and decodes all modalities for it; ours decodes RGB only
and looks up what the teachers said about the same view before. Both train the same student on the same views of the
same clips, with decoding, in this process; times are CPU seconds. Weights are random: they do not change the cost.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from egoloom.clips import ClipStore
from egoloom.clips.dataset import ClipDataset
from egoloom.clips.transforms import ViewConfig
from egoloom.distillation.config import DistillationConfig
from egoloom.kitchen.settings import KitchenSettings
from egoloom.kitchen.store import make_store
from egoloom.models import create_model, num_parameters
from egoloom.recipes.recognition import _student_modalities, build_model, build_task, training_entries
from egoloom.recipes.registry import get_recipe
from egoloom.recipes.run_config import RunConfig
from egoloom.training.config import DataConfig, ModelConfig, OptimisationConfig
from egoloom.training.loop import Trainer

Networks = dict[str, tuple[str, dict[str, Any]]]


def teachers_of(trunk: str) -> Networks:
    """Returns the five teachers; those of RGB and flow have the given trunk."""
    return {
        "rgb": (trunk, {}),
        "flow": (trunk, {"input_modality": "flow"}),
        "audio": ("spectrogram_small", {}),
        "boxes": ("layout_tiny", {}),
        "imu": ("imu_small", {}),
    }


# Teachers as small as the student, and teachers that stay at home while a small student ships.
TRUNKS = {"equal": "edge_small", "large": "edge_large"}
FULL_TEACHERS: Networks = {
    "rgb": ("video_swin_t", {}),
    "flow": ("video_swin_t", {"input_modality": "flow"}),
    "audio": ("spectrogram_small", {}),
}


def save_teachers(teachers: Networks, num_classes: dict[str, int], folder: Path) -> tuple[Path, ...]:
    """Saves teachers with random weights as finished runs."""
    for name, (model, options) in teachers.items():
        torch.manual_seed(0)
        create_model(model, num_classes=num_classes, **options).save_pretrained(folder / name / "checkpoints" / "best")
    return tuple(folder / name for name in teachers)


def small_run(store: ClipStore, teachers: tuple[Path, ...], *, use_cache: bool, epochs: int) -> RunConfig:
    """Returns a student of a million parameters at 96 px; nothing decoded is kept, as with a data set of real size."""
    return RunConfig(
        data=DataConfig(store=store.path),
        model=ModelConfig(name="edge_small"),
        view=ViewConfig(num_frames=8, size_px=96),
        optimisation=OptimisationConfig(epochs=epochs, batch_size=8, num_view_seeds=1, cache_mb=0),
        distillation=DistillationConfig(teachers=teachers, use_cache=use_cache),
    )


def measure(config: RunConfig, store: ClipStore, out: Path) -> dict[str, float]:
    """Returns CPU seconds a step, and what the preparation cost."""
    model = build_model(config, store)
    dataset = ClipDataset(
        training_entries(config, store), _student_modalities(config, model), config.view, is_training=True
    )
    start = time.process_time()
    task = build_task(config, store, dataset, model, out)
    prepared = time.process_time()
    trainer = Trainer(model, task, dataset, config.optimisation, out)
    trainer.fit()
    return {
        "s_a_step": (time.process_time() - prepared) / trainer.progress.step,
        "preparation_s": prepared - start,
        "num_steps": trainer.progress.step,
    }


def compare(folder: Path, num_takes: int, epochs: int) -> dict[str, Any]:
    """Returns the ratios for teachers of the student's size and for large ones, and what the cache costs."""
    settings = KitchenSettings(exo_width_px=64, exo_height_px=64)
    store = make_store(folder / "kitchen", num_clips=num_takes, settings=settings)
    figures: dict[str, Any] = {}
    for size, trunk in TRUNKS.items():
        figures[size] = compare_one(store, teachers_of(trunk), folder / size, epochs)
    large = figures["large"]
    return {
        "time_ratio_online_to_cached": large["time_ratio_online_to_cached"],
        "time_ratio_teachers_of_equal_size": figures["equal"]["time_ratio_online_to_cached"],
        "student": "edge_small",
        "student_num_parameters": num_parameters(create_model("edge_small", num_classes=store.num_classes())),
        "teachers": {size: {name: model for name, (model, _) in teachers_of(t).items()} for size, t in TRUNKS.items()},
        **figures,
    }


def compare_one(store: ClipStore, networks: Networks, folder: Path, epochs: int) -> dict[str, float]:
    """Returns the figures of one set of teachers."""
    teachers = save_teachers(networks, store.num_classes(), folder / "teachers")
    costs = {}
    for name, use_cache, rounds in (("warm-up", False, 1), ("cached", True, epochs), ("online", False, epochs)):
        config = small_run(store, teachers, use_cache=use_cache, epochs=rounds)
        costs[name] = measure(config, store, folder / name)
    files = [path for path in (folder / "cached" / "soft_labels").rglob("*") if path.is_file()]
    num_clips = len(training_entries(small_run(store, teachers, use_cache=True, epochs=1), store))
    # Both preparations weigh the teachers on held-out clips; only one builds the cache.
    build_s = costs["cached"]["preparation_s"] - costs["online"]["preparation_s"]
    return {
        "time_ratio_online_to_cached": round(costs["online"]["s_a_step"] / costs["cached"]["s_a_step"], 2),
        "cached_s_a_step": round(costs["cached"]["s_a_step"], 4),
        "online_s_a_step": round(costs["online"]["s_a_step"], 4),
        "cache_build_s_per_1000_views": round(1000 * build_s / num_clips, 1),
        "cache_kb_per_1000_views": round(sum(path.stat().st_size for path in files) / num_clips, 1),
        "num_training_clips": num_clips,
    }


def full_step(folder: Path, micro_batch: int, num_takes: int) -> dict[str, Any]:
    """Returns time and peak memory of one optimiser step of the EPIC recipe with its teachers online."""
    recipe = get_recipe("epic100")
    settings = KitchenSettings(exo_width_px=64, exo_height_px=64)
    store = make_store(folder / "kitchen", num_clips=num_takes, settings=settings)
    heads = {head: count for head, count in store.num_classes().items() if head in recipe.model.heads}
    teachers = save_teachers(FULL_TEACHERS, heads, folder / "teachers")
    batch = recipe.optimisation.batch_size
    changes = {"epochs": 1, "batch_size": micro_batch, "gradient_accumulation": batch // micro_batch, "num_workers": 0}
    config = recipe.model_copy(
        update={
            "data": DataConfig(store=store.path),
            "optimisation": recipe.optimisation.model_copy(update=changes),
            "distillation": DistillationConfig(teachers=teachers, use_cache=False, calibrate_teachers=False),
        }
    )
    model = build_model(config, store)
    modalities = _student_modalities(config, model)
    dataset = ClipDataset(training_entries(config, store)[:batch], modalities, config.view, is_training=True)
    start = time.perf_counter()
    trainer = Trainer(model, build_task(config, store, dataset, model, folder / "run"), dataset, config.optimisation,
                      folder / "run")  # fmt: skip
    prepared = time.perf_counter()
    trainer.fit()
    return {
        "num_steps": trainer.progress.step,
        "clips_a_step": batch,
        "micro_batch": micro_batch,
        "input": f"{config.view.num_frames} x {config.view.size_px} x {config.view.size_px}",
        "precision": config.optimisation.mixed_precision,
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "seconds": round(time.perf_counter() - prepared, 1),
        "preparation_seconds": round(prepared - start, 1),
    }


def main() -> None:
    """Parses, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-takes", type=int, default=60, help="kitchen takes made for the measurement")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--full-step", action="store_true", help="measure the full-size recipe instead")
    parser.add_argument("--micro-batch", type=int, default=2, help="clips at once of the full step; 16 make a step")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.full_step:
            figures = full_step(folder, options.micro_batch, options.num_takes)
        else:
            torch.set_num_threads(1)
            figures = compare(folder, options.num_takes, options.epochs)
    if options.json:
        print(json.dumps(figures))
        return
    for key, value in figures.items():
        print(f"{key:32} {value}", file=sys.stdout)


if __name__ == "__main__":
    main()
