"""Generation of many clips with one set of options."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch.nn.functional import avg_pool2d, max_pool2d

from egoloom.exo2ego.samples import GeneratorSample

if TYPE_CHECKING:  # the pipeline imports diffusers, which takes seconds
    from egoloom.exo2ego.pipeline import EgoXPipeline


class GenerationConfig(BaseModel):
    """Options of generation.

    Args:
        num_steps: Denoising steps; 2 suit the generator that ships, 50 the published weights.
        guidance_scale: Classifier-free guidance; 1 computes one branch only.
        geometry_scale: The factor lambda; the pipeline's own if absent.
        mode: Mode of geometry-guided attention.
        window_frames: Frames generated at once; the whole clip if absent.
        overlap_frames: Frames that windows share.
        num_draws: Averages this many draws from different noise (a sharper picture needs 1).
        seed: Seed of the noise.
        keep_prior: Share of the ego prior in what it shows: 0 is the generator's picture, 1 the prior's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_steps: int = Field(default=2, ge=1)
    guidance_scale: float = Field(default=1.0, ge=0)
    geometry_scale: float | None = None
    mode: str | None = None
    window_frames: int | None = None
    overlap_frames: int = Field(default=5, ge=1)
    num_draws: int = Field(default=1, ge=1)
    seed: int = 0
    keep_prior: float = Field(default=0.0, ge=0, le=1)


def generate(
    pipeline: "EgoXPipeline",
    samples: Sequence[GeneratorSample],
    config: GenerationConfig | None = None,
    *,
    on_clip: Callable[[int, torch.Tensor], None] | None = None,
) -> list[torch.Tensor]:
    """Returns one ego clip, RGB ``uint8`` ``[T, 3, H, W]``, per sample.

    Args:
        pipeline: The pipeline.
        samples: Clips of any sizes and lengths.
        config: Options.
        on_clip: Called with the number and frames of each finished clip, e.g. to write it at once.
    """
    config = config or GenerationConfig()
    pipeline.set_progress_bar_config(disable=True)
    clips = []
    for number, sample in enumerate(samples):
        draws = [
            pipeline(
                sample,
                num_inference_steps=config.num_steps,
                guidance_scale=config.guidance_scale,
                geometry_scale=config.geometry_scale,
                mode=config.mode,  # type: ignore[arg-type]
                window_frames=config.window_frames,
                overlap_frames=config.overlap_frames,
                seed=config.seed + draw,
            ).frames[0]
            for draw in range(config.num_draws)
        ]
        clip = draws[0] if len(draws) == 1 else torch.stack(draws).float().mean(0).round().to(torch.uint8)
        if config.keep_prior > 0:
            clip = blend_prior(clip, sample, config.keep_prior)
        clips.append(clip)
        if on_clip is not None:
            on_clip(number, clip)
    return clips


def blend_prior(generated_TCHW: torch.Tensor, sample: GeneratorSample, share: float) -> torch.Tensor:
    """Returns generated frames mixed with the ego prior where it is visible; its holes stay as generated.

    The outermost visible pixels are left as generated too, since a rendered prior frays there, and the next ones count
    less, so that no seam shows.

    Args:
        generated_TCHW: RGB ``uint8``, of the prior's size.
        sample: The clip with its prior and holes.
        share: Weight of the prior, 0..1.
    """
    assert sample.hole_THW is not None
    inner = 1 - max_pool2d(sample.hole_THW[:, None].float(), 3, stride=1, padding=1)
    weight = share * inner * avg_pool2d(inner, 3, stride=1, padding=1, count_include_pad=False)
    mixed = torch.lerp(generated_TCHW.float(), sample.prior_TCHW.float(), weight)
    return mixed.round().to(torch.uint8)
