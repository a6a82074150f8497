"""Project Aria's machine-perception files and GoPro calibrations of Ego-Exo4D: trajectories and camera models.

Formats: the "MPS data formats" and "Ego-Exo4D data format" pages of the projectaria_tools documentation.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from egoloom.cameras import Camera, Fisheye624, KannalaBrandt, Trajectory, rigid, rotation_from_quaternion
from egoloom.errors import UserError
from egoloom.ingest.documents import entry_value, number, read_csv, read_text

POSE_NAMES = ("tx", "ty", "tz", "qx", "qy", "qz", "qw")
RGB_LABEL = "camera-rgb"
RGB_SENSOR_PX, RGB_HALF_PX, RGB_MARGIN_PX = 2880, 1408, 32


@dataclass(frozen=True)
class DevicePoses:
    """Poses of the glasses: device times in seconds ``[T]`` and ``T_world_device`` ``[T, 4, 4]``."""

    times_s: np.ndarray
    T_world_device: torch.Tensor


@dataclass(frozen=True)
class MountedCamera:
    """A camera and where it sits on the glasses, ``T_device_camera`` ``[4, 4]``."""

    camera: Camera
    T_device_camera: torch.Tensor


def read_device_poses(path: Path) -> DevicePoses:
    """Reads ``closed_loop_trajectory.csv`` (1 kHz device poses in the world).

    Raises:
        UserError: If it is malformed or has no poses.
    """
    names = [f"{name}_world_device" for name in POSE_NAMES]
    rows = read_csv(path, required=("tracking_timestamp_us", *names))
    if not rows:
        raise UserError(f"{path} has no poses")
    times = [number(row["tracking_timestamp_us"], f"{path}: tracking_timestamp_us") * 1e-6 for row in rows]
    values = np.array([[number(row[name], f"{path}: {name}") for name in names] for row in rows])
    order = np.unique(np.array(times), return_index=True)[1]
    return DevicePoses(np.array(times)[order], _poses(values[order], path))


def camera_trajectory(
    poses: DevicePoses, T_device_camera: torch.Tensor, frame_times_s: np.ndarray, start_s: float
) -> Trajectory:
    """Returns the trajectory of a camera at its frames, on the clock of its video.

    Args:
        poses: Device poses.
        T_device_camera: Where the camera sits.
        frame_times_s: Device times of the frames ``[T]``.
        start_s: Device time of second 0 of the video.
    """
    device = Trajectory(torch.from_numpy(poses.times_s), poses.T_world_device)
    return Trajectory(torch.from_numpy(frame_times_s - start_s), device.at(frame_times_s) @ T_device_camera)


def read_online_calibration(path: Path, label: str = RGB_LABEL) -> MountedCamera:
    """Reads a camera of ``online_calibration.jsonl``: the entry in the middle of the recording.

    Raises:
        UserError: If the file is malformed or lacks the camera.
    """
    lines = [line for line in read_text(path).splitlines() if line.strip()]
    if not lines:
        raise UserError(f"{path} is empty")
    where = f"{path} line {len(lines) // 2 + 1}"
    try:
        entry = json.loads(lines[len(lines) // 2])
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not valid JSON: {error}") from error
    for camera in entry_value(entry, "CameraCalibrations", list, where):
        if isinstance(camera, dict) and camera.get("Label") == label:
            return _mounted(camera, f"{where}, {label}")
    raise UserError(f"{where} has no camera {label!r}")


def upright(mounted: MountedCamera, turns_cw: int = 1) -> MountedCamera:
    """Returns the camera of the turned frame, mounted so that world points keep their pixels' content."""
    camera, R_new_old = mounted.camera.rotate90(turns_cw)
    T_old_new = rigid(R_new_old.T, torch.zeros(3, dtype=torch.float64))
    return MountedCamera(camera, mounted.T_device_camera @ T_old_new)


def rgb_camera_for_video(camera: Camera, size: tuple[int, int]) -> Camera:
    """Returns the RGB camera for a square video of another size than the calibration's.

    The 1408 px stream of Gen 1 is the 2880 px sensor without a margin of 32 px on each side, halved.
    """
    if camera.image_size[0] == RGB_SENSOR_PX and size[0] < RGB_SENSOR_PX:
        inner = RGB_SENSOR_PX - 2 * RGB_MARGIN_PX
        camera = camera.crop(RGB_MARGIN_PX, RGB_MARGIN_PX, inner, inner)
    return camera.resize(*size)


