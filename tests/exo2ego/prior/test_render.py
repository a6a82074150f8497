"""The prior of a ray-traced room against ray-traced truth, and every kind of bad input."""

import numpy as np
import pytest
import torch

from egoloom.cameras import Fisheye624, KannalaBrandt, Pinhole, look_at
from egoloom.errors import UserError
from egoloom.exo2ego.prior import BackgroundConfig, PriorConfig, fuse_background, render_ego_prior

GIVEN = PriorConfig(depth_scale=1.0)
CAMERAS = {
    "pinhole": Pinhole(torch.tensor([40.0, 40.0, 31.5, 31.5]), (64, 64)),
    "kannala_brandt": KannalaBrandt(torch.tensor([30.0, 30.0, 31.5, 31.5, 0.05, 0.01, 0.0, 0.0]), (64, 64)),
    "fisheye624": Fisheye624(
        torch.tensor([28.0, 31.5, 31.5, 0.3, -0.2, 0, 0, 0, 0, 1e-3, 1e-3, 1e-3, 0, 1e-3, 0]), (64, 64)
    ),
    "wide": Pinhole(torch.tensor([40.0, 44.0, 47.5, 23.5]), (96, 48)),
}


def psnr(a, b, mask):
    squared = (a.astype(float) - b) ** 2
    return 10 * np.log10(255**2 / squared[:, mask].mean())


@pytest.mark.parametrize("name", CAMERAS)
@pytest.mark.parametrize("surface", ["mesh", "splat"])
def test_equals_ray_tracing(build_room, traced, name, surface):
    room = build_room(2, CAMERAS[name])
    prior = render_ego_prior(*room.arguments, config=PriorConfig(depth_scale=1.0, surface=surface, splat_radius_px=0.8))
    assert prior.frames_TCHW.shape == (2, 3, *CAMERAS[name].image_size[::-1])
    for index in range(2):
        truth, depth = traced(room.ego_camera, room.T_world_ego[index])
        seen = ~prior.hole_mask_THW[index]
        assert seen.mean() > 0.4
        assert psnr(prior.frames_TCHW[index], truth, seen) > (32 if surface == "mesh" else 24)
        relative = np.abs(prior.depth_THW[index] / np.where(depth > 0, depth, 1) - 1)[seen]
        assert np.quantile(relative, 0.9) < (0.002 if surface == "mesh" else 0.06)


def test_outputs_agree_with_one_another(room):
    prior = render_ego_prior(*room.arguments, config=GIVEN)
    assert prior.hole_mask_THW.any()
    assert (prior.frames_TCHW.max(1)[prior.hole_mask_THW] == 0).all()
    assert (prior.depth_THW[prior.hole_mask_THW] == 0).all()
    assert (prior.confidence_THW[prior.hole_mask_THW] == 0).all()
    assert prior.confidence_THW.max() <= 1
    assert (prior.confidence_THW[~prior.hole_mask_THW] > 0).all()
    assert prior.depth_scale == prior.scale_confidence == 1.0


def test_stretched_areas_are_trusted_less(room):
    """The ego camera looks down at floor that the exo camera sees at a grazing angle."""
    confidence = render_ego_prior(*room.arguments, config=GIVEN).confidence_THW
    drawn = confidence > 0
    rows = np.arange(64)[None, :, None] * drawn
    low, high = confidence[(rows > 50) & drawn], confidence[(rows < 25) & drawn]
    assert np.median(low) < np.median(high)


def test_rerunning_gives_the_same_bytes(room):
    first, second = (render_ego_prior(*room.arguments, config=GIVEN) for _ in range(2))
    assert np.array_equal(first.frames_TCHW, second.frames_TCHW)
    assert np.array_equal(first.depth_THW, second.depth_THW)


def test_a_passer_by_leaves_the_background_and_can_be_drawn(build_room, traced):
    room = build_room(9)
    for index in range(9):
        column = 15 * index
        room.depth[index, 20:90, column : column + 14] = 2.5
        room.frames[index, :, 20:90, column : column + 14] = np.array([250, 10, 10])[:, None, None]
    background = fuse_background(room.frames, room.depth)
    clean = build_room(9)
    known = background.depth_HW > 0
    assert known.mean() > 0.97
    assert np.abs(background.depth_HW / clean.depth[0] - 1)[known].max() < 0.02
    wrong = np.abs(background.colour_HW3.astype(int) - clean.frames[0].transpose(1, 2, 0))[known]
    assert np.quantile(wrong, 0.99) <= 2
    without = render_ego_prior(*room.arguments, config=GIVEN)
    with_it = render_ego_prior(*room.arguments, config=PriorConfig(depth_scale=1.0, include_dynamic=True))
    red = [((p.frames_TCHW[:, 0] > 240) & (p.frames_TCHW[:, 1] < 20)).mean() for p in (without, with_it)]
    assert red[0] < 0.002 < 0.01 < red[1]


