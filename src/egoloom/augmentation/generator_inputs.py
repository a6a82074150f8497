"""The generator's samples from whatever a user has: a clip store, a folder in the EgoX layout, or a raw video.

Takes are found first and read one at a time, when they are asked for.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import torch

from egoloom.augmentation.raw_video import VIDEO_SUFFIXES, RawVideoConfig, is_video, take_from_video
from egoloom.augmentation.samples import exo_width_px, generator_prior_config, generator_sample, resize
from egoloom.augmentation.takes import ExoTake, ego_video, load_take, wearer_mask
from egoloom.clips import Clip, ClipStore, Modality
from egoloom.errors import UserError
from egoloom.exo2ego.lazy_samples import LazySamples, SampleSource
from egoloom.exo2ego.prior import PriorConfig
from egoloom.exo2ego.samples import GeneratorSample
from egoloom.ingest.egox import EgoXTake, read_takes


@dataclass(frozen=True)
class TakeSource:
    """A take that is found but not read.

    Attributes:
        name: Its name, which is that of its sample.
        has_truth: Whether its ego view was recorded.
        origin: What tells its recordings from others, as JSON.
        load: Reads it.
        size_px: Side of the ego frames.
        prior: How its prior is rendered.
    """

    name: str
    has_truth: bool
    origin: dict[str, object]
    load: Callable[[], ExoTake]
    size_px: int
    prior: PriorConfig

    def sample(self) -> tuple[GeneratorSample, Fraction]:
        """Returns the generator's sample, its prior rendered, and the rate of its frames."""
        take = self.load()
        return generator_sample(take, size_px=self.size_px, prior_config=self.prior)[0], _fps(take)

    def videos(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns exo and recorded ego frames as the sample holds them; no prior is rendered."""
        take, side_px = self.load(), self.size_px
        assert take.truth_TCHW is not None
        width_px = exo_width_px(take, side_px)
        return resize(take.exo_TCHW, side_px, width_px), resize(take.truth_TCHW, side_px, side_px)


def training_samples(
    stores: Sequence[Path], size_px: int, num_frames: int, limit: int, splits: Collection[str]
) -> LazySamples:
    """Returns the samples of the takes of some sources whose ego view was recorded; each is read when it is asked for.

    Args:
        stores: Clip stores or folders in the EgoX layout.
        size_px: Side of the ego frames.
        num_frames: Frames read of each clip, spread over its length.
        limit: At most this many takes of each source.
        splits: Splits of clip stores that are used.

    Raises:
        UserError: If some source has no take.
    """
    takes = [take for store in stores for take in find_takes(store, size_px, num_frames, splits=splits)[:limit]]
    recipe = {"size_px": size_px, "num_frames": num_frames}
    return LazySamples(
        SampleSource(
            take.name,
            {**recipe, "prior": take.prior.model_dump(mode="json"), "recordings": take.origin},
            lambda take=take: take.sample()[0],
            take.videos,
        )
        for take in takes
        if take.has_truth
    )


def find_takes(
    source: Path,
    size_px: int,
    num_frames: int,
    *,
    take: str | None = None,
    splits: Collection[str] | None = None,
    raw: RawVideoConfig | None = None,
) -> list[TakeSource]:
    """Returns the takes of a source; nothing but a raw video is read.

    Args:
        source: A clip store, a folder in the EgoX layout (with ``meta.json``), or a third-person video.
        size_px: Side of the ego frames.
        num_frames: Frames read of each clip, spread over its length.
        take: Only takes or clips whose names begin so.
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
    make = partial(TakeSource, size_px=size_px, prior=generator_prior_config(is_metric=False))
    if source.is_file():
        video = _raw_take(source, num_frames, size_px, raw or RawVideoConfig())
        takes = [make(video.clip.clip_id, False, {}, lambda: video)]
    elif (source / "meta.json").is_file():
        takes = [make(*found) for found in _egox_takes(source, num_frames, take)]
    else:
        store = ClipStore.open(source)
        prior = generator_prior_config(is_metric=store.info.is_simulated)
        takes = [make(*found, prior=prior) for found in _store_takes(store, num_frames, take, splits)]
    if not takes:
        wanted = f" that matches {take!r}" if take else f" in the splits {', '.join(splits)}" if splits else ""
        raise UserError(
            f"{source} has no exo clip with depth and cameras{wanted}",
            fix="egoloom ingest egox, or egoloom kitchen, make such stores",
        )
    return takes


def _fps(take: ExoTake) -> Fraction:
    return Fraction(len(take.times_s) / (take.clip.end_s - take.clip.start_s)).limit_denominator(1001)


def _raw_take(path: Path, num_frames: int, size_px: int, raw: RawVideoConfig) -> ExoTake:
    if not is_video(path):
        raise UserError(f"{path} is no video by its name", allowed=", ".join(VIDEO_SUFFIXES))
    return take_from_video(path, raw, num_frames=num_frames, size_px=size_px)


# What a take source is made of: name, whether there is truth, origin, reader.
Found = tuple[str, bool, dict[str, object], Callable[[], ExoTake]]


def _store_takes(
    store: ClipStore, num_frames: int, take: str | None, splits: Collection[str] | None
) -> Iterator[Found]:
    with_ego = {video.take_id for video in store.videos.values() if video.view == "ego"}
    for clip in store.select(view="exo"):
        if Modality.DEPTH not in clip.present:
            continue
        if take is not None and not clip.clip_id.startswith(take) and not clip.take_id.startswith(take):
            continue
        has_truth = clip.take_id in with_ego
        if splits is None:
            read = partial(load_take, store, clip, num_frames=num_frames)
        elif has_truth and clip.split in splits:
            read = partial(_load_with_wearer, store, clip, num_frames)
        else:
            continue
        yield clip.clip_id, has_truth, {"files": _sizes(store, clip)}, read


def _load_with_wearer(store: ClipStore, clip: Clip, num_frames: int) -> ExoTake:
    """Masks of hands and arms weigh the loss; generation needs none."""
    take = load_take(store, clip, num_frames=num_frames)
    return replace(take, wearer_THW=wearer_mask(store, take))


def _sizes(store: ClipStore, clip: Clip) -> dict[str, int]:
    """Bytes of the files of a take, which tell another recording from a copy of the same."""
    exo, ego = store.videos[clip.video_id], ego_video(store, clip.take_id)
    paths = [store.media_path(kind, exo.video_id) for kind in (Modality.RGB, Modality.DEPTH)]
    if ego is not None:
        paths += [store.media_path(kind, ego.video_id) for kind in (Modality.RGB, Modality.IDS)]
    paths += [store.path / "calibration" / f"{video.calibration_id}.json" for video in (exo, ego) if video is not None]
    return {path.relative_to(store.path).as_posix(): path.stat().st_size for path in paths if path.is_file()}


def _egox_takes(source: Path, num_frames: int, name: str | None) -> Iterator[Found]:
    for take in read_takes(source):
        if name is None or take.name.startswith(name):
            truth = take.ego_gt_path
            videos = [path for path in (take.exo_path, truth) if path is not None and path.is_file()]
            origin = {"entry": take.entry, "files": [path.stat().st_size for path in videos]}
            yield take.name, truth is not None, origin, partial(_load_egox, take, num_frames)


def _load_egox(take: EgoXTake, num_frames: int) -> ExoTake:
    take = replace(take)  # a take keeps the video that it has read
    index = np.linspace(0, take.num_frames - 1, min(num_frames, take.num_frames)).round().astype(int)
    truth = None if take.ego_gt_path is None else take.ego_gt_frames()[index]
    size = (448, 448) if truth is None else (truth.shape[3], truth.shape[2])
    length_s = take.num_frames / float(take.fps)
    exo_poses = take.T_world_exo
    prompt = str(take.entry.get("prompt") or "")
    return ExoTake(
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
