"""Takes in the EgoX layout: ``meta.json``, ``videos/<take>/*.mp4``, ``depth_maps/<take>/NNNNN.npy``.

The layout's conventions: extrinsics are world-to-camera 3x4 with OpenCV axes; ego axes are those of the un-rotated
Aria sensor while the ego video is upright (turned 90 degrees clockwise); depth i, exo frame i and pose i belong
together.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from egoloom.cameras import Camera, KannalaBrandt, Pinhole, Trajectory, as_pose, rigid, world_to_camera
from egoloom.cameras.undistorted import raw_focal_from_undistorted
from egoloom.errors import UserError
from egoloom.ingest.documents import read_json
from egoloom.ingest.egox_arrays import camera_to_world, is_trajectory
from egoloom.ingest.egox_calibration import find_calibration, read_calibration
from egoloom.ingest.egox_entry import checked_entries
from egoloom.ingest.egox_recording import EgoXRecording, ExoFit

MAX_POSE_GAP_S = 1.0


class EgoXTake(EgoXRecording):
    """One take: the recording, and where its cameras are; everything is read when asked for."""

    def pinhole_on_grid(self) -> Pinhole:
        """The camera of ``meta.json`` on the depth grid (right for in-the-wild takes only)."""
        K = torch.from_numpy(self._intrinsics)
        return Pinhole.from_matrix(K, self._intrinsics_size()).resize(*self.depth_grid_size)

    @cached_property
    def exo_camera(self) -> Camera:
        """The camera of the exo video's frames as they are (raw fisheye for Ego-Exo4D takes)."""
        window = self.exo_window
        return self._camera_on_grid().crop(window.x0, window.y0, window.width, window.height).resize(*self.exo_size)

    def _camera_on_grid(self) -> Camera:
        size = self._intrinsics_size()
        if self.calibration and self.calibration.exo is not None:
            return self.calibration.exo.resize(*self.depth_grid_size)
        if size in {self.exo_size, self.depth_grid_size}:
            return self.pinhole_on_grid()
        if self.calibration is None or self.calibration.exo_distortion is None:
            raise UserError(
                f"The intrinsics of take {self.name!r} are those of undistorted {size[0]}x{size[1]} frames, but the "
                "video is raw fisheye, and no calibration of the exo lens was found.",
                fix=f"put calibration.json beside or above {self.folder}, or give --calibration FILE",
            )
        D = np.array(self.calibration.exo_distortion)
        K = self._intrinsics
        raw_f = raw_focal_from_undistorted(float(K[0, 0]), D, size)
        self.notes.append(f"exo focal length {K[0, 0]:.1f} px (undistorted) -> {raw_f:.1f} px (raw fisheye)")
        params = torch.tensor([raw_f, raw_f, K[0, 2], K[1, 2], *D], dtype=torch.float64)
        return KannalaBrandt(params, size).resize(*self.depth_grid_size)

    @property
    def T_world_exo(self) -> torch.Tensor:
        """Exo pose ``[4, 4]``, or ``[T, 4, 4]`` at the used frames where ``camera_extrinsics`` lists many poses."""
        raw = self.entry.get("camera_extrinsics") or []
        if is_trajectory(raw):
            return self._trajectory(raw, "exo").at(self.times_s)
        return as_pose(world_to_camera(torch.from_numpy(self._matrix("camera_extrinsics", (3, 4), (4, 4)))))

    @property
    def exo_trajectory(self) -> Trajectory:
        """The exo camera's pose, or its poses at the used frames."""
        poses = self.T_world_exo
        return Trajectory.fixed(poses) if poses.ndim == 2 else Trajectory(torch.as_tensor(self.times_s), poses)

    @property
    def is_exo_world(self) -> bool:
        """Whether the world is the exo camera's own frame, as in takes whose ego poses were placed by hand."""
        return bool(torch.allclose(self.T_world_exo, torch.eye(4, dtype=torch.float64), atol=1e-6))

    @property
    def up_world(self) -> tuple[float, float, float]:
        """Direction against gravity: z in the worlds of Ego-Exo4D; the exo camera held level where it is the world."""
        return (0.0, -1.0, 0.0) if self.is_exo_world else (0.0, 0.0, 1.0)

    @property
    def known_depth_scale(self) -> float | None:
        """The factor that makes the depth maps fit the poses, where that is known: 1, or None.

        Poses placed by hand in the exo camera's frame were placed in this very depth, and ``egoloom ego-prior`` writes
        depth maps that are scaled already.
        """
        is_scaled = bool(self.entry.get("egoloom", {}).get("depth_is_scaled"))
        return 1.0 if is_scaled or self.is_exo_world else None

    def ego_camera(self, image_size: tuple[int, int] = (448, 448)) -> Camera:
        """The camera of the upright ego video."""
        if self.calibration is None:
            raise UserError(
                f"No calibration of the ego lens was found for take {self.name!r}.",
                fix=f"put calibration.json beside or above {self.folder}, or give --calibration FILE",
            )
        return self.calibration.ego_camera(image_size)

    @cached_property
    def sensor_trajectory(self) -> Trajectory:
        """Poses of the un-rotated ego sensor; null poses are interpolated over at most a second."""
        raw = self.entry.get("ego_extrinsics")
        if not raw:
            raise UserError(f"Take {self.name!r} has no ego poses.", fix="egoloom ego-prior --estimate-pose")
        return self._trajectory(raw, "ego")

    def _trajectory(self, raw: Sequence[Any], owner: str) -> Trajectory:
        """Poses from a list of world-to-camera matrices in which some may be null."""
        num_null = sum(pose is None for pose in raw)
        if num_null:
            self.notes.append(f"{num_null} of {len(raw)} {owner} poses are null: interpolated")
        poses = [camera_to_world(pose) for pose in raw]
        rate = self.pose_fps or float(self.fps)
        return Trajectory.from_poses(np.arange(len(raw)) / rate, poses, max_gap_s=MAX_POSE_GAP_S)

    @property
    def ego_trajectory(self) -> Trajectory:
        """Poses of the upright ego camera at the used frames."""
        return Trajectory(torch.as_tensor(self.times_s), self.T_world_ego())

    def T_world_ego(self) -> torch.Tensor:
        """Poses ``[T, 4, 4]`` of the upright ego camera at the used frames."""
        R_upright_sensor = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
        T_sensor_upright = rigid(R_upright_sensor.T, torch.zeros(3, dtype=torch.float64))
        return self.sensor_trajectory.at(self.times_s) @ T_sensor_upright

    def __repr__(self) -> str:
        return f"EgoXTake({self.name!r}, folder={str(self.folder)!r})"


