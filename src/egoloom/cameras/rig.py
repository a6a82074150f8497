"""Calibration entries of the clip store: a camera with its pose or trajectory, and several of them as a rig."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from egoloom.cameras.base import Camera, camera_from_dict
from egoloom.cameras.trajectory import Trajectory
from egoloom.errors import UserError


@dataclass(frozen=True, eq=False)
class PosedCamera:
    """A camera and where it is: the content of one calibration file."""

    camera: Camera
    trajectory: Trajectory

    def to_dict(self) -> dict[str, Any]:
        """The calibration entry; a camera that stands still is written as one 4x4 matrix."""
        pose = self.trajectory.to_dict() if len(self.trajectory) > 1 else self.trajectory.T_world_camera[0].tolist()
        return {**self.camera.to_dict(), "T_world_camera": pose}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> "PosedCamera":
        """Reads a calibration entry of the clip store."""
        pose = entry.get("T_world_camera")
        if pose is None:
            raise UserError("A calibration entry has no T_world_camera.", allowed="4x4, or times_s with a list of 4x4")
        if isinstance(pose, Mapping):
            trajectory = Trajectory.from_poses(pose["times_s"], pose["T_world_camera"])
        else:
            trajectory = Trajectory.fixed(torch.tensor(pose, dtype=torch.float64))
        return cls(camera_from_dict(dict(entry)), trajectory)


@dataclass(frozen=True, eq=False)
class Rig:
    """Several cameras that share one world, by name."""

    cameras: dict[str, PosedCamera]

    def __getitem__(self, name: str) -> PosedCamera:
        if name not in self.cameras:
            raise UserError(f"The rig has no camera {name!r}.", allowed=", ".join(sorted(self.cameras)))
        return self.cameras[name]

    def T_a_b(self, a: str, b: str, time_s: float = 0.0) -> torch.Tensor:
        """The transform ``[4, 4]`` from camera b to camera a at a time."""
        T_world_a, T_world_b = (self[name].trajectory.at(time_s) for name in (a, b))
        return torch.linalg.inv(T_world_a) @ T_world_b
