"""Strips: the same moments in several videos side by side, as one picture for the report."""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from egoloom.clips.files import atomic_path

MARGIN_PX = 4


def write_strip(path: Path, panels: Mapping[str, np.ndarray], *, num_moments: int = 3, height_px: int = 128) -> None:
    """Writes a picture with one column a panel and one row a moment.

    Args:
        path: Target, ``.png``.
        panels: Name to RGB uint8 ``[T, 3, H, W]``, equally long.
        num_moments: Rows, spread evenly over the clip.
        height_px: Height of a row.
    """
    num_frames = min(len(frames) for frames in panels.values())
    moments = np.linspace(0, num_frames - 1, num_moments + 2)[1:-1].round().astype(int)
    rows = [np.hstack(_spaced([_scaled(frames[t], height_px) for frames in panels.values()], axis=1)) for t in moments]
    with atomic_path(path) as temporary:
        Image.fromarray(np.vstack(_spaced(rows, axis=0))).save(temporary)


def _scaled(frame_CHW: np.ndarray, height_px: int) -> np.ndarray:
    picture = np.ascontiguousarray(frame_CHW.transpose(1, 2, 0))
    width = round(picture.shape[1] * height_px / picture.shape[0])
    return cv2.resize(picture, (width, height_px), interpolation=cv2.INTER_CUBIC)


def _spaced(pictures: list[np.ndarray], *, axis: int) -> list[np.ndarray]:
    """Puts white margins between pictures."""
    spaced = [pictures[0]]
    for picture in pictures[1:]:
        shape = list(picture.shape)
        shape[axis] = MARGIN_PX
        spaced += [np.full(shape, 255, np.uint8), picture]
    return spaced
