"""Geometry as the public EgoX inference code computes it, for its published weights only.

Those weights saw these rays, which are wrong by ten degrees on average: a rational pinhole model with coefficients of
another camera, a grid of 56 cells under intrinsics of a 512-pixel image, a point map resized across depth edges. Use
:func:`egoloom.exo2ego.clip_geometry.geometry_from_cameras` for everything else; the ablation compares both.

Legend: T pixel frames, F latent frames, H rows, W columns.
"""

import cv2
import numpy as np
import torch
from torch.nn.functional import interpolate, normalize

from egoloom.errors import UserError
from egoloom.exo2ego.geometry import ClipGeometry

LATENT_STRIDE_PX = 8


def reference_ego_rays(
    ego_intrinsics_33: np.ndarray,
    world_to_ego_F34: torch.Tensor,
    cells: int,
    distortion: np.ndarray | None = None,
) -> torch.Tensor:
    """Returns world rays ``[F, cells, cells, 3]`` of the ego latent cells.

    Args:
        ego_intrinsics_33: Intrinsics of ``meta.json``; divided by the latent stride, as they are.
        world_to_ego_F34: World-to-camera matrices of the sensor at the latent frames.
        cells: Latent cells a side.
        distortion: The twelve numbers given to OpenCV (k1 k2 p1 p2 k3..k6 s1..s4); none if absent.
    """
    K = np.asarray(ego_intrinsics_33, np.float64) / LATENT_STRIDE_PX
    K[2, 2] = 1.0
    y, x = np.mgrid[:cells, :cells].astype(np.float64)
    pixels = np.stack([x, y], -1).reshape(-1, 1, 2)
    coefficients = np.zeros(12) if distortion is None else np.asarray(distortion, np.float64)
    flat = cv2.undistortPoints(pixels, K, coefficients).reshape(cells, cells, 2)
    rays = torch.from_numpy(np.concatenate([flat, np.ones((cells, cells, 1))], -1))
    world = normalize(rays, dim=-1)[None] @ world_to_ego_F34[:, None, :3, :3].double()
    # The sensor is mounted sideways; the video is upright.
    return torch.rot90(world, k=-1, dims=(1, 2)).float()


def reference_exo_points(
    depth_FHW: torch.Tensor, exo_intrinsics_33: np.ndarray, world_to_exo_34: torch.Tensor, exo_width_px: int
) -> torch.Tensor:
    """Returns world points ``[F, H/8, W/8, 3]`` of the exo latent cells.

    Args:
        depth_FHW: z-depth on its full grid.
        exo_intrinsics_33: Intrinsics of ``meta.json``, rescaled so that the principal point is the grid's middle.
        world_to_exo_34: World-to-camera matrix.
        exo_width_px: Width of the exo video, a centre crop of the depth grid.
    """
    height, width = depth_FHW.shape[1:]
    if exo_width_px > width:
        raise UserError(f"The exo video is {exo_width_px} px wide, its depth grid only {width} px")
    K = np.asarray(exo_intrinsics_33, np.float64)
    centre_x, centre_y = width / 2, height / 2
    focal_x, focal_y = K[0, 0] * centre_x / K[0, 2], K[1, 1] * centre_y / K[1, 2]
    y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    rays = torch.stack([(x - centre_x) / focal_x, (y - centre_y) / focal_y, torch.ones_like(x)], -1)
    local = rays * depth_FHW.double()[..., None]
    rotation, translation = world_to_exo_34[:3, :3].double(), world_to_exo_34[:3, 3].double()
    world = (local - translation) @ rotation
    left = (width - exo_width_px) // 2
    cropped = world[:, :, left : left + exo_width_px].permute(0, 3, 1, 2)
    size = (height // LATENT_STRIDE_PX, exo_width_px // LATENT_STRIDE_PX)
    resized = interpolate(cropped, size=size, mode="bilinear", align_corners=False)
    return resized.permute(0, 2, 3, 1).float()


def reference_geometry(
    depth_THW: torch.Tensor,
    exo_intrinsics_33: np.ndarray,
    world_to_exo_34: torch.Tensor,
    ego_intrinsics_33: np.ndarray,
    world_to_ego_T34: torch.Tensor,
    *,
    exo_width_px: int,
    ego_size_px: int,
    distortion: np.ndarray | None = None,
    time_stride: int = 4,
) -> ClipGeometry:
    """Returns the geometry of a take exactly as the reference feeds it to attention (scale 3 in generation).

    Args:
        depth_THW: z-depth on its full grid, one map per frame.
        exo_intrinsics_33: ``camera_intrinsics`` of ``meta.json``.
        world_to_exo_34: ``camera_extrinsics``.
        ego_intrinsics_33: ``ego_intrinsics``.
        world_to_ego_T34: ``ego_extrinsics``.
        exo_width_px: Width of the exo video.
        ego_size_px: Side of the ego video.
        distortion: See :func:`reference_ego_rays`.
        time_stride: Pixel frames per latent frame.
    """
    picked = torch.arange(0, len(depth_THW), time_stride)
    poses = world_to_ego_T34[picked].double()
    centres = -(poses[:, :3, :3].transpose(1, 2) @ poses[:, :3, 3:])[..., 0]
    return ClipGeometry(
        reference_exo_points(depth_THW[picked], exo_intrinsics_33, world_to_exo_34, exo_width_px),
        reference_ego_rays(ego_intrinsics_33, poses, ego_size_px // LATENT_STRIDE_PX, distortion),
        centres.float(),
    )
