"""Inertial measurements of any sensor as a store track: one regular clock, m/s^2 and rad/s, aliasing removed."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.signal import butter, sosfiltfilt

from egoloom.clips.media import write_table
from egoloom.errors import UserError

TARGET_RATE_HZ = 200.0
MAX_ACCELERATION = 2000.0  # m/s^2; beyond what wearable sensors measure
MAX_ROTATION = 200.0  # rad/s


@dataclass(frozen=True)
class Samples:
    """Measurements of one three-axis sensor.

    Attributes:
        times_s: ``[N]``, seconds of the video.
        values: ``[N, 3]``, x, y, z.
    """

    times_s: np.ndarray
    values: np.ndarray


def write_imu(path: Path, accelerometer: Samples, gyroscope: Samples, *, rate_hz: float = TARGET_RATE_HZ) -> int:
    """Writes both sensors on one clock; returns the number of samples.

    The clock covers the time that both sensors cover; its ticks are whole multiples of ``1 / rate_hz`` seconds of the
    video, so that several sensors of one recording share it. A sensor slower than ``rate_hz`` is interpolated, a
    faster one is low-pass filtered first (Butterworth of order 4, forward and backward, at 0.4 x ``rate_hz``).

    Raises:
        UserError: If a sensor has fewer than two samples, impossible values, or the two do not overlap.
    """
    sensors = [_cleaned(path, accelerometer, MAX_ACCELERATION), _cleaned(path, gyroscope, MAX_ROTATION)]
    start_s = max(sensor.times_s[0] for sensor in sensors)
    end_s = min(sensor.times_s[-1] for sensor in sensors)
    clock = np.arange(np.ceil(start_s * rate_hz - 1e-6), np.floor(end_s * rate_hz + 1e-6) + 1) / rate_hz
    if not len(clock):
        raise UserError(f"Accelerometer and gyroscope of {path.stem} do not overlap in time")
    columns: dict[str, np.ndarray] = {"time_s": clock}
    for sensor, names in zip(sensors, (("ax", "ay", "az"), ("gx", "gy", "gz")), strict=True):
        values = resampled(sensor, clock, rate_hz)
        columns |= {name: values[:, axis].astype(np.float32) for axis, name in enumerate(names)}
    write_table(path, columns)
    return len(clock)


def resampled(sensor: Samples, clock: np.ndarray, rate_hz: float) -> np.ndarray:
    """Returns the sensor's values ``[len(clock), 3]`` at the times of a regular clock."""
    times, values = sensor.times_s, sensor.values
    native_hz = 1.0 / float(np.median(np.diff(times)))
    if native_hz > 1.2 * rate_hz and len(times) > 30:
        regular = np.arange(times[0], times[-1], 1.0 / native_hz)
        even = np.stack([np.interp(regular, times, values[:, axis]) for axis in range(3)], axis=1)
        sections = butter(4, 0.4 * rate_hz, fs=native_hz, output="sos")
        times, values = regular, sosfiltfilt(sections, even, axis=0)
    return np.stack([np.interp(clock, times, values[:, axis]) for axis in range(3)], axis=1)


def _cleaned(path: Path, sensor: Samples, limit: float) -> Samples:
    times = np.asarray(sensor.times_s, np.float64)
    values = np.asarray(sensor.values, np.float64).reshape(len(times), 3) if len(times) else np.zeros((0, 3))
    good = np.isfinite(times) & np.isfinite(values).all(axis=1)
    times, values = times[good], values[good]
    order = np.argsort(times, kind="stable")
    times, first = np.unique(times[order], return_index=True)
    values = values[order][first]
    if len(times) < 2:
        raise UserError(f"The IMU of {path.stem} has {len(times)} usable samples", allowed="at least 2")
    if np.abs(values).max() > limit:
        raise UserError(f"The IMU of {path.stem} has a value of {np.abs(values).max():g}", allowed=f"up to {limit:g}")
    return Samples(times, values)
