"""Ego poses without hand work: where the person's head is in the exo video and where it looks.

Head position: the head's pixels and their depth (keypoints from a file where there are some, else the upper end of the
person's mask). Gaze: towards what the hands do (hand keypoints, else the part of the person's mask that reaches out
farthest from the body's axis). Roll: level against gravity. Everything is smoothed over time. Eyes are not seen: a
glance that the head and hands do not follow is lost, so expect tens of degrees now and then; override by a file.

Shape letters: T time, H, W exo image, N points.
"""

from dataclasses import dataclass

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from egoloom.cameras import Camera, look_at, rotation_angle_deg, transform_points
from egoloom.errors import UserError

HEAD_HEIGHT_M = 0.24
EYE_FORWARD_M = 0.09
MIN_PERSON_PX = 30


class EgoPoseConfig(BaseModel):
    """Assumptions about the person."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    smoothing_s: float = Field(default=0.2, ge=0, description="Gaussian over time for position and gaze target")
    min_reach_m: float = Field(default=0.22, ge=0, description="hands are at least this far from the body's axis")
    max_reach_m: float = Field(default=0.95, gt=0)
    min_pitch_deg: float = Field(default=-62.0, ge=-89, description="heads do not look straight down")
    max_pitch_deg: float = Field(default=25.0, le=89)
    default_pitch_deg: float = Field(default=-25.0, description="where no hands are found")
    lean_weight: float = Field(default=1.5, ge=0, description="how much the body's lean counts against the hands")
    gaze_between: float = Field(default=1.0, gt=0, le=2, description="1 looks at the hands, more looks beyond them")


@dataclass(frozen=True, eq=False)
class EgoPoseEstimate:
    """Estimated poses with what they rest on.

    Attributes:
        T_world_ego_T: Upright ego camera poses ``[T, 4, 4]``.
        head_found_T: Whether the head was seen in the frame (else interpolated).
        hands_found_T: Whether a reaching hand was seen.
        confidence: 0..1, share of frames with head and hands.
    """

    T_world_ego_T: Tensor
    head_found_T: np.ndarray
    hands_found_T: np.ndarray
    confidence: float


def estimate_ego_poses(
    depth_THW: np.ndarray,
    person_THW: np.ndarray,
    exo_camera: Camera,
    T_world_exo: Tensor,
    *,
    up_world: tuple[float, float, float],
    fps: float,
    depth_scale: float = 1.0,
    keypoints: dict[str, np.ndarray] | None = None,
    config: EgoPoseConfig | None = None,
) -> EgoPoseEstimate:
    """Estimates the wearer's camera from the exo video.

    Args:
        depth_THW: z-depth of the exo frames; 0 is unknown.
        person_THW: The wearer's pixels.
        exo_camera: The exo camera.
        T_world_exo: Its pose ``[4, 4]`` or ``[T, 4, 4]``.
        up_world: Direction against gravity.
        fps: Frames a second.
        depth_scale: Factor on depth.
        keypoints: Optional pixels ``[T, 2]`` (NaN where unseen) named "head", "left_hand", "right_hand".
        config: Assumptions.

    Raises:
        UserError: If the person's head is seen in no frame.
    """
    config = config or EgoPoseConfig()
    num_frames = len(depth_THW)
    poses = torch.as_tensor(T_world_exo, dtype=torch.float64)
    poses = poses.expand(num_frames, 4, 4) if poses.ndim == 2 else poses
    up = np.asarray(up_world, dtype=np.float64) / np.linalg.norm(up_world)
    rays = exo_camera.rays(unit=False)[0]
    heads, hands = np.full((num_frames, 3), np.nan), np.full((num_frames, 3), np.nan)
    for index in range(num_frames):
        chosen = person_THW[index] & (depth_THW[index] > 0)
        if chosen.sum() < MIN_PERSON_PX:
            continue
        depth = torch.from_numpy(depth_THW[index][chosen].astype(np.float64)) * depth_scale
        points = transform_points(poses[index], rays[torch.from_numpy(chosen)] * depth[:, None]).numpy()
        pixels = np.argwhere(chosen)[:, ::-1]
        towards_exo = poses[index, :3, 3].numpy()
        heads[index] = _head_centre(points, pixels, up, towards_exo, _keypoint(keypoints, "head", index))
        if not np.isnan(heads[index]).any():
            hands[index] = _hands(points, pixels, heads[index], up, keypoints, index, config)
    head_found = np.isfinite(heads).all(axis=1)
    hands_found = np.isfinite(hands).all(axis=1)
    if not head_found.any():
        raise UserError(
            "The wearer's head is seen in no frame of the exo video.",
            fix="give a mask of the person, or poses in a JSON file (--ego-poses FILE)",
        )
    sigma = config.smoothing_s * fps
    heads = _smooth(_fill(heads), sigma)
    targets = _gaze_targets(heads, hands, up, sigma, config)
    eyes = heads + EYE_FORWARD_M * _unit(targets - heads)
    T_world_ego = look_at(torch.from_numpy(eyes), torch.from_numpy(targets), torch.from_numpy(up))
    confidence = float((head_found & hands_found).mean())
    return EgoPoseEstimate(T_world_ego, np.asarray(head_found), np.asarray(hands_found), confidence)


def _keypoint(keypoints: dict[str, np.ndarray] | None, name: str, index: int) -> np.ndarray | None:
    if not keypoints or name not in keypoints:
        return None
    pixel = np.asarray(keypoints[name][index], dtype=np.float64)
    return None if np.isnan(pixel).any() else pixel


def _head_centre(
    points: np.ndarray, pixels: np.ndarray, up: np.ndarray, exo_centre: np.ndarray, keypoint: np.ndarray | None
) -> np.ndarray:
    """Centre of the head: a head's height below the person's upper end, behind the seen surface."""
    if keypoint is not None:
        near = np.argsort(np.hypot(*(pixels - keypoint).T))[: max(3, len(pixels) // 200)]
        surface = np.median(points[near], axis=0)
    else:
        height = points @ up
        # A raised hand may be higher than the head: heads are blobs, so the highest two percent are cut away only
        # when they lie far from the body's axis.
        axis = np.median(points, axis=0)
        level = points - axis - ((points - axis) @ up)[:, None] * up
        central = np.linalg.norm(level, axis=1) < 0.55
        if central.sum() < MIN_PERSON_PX // 2:
            central = np.ones(len(points), bool)
        top = np.quantile(height[central], 0.995)
        in_head = central & (height > top - HEAD_HEIGHT_M)
        if in_head.sum() < 5:
            return np.full(3, np.nan)
        surface = np.median(points[in_head], axis=0)
        surface = surface + (top - 0.5 * HEAD_HEIGHT_M - surface @ up) * up
    away = _unit(surface - exo_centre)
    away = away - (away @ up) * up
    return surface + 0.06 * _unit(away)


def _hands(
    points: np.ndarray,
    pixels: np.ndarray,
    head: np.ndarray,
    up: np.ndarray,
    keypoints: dict[str, np.ndarray] | None,
    index: int,
    config: EgoPoseConfig,
) -> np.ndarray:
    """Mean position of the hands: keypoints, else what reaches out farthest from the vertical through the head."""
    found = []
    for name in ("left_hand", "right_hand"):
        pixel = _keypoint(keypoints, name, index)
        if pixel is not None:
            near = np.argsort(np.hypot(*(pixels - pixel).T))[:9]
            found.append(np.median(points[near], axis=0))
    if found:
        return np.mean(found, axis=0)
    offset = points - head
    below = -(offset @ up)
    level = np.linalg.norm(offset + below[:, None] * up, axis=1)
    reaching = (below > 0.15) & (below < 0.9) & (level > config.min_reach_m) & (level < config.max_reach_m)
    lean = _lean(offset, below, up)
    strength = float(np.linalg.norm(lean))
    if strength > 0.06:
        reaching &= offset @ _unit(lean) > 0.3 * level
    if reaching.sum() < 5:
        return np.full(3, np.nan)
    far = level[reaching] >= np.quantile(level[reaching], 0.85)
    hand = np.median(points[reaching][far], axis=0)
    # The exo camera sees the near arm better than the far one, which pulls the hand aside; the lean is not pulled.
    drop = (hand - head) @ up * up
    level_hand = hand - head - drop
    blended = _unit(_unit(level_hand) + config.lean_weight * min(1.0, strength / 0.15) * _unit(lean))
    return head + drop + np.linalg.norm(level_hand) * blended


def _lean(offset: np.ndarray, below: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Horizontal vector from the trunk to the head: who bends forward has the head before the hips."""
    trunk = (below > 0.3) & (below < 1.0)
    if trunk.sum() < MIN_PERSON_PX:
        return np.zeros(3)
    lean = -np.median(offset[trunk], axis=0)
    return lean - (lean @ up) * up


