"""Real Aria recordings, where projectaria-tools is installed."""

import numpy as np
import pytest
import torch

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


@pytest.mark.real_data
def test_what_is_no_vrs(tmp_path, quiet):
    pytest.importorskip("projectaria_tools")
    (tmp_path / "a.vrs").write_bytes(b"not vrs" * 100)
    with pytest.raises(UserError, match=r"Cannot open .*a\.vrs as VRS"):
        aria.ingest(tmp_path, tmp_path / "store", options=quiet)
