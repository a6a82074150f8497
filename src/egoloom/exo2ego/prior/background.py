"""The static background of a clip: depth and colour fused over time, with a confidence.

Shape letters: T time, H rows, W columns of the exo frame.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numba import njit
from pydantic import BaseModel, ConfigDict, Field

from egoloom.errors import UserError


class BackgroundConfig(BaseModel):
    """How frames are fused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    depth_tolerance: float = Field(
        default=0.03, gt=0, description="relative depth difference that still is the same surface"
    )
    dynamic_gap: float = Field(
        default=0.07, gt=0, description="relative step towards the camera that is a moving thing"
    )
    max_samples: int = Field(default=25, ge=1, description="frames that vote for the background depth")
    min_support: float = Field(default=0.1, ge=0, le=1, description="least share of frames that must agree")
    dilate_px: int = Field(default=5, ge=0, description="growth of the moving-thing mask")
    mesh_step: float = Field(
        default=0.025, gt=0, description="relative bend of inverse depth at which a surface is cut"
    )
    edge_px: int = Field(default=2, ge=0, description="quads this near to a cut only hide")


@dataclass(frozen=True, eq=False)
class Background:
    """The fused background of a static exo camera.

    Attributes:
        depth_HW: Median-like depth in metres, 0 where unknown.
        colour_HW3: uint8 mean colour of the agreeing frames.
        confidence_HW: 0..1: how many frames agree and how well.
        is_dynamic_THW: Where something nearer than the background is seen.
    """

    depth_HW: np.ndarray
    colour_HW3: np.ndarray
    confidence_HW: np.ndarray
    is_dynamic_THW: np.ndarray


def clean_depth(depth_THW: np.ndarray) -> np.ndarray:
    """float32 depth with zero, negative, NaN and infinite values set to 0 (unknown)."""
    depth = np.asarray(depth_THW, dtype=np.float32)
    good = np.isfinite(depth) & (depth > 1e-3)
    return depth if good.all() else np.where(good, depth, np.float32(0))


