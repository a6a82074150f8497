"""The experiment from stores to record: what is missing is trained, cell by cell."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from egoloom.clips import ClipStore
from egoloom.errors import UserError
from egoloom.recipes.experiments.augmentation.cells import Group, Memory
from egoloom.recipes.experiments.augmentation.config import CELLS, DISTILLED_CELLS, AugmentationExperiment
from egoloom.recipes.experiments.augmentation.stores import make_stores
from egoloom.recipes.experiments.records import ExperimentRecord


def run(config: AugmentationExperiment, out: Path, record_path: Path) -> dict[str, Any]:
    """Runs what is missing and writes the record after every finished training.

    Args:
        config: The size.
        out: Folder of the stores and of the networks' checkpoints; the same command continues there.
        record_path: The record.

    Returns:
        The record as plain values.
    """
    torch.set_num_threads(1)  # networks this small lose by more
    stores = make_stores(config, out / "clips")
    record = ExperimentRecord("augmentation", about(config, stores))
    if record_path.is_file():
        found = ExperimentRecord.load(record_path)
        if found.about.get("config") == record.about["config"]:
            record = found
    memory: Memory = {}
    for number, seed, is_distilled in plan(config):
        group = Group(config, stores, memory, out, number, seed)
        setting = setting_name(number, is_distilled=is_distilled)
        for cell in DISTILLED_CELLS if is_distilled else CELLS:
            if seed in record.values.get((setting, cell), {}):
                continue
            record.add(setting, cell, seed, group.figures(cell, is_distilled=is_distilled))
            record.save(record_path, gains(record))
    record.save(record_path, gains(record))
    return record.to_dict(gains(record))


def plan(config: AugmentationExperiment) -> list[tuple[int, int, bool]]:
    """Returns (labels an action, seed, distilled) in an order in which an early end leaves whole comparisons behind.

    Raises:
        UserError: If a setting lacks its number of seeds, or a distilled one is not among the settings.
    """
    if len(config.num_seeds) != len(config.labels_per_action) or min(config.num_seeds) < 1:
        raise UserError(
            f"{len(config.num_seeds)} numbers of seeds for {len(config.labels_per_action)} settings",
            allowed="as many of --num-seeds as of --labels-per-action, each 1 or more",
        )
    common = min(config.num_seeds)
    settings = list(zip(config.labels_per_action, config.num_seeds, strict=True))
    first = [(number, seed, False) for seed in range(common) for number, _ in settings]
    second = [(number, seed, True) for seed in range(config.num_distilled_seeds) for number in config.distilled]
    most = max(config.num_seeds)
    rest = [(number, seed, False) for seed in range(common, most) for number, count in settings if seed < count]
    return [(number, seed + config.first_seed, is_taught) for number, seed, is_taught in first + second + rest]


def setting_name(labels_per_action: int, *, is_distilled: bool = False) -> str:
    """Returns the name of a setting in the record."""
    return f"{labels_per_action} labels an action" + (", distilled" if is_distilled else "")


def gains(record: ExperimentRecord) -> list[dict[str, Any]]:
    """Returns paired differences of the treatments, as far as the runs are there."""
    pairs = [(cell, rival) for rival in ("ego_only", "raw_exo", "true_ego") for cell in CELLS if cell != rival]
    found = []
    for setting in dict.fromkeys(setting for setting, _ in record.values):
        for cell, rival in pairs:
            ours, theirs = (record.values.get((setting, name), {}) for name in (cell, rival))
            if set(ours) & set(theirs):
                found.append(record.gain(setting, cell, rival))
    return found


def about(config: AugmentationExperiment, stores: Mapping[str, ClipStore]) -> dict[str, Any]:
    """Returns what a reader of the record must know."""
    counts = {split: len(stores["ego"].select(split=split, labelled=True)) for split in ("train", "validation")}
    counts |= {split: len(stores["ego"].select(split=split, labelled=True)) for split in config.report_splits}
    return {
        "data": "kitchen (simulated)",
        "command": " ".join(["egoloom", *sys.argv[1:]]) if sys.argv[1:2] == ["experiment"] else "",
        "num_labelled_clips": counts,
        "num_exo_clips": len(stores["third_person"].select(view="exo")),
        "num_generated_clips": len(stores["generated"].select(split="train")),
        "tuning": "steps, size of views and worst_share were chosen on validation clips with seeds 100 and 101",
        "protocol": "edge_tiny on RGB of 8 x 48 x 48; 2 clips x 1 crop, mean of logits; last weights, no selection; "
        "the same number of steps in every cell; figures over the report splits together",
        "config": config.model_dump(mode="json"),
    }
