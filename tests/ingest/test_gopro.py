"""The GPMF parser on hand-made telemetry and on a real GoPro file."""

import struct

import numpy as np
import pytest

from egoloom.clips import Modality
from egoloom.clips.media import read_table
from egoloom.errors import UserError
from egoloom.ingest import gopro
from egoloom.ingest.gpmf import _samples, parse, payloads, sensor_samples
from egoloom.ingest.imu_track import Samples, write_imu


def record(key: str, kind: str, size: int, count: int, data: bytes) -> bytes:
    head = struct.pack(">4sBBH", key.encode(), ord(kind) if kind else 0, size, count)
    return head + data + b"\0" * (-len(data) % 4)


def payload(values: list[tuple[int, int, int]], scale: int = 100, orientation: str = "YxZ") -> bytes:
    data = b"".join(struct.pack(">3h", *row) for row in values)
    stream = record("SCAL", "s", 2, 1, struct.pack(">h", scale)) + record("ORIN", "c", 1, 3, orientation.encode())
    stream += record("ACCL", "s", 6, len(values), data)
    device = record("DVNM", "c", 1, 5, b"Camer") + record("STRM", "", 1, len(stream), stream)
    return record("DEVC", "", 1, len(device), device)


def test_scale_and_axes():
    samples = _samples(payload([(100, 200, 300), (-50, 0, 25)]))
    # Stored in the order Y, -X, Z.
    np.testing.assert_allclose(samples["ACCL"], [[-2, 1, 3], [0, -0.5, 0.25]])


def test_nested_records_and_padding():
    (device,) = parse(payload([(1, 2, 3)]) + b"\0" * 8)
    assert [child.key for child in device.children] == ["DVNM", "STRM"]
    assert [child.key for child in device.children[1].children] == ["SCAL", "ORIN", "ACCL"]


def test_damaged_telemetry_is_an_error():
    whole = payload([(1, 2, 3)] * 40)
    with pytest.raises(ValueError, match="ends beyond its parent"):
        parse(whole[:-20])
    nested = b""
    for _ in range(20):
        nested = record("DEVC", "", 1, len(nested), nested)
    with pytest.raises(ValueError, match="too deeply"):
        parse(nested)


def test_imu_is_resampled_without_aliasing(tmp_path):
    """A 5 Hz swing survives, a 180 Hz vibration does not come back as a low frequency."""
    fast = np.arange(0, 4, 1 / 1000)
    swing = np.sin(2 * np.pi * 5 * fast)
    accel = Samples(fast, np.stack([swing + np.sin(2 * np.pi * 180 * fast), swing, 9.8 + 0 * fast], axis=1))
    slow = np.arange(0.5, 3.5, 1 / 100)
    gyro = Samples(slow, np.stack([np.cos(slow), 0 * slow, slow], axis=1))
    num_samples = write_imu(tmp_path / "imu.parquet", accel, gyro)
    table = read_table(tmp_path / "imu.parquet")
    clock = table["time_s"]
    assert num_samples == len(clock)
    np.testing.assert_allclose(np.diff(clock), 1 / 200)
    assert clock[0] == 0.5
    np.testing.assert_allclose(table["ax"][50:-50], np.sin(2 * np.pi * 5 * clock[50:-50]), atol=0.02)
    np.testing.assert_allclose(table["gx"], np.cos(clock), atol=1e-3)
    np.testing.assert_allclose(table["az"], 9.8, atol=1e-3)


def test_unusable_imu_is_refused(tmp_path):
    good = Samples(np.arange(10) / 10, np.zeros((10, 3)))
    for bad, message in (
        (Samples(np.zeros(10), np.zeros((10, 3))), "1 usable samples"),
        (Samples(np.arange(10) + 100.0, np.zeros((10, 3))), "do not overlap"),
        (Samples(np.arange(10) / 10, np.full((10, 3), 1e9)), "value of 1e"),
        (Samples(np.arange(10) / 10, np.full((10, 3), np.nan)), "0 usable samples"),
    ):
        with pytest.raises(UserError, match=message):
            write_imu(tmp_path / "imu.parquet", bad, good)
    assert list(tmp_path.iterdir()) == []


def test_a_video_without_telemetry(tmp_path, make_media, quiet):
    make_media(tmp_path / "film" / "a.mp4")
    store = gopro.ingest(tmp_path / "film", tmp_path / "store", options=quiet)
    assert store.clips[0].present == {Modality.RGB}
    with pytest.raises(UserError, match="no accelerometer and gyroscope"):
        gopro.ingest(tmp_path / "film", tmp_path / "strict", require_imu=True, options=quiet)


@pytest.mark.real_data
def test_real_file(real_data, tmp_path, quiet):
    path = real_data / "gopro" / "max-heromode.mp4"
    accel, gyro = sensor_samples(path, "ACCL"), sensor_samples(path, "GYRO")
    assert accel is not None
    assert gyro is not None
    assert len(payloads(path)) == 11
    rate_hz = 1 / np.median(np.diff(accel.times_s))
    assert rate_hz == pytest.approx(198, abs=2)
    assert np.linalg.norm(accel.values, axis=1).mean() == pytest.approx(9.81, abs=0.1)  # walking: gravity remains
    assert np.abs(gyro.values).max() < 10
    store = gopro.ingest(path, tmp_path / "store", options=quiet)
    (clip,) = store.clips
    assert clip.present == {Modality.RGB, Modality.AUDIO, Modality.IMU}
    table = read_table(store.media_path(Modality.IMU, clip.video_id))
    assert table["time_s"][0] == pytest.approx(0, abs=0.01)
    assert table["time_s"][-1] == pytest.approx(clip.end_s, abs=0.05)
    assert store.validate(decode=True) == []
