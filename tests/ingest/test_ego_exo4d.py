"""Ego-Exo4D on a synthetic release tree: keysteps, cameras, trajectories on the clock of the video."""

import json

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from egoloom.cameras import Fisheye624
from egoloom.cameras.rig import PosedCamera
from egoloom.errors import UserError
from egoloom.ingest import ego_exo4d, mps

PARAMS = [1220.0, 1450.0, 1430.0, 0.4, -0.5, 0.24, 1.0, -1.57, 0.6, -4e-4, -7e-4, -6e-4, -2e-4, 2e-4, -2e-4]
POSE = Rotation.from_euler("xyz", [10, -20, 30], degrees=True)


@pytest.fixture
def source(tmp_path, make_media):
    root = tmp_path / "egoexo"
    take = root / "takes" / "lab_cooking_1"
    make_media(take / "frame_aligned_videos" / "aria01_214-1.mp4", num_frames=30, fps=30, size=(64, 64))
    make_media(take / "frame_aligned_videos" / "aria01_1201-1.mp4", num_frames=30, fps=30, size=(64, 64))
    make_media(take / "frame_aligned_videos" / "cam01.mp4", num_frames=30, fps=30, size=(96, 54))
    trajectory = take / "trajectory"
    trajectory.mkdir()
    names = [f"{n}_world_cam" for n in ("tx", "ty", "tz", "qx", "qy", "qz", "qw")]
    header = ["cam_uid", "graph_uid", *names, "image_width", "image_height", "intrinsics_type"]
    header += [f"intrinsics_{index}" for index in range(8)]
    row = ["cam01", "g", 1, 2, 3, *POSE.as_quat(), 3840, 2160, "KANNALABRANDTK3", 1760, 1760, 1920, 1080, 0.01, 0, 0, 0]
    (trajectory / "gopro_calibs.csv").write_text(",".join(header) + "\n" + ",".join(map(str, row)) + "\n")
    x, y, z, w = POSE.as_quat()
    camera = {
        "Label": "camera-rgb",
        "Projection": {"Name": "FisheyeRadTanThinPrism", "Params": PARAMS},
        "T_Device_Camera": {"Translation": [0.1, 0.2, 0.3], "UnitQuaternion": [w, [x, y, z]]},
    }
    lines = [
        json.dumps({"tracking_timestamp_us": 1, "CameraCalibrations": [{"Label": "camera-slam-left"}, camera]})
    ] * 3
    (trajectory / "online_calibration.jsonl").write_text("\n".join(lines) + "\n")
    rows = [
        "graph_uid,tracking_timestamp_us,"
        + ",".join(f"{n}_world_device" for n in ("tx", "ty", "tz", "qx", "qy", "qz", "qw"))
    ]
    rows += [f"g,{100_000_000 + 1000 * i},{i / 1000},0,0,0,0,0,1" for i in range(3000)]  # 1 m/s along x, 1 kHz
    (trajectory / "closed_loop_trajectory.csv").write_text("\n".join(rows) + "\n")
    capture = root / "captures" / "lab_cooking"
    capture.mkdir(parents=True)
    frames = [f"{i},{round(1e9 * (100.5 + (i - 5) / 30)) if i != 9 else ''}" for i in range(60)]
    (capture / "timesync.csv").write_text("idx,aria01_214-1_capture_timestamp_ns\n" + "\n".join(frames) + "\n")
    entry = {
        "take_name": "lab_cooking_1",
        "take_uid": "uid1",
        "timesync_start_idx": 5,
        "capture": {"capture_name": "lab_cooking"},
    }
    (root / "takes.json").write_text(json.dumps([entry]))
    (root / "annotations").mkdir()
    (root / "annotations" / "splits.json").write_text(json.dumps({"take_uid_to_split": {"uid1": "val"}}))
    segments = [
        {"start_time": 0.1, "end_time": 0.5, "step_unique_id": 40, "step_name": "Stir"},
        {"start_time": 0.5, "end_time": 0.9, "step_unique_id": 7, "step_name": "Pour"},
        {"start_time": 5.0, "end_time": 6.0, "step_unique_id": 7, "step_name": "Pour"},
    ]
    keysteps = {"annotations": {"uid1": {"take_name": "lab_cooking_1", "segments": segments}}}
    (root / "annotations" / "keystep_val.json").write_text(json.dumps(keysteps))
    return root


def test_both_views_carry_the_keysteps(source, tmp_path, quiet):
    store = ego_exo4d.ingest(source, tmp_path / "store", options=quiet)
    assert store.class_names("action") == ["Pour", "Stir"]
    rows = [(c.view, c.take_id, c.start_s, c.end_s, c.action, c.split) for c in store.clips]
    assert rows == [
        (view, "lab_cooking_1", start, end, action, "val")
        for view in ("ego", "exo")
        for start, end, action in ((0.1, 0.5, 1), (0.5, 0.9, 0))
    ]
    assert set(store.videos) == {"lab_cooking_1__aria01", "lab_cooking_1__cam01"}
    assert store.validate(decode=True) == []
    only_ego = ego_exo4d.ingest(source, tmp_path / "ego", exo_keysteps=False, options=quiet)
    assert [c.action for c in only_ego.clips if c.view == "exo"] == [-1]


def test_exo_camera_is_that_of_the_stored_frame(source, tmp_path, quiet):
    store = ego_exo4d.ingest(source, tmp_path / "store", options=quiet)
    posed = PosedCamera.from_dict(store.load_calibration("lab_cooking_1__cam01"))
    assert posed.camera.image_size == (96, 54)
    T = posed.trajectory.at(0.0)
    np.testing.assert_allclose(T[:3, :3], POSE.as_matrix(), atol=1e-9)
    pixels, _ = posed.camera.project(torch.tensor([[0.0, 0.0, 2.0]], dtype=torch.float64))
    # The principal point of the 3840 px frame, in the convention that pixel centres are whole numbers.
    np.testing.assert_allclose(pixels[0], [(1920 + 0.5) * 96 / 3840 - 0.5, (1080 + 0.5) * 54 / 2160 - 0.5], atol=1e-9)


