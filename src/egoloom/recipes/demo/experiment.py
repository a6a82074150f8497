"""The augmentation experiment at the demonstration's size: the same cells, on the stores that the demonstration has."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egoloom._parallel import map_unordered
from egoloom.augmentation.generate import AugmentationConfig, generate_clips, generated_store
from egoloom.augmentation.generators import INPAINTING, open_generator
from egoloom.augmentation.samples import generator_prior_config
from egoloom.clips import ClipStore
from egoloom.errors import UserError
from egoloom.recipes.demo.config import DemoConfig
from egoloom.recipes.demo.data import DemoData
from egoloom.recipes.experiments.augmentation import AugmentationExperiment
from egoloom.recipes.experiments.augmentation.cells import Group
from egoloom.recipes.experiments.augmentation.run import gains, setting_name
from egoloom.recipes.experiments.augmentation.stores import crop_exo
from egoloom.recipes.experiments.records import ExperimentRecord

CELLS = ("ego_only", "raw_exo", "prior_inpainted", "generated", "true_ego")
# No cell selects anything on validation clips, so they measure as well as test clips do.
REPORT_SPLITS = ("validation", "test")


def compare_mixtures(config: DemoConfig, data: DemoData, out: Path) -> dict[str, Any]:
    """Trains the same network on few labelled ego clips and, cell by cell, on what third-person clips become.

    Returns:
        A record as `egoloom experiment augmentation` writes it, with ``about`` in words.
    """
    make_mixture_stores(config, data, out)
    stores = mixture_stores(data, out)
    num_test = len(stores["ego"].select(split=REPORT_SPLITS, labelled=True))
    about = {
        "about": f"{config.experiment_labels} labelled ego clips an action, {config.experiment_steps} steps, "
        f"{config.experiment_seeds} seed(s), {num_test} test clips of the people and kitchens that were trained on",
        "num_exo_clips": len(stores["third_person"].select(view="exo")),
        "num_test_clips": num_test,
    }
    record = ExperimentRecord("augmentation, small", about)
    tasks = [CellsOfSeed(config, data, out, seed) for seed in range(config.experiment_seeds)]
    for outcome in map_unordered(run_cells, tasks, num_workers=config.num_workers, description="seeds"):
        if outcome.result is None:
            raise UserError(outcome.failure.reason if outcome.failure else "A training failed")
        for cell, figures in outcome.result.items():
            record.add(setting_name(config.experiment_labels), cell, outcome.item.seed, figures)
    return record.to_dict(gains(record))


@dataclass(frozen=True)
class CellsOfSeed:
    """What one process trains: every cell with one seed."""

    config: DemoConfig
    data: DemoData
    out: Path
    seed: int


def run_cells(task: CellsOfSeed) -> dict[str, dict[str, float]]:
    """Returns the figures of every cell for one seed."""
    config = task.config
    experiment = AugmentationExperiment(
        labels_per_action=(config.experiment_labels,),
        num_seeds=(config.experiment_seeds,),
        steps=config.experiment_steps,
        report_splits=REPORT_SPLITS,
    )
    stores = mixture_stores(task.data, task.out)
    group = Group(experiment, stores, {}, task.out / "experiment", config.experiment_labels, task.seed)
    # Bars of several processes would write over one another.
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        return {cell: group.figures(cell, is_distilled=False) for cell in CELLS}


def mixture_stores(data: DemoData, out: Path) -> dict[str, ClipStore]:
    """Returns the experiment's stores: the demonstration's own, exo clips cut to the hands, and inpainted priors."""
    paths = {"ego": data.recognition, "third_person": data.exo}
    paths |= {name: out / "clips" / name for name in ("raw_exo", "prior_inpainted", "generated")}
    return {name: ClipStore.open(path) for name, path in paths.items()}


def make_mixture_stores(config: DemoConfig, data: DemoData, out: Path) -> None:
    """Makes the stores that only the experiment needs."""
    third_person = ClipStore.open(data.exo)
    path = out / "clips" / "prior_inpainted"
    pipeline, name = open_generator(INPAINTING)
    generate_clips(
        third_person,
        third_person.select(view="exo"),
        pipeline,
        path,
        generator=name,
        config=AugmentationConfig(
            size_px=config.generated_size_px,
            num_frames=config.generated_frames,
            prior=generator_prior_config(is_metric=third_person.info.is_simulated),
        ),
        target=generated_store(path, ClipStore.open(data.recognition), name),
    )
    crop_exo(third_person, out / "clips" / "raw_exo", with_flow=False)
