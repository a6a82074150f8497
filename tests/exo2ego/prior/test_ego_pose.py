"""Ego pose estimation on a stick person whose head and hands are known, and manual override."""

import json

import numpy as np
import pytest
import torch

from egoloom.cameras import Pinhole, invert, look_at, transform_points
from egoloom.clips.media import write_arrays
from egoloom.errors import UserError
from egoloom.exo2ego.prior.ego_pose import estimate_ego_poses, pose_errors
from egoloom.exo2ego.prior.pose_editor import write_pose_editor
from egoloom.exo2ego.prior.user_files import read_ego_poses, read_keypoints, read_person_mask

UP = (0.0, 0.0, 1.0)
EXO = Pinhole(torch.tensor([260.0, 260.0, 159.5, 119.5], dtype=torch.float64), (320, 240))
T_WORLD_EXO = look_at(*(torch.tensor(v, dtype=torch.float64) for v in ([2.6, 0.3, 1.5], [0.0, 0.2, 1.0], UP)))


def person(num_frames: int = 8, stoop_m: float = 0.12):
    """Points on head, trunk and arms of a person at the origin who faces +y, seen from the side."""
    rng = np.random.default_rng(0)
    depth, mask = np.zeros((num_frames, 240, 320), np.float32), np.zeros((num_frames, 240, 320), bool)
    heads, hands = [], []
    for index in range(num_frames):
        shift = np.array([0.0, 0.02 * index, 0.0])
        head = np.array([0.0, stoop_m, 1.62]) + shift
        hand = np.array([0.05, 0.55, 1.05]) + shift
        sphere = rng.normal(size=(3000, 3))
        parts = [head + 0.11 * sphere / np.linalg.norm(sphere, axis=1, keepdims=True)]
        parts.append(np.array([0, 0, 1.0]) + shift + rng.uniform([-0.2, -0.12, -0.4], [0.2, 0.12, 0.45], (9000, 3)))
        along = rng.uniform(0, 1, (3000, 1))
        shoulder = np.array([0.15, 0.03, 1.38]) + shift
        parts.append(shoulder + along * (hand - shoulder) + rng.normal(0, 0.02, (3000, 3)))
        points = torch.from_numpy(np.concatenate(parts))
        local = transform_points(invert(T_WORLD_EXO), points)
        pixels, _ = EXO.project(local)
        order = torch.argsort(-local[:, 2])
        columns, rows = pixels[order].round().long().T.numpy()
        depth[index, rows, columns] = local[order, 2].numpy()
        mask[index, rows, columns] = True
        heads.append(head)
        hands.append(hand)
    return depth, mask, np.array(heads), np.array(hands)


def test_head_and_gaze_are_found():
    depth, mask, heads, hands = person()
    found = estimate_ego_poses(depth, mask, EXO, T_WORLD_EXO, up_world=UP, fps=15)
    assert found.head_found_T.all()
    assert found.hands_found_T.all()
    assert found.confidence == 1
    eyes = heads + 0.09 * (hands - heads) / np.linalg.norm(hands - heads, axis=1, keepdims=True)
    up = torch.tensor(UP, dtype=torch.float64)
    true = look_at(torch.from_numpy(eyes), torch.from_numpy(hands), up)
    position, _, gaze = pose_errors(found.T_world_ego_T, true)
    assert np.median(position) < 0.1
    assert np.median(gaze) < 25
    assert np.abs(found.T_world_ego_T[:, 2, 0].numpy()).max() < 1e-9  # level against gravity


def test_keypoints_and_gaps():
    depth, mask, heads, hands = person()
    mask[3] = False  # the person is hidden in one frame

    def pixels(points):
        return EXO.project(transform_points(invert(T_WORLD_EXO), torch.from_numpy(points)))[0].numpy()

    keypoints = {"head": pixels(heads), "left_hand": pixels(hands), "right_hand": np.full((8, 2), np.nan)}
    found = estimate_ego_poses(depth, mask, EXO, T_WORLD_EXO, up_world=UP, fps=15, keypoints=keypoints)
    assert found.head_found_T.tolist() == [True] * 3 + [False] + [True] * 4
    assert bool(torch.isfinite(found.T_world_ego_T).all())
    up = torch.tensor(UP, dtype=torch.float64)
    true = look_at(torch.from_numpy(heads), torch.from_numpy(hands), up)
    _, _, gaze = pose_errors(found.T_world_ego_T, true)
    assert np.median(gaze) < 12


