"""Camera models against golden tables, OpenCV and closed forms."""

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from egoloom.cameras import Fisheye624, KannalaBrandt, Pinhole, camera_from_dict
from egoloom.errors import UserError

_spec = importlib.util.spec_from_file_location("cameras_conftest", Path(__file__).with_name("conftest.py"))
_helpers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_helpers)
golden_camera = _helpers.golden_camera

TABLES = ["pinhole", "kb4_gopro", "kb4_random", "fisheye624_aria_2880", "fisheye624_aria_512", "fisheye624_random_1408"]
GOPRO = torch.tensor([1772.0, 1772.0, 1920.0, 1080.0, 0.036902, 0.057131, -0.057154, 0.018458], dtype=torch.float64)
ARIA = torch.tensor(
    [1220.592182729911, 1464.618192267255, 1442.370245962395, 0.4143793791836057, -0.4859785980738274,
     0.1384912170175902, 1.146000597558113, -1.66762626342011, 0.6300994877479119, 0.0007903390814906743,
     -0.0003460749279699183, -0.001078250965388323, 7.704910825386041e-05, 0.0005214350246391408,
     -0.0001066039798202996], dtype=torch.float64,
)  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_projection_equals_golden(golden, name):
    table = golden(name)
    pixels, _ = golden_camera(name, table).project(torch.from_numpy(table["points_cam"]))
    np.testing.assert_allclose(pixels.numpy(), table["pixels"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", TABLES)
def test_unprojection_equals_golden(golden, name):
    table = golden(name)
    camera = golden_camera(name, table)
    pixels = torch.from_numpy(table.get("unproject_pixels", table["pixels"]))
    rays, _ = camera.unproject(pixels, unit=False)
    np.testing.assert_allclose(rays.numpy(), table["unproject_rays_z1"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", TABLES)
def test_float32_stays_within_three_thousandths_of_a_pixel(golden, name):
    table = golden(name)
    camera = golden_camera(name, table)
    pixels, _ = camera.project(torch.from_numpy(table["points_cam"]).float())
    near = np.abs(table["pixels"]).max(1) < 4096
    assert np.abs(pixels.numpy() - table["pixels"])[near].max() < 3e-3


@given(st.floats(1, 65), st.floats(0, 360), st.floats(0.2, 50))
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize(
    "camera", [KannalaBrandt(GOPRO, (3840, 2160)), Fisheye624(ARIA, (2880, 2880))], ids=["kb4", "624"]
)
def test_round_trip(camera, angle_deg, azimuth_deg, distance_m):
    theta, phi = np.deg2rad(angle_deg), np.deg2rad(azimuth_deg)
    direction = np.array([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)])
    point = torch.from_numpy(direction * distance_m)[None]
    pixels, _ = camera.project(point)
    rays, _ = camera.unproject(pixels)
    np.testing.assert_allclose(rays[0].numpy(), direction, atol=1e-9)
    again, _ = camera.project(rays)
    assert float((again - pixels).abs().max()) < 1e-3


def test_kannala_brandt_equals_opencv():
    rng = np.random.default_rng(1)
    points = rng.uniform([-3, -3, 0.5], [3, 3, 6], (500, 3))
    K = np.array([[1772.0, 0, 1920], [0, 1772.0, 1080], [0, 0, 1]])
    expected, _ = cv2.fisheye.projectPoints(points[:, None], np.zeros(3), np.zeros(3), K, GOPRO[4:].numpy())
    pixels, _ = KannalaBrandt(GOPRO, (3840, 2160)).project(torch.from_numpy(points))
    np.testing.assert_allclose(pixels.numpy(), expected[:, 0], atol=1e-6)


def test_fisheye624_equals_projectaria():
    calibration = pytest.importorskip("projectaria_tools.core.calibration")
    rig = calibration.CameraCalibration(
        "rgb", calibration.CameraModelType.FISHEYE624, ARIA.numpy(), __import__(
            "projectaria_tools.core.sophus", fromlist=["SE3"]).SE3(), 2880, 2880, None, 1.0, "",
    )  # fmt: skip
    points = np.random.default_rng(0).uniform([-1, -1, 0.5], [1, 1, 3], (50, 3))
    expected = np.stack([rig.project_no_checks(point) for point in points])
    pixels, _ = Fisheye624(ARIA, (2880, 2880)).project(torch.from_numpy(points))
    np.testing.assert_allclose(pixels.numpy(), expected, atol=1e-3)


@pytest.mark.parametrize("camera", [Pinhole(GOPRO[:4], (3840, 2160)), KannalaBrandt(GOPRO, (3840, 2160)),
                                    Fisheye624(ARIA, (2880, 2880))], ids=["pinhole", "kb4", "624"])  # fmt: skip
def test_gradients_equal_finite_differences(camera):
    points = torch.from_numpy(np.random.default_rng(0).uniform([-1, -1, 1], [1, 1, 3], (4, 3))).requires_grad_()
    params = camera.params.clone().requires_grad_()
    kind, size = type(camera), camera.image_size
    assert torch.autograd.gradcheck(lambda p, x: kind(p, size).project(x)[0], (params, points))
    pixels = camera.project(points.detach())[0].requires_grad_()
    assert torch.autograd.gradcheck(lambda p, x: kind(p, size).unproject(x)[0], (params, pixels))


def test_gradient_on_the_optical_axis_is_finite():
    point = torch.tensor([[0.0, 0.0, 2.0]], dtype=torch.float64, requires_grad=True)
    pixels, _ = KannalaBrandt(GOPRO, (3840, 2160)).project(point)
    pixels.sum().backward()
    torch.testing.assert_close(point.grad, torch.tensor([[886.0, 886.0, 0.0]], dtype=torch.float64))


@pytest.mark.parametrize("kind", [KannalaBrandt, Fisheye624])
def test_batched_parameters_equal_single_cameras(kind):
    base = GOPRO if kind is KannalaBrandt else ARIA
    batch = torch.stack([base, base * 1.01])
    points = torch.from_numpy(np.random.default_rng(0).uniform([-1, -1, 1], [1, 1, 3], (2, 7, 3)))
    pixels, valid = kind(batch, (3840, 2880)).project(points)
    for index in range(2):
        alone, alone_valid = kind(batch[index], (3840, 2880)).project(points[index])
        torch.testing.assert_close(pixels[index], alone)
        assert torch.equal(valid[index], alone_valid)


def test_validity():
    camera = Pinhole(torch.tensor([100.0, 100.0, 31.5, 31.5]), (64, 64))
    points = torch.tensor([[0.0, 0, 1], [0, 0, -1], [0.3, 0, 1], [0.4, 0, 1], [0, 0, 0]])
    pixels, valid = camera.project(points)
    assert valid.tolist() == [True, False, True, False, False]
    assert bool(torch.isfinite(pixels).all())
    circle = Pinhole(camera.params, (64, 64), valid_radius_px=20.0)
    assert circle.project(points)[1].tolist() == [True, False, False, False, False]
    assert 0.28 < float(circle.valid_mask().float().mean()) < 0.33  # pi 20^2 / 64^2


def test_a_folding_lens_is_cut_where_its_radius_stops_growing():
    folding = torch.tensor([100.0, 100.0, 500.0, 500.0, -0.3, 0.0, 0.0, 0.0], dtype=torch.float64)
    camera = KannalaBrandt(folding, (1000, 1000))
    limit = np.sqrt(1 / 0.9)  # 1 - 0.9 theta^2 = 0
    assert abs(float(camera.max_angle) - limit) < 2e-3
    angles = torch.tensor([limit - 0.05, limit + 0.05], dtype=torch.float64)
    points = torch.stack([torch.sin(angles), 0 * angles, torch.cos(angles)], -1)
    assert camera.project(points)[1].tolist() == [True, False]
    assert camera.unproject(torch.tensor([[590.0, 500.0]], dtype=torch.float64))[1].tolist() == [False]


def test_fisheye_sees_behind_ninety_degrees():
    wide = KannalaBrandt(torch.tensor([100.0, 100.0, 250.0, 250.0, 0, 0, 0, 0], dtype=torch.float64), (500, 500))
    point = torch.tensor([[1.0, 0.0, -0.2]], dtype=torch.float64)
    pixels, valid = wide.project(point)
    assert bool(valid[0])
    torch.testing.assert_close(wide.unproject(pixels)[0] * point.norm(), point)


def test_dictionary_round_trip():
    for camera in (Fisheye624(ARIA, (2880, 2880), 1400.0), KannalaBrandt(GOPRO, (3840, 2160))):
        again = camera_from_dict(camera.to_dict())
        assert type(again) is type(camera)
        assert again.image_size == camera.image_size
        assert again.valid_radius_px == camera.valid_radius_px
        assert torch.equal(again.params, camera.params)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"model": "equirect", "params": [], "image_size": [1, 1]}, "Unknown camera model"),
        ({"model": "pinhole", "image_size": [1, 1]}, "lacks params"),
        ({"model": "pinhole", "params": [1, 1, 0], "image_size": [4, 4]}, "fx, fy, cx, cy"),
        ({"model": "pinhole", "params": [-1, 1, 0, 0], "image_size": [4, 4]}, "focal length"),
        ({"model": "pinhole", "params": [1, float("nan"), 0, 0], "image_size": [4, 4]}, "not finite"),
        ({"model": "pinhole", "params": [1, 1, 0, 0], "image_size": [0, 4]}, "image size"),
    ],
)
def test_bad_entries_are_refused(entry, said):
    with pytest.raises(UserError, match=said):
        camera_from_dict(entry)
