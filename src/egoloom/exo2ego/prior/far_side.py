"""The far side of thin things, which the exo camera did not see: silhouettes inflated to closed bodies.

A depth map holds the half of an arm, a hand or a bottle that faces its camera, a thin shell. The ego camera looks from
elsewhere, and where it sees the missing half the ego prior has a hole just beside the arm. Limbs and most things that
hands hold are nearly round, so the missing half can be guessed from the outline: at distance d from the outline of a
part whose largest inscribed circle has the radius R, a round part is 2 sqrt(R^2 - (R - d)^2) thick. EgoX
(arXiv 2512.08269) draws shells alone; this is an addition.

Shape letters: H, W rows and columns of the exo frame.
"""

import cv2
import numpy as np
from numba import njit

from egoloom.exo2ego.prior.background import BackgroundConfig, continuous_steps

_NONE, _RIM, _BEHIND = 0, 1, 2


def far_side_depth(
    depth_HW: np.ndarray, metre_per_px_HW: np.ndarray, *, max_radius_m: float, config: BackgroundConfig | None = None
) -> np.ndarray:
    """Returns the z-depth of the guessed far side, float32 ``[H, W]``; 0 where there is no guess.

    The guess touches the depth at the outline of a part (``edge_px`` inside it), so that both sides together are
    closed. Parts that are thicker than twice ``max_radius_m`` (walls, worktops, a torso) are left alone: their outline
    says nothing about their depth.

    Args:
        depth_HW: z-depth in metres (any unit, as long as ``max_radius_m`` is in it); 0 is unknown.
        metre_per_px_HW: Width of a pixel at its depth, in the same unit.
        max_radius_m: Largest radius of a part that counts as thin.
        config: Where a surface is cut (:func:`connected_quads`).
    """
    config = config or BackgroundConfig()
    distance, is_part = _distance_to_own_outline(depth_HW, max_radius_m, config)
    limit_px = (max_radius_m / np.maximum(metre_per_px_HW, 1e-9)).astype(np.float32)
    radius = _inscribed_radius(distance, is_part, limit_px)
    radius = np.where(distance < 1, cv2.dilate(radius, np.ones((3, 3), np.uint8)), radius)  # no disc holds the rim
    is_thin = is_part & (radius < limit_px)
    # Depth near a cut is a mixture of both sides: the body is closed where that ends, and as thick as if it went on.
    inside, span = distance - config.edge_px, np.maximum(radius - config.edge_px + 0.5, 0)
    into = np.clip(inside + 0.5, 0, span)  # pixel centres lie half a pixel inside the outline
    chord = 2 * np.sqrt(span**2 - (span - into) ** 2) * (radius + 0.5) / np.maximum(span, 0.5)
    chord = np.where(inside < 1, 0, chord)
    return np.where(is_thin & (inside >= 0), depth_HW + chord * metre_per_px_HW, 0).astype(np.float32)


def _distance_to_own_outline(
    depth_HW: np.ndarray, max_step_m: float, config: BackgroundConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Distance in px to the nearest pixel beside a cut, float32, and where that pixel is the rim of the same part."""
    outline = _outline(depth_HW, config)
    if not (outline == _RIM).any():
        return np.zeros_like(depth_HW), np.zeros(depth_HW.shape, np.bool_)
    beside = outline != _NONE
    distance, nearest = cv2.distanceTransformWithLabels(
        (~beside).view(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    kinds, depths = np.zeros(int(nearest.max()) + 1, np.uint8), np.zeros(int(nearest.max()) + 1, np.float32)
    kinds[nearest[beside]], depths[nearest[beside]] = outline[beside], depth_HW[beside]
    # Pixels of a surface behind an outline have the far pixel of the cut nearest to them, not the rim; at a corner of
    # the outline both may be as near, but not in depth.
    return distance, (depth_HW > 0) & (kinds[nearest] == _RIM) & (depth_HW - depths[nearest] < max_step_m)


def _outline(depth_HW: np.ndarray, config: BackgroundConfig) -> np.ndarray:
    """Which pixels lie on the near side of a cut (rim) or on its far side, uint8 ``[H, W]``."""
    known = depth_HW > 0
    inverse = np.where(known, 1 / np.maximum(depth_HW, 1e-6), np.float32(np.nan)).astype(np.float32)
    kinds = np.where(known, _NONE, _BEHIND).astype(np.uint8)
    rim = np.zeros(depth_HW.shape, np.bool_)
    for axis in (0, 1):
        cut = ~continuous_steps(inverse, axis, config.mesh_step)
        first = (slice(None, -1), slice(None)) if axis == 0 else (slice(None), slice(None, -1))
        second = (slice(1, None), slice(None)) if axis == 0 else (slice(None), slice(1, None))
        # A cut without a jump is the edge of one beside it, or of unknown depth.
        jump = np.abs(inverse[first] - inverse[second]) > config.mesh_step * np.minimum(inverse[first], inverse[second])
        both = cut & jump & known[first] & known[second]
        nearer = depth_HW[first] < depth_HW[second]
        rim[first] |= both & nearer
        rim[second] |= both & ~nearer
        kinds[first][both & ~nearer] = _BEHIND
        kinds[second][both & nearer] = _BEHIND
    kinds[rim] = _RIM
    return kinds


@njit(cache=True, nogil=True)
def _inscribed_radius(distance_HW, is_part_HW, limit_HW):
    """Per pixel the radius of the largest disc inside the outline that covers it, no larger than the limit."""
    height, width = distance_HW.shape
    radius = np.zeros((height, width), np.float32)
    for row in range(height):
        for column in range(width):
            if not is_part_HW[row, column]:
                continue
            size = min(distance_HW[row, column], limit_HW[row, column])
            reach = int(size)
            for r in range(max(0, row - reach), min(height, row + reach + 1)):
                for c in range(max(0, column - reach), min(width, column + reach + 1)):
                    if (r - row) ** 2 + (c - column) ** 2 <= size * size and size > radius[r, c]:
                        radius[r, c] = size
    return radius
