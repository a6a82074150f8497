"""The reference's geometry, faults included: priors as the published EgoX weights saw them in training.

Measured conventions of the published priors: pinhole with the undistorted intrinsics on the depth grid (principal point
at (W/2, H/2) in integer pixels), mean background over reliable pixels, every second pixel, 5 px alpha discs, an Aria
lens at the scale of the 2880 px sensor whose principal point is mirrored and not turned with the image. Correct
rendering is :func:`egoloom.exo2ego.prior.render_ego_prior`; use this one only for weights trained on such priors.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from egoloom.cameras import Fisheye624, Pinhole, invert, transform_points
from egoloom.exo2ego.prior.raster import NEAR_M, composite_discs

MAX_ANGLE_RAD = 1.4


class CompatConfig(BaseModel):
    """The reference renderer's settings; defaults reproduce the published priors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size: tuple[int, int] = (448, 448)
    radius_px: float = Field(default=5.0, gt=0)
    points_per_pixel: int = Field(default=20, ge=1)
    subsample: int = Field(default=2, ge=1)
    reliable_window: int = Field(default=5, ge=3, description="on the whole depth grid, before subsampling")
    reliable_range: float = Field(default=0.1, gt=0, description="(max - min) / mean of depth in the window")
    dynamic_gap: float = Field(default=0.04, gt=0)
    dynamic_dilate_px: int = Field(default=9, ge=1)
    min_share: float = Field(default=0.5, ge=0, le=1, description="frames that must hold a background pixel")
    include_dynamic: bool = Field(default=False, description="True for in-the-wild priors")


@dataclass(frozen=True, eq=False)
class CompatPrior:
    """Frames uint8 ``[T, 3, H, W]`` and holes ``[T, H, W]`` in the reference's geometry."""

    frames_TCHW: np.ndarray
    hole_mask_THW: np.ndarray


def compat_ego_camera(sensor: Fisheye624, image_size: tuple[int, int] = (448, 448)) -> Fisheye624:
    """The lens of the published priors from the un-rotated sensor's calibration.

    The focal length belongs to the whole sensor instead of the recorded crop, x of the principal point is mirrored and
    neither it nor the tangential and prism terms are turned with the image; half a pixel is added as measured.
    """
    width, height = image_size
    scale = width / sensor.image_size[0]
    f, cx, cy = (sensor.params[:3] * scale).tolist()
    head = torch.tensor([f, width - cx + 0.5, cy + 0.5], dtype=torch.float64)
    return Fisheye624(torch.cat([head, sensor.params[3:].double()]), (width, height))


def render_compat_prior(
    grid_frames_TCHW: np.ndarray,
    grid_depth_THW: np.ndarray,
    grid_camera: Pinhole,
    T_world_exo: Tensor,
    ego_camera: Fisheye624,
    T_world_ego_T: Tensor,
    *,
    seen_HW: np.ndarray | None = None,
    config: CompatConfig | None = None,
) -> CompatPrior:
    """Renders a prior like the reference.

    Args:
        grid_frames_TCHW: Exo frames on the depth grid (pad what the video lacks and say so in ``seen_HW``).
        grid_depth_THW: Depth in metres.
        grid_camera: The intrinsics of ``meta.json`` on the depth grid; only the focal lengths are used.
        T_world_exo: Exo pose.
        ego_camera: See :func:`compat_ego_camera`.
        T_world_ego_T: Poses of the *upright* ego camera.
        seen_HW: Pixels of the grid for which there is colour.
        config: Settings.
    """
    config = config or CompatConfig()
    step = config.subsample
    frames = np.ascontiguousarray(grid_frames_TCHW[:, :, ::step, ::step])
    depth = np.ascontiguousarray(grid_depth_THW[:, ::step, ::step].astype(np.float32))
    # A window on the subsampled grid would span twice as much of a grazing floor and cut it away.
    reliable = _reliable(grid_depth_THW.astype(np.float32), config)[:, ::step, ::step]
    if seen_HW is not None:
        reliable &= seen_HW[None, ::step, ::step]
    dynamic = _dynamic(depth, config)
    points, colours = _background_points(frames, depth, reliable & ~dynamic, grid_camera, config)
    width, height = config.image_size
    pictures, holes = [], []
    for index in range(len(frames)):
        cloud, colour = points, colours
        if config.include_dynamic:
            more = _lift(np.where(reliable[index] & dynamic[index], depth[index], 0), grid_camera, config)
            extra = frames[index].transpose(1, 2, 0)[reliable[index] & dynamic[index]]
            cloud, colour = np.concatenate([cloud, more]), np.concatenate([colour, extra.astype(np.float32)])
        image, opacity = _draw(cloud, colour, T_world_exo, T_world_ego_T[index], ego_camera, config)
        pictures.append(np.clip(image, 0, 255).round().astype(np.uint8).transpose(2, 0, 1))
        holes.append(opacity <= 0)
    return CompatPrior(np.stack(pictures), np.stack(holes).reshape(-1, height, width))


