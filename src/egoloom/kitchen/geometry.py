"""Rotations and rigid transforms over leading axes, in plain element-wise NumPy.

No BLAS call is made, so that results do not depend on the kernel that a BLAS library picks for a processor.
Rotations are matrices ``[..., 3, 3]``; ``T_a_b`` maps coordinates of frame b to frame a.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def multiply(a: Array, b: Array) -> Array:
    """Returns the matrix product over the last two axes (3x3 by 3x3), broadcast over the others."""
    return (a[..., :, :, None] * b[..., None, :, :]).sum(-2)


def apply(rotation: Array, points: ArrayLike) -> Array:
    """Returns ``rotation @ point`` for points ``[..., 3]``."""
    return (rotation * np.asarray(points, float)[..., None, :]).sum(-1)


def transpose(rotation: Array) -> Array:
    """Returns the inverse rotations."""
    return np.swapaxes(rotation, -1, -2)


def normalize(vectors: ArrayLike) -> Array:
    """Returns vectors of unit length; a zero vector stays zero."""
    vectors = np.asarray(vectors, float)
    length = np.sqrt((vectors**2).sum(-1, keepdims=True))
    return vectors / np.maximum(length, 1e-12)


def cross(a: ArrayLike, b: ArrayLike) -> Array:
    """Returns the cross product over the last axis."""
    return np.cross(np.asarray(a, float), np.asarray(b, float))


def columns(x: Array, y: Array, z: Array) -> Array:
    """Returns rotation matrices with the given unit columns."""
    return np.stack(np.broadcast_arrays(x, y, z), -1)


def rotation_from_axis(y_axis: ArrayLike, z_hint: ArrayLike) -> Array:
    """Returns rotations whose y column is ``y_axis`` and whose z column lies as close to ``z_hint`` as it can."""
    y = normalize(y_axis)
    x = normalize(cross(y, z_hint))
    return columns(x, y, cross(x, y))


def rotation_vector_to_matrix(vectors: ArrayLike) -> Array:
    """Returns the rotation matrices of rotation vectors ``[..., 3]`` in radians (Rodrigues' formula)."""
    vectors = np.asarray(vectors, float)
    angle = np.sqrt((vectors**2).sum(-1))[..., None, None]
    x, y, z = vectors[..., 0], vectors[..., 1], vectors[..., 2]
    zero = np.zeros_like(x)
    skew = np.stack([np.stack([zero, -z, y], -1), np.stack([z, zero, -x], -1), np.stack([-y, x, zero], -1)], -2)
    sine = np.sinc(angle / np.pi)
    half = np.sinc(angle / 2 / np.pi)
    return np.eye(3) + sine * skew + 0.5 * half**2 * multiply(skew, skew)


def matrix_to_rotation_vector(rotation: Array) -> Array:
    """Returns rotation vectors ``[..., 3]`` in radians; angles stay below pi."""
    axis = np.stack(
        [
            rotation[..., 2, 1] - rotation[..., 1, 2],
            rotation[..., 0, 2] - rotation[..., 2, 0],
            rotation[..., 1, 0] - rotation[..., 0, 1],
        ],
        -1,
    )
    sine = 0.5 * np.sqrt((axis**2).sum(-1))
    cosine = 0.5 * (rotation[..., 0, 0] + rotation[..., 1, 1] + rotation[..., 2, 2] - 1)
    angle = np.arctan2(sine, cosine)
    factor = np.where(sine > 1e-9, angle / np.maximum(2 * sine, 1e-12), 0.5)
    return axis * factor[..., None]


def about_x(angle: ArrayLike) -> Array:
    """Returns rotations about x by ``angle`` radians."""
    return _about(angle, (1, 0, 0))


def about_y(angle: ArrayLike) -> Array:
    """Returns rotations about y by ``angle`` radians."""
    return _about(angle, (0, 1, 0))


def about_z(angle: ArrayLike) -> Array:
    """Returns rotations about z by ``angle`` radians."""
    return _about(angle, (0, 0, 1))


def _about(angle: ArrayLike, axis: tuple[int, int, int]) -> Array:
    return rotation_vector_to_matrix(np.asarray(angle, float)[..., None] * np.asarray(axis, float))


def interpolate_rotation(start: Array, end: Array, share: ArrayLike) -> Array:
    """Returns the rotation that lies ``share`` of the way from ``start`` to ``end`` (geodesic)."""
    vector = matrix_to_rotation_vector(multiply(transpose(start), end))
    return multiply(start, rotation_vector_to_matrix(vector * np.asarray(share, float)[..., None]))
