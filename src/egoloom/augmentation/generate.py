"""Generates the ego view of exo clips into a store of its own, marked, resumable, one bad clip never stops it.

This is the work of one process; `egoloom.augmentation.workers` shares it among many.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from rich.progress import track

from egoloom.augmentation.generators import Inpainting
from egoloom.augmentation.quality import score_clip
from egoloom.augmentation.samples import generator_sample
from egoloom.augmentation.takes import load_take
from egoloom.clips import Clip, ClipStore, Modality, Video
from egoloom.clips.media import write_arrays, write_video
from egoloom.errors import UserError
from egoloom.exo2ego.generation import GenerationConfig, generate
from egoloom.exo2ego.prior import PriorConfig

if TYPE_CHECKING:
    from egoloom.exo2ego.pipeline import EgoXPipeline

REJECTED = "rejected"  # the split of generated clips that did not pass the filter
Generator: TypeAlias = "EgoXPipeline | Inpainting"


class AugmentationConfig(BaseModel):
    """How exo clips become ego clips.

    Attributes:
        size_px: Side of the generated frames.
        num_frames: Frames generated a clip.
        generation: Options of the generator.
        prior: Options of the ego prior.
        split: Split of the generated clips.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size_px: int = Field(default=64, ge=16)
    num_frames: int = Field(default=17, ge=2)
    generation: GenerationConfig = GenerationConfig()
    prior: PriorConfig = PriorConfig()
    split: str = "train"


@dataclass
class AugmentationReport:
    """What ``generate_clips`` did.

    Attributes:
        store: Where the generated clips lie.
        num_done: Clips generated now.
        num_kept: Clips that were there already.
        failures: Clip id to reason.
    """

    store: ClipStore
    num_done: int = 0
    num_kept: int = 0
    failures: dict[str, str] = field(default_factory=dict)


def generated_store(path: Path, source: ClipStore, generator: str) -> ClipStore:
    """Creates or opens the store of generated clips of a source; it has the source's classes and splits."""
    return ClipStore.create(
        path,
        name=f"{source.info.name}-generated",
        source="augment",
        licence=f"generated from {source.info.name}: {source.info.licence}",
        is_simulated=source.info.is_simulated,
        label_spaces=source.info.label_spaces,
        splits=list(dict.fromkeys([*source.info.splits, REJECTED])),
        flow_bound_px=source.info.flow_bound_px,
        box_categories=source.info.box_categories,
        extra={"generator": generator},
    )


def generate_clips(
    source: ClipStore,
    clips: Sequence[Clip],
    pipeline: Generator,
    out: Path,
    *,
    generator: str,
    config: AugmentationConfig | None = None,
    target: ClipStore | None = None,
    prefix: str = "",
    on_clip: Callable[[Clip, np.ndarray], None] | None = None,
) -> AugmentationReport:
    """Generates the first-person view of exo clips and writes them, marked, into a store.

    Labels, participant and take are those of the exo clip. Clips that the store holds already are kept.

    Args:
        source: The store with the exo clips.
        clips: Exo clips with depth and cameras.
        pipeline: The generator.
        out: Store of the generated clips.
        generator: Name and weights' hash of the generator, written to every clip.
        config: Sizes and options.
        target: The store to write into, where it is not to have the source's classes.
        prefix: Put before the ids, where several sources have equal ids.
        on_clip: Called with each new clip and its frames.
    """
    config = config or AugmentationConfig()
    report = AugmentationReport(target or generated_store(out, source, generator))
    existing = {clip.clip_id for clip in report.store.clips}
    for clip in track(list(clips), "generating", transient=True):
        if generated_id(clip, prefix) in existing:
            report.num_kept += 1
            continue
        try:
            made, frames = generate_clip(
                source, clip, pipeline, report.store, generator=generator, config=config, prefix=prefix
            )
        except UserError as error:
            report.failures[clip.clip_id] = error.what
            continue
        report.num_done += 1
        if on_clip:
            on_clip(made, frames)
    refuse_total_failure(report, len(clips))
    return report


def refuse_total_failure(report: AugmentationReport, num_clips: int) -> None:
    """Raises a UserError if not a single clip could be generated."""
    if report.failures and not report.num_done and not report.num_kept:
        clip_id, reason = next(iter(report.failures.items()))
        raise UserError(f"None of {num_clips} clips could be generated; the first, {clip_id}: {reason}")


def generated_id(clip: Clip, prefix: str = "") -> str:
    """Returns the id of the ego clip that is made of an exo clip."""
    return f"{prefix}{clip.clip_id}-generated"


def generate_clip(
    source: ClipStore,
    clip: Clip,
    pipeline: Generator,
    target: ClipStore,
    *,
    generator: str,
    config: AugmentationConfig,
    prefix: str = "",
    marks: dict[str, str] | None = None,
) -> tuple[Clip, np.ndarray]:
    """Generates and stores the ego view of one exo clip; media first, the row last, so that nothing is ever half there.

    Args:
        source: The store with the exo clip.
        clip: The exo clip.
        pipeline: The generator.
        target: Store of the generated clips.
        generator: Name of the generator.
        config: Sizes and options.
        prefix: Put before the ids, where several sources have equal ids.
        marks: Further entries of ``Clip.extra``.

    Returns:
        The clip and its frames, uint8 ``[T, 3, H, W]``.
    """
    take = load_take(source, clip, num_frames=config.num_frames)
    sample, prior = generator_sample(take, size_px=config.size_px, prior_config=config.prior)
    if isinstance(pipeline, Inpainting):
        frames = pipeline(sample)
    else:
        frames = generate(pipeline, [sample], config.generation)[0].numpy()
    priors, holes = np.asarray(prior.frames_TCHW), np.asarray(prior.hole_mask_THW)
    scores = score_clip(frames, priors, holes)
    video = _generated_video(clip, frames, config, prefix)
    video_id = video.video_id
    write_video(target.media_path(Modality.RGB, video_id), frames, video.fps)
    # What the generator saw stays beside its picture, so that a person can judge both.
    write_video(target.path / "media" / "prior" / f"{video_id}.mp4", priors, video.fps)
    write_arrays(
        target.path / "media" / "prior" / f"{video_id}.npz",
        {"hole_mask": np.packbits(holes), "shape": np.array(holes.shape)},
    )
    origin = {"source_clip": clip.clip_id, "source_store": str(source.path), "scores": json.dumps(vars(scores))}
    made = replace(
        clip,
        clip_id=generated_id(clip, prefix),
        video_id=video_id,
        view="ego",
        start_s=0.0,
        end_s=video.duration_s,
        split=config.split,
        is_generated=True,
        generator=generator,
        quality=scores.quality,
        present=frozenset({Modality.RGB}),
        extra=origin | (marks or {}),
    )
    target.append(videos=[video], clips=[made])
    return made, frames


def _generated_video(clip: Clip, frames_TCHW: np.ndarray, config: AugmentationConfig, prefix: str) -> Video:
    num_frames, _, height, width = frames_TCHW.shape
    fps = Fraction(config.num_frames / (clip.end_s - clip.start_s)).limit_denominator(1001)
    # One video a clip: two clips of one exo video must not overwrite each other.
    video_id = generated_id(clip, prefix)
    path = f"media/rgb/{video_id}.mp4"
    return Video(video_id, path, fps, width, height, num_frames, num_frames / float(fps), "ego", clip.take_id)
