"""Geometry of a clip from camera objects and depth: exo points, ego rays, visibility.

Legend: T pixel frames, F latent frames, H rows, W columns, C = 3.
"""

import torch

from egoloom.cameras import Camera, rotate_vectors, transform_points
from egoloom.cameras.poses import invert
from egoloom.errors import UserError
from egoloom.exo2ego.geometry import ClipGeometry, z_buffer_visibility


def geometry_from_cameras(
    exo_depth_THW: torch.Tensor,
    exo_camera: Camera,
    T_world_exo: torch.Tensor,
    ego_camera: Camera,
    T_world_ego_T44: torch.Tensor,
    *,
    time_stride: int = 4,
    pixel_step: int = 2,
    gate_visibility: bool = False,
) -> ClipGeometry:
    """Returns the clip's geometry at the latent frames, from depth and cameras.

    Args:
        exo_depth_THW: z-depth of the exo camera, metres; zero, negative or not finite is unknown.
        exo_camera: Camera of exactly these frames (after crop and resize).
        T_world_exo: Pose ``[4, 4]``, or ``[T, 4, 4]`` for a camera that moves.
        ego_camera: Camera of the ego video as generated (upright, its own size).
        T_world_ego_T44: Ego poses of every pixel frame.
        time_stride: Pixel frames per latent frame.
        pixel_step: Uses every n-th pixel; directions are averaged over tokens of 8 to 16 pixels anyway.
        gate_visibility: Fades the bias of points that something else hides from the ego camera.
    """
    frames = len(exo_depth_THW)
    T_world_exo = T_world_exo.double().expand(frames, 4, 4)
    if len(T_world_ego_T44) < frames:
        raise UserError(
            f"There are {len(T_world_ego_T44)} ego poses for {frames} frames of depth", fix="interpolate the trajectory"
        )
    picked = torch.arange(0, frames, time_stride)
    step = slice(pixel_step // 2, None, pixel_step)
    exo_rays, exo_valid = exo_camera.rays(unit=False)
    exo_rays, exo_valid = exo_rays[step, step], exo_valid[step, step]
    depth = exo_depth_THW[picked][:, step, step].double()
    if depth.shape[1:] != exo_valid.shape:
        raise UserError(
            f"Depth maps are {tuple(exo_depth_THW.shape[1:])} (rows, columns), the exo camera describes "
            f"{exo_camera.image_size} (width, height)",
            fix="crop or resize depth and camera together (egoloom.cameras.CameraView)",
        )
    known = exo_valid & torch.isfinite(depth) & (depth > 0)
    points = transform_points(T_world_exo[picked], (exo_rays * depth[..., None]).flatten(1, 2)).view(*depth.shape, 3)
    points = torch.where(known[..., None], points, torch.nan)
    T_world_ego = T_world_ego_T44[picked].double()
    ego_rays, ego_valid = ego_camera.rays()
    ego_rays = torch.where(ego_valid[..., None], ego_rays, 0.0)[step, step]
    world_rays = rotate_vectors(T_world_ego, ego_rays.reshape(1, -1, 3).expand(len(picked), -1, -1))
    return ClipGeometry(
        exo_points_FHWC=points.float(),
        ego_rays_FHWC=world_rays.view(len(picked), *ego_rays.shape).float(),
        ego_centres_FC=T_world_ego[:, :3, 3].float(),
        visibility_FFHW=_visibility(points, ego_camera, T_world_ego) if gate_visibility else None,
    )


def _visibility(points_FHWC: torch.Tensor, ego_camera: Camera, T_world_ego_F44: torch.Tensor) -> torch.Tensor:
    """Whether each exo point of each key frame is seen from each ego frame, ``[F, F, H, W]``."""
    frames, height, width, _ = points_FHWC.shape
    flat = points_FHWC.reshape(-1, 3)
    known = torch.isfinite(flat).all(-1)
    maps = []
    for pose in T_world_ego_F44:
        local = transform_points(invert(pose), torch.where(known[:, None], flat, 0.0))
        pixels, inside = ego_camera.project(local)
        pixels = torch.where((known & inside)[:, None], pixels, torch.nan)
        # Depth is even over a surface that faces the camera, unlike distance; beyond 90 degrees only distance is left.
        distance = torch.where(local[:, 2] > 0, local[:, 2], local.norm(dim=-1))
        per_key_frame = [
            z_buffer_visibility(pixels_K, distance_K, ego_camera.image_size)
            for pixels_K, distance_K in zip(pixels.chunk(frames), distance.chunk(frames), strict=True)
        ]
        maps.append(torch.stack(per_key_frame).view(frames, height, width))
    return torch.stack(maps)
