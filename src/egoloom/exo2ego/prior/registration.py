"""Matches between a real ego frame and a rendering of the exo background, as points and pixels."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from egoloom.cameras import Camera, invert, transform_points

WINDOW_PX = 90.0
ROBUST_PX = 6.0


@dataclass(frozen=True, eq=False)
class Matches:
    """Lifted matches: points at unit depth scale in the exo camera, and where the ego camera really saw them."""

    points_unit_N3: Tensor
    pixels_N2: Tensor
    T_ego_exo: Tensor
    ego_camera: Camera

    def residuals(self, scale: float) -> np.ndarray:
        """Reprojection errors in px at a depth scale."""
        points = transform_points(self.T_ego_exo, self.points_unit_N3 * scale)
        pixels, defined = self.ego_camera._project(points)
        error = torch.linalg.vector_norm(pixels - self.pixels_N2, dim=-1)
        return torch.where(defined & (points[:, 2] > 0.05), error, torch.full_like(error, 1e3)).numpy()

    def cost(self, scale: float) -> float:
        """Mean robust cost in 0..1 (Geman-McClure)."""
        squared = (self.residuals(scale) / ROBUST_PX) ** 2
        return float((squared / (1 + squared)).mean())

    def num_inliers(self, scale: float) -> int:
        """Matches that agree with a scale."""
        return int((self.residuals(scale) < 2 * ROBUST_PX).sum())


def match_to_rendering(
    depth_HW: np.ndarray,
    colour_HW3: np.ndarray,
    exo_camera: Camera,
    T_world_exo: Tensor,
    ego_camera: Camera,
    T_world_ego: Tensor,
    ego_frame_CHW: np.ndarray,
    guess: float,
) -> Matches:
    """Renders the background at several scales around a guess and matches upright SIFT features in a window."""
    from egoloom.exo2ego.prior.config import PriorConfig
    from egoloom.exo2ego.prior.render import SurfaceCanvas
    from egoloom.exo2ego.prior.surfaces import make_surface

    config = PriorConfig()
    T_ego_exo = invert(T_world_ego) @ T_world_exo
    real = _features(ego_frame_CHW.transpose(1, 2, 0), None, 1.5)
    points, pixels = [], []
    for factor in (0.75, 1.0, 1.33):
        scale = guess * factor
        ones = (depth_HW > 0).astype(np.float32)
        surface = make_surface(depth_HW, colour_HW3, ones, exo_camera, T_world_exo, scale, config)
        canvas = SurfaceCanvas(ego_camera.image_size)
        canvas.draw(surface, ego_camera, T_world_ego, config)
        seen = np.isfinite(canvas.depth) & (canvas.weight >= 0)
        drawn = _features(np.clip(canvas.colour, 0, 255).astype(np.uint8), seen, 0.0)
        if drawn is None or real is None:
            continue
        for index, target in _mutual_matches(drawn, real):
            x, y = drawn[0][index]
            z = canvas.depth[round(y), round(x)] if seen[round(y), round(x)] else np.nan
            if not np.isfinite(z):
                continue
            ray, _ = ego_camera.unproject(torch.tensor([[x, y]], dtype=torch.float64), unit=False)
            in_exo = transform_points(invert(T_ego_exo), ray * float(z))[0]
            points.append(in_exo / scale)
            pixels.append(torch.tensor(real[0][target], dtype=torch.float64))
    if not points:
        empty = torch.zeros(0, 3, dtype=torch.float64)
        return Matches(empty, empty[:, :2], T_ego_exo, ego_camera)
    return Matches(torch.stack(points), torch.stack(pixels), T_ego_exo, ego_camera)


def _features(
    image_HW3: np.ndarray, seen_HW: np.ndarray | None, blur_px: float
) -> tuple[np.ndarray, np.ndarray] | None:
    """Upright root-SIFT on an equalised grey image, away from holes."""
    grey = cv2.cvtColor(np.ascontiguousarray(image_HW3), cv2.COLOR_RGB2GRAY)
    if blur_px:
        grey = cv2.GaussianBlur(grey, (0, 0), blur_px)
    grey = cv2.createCLAHE(4.0, (6, 6)).apply(grey)
    mask = None
    if seen_HW is not None:
        share = cv2.boxFilter(seen_HW.astype(np.float32), -1, (15, 15))
        mask = (share > 0.95).astype(np.uint8) * 255
    sift = cv2.SIFT_create(3000, contrastThreshold=0.01)  # pyright: ignore[reportAttributeAccessIssue]
    keypoints = [cv2.KeyPoint(p.pt[0], p.pt[1], p.size, 0.0, p.response, p.octave) for p in sift.detect(grey, mask)]
    if len(keypoints) < 2:
        return None
    keypoints, descriptors = sift.compute(grey, keypoints)
    descriptors = np.sqrt(descriptors / np.maximum(descriptors.sum(1, keepdims=True), 1e-9))
    return np.array([p.pt for p in keypoints]), descriptors


def _mutual_matches(drawn: tuple[np.ndarray, np.ndarray], real: tuple[np.ndarray, np.ndarray]) -> list[tuple[int, int]]:
    """Nearest neighbours in both directions within the window that beat the second best clearly."""
    distance = np.hypot(*(drawn[0][:, None] - real[0][None]).transpose(2, 0, 1))
    cost = np.where(distance < WINDOW_PX, 2 - 2 * drawn[1] @ real[1].T, 4.0)
    best = cost.argmin(1)
    lowest = cost[np.arange(len(best)), best]
    elsewhere = np.hypot(*(real[0][best][:, None] - real[0][None]).transpose(2, 0, 1)) > 5
    second = np.where(elsewhere, cost, 4.0).min(1)
    mutual = cost[:, best].argmin(0) == np.arange(len(best))
    clear = (lowest < 1) & (np.sqrt(np.maximum(lowest, 0)) < 0.85 * np.sqrt(np.maximum(second, 1e-9)))
    return [(int(i), int(best[i])) for i in np.nonzero(mutual & clear)[0]]
