"""Tables from cameras against hand-computed geometry; gating; the reference's own rays and points."""

import math

import numpy as np
import pytest
import torch

from egoloom.cameras import Pinhole
from egoloom.errors import UserError
from egoloom.exo2ego.bias import NEUTRAL_BIAS, geometry_bias
from egoloom.exo2ego.clip_geometry import geometry_from_cameras
from egoloom.exo2ego.geometry import ClipGeometry, direction_tables, z_buffer_visibility
from egoloom.exo2ego.geometry_compat import reference_ego_rays, reference_exo_points, reference_geometry
from egoloom.exo2ego.layout import CanvasLayout

LAYOUT = CanvasLayout(2, 4, 6, 4)


def geometry(**changes) -> ClipGeometry:
    generator = torch.Generator().manual_seed(0)
    values = {
        "exo_points_FHWC": torch.randn(2, 4, 6, 3, generator=generator) + torch.tensor([0.0, 0.0, 4.0]),
        "ego_rays_FHWC": torch.nn.functional.normalize(torch.randn(2, 4, 4, 3, generator=generator), dim=-1),
        "ego_centres_FC": torch.randn(2, 3, generator=generator),
    }
    return ClipGeometry(**{**values, **changes})


def test_bias_is_strongest_where_the_ego_ray_meets_the_exo_point(make_sample) -> None:
    """Same wall, two cameras: the arg-max over exo tokens must lie where the ego token's surface point projects."""
    clip = make_sample(num_frames=1, size=32, exo_width=48)
    layout = CanvasLayout(1, 8, 12, 8)  # latent stride 4, tokens of 8 px
    tables = clip.geometry.tables(layout)
    bias = geometry_bias(tables.rays_BFPC[:, 0], tables.directions_BFKC[:, 0], 1.0)[0]
    ego = Pinhole([20.0, 20.0, 16.0, 16.0], (32, 32))
    centre = clip.geometry.ego_centres_FC[0].double()
    hits, errors = 0, []
    for token in range(16):
        row, column = divmod(token, 4)
        ray = ego.unproject(torch.tensor([[column * 8 + 3.5, row * 8 + 3.5]], dtype=torch.float64), unit=False)[0][0]
        point = centre + ray * torch.tensor([1.0, 1.0, 1.0]) * (2.0 - centre[2])  # the ego camera looks along +z
        pixel = torch.tensor([point[0] / point[2] * 30 + 24, point[1] / point[2] * 30 + 16])
        if not (4 <= pixel[0] < 44 and 4 <= pixel[1] < 28):
            continue
        best = int(bias[token].argmax())
        found = torch.tensor([best % 6 * 8 + 3.5, best // 6 * 8 + 3.5])
        errors.append(float((found - pixel).norm()))
        hits += 1
    assert hits >= 4
    assert max(errors) < 8.0  # within one token


def test_unknown_hidden_and_unsure_points_fade_to_neutral() -> None:
    points = geometry().exo_points_FHWC.clone()
    points[:, :2, :2] = float("nan")
    tables = geometry(exo_points_FHWC=points).tables(LAYOUT)
    bias = geometry_bias(tables.rays_BFPC[:, 0], tables.directions_BFKC[:, 0], 3.0)
    torch.testing.assert_close(bias[0, :, 0], torch.full((4,), NEUTRAL_BIAS), atol=1e-6, rtol=0)
    assert bias[0, :, 1].abs().max() > 0.05
    half = geometry(confidence_FHW=torch.full((2, 4, 6), 0.5)).tables(LAYOUT)
    torch.testing.assert_close(half.directions_BFKC, geometry().tables(LAYOUT).directions_BFKC / 2)
    visibility = torch.ones(2, 2, 4, 6)
    visibility[1] = 0  # from the second ego frame everything is hidden
    gated = geometry(visibility_FFHW=visibility).tables(LAYOUT)
    torch.testing.assert_close(gated.directions_BFKC[:, 0], geometry().tables(LAYOUT).directions_BFKC[:, 0])
    assert gated.directions_BFKC[:, 1].abs().max() == 0


def test_partly_valid_cells_average_their_valid_points_only() -> None:
    points = geometry().exo_points_FHWC.clone()
    points[:, 0, 0] = float("nan")
    ours = geometry(exo_points_FHWC=points).tables(LAYOUT).directions_BFKC[0, 0, 0]
    centre = geometry().ego_centres_FC[0]
    valid = torch.stack([points[0, 0, 1], points[0, 1, 0], points[0, 1, 1]]) - centre
    torch.testing.assert_close(ours, torch.nn.functional.normalize(valid, dim=-1).mean(0))


def test_visibility_keeps_the_nearest_surface() -> None:
    pixels = torch.tensor([[4.0, 4.0], [4.5, 4.2], [20.0, 4.0], [float("nan"), 1.0], [99.0, 1.0]])
    distance = torch.tensor([1.0, 2.0, 2.0, 1.0, 1.0])
    assert z_buffer_visibility(pixels, distance, (32, 32)).tolist() == [1, 0, 1, 0, 0]


def test_gate_hides_what_lies_behind() -> None:
    camera = Pinhole([16.0, 16.0, 15.5, 15.5], (32, 32))
    depth = torch.full((1, 32, 32), 2.0)
    depth[:, :, 16:] = 1.0
    pose = torch.eye(4, dtype=torch.float64)
    aside = pose.clone()
    aside[0, 3] = 0.3  # from here the near half hides part of the far half
    result = geometry_from_cameras(depth, camera, pose, camera, aside[None], pixel_step=1, gate_visibility=True)
    assert result.visibility_FFHW is not None
    near = result.visibility_FFHW[0, 0, :, 16:]
    far = result.visibility_FFHW[0, 0, :, :16]
    assert near.mean() > 0.9
    assert 0 < far.mean() < 0.9


def test_moving_exo_camera_and_wrong_sizes() -> None:
    camera = Pinhole([16.0, 16.0, 15.5, 15.5], (32, 32))
    depth = torch.full((5, 32, 32), 2.0)
    poses = torch.eye(4, dtype=torch.float64).repeat(5, 1, 1)
    poses[:, 0, 3] = torch.arange(5)
    result = geometry_from_cameras(depth, camera, poses, camera, poses, pixel_step=1)
    shift = result.exo_points_FHWC[1] - result.exo_points_FHWC[0]
    torch.testing.assert_close(shift, torch.tensor([4.0, 0.0, 0.0]).expand_as(shift))
    with pytest.raises(UserError, match="Depth maps are"):
        geometry_from_cameras(depth[:, :30], camera, poses, camera, poses)
    with pytest.raises(UserError, match="3 ego poses for 5 frames"):
        geometry_from_cameras(depth, camera, poses, camera, poses[:3])
    with pytest.raises(UserError, match="canvas has 2"):
        direction_tables(torch.zeros(3, 4, 6, 3), torch.zeros(3, 3), torch.zeros(3, 4, 4, 3), LAYOUT)


def test_reference_rays_follow_its_formula() -> None:
    K = np.array([[150.0, 0, 255.5], [0, 150.0, 255.5], [0, 0, 1]])
    angle = 0.3
    rotation = torch.tensor(
        [[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]]
    ).double()
    pose = torch.cat([rotation, torch.zeros(3, 1).double()], 1)[None]
    rays = reference_ego_rays(K, pose, 56)
    x, y = 10, 40
    camera_ray = np.array([(x - 255.5 / 8) / 18.75, (y - 255.5 / 8) / 18.75, 1.0])
    expected = torch.from_numpy(camera_ray / np.linalg.norm(camera_ray)) @ rotation
    # A clockwise turn takes row y, column x to row x, column 55 - y.
    torch.testing.assert_close(rays[0, x, 55 - y].double(), expected, atol=1e-6, rtol=0)
    bent = reference_ego_rays(K, pose, 56, distortion=np.array([0.1, *[0.0] * 11]))
    assert (bent - rays).abs().max() > 1e-3


def test_reference_points_follow_its_formula() -> None:
    K = np.array([[1250.0, 0, 1900.0], [0, 1250.0, 1070.0], [0, 0, 1]])
    pose = torch.eye(4).double()[:3]
    pose[:, 3] = torch.tensor([0.1, -0.2, 0.3])
    depth = torch.full((1, 16, 40), 3.0)
    points = reference_exo_points(depth, K, pose, 32)
    assert points.shape == (1, 2, 4, 3)
    # Cell (0, 0) is the mean of the four pixels around its middle: rows 3, 4 and columns 3, 4 of the crop.
    focal_x, focal_y = 1250 * 20 / 1900, 1250 * 8 / 1070
    expected = torch.tensor([(7.5 - 20) / focal_x * 3, (3.5 - 8) / focal_y * 3, 3.0]) - pose[:, 3].float()
    torch.testing.assert_close(points[0, 0, 0], expected, atol=1e-5, rtol=0)
    full = reference_geometry(
        torch.full((5, 16, 40), 3.0), K, pose, np.eye(3) * 8, pose.expand(5, 3, 4), exo_width_px=32, ego_size_px=16
    )
    torch.testing.assert_close(full.ego_centres_FC, -pose[:, 3].float().expand(2, 3))
    with pytest.raises(UserError, match="depth grid only"):
        reference_exo_points(depth, K, pose, 48)