def test_depth_scale_scales_the_distance():
    depth, mask, *_ = person(3)
    one = estimate_ego_poses(depth, mask, EXO, T_WORLD_EXO, up_world=UP, fps=15)
    half = estimate_ego_poses(depth / 2, mask, EXO, T_WORLD_EXO, up_world=UP, fps=15, depth_scale=2.0)
    torch.testing.assert_close(one.T_world_ego_T, half.T_world_ego_T, atol=1e-4, rtol=0)


def test_nobody_is_an_error():
    depth, mask, *_ = person(2)
    with pytest.raises(UserError, match="seen in no frame"):
        estimate_ego_poses(depth, mask & False, EXO, T_WORLD_EXO, up_world=UP, fps=15)


def test_manual_poses_are_interpolated(tmp_path):
    start, end = np.eye(4), np.eye(4)
    end[0, 3] = 1.0
    path = tmp_path / "poses.json"
    path.write_text(json.dumps({"times_s": [0, 0.5, 1.0], "T_world_camera": [start.tolist(), None, end.tolist()]}))
    placed = read_ego_poses(path, np.linspace(0, 1, 5))
    np.testing.assert_allclose(placed.T_world_ego_T[:, 0, 3], np.linspace(0, 1, 5))
    assert placed.depth_scale is None
    one = json.dumps([np.eye(4).tolist()])
    for wrong in (
        "{}",
        "[",
        "[1]",
        '{"times_s": [0], "T_world_camera": [null]}',
        f'{{"times_s": [0, 1], "T_world_camera": {one}}}',
        f'{{"times_s": [0], "T_world_camera": {one}, "depth_scale": -1}}',
    ):
        path.write_text(wrong)
        with pytest.raises(UserError):
            read_ego_poses(path, np.zeros(1))
    path.write_text('{"nose": []}')
    with pytest.raises(UserError, match="names no keypoints"):
        read_keypoints(path)


def test_person_mask_is_brought_to_the_frames(tmp_path):
    mask = np.zeros((2, 4, 6), np.uint8)
    mask[:, 1:3, 2:4] = 255
    write_arrays(tmp_path / "mask.npz", {"mask": mask})
    large = read_person_mask(tmp_path / "mask.npz", 2, (12, 8))
    assert np.array_equal(large, mask.repeat(2, 1).repeat(2, 2) > 0)
    with pytest.raises(UserError, match=r"mask \[3, H, W\]"):
        read_person_mask(tmp_path / "mask.npz", 3, (12, 8))
    write_arrays(tmp_path / "other.npz", {"masks": mask})
    with pytest.raises(UserError, match="no fitting mask"):
        read_person_mask(tmp_path / "other.npz", 2, (12, 8))


def test_pose_editor_holds_the_points(tmp_path):
    depth, _, *_ = person(3)
    frames = np.zeros((3, 3, 240, 320), np.uint8)
    write_pose_editor(tmp_path / "editor.html", frames, depth / 2, EXO, T_WORLD_EXO, 15.0, UP, depth_scale=2.0)
    text = (tmp_path / "editor.html").read_text()
    data = json.loads(text.split("const data = ")[1].split(";\nconst view")[0])
    assert len(data["frames"]) == 3
    assert data["depth_scale"] == 2.0
    import base64

    points = np.frombuffer(base64.b64decode(data["frames"][0]["points"]), "<f4").reshape(
        data["rows"], data["columns"], 3
    )
    seen = np.isfinite(points).all(-1)
    assert 0 < seen.mean() < 0.5
    assert 0.3 < np.median(points[seen][:, 2]) < 1.7  # heights of the person above the floor
    assert "http" not in text  # works offline
