"""The reference's geometry, and masks of what moves."""

import cv2
import numpy as np
import pytest
import torch

from egoloom.cameras import Fisheye624, Pinhole
from egoloom.errors import UserError
from egoloom.exo2ego.prior.compat import CompatConfig, compat_ego_camera, render_compat_prior
from egoloom.exo2ego.prior.dynamic import dynamic_from_flow, dynamic_from_ids, dynamic_from_video


def test_the_published_lens():
    params = [1220.592182729911, 1464.618192267255, 1442.370245962395, *[0.1] * 12]
    camera = compat_ego_camera(Fisheye624(torch.tensor(params, dtype=torch.float64), (2880, 2880)))
    # 189.87 and (220.17, 224.37) are the figures read off the published priors, plus half a pixel.
    np.testing.assert_allclose(camera.params[:3], [189.86989509, 220.67050342, 224.86870493], atol=1e-6)
    assert camera.image_size == (448, 448)


def flat_clip(num_frames=4, height=24, width=32):
    rng = np.random.default_rng(0)
    frames = np.repeat(rng.integers(30, 255, (1, 3, height, width), np.uint8), num_frames, 0)
    return frames, np.full((num_frames, height, width), 3.0, np.float32)


LENS = Fisheye624(torch.tensor([40.0, 24.0, 24.0, *[0.0] * 12], dtype=torch.float64), (48, 48))
GRID = Pinhole(torch.tensor([20.0, 20.0, 15.5, 11.5], dtype=torch.float64), (32, 24))
CONFIG = CompatConfig(image_size=(48, 48), radius_px=2.0)
EYE = torch.eye(4, dtype=torch.float64)


def test_points_land_where_the_formulas_say():
    frames, depth = flat_clip()
    found = render_compat_prior(frames, depth, GRID, EYE, LENS, EYE.repeat(4, 1, 1), config=CONFIG)
    assert found.frames_TCHW.shape == (4, 3, 48, 48)
    # Grid pixel (20, 14): x = (20 - 16) / 20 = 0.2, y = (14 - 12) / 20 = 0.1 at z = 1; equidistant lens.
    radius = np.hypot(0.2, 0.1)
    u, v = 40 * np.arctan(radius) / radius * np.array([0.2, 0.1]) + 24
    pixel = found.frames_TCHW[0][:, round(v), round(u)].astype(float)
    others = np.abs(pixel - frames[0][:, ::2, ::2].reshape(3, -1).T).sum(1)
    nearest = np.unravel_index(others.argmin(), (12, 16))
    assert tuple(int(n) for n in nearest) == (7, 10)  # the subsampled grid's row and column of that point


def test_movers_leave_holes_only_where_asked():
    frames, depth = flat_clip(8)
    depth[2, 4:22, 4:28] = 1.0
    poses = EYE.repeat(8, 1, 1)
    with_movers = render_compat_prior(
        frames, depth, GRID, EYE, LENS, poses, config=CONFIG.model_copy(update={"include_dynamic": True})
    )
    static = render_compat_prior(frames, depth, GRID, EYE, LENS, poses, config=CONFIG)
    assert np.array_equal(static.frames_TCHW[2], static.frames_TCHW[5])
    assert not np.array_equal(with_movers.frames_TCHW[2], static.frames_TCHW[2])
    seen = np.zeros((24, 32), bool)
    assert render_compat_prior(frames, depth, GRID, EYE, LENS, poses, seen_HW=seen, config=CONFIG).hole_mask_THW.all()


def moving_square(num_frames=8):
    rng = np.random.default_rng(1)
    back = cv2.GaussianBlur(rng.integers(0, 255, (64, 80, 3), np.uint8), (0, 0), 1.0)
    patch = cv2.GaussianBlur(rng.integers(0, 255, (16, 16, 3), np.uint8), (0, 0), 1.0)
    frames, truth, ids = [], [], []
    for index in range(num_frames):
        image, mask = back.copy(), np.zeros((64, 80), bool)
        x = 10 + 4 * index
        image[20:36, x : x + 16], mask[20:36, x : x + 16] = patch, True
        frames.append(image.transpose(2, 0, 1))
        truth.append(mask)
        ids.append(np.where(mask, 7, 1 + (np.arange(80) > 40)))
    return np.stack(frames), np.stack(truth), np.stack(ids).astype(np.uint8)


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def test_masks_from_flow_video_and_ids():
    frames, truth, ids = moving_square()
    flow = np.where(truth[..., None], [4.0, 0.0], 0.0) + np.array([0.3, -0.2])  # and a shaking camera
    assert iou(dynamic_from_flow(flow, hold_frames=0), truth) > 0.95
    assert iou(dynamic_from_video(frames), truth) > 0.35  # held for some frames, hence larger
    assert (dynamic_from_video(frames) & truth).sum() > 0.6 * truth.sum()
    assert np.array_equal(dynamic_from_ids(ids), truth)
    assert np.array_equal(dynamic_from_ids(ids, {1}), ids == 1)
    assert not dynamic_from_video(frames[:1]).any()
    with pytest.raises(UserError, match="Flow has the shape"):
        dynamic_from_flow(np.zeros((3, 4, 5)))
