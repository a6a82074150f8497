"""Rigid transforms and trajectories against scipy."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation, Slerp

from egoloom.cameras import (
    Pinhole,
    PosedCamera,
    Rig,
    Trajectory,
    as_pose,
    as_rotation,
    invert,
    look_at,
    quaternion_from_rotation,
    rigid,
    rotation_angle_deg,
    rotation_from_quaternion,
    slerp,
    transform_points,
    world_to_camera,
)  # fmt: skip
from egoloom.errors import UserError


def random_poses(count: int, seed: int = 0) -> torch.Tensor:
    R = Rotation.random(count, rng=seed).as_matrix()
    t = np.random.default_rng(seed).normal(size=(count, 3))
    return rigid(torch.from_numpy(R), torch.from_numpy(t))


def test_extrinsics_equal_golden(golden):
    table = golden("extrinsics")
    T_world_camera = world_to_camera(torch.from_numpy(table["w2c"]))
    np.testing.assert_allclose(T_world_camera[:3, 3], table["camera_centre_world"], atol=1e-12)
    points = transform_points(invert(T_world_camera), torch.from_numpy(table["points_world"]))
    np.testing.assert_allclose(points, table["points_cam"], atol=1e-12)
    np.testing.assert_allclose(
        torch.from_numpy(table["ray_cam"]) @ T_world_camera[:3, :3].T, table["ray_world"], atol=1e-12
    )


def test_quaternions_equal_scipy():
    R = Rotation.random(300, rng=1)
    q = quaternion_from_rotation(torch.from_numpy(R.as_matrix()))
    np.testing.assert_allclose(q, R.as_quat(canonical=True), atol=1e-12)
    np.testing.assert_allclose(rotation_from_quaternion(q), R.as_matrix(), atol=1e-12)


def test_half_turns_have_quaternions():
    for axis in np.eye(3):
        R = torch.from_numpy(Rotation.from_rotvec(np.pi * axis).as_matrix())
        np.testing.assert_allclose(rotation_from_quaternion(quaternion_from_rotation(R)), R, atol=1e-12)


def test_slerp_and_trajectory_equal_scipy():
    poses = random_poses(5)
    times = np.array([0.0, 0.3, 0.5, 1.1, 2.0])
    query = np.linspace(0, 2, 41)
    found = Trajectory(torch.from_numpy(times), poses).at(query)
    expected = Slerp(times, Rotation.from_matrix(poses[:, :3, :3].numpy()))(query).as_matrix()
    np.testing.assert_allclose(found[:, :3, :3], expected, atol=1e-9)
    for axis in range(3):
        np.testing.assert_allclose(found[:, axis, 3], np.interp(query, times, poses[:, axis, 3]), atol=1e-12)


def test_slerp_takes_the_short_way_and_survives_equal_ends():
    q = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(slerp(q, -q, torch.tensor(0.5, dtype=torch.float64)).abs(), q)


def test_poses_at_20_fps_for_video_at_30_fps():
    times = np.arange(33) / 20
    angle = 40 * times
    R = torch.from_numpy(Rotation.from_euler("y", angle[:, None], degrees=True).as_matrix())
    trajectory = Trajectory(torch.from_numpy(times), rigid(R, torch.from_numpy(np.stack([times] * 3, -1))))
    video = np.arange(49) / 30
    found = trajectory.at(video)
    np.testing.assert_allclose(found[:, 0, 3], video, atol=1e-12)
    back = Rotation.from_matrix(found[:, :3, :3].numpy()).as_euler("yxz", degrees=True)[:, 0]
    np.testing.assert_allclose(back, 40 * video, atol=1e-9)


def test_null_poses_are_filled_or_refused():
    poses = [pose.numpy() for pose in random_poses(5)]
    times = np.arange(5) * 0.1
    broken = [poses[0], None, np.full((4, 4), np.nan), poses[3], None]
    filled = Trajectory.from_poses(times, broken)
    known = Trajectory(
        torch.tensor([0.0, times[3]], dtype=torch.float64), torch.from_numpy(np.stack([poses[0], poses[3]]))
    )
    np.testing.assert_allclose(filled.T_world_camera[1:3], known.at(times[1:3]), atol=1e-12)
    np.testing.assert_allclose(filled.T_world_camera[4], poses[3], atol=1e-12)
    with pytest.raises(UserError, match="3 of 5 poses are missing"):
        Trajectory.from_poses(times, broken, null="refuse")
    with pytest.raises(UserError, match="nearest known one"):
        Trajectory.from_poses(times * 100, broken)
    with pytest.raises(UserError, match="are missing"):
        Trajectory.from_poses(times, [None] * 5)


def test_times_outside_are_refused():
    trajectory = Trajectory(torch.tensor([0.0, 1.0]), random_poses(2))
    torch.testing.assert_close(trajectory.at(1.05), trajectory.T_world_camera[1])
    with pytest.raises(UserError, match="covers"):
        trajectory.at([0.5, 3.0])
    assert Trajectory.fixed(random_poses(1)[0]).at([0.0, 99.0]).shape == (2, 4, 4)


def test_bad_poses_are_refused():
    pose = random_poses(1)[0]
    mirrored = pose.clone()
    mirrored[:3, 0] *= -1
    for wrong in (mirrored, pose * 2, pose * float("nan")):
        with pytest.raises(UserError):
            as_pose(wrong)
    rounded = torch.round(pose[:3, :3], decimals=4)
    cleaned = as_rotation(rounded)
    torch.testing.assert_close(cleaned @ cleaned.T, torch.eye(3, dtype=torch.float64), atol=1e-12, rtol=0)
    with pytest.raises(UserError, match="strictly increasing"):
        Trajectory(torch.tensor([0.0, 0.0]), random_poses(2))
    with pytest.raises(UserError, match="as many 4x4 poses as times"):
        Trajectory(torch.tensor([0.0, 1.0]), random_poses(3))


def test_rotation_angle():
    R = torch.from_numpy(Rotation.from_rotvec([[0, 0, 0], [1e-9, 0, 0], [0.5, 0, 0], [np.pi, 0, 0]]).as_matrix())
    angle = rotation_angle_deg(torch.eye(3, dtype=torch.float64).expand(4, 3, 3), R)
    np.testing.assert_allclose(angle, np.rad2deg([0, 1e-9, 0.5, np.pi]), atol=1e-12)


def test_look_at_points_the_axis_and_keeps_level():
    eye, target, up = (torch.tensor(v, dtype=torch.float64) for v in ([1, 2, 1.6], [3, 1, 0.9], [0, 0, 1]))
    T = look_at(eye, target, up)
    towards = transform_points(invert(T), target[None])[0]
    torch.testing.assert_close(towards[:2], torch.zeros(2, dtype=torch.float64), atol=1e-12, rtol=0)
    assert towards[2] > 0
    assert abs(float(T[2, 0])) < 1e-12  # x axis is horizontal
    assert float(T[2, 1]) < 0  # y axis points down
    assert abs(float(torch.linalg.det(look_at(eye, eye - up, up)[:3, :3])) - 1) < 1e-9


def test_posed_camera_and_rig_round_trip():
    camera = Pinhole(torch.tensor([9.0, 9.0, 4.0, 4.0]), (9, 9))
    moving = PosedCamera(camera, Trajectory(torch.tensor([0.0, 1.0]), random_poses(2)))
    fixed = PosedCamera(camera, Trajectory.fixed(random_poses(1, 5)[0]))
    for one in (moving, fixed):
        again = PosedCamera.from_dict(one.to_dict())
        torch.testing.assert_close(again.trajectory.T_world_camera, one.trajectory.T_world_camera)
    rig = Rig({"ego": moving, "exo": fixed})
    expected = invert(moving.trajectory.T_world_camera[0]) @ fixed.trajectory.T_world_camera[0]
    torch.testing.assert_close(rig.T_a_b("ego", "exo"), expected)
    with pytest.raises(UserError, match="no camera 'cam9'"):
        rig["cam9"]