def test_ego_poses_lie_on_the_clock_of_the_video(source, tmp_path, quiet):
    store = ego_exo4d.ingest(source, tmp_path / "store", options=quiet)
    posed = PosedCamera.from_dict(store.load_calibration("lab_cooking_1__aria01"))
    # Frame 0 of the take is row 5 of the table, 0.5 s after the trajectory began; the glasses move 1 m/s along x.
    for time_s in (0.0, 4 / 30, 0.5):
        position = posed.trajectory.at(time_s)[:3, 3]
        np.testing.assert_allclose(position, [0.5 + time_s + 0.1, 0.2, 0.3], atol=1e-6)


def test_turned_frames_show_the_same_world(source, tmp_path, quiet):
    """A world point's pixel in the upright frame is its pixel in the sensor frame, turned."""
    stores = {
        frames: ego_exo4d.ingest(source, tmp_path / frames, aria_frames=frames, options=quiet)
        for frames in ("upright", "sensor")
    }
    point = torch.tensor([[0.9, 0.4, 3.0, 1.0]], dtype=torch.float64)
    pixels = {}
    for name, store in stores.items():
        posed = PosedCamera.from_dict(store.load_calibration("lab_cooking_1__aria01"))
        in_camera = (torch.linalg.inv(posed.trajectory.at(0.2)) @ point.T).T[:, :3]
        pixels[name] = posed.camera.project(in_camera)[0][0].numpy()
    u, v = pixels["sensor"]
    np.testing.assert_allclose(pixels["upright"], [63 - v, u], atol=1e-6)


def test_1408_px_video_of_the_2880_px_sensor():
    """The half-resolution stream drops 32 px at each side before halving."""
    camera = Fisheye624(torch.tensor(PARAMS, dtype=torch.float64), (2880, 2880))
    small = mps.rgb_camera_for_video(camera, (1408, 1408))
    point = torch.tensor([[0.3, -0.2, 1.0]], dtype=torch.float64)
    large_px, small_px = camera.project(point)[0], small.project(point)[0]
    np.testing.assert_allclose(small_px, (large_px - 32 + 0.5) / 2 - 0.5, atol=1e-9)


def test_what_is_not_known_is_said(source, tmp_path, quiet):
    (source / "captures" / "lab_cooking" / "timesync.csv").unlink()
    (source / "takes" / "lab_cooking_1" / "trajectory" / "gopro_calibs.csv").unlink()
    store = ego_exo4d.ingest(source, tmp_path / "store", options=quiet)
    ego, exo = (store.load_calibration(f"lab_cooking_1__{name}") for name in ("aria01", "cam01"))
    assert "timesync.csv" in ego["missing"]
    assert ego["model"] == "fisheye624"
    assert "T_world_camera" not in ego
    assert "gopro_calibs.csv" in exo["missing"]


def test_takes_without_metadata(tmp_path, make_media, quiet):
    for name in ("aria", "cam01", "cam03"):
        make_media(tmp_path / "plain" / "bike" / f"{name}.mp4")
    store = ego_exo4d.ingest(tmp_path / "plain", tmp_path / "store", options=quiet)
    assert sorted((c.video_id, c.view, c.take_id) for c in store.clips) == [
        ("bike__aria", "ego", "bike"),
        ("bike__cam01", "exo", "bike"),
        ("bike__cam03", "exo", "bike"),
    ]


def test_missing_takes_are_named(tmp_path, quiet):
    (tmp_path / "takes" / "x").mkdir(parents=True)
    with pytest.raises(UserError, match=r"aria01_214-1\.mp4"):
        ego_exo4d.ingest(tmp_path, tmp_path / "store", options=quiet)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("gopro_calibs.csv", "KANNALABRANDTK3", "PINHOLE", "has the model 'PINHOLE'"),
        ("gopro_calibs.csv", ",2160,", ",tall,", "cam01 is 'tall'"),
        ("online_calibration.jsonl", "Params", "Parameters", "has no 'Params'"),
        ("online_calibration.jsonl", "{", "[", "not valid JSON"),
        ("closed_loop_trajectory.csv", ",0,0,0,1\n", ",0,0,0,9\n", "not of unit length"),
    ],
)
def test_damaged_calibrations_name_their_fault(source, tmp_path, quiet, name, old, new, message):
    path = source / "takes" / "lab_cooking_1" / "trajectory" / name
    path.write_text(path.read_text().replace(old, new))
    store = ego_exo4d.ingest(source, tmp_path / "store", options=quiet)
    entries = [store.load_calibration(name) for name in store.videos]
    assert any(message in entry.get("missing", "") for entry in entries)


@pytest.mark.real_data
@pytest.mark.slow
def test_real_takes(real_data, tmp_path, quiet):
    (tmp_path / "takes" / "bike").mkdir(parents=True)
    for name in ("aria.mp4", "cam03.mp4"):
        (tmp_path / "takes" / "bike" / name).symlink_to(real_data / "ego_exo4d_clips" / "bike_repair" / name)
    store = ego_exo4d.ingest(tmp_path / "takes", tmp_path / "store", options=quiet)
    assert sorted((c.view, c.end_s) for c in store.clips) == [("ego", 30.0), ("exo", 30.0)]
    assert store.validate(decode=True) == []
