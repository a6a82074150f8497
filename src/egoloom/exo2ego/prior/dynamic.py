"""Masks of what moves in a static camera's video: from optical flow, from instance ids, from depth, from a segmenter.

Shape letters: T time, H, W rows and columns. All masks are bool ``[T, H, W]``, True where something moves.
"""

from collections.abc import Collection
from itertools import pairwise
from typing import Protocol

import cv2
import numpy as np

from egoloom.errors import UserError


class Segmenter(Protocol):
    """Anything that finds people and other moving things in single frames."""

    def masks(self, frames_TCHW: np.ndarray) -> np.ndarray:
        """Bool ``[T, H, W]`` of uint8 RGB frames."""
        ...


def dynamic_from_ids(ids_THW: np.ndarray, moving_ids: Collection[int] | None = None) -> np.ndarray:
    """Masks from instance ids.

    Args:
        ids_THW: Instance ids.
        moving_ids: The ids of people and other movers; None finds them: ids whose region changes over the clip.
    """
    if moving_ids is not None:
        return np.isin(ids_THW, list(moving_ids))
    moved = []
    for one in np.unique(ids_THW):
        mask = ids_THW == one
        always, ever = mask.all(0).sum(), mask.any(0).sum()
        centre = [np.argwhere(frame).mean(0) for frame in mask if frame.any()]
        travelled = float(np.ptp(np.array(centre), axis=0).max()) if centre else 0.0
        # Background regions also change where something passes before them, but keep their place.
        if always < 0.8 * ever and travelled > 2.0 and ever < 0.4 * mask[0].size:
            moved.append(int(one))
    return np.isin(ids_THW, moved)


def dynamic_from_flow(flow_px_THW2: np.ndarray, *, threshold_px: float = 0.7, hold_frames: int = 2) -> np.ndarray:
    """Masks from optical flow of a static camera: the clip's own median flow is taken as camera shake.

    Args:
        flow_px_THW2: Displacements to the next frame in px, ``[T, H, W, 2]``.
        threshold_px: Motion above this counts.
        hold_frames: A pixel stays marked this many frames before and after (a hand that rests for a moment).
    """
    if flow_px_THW2.ndim != 4 or flow_px_THW2.shape[-1] != 2:
        raise UserError(f"Flow has the shape {list(flow_px_THW2.shape)}.", allowed="[T, H, W, 2] in px")
    flow = np.nan_to_num(flow_px_THW2.astype(np.float32))
    shake = np.median(flow.reshape(len(flow), -1, 2), axis=1)[:, None, None]
    moving = np.linalg.norm(flow - shake, axis=-1) > threshold_px
    held = moving.copy()
    for lag in range(1, hold_frames + 1):
        held[lag:] |= moving[:-lag]
        held[:-lag] |= moving[lag:]
    kernel = np.ones((5, 5), np.uint8)
    closed = [cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, kernel) for mask in held]
    return np.stack(closed).astype(bool)


def dynamic_from_video(frames_TCHW: np.ndarray, *, threshold_px: float = 0.7) -> np.ndarray:
    """Masks from the video itself, by dense inverse search flow (OpenCV DIS)."""
    solver = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)  # pyright: ignore[reportAttributeAccessIssue]
    grey = [cv2.cvtColor(np.ascontiguousarray(f.transpose(1, 2, 0)), cv2.COLOR_RGB2GRAY) for f in frames_TCHW]
    if len(grey) < 2:
        return np.zeros((len(grey), *grey[0].shape), bool)
    flow = [solver.calc(first, second, None) for first, second in pairwise(grey)]
    return dynamic_from_flow(np.stack([*flow, flow[-1]]), threshold_px=threshold_px)
