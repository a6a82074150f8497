"""Tubes along moving centre lines: fingers, arms, torso. All functions work on T times at once.

Shape letters: T times, K rings, S sides.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from egoloom.kitchen.geometry import Array, cross, normalize
from egoloom.kitchen.meshes import grid_triangles


def tube_points(centers_TK3: Array, radii_K2: ArrayLike, side_hint_T3: Array, sides: int) -> Array:
    """Returns ring points ``[T, K * S, 3]``.

    Args:
        centers_TK3: Ring centres in metres; a ring stands at right angles to the mean direction at its centre.
        radii_K2: Half width along the side direction and half height across it, in metres.
        side_hint_T3: A direction that the rings' first axis follows.
        sides: Points per ring.
    """
    radii_K2 = np.asarray(radii_K2, float)
    steps = np.diff(centers_TK3, axis=1)
    along = normalize(
        np.concatenate([steps[:, :1], normalize(steps[:, :-1]) + normalize(steps[:, 1:]), steps[:, -1:]], 1)
    )
    hint = side_hint_T3[:, None, :] if side_hint_T3.ndim == 2 else side_hint_T3
    across = normalize(cross(along, hint))
    side = cross(across, along)
    angles = np.arange(sides) * (2 * np.pi / sides)
    u = np.cos(angles)[None, None, :, None] * radii_K2[None, :, None, :1]
    v = np.sin(angles)[None, None, :, None] * radii_K2[None, :, None, 1:]
    points = centers_TK3[:, :, None] + u * side[:, :, None] + v * across[:, :, None]
    return points.reshape(len(points), -1, 3)


def tube_triangles(rings: int, sides: int) -> NDArray[np.int64]:
    """Returns the triangles of a tube whose first and last rings are (nearly) closed by their small radius."""
    return grid_triangles(rings, sides, closed=True)


def tube_texture(lengths_K: ArrayLike, radii_K2: ArrayLike, sides: int) -> Array:
    """Returns object-space texture coordinates ``[K * S, 3]`` of the straightened tube (z along it)."""
    lengths_K, radii_K2 = np.asarray(lengths_K, float), np.asarray(radii_K2, float)
    angles = np.arange(sides) * (2 * np.pi / sides)
    x = radii_K2[:, :1] * np.cos(angles)
    y = radii_K2[:, 1:] * np.sin(angles)
    z = np.broadcast_to(lengths_K[:, None], x.shape)
    return np.stack([x, y, z], -1).reshape(-1, 3)


def resample_chain(joints_TJ3: Array, shares: ArrayLike) -> Array:
    """Returns points on the poly-line through joints, at ``shares`` (0..J-1, the fraction runs along a segment)."""
    shares = np.asarray(shares, float)
    index = np.minimum(shares.astype(int), joints_TJ3.shape[1] - 2)
    rest = (shares - index)[None, :, None]
    return joints_TJ3[:, index] * (1 - rest) + joints_TJ3[:, index + 1] * rest
