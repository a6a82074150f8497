"""The generator's samples from whatever a user has: a clip store, a folder in the EgoX layout, or a raw video."""

from collections.abc import Collection
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from egoloom.augmentation.raw_video import VIDEO_SUFFIXES, RawVideoConfig, is_video, take_from_video
from egoloom.augmentation.samples import generator_prior_config, generator_sample
from egoloom.augmentation.takes import ExoTake, load_take, wearer_mask
from egoloom.clips import Clip, ClipStore, Modality
from egoloom.errors import UserError
from egoloom.exo2ego.samples import GeneratorSample
from egoloom.ingest.egox import read_takes


def read_samples(
    source: Path,
    size_px: int,
    num_frames: int,
    take: str | None,
    limit: int,
    *,
    splits: Collection[str] | None = None,
    raw: RawVideoConfig | None = None,
) -> list[tuple[GeneratorSample, Fraction]]:
    """Returns the generator's samples of a source, with the rate of each result.

    Args:
        source: A clip store, a folder in the EgoX layout (with ``meta.json``), or a third-person video.
        size_px: Side of the ego frames.
        num_frames: Frames read of each clip, spread over its length.
        take: Only takes or clips whose names begin so.
        limit: At most this many.
        splits: For training: only clips of these splits of a store, and only those with a recorded ego view.
        raw: What is known about a raw video.

    Raises:
        UserError: If nothing there can be generated from.
    """
    if not source.exists():
        raise UserError(
            f"There is no folder or video {source}", allowed="a clip store, a folder with meta.json, or a video"
        )
    if num_frames < 1:
        raise UserError(f"--num-frames {num_frames} is too few", allowed="1 or more")
    is_metric = False
    if source.is_file():
        takes = [_raw_take(source, num_frames, size_px, raw or RawVideoConfig())]
    elif (source / "meta.json").is_file():
        takes = _egox_takes(source, num_frames, take)
    else:
        is_metric = ClipStore.open(source).info.is_simulated
        takes = _store_takes(source, num_frames, take, limit, splits)
    if not takes:
        wanted = f" that matches {take!r}" if take else f" in the splits {', '.join(splits)}" if splits else ""
        raise UserError(
            f"{source} has no exo clip with depth and cameras{wanted}",
            fix="egoloom ingest egox, or egoloom kitchen, make such stores",
        )
    config = generator_prior_config(is_metric=is_metric)
    return [(generator_sample(one, size_px=size_px, prior_config=config)[0], _fps(one)) for one in takes[:limit]]


def _fps(take: ExoTake) -> Fraction:
    return Fraction(len(take.times_s) / (take.clip.end_s - take.clip.start_s)).limit_denominator(1001)


def _raw_take(path: Path, num_frames: int, size_px: int, raw: RawVideoConfig) -> ExoTake:
    if not is_video(path):
        raise UserError(f"{path} is no video by its name", allowed=", ".join(VIDEO_SUFFIXES))
    return take_from_video(path, raw, num_frames=num_frames, size_px=size_px)


def _store_takes(
    source: Path, num_frames: int, take: str | None, limit: int, splits: Collection[str] | None
) -> list[ExoTake]:
    store = ClipStore.open(source)
    with_ego = {video.take_id for video in store.videos.values() if video.view == "ego"}
    clips = [clip for clip in store.select(view="exo") if Modality.DEPTH in clip.present]
    if take is not None:
        clips = [clip for clip in clips if clip.clip_id.startswith(take) or clip.take_id.startswith(take)]
    if splits is not None:
        clips = [clip for clip in clips if clip.take_id in with_ego and clip.split in splits]
    takes = [load_take(store, clip, num_frames=num_frames) for clip in clips[:limit]]
    # Masks of hands and arms weigh the loss; generation needs none.
    return takes if splits is None else [replace(take, wearer_THW=wearer_mask(store, take)) for take in takes]


def _egox_takes(source: Path, num_frames: int, name: str | None) -> list[ExoTake]:
    takes = [take for take in read_takes(source) if name is None or take.name.startswith(name)]
    result = []
    for take in takes:
        index = np.linspace(0, take.num_frames - 1, min(num_frames, take.num_frames)).round().astype(int)
        has_truth = take.ego_gt_path is not None
        truth = take.ego_gt_frames()[index] if has_truth else None
        size = (448, 448) if truth is None else (truth.shape[3], truth.shape[2])
        length_s = take.num_frames / float(take.fps)
        exo_poses = take.T_world_exo
        prompt = str(take.entry.get("prompt") or "")
        result.append(
            ExoTake(
                clip=Clip(take.name, take.name, "", "exo", take.name, 0.0, length_s, "test", extra={"prompt": prompt}),
                times_s=take.times_s[index],
                exo_TCHW=take.exo_frames()[index],
                depth_THW=take.depth()[index],
                exo_camera=take.exo_camera,
                T_world_exo=exo_poses if exo_poses.ndim == 2 else exo_poses[torch.from_numpy(index)],
                ego_camera=take.ego_camera(size),
                T_world_ego=take.T_world_ego()[torch.from_numpy(index)],
                truth_TCHW=truth,
                depth_scale=take.known_depth_scale,
                up_world=take.up_world,
            )
        )
    return result
