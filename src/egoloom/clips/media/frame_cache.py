"""An optional cache of frames as JPEG shards: the fastest random access where disk is cheap.

One shard a video: ``<name>.jpegs`` is the concatenation of the encoded frames, ``<name>.index.npz`` their offsets and
times. Frames are read in place and decoded at once; ``simplejpeg`` is used where it is installed, OpenCV otherwise.
"""

import importlib
import mmap
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np

from egoloom.clips.files import atomic_path
from egoloom.clips.media.arrays import read_arrays, write_arrays
from egoloom.errors import UserError

JPEG_QUALITY = 80  # 85 costs a seventh more to read and a twentieth more time for 0.8 dB
HALF_TICK_S = 1e-4


def _simplejpeg() -> ModuleType | None:
    try:
        return importlib.import_module("simplejpeg")
    except ImportError:
        return None


def write_frame_cache(
    path: Path, frames_HWC: Iterable[np.ndarray], times_s: Sequence[float] | np.ndarray, *, quality: int = JPEG_QUALITY
) -> None:
    """Writes a shard; the index comes last, so that a shard with an index is complete.

    Args:
        path: Target, ``.jpegs``.
        frames_HWC: RGB frames uint8 ``[H, W, 3]``.
        times_s: Start of every frame, increasing.
        quality: JPEG quality.

    Raises:
        UserError: If frames and times differ in number.
    """
    index_path(path).unlink(missing_ok=True)  # of an older shard
    offsets, options = [0], [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        for frame in frames_HWC:
            good, encoded = cv2.imencode(".jpg", frame[..., ::-1], options)
            if not good:
                raise UserError(f"Cannot encode a frame of {path.stem} as JPEG")
            offsets.append(offsets[-1] + handle.write(encoded.tobytes()))
        if len(offsets) - 1 != len(times_s):
            raise UserError(f"{path}: {len(offsets) - 1} frames for {len(times_s)} times")
    index = {"offsets": np.array(offsets, np.int64), "times_s": np.asarray(times_s, np.float64)}
    write_arrays(index_path(path), index)


def cache_path(store_path: Path, video_id: str) -> Path:
    """Returns where the shard of a video of a store lies."""
    return store_path / "media" / "frame_cache" / f"{video_id}.jpegs"


def index_path(path: Path) -> Path:
    """Returns where the index of a shard lies."""
    return path.with_suffix(".index.npz")


class FrameCacheReader:
    """Reads frames of one shard by their time, as ``VideoReader.frames_at`` does.

    Args:
        path: The ``.jpegs`` file.

    Raises:
        UserError: If the shard or its index is missing or they do not belong together.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        index = read_arrays(index_path(path))
        if not {"offsets", "times_s"} <= set(index):
            raise UserError(f"{index_path(path)} is no index of a frame cache", fix="write the cache again")
        self._offsets, self.times_s = index["offsets"], index["times_s"]
        try:
            with path.open("rb") as handle:
                self._content = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise UserError(f"Cannot read the frame cache {path}: {error}", fix="write the cache again") from error
        if len(self._content) != self._offsets[-1] or len(self._offsets) != len(self.times_s) + 1:
            raise UserError(f"The frame cache {path} and its index do not belong together", fix="write the cache again")
        self._decoder = _simplejpeg()

    def frames_at(self, times_s: Sequence[float] | np.ndarray) -> np.ndarray:
        """Returns the frames that are shown at these seconds, uint8 ``[T, 3, H, W]``."""
        shown = np.searchsorted(self.times_s, np.asarray(times_s) + HALF_TICK_S, side="right") - 1
        indices = np.clip(shown, 0, len(self.times_s) - 1).tolist()
        frames_THWC = np.empty((len(indices), *self._size, 3), np.uint8)
        first_of: dict[int, int] = {}
        for position, index in enumerate(indices):
            if index in first_of:
                frames_THWC[position] = frames_THWC[first_of[index]]
            else:
                self._decode(index, frames_THWC[position])
                first_of[index] = position
        return frames_THWC.transpose(0, 3, 1, 2)

    def close(self) -> None:
        """Releases the file."""
        self._content.close()

    @cached_property
    def _size(self) -> tuple[int, int]:
        """Height and width, as the first frame has them."""
        return self._opencv(0).shape[:2]

    def _encoded(self, index: int) -> bytes:
        return self._content[self._offsets[index] : self._offsets[index + 1]]

    def _decode(self, index: int, frame_HWC: np.ndarray) -> None:
        """Writes a frame into its place: a copy of every frame would cost a fifth of the time."""
        if self._decoder is None:
            picture = self._opencv(index)
        else:
            try:
                picture = self._decoder.decode_jpeg(
                    self._encoded(index), colorspace="RGB", fastdct=True, fastupsample=True, buffer=frame_HWC
                )
            except ValueError as error:
                raise UserError(f"Frame {index} of {self.path} is damaged: {error}", fix="write it again") from error
        if picture.shape != frame_HWC.shape:
            raise UserError(f"Frame {index} of {self.path} has another size", fix="write the cache again")
        if self._decoder is None:
            frame_HWC[:] = picture

    def _opencv(self, index: int) -> np.ndarray:
        content = np.frombuffer(self._encoded(index), np.uint8)
        picture = cv2.imdecode(content, cv2.IMREAD_COLOR_RGB) if len(content) else None
        if picture is None:
            raise UserError(f"Frame {index} of {self.path} is damaged", fix="write the cache again")
        return picture
