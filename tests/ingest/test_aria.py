"""Synthetic and real Aria recordings, where projectaria-tools is installed."""

import numpy as np
import pytest
import torch
from aria_files import ACCELERATION, AUDIO_HZ, INTRINSICS, OFFSET_M, ROTATION, SIDE_PX, TONE_HZ, write_recording

from egoloom.cameras import camera_from_dict
from egoloom.clips import Modality
from egoloom.clips.media import VideoReader, read_audio, read_table
from egoloom.errors import UserError
from egoloom.ingest import aria


def test_without_the_extra_the_error_names_it(tmp_path, quiet, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "projectaria_tools", None)
    (tmp_path / "a.vrs").write_bytes(b"x")
    with pytest.raises(UserError, match=r"egoloom\[aria\]"):
        aria.ingest(tmp_path, tmp_path / "store", options=quiet)
    assert not (tmp_path / "store").exists()


def test_reference_mode_is_refused(tmp_path, quiet):
    with pytest.raises(UserError, match="cannot be referenced"):
        aria.ingest(tmp_path, tmp_path / "store", options=quiet.model_copy(update={"mode": "reference"}))


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory, quiet):
    pytest.importorskip("projectaria_tools", reason="projectaria-tools is not installed (extra aria)")
    root = tmp_path_factory.mktemp("aria_synthetic")
    (root / "day_1").mkdir()
    write_recording(root / "day_1" / "walk.vrs")
    return aria.ingest(root, root / "store", participant_id="P01", options=quiet)


def test_synthetic_recording_stands_upright(synthetic):
    (video,) = synthetic.videos.values()
    assert (video.width, video.height, float(video.fps), video.num_frames) == (256, 256, 20, 4)
    (clip,) = synthetic.clips
    assert clip.participant_id == "P01"
    assert clip.present == {Modality.RGB, Modality.AUDIO, Modality.IMU}
    assert synthetic.validate(decode=True) == []
    with VideoReader(synthetic.media_path(Modality.RGB, video.video_id)) as reader:
        frame = reader.all_frames()[-1]
    # A quarter turn clockwise: the red upper left comes to the upper right, the green upper right to the lower right.
    for (y, x), channel in {(64, 192): 0, (192, 192): 1, (64, 64): 2, (192, 64): 2}.items():
        assert frame[:, y, x].argmax() == channel, (y, x)
        assert frame[channel, y, x] > 180


def test_synthetic_imus_are_in_axes_of_the_upright_camera(synthetic):
    """Turned clockwise, what was right is down and what was down is left; the left IMU is mounted half a turn off."""
    (video_id,) = synthetic.videos
    for path in (synthetic.media_path(Modality.IMU, video_id), synthetic.path / f"media/imu_left/{video_id}.parquet"):
        table = read_table(path)
        means = [np.mean(table[name]) for name in ("ax", "ay", "az", "gx", "gy", "gz")]
        expected = [vector for x, y, z in (ACCELERATION, ROTATION) for vector in (-y, x, z)]
        np.testing.assert_allclose(means, expected, atol=1e-5)
        assert table["time_s"][0] == pytest.approx(-0.02, abs=1e-6)  # the IMUs start before the camera
        np.testing.assert_allclose(np.diff(table["time_s"]), np.diff(table["time_s"]).mean(), rtol=1e-3)


