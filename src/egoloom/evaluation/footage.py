"""Generated ego clips beside the recorded ones: finds the partner of each in folders of mp4 files or clip stores.

Legend: T frames, H rows, W columns.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate

from egoloom.clips import Clip, ClipStore, Modality, Video
from egoloom.clips.media import VideoReader
from egoloom.errors import UserError

ASPECT_TOLERANCE = 0.01


@dataclass(frozen=True)
class Footage:
    """A stretch of a video file.

    Attributes:
        name: The clip's name in messages and records.
        path: The video.
        start_s: Where the stretch begins.
        end_s: Where it ends; the end of the file if absent.
        take: Clips of one take are not independent of one another.
    """

    name: str
    path: Path
    start_s: float = 0.0
    end_s: float | None = None
    take: str = ""

    def read(self) -> tuple[np.ndarray, Fraction]:
        """Returns all frames of the stretch, RGB uint8 ``[T, 3, H, W]``, and frames a second."""
        with VideoReader(self.path) as reader:
            if self.end_s is None:
                return reader.all_frames(), reader.fps
            first, last = round(self.start_s * reader.fps), round(self.end_s * reader.fps)
            return reader.frames_at(np.arange(first, max(last, first + 1)) / float(reader.fps)), reader.fps

    def read_like(self, frames_T3HW: np.ndarray, fps: Fraction) -> np.ndarray:
        """Returns this stretch at the times and the size of other frames, which begin when it begins.

        Each of those frames is given the picture that is shown when it starts, area-averaged to its size.

        Raises:
            UserError: If the two last differently long, differ in shape, or this one is the smaller.
        """
        num_frames, _, height, width = frames_T3HW.shape
        with VideoReader(self.path) as reader:
            length_s = (reader.duration_s if self.end_s is None else self.end_s) - self.start_s
            if abs(length_s - num_frames / fps) > 1 / fps:
                raise UserError(
                    f"{self.name}: the generated clip lasts {float(num_frames / fps):.3f} s, the recorded one "
                    f"{length_s:.3f} s",
                    allowed="clips that last equally long, up to one generated frame",
                )
            recorded = reader.frames_at(self.start_s + np.arange(num_frames) / float(fps))
        if abs(recorded.shape[3] * height / (recorded.shape[2] * width) - 1) > ASPECT_TOLERANCE:
            raise _sizes_differ(self.name, frames_T3HW, recorded, "clips of the same shape (width to height)")
        if recorded.shape[2] < height:
            raise _sizes_differ(self.name, frames_T3HW, recorded, "recorded frames at least as large as generated ones")
        resized = interpolate(torch.from_numpy(recorded).float(), size=(height, width), mode="area")
        return resized.round().to(torch.uint8).numpy()


def read_pair(generated: Footage, recorded: Footage, *, resample: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns the frames of both, RGB uint8 ``[T, 3, H, W]`` of equal shapes.

    Args:
        generated: The generated clip.
        recorded: Its partner.
        resample: Bring the recorded frames to the times and size of the generated ones (`Footage.read_like`);
            otherwise clips of other sizes or lengths are an error.
    """
    ours, fps = generated.read()
    if resample:
        return ours, recorded.read_like(ours, fps)
    truth, _ = recorded.read()
    if ours.shape != truth.shape:
        raise _sizes_differ(generated.name, ours, truth, "the same size and number of frames", "--resample")
    return ours, truth


def _sizes_differ(
    name: str, ours_T3HW: np.ndarray, truth_T3HW: np.ndarray, allowed: str, option: str = ""
) -> UserError:
    ours, theirs = (f"{len(f)} frames of {f.shape[3]}x{f.shape[2]}" for f in (ours_T3HW, truth_T3HW))
    fix = f"add {option}: recorded frames are then taken at the times and in the size of the generated ones"
    return UserError(
        f"{name}: the generated clip has {ours}, the recorded one {theirs}",
        allowed=allowed,
        fix=fix if option else None,
    )


# --- partners -----------------------------------------------------------------------------------------------------


class _Missing(str):
    """Why a clip has no partner."""

    __slots__ = ()


