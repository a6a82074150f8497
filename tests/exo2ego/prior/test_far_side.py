"""Guessed far sides against round bodies in closed form, alone and in a rendered prior."""

import numpy as np
import pytest
import torch

from egoloom.cameras import Pinhole, look_at
from egoloom.exo2ego.prior import PriorConfig, render_ego_prior
from egoloom.exo2ego.prior.background import BackgroundConfig
from egoloom.exo2ego.prior.far_side import far_side_depth

FOCAL_PX, AXIS_M, WALL_M, RADIUS_M = 400.0, 2.0, 4.0, 0.05
SIZE = (160, 120)  # width, height
CAMERA = Pinhole(torch.tensor([FOCAL_PX, FOCAL_PX, 79.5, 59.5], dtype=torch.float64), SIZE)


def rod_before_a_wall(radius_m: float = RADIUS_M, angle_deg: float = 30.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """z-depth of a long round rod before a wall, the depth where rays leave the rod again, and where it is seen."""
    rays, _ = CAMERA.rays(unit=False)
    ray = rays.numpy()
    angle = np.deg2rad(angle_deg)
    axis = np.array([np.cos(angle), np.sin(angle), 0.0])
    # Distance of a ray's point to the axis, squared, is a quadratic in z.
    across = ray - (ray @ axis)[..., None] * axis
    centre = np.array([0.0, 0.0, AXIS_M])
    a, b, c = (across**2).sum(-1), -2 * (across @ centre), AXIS_M**2 - radius_m**2
    root = b**2 - 4 * a * c
    hit = root > 0
    near = (-b - np.sqrt(np.maximum(root, 0))) / (2 * a)
    far = (-b + np.sqrt(np.maximum(root, 0))) / (2 * a)
    return np.where(hit, near, WALL_M).astype(np.float32), far, hit


def guess(depth: np.ndarray, max_radius_m: float = 0.06, edge_px: int = 0) -> np.ndarray:
    config = BackgroundConfig(edge_px=edge_px)
    return far_side_depth(depth, depth / FOCAL_PX, max_radius_m=max_radius_m, config=config)


@pytest.mark.parametrize("angle_deg", [0.0, 30.0, 90.0])
@pytest.mark.parametrize("edge_px", [0, 2])
def test_a_round_rod_is_closed_as_it_is(angle_deg: float, edge_px: int) -> None:
    depth, true_far, hit = rod_before_a_wall(angle_deg=angle_deg)
    far = guess(depth, edge_px=edge_px)
    assert (far[~hit] == 0).all(), "the wall behind has no far side"
    assert (far[hit] > 0).mean() > (0.97 if edge_px == 0 else 0.7)
    # Away from the outline, where one pixel matters most.
    thick = hit & (true_far - depth > (1.0 if edge_px == 0 else 1.7) * RADIUS_M)
    error = np.abs(far - true_far)[thick]
    assert error.mean() < 0.1 * 2 * RADIUS_M
    assert error.max() < 0.3 * 2 * RADIUS_M


def test_what_is_thick_or_flat_or_cut_by_the_frame_is_left_alone() -> None:
    assert not guess(rod_before_a_wall(radius_m=0.09, angle_deg=90.0)[0]).any()
    assert not guess(np.full((120, 160), 2.0, np.float32)).any()
    # A strip of wall between two near things is narrow, but it is not bounded by its own outline.
    depth = np.full((120, 160), 3.0, np.float32)
    depth[:, :75] = depth[:, 85:] = 1.0
    assert not guess(depth)[:, 75:85].any()
    # Unknown depth beside a surface says nothing about its outline.
    depth = np.zeros((120, 160), np.float32)
    depth[:, 70:80] = 2.0
    assert not guess(depth).any()


def test_a_scaled_scene_has_a_scaled_far_side() -> None:
    depth = rod_before_a_wall()[0]
    doubled = guess(2 * depth, max_radius_m=0.12)
    assert np.allclose(doubled, 2 * guess(depth), rtol=1e-5)


def test_the_prior_shows_a_rod_from_behind() -> None:
    """From behind, the shell that the exo camera saw only hides; closed, the rod is there without a slit."""
    depth, _, hit = rod_before_a_wall(angle_deg=90.0)
    frames = np.where(hit, np.array([200, 40, 40])[:, None, None], 90).astype(np.uint8)[None].repeat(2, 0)
    eye = torch.tensor([[1.2, 0.0, 2.6]] * 2, dtype=torch.float64)
    axis = torch.tensor([[0.0, 0.0, AXIS_M]] * 2, dtype=torch.float64)
    poses = look_at(eye, axis, torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64))
    ego = Pinhole(torch.tensor([200.0, 200.0, 31.5, 31.5], dtype=torch.float64), (64, 64))
    arguments = (frames, depth[None].repeat(2, 0), CAMERA, torch.eye(4, dtype=torch.float64), ego, poses)
    rows = slice(16, 48)
    shares = {}
    for radius in (0.0, 0.06):
        prior = render_ego_prior(*arguments, config=PriorConfig(depth_scale=1.0, far_side_radius_m=radius))
        # Its silhouette: 5 cm at 1.34 m of 200 px are 7.4 px to both sides of the middle.
        inside = prior.hole_mask_THW[0, rows, 26:38]
        red = prior.frames_TCHW[0, 0, rows, 26:38] > 150
        shares[radius] = (~inside & red).mean()
    assert shares[0.0] < 0.6
    assert shares[0.06] > 0.98