def _reliable(depth_THW: np.ndarray, config: CompatConfig) -> np.ndarray:
    kernel = np.ones((config.reliable_window, config.reliable_window), np.uint8)
    size = (config.reliable_window, config.reliable_window)
    out = np.zeros(depth_THW.shape, bool)
    for index, depth in enumerate(np.nan_to_num(depth_THW, posinf=0.0)):
        spread = cv2.dilate(depth, kernel) - cv2.erode(depth, kernel)
        out[index] = (spread < config.reliable_range * cv2.blur(depth, size)) & (depth > 0)
    return out


def _dynamic(depth_THW: np.ndarray, config: CompatConfig) -> np.ndarray:
    """Stands in for the reference's segmentation masks: what is nearer than the clip's median depth."""
    every = max(1, len(depth_THW) // 13)
    usual = np.median(depth_THW[::every], axis=0)
    near = depth_THW < usual * (1 - config.dynamic_gap)
    size = max(1, config.dynamic_dilate_px // config.subsample)
    return np.stack([cv2.dilate(mask.astype(np.uint8), np.ones((size, size), np.uint8)) for mask in near]) > 0


def _background_points(
    frames: np.ndarray, depth: np.ndarray, use: np.ndarray, camera: Pinhole, config: CompatConfig
) -> tuple[np.ndarray, np.ndarray]:
    count = use.sum(0)
    kept = count >= max(1, config.min_share * len(use))
    divisor = np.maximum(count, 1)
    mean_depth = np.where(kept, (depth * use).sum(0) / divisor, 0)
    total = np.zeros((*depth.shape[1:], 3))
    for frame, mask in zip(frames, use, strict=True):
        total += frame.transpose(1, 2, 0) * mask[..., None]
    colour = (total / divisor[..., None])[kept]
    return _lift(mean_depth, camera, config), colour.astype(np.float32)


def _lift(depth_HW: np.ndarray, camera: Pinhole, config: CompatConfig) -> np.ndarray:
    """Pinhole unprojection at integer pixels with the axis at (W/2, H/2); points with depth only."""
    fx, fy = camera.params[:2].tolist()
    width, height = camera.image_size
    rows, columns = np.nonzero(depth_HW > 0)
    z = depth_HW[rows, columns].astype(np.float64)
    x = (columns * config.subsample - width / 2) / fx * z
    y = (rows * config.subsample - height / 2) / fy * z
    return np.stack([x, y, z], -1)


def _draw(
    points: np.ndarray,
    colours: np.ndarray,
    T_world_exo: Tensor,
    T_world_ego: Tensor,
    camera: Fisheye624,
    config: CompatConfig,
) -> tuple[np.ndarray, np.ndarray]:
    width, height = config.image_size
    in_ego = transform_points(invert(T_world_ego) @ T_world_exo, torch.from_numpy(points))
    pixels, _ = camera._project(in_ego)
    angle = torch.atan2(torch.linalg.vector_norm(in_ego[:, :2], dim=-1), in_ego[:, 2])
    front = ((in_ego[:, 2] > NEAR_M) & (angle < MAX_ANGLE_RAD)).numpy()
    chosen = pixels.numpy()[front]
    order = np.argsort(in_ego[:, 2].numpy()[front], kind="stable")
    image, opacity = np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.float32)
    composite_discs(
        chosen, order, colours[front], np.float32(config.radius_px), config.points_per_pixel, image, opacity
    )
    return image, opacity
