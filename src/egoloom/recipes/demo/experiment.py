"""The augmentation experiment at the demonstration's size: the same cells, on the stores that the demonstration has."""

from pathlib import Path
from typing import Any

from egoloom.augmentation.generate import AugmentationConfig, generate_clips, generated_store
from egoloom.augmentation.generators import INPAINTING, open_generator
from egoloom.augmentation.samples import generator_prior_config
from egoloom.clips import ClipStore
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
    stores = mixture_stores(config, data, out)
    experiment = AugmentationExperiment(
        labels_per_action=(config.experiment_labels,),
        num_seeds=(config.experiment_seeds,),
        steps=config.experiment_steps,
        report_splits=REPORT_SPLITS,
    )
    num_test = len(stores["ego"].select(split=REPORT_SPLITS, labelled=True))
    about = {
        "about": f"{config.experiment_labels} labelled ego clips an action, {config.experiment_steps} steps, "
        f"{config.experiment_seeds} seed(s), {num_test} test clips of the people and kitchens that were trained on",
        "num_exo_clips": len(stores["third_person"].select(view="exo")),
        "num_test_clips": num_test,
    }
    record = ExperimentRecord("augmentation, small", about)
    setting = setting_name(config.experiment_labels)
    memory: dict = {}
    for seed in range(config.experiment_seeds):
        group = Group(experiment, stores, memory, out / "experiment", config.experiment_labels, seed)
        for cell in CELLS:
            record.add(setting, cell, seed, group.figures(cell, is_distilled=False))
    return record.to_dict(gains(record))


def mixture_stores(config: DemoConfig, data: DemoData, out: Path) -> dict[str, ClipStore]:
    """Returns the experiment's stores: the demonstration's own, exo clips cut to the hands, and inpainted priors."""
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
    return {
        "ego": ClipStore.open(data.recognition),
        "third_person": third_person,
        "raw_exo": crop_exo(third_person, out / "clips" / "raw_exo", with_flow=False),
        "prior_inpainted": ClipStore.open(path),
        "generated": ClipStore.open(out / "clips" / "generated"),
    }
