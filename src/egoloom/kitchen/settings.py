"""Settings of the built-in kitchen: sizes, rates, noise, splits. Everything a clip depends on besides its index."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MIN_SIZE_PX, MAX_SIZE_PX = 32, 512


class NoiseSettings(BaseModel):
    """How far each sensor is from perfect; ``NoiseSettings.none()`` switches all of it off."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rgb_sigma: float = Field(default=0.012, ge=0, le=0.2, description="standard deviation of sensor noise, 1 = white")
    shutter: float = Field(default=0.35, ge=0, le=1, description="share of the frame time that the shutter is open")
    exposure_sigma: float = Field(default=0.10, ge=0, le=0.5, description="spread of the exposure, natural log")
    audio_snr_db: float = Field(default=9.0, ge=-20, le=60, description="mean level of action sounds over background")
    silent_share: float = Field(default=0.10, ge=0, le=1, description="share of clips whose microphone was off")
    background_share: float = Field(default=0.55, ge=0, le=1, description="share of clips with off-screen sounds")
    imu_accel_sigma: float = Field(default=0.12, ge=0, le=5, description="white noise of the accelerometer, m/s^2")
    imu_gyro_sigma: float = Field(default=0.015, ge=0, le=1, description="white noise of the gyroscope, rad/s")
    imu_accel_bias: float = Field(default=0.15, ge=0, le=5, description="spread of the accelerometer's bias, m/s^2")
    imu_gyro_bias: float = Field(default=0.02, ge=0, le=1, description="spread of the gyroscope's bias, rad/s")
    box_miss: float = Field(default=0.36, ge=0, le=1, description="share of objects the detector misses in a frame")
    box_jitter: float = Field(default=0.10, ge=0, le=1, description="box noise as a share of the box side")
    box_confusion: float = Field(default=0.25, ge=0, le=1, description="share of tracks with a wrong category")

    @classmethod
    def none(cls) -> Self:
        """Returns perfect sensors: what the truth tests use."""
        return cls(
            rgb_sigma=0, shutter=0, exposure_sigma=0, audio_snr_db=60, silent_share=0, background_share=0,
            imu_accel_sigma=0, imu_gyro_sigma=0, imu_accel_bias=0, imu_gyro_bias=0,
            box_miss=0, box_jitter=0, box_confusion=0,
        )  # fmt: skip


class SplitShares(BaseModel):
    """Share of the clips that each split receives; the six shares sum to one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: float = Field(default=0.44, ge=0, le=1)
    validation: float = Field(default=0.10, ge=0, le=1)
    test: float = Field(default=0.16, ge=0, le=1)
    unseen_participant: float = Field(default=0.08, ge=0, le=1)
    unseen_kitchen: float = Field(default=0.08, ge=0, le=1)
    unlabelled: float = Field(default=0.14, ge=0, le=1)

    @model_validator(mode="after")
    def _sum_to_one(self) -> Self:
        total = sum(self.model_dump().values())
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares of the splits sum to {total:g}, not to 1")
        return self


class KitchenSettings(BaseModel):
    """Everything that a clip of the kitchen depends on besides its index.

    Sizes are in pixels, ``fps`` in frames a second. ``ego_size_px`` is the side of the square ego frame;
    ``exo_width_px`` and ``exo_height_px`` default to the same square.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    ego_size_px: int = Field(default=112, ge=MIN_SIZE_PX, le=MAX_SIZE_PX, multiple_of=2)
    exo_width_px: int = Field(default=112, ge=MIN_SIZE_PX, le=2 * MAX_SIZE_PX, multiple_of=2)
    exo_height_px: int = Field(default=112, ge=MIN_SIZE_PX, le=2 * MAX_SIZE_PX, multiple_of=2)
    fps: int = Field(default=15, ge=2, le=60)
    duration_s: float = Field(default=2.0, ge=0.5, le=10)
    anti_aliasing: bool = True
    ego_fov_deg: float = Field(default=78.0, ge=40, le=110)
    exo_fov_deg: float = Field(default=48.0, ge=20, le=110)
    sample_rate_hz: int = Field(default=16000, ge=8000, le=48000)
    imu_rate_hz: int = Field(default=200, ge=20, le=1000)
    num_participants: int = Field(default=8, ge=2, le=64, description="the last quarter is unseen in training")
    num_kitchens: int = Field(default=6, ge=2, le=64, description="the last quarter is unseen in training")
    label_noise: float = Field(default=0.0, ge=0, le=1, description="share of train labels replaced by a wrong one")
    monocular_depth: bool = Field(default=False, description="store depth as a monocular network gives it")
    noise: NoiseSettings = NoiseSettings()
    splits: SplitShares = SplitShares()

    @property
    def num_frames(self) -> int:
        """Frames in one clip."""
        return max(2, round(self.duration_s * self.fps))
