"""JPEGs of which any rectangle of 16 px tiles can be decoded alone, at the cost of those tiles.

A restart marker after every tile (minimum coded unit of 4:2:0, 16 x 16 px) makes each tile's bits independent of the
others (ITU-T T.81, section F.1.1.5.2, "RST"). A rectangle of tiles, with the size in the frame header changed and the
markers counted anew, is again a baseline JPEG for any decoder. Whole, it is an ordinary JPEG too, some 5 % larger.
"""

import re
from dataclasses import dataclass

import cv2
import numpy as np

TILE_PX = 16
TileSpan = tuple[int, int]  # the first tile and the one after the last

_START_OF_FRAME, _START_OF_SCAN = 0xC0, 0xDA
_SIZE_OFFSET = 5  # of height and width behind the marker: 2 bytes marker, 2 bytes length, 1 byte precision
_END_OF_TILE = re.compile(rb"\xff[\xd0-\xd7\xd9]")  # coded bits never look so: 0xFF in them is followed by 0
_RESTARTS = np.arange(0xD0, 0xD8, dtype=np.uint8)
_END_OF_IMAGE = 0xD9


@dataclass(frozen=True)
class TileGrid:
    """How the tiles of a picture lie.

    Attributes:
        height: Height of the picture in pixels.
        width: Width in pixels; the tiles at the right and the lower edge may be cut off by the size.
    """

    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        return -(-self.height // TILE_PX), -(-self.width // TILE_PX)

    @property
    def num_tiles(self) -> int:
        """Number of tiles."""
        return self.shape[0] * self.shape[1]

    def cut_size(self, rows: TileSpan, columns: TileSpan) -> tuple[int, int]:
        """Returns height and width in pixels of a rectangle of tiles."""
        height = min(self.height, rows[1] * TILE_PX) - rows[0] * TILE_PX
        return height, min(self.width, columns[1] * TILE_PX) - columns[0] * TILE_PX


def encode_tiles(frame_HWC: np.ndarray, quality: int) -> tuple[bytes, np.ndarray, int]:
    """Encodes a picture with a restart marker after every tile.

    Args:
        frame_HWC: RGB, uint8 ``[H, W, 3]``.
        quality: JPEG quality.

    Returns:
        The JPEG, the bytes of every tile with its marker (uint16 ``[num_tiles]``, row by row), and where in the JPEG
        the size stands.

    Raises:
        ValueError: If OpenCV cannot encode it.
    """
    options = {
        cv2.IMWRITE_JPEG_QUALITY: quality,
        cv2.IMWRITE_JPEG_OPTIMIZE: 1,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR: cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
        cv2.IMWRITE_JPEG_RST_INTERVAL: 1,
    }
    good, encoded = cv2.imencode(
        ".jpg", frame_HWC[..., ::-1], [value for option in options.items() for value in option]
    )
    if not good:
        raise ValueError("OpenCV cannot encode it")
    jpeg = encoded.tobytes()
    size_at, scan_at = _read_header(jpeg)
    ends = [match.end() for match in _END_OF_TILE.finditer(jpeg, scan_at)]
    return jpeg, np.diff([scan_at, *ends]).astype(np.uint16), size_at


def cut_tiles(
    jpeg: bytes, lengths: np.ndarray, grid: TileGrid, size_at: int, rows: TileSpan, columns: TileSpan
) -> bytes | bytearray:
    """Returns the JPEG of a rectangle of tiles.

    Args:
        jpeg: As ``encode_tiles`` made it.
        lengths: Bytes of every tile, ``[num_tiles]``.
        grid: How the tiles lie.
        size_at: Where in the JPEG the size stands.
        rows: Rows of tiles.
        columns: Columns of tiles.

    Raises:
        ValueError: If the JPEG is not of this grid.
    """
    ends = np.cumsum(lengths, dtype=np.int64)
    scan_at = len(jpeg) - int(ends[-1])
    size = grid.height.to_bytes(2, "big") + grid.width.to_bytes(2, "big")
    if scan_at < size_at or jpeg[size_at : size_at + 4] != size:
        raise ValueError(f"it is no JPEG of {grid.width} x {grid.height} px with these tiles")
    if (*rows, *columns) == (0, grid.shape[0], 0, grid.shape[1]):
        return jpeg
    bounds = np.concatenate([[0], ends]) + scan_at
    firsts = np.arange(*rows) * grid.shape[1]
    starts, stops = bounds[firsts + columns[0]].tolist(), bounds[firsts + columns[1]].tolist()
    slices = (jpeg[start:stop] for start, stop in zip(starts, stops, strict=True))
    cut = bytearray(b"".join([jpeg[:scan_at], *slices]))
    height, width = grid.cut_size(rows, columns)
    cut[size_at : size_at + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    kept = lengths.reshape(grid.shape)[slice(*rows), slice(*columns)]
    markers_at = scan_at - 1 + np.cumsum(kept, dtype=np.int64)
    np.frombuffer(cut, np.uint8)[markers_at] = np.resize(_RESTARTS, len(markers_at))  # decoders expect them in turn
    cut[-1] = _END_OF_IMAGE
    return cut


def _read_header(jpeg: bytes) -> tuple[int, int]:
    """Returns where the size and where the coded bits of a baseline JPEG stand."""
    position, size_at = 2, 0
    while jpeg[position + 1] != _START_OF_SCAN:
        if jpeg[position + 1] == _START_OF_FRAME:
            size_at = position + _SIZE_OFFSET
        position += 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
    return size_at, position + 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