def _gaze_targets(
    heads: np.ndarray, hands: np.ndarray, up: np.ndarray, sigma: float, config: EgoPoseConfig
) -> np.ndarray:
    """Points looked at: the hands, within the pitch that a head allows; ahead where no hands are known."""
    if np.isnan(hands).all():
        moved = heads[-1] - heads[0]
        moved = moved - (moved @ up) * up
        ahead = _unit(moved) if np.linalg.norm(moved) > 0.3 else _unit(np.cross(up, [up[1] + 1e-3, up[2], up[0]]))
        tilt = np.deg2rad(config.default_pitch_deg)
        return heads + np.cos(tilt) * ahead + np.sin(tilt) * up
    targets = heads + config.gaze_between * (_smooth(_fill(hands), 1.5 * sigma) - heads)
    direction = _unit(targets - heads)
    pitch = np.arcsin(np.clip(direction @ up, -1, 1))
    limited = np.clip(pitch, np.deg2rad(config.min_pitch_deg), np.deg2rad(config.max_pitch_deg))
    level = _unit(direction - (direction @ up)[:, None] * up)
    return heads + np.cos(limited)[:, None] * level + np.sin(limited)[:, None] * up


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def _fill(values_T3: np.ndarray) -> np.ndarray:
    """Linear interpolation over frames without a value."""
    known = ~np.isnan(values_T3).any(1)
    index = np.arange(len(values_T3))
    return np.stack([np.interp(index, index[known], values_T3[known, axis]) for axis in range(3)], -1)


def _smooth(values_T3: np.ndarray, sigma: float) -> np.ndarray:
    """Median of three, then a Gaussian."""
    if len(values_T3) > 2:
        padded = np.concatenate([values_T3[:1], values_T3, values_T3[-1:]])
        values_T3 = np.median(np.stack([padded[:-2], padded[1:-1], padded[2:]]), axis=0)
    return gaussian_filter1d(values_T3, sigma, axis=0, mode="nearest") if sigma > 0 else values_T3


def pose_errors(estimated_T44: Tensor, true_T44: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Position errors in metres, rotation errors in degrees, gaze (optical axis) errors in degrees, each ``[T]``."""
    position = torch.linalg.vector_norm(estimated_T44[:, :3, 3] - true_T44[:, :3, 3], dim=-1)
    rotation = rotation_angle_deg(estimated_T44[:, :3, :3], true_T44[:, :3, :3])
    cosine = (estimated_T44[:, :3, 2] * true_T44[:, :3, 2]).sum(-1).clamp(-1, 1)
    return position.numpy(), rotation.numpy(), torch.rad2deg(torch.arccos(cosine)).numpy()
