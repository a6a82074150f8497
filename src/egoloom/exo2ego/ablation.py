"""Ablations of the tiny generator: one change at a time, the same budget, several seeds.

Tiny-scale results on simulated kitchens. They say which parts matter for this model and these data, and are not
comparable with the figures of the paper, which are printed beside them for orientation only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from egoloom.exo2ego.autoencoder_training import train_tiny_vae
from egoloom.exo2ego.generation import GenerationConfig, generate
from egoloom.exo2ego.samples import GeneratorSample
from egoloom.exo2ego.tiny import TinyConfig, build_tiny_pipeline
from egoloom.exo2ego.training import train_generator
from egoloom.exo2ego.training_config import GeneratorTraining

# Mean angular error of the reference's ego rays against the true lens (docs/exo2ego.md).
REFERENCE_RAY_ERROR_DEG = 10.0
# EgoX, arXiv 2512.08269, table of ablations on seen scenes: PSNR in dB at full size.
PAPER_PSNR_DB = {"full": 16.05, "no_geometry": 14.77, "no_prior": 13.67, "noisy_exo": 15.07}


def unchanged(sample: GeneratorSample) -> GeneratorSample:
    """Returns the clip as it is."""
    return sample


@dataclass(frozen=True)
class Variant:
    """One change to the full model.

    Args:
        name: Its name in tables.
        tiny: Changed fields of the model.
        training: Changed fields of the training.
        change_sample: Changes training and test clips alike.
    """

    name: str
    tiny: dict[str, object]
    training: dict[str, object]
    change_sample: Callable[[GeneratorSample], GeneratorSample] = unchanged


def without_prior(sample: GeneratorSample) -> GeneratorSample:
    """Returns the clip with a prior that shows nothing."""
    hole = torch.ones_like(sample.hole_THW, dtype=torch.bool)  # type: ignore[arg-type]
    return replace(sample, prior_TCHW=torch.zeros_like(sample.prior_TCHW), hole_THW=hole)


def with_turned_rays(sample: GeneratorSample) -> GeneratorSample:
    """Returns the clip with ego rays turned by the mean error of the reference's rays."""
    if sample.geometry is None:
        return sample
    angle = torch.deg2rad(torch.tensor(REFERENCE_RAY_ERROR_DEG))
    cos, sin = torch.cos(angle), torch.sin(angle)
    rays = sample.geometry.ego_rays_FHWC
    # Turned about the mean row direction of each frame, i.e. sideways in the image.
    down = torch.nn.functional.normalize((rays[:, -1] - rays[:, 0]).mean(1), dim=-1)[:, None, None]
    along = (rays * down).sum(-1, keepdim=True) * down
    turned = rays * cos + torch.linalg.cross(down.expand_as(rays), rays) * sin + along * (1 - cos)
    return replace(sample, geometry=replace(sample.geometry, ego_rays_FHWC=turned))


VARIANTS = (
    Variant("full", {}, {}),
    Variant("no_prior", {}, {}, without_prior),
    Variant("no_geometry", {}, {"geometry": False}),
    Variant("noisy_exo", {"clean_exo": False}, {}),
    Variant("rays_10_deg_off", {}, {}, with_turned_rays),
    Variant("no_hole_mask", {"use_hole_mask": False}, {}),
    Variant("vmf", {"geometry_mode": "vmf"}, {}),
)


def run_ablation(
    train: Sequence[GeneratorSample],
    test: Sequence[GeneratorSample],
    tiny: TinyConfig,
    training: GeneratorTraining,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    variants: Sequence[Variant] = VARIANTS,
    generation: GenerationConfig | None = None,
    on_result: Callable[[dict[str, object]], None] | None = None,
) -> list[dict[str, object]]:
    """Returns one row per variant and seed: PSNR and SSIM over the test clips.

    Args:
        train: Training clips.
        test: Clips of kitchens that training never saw.
        tiny: The full model.
        training: Its training; every variant gets the same number of steps.
        seeds: Seeds of weights, batches and noise.
        variants: What to compare.
        generation: Options of generation; one step by default.
        on_result: Called with each row as it is known.
    """
    from egoloom.exo2ego.metrics import mean_quality

    generation = generation or GenerationConfig(num_steps=1)
    videos = [video for sample in train for video in (sample.exo_TCHW, sample.truth_TCHW) if video is not None]
    vae = train_tiny_vae(videos, tiny)
    rows = []
    for variant in variants:
        model = tiny.model_copy(update=variant.tiny)
        for seed in seeds:
            recipe = training.model_copy(update={**variant.training, "seed": seed})
            pipeline = build_tiny_pipeline(model, vae=vae, seed=seed)
            result = train_generator(
                [variant.change_sample(sample) for sample in train], recipe, pipeline, show_progress=False
            )
            scale = 0.0 if recipe.geometry is False else None
            options = generation.model_copy(update={"geometry_scale": scale, "seed": seed})
            frames = generate(pipeline, [variant.change_sample(sample) for sample in test], options)
            row: dict[str, object] = {"variant": variant.name, "seed": seed, "loss": result.mean_loss()}
            row |= mean_quality(frames, test)
            rows.append(row)
            if on_result is not None:
                on_result(row)
    return rows


def summarise(rows: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """Returns mean and standard deviation over seeds per variant, with the paper's figure where it has one."""
    table = []
    for name in dict.fromkeys(str(row["variant"]) for row in rows):
        values = np.array([float(row["psnr_db"]) for row in rows if row["variant"] == name])  # type: ignore[arg-type]
        table.append(
            {
                "variant": name,
                "num_seeds": len(values),
                "psnr_db": float(values.mean()),
                "psnr_db_std": float(values.std(ddof=1)) if len(values) > 1 else None,
                "paper_psnr_db": PAPER_PSNR_DB.get(name),
            }
        )
    return table