def read_gopro_calibrations(path: Path) -> dict[str, tuple[Camera, torch.Tensor]]:
    """Reads ``gopro_calibs.csv``: Kannala-Brandt cameras that stand still, with ``T_world_camera`` ``[4, 4]``.

    Raises:
        UserError: If it is malformed or has another camera model.
    """
    poses = [f"{name}_world_cam" for name in POSE_NAMES]
    intrinsics = [f"intrinsics_{index}" for index in range(8)]
    rows = read_csv(path, required=("cam_uid", "image_width", "image_height", "intrinsics_type", *poses, *intrinsics))
    cameras: dict[str, tuple[Camera, torch.Tensor]] = {}
    for row in rows:
        where = f"{path}: camera {row['cam_uid']}"
        if row["intrinsics_type"] != "KANNALABRANDTK3":
            raise UserError(f"{where} has the model {row['intrinsics_type']!r}", allowed="KANNALABRANDTK3")
        params = torch.tensor([number(row[name], f"{where}: {name}") for name in intrinsics], dtype=torch.float64)
        size = (int(number(row["image_width"], where)), int(number(row["image_height"], where)))
        values = np.array([[number(row[name], f"{where}: {name}") for name in poses]])
        cameras[row["cam_uid"]] = (KannalaBrandt(params, size), _poses(values, path)[0])
    return cameras


def read_frame_times(path: Path, camera_name: str) -> np.ndarray:
    """Reads the device times in seconds of a camera's frames from ``timesync.csv``; NaN where a frame is missing.

    Raises:
        UserError: If the camera has no column.
    """
    rows = read_csv(path)
    column = next((name for name in (rows[0] if rows else ()) if name.startswith(f"{camera_name}_214-1_capture")), None)
    if column is None:
        raise UserError(f"{path} has no column {camera_name}_214-1_capture_timestamp_ns")
    return np.array([number(row[column], f"{path}: {column}") * 1e-9 if row[column] else np.nan for row in rows])


def _mounted(entry: dict[str, Any], where: str) -> MountedCamera:
    projection = entry_value(entry, "Projection", dict, where)
    params = entry_value(projection, "Params", list, where)
    if len(params) != 15:
        raise UserError(f"{where}: {len(params)} projection parameters", allowed="15 (FisheyeRadTanThinPrism)")
    values = [number(value, f"{where}: Params") for value in params]
    # The file does not say for which size: the principal point lies near the centre of one of two.
    side = min((RGB_SENSOR_PX, RGB_HALF_PX), key=lambda px: abs(values[1] - px / 2))
    pose = entry_value(entry, "T_Device_Camera", dict, where)
    translation = entry_value(pose, "Translation", list, where)
    quaternion = entry_value(pose, "UnitQuaternion", list, where)
    if len(translation) != 3 or len(quaternion) != 2 or not isinstance(quaternion[1], list):
        raise UserError(
            f"{where}: T_Device_Camera is malformed", allowed="Translation [x, y, z], UnitQuaternion [w, [x, y, z]]"
        )
    row = [*translation, *quaternion[1], quaternion[0]]
    T_device_camera = _poses(np.array([[number(value, f"{where}: T_Device_Camera") for value in row]]), where)[0]
    return MountedCamera(Fisheye624(torch.tensor(values, dtype=torch.float64), (side, side)), T_device_camera)


def _poses(rows: np.ndarray, where: Path | str) -> torch.Tensor:
    """Turns rows of translation and quaternion (xyzw) into ``[T, 4, 4]``."""
    values = torch.from_numpy(np.asarray(rows, np.float64))
    norms = values[:, 3:].norm(dim=1)
    if values.shape[1] != 7 or bool((norms - 1).abs().max() > 1e-2):
        raise UserError(f"{where} holds quaternions that are not of unit length")
    return rigid(rotation_from_quaternion(values[:, 3:] / norms[:, None]), values[:, :3])
