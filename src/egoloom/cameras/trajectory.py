"""Poses over time: interpolation by seconds, null poses filled or refused."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from egoloom.cameras.poses import as_pose, quaternion_from_rotation, rigid, rotation_from_quaternion, slerp
from egoloom.errors import UserError


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The poses of one camera at known times.

    Args:
        times_s: Strictly increasing times ``[T]``.
        T_world_camera: Rigid transforms ``[T, 4, 4]``; rotations are cleaned, anything else is refused.
    """

    times_s: Tensor
    T_world_camera: Tensor

    def __post_init__(self) -> None:
        times = torch.as_tensor(self.times_s, dtype=torch.float64)
        poses = torch.as_tensor(self.T_world_camera, dtype=torch.float64)
        if poses.ndim != 3 or poses.shape[-2:] != (4, 4) or len(poses) != len(times) or len(poses) == 0:
            raise UserError(
                f"A trajectory has {len(times)} times and poses of shape {tuple(poses.shape)}.",
                allowed="as many 4x4 poses as times, at least one",
            )
        if bool((times.diff() <= 0).any()):
            raise UserError("The times of a trajectory do not increase.", allowed="strictly increasing seconds")
        object.__setattr__(self, "times_s", times)
        object.__setattr__(self, "T_world_camera", as_pose(poses))

    @classmethod
    def fixed(cls, T_world_camera: Tensor) -> "Trajectory":
        """A camera that does not move."""
        return cls(torch.zeros(1), torch.as_tensor(T_world_camera)[None])

    @classmethod
    def from_poses(
        cls,
        times_s: Sequence[float] | Tensor | np.ndarray,
        poses: Sequence[Any],
        *,
        null: Literal["interpolate", "refuse"] = "interpolate",
        max_gap_s: float = 1.0,
    ) -> "Trajectory":
        """Builds a trajectory from a list in which poses may be missing.

        Args:
            times_s: Times ``[T]``.
            poses: T entries: None, or anything that becomes a 4x4 or 3x4 ``T_world_camera``; a pose that
                holds NaN or infinity counts as missing.
            null: What to do about missing poses.
            max_gap_s: The longest stretch without a pose that may be bridged; missing poses at either end
                take the nearest pose under the same limit.

        Raises:
            UserError: If a pose is missing and ``null`` is "refuse", all are missing, or a gap is too long.
        """
        times = torch.as_tensor(np.asarray(times_s, dtype=np.float64))
        matrices = [_pose_or_none(pose) for pose in poses]
        if len(matrices) != len(times):
            raise UserError(f"There are {len(matrices)} poses for {len(times)} times.", allowed="equally many")
        known = [index for index, matrix in enumerate(matrices) if matrix is not None]
        missing = [index for index, matrix in enumerate(matrices) if matrix is None]
        if missing and (null == "refuse" or not known):
            raise UserError(
                f"{len(missing)} of {len(matrices)} poses are missing (the first is number {missing[0]}).",
                fix='give the poses, or allow null="interpolate" while at least one pose is known',
            )
        for index in missing:
            distance = (times[known] - times[index]).abs().min().item()
            if distance > max_gap_s:
                raise UserError(
                    f"Pose {index} at {times[index].item():.3f} s is missing and the nearest known one is "
                    f"{distance:.3f} s away.",
                    allowed=f"at most {max_gap_s} s",
                )
        stacked = torch.stack([matrix for matrix in matrices if matrix is not None])
        return cls(times, cls(times[known], stacked).at(times, tolerance_s=max_gap_s))

    def at(self, times_s: Tensor | Sequence[float] | np.ndarray | float, *, tolerance_s: float = 0.1) -> Tensor:
        """Poses ``[..., 4, 4]`` at the given times: straight lines for positions, slerp for rotations.

        A trajectory of one pose stands still for ever. Otherwise times may lie outside by at most
        ``tolerance_s`` (video and pose clocks rarely end together) and take the nearest pose.

        Raises:
            UserError: If a time lies further outside, with the times asked and known.
        """
        query = torch.as_tensor(times_s, dtype=torch.float64)
        if len(self.times_s) == 1:
            return self.T_world_camera[0].expand(*query.shape, 4, 4).clone()
        first, last = self.times_s[0].item(), self.times_s[-1].item()
        outside = (query < first - tolerance_s) | (query > last + tolerance_s)
        if bool(outside.any()):
            raise UserError(
                f"Poses were asked from {query.min().item():.3f} s to {query.max().item():.3f} s, the trajectory "
                f"covers {first:.3f} s to {last:.3f} s.",
                allowed=f"at most {tolerance_s} s beyond either end",
            )
        query = query.clamp(first, last)
        right = torch.searchsorted(self.times_s, query.reshape(-1).contiguous()).reshape(query.shape)
        right = right.clamp(1, len(self.times_s) - 1)
        left = right - 1
        fraction = (query - self.times_s[left]) / (self.times_s[right] - self.times_s[left])
        quaternions = quaternion_from_rotation(self.T_world_camera[:, :3, :3])
        q = slerp(quaternions[left], quaternions[right], fraction)
        position0, position1 = self.T_world_camera[left, :3, 3], self.T_world_camera[right, :3, 3]
        position = position0 + fraction[..., None] * (position1 - position0)
        return rigid(rotation_from_quaternion(q), position)

    @property
    def positions_m(self) -> Tensor:
        """Camera centres ``[T, 3]`` in the world."""
        return self.T_world_camera[:, :3, 3]

    def to_dict(self) -> dict[str, Any]:
        """The form of the clip store: ``times_s`` and ``T_world_camera`` lists."""
        return {"times_s": self.times_s.tolist(), "T_world_camera": self.T_world_camera.tolist()}

    def __len__(self) -> int:
        return len(self.times_s)

    def __repr__(self) -> str:
        return f"Trajectory({len(self)} poses, {self.times_s[0]:.3f} s to {self.times_s[-1]:.3f} s)"


def _pose_or_none(pose: Any) -> Tensor | None:
    if pose is None:
        return None
    try:
        matrix = torch.as_tensor(np.asarray(pose, dtype=np.float64))
    except (TypeError, ValueError):
        return None
    if matrix.shape not in {(3, 4), (4, 4)}:
        raise UserError(f"A pose has the shape {tuple(matrix.shape)}.", allowed="3x4, 4x4 or null")
    if not bool(torch.isfinite(matrix).all()):
        return None
    return rigid(matrix[:3, :3], matrix[:3, 3])
