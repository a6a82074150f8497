"""The experiment from stores to record: what is missing is trained, cell by cell."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from egoloom._parallel import map_unordered
from egoloom.clips import ClipStore
from egoloom.clips.files import write_text
from egoloom.errors import UserError
from egoloom.recipes.experiments.augmentation.cells import Group, Memory
from egoloom.recipes.experiments.augmentation.config import CELLS, DISTILLED_CELLS, AugmentationExperiment
from egoloom.recipes.experiments.augmentation.stores import make_stores, open_stores
from egoloom.recipes.experiments.records import ExperimentRecord

FIGURES_DEPEND_ON = ("num_ego_takes", "num_exo_takes", "steps", "recorded_steps", "report_splits", "worst_share")


@dataclass(frozen=True)
class GroupTask:
    """All cells of one number of labels and one seed: what one process trains."""

    config: AugmentationExperiment
    out: Path
    number: int
    seed: int
    is_distilled: bool

    def __str__(self) -> str:
        return f"{setting_name(self.number, is_distilled=self.is_distilled)}, seed {self.seed}"


def run(config: AugmentationExperiment, out: Path, record_path: Path) -> dict[str, Any]:
    """Runs what is missing and writes the record after every finished group.

    Args:
        config: The size.
        out: Folder of the stores, of the networks' checkpoints and of every cell's figures; the same command continues
            there.
        record_path: The record.

    Returns:
        The record as plain values.
    """
    tasks = [GroupTask(config, out, *group) for group in plan(config)]
    stores = make_stores(config, out / "clips")
    record = ExperimentRecord("augmentation", about(config, stores))
    for outcome in map_unordered(run_group, tasks, num_workers=config.num_workers, description="groups of cells"):
        if outcome.result is None:
            raise UserError(f"{outcome.item}: {outcome.failure.reason if outcome.failure else 'failed'}")
        setting = setting_name(outcome.item.number, is_distilled=outcome.item.is_distilled)
        for cell, figures in outcome.result.items():
            record.add(setting, cell, outcome.item.seed, figures)
        record.values = {key: record.values[key] for key in sorted(record.values, key=_order)}
        record.save(record_path, gains(record))
    return record.to_dict(gains(record))


_MEMORY: Memory = {}  # of this process: groups that follow one another share their views


def run_group(task: GroupTask) -> dict[str, dict[str, float]]:
    """Returns cell to figures; finished cells are read from their files."""
    torch.set_num_threads(1)  # networks this small lose by more
    folder = task.out / ("distilled" if task.is_distilled else "labels")
    group = Group(task.config, open_stores(task.out / "clips"), _MEMORY, folder, task.number, task.seed)
    config = task.config.model_dump(mode="json", include=set(FIGURES_DEPEND_ON))
    found = {}
    for cell in DISTILLED_CELLS if task.is_distilled else CELLS:
        path = group.out / f"{cell}.json"
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if content.get("config") != config:
            content = {"config": config, "figures": group.figures(cell, is_distilled=task.is_distilled)}
            write_text(path, json.dumps(content, indent=1) + "\n")
        found[cell] = content["figures"]
    return found


def _order(key: tuple[str, str]) -> tuple[bool, int, int]:
    setting, cell = key
    return setting.endswith("distilled"), int(setting.split()[0]), CELLS.index(cell)


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
    return [(number, seed + config.first_seed, is_taught) for number, seed, is_taught in first + rest + second]


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
        "tuning": "steps and filter were chosen with the seeds 0 to 3, 100 and 101 on another kitchen, whose report "
        f"showed that a filter of labels by a weak recogniser gains nothing; the seeds from {config.first_seed} on and "
        "their number were fixed before the first figure of this kitchen",
        "protocol": "edge_tiny on RGB of 8 x 48 x 48; 2 clips x 1 crop, mean of logits; last weights, no selection; "
        "the same number of steps in every cell; figures over the report splits together",
        "config": config.model_dump(mode="json"),
    }
