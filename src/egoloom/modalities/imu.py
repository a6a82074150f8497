"""IMU windows: the direction of gravity, and measurements turned so that it always points the same way.

A complementary filter (Mahony et al. 2008, without bias estimation) follows "up" in sensor axes: the gyroscope turns
the old estimate, the accelerometer pulls it slowly towards what it measures, because over seconds the mean specific
force of a wearer is that against gravity. ``compute`` adds the columns ``up_x, up_y, up_z`` to ``media/imu``.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.spatial.transform import Rotation

from egoloom.clips import ClipStore, Modality
from egoloom.clips.media import read_table, write_table
from egoloom.errors import UserError
from egoloom.modalities.base import ModalityReport, compute_tracks

ACCELERATION, ROTATION, UP = ("ax", "ay", "az"), ("gx", "gy", "gz"), ("up_x", "up_y", "up_z")


class ImuConfig(BaseModel):
    """How gravity is followed.

    Attributes:
        time_constant_s: How slowly the accelerometer corrects the estimate.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    time_constant_s: float = Field(default=2.0, gt=0)


DEFAULT_CONFIG = ImuConfig()


def compute(
    store: ClipStore,
    config: ImuConfig = DEFAULT_CONFIG,
    *,
    num_workers: int = 1,
    progress: bool = True,
    recompute: bool = False,
    max_failed_share: float = 0.1,
) -> ModalityReport:
    """Adds the direction of "up" to every IMU track that lacks it; see ``compute_tracks`` for the rest."""
    with_imu = [video_id for video_id in store.videos if store.media_path(Modality.IMU, video_id).is_file()]
    report = compute_tracks(
        store,
        Modality.IMU,
        _UpTask(store.path, config, recompute),
        video_ids=with_imu,
        num_workers=num_workers,
        progress=progress,
        recompute=True,  # the file exists: the task itself sees whether its columns do
        max_failed_share=max_failed_share,
    )
    num_without = len(store.videos) - len(with_imu)
    return ModalityReport(report.modality, report.num_done, report.num_skipped + num_without, report.failures)


def follow_up(times_s: np.ndarray, accel: np.ndarray, gyro: np.ndarray, time_constant_s: float = 2.0) -> np.ndarray:
    """Returns the unit vector against gravity in sensor axes at every sample, ``[N, 3]``.

    Args:
        times_s: ``[N]``, increasing.
        accel: Specific force in m/s^2, ``[N, 3]``; at rest it points up.
        gyro: Angular rate in rad/s, ``[N, 3]``.
        time_constant_s: How slowly the accelerometer corrects the estimate.
    """
    up = np.empty_like(accel, dtype=np.float64)
    estimate = _first_up(times_s, accel, gyro, time_constant_s)
    for index in range(len(times_s)):
        if index:
            step_s = times_s[index] - times_s[index - 1]
            # A vector fixed in the world turns against the sensor's own rotation.
            estimate = estimate - np.cross(gyro[index], estimate) * step_s
            estimate += min(1.0, step_s / time_constant_s) * (_unit(accel[index]) - estimate)
            estimate = _unit(estimate)
        up[index] = estimate
    return up


def gravity_aligned(values: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Returns vectors ``[N, 3]`` turned by the shortest rotation that takes ``up`` ``[N, 3]`` to +z.

    The heading stays that of the sensor; only tilt is removed (Rodrigues' formula with axis up x z).
    """
    z = np.array([0.0, 0.0, 1.0])
    axis = np.cross(up, z)
    cosine = up @ z
    # Upside down the axis vanishes: half a turn about x.
    flipped = cosine < -0.999999
    factor = 1.0 / np.where(flipped, 1.0, 1.0 + cosine)
    once = np.cross(axis, values)
    turned = values + once + np.cross(axis, once) * factor[:, None]
    return np.where(flipped[:, None], values * np.array([1.0, -1.0, -1.0]), turned)


def imu_window(
    table: dict[str, np.ndarray], start_s: float, end_s: float, num_samples: int, *, aligned: bool = True
) -> np.ndarray:
    """Returns accelerometer and gyroscope on a regular clock, float32 ``[6, num_samples]``.

    Args:
        table: An IMU track; ``aligned`` needs the columns that ``compute`` adds.
        start_s: Start of the window.
        end_s: End of the window.
        num_samples: Length of the clock.
        aligned: Turn both so that gravity acts along z.

    Raises:
        UserError: If the columns of "up" are missing.
    """
    if aligned and any(name not in table for name in UP):
        raise UserError("The IMU track lacks the direction of gravity", fix="egoloom modalities imu --store STORE")
    clock = np.linspace(start_s, end_s, num_samples, endpoint=False)

    def sampled(names: tuple[str, ...]) -> np.ndarray:
        return np.stack([np.interp(clock, table["time_s"], table[name]) for name in names], axis=1)

    accel, gyro = sampled(ACCELERATION), sampled(ROTATION)
    if aligned:
        up = sampled(UP)
        up /= np.linalg.norm(up, axis=1, keepdims=True)
        accel, gyro = gravity_aligned(accel, up), gravity_aligned(gyro, up)
    return np.concatenate([accel, gyro], axis=1).T.astype(np.float32)


def _first_up(times_s: np.ndarray, accel: np.ndarray, gyro: np.ndarray, window_s: float) -> np.ndarray:
    """Returns "up" at the first sample: the mean of the first measurements, each turned back to that moment."""
    num_samples = max(1, int(np.searchsorted(times_s, times_s[0] + window_s)))
    R_first_now, total = Rotation.identity(), np.zeros(3)
    for index in range(num_samples):
        if index:
            R_first_now *= Rotation.from_rotvec(gyro[index] * (times_s[index] - times_s[index - 1]))
        total += R_first_now.apply(accel[index])
    return _unit(total)


def _unit(vector: np.ndarray) -> np.ndarray:
    length = float(np.linalg.norm(vector))
    return vector / length if length > 1e-9 else np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True)
class _UpTask:
    store_path: Path
    config: ImuConfig
    recompute: bool

    def __call__(self, video_id: str) -> bool:
        path = ClipStore.open(self.store_path).media_path(Modality.IMU, video_id)
        table = read_table(path)
        if missing := [name for name in ("time_s", *ACCELERATION, *ROTATION) if name not in table]:
            raise UserError(f"{path} lacks the columns {', '.join(missing)}")
        if not self.recompute and all(name in table for name in UP):
            return False
        accel, gyro = (np.stack([table[n] for n in names], axis=1) for names in (ACCELERATION, ROTATION))
        up = follow_up(table["time_s"], accel.astype(np.float64), gyro.astype(np.float64), self.config.time_constant_s)
        write_table(path, table | {name: up[:, axis].astype(np.float32) for axis, name in enumerate(UP)})
        return True
