"""The exo clip, checked, and what its depth maps become: surfaces in the world.

Shape letters: T time, C channels, H, W rows and columns, R, C rows and columns of a grid.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from egoloom.cameras import Camera, as_pose, transform_points
from egoloom.errors import UserError
from egoloom.exo2ego.prior.background import connected_quads
from egoloom.exo2ego.prior.config import PriorConfig
from egoloom.exo2ego.prior.far_side import far_side_depth
from egoloom.exo2ego.prior.raster import QUAD_NONE, QUAD_ONLY_HIDES, QUAD_SURFACE, QUAD_TWO_SIDED

# A guessed far side counts half as much as what was seen.
FAR_SIDE_TRUST = 0.5


@dataclass(frozen=True, eq=False)
class Surface:
    """Points of a source camera's pixel grid in the world, and which neighbours belong together."""

    points_world_RC3: Tensor
    quads_RC: np.ndarray
    colour_RC3: np.ndarray
    confidence_RC: np.ndarray

    @property
    def num_points(self) -> int:
        """Grid points, known or not."""
        return self.points_world_RC3.shape[0] * self.points_world_RC3.shape[1]


@dataclass(frozen=True, eq=False)
class ExoClip:
    """Everything of the exo side, checked and cleaned."""

    frames: np.ndarray
    depth: np.ndarray
    dynamic: np.ndarray | None
    camera: Camera
    poses: Tensor
    scale: float = 1.0

    @property
    def is_moving(self) -> bool:
        """Whether the camera has a pose per frame."""
        return self.poses.ndim == 3

    def pose(self, index: int) -> Tensor:
        """``T_world_exo`` of a frame."""
        return self.poses[index] if self.is_moving else self.poses

    def surfaces(
        self,
        depth_HW: np.ndarray,
        colour_HW3: np.ndarray,
        confidence_HW: np.ndarray,
        index: int,
        config: PriorConfig,
        keep_HW: np.ndarray | None = None,
    ) -> list[Surface]:
        """Lifts a depth map of this camera into the world, with the clip's scale; far sides too where asked for."""
        pose = self.pose(index)
        front = make_surface(depth_HW, colour_HW3, confidence_HW, self.camera, pose, self.scale, config, keep_HW)
        if config.far_side_radius_m <= 0:
            return [front]
        return close_surface(depth_HW, front, self.camera, pose, self.scale, config)


def check_inputs(
    frames_TCHW: np.ndarray,
    depth_THW: np.ndarray,
    exo_camera: Camera,
    T_world_exo: Tensor,
    T_world_ego_T: Tensor,
    dynamic_THW: np.ndarray | None = None,
) -> tuple[Tensor, Tensor]:
    """Refuses what does not fit together; returns cleaned exo and ego poses in float64."""
    if frames_TCHW.ndim != 4 or frames_TCHW.shape[1] != 3 or frames_TCHW.dtype != np.uint8:
        raise UserError(
            f"Exo frames are {frames_TCHW.dtype} of shape {list(frames_TCHW.shape)}.", allowed="uint8 [T, 3, H, W]"
        )
    num_frames, _, height, width = frames_TCHW.shape
    if (width, height) != exo_camera.image_size:
        raise UserError(
            f"Exo frames are {width}x{height}, the exo camera describes {exo_camera.image_size}.",
            fix="apply the same crop and resize to both: camera.crop(...), camera.resize(...)",
        )
    if depth_THW.shape[-2:] != (height, width):
        raise UserError(
            f"Depth is {depth_THW.shape[-1]}x{depth_THW.shape[-2]}, the exo frames are {width}x{height}.",
            allowed="the same size",
            fix="state how they relate and crop or resize the depth (nearest neighbour) before",
        )
    exo_poses = as_pose(torch.as_tensor(T_world_exo, dtype=torch.float64))
    ego_poses = as_pose(torch.as_tensor(T_world_ego_T, dtype=torch.float64))
    counts = {"exo frames": num_frames, "depth maps": len(depth_THW), "ego poses": len(ego_poses)}
    if exo_poses.ndim == 3:
        counts["exo poses"] = len(exo_poses)
    if dynamic_THW is not None:
        counts["dynamic masks"] = len(dynamic_THW)
    if len(set(counts.values())) > 1 or num_frames == 0:
        raise UserError(
            "The clip's parts differ in length: " + ", ".join(f"{n} {what}" for what, n in counts.items()) + ".",
            allowed="one of each per frame, at least one frame",
            fix="cut all to the frames that have everything, or interpolate poses with Trajectory.at",
        )
    return exo_poses, ego_poses


def make_surface(
    depth_HW: np.ndarray,
    colour_HW3: np.ndarray,
    confidence_HW: np.ndarray,
    exo_camera: Camera,
    T_world_exo: Tensor,
    scale: float,
    config: PriorConfig,
    keep_HW: np.ndarray | None = None,
) -> Surface:
    """Lifts a depth map into the world."""
    height, width = depth_HW.shape
    rays, valid = exo_camera.rays(unit=False)
    metric = torch.from_numpy(depth_HW).double() * scale
    points = transform_points(T_world_exo, (rays * metric[..., None]).reshape(-1, 3)).float()
    known = np.where(valid.numpy(), depth_HW, np.float32(0))
    quads = connected_quads(known, config.background)
    if keep_HW is not None:
        quads *= _corners(keep_HW)
    return Surface(points.reshape(height, width, 3), quads, np.ascontiguousarray(colour_HW3), confidence_HW)


def close_surface(
    depth_HW: np.ndarray, front: Surface, exo_camera: Camera, T_world_exo: Tensor, scale: float, config: PriorConfig
) -> list[Surface]:
    """Returns a surface whose thin parts may be seen from behind, and the guessed far side of these parts.

    The far side has the colours of the near side: nothing else is known of it.
    """
    rays, valid = exo_camera.rays(unit=False)
    pitch = torch.diff(rays, dim=1, append=2 * rays[:, -1:] - rays[:, -2:-1]).norm(dim=-1)
    metric = np.where(valid.numpy(), depth_HW * np.float32(scale), np.float32(0))
    far = far_side_depth(
        metric, pitch.numpy() * metric, max_radius_m=config.far_side_radius_m, config=config.background
    )
    points = transform_points(T_world_exo, (rays * torch.from_numpy(far).double()[..., None]).reshape(-1, 3)).float()
    closed = _corners(far > 0) & (front.quads_RC == QUAD_SURFACE)
    # The body ends where it is closed: quads beside it, where depth is a mixture, have nothing left to hide.
    reach = np.ones((2 * config.background.edge_px + 3,) * 2, np.uint8)
    beside = cv2.dilate(closed.view(np.uint8), reach).view(np.bool_) & (front.quads_RC == QUAD_ONLY_HIDES)
    quads = np.where(closed, np.uint8(QUAD_TWO_SIDED), np.where(beside, np.uint8(QUAD_NONE), front.quads_RC))
    back = Surface(
        points.reshape(front.points_world_RC3.shape),
        np.where(closed, np.uint8(QUAD_TWO_SIDED), np.uint8(QUAD_NONE)),
        front.colour_RC3,
        front.confidence_RC * np.float32(FAR_SIDE_TRUST),
    )
    return [replace(front, quads_RC=quads), back]


def _corners(mask_HW: np.ndarray) -> np.ndarray:
    """Which quads have all four corners in a mask."""
    return mask_HW[:-1, :-1] & mask_HW[1:, 1:] & mask_HW[:-1, 1:] & mask_HW[1:, :-1]
