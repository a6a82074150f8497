"""Crop, resize and rotation: images and intrinsics stay together."""

import numpy as np
import pytest
import torch

from egoloom.cameras import CameraView, Fisheye624, KannalaBrandt, Pinhole, invert, transform_points
from egoloom.cameras.undistorted import raw_focal_from_undistorted, undistorted_focal
from egoloom.errors import UserError

EYE = torch.eye(4, dtype=torch.float64)


def test_crop_and_resize_equal_golden(golden):
    table = golden("crop_resize")
    for row in table["table"]:
        v = dict(zip(table["columns"].tolist(), row.tolist(), strict=True))
        camera = Pinhole(
            torch.tensor([v["fx"], v["fy"], v["cx"], v["cy"]], dtype=torch.float64), (int(v["w"]), int(v["h"]))
        )
        scale_x, scale_y = v["out_w"] / v["crop_w"], v["out_h"] / v["crop_h"]
        cropped = camera.crop(v["crop_x0"], v["crop_y0"], 10, 10)  # golden crops are not whole pixels: scale by hand
        offset = (0.5 * scale_x - 0.5, 0.5 * scale_y - 0.5)
        params = cropped._transformed((scale_x, scale_y), offset)
        np.testing.assert_allclose(params.numpy(), [v["fx2"], v["fy2"], v["cx2"], v["cy2"]], atol=1e-9)
        point = torch.tensor([[(v["u"] - v["cx"]) / v["fx"], (v["v"] - v["cy"]) / v["fy"], 1.0]], dtype=torch.float64)
        pixels, _ = Pinhole(params, (int(v["out_w"]), int(v["out_h"]))).project(point)
        np.testing.assert_allclose(pixels[0].numpy(), [v["u2"], v["v2"]], atol=1e-7)


def test_whole_pixel_crop_and_resize():
    camera = Pinhole(torch.tensor([100.0, 100.0, 50.0, 40.0], dtype=torch.float64), (100, 80)).crop(10, 20, 60, 40)
    assert camera.resize(30, 20).params.tolist() == [50.0, 50.0, 19.75, 9.75]


def test_ego_exo_chain_of_the_golden_index(golden):
    full = Pinhole(torch.tensor([1247.9745, 1247.9745, 1920.0, 1080.0], dtype=torch.float64), (3840, 2160))
    grid = full.resize(796, 448)
    np.testing.assert_allclose(grid.params, [258.6947140625, 258.8391555555556, 397.60364583333336, 223.6037037037037])
    np.testing.assert_allclose(grid.crop(6, 0, 784, 448).params[2:], [391.60364583333336, 223.6037037037037])


def test_upright_rotation_equals_golden(golden):
    table = golden("upright_rotation")
    camera = Fisheye624(torch.from_numpy(table["params"]), tuple(table["image_size"].tolist()))
    upright, R = camera.rotate90(1)
    points = torch.from_numpy(table["points_sensor"]) @ R.T
    np.testing.assert_allclose(points.numpy(), table["points_upright"], atol=1e-12)
    np.testing.assert_allclose(
        camera.project(torch.from_numpy(table["points_sensor"]))[0], table["pixels_sensor"], atol=1e-6
    )
    np.testing.assert_allclose(upright.project(points)[0], table["pixels_upright"], atol=1e-6)
    image = torch.from_numpy(table["image_small"]).permute(2, 0, 1)
    view = CameraView(image, Pinhole(torch.tensor([9.0, 9.0, 1.5, 2.5]), (4, 6)), EYE).rotate90(1)
    assert torch.equal(view.image.permute(1, 2, 0), torch.from_numpy(table["image_small_upright"]))


@pytest.mark.parametrize("turns", [1, 2, 3, 4, -1])
@pytest.mark.parametrize("kind", ["pinhole", "kb4", "624"])
def test_world_points_keep_their_pixel_content(kind, turns):
    """The pixel where a world point lands after rotation shows what the pixel before showed."""
    camera = {
        "pinhole": Pinhole(torch.tensor([40.0, 42.0, 19.0, 16.0], dtype=torch.float64), (41, 31)),
        "kb4": KannalaBrandt(torch.tensor([40.0, 42.0, 19.0, 16.0, 0.1, 0.02, 0, 0], dtype=torch.float64), (41, 31)),
        "624": Fisheye624(torch.tensor([40.0, 19, 16, 0.1, 0, 0, 0, 0, 0, 1e-2, -2e-2, 3e-2, 0, 1e-2, 0],
                                       dtype=torch.float64), (41, 31)),
    }[kind]  # fmt: skip
    index = torch.arange(41 * 31, dtype=torch.float64).reshape(31, 41)
    pose = EYE.clone()
    pose[:3, 3] = torch.tensor([1.0, 2.0, 3.0])
    view = CameraView(index, camera, pose)
    turned = view.rotate90(turns)
    pixels = torch.tensor([[5.0, 7.0], [30.0, 20.0]], dtype=torch.float64)
    world = transform_points(pose, camera.unproject(pixels)[0] * 4)
    landed, valid = turned.camera.project(transform_points(invert(turned.T_world_camera), world))
    assert bool(valid.all())
    for before, after in zip(pixels.round().long(), landed.round().long(), strict=True):
        assert turned.image[after[1], after[0]] == index[before[1], before[0]]
    torch.testing.assert_close(landed, landed.round(), atol=1e-6, rtol=0)


def test_view_resize_and_crop():
    image = torch.arange(64, dtype=torch.uint8).reshape(1, 8, 8)
    view = CameraView(image, Pinhole(torch.tensor([8.0, 8.0, 3.5, 3.5]), (8, 8)), EYE)
    small = view.crop(2, 2, 4, 4).resize(2, 2)
    expected = image[0, 2:6, 2:6].double().reshape(2, 2, 2, 2).mean((1, 3)).round().to(torch.uint8)
    assert torch.equal(small.image[0], expected)
    assert small.camera.params.tolist() == [4.0, 4.0, 0.5, 0.5]
    assert view.resize(4, 4, mode="nearest").image.dtype == torch.uint8
    with pytest.raises(UserError, match="leaves the frame"):
        view.crop(6, 0, 4, 4)
    with pytest.raises(UserError, match="its camera describes"):
        CameraView(image, Pinhole(torch.tensor([8.0, 8.0, 3.5, 3.5]), (9, 8)), EYE)


def test_fisheye624_refuses_two_scales():
    camera = Fisheye624(torch.tensor([40.0, 20, 20] + [0.0] * 12, dtype=torch.float64), (40, 40))
    with pytest.raises(UserError, match="one focal length"):
        camera.resize(20, 10)


def test_raw_focal_equals_golden(golden):
    D = np.array([0.036902, 0.057131, -0.057154, 0.018458])
    for raw, new, *_ in golden("kb4_new_camera_matrix_balance08")["table"]:
        assert abs(undistorted_focal(raw, D, (3840, 2160)) - new) < 1e-6
        assert abs(raw_focal_from_undistorted(new, D, (3840, 2160)) - raw) < 1e-3
