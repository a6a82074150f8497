"""What an inertial sensor in the head-mounted camera reads: specific force and angular velocity.

Axes are those of the ego camera (x right, y down, z forward), its position is the camera's. At rest and level the
accelerometer reads (0, -9.81, 0): the specific force points up.
"""

# ruff: noqa: RUF005 - offsets are added to arrays, no lists are joined

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from egoloom.kitchen.body import Stance
from egoloom.kitchen.geometry import Array, apply, matrix_to_rotation_vector, multiply, transpose
from egoloom.kitchen.settings import KitchenSettings
from egoloom.kitchen.stage import Performance

GRAVITY = 9.81
_STEP_S = 1e-3


@dataclass
class ImuTable:
    """Samples: ``time_s [M]``, ``accel [M, 3]`` in m/s², ``gyro [M, 3]`` in rad/s."""

    time_s: Array
    accel: NDArray[np.float32]
    gyro: NDArray[np.float32]

    def columns(self) -> dict[str, np.ndarray]:
        """Returns the columns of the stored table."""
        names = ("ax", "ay", "az"), ("gx", "gy", "gz")
        table: dict[str, np.ndarray] = {"time_s": self.time_s}
        for values, group in ((self.accel, names[0]), (self.gyro, names[1])):
            table |= {name: np.ascontiguousarray(values[:, k]) for k, name in enumerate(group)}
        return table


def true_motion(stance: Stance, times_s: Array) -> tuple[Array, Array]:
    """Returns specific force (m/s²) and angular velocity (rad/s) in camera axes, by central differences over 1 ms."""
    before, before_position = stance.camera(times_s - _STEP_S)
    rotation, position = stance.camera(times_s)
    after, after_position = stance.camera(times_s + _STEP_S)
    acceleration = (after_position - 2 * position + before_position) / _STEP_S**2
    force = apply(transpose(rotation), acceleration + [0, 0, GRAVITY])
    rate = matrix_to_rotation_vector(multiply(transpose(before), after)) / (2 * _STEP_S)
    return force, rate


def make_imu(settings: KitchenSettings, stance: Stance, performance: Performance, rng: np.random.Generator) -> ImuTable:
    """Returns the samples of a clip, with bias, white noise and the faint jolt that impacts send up the arm."""
    times = np.arange(round(settings.duration_s * settings.imu_rate_hz)) / settings.imu_rate_hz
    force, rate = true_motion(stance, times)
    noise = settings.noise
    shape = force.shape
    if noise.imu_accel_sigma > 0:
        for event in performance.events:
            since = times - event.time_s
            ring = np.where(since >= 0, np.exp(-np.maximum(since, 0) / 0.025) * np.cos(2 * np.pi * 22 * since), 0)
            force = force + 0.35 * event.strength * ring[:, None] * rng.normal(0, 1, 3)
    force = force + rng.normal(0, 1, 3) * noise.imu_accel_bias + rng.standard_normal(shape) * noise.imu_accel_sigma
    rate = rate + rng.normal(0, 1, 3) * noise.imu_gyro_bias + rng.standard_normal(shape) * noise.imu_gyro_sigma
    return ImuTable(times, force.astype(np.float32), rate.astype(np.float32))
