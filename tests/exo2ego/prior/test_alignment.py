"""Depth alignment against the recorded numbers, and what the modes are good for."""

from pathlib import Path

import numpy as np
import pytest

from egoloom.errors import UserError
from egoloom.exo2ego.prior.alignment import AlignmentConfig, align_inverse_depth

GOLDEN = Path(__file__).parents[2] / "golden" / "depth_alignment"
CASES = [("depth_clean_6f", 0.99), ("depth_outliers_12f", 0.99), ("depth_holes_8f_mom90", 0.9)]


@pytest.mark.parametrize("mode", ["static_strict", "reference"])
@pytest.mark.parametrize(("name", "momentum"), CASES)
def test_equals_golden(name, momentum, mode):
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as table:
        config = AlignmentConfig(mode=mode, momentum=momentum)
        found = align_inverse_depth(
            table["inv_depth_video"], table["depth_metric"], table["static_mask"], config=config
        )
        np.testing.assert_allclose(found.ab_per_frame_T2, table[f"{mode}/ab_per_frame"], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(found.ab_T2, table[f"{mode}/ab_momentum"], rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(found.pixels_used_T, table[f"{mode}/pixels_used"])
        np.testing.assert_allclose(found.depth_THW, table[f"{mode}/depth_aligned"], rtol=1e-6)


@pytest.mark.parametrize(("name", "momentum"), CASES)
def test_two_passes_beat_the_frozen_first_frame(name, momentum):
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as table:
        inputs = table["inv_depth_video"], table["depth_metric"], table["static_mask"]
        true = table["depth_true"]
    errors = {}
    for mode in ("reference", "static_strict", "two_pass"):
        depth = align_inverse_depth(*inputs, config=AlignmentConfig(mode=mode, momentum=momentum)).depth_THW
        errors[mode] = np.median(np.abs(depth / true - 1)[true > 0])
    assert errors["two_pass"] < errors["static_strict"] < errors["reference"]


def affine_clip(num_frames: int = 12, seed: int = 0):
    rng = np.random.default_rng(seed)
    true = np.repeat(rng.uniform(1, 8, (1, 24, 32)), num_frames, 0)
    a = 0.4 * np.exp(0.02 * rng.standard_normal(num_frames))[:, None, None]
    return true, ((1 / true - 0.05) / a).astype(np.float32), (true * np.exp(0.02 * rng.standard_normal(true.shape)))


def test_recovers_scale_within_one_percent_despite_a_mover():
    true, relative, metric = affine_clip()
    metric[:, 5:15, 5:15] = 0.5  # something in front that the video network did not see
    static = np.ones(true.shape, bool)
    static[:, 5:15, 5:15] = False
    found = align_inverse_depth(relative, metric.astype(np.float32), static, config=AlignmentConfig(mode="two_pass"))
    ratio = np.median((found.depth_THW / true)[static])
    assert abs(ratio - 1) < 0.01


def test_jitter_is_less_than_with_single_frames():
    _, relative, metric = affine_clip()
    metric = metric * np.exp(0.05 * np.random.default_rng(1).standard_normal((12, 1, 1)))
    smooth = align_inverse_depth(relative * 0 + relative[:1], metric, config=AlignmentConfig())
    single = align_inverse_depth(relative * 0 + relative[:1], metric, config=AlignmentConfig(momentum=0.0))
    assert np.diff(np.log(smooth.depth_THW), axis=0).std() < 0.2 * np.diff(np.log(single.depth_THW), axis=0).std()


def test_bad_depth_is_unknown_not_wrong():
    _, relative, metric = affine_clip()
    metric[0, 0] = np.nan
    metric[1, 0] = np.inf
    metric[2, 0] = 0
    metric[3] = 0  # a frame without any metric depth keeps the state of its neighbours
    found = align_inverse_depth(relative, metric)
    assert np.isfinite(found.depth_THW).all()
    assert found.pixels_used_T[3] == 0
    np.testing.assert_array_equal(found.ab_T2[3], found.ab_T2[2])


def test_refusals():
    with pytest.raises(UserError, match="differ"):
        align_inverse_depth(np.ones((2, 4, 4)), np.ones((2, 4, 5)))
    with pytest.raises(UserError, match="usable pixels"):
        align_inverse_depth(np.ones((2, 4, 4)), np.zeros((2, 4, 4)))
