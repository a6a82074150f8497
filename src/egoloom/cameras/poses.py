"""Rigid transforms: ``T_world_camera`` maps camera coordinates to world coordinates (read from right to left).

Shape letters: T time; matrices are ``[..., 4, 4]`` or ``[..., 3, 3]``, quaternions xyzw ``[..., 4]``.
"""

import torch
from torch import Tensor

from egoloom.errors import UserError


def rigid(R: Tensor, t: Tensor) -> Tensor:
    """A 4x4 transform from a rotation ``[..., 3, 3]`` and a translation ``[..., 3]``."""
    batch = torch.broadcast_shapes(R.shape[:-2], t.shape[:-1])
    T = torch.zeros(*batch, 4, 4, dtype=R.dtype, device=R.device)
    T[..., :3, :3], T[..., :3, 3], T[..., 3, 3] = R, t, 1
    return T


def invert(T_a_b: Tensor) -> Tensor:
    """The inverse ``T_b_a`` of rigid transforms ``[..., 4, 4]`` (the rotation must be orthonormal)."""
    R_b_a = T_a_b[..., :3, :3].transpose(-1, -2)
    return rigid(R_b_a, -(R_b_a @ T_a_b[..., :3, 3:])[..., 0])


def transform_points(T_a_b: Tensor, points_b_N3: Tensor) -> Tensor:
    """Points ``[..., N, 3]`` of frame b in frame a."""
    return points_b_N3 @ T_a_b[..., :3, :3].transpose(-1, -2) + T_a_b[..., None, :3, 3]


def rotate_vectors(T_a_b: Tensor, vectors_b_N3: Tensor) -> Tensor:
    """Directions ``[..., N, 3]`` of frame b in frame a."""
    return vectors_b_N3 @ T_a_b[..., :3, :3].transpose(-1, -2)


def world_to_camera(extrinsics: Tensor) -> Tensor:
    """``T_world_camera`` ``[..., 4, 4]`` from world-to-camera matrices ``[..., 3, 4]`` or ``[..., 4, 4]``."""
    return invert(rigid(extrinsics[..., :3, :3], extrinsics[..., :3, 3]))


def as_rotation(R: Tensor, *, tolerance: float = 1e-2) -> Tensor:
    """The nearest rotation to nearly orthonormal matrices (files with four decimals are such).

    Raises:
        UserError: If a matrix has determinant -1 or its singular values differ from 1 by more than
            ``tolerance``.
    """
    if not bool(torch.isfinite(R).all()):
        raise UserError("A rotation holds values that are not finite.", fix="drop the pose or set it to null")
    U, S, Vh = torch.linalg.svd(R)
    worst = (S - 1).abs().max().item() if S.numel() else 0.0
    nearest = U @ Vh
    if worst > tolerance or bool((torch.linalg.det(nearest) < 0).any()):
        raise UserError(
            f"A rotation matrix is not orthonormal: singular values differ from 1 by {worst:.3g}, smallest "
            f"determinant {torch.linalg.det(R).min().item():.3g}.",
            allowed=f"singular values within {tolerance} of 1 and determinant +1",
            fix="check that the matrix is a 3x4 world-to-camera pose and not a projection matrix",
        )
    return nearest


def as_pose(T: Tensor, *, tolerance: float = 1e-2) -> Tensor:
    """Rigid transforms with cleaned rotations; refuses what is no rigid transform (see :func:`as_rotation`)."""
    if not bool(torch.isfinite(T).all()):
        raise UserError("A pose holds values that are not finite.", fix="drop the pose or set it to null")
    return rigid(as_rotation(T[..., :3, :3], tolerance=tolerance), T[..., :3, 3])


