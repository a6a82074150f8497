"""The depth scale: each cue on a scene whose scale is known, fusion, and honesty where nothing is known."""

import numpy as np
import pytest
import torch

from egoloom.cameras import Pinhole, invert, look_at, transform_points
from egoloom.exo2ego.prior import PriorConfig, ScaleConfig, ScaleEvidence, render_ego_prior
from egoloom.exo2ego.prior.scale import fuse_cues
from egoloom.exo2ego.prior.scale_cues import Cue, CueInputs, floor_cue, head_cue, points_cue

UP = (0.0, 0.0, 1.0)
CONFIG = ScaleConfig()


def walker(build_room, factor: float, eye_height_m: float = 1.6):
    """The room with a person (a box from floor to head) who walks across; depth is divided by the factor."""
    room = build_room(12, None, Pinhole(torch.tensor([130.0, 130.0, 79.5, 59.5], dtype=torch.float64), (160, 120)))
    up = torch.tensor(UP, dtype=torch.float64)
    eyes = torch.stack([torch.tensor([-0.8 + 0.12 * t, 3.0, eye_height_m], dtype=torch.float64) for t in range(12)])
    room.T_world_ego = look_at(eyes, eyes + torch.tensor([1.0, 0.2, -0.3], dtype=torch.float64), up)
    wearer = np.zeros(room.depth.shape, bool)
    for index, eye in enumerate(eyes):
        corners = torch.stack([eye + torch.tensor([s, 0.05, z]) for s in (-0.16, 0.16) for z in (0.12, -eye_height_m)])
        local = transform_points(invert(room.T_world_exo), corners)
        pixels, _ = room.exo_camera.project(local)
        (x0, y0), (x1, y1) = pixels.min(0).values.long().tolist(), pixels.max(0).values.long().tolist()
        region = np.s_[index, max(0, y0) : y1 + 1, max(0, x0) : x1 + 1]
        room.depth[region] = float(transform_points(invert(room.T_world_exo), eye[None])[0, 2]) - 0.08
        wearer[region] = True
    room.depth /= factor
    return room, wearer


def inputs_of(room, wearer, factor):
    static = np.median(room.depth, axis=0)
    return CueInputs(static, room.depth, wearer, room.exo_camera, room.T_world_exo, room.T_world_ego)


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.9])
def test_every_cue_finds_the_factor(build_room, factor):
    room, wearer = walker(build_room, factor)
    inputs = inputs_of(room, wearer, factor)
    floor = floor_cue(inputs, UP, CONFIG)
    assert isinstance(floor, Cue)
    assert floor.scale == pytest.approx(factor, rel=0.06)
    head = head_cue(inputs, CONFIG)
    assert isinstance(head, Cue)
    assert head.scale == pytest.approx(factor, rel=0.06)
    rays = room.exo_camera.rays(unit=False)[0]
    world = transform_points(
        room.T_world_exo, (rays * torch.from_numpy(inputs.static_depth_HW * factor)[..., None]).reshape(-1, 3)
    )
    known = world[:: len(world) // 60].numpy() + np.random.default_rng(0).normal(0, 0.01, (1, 3))
    hidden = known[:15] * [1, 3, 1]  # SLAM points that the exo camera does not see
    points = points_cue(inputs, np.concatenate([known, hidden]))
    assert isinstance(points, Cue)
    assert points.scale == pytest.approx(factor, rel=0.02)


def test_the_feet_correct_a_short_person(build_room):
    room, wearer = walker(build_room, 1.0, eye_height_m=1.42)
    with_feet = floor_cue(inputs_of(room, wearer, 1.0), UP, CONFIG)
    without = floor_cue(inputs_of(room, None, 1.0), UP, CONFIG)
    assert isinstance(with_feet, Cue)
    assert isinstance(without, Cue)
    assert abs(np.log(with_feet.scale)) < abs(np.log(without.scale))
    assert with_feet.log_sigma < without.log_sigma


def test_solver_reports_cues_and_confidence(build_room):
    room, wearer = walker(build_room, 1.7)
    prior = render_ego_prior(*room.arguments, dynamic_THW=wearer, evidence=ScaleEvidence(up_world=UP))
    assert prior.depth_scale == pytest.approx(1.7, rel=0.08)
    assert prior.scale is not None
    assert {cue.name for cue in prior.scale.cues} == {"floor", "head"}
    assert 0.5 < prior.scale_confidence < 1
    assert "points: no known points" in prior.scale.notes


def test_first_ego_frame_sharpens_the_scale(build_room, traced):
    ego = Pinhole(torch.tensor([110.0, 110.0, 95.5, 95.5], dtype=torch.float64), (192, 192))
    exo = Pinhole(torch.tensor([330.0, 330.0, 199.5, 149.5], dtype=torch.float64), (400, 300))
    room = build_room(2, ego, exo)
    rng = np.random.default_rng(0)
    # Features need texture: the same random tiles are painted on the surfaces in both views.
    tiles = rng.integers(40, 255, (64, 64, 3), np.uint8)

    def painted(camera, pose):
        _, depth = traced(camera, pose)
        rays = camera.rays(unit=False)[0]
        world = transform_points(pose, (rays * torch.from_numpy(depth)[..., None]).reshape(-1, 3)).numpy()
        cell = np.floor(world * 6).astype(int)
        second = np.where(world[:, 1] > 4.99, cell[:, 2] + 31, cell[:, 1])
        return tiles[cell[:, 0] % 64, second % 64].reshape(*depth.shape, 3).transpose(2, 0, 1)

    room.frames = np.repeat(painted(exo, room.T_world_exo)[None], 2, 0)
    real = painted(ego, room.T_world_ego[0])
    room.depth = room.depth / np.float32(1.4)
    prior = render_ego_prior(
        *room.arguments, evidence=ScaleEvidence(up_world=UP, first_ego_frame_CHW=np.ascontiguousarray(real))
    )
    assert prior.scale is not None
    cue = next(cue for cue in prior.scale.cues if cue.name == "first ego frame")
    assert cue.scale == pytest.approx(1.4, rel=0.03)


def test_nothing_known_is_said(room):
    prior = render_ego_prior(*room.arguments, config=PriorConfig())
    assert prior.depth_scale == 1.0
    assert prior.scale_confidence == 0.0
    assert prior.scale is not None
    assert any("taken as metric" in note for note in prior.scale.notes)


def test_cues_that_disagree_lower_the_confidence():
    agree = fuse_cues([Cue("a", 1.5, 0.05, 9), Cue("b", 1.52, 0.05, 9)], CONFIG)
    differ = fuse_cues([Cue("a", 1.5, 0.05, 9), Cue("b", 2.1, 0.05, 9)], CONFIG)
    assert agree.scale == pytest.approx(1.51, rel=0.01)
    assert agree.confidence > 0.9 > 0.7 > differ.confidence
    outlier = fuse_cues([Cue("a", 1.5, 0.05, 9), Cue("b", 1.52, 0.05, 9), Cue("c", 0.3, 0.15, 9)], CONFIG)
    assert outlier.scale == pytest.approx(1.5, rel=0.06)