def test_light_of_the_frame_is_kept(build_room):
    room = build_room(5)
    room.frames[3] = room.frames[3] // 2
    bright = render_ego_prior(*room.arguments, config=GIVEN).frames_TCHW
    assert bright[3].sum() < 0.6 * bright[2].sum()
    steady = render_ego_prior(*room.arguments, config=PriorConfig(depth_scale=1.0, colour="mean")).frames_TCHW
    assert steady[3].sum() > 0.9 * steady[2].sum()


def test_moving_exo_camera(build_room, traced):
    room = build_room(5)
    eyes = torch.stack([room.T_world_exo[:3, 3] + torch.tensor([0.1 * t, 0, 0]) for t in range(5)])
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    poses = look_at(eyes, torch.tensor([0.0, 3.0, 0.4], dtype=torch.float64).expand(5, 3), up)
    pictures = [traced(room.exo_camera, pose) for pose in poses]
    frames, depth = np.stack([p[0] for p in pictures]), np.stack([p[1] for p in pictures])
    prior = render_ego_prior(frames, depth, room.exo_camera, poses, room.ego_camera, room.T_world_ego, config=GIVEN)
    for index in (0, 4):
        truth, _ = traced(room.ego_camera, room.T_world_ego[index])
        assert psnr(prior.frames_TCHW[index], truth, ~prior.hole_mask_THW[index]) > 30


def test_depth_scale_moves_the_prior(build_room, traced):
    room = build_room(2)
    room.depth /= 1.5
    right = render_ego_prior(*room.arguments, config=PriorConfig(depth_scale=1.5))
    wrong = render_ego_prior(*room.arguments, config=GIVEN)
    truth, _ = traced(room.ego_camera, room.T_world_ego[0])
    figures = [psnr(p.frames_TCHW[0], truth, ~p.hole_mask_THW[0]) for p in (right, wrong)]
    assert figures[0] > 34 > 25 > figures[1]


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, -1.0])
def test_unusable_depth_becomes_holes(build_room, value):
    room = build_room(3)
    room.depth[:, 30:60, 40:90] = value
    prior = render_ego_prior(*room.arguments, config=GIVEN)
    whole = render_ego_prior(*build_room(3).arguments, config=GIVEN)
    assert np.isfinite(prior.depth_THW).all()
    assert prior.coverage < whole.coverage
    room.depth[:] = value
    with pytest.raises(UserError, match="positive finite"):
        render_ego_prior(*room.arguments, config=GIVEN)


def test_single_bad_frames_are_bridged(build_room):
    room = build_room(6)
    room.depth[2] = np.nan
    room.depth[4, ::2] = 0
    prior = render_ego_prior(*room.arguments, config=GIVEN)
    assert prior.coverage > 0.95 * render_ego_prior(*build_room(6).arguments, config=GIVEN).coverage


def test_ego_camera_inside_a_wall_is_told(build_room):
    room = build_room(2)
    room.T_world_ego[:, 1, 3] = 5.3
    prior = render_ego_prior(*room.arguments, config=GIVEN)
    assert prior.coverage < 0.01
    assert "stands inside something" in prior.notes[0]


@pytest.mark.parametrize("num_frames", [1, 500])
def test_any_number_of_frames(build_room, num_frames):
    small = Pinhole(torch.tensor([26.0, 26.0, 15.5, 11.5]), (32, 24))
    tiny = Pinhole(torch.tensor([10.0, 10.0, 7.5, 7.5]), (16, 16))
    room = build_room(num_frames, tiny, small)
    prior = render_ego_prior(*room.arguments)
    assert prior.frames_TCHW.shape == (num_frames, 3, 16, 16)
    assert prior.coverage > 0.2


def test_mismatches_are_refused_with_reasons(build_room):
    room = build_room(4)
    frames, depth, exo, T_exo, ego, T_ego = room.arguments
    cases = [
        ((frames, depth[..., :-6], exo, T_exo, ego, T_ego), "state how they relate"),
        ((frames[..., :-6], depth, exo, T_exo, ego, T_ego), "same crop and resize"),
        ((frames, depth[:3], exo, T_exo, ego, T_ego), "3 depth maps"),
        ((frames, depth, exo, T_exo, ego, T_ego[:2]), "2 ego poses"),
        ((frames.astype(np.float32), depth, exo, T_exo, ego, T_ego), "uint8"),
        ((frames, depth, exo, T_exo * 2, ego, T_ego), "not orthonormal"),
        ((frames, depth, exo, T_exo, ego, T_ego * float("nan")), "not finite"),
        ((frames[:0], depth[:0], exo, T_exo, ego, T_ego[:0]), "at least one frame"),
    ]
    for arguments, said in cases:
        with pytest.raises(UserError, match=said):
            render_ego_prior(*arguments, config=GIVEN)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="Extra inputs"):
        PriorConfig(radius=3)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="greater than 0"):
        BackgroundConfig(depth_tolerance=0)