def quaternion_from_rotation(R: Tensor) -> Tensor:
    """Unit quaternions xyzw ``[..., 4]`` with w >= 0 from rotations ``[..., 3, 3]`` (Shepperd's method)."""
    m = R
    trace = m[..., 0, 0] + m[..., 1, 1] + m[..., 2, 2]
    # The 4x4 matrix 4 q q^T; its row with the largest diagonal gives q without cancellation.
    yz, zx, xy = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    sum_xy, sum_zx, sum_yz = m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    rows = [
        [1 + 2 * m[..., 0, 0] - trace, sum_xy, sum_zx, yz],
        [sum_xy, 1 + 2 * m[..., 1, 1] - trace, sum_yz, zx],
        [sum_zx, sum_yz, 1 + 2 * m[..., 2, 2] - trace, xy],
        [yz, zx, xy, 1 + trace],
    ]
    outer = torch.stack([torch.stack(row, -1) for row in rows], -2)
    best = torch.diagonal(outer, dim1=-2, dim2=-1).argmax(-1)
    row = torch.gather(outer, -2, best[..., None, None].expand(*best.shape, 1, 4))[..., 0, :]
    quaternion = row / torch.linalg.vector_norm(row, dim=-1, keepdim=True)
    return torch.where(quaternion[..., 3:] < 0, -quaternion, quaternion)


def rotation_from_quaternion(q: Tensor) -> Tensor:
    """Rotations ``[..., 3, 3]`` from quaternions xyzw of any positive length."""
    x, y, z, w = (q / torch.linalg.vector_norm(q, dim=-1, keepdim=True)).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def slerp(q0: Tensor, q1: Tensor, fraction: Tensor) -> Tensor:
    """Spherical interpolation of unit quaternions along the shorter arc (Shoemake 1985); fraction ``[...]``."""
    dot = (q0 * q1).sum(-1, keepdim=True)
    q1 = torch.where(dot < 0, -q1, q1)
    angle = torch.arccos(dot.abs().clamp(max=1.0))
    fraction = fraction[..., None]
    sine = torch.sin(angle)
    small = sine < 1e-6
    divisor = torch.where(small, torch.ones_like(sine), sine)
    weight0 = torch.where(small, 1 - fraction, torch.sin((1 - fraction) * angle) / divisor)
    weight1 = torch.where(small, fraction, torch.sin(fraction * angle) / divisor)
    q = weight0 * q0 + weight1 * q1
    return q / torch.linalg.vector_norm(q, dim=-1, keepdim=True)


def rotation_angle_deg(R0: Tensor, R1: Tensor) -> Tensor:
    """Angle ``[...]`` between rotations in degrees."""
    relative = R0.transpose(-1, -2) @ R1
    # atan2 keeps its accuracy near 0 and 180 degrees, where arccos of the trace loses half the digits.
    axis = torch.stack(
        [
            relative[..., 2, 1] - relative[..., 1, 2],
            relative[..., 0, 2] - relative[..., 2, 0],
            relative[..., 1, 0] - relative[..., 0, 1],
        ],
        -1,
    )
    trace = relative[..., 0, 0] + relative[..., 1, 1] + relative[..., 2, 2]
    return torch.rad2deg(torch.atan2(torch.linalg.vector_norm(axis, dim=-1), trace - 1))


def look_at(eye: Tensor, target: Tensor, up: Tensor) -> Tensor:
    """``T_world_camera`` ``[..., 4, 4]`` of a camera at ``eye`` that looks at ``target``, level against ``up``."""
    forward = target - eye
    forward = forward / torch.linalg.vector_norm(forward, dim=-1, keepdim=True).clamp_min(1e-12)
    right = torch.linalg.cross(forward, up.expand_as(forward))
    length = torch.linalg.vector_norm(right, dim=-1, keepdim=True)
    # Straight up or down leaves the roll open: take any horizontal axis.
    spare = torch.linalg.cross(forward, forward.roll(1, -1) * forward.new_tensor([1.0, -1.0, 1.0]))
    spare = spare / torch.linalg.vector_norm(spare, dim=-1, keepdim=True).clamp_min(1e-12)
    right = torch.where(length > 1e-6, right / length.clamp_min(1e-12), spare)
    down = torch.linalg.cross(forward, right)
    return rigid(torch.stack([right, down, forward], -1), eye)
