"""What a user states by hand in files: ego poses, keypoints of the wearer, a mask of the wearer.

Shape letters: T time, H, W exo image.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from torch import Tensor

from egoloom.cameras import Trajectory
from egoloom.clips.media import read_arrays
from egoloom.errors import UserError

POSE_REACH_S = 1.0  # placed poses hold this long before the first and after the last one
KEYPOINT_NAMES = ("head", "left_hand", "right_hand")


@dataclass(frozen=True, eq=False)
class PlacedPoses:
    """Poses that somebody placed.

    Attributes:
        T_world_ego_T: Upright ego camera poses ``[T, 4, 4]``.
        depth_scale: The factor on depth of the cloud that they were placed in; None if the file does not say.
    """

    T_world_ego_T: Tensor
    depth_scale: float | None


def read_ego_poses(path: Path, times_s: np.ndarray) -> PlacedPoses:
    """Reads a manual override: ``{"times_s": [...], "T_world_camera": [4x4 or null, ...]}`` of the upright ego camera.

    A few key poses are enough: positions are interpolated on lines and rotations by slerp. ``"depth_scale"`` says in
    which depth the poses were placed; the pose editor writes it.

    Raises:
        UserError: If the file cannot be read, holds no pose, or its poses do not reach the frames.
    """
    try:
        content = json.loads(path.read_text())
        pairs = list(zip(content["times_s"], content["T_world_camera"], strict=True))
        scale = None if content.get("depth_scale") is None else float(content["depth_scale"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"Cannot read ego poses from {path}: {error!r}",
            allowed='{"times_s": [...], "T_world_camera": [...]}, equally many of both',
        ) from error
    if scale is not None and not 0 < scale < np.inf:
        raise UserError(f"{path} was placed with the depth scale {scale}", allowed="a positive number")
    kept = [(time, pose) for time, pose in pairs if pose is not None]
    if not kept:
        raise UserError(f"{path} holds no pose.")
    trajectory = Trajectory.from_poses([time for time, _ in kept], [pose for _, pose in kept])
    return PlacedPoses(trajectory.at(times_s, tolerance_s=POSE_REACH_S), scale)


def read_keypoints(path: Path) -> dict[str, np.ndarray]:
    """Reads keypoints: ``{"head": [[x, y] or null, ...], "left_hand": [...], "right_hand": [...]}`` in exo pixels."""
    try:
        content = json.loads(path.read_text())
        named = {
            name: np.array([[np.nan, np.nan] if pixel is None else pixel[:2] for pixel in content[name]], dtype=float)
            for name in KEYPOINT_NAMES
            if name in content
        }
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"Cannot read keypoints from {path}: {error!r}", allowed='{"head": [[x, y], ...]}') from error
    if not named:
        raise UserError(f"{path} names no keypoints.", allowed=", ".join(KEYPOINT_NAMES))
    return named


def read_person_mask(path: Path, num_frames: int, image_size: tuple[int, int]) -> np.ndarray:
    """Reads a mask of the wearer: an ``.npz`` with ``mask [T, H, W]``.

    Args:
        path: The file.
        num_frames: Frames that it must have.
        image_size: Width and height of the exo frames; a mask of another size is brought to it (nearest neighbour).

    Returns:
        bool ``[T, H, W]``.
    """
    mask = read_arrays(path).get("mask")
    if mask is None or mask.ndim != 3 or len(mask) != num_frames:
        shape = "none" if mask is None else list(mask.shape)
        raise UserError(f"{path} holds no fitting mask (found: {shape})", allowed=f"mask [{num_frames}, H, W]")
    grid = (np.asarray(mask) > 0).astype(np.uint8)
    return np.stack([cv2.resize(one, image_size, interpolation=cv2.INTER_NEAREST_EXACT) for one in grid]).astype(bool)