def test_synthetic_sound_starts_with_the_video(synthetic):
    (video_id,) = synthetic.videos
    seconds = np.arange(AUDIO_HZ // 10) / AUDIO_HZ
    tone = np.sin(2 * np.pi * TONE_HZ * seconds)
    channels = read_table(synthetic.path / f"media/microphones/{video_id}.parquet")
    assert len(channels) == 7
    for number, samples in enumerate(channels.values()):
        np.testing.assert_allclose(samples[: len(tone)] / 32767, tone * (number + 1) / 10, atol=2e-3)
    mono = read_audio(synthetic.media_path(Modality.AUDIO, video_id), rate_hz=16_000)
    assert mono is not None
    np.testing.assert_allclose(mono[160:1440], 0.4 * tone[::3][160:1440], atol=0.01)  # the mean of 0.1 .. 0.7


def test_synthetic_calibration_is_that_of_the_stored_frame(synthetic):
    """On the optical axis a point falls onto the principal point: cropped, halved, turned and scaled by hand."""
    (video_id,) = synthetic.videos
    entry = synthetic.load_calibration(video_id)
    T_device_camera = torch.tensor(entry["T_device_camera"], dtype=torch.float64)
    in_device = torch.tensor([*OFFSET_M, 1.0], dtype=torch.float64) + torch.tensor([0.0, 0.0, 2.0, 0.0])
    in_camera = torch.linalg.inv(T_device_camera) @ in_device
    pixel = camera_from_dict(entry).project(in_camera[None, :3])[0][0].numpy()
    u, v = ((side - 32 + 0.5) / 2 - 0.5 for side in INTRINSICS[1:3])
    turned = np.array([SIDE_PX - 1 - v, u])
    np.testing.assert_allclose(pixel, (turned + 0.5) * 256 / SIDE_PX - 0.5, atol=0.1)


def test_a_truncated_recording_is_listed_and_the_others_come_in(tmp_path, quiet):
    pytest.importorskip("projectaria_tools")
    for name in ("a", "b", "c"):
        write_recording(tmp_path / f"{name}.vrs")
    whole = (tmp_path / "b.vrs").read_bytes()
    (tmp_path / "b.vrs").write_bytes(whole[:60])
    store = aria.ingest(tmp_path, tmp_path / "store", options=quiet.model_copy(update={"max_failed_share": 0.5}))
    assert sorted(store.videos) == ["a", "c"]
    assert store.validate(decode=True) == []


@pytest.fixture(scope="module")
def store(real_data, tmp_path_factory, quiet):
    pytest.importorskip("projectaria_tools", reason="projectaria-tools is not installed (extra aria)")
    return aria.ingest(real_data / "aria", tmp_path_factory.mktemp("aria") / "store", options=quiet)


@pytest.mark.real_data
def test_what_is_there(store):
    clips = {clip.video_id: clip for clip in store.clips}
    common = {Modality.RGB, Modality.AUDIO, Modality.IMU}
    assert clips["gen1_everyday_activities"].present == common
    assert clips["gen2_multi_stream"].present == common | {Modality.BOXES}
    videos = store.videos
    assert [(v.width, v.height, float(v.fps), v.num_frames) for v in videos.values()] == [
        (256, 256, 20, 8),
        (342, 256, 10, 2),
    ]
    assert store.validate(decode=True) == []


@pytest.mark.real_data
def test_gravity_points_down_in_the_upright_frame(store):
    """Camera axes are x right, y down: at rest the accelerometer shows -9.8 along y, if the frame is upright."""
    for video_id in store.videos:
        table = read_table(store.media_path(Modality.IMU, video_id))
        mean = np.array([table[name].mean() for name in ("ax", "ay", "az")])
        assert mean[1] < -8.5, video_id
        assert abs(mean[0]) < 3


@pytest.mark.real_data
def test_both_imus_agree(store):
    for video_id in store.videos:
        right = read_table(store.media_path(Modality.IMU, video_id))
        left = read_table(store.path / "media" / "imu_left" / f"{video_id}.parquet")
        for axis, tolerance in (("gx", 0.05), ("gy", 0.05), ("gz", 0.05), ("ay", 0.8)):
            assert right[axis].mean() == pytest.approx(left[axis].mean(), abs=tolerance), (video_id, axis)


@pytest.mark.real_data
def test_calibration_is_that_of_the_stored_frame(store, real_data):
    """Points projected with projectaria's own camera, turned and scaled by hand, hit the same pixels."""
    from projectaria_tools.core import data_provider

    provider = data_provider.create_vrs_data_provider(str(real_data / "aria" / "gen1_everyday_activities.vrs"))
    theirs = provider.get_device_calibration().get_camera_calib("camera-rgb")
    entry = store.load_calibration("gen1_everyday_activities")
    camera = camera_from_dict(entry)
    T_device_camera = torch.tensor(entry["T_device_camera"], dtype=torch.float64)
    for point in ([0.1, 0.2, 1.0], [-0.4, 0.3, 1.2], [0.5, -0.5, 0.9]):
        u, v = theirs.project(np.array(point))
        in_device = theirs.get_transform_device_camera().to_matrix() @ np.array([*point, 1.0])
        in_ours = torch.linalg.inv(T_device_camera) @ torch.from_numpy(in_device)
        ours = camera.project(in_ours[None, :3])[0][0].numpy()
        turned = np.array([1407 - v, u])
        np.testing.assert_allclose(ours, (turned + 0.5) * 256 / 1408 - 0.5, atol=1e-4)


@pytest.mark.real_data
def test_gen2_hand_lies_at_the_lower_right(store):
    table = read_table(store.media_path(Modality.BOXES, "gen2_multi_stream"))
    assert set(table["category"]) == {"right hand"}
    assert table["is_hand"].all()
    assert table["x1"].min() > 342 / 2
    assert table["y1"].min() > 256 / 2
    gaze = read_table(store.path / "media" / "gaze" / "gen2_multi_stream.parquet")
    assert len(gaze["yaw_rad"]) == 6


@pytest.mark.real_data
def test_sound_and_microphones(store):
    samples = read_audio(store.media_path(Modality.AUDIO, "gen1_everyday_activities"), rate_hz=16000)
    assert samples is not None
    assert 0.001 < np.abs(samples).max() < 1
    channels = read_table(store.path / "media" / "microphones" / "gen1_everyday_activities.parquet")
    assert len(channels) == 7
    with VideoReader(store.media_path(Modality.RGB, "gen1_everyday_activities")) as reader:
        assert reader.all_frames()[0].mean() > 30


def test_what_is_no_vrs(tmp_path, quiet):
    pytest.importorskip("projectaria_tools")
    (tmp_path / "a.vrs").write_bytes(b"not vrs" * 100)
    with pytest.raises(UserError, match=r"Cannot open .*a\.vrs as VRS"):
        aria.ingest(tmp_path, tmp_path / "store", options=quiet)
