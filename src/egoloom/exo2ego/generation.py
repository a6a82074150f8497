"""Generation of many clips with one set of options."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from pydantic import BaseModel, ConfigDict, Field

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
        clips.append(clip)
        if on_clip is not None:
            on_clip(number, clip)
    return clips