def fuse_background(
    frames_TCHW: np.ndarray,
    depth_THW: np.ndarray,
    *,
    dynamic_THW: np.ndarray | None = None,
    config: BackgroundConfig | None = None,
) -> Background:
    """Fuses a static camera's frames into one background.

    Args:
        frames_TCHW: uint8 RGB.
        depth_THW: z-depth in metres; zero, NaN and infinity are unknown.
        dynamic_THW: Pixels that must not enter the background (people, hands), in addition to what the depth shows.
        config: Thresholds.

    Raises:
        UserError: If sizes disagree or no pixel has any depth.
    """
    config = config or BackgroundConfig()
    num_frames, _, height, width = frames_TCHW.shape
    if depth_THW.shape != (num_frames, height, width):
        raise UserError(
            f"Depth of shape {list(depth_THW.shape)} does not fit frames of {num_frames} x {height} x {width}.",
            fix="state the crop or the resize between depth and video, and use as many frames as depth maps",
        )
    depth = clean_depth(depth_THW)
    if not (depth > 0).any():
        raise UserError("No depth map holds a positive finite value.", allowed="z-depth in metres")
    excluded = np.zeros(depth.shape, np.bool_) if dynamic_THW is None else np.ascontiguousarray(dynamic_THW, np.bool_)
    step = max(1, num_frames // config.max_samples)
    background, is_dynamic = _background_depth(
        np.ascontiguousarray(depth), excluded, step, np.float32(config.dynamic_gap)
    )
    if config.dilate_px:
        is_dynamic = _dilate(is_dynamic, config.dilate_px)
    frames = np.ascontiguousarray(frames_TCHW)
    fused, colour, confidence = _fuse(
        frames, depth, excluded | is_dynamic, background, np.float32(config.depth_tolerance)
    )
    weak = confidence < config.min_support
    fused[weak] = 0
    return Background(fused, colour, confidence, is_dynamic | excluded)


def _dilate(mask_THW: np.ndarray, size_px: int) -> np.ndarray:
    kernel = np.ones((size_px, size_px), np.uint8)
    grown = [cv2.dilate(mask.view(np.uint8), kernel) for mask in mask_THW]
    return np.stack(grown).view(np.bool_)


@njit(cache=True, nogil=True)
def _background_depth(depth_THW, excluded_THW, step, gap):
    """Per pixel: the median depth, or the far cluster where the median is something that stands before it."""
    num_frames, height, width = depth_THW.shape
    background = np.zeros((height, width), np.float32)
    is_dynamic = np.zeros((num_frames, height, width), np.bool_)
    samples = np.empty(num_frames, np.float32)
    for row in range(height):
        for column in range(width):
            count = 0
            for t in range(0, num_frames, step):
                value = depth_THW[t, row, column]
                if value > 0 and not excluded_THW[t, row, column]:
                    samples[count] = value
                    count += 1
            if count == 0:
                continue
            ordered = np.sort(samples[:count])
            middle, far = ordered[count // 2], ordered[min(count - 1, int(0.85 * count))]
            background[row, column] = far if far > middle * (1 + gap) else middle
            nearest = background[row, column] * (1 - gap)
            for t in range(num_frames):
                value = depth_THW[t, row, column]
                is_dynamic[t, row, column] = 0 < value < nearest
    return background, is_dynamic


@njit(cache=True, nogil=True)
def _fuse(frames_TCHW, depth_THW, skipped_THW, background_HW, tolerance):
    """Means over the frames that agree with the background depth; confidence = share of frames, less their spread."""
    num_frames, height, width = depth_THW.shape
    fused = np.zeros((height, width), np.float32)
    colour = np.zeros((height, width, 3), np.uint8)
    confidence = np.zeros((height, width), np.float32)
    total = np.zeros(3, np.float64)
    for row in range(height):
        for column in range(width):
            expected = background_HW[row, column]
            if expected <= 0:
                continue
            count, sum_depth, sum_square = 0, 0.0, 0.0
            total[:] = 0
            for t in range(num_frames):
                value = depth_THW[t, row, column]
                if value <= 0 or skipped_THW[t, row, column] or abs(value - expected) > tolerance * expected:
                    continue
                count += 1
                sum_depth += value
                sum_square += (value / expected - 1) ** 2
                for channel in range(3):
                    total[channel] += frames_TCHW[t, channel, row, column]
            if count == 0:
                continue
            fused[row, column] = sum_depth / count
            spread = np.sqrt(sum_square / count)
            confidence[row, column] = count / num_frames * np.exp(-spread / tolerance)
            for channel in range(3):
                colour[row, column, channel] = np.uint8(total[channel] / count + 0.5)
    return fused, colour, confidence


def connected_quads(depth_HW: np.ndarray, config: BackgroundConfig | None = None) -> np.ndarray:
    """What the quads between neighbouring pixels are, uint8 ``[H-1, W-1]``: 0 no surface, 1 surface, 2 only hides.

    Inverse depth is linear along an image line on any plane, also on a grazing one, so a surface is cut where a step of
    inverse depth exceeds the steps beside it by ``mesh_step`` of itself. The usual test, the range of depth in a
    window, would cut floors away. Near a cut (``edge_px``) depth and colour are mixtures: such quads hide what lies
    behind them, but are not drawn.
    """
    config = config or BackgroundConfig()
    known = depth_HW > 0
    inverse = np.where(known, 1 / np.maximum(depth_HW, 1e-6), np.float32(np.nan)).astype(np.float32)
    down = continuous_steps(inverse, 0, config.mesh_step)
    right = continuous_steps(inverse, 1, config.mesh_step)
    quads = known[:-1, :-1] & known[1:, :-1] & known[:-1, 1:] & known[1:, 1:]
    quads &= down[:, :-1] & down[:, 1:] & right[:-1] & right[1:]
    state = quads.astype(np.uint8)
    if config.edge_px:
        size = 2 * config.edge_px + 1
        inner = cv2.erode(state, np.ones((size, size), np.uint8), borderValue=1)
        state = np.where(quads & (inner == 0), np.uint8(2), state)
    return np.ascontiguousarray(state)


def continuous_steps(inverse_HW: np.ndarray, axis: int, tolerance: float) -> np.ndarray:
    """Which steps along an axis continue the surface on at least one side."""
    values = inverse_HW if axis == 1 else inverse_HW.T
    step = np.diff(values, axis=1)
    before = np.concatenate([step[:, :1], step[:, :-1]], 1)
    after = np.concatenate([step[:, 1:], step[:, -1:]], 1)
    bend = np.fmin(np.abs(step - before), np.abs(step - after))
    # At both ends of a row the step has only itself beside it: compare with the inner neighbour alone.
    if step.shape[1] > 1:
        bend[:, 0], bend[:, -1] = np.abs(step - after)[:, 0], np.abs(step - before)[:, -1]
    with np.errstate(invalid="ignore"):
        smooth = bend <= tolerance * np.minimum(values[:, 1:], values[:, :-1])
    return smooth if axis == 1 else smooth.T