def read_takes(
    folder: Path | str,
    *,
    calibration: Path | str | None = None,
    exo_fit: ExoFit = "layout",
    pose_fps: float | None = None,
) -> list[EgoXTake]:
    """Reads the list of takes of a folder in the EgoX layout; nothing is decoded yet.

    Args:
        folder: A folder with ``meta.json``, or that file.
        calibration: A calibration file; without it, one is looked for beside and above the takes.
        exo_fit: See :class:`EgoXTake`.
        pose_fps: See :class:`EgoXTake`.

    Raises:
        UserError: If there is no ``meta.json``, or it is not in the EgoX layout.
    """
    folder = Path(folder)
    meta = folder if folder.is_file() else folder / "meta.json"
    if not meta.is_file():
        below = sorted(path.parent.name for path in folder.glob("*/meta.json")) if folder.is_dir() else []
        fix = f"one of {', '.join(str(folder / name) for name in below)}" if below else "give the folder of meta.json"
        raise UserError(f"There is no EgoX take at {folder}: no meta.json.", fix=fix)
    takes = []
    for number, entry in enumerate(checked_entries(read_json(meta), meta)):
        name = entry.get("take_name") or Path(entry.get("exo_path") or "").parent.name or f"take_{number}"
        path = Path(calibration) if calibration else find_calibration(meta.parent, name)
        lens = read_calibration(path) if path else None
        takes.append(EgoXTake(name, meta.parent, entry, lens, exo_fit, pose_fps))
    return takes


def find_take(takes: Sequence[EgoXTake], name: str | None) -> EgoXTake:
    """The take of that name; a unique beginning is enough, and no name where there is only one take."""
    names = ", ".join(take.name for take in takes)
    matching = [take for take in takes if name is None or take.name == name]
    matching = matching or [take for take in takes if name is not None and take.name.startswith(name)]
    if len(matching) != 1:
        said = "No take was named" if name is None else f"{len(matching)} takes match {name!r}"
        raise UserError(f"{said}.", allowed=names, fix="--take NAME")
    return matching[0]
