"""An optional cache of frames as JPEG shards: the fastest random access where disk is cheap.

One shard a video: ``<name>.jpegs`` holds the encoded frames, ``<name>.index.npz`` where they begin and when they are
shown. A frame is a JPEG of which each tile can be decoded alone (``jpeg_tiles``), behind the lengths of its tiles:
a view that looks at a crop pays for the crop. ``simplejpeg`` is used where it is installed, OpenCV otherwise.
"""

import importlib
import mmap
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np

from egoloom.clips.files import atomic_path
from egoloom.clips.media.arrays import read_arrays, write_arrays
from egoloom.clips.media.jpeg_tiles import TILE_PX, TileGrid, TileSpan, cut_tiles, encode_tiles
from egoloom.errors import UserError

FORMAT = 2  # 1 had no tiles
JPEG_QUALITY = 80  # 85 costs a seventh more to read and a twentieth more time for 0.8 dB
HALF_TICK_S = 1e-4
REBUILD = "egoloom modalities frame-cache --store STORE --recompute"
Region = tuple[slice, slice]  # rows and columns of a frame in pixels


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
        frames_HWC: RGB frames uint8 ``[H, W, 3]``, all of one size.
        times_s: Start of every frame, increasing.
        quality: JPEG quality.

    Raises:
        UserError: If there are no frames, they differ in size, or frames and times differ in number.
    """
    index_path(path).unlink(missing_ok=True)  # of an older shard
    offsets, size, size_at = [0], None, 0
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        for frame in frames_HWC:
            size = size or frame.shape[:2]
            if frame.shape[:2] != size:
                raise UserError(f"{path}: a frame of {frame.shape[1::-1]} px follows frames of {size[::-1]} px")
            try:
                encoded, lengths, size_at = encode_tiles(frame, quality)
            except (ValueError, cv2.error) as error:
                raise UserError(f"Cannot encode a frame of {path.stem} as JPEG: {error}") from error
            offsets.append(offsets[-1] + handle.write(lengths.astype("<u2").tobytes()) + handle.write(encoded))
        if size is None or len(offsets) - 1 != len(times_s):
            raise UserError(f"{path}: {len(offsets) - 1} frames for {len(times_s)} times")
    index = {
        "format": np.array(FORMAT),
        "size": np.array(size, np.int64),
        "size_at": np.array(size_at),
        "offsets": np.array(offsets, np.int64),
        "times_s": np.asarray(times_s, np.float64),
    }
    write_arrays(index_path(path), index)


def cache_path(store_path: Path, video_id: str) -> Path:
    """Returns where the shard of a video of a store lies."""
    return store_path / "media" / "frame_cache" / f"{video_id}.jpegs"


def index_path(path: Path) -> Path:
    """Returns where the index of a shard lies."""
    return path.with_suffix(".index.npz")


def is_current(path: Path) -> bool:
    """Returns whether a shard is complete and of today's format."""
    if not index_path(path).is_file():
        return False
    try:
        _read_index(path)
    except UserError:
        return False
    return True


class FrameCacheReader:
    """Reads frames of one shard by their time, as ``VideoReader.frames_at`` does, or a region of them.

    Args:
        path: The ``.jpegs`` file.

    Raises:
        UserError: If the shard or its index is missing, of an older format, or they do not belong together.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        index = _read_index(path)
        self._offsets, self.times_s = index["offsets"], index["times_s"]
        self._grid, self._size_at = TileGrid(*map(int, index["size"])), int(index["size_at"])
        try:
            with path.open("rb") as handle:
                self._content = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise UserError(f"Cannot read the frame cache {path}: {error}", fix=REBUILD) from error
        if len(self._content) != self._offsets[-1] or len(self._offsets) != len(self.times_s) + 1:
            raise UserError(f"The frame cache {path} and its index do not belong together", fix=REBUILD)
        self._decoder = _simplejpeg()

    def frames_at(self, times_s: Sequence[float] | np.ndarray, region: Region | None = None) -> np.ndarray:
        """Returns the frames that are shown at these seconds.

        Args:
            times_s: Seconds since the first frame, in any order, repeats allowed.
            region: Rows and columns to return; only the tiles that they touch are decoded. Pixels are the same as
                those of whole frames.

        Returns:
            uint8 ``[T, 3, H, W]``, H and W of the region.

        Raises:
            UserError: If a frame is damaged, or the region empty.
        """
        shown = np.searchsorted(self.times_s, np.asarray(times_s) + HALF_TICK_S, side="right") - 1
        indices = np.clip(shown, 0, len(self.times_s) - 1).tolist()
        rows, rows_px = self._tiles(region and region[0], axis=0)
        columns, columns_px = self._tiles(region and region[1], axis=1)
        tiles_THWC = np.empty((len(indices), *self._grid.cut_size(rows, columns), 3), np.uint8)
        first_of: dict[int, int] = {}
        for position, index in enumerate(indices):
            if index in first_of:
                tiles_THWC[position] = tiles_THWC[first_of[index]]
            else:
                self._decode(index, rows, columns, tiles_THWC[position])
                first_of[index] = position
        return tiles_THWC[:, rows_px, columns_px].transpose(0, 3, 1, 2)

    def close(self) -> None:
        """Releases the file."""
        self._content.close()

    def _tiles(self, pixels: slice | None, axis: int) -> tuple[TileSpan, slice]:
        """Returns the tiles that these pixels touch, and where the pixels lie in them."""
        num_pixels, num_tiles = (self._grid.height, self._grid.width)[axis], self._grid.shape[axis]
        start, stop, step = (pixels or slice(None)).indices(num_pixels)
        if start >= stop or step != 1:
            raise UserError(f"There is nothing of {self.path} in {pixels}", allowed=f"0 to {num_pixels} px, step 1")
        # OpenCV smooths colours over the edge of a tile: with one more tile around, a region looks as in the whole.
        margin = 0 if self._decoder else 1
        first, last = max(0, start // TILE_PX - margin), min(num_tiles, -(-stop // TILE_PX) + margin)
        return (first, last), slice(start - first * TILE_PX, stop - first * TILE_PX)

    def _decode(self, index: int, rows: TileSpan, columns: TileSpan, tiles_HWC: np.ndarray) -> None:
        """Writes tiles into their place: a copy of every frame would cost a fifth of the time."""
        record = self._content[self._offsets[index] : self._offsets[index + 1]]
        try:
            lengths = np.frombuffer(record, "<u2", self._grid.num_tiles)
            jpeg = cut_tiles(record[lengths.nbytes :], lengths, self._grid, self._size_at, rows, columns)
            if self._decoder is None:
                tiles_HWC[:] = _opencv(jpeg)
            else:
                self._decoder.decode_jpeg(jpeg, colorspace="RGB", fastdct=True, fastupsample=True, buffer=tiles_HWC)
        except ValueError as error:
            raise UserError(f"Frame {index} of {self.path} is damaged: {error}", fix=REBUILD) from error


def _read_index(path: Path) -> dict[str, np.ndarray]:
    index = read_arrays(index_path(path))
    if not {"offsets", "times_s"} <= set(index):
        raise UserError(f"{index_path(path)} is no index of a frame cache", fix=REBUILD)
    if index.get("format") != FORMAT or not {"size", "size_at"} <= set(index):
        raise UserError(f"The frame cache {path} is of an older format, without tiles", fix=REBUILD)
    return index


def _opencv(jpeg: bytes | bytearray) -> np.ndarray:
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
    if picture is None:
        raise ValueError("OpenCV cannot decode it")
    return picture
