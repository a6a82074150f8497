"""Motion as functions of time: minimum-jerk paths, anchors with blends, and the small unrest of a living body.

A pose function maps times ``[T]`` in seconds to ``(rotation [T, 3, 3], position [T, 3])``. Everything is twice
continuously differentiable, so that accelerations read by an IMU are finite.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from egoloom.kitchen.geometry import Array, apply, interpolate_rotation, multiply

PoseFunction = Callable[[Array], tuple[Array, Array]]
ScalarFunction = Callable[[Array], Array]


def minimum_jerk(times: Array, start: float, end: float) -> Array:
    """Returns the minimum-jerk step from 0 at ``start`` to 1 at ``end`` (Flash and Hogan 1985)."""
    s = np.clip((times - start) / max(end - start, 1e-6), 0, 1)
    return s * s * s * (10 - 15 * s + 6 * s * s)


def snap(times: Array, start: float, end: float) -> Array:
    """Returns a step from 0 to 1 that leaves and arrives briskly: what hits a stop hits it with some speed.

    One twentieth of the way passes within 60 ms at either end, the rest moves with minimum jerk.
    """
    quick = min(0.06, 0.3 * (end - start))
    ends = minimum_jerk(times, start, start + quick) + minimum_jerk(times, end - quick, end)
    return 0.9 * minimum_jerk(times, start, end) + 0.05 * ends


def bump(times: Array, start: float, end: float) -> Array:
    """Returns a smooth bump that is 0 outside [start, end] and 1 at its middle."""
    s = np.clip((times - start) / max(end - start, 1e-6), 0, 1)
    return (4 * s * (1 - s)) ** 3


def window(times: Array, start: float, end: float, rise: float) -> Array:
    """Returns a smooth window: rises after ``start``, is back at 0 at ``end``."""
    return minimum_jerk(times, start, start + rise) * (1 - minimum_jerk(times, end - rise, end))


def steps(times: Array, key_times: Sequence[float], values: ArrayLike) -> Array:
    """Returns a path ``[T, ...]`` that rests at each key and moves between them with minimum jerk.

    ``key_times`` come in pairs: (leave first, arrive second, leave second, arrive third, ...).
    """
    values = np.asarray(values, float)
    shape = (-1,) + (1,) * (values.ndim - 1)
    path = np.broadcast_to(values[0], (len(times), *values.shape[1:])).copy()
    for k in range(len(values) - 1):
        share = minimum_jerk(times, key_times[2 * k], key_times[2 * k + 1]).reshape(shape)
        path += share * (values[k + 1] - values[k])
    return path


class Unrest:
    """Smooth low-frequency noise: a sum of sinusoids with random phases; amplitude is its standard deviation."""

    def __init__(self, rng: np.random.Generator, amplitude: ArrayLike, low_hz: float, high_hz: float) -> None:
        amplitude = np.asarray(amplitude, float)
        self.waves = amplitude * np.sqrt(2 / 5) * rng.uniform(0.6, 1.4, (5, *amplitude.shape))
        self.frequency_hz = rng.uniform(low_hz, high_hz, self.waves.shape)
        self.phase = rng.uniform(0, 2 * np.pi, self.waves.shape)

    def __call__(self, times: Array) -> Array:
        """Returns values ``[T, ...]``."""
        at = times.reshape((-1,) + (1,) * self.waves.ndim)
        return (self.waves * np.sin(2 * np.pi * self.frequency_hz * at + self.phase)).sum(1)


def still(rotation: Array, position: ArrayLike) -> PoseFunction:
    """Returns a pose function that never moves."""
    position = np.asarray(position, float)

    def pose(times: Array) -> tuple[Array, Array]:
        count = len(times)
        return np.broadcast_to(rotation, (count, 3, 3)), np.broadcast_to(position, (count, 3))

    return pose


def attached(parent: PoseFunction, rotation: Array, position: ArrayLike) -> PoseFunction:
    """Returns the pose of something fixed to a moving parent; rotation and position are in the parent's frame."""
    position = np.asarray(position, float)

    def pose(times: Array) -> tuple[Array, Array]:
        parent_rotation, parent_position = parent(times)
        return multiply(parent_rotation, rotation), parent_position + apply(parent_rotation, position)

    return pose


@dataclass(frozen=True)
class Anchor:
    """A pose function that holds from ``arrive_s`` to ``leave_s``; ``lift_m`` shapes the way to it."""

    pose: PoseFunction
    arrive_s: float
    leave_s: float
    lift_m: tuple[float, float, float] = (0.0, 0.0, 0.0)


def chain(anchors: Sequence[Anchor]) -> PoseFunction:
    """Returns a pose function that passes through anchors in order and blends between them with minimum jerk."""

    def pose(times: Array) -> tuple[Array, Array]:
        rotation, position = anchors[0].pose(times)
        for before, anchor in itertools.pairwise(anchors):
            share = minimum_jerk(times, before.leave_s, anchor.arrive_s)
            next_rotation, next_position = anchor.pose(times)
            rotation = interpolate_rotation(rotation, next_rotation, share)
            arc = bump(times, before.leave_s, anchor.arrive_s)[:, None] * np.asarray(anchor.lift_m)
            position = position + share[:, None] * (next_position - position) + arc
        return rotation, position

    return pose


def reverse_pose(pose: PoseFunction, duration_s: float) -> PoseFunction:
    """Returns a pose function played backwards."""
    return lambda times: pose(duration_s - times)
