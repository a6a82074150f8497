"""Gravity in IMU tracks: known rotations, scipy's rotations, the store."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from egoloom.clips import ClipStore, Modality
from egoloom.clips.media import read_table, write_table
from egoloom.errors import UserError
from egoloom.modalities import imu

RATE_HZ = 200


def nodding_head() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A head that nods 40 degrees and walks: times, specific force, angular rate, true up in sensor axes."""
    times = np.arange(0, 8, 1 / RATE_HZ)
    angle = np.radians(40) * np.sin(times)
    R_world_sensor = Rotation.from_rotvec(np.stack([angle, 0 * angle, 0 * angle], axis=1))
    up = R_world_sensor.inv().apply([0, 0, 1])
    steps = np.stack([0 * times, np.sin(2 * np.pi * 2 * times), 1.5 * np.sin(2 * np.pi * 2 * times)], axis=1)
    accel = R_world_sensor.inv().apply(np.array([0, 0, 9.81]) + steps)
    rate = np.stack([np.radians(40) * np.cos(times), 0 * times, 0 * times], axis=1)
    return times, accel, rate, up


def test_up_is_followed_through_rotation():
    times, accel, rate, up = nodding_head()
    error_deg = np.degrees(np.arccos(np.clip((imu.follow_up(times, accel, rate) * up).sum(axis=1), -1, 1)))
    assert error_deg[RATE_HZ:].max() < 5
    accelerometer_alone = accel / np.linalg.norm(accel, axis=1, keepdims=True)
    alone_deg = np.degrees(np.arccos(np.clip((accelerometer_alone * up).sum(axis=1), -1, 1)))
    assert error_deg[RATE_HZ:].mean() < 0.5 * alone_deg.mean()


def test_alignment_is_scipys_rotation():
    rng = np.random.default_rng(0)
    up = rng.normal(size=(40, 3))
    up /= np.linalg.norm(up, axis=1, keepdims=True)
    values = rng.normal(size=(40, 3))
    ours = imu.gravity_aligned(values, up)
    for index in range(40):
        axis = np.cross(up[index], [0, 0, 1])
        axis *= np.arccos(up[index, 2]) / np.linalg.norm(axis)
        np.testing.assert_allclose(ours[index], Rotation.from_rotvec(axis).apply(values[index]), atol=1e-9)
    np.testing.assert_allclose(imu.gravity_aligned(up, up), np.tile([0, 0, 1.0], (40, 1)), atol=1e-9)
    np.testing.assert_allclose(imu.gravity_aligned(np.array([[1.0, 2, 3]]), np.array([[0, 0, -1.0]])), [[1, -2, -3]])


@pytest.fixture
def store_with_imu(store) -> ClipStore:
    times, accel, rate, _ = nodding_head()
    columns = {"time_s": times} | {name: accel[:, i] for i, name in enumerate(imu.ACCELERATION)}
    columns |= {name: rate[:, i] for i, name in enumerate(imu.ROTATION)}
    write_table(store.media_path(Modality.IMU, "v0"), columns)
    store.mark_present(Modality.IMU, ["v0"])
    return store


def test_store(store_with_imu):
    report = imu.compute(store_with_imu, progress=False)
    assert (report.num_done, report.num_skipped) == (1, 2)
    assert imu.compute(store_with_imu, progress=False).num_done == 0
    table = read_table(store_with_imu.media_path(Modality.IMU, "v0"))
    window = imu.imu_window(table, 2.0, 6.0, 800)
    assert window.shape == (6, 800)
    np.testing.assert_allclose(window[:3].mean(axis=1), [0, 0, 9.81], atol=0.25)
    raw = imu.imu_window(table, 2.0, 6.0, 800, aligned=False)
    assert np.abs(raw[:3].mean(axis=1) - [0, 0, 9.81]).max() > 0.6


def test_a_window_without_gravity_asks_for_it():
    with pytest.raises(UserError, match="lacks the direction of gravity"):
        imu.imu_window({"time_s": np.arange(3.0)}, 0, 1, 10)


def test_a_damaged_track_is_listed(store_with_imu):
    write_table(store_with_imu.media_path(Modality.IMU, "v1"), {"time_s": [0.0, 1.0]})
    report = imu.compute(store_with_imu, progress=False)
    assert [failure.name for failure in report.failures] == ["v1"]
