"""Poses and depth maps of the EgoX layout, from their JSON lists and ``.npy`` files."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from egoloom.cameras import as_pose, rigid, world_to_camera
from egoloom.errors import UserError


def is_trajectory(extrinsics: Any) -> bool:
    """Whether these are many matrices (some may be null) and not the rows of one, or anything else."""
    poses = extrinsics if isinstance(extrinsics, list) else []
    return any(isinstance(row, list) for pose in poses if isinstance(pose, list) for row in pose)


def camera_to_world(extrinsics: Any) -> np.ndarray | None:
    """``T_world_camera`` from a world-to-camera list; None for null and for poses that hold NaN."""
    if extrinsics is None:
        return None
    try:
        matrix = torch.as_tensor(np.asarray(extrinsics, dtype=np.float64))
    except (TypeError, ValueError):
        return None
    if matrix.shape not in {(3, 4), (4, 4)} or not bool(torch.isfinite(matrix).all()):
        return None
    cleaned = as_pose(rigid(matrix[:3, :3], matrix[:3, 3]))
    return world_to_camera(cleaned).numpy()


def read_depth(path: Path) -> np.ndarray:
    """Returns one depth map in metres, float32 ``[H, W]``.

    Raises:
        UserError: If the file is damaged or holds something else.
    """
    try:
        depth = np.load(path, allow_pickle=False)
    except Exception as error:  # numpy raises many kinds on damaged headers
        raise UserError(f"Cannot read the depth map {path}: {error}", fix="write it again with numpy.save") from error
    if depth.ndim != 2 or not np.issubdtype(depth.dtype, np.floating):
        raise UserError(f"{path} holds {depth.dtype} of shape {depth.shape}.", allowed="float [H, W] in metres")
    return depth.astype(np.float32)


def resize_nearest(depth_THW: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Nearest neighbour: depth must not be mixed across edges."""
    (width, height), (_, rows, columns) = size, depth_THW.shape
    x = np.clip(np.round((np.arange(width) + 0.5) * columns / width - 0.5), 0, columns - 1).astype(int)
    y = np.clip(np.round((np.arange(height) + 0.5) * rows / height - 0.5), 0, rows - 1).astype(int)
    return depth_THW[:, y[:, None], x[None, :]]