def find_pairs(
    generated: Path, truth: Path, *, split: str | None = None
) -> tuple[list[tuple[Footage, Footage]], dict[str, str]]:
    """Returns pairs of generated and recorded clips, and names those without a partner with the reason.

    Args:
        generated: A folder of mp4 files, or a store with generated clips (which name their source clip).
        truth: A folder of mp4 files of the same names, or the store that the clips were generated from.
        split: Only generated clips of this split of a store.

    Raises:
        UserError: If there is no generated clip, or none of them has a partner.
    """
    if split is not None and not _is_store(generated):
        raise UserError(f"--split {split} needs a clip store; {generated} is none")
    candidates = _generated_in_store(generated, truth, split) if _is_store(generated) else _in_folder(generated)
    find = _finder_in_store(truth) if _is_store(truth) else _finder_in_folder(truth)
    pairs, unpaired, used = [], {}, set()
    for footage, source in candidates:
        partner = source if isinstance(source, _Missing) else find(source)
        if isinstance(partner, _Missing):
            unpaired[footage.name] = str(partner)
        else:
            pairs.append((footage, partner))
            used.add(partner.path)
    if not pairs:
        name, reason = next(iter(unpaired.items()))
        raise UserError(
            f"None of {len(unpaired)} generated clips has a recorded partner; the first, {name}: {reason}",
            allowed="mp4 files of equal names, or names of clips of the store that they were generated from",
        )
    if not _is_store(truth):
        unpaired |= {one.name: "no generated clip" for one, _ in _in_folder(truth) if one.path not in used}
    return pairs, unpaired


def _is_store(path: Path) -> bool:
    return (path / "info.json").is_file()


def _in_folder(folder: Path) -> list[tuple[Footage, str]]:
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}", allowed="a clip store, or a folder of mp4 files")
    paths = sorted(folder.glob("*.mp4"))
    if not paths:
        raise UserError(f"{folder} holds no mp4 file", allowed="a clip store, or a folder of mp4 files")
    return [(Footage(path.stem, path, take=path.stem), path.stem) for path in paths]


def _generated_in_store(path: Path, truth: Path, split: str | None) -> list[tuple[Footage, str]]:
    store = ClipStore.open(path)
    clips = store.select(view="ego", generated=True, split=split)
    if not clips:
        where = f" in the split {split!r}" if split else ""
        raise UserError(f"{path} holds no generated clip{where}", fix=f"egoloom augment STORE --out {path}")
    shared = Counter(clip.extra.get("source_clip") for clip in clips)
    return [(_footage(store, clip, store.videos[clip.video_id]), _source(clip, shared, truth)) for clip in clips]


def _source(clip: Clip, shared: Counter[str | None], truth: Path) -> str:
    """The source clip's id. Stores may have moved; where two have a clip of this id, only the one at hand counts."""
    source, origin = clip.extra.get("source_clip"), clip.extra.get("source_store", "")
    if not source:
        return _Missing("it names no source clip")
    if shared[source] > 1 and Path(origin).resolve() != truth.resolve():
        return _Missing(f"it was generated from {origin}, and {source} is the source of another clip too")
    return source


def _footage(store: ClipStore, clip: Clip, video: Video) -> Footage:
    path = store.media_path(Modality.RGB, video.video_id)
    return Footage(clip.clip_id, path, clip.start_s, clip.end_s, clip.take_id or clip.video_id)


def _finder_in_folder(folder: Path) -> Callable[[str], Footage | _Missing]:
    known = {footage.name: footage for footage, _ in _in_folder(folder)}
    return lambda name: known.get(name) or _Missing(f"{folder} holds no {name}.mp4")


def _finder_in_store(path: Path) -> Callable[[str], Footage | _Missing]:
    store = ClipStore.open(path)
    recorded = {clip.clip_id: clip for clip in store.select(view=None, generated=False)}
    invented = {clip.video_id for clip in store.select(view=None, generated=True)}
    ego_videos = [video for key, video in store.videos.items() if video.view == "ego" and key not in invented]

    def find(name: str) -> Footage | _Missing:
        clip = recorded.get(name)
        if clip is None:
            return _Missing(f"{path} holds no recorded clip {name}")
        video = store.videos[clip.video_id] if clip.view == "ego" else _same_take(ego_videos, clip)
        return _Missing(f"the take of {name} has no ego video") if video is None else _footage(store, clip, video)

    return find


def _same_take(ego_videos: Sequence[Video], clip: Clip) -> Video | None:
    """The recorded ego video of an exo clip; the videos of a take share one clock."""
    return next((video for video in ego_videos if clip.take_id and video.take_id == clip.take_id), None)
