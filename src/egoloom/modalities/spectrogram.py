r"""Log-mel spectrogram of every video with sound.

With x the mono sound at 16 kHz, w a periodic Hann window of ``win_length`` samples centred in ``n_fft``, hop R:

    X[k, m] = sum_n x[n + m R - n_fft / 2] w[n] exp(-2 pi i k n / n_fft)        (reflected at both ends)
    S[b, m] = sum_k M[b, k] |X[k, m]|^2,   log_mel[m, b] = ln(S[b, m] / n_fft + 1e-6)

M holds ``num_mels`` triangles of height 1 whose corners are equally spaced on the HTK mel scale
mel(f) = 2595 log10(1 + f / 700) between 0 and half the sample rate (no area normalisation). Column m is centred at
``m * hop_s`` seconds. Track ``media/spectrogram/<video_id>.npz``: ``log_mel`` float16 ``[num_columns, num_mels]``,
``hop_s``, ``start_s``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from egoloom.clips import ClipStore, Modality
from egoloom.clips.media import read_audio, write_arrays
from egoloom.modalities.base import ModalityReport, compute_tracks

POWER_FLOOR = 1e-6
NUM_COLUMNS_PER_BLOCK = 8192  # bounds memory for hour-long recordings
REFERENCE_WINDOW_S = 1.116  # 224 columns at 16 kHz with a hop of 80 (arXiv 2307.07483)


class SpectrogramConfig(BaseModel):
    """Size of the spectrogram; the default has 25 ms windows every 10 ms."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate_hz: int = Field(default=16_000, ge=8_000)
    n_fft: int = Field(default=512, ge=16)
    win_length: int = Field(default=400, ge=16)
    hop_length: int = Field(default=160, ge=1)
    num_mels: int = Field(default=64, ge=4)

    @property
    def hop_s(self) -> float:
        """Seconds between columns."""
        return self.hop_length / self.rate_hz


DEFAULT_CONFIG = SpectrogramConfig()
REFERENCE_CONFIG = SpectrogramConfig(n_fft=1024, win_length=160, hop_length=80, num_mels=128)
"""The settings of arXiv 2307.07483: 10 ms windows every 5 ms, 128 mels."""


def compute(
    store: ClipStore,
    config: SpectrogramConfig = DEFAULT_CONFIG,
    *,
    num_workers: int = 1,
    progress: bool = True,
    recompute: bool = False,
    max_failed_share: float = 0.1,
) -> ModalityReport:
    """Computes the spectrogram of every video that has sound; see ``compute_tracks`` for the common behaviour."""
    return compute_sound_tracks(
        store,
        Modality.SPECTROGRAM,
        _SpectrogramTask(store.path, config),
        num_workers=num_workers,
        progress=progress,
        recompute=recompute,
        max_failed_share=max_failed_share,
    )


def compute_sound_tracks(
    store: ClipStore, modality: Modality, task: Callable[[str], bool], **options: Any
) -> ModalityReport:
    """Computes a track of every video that has sound; silent ones count as skipped. See ``compute_tracks``."""
    with_sound = [video_id for video_id in store.videos if store.media_path(Modality.AUDIO, video_id).is_file()]
    report = compute_tracks(store, modality, task, video_ids=with_sound, **options)
    num_silent = len(store.videos) - len(with_sound)
    return ModalityReport(report.modality, report.num_done, report.num_skipped + num_silent, report.failures)


def mel_filter_bank(num_mels: int, n_fft: int, rate_hz: int) -> torch.Tensor:
    """Returns the triangles M of the module's formula, ``[num_mels, n_fft // 2 + 1]``."""

    def to_mel(hz: np.ndarray) -> np.ndarray:
        return 2595.0 * np.log10(1.0 + hz / 700.0)

    corners_mel = np.linspace(0.0, to_mel(np.array(rate_hz / 2)), num_mels + 2)
    corners_hz = 700.0 * (10.0 ** (corners_mel / 2595.0) - 1.0)
    bins_hz = np.linspace(0.0, rate_hz / 2, n_fft // 2 + 1)
    left, centre, right = corners_hz[:-2, None], corners_hz[1:-1, None], corners_hz[2:, None]
    rising = (bins_hz[None] - left) / (centre - left)
    falling = (right - bins_hz[None]) / (right - centre)
    return torch.from_numpy(np.maximum(0.0, np.minimum(rising, falling))).float()


def mel_power(samples: np.ndarray | torch.Tensor, config: SpectrogramConfig = DEFAULT_CONFIG) -> torch.Tensor:
    """Returns the mel power S of the module's formula for mono samples, ``[num_columns, num_mels]``.

    ``num_columns`` is ``1 + num_samples // hop_length``. Sound shorter than half a Fourier window is padded with
    zeros, because there is not enough of it to reflect.
    """
    signal = torch.as_tensor(samples, dtype=torch.float32).flatten()
    half = config.n_fft // 2
    num_columns = 1 + len(signal) // config.hop_length
    mode = "reflect" if len(signal) > half else "constant"
    padded = torch.nn.functional.pad(signal[None], (half, half), mode=mode)[0]
    window = torch.hann_window(config.win_length)
    bank = mel_filter_bank(config.num_mels, config.n_fft, config.rate_hz)
    blocks = []
    for first in range(0, num_columns, NUM_COLUMNS_PER_BLOCK):
        last = min(num_columns, first + NUM_COLUMNS_PER_BLOCK)
        part = padded[first * config.hop_length : (last - 1) * config.hop_length + config.n_fft]
        spectrum = torch.stft(
            part, config.n_fft, config.hop_length, config.win_length, window, center=False, return_complex=True
        )
        blocks.append((bank @ spectrum.abs().square()).T)
    return torch.cat(blocks)


def log_mel(samples: np.ndarray | torch.Tensor, config: SpectrogramConfig = DEFAULT_CONFIG) -> torch.Tensor:
    """Returns the log-mel spectrogram of the module's formula, ``[num_columns, num_mels]``."""
    return torch.log(mel_power(samples, config) / config.n_fft + POWER_FLOOR)


def decibels(power: torch.Tensor) -> torch.Tensor:
    """Returns 10 log10(max(S, 1e-10)) of mel power."""
    return 10.0 * torch.log10(power.clamp_min(1e-10))


def reference_windows(samples: np.ndarray, times_s: np.ndarray) -> torch.Tensor:
    """Returns the input of the reference's audio network: one spectrogram around each video frame, in dB.

    A window of 1.116 s is centred on every time; what lies outside of the recording is zero, what lies outside of the
    action but in the recording is real sound. dB = 10 log10(max(S, 1e-10)).

    Args:
        samples: Mono sound at 16 kHz, ``[num_samples]``.
        times_s: Times of the frames ``[T]``.

    Returns:
        float32 ``[T, 128, 224]``.
    """
    config = REFERENCE_CONFIG
    length = round(REFERENCE_WINDOW_S * config.rate_hz)
    windows = []
    for time_s in np.asarray(times_s, dtype=np.float64):
        start = round(time_s * config.rate_hz) - length // 2
        piece = np.zeros(length, np.float32)
        inside = samples[max(0, start) : max(0, start + length)]
        offset = max(0, -start)
        piece[offset : offset + len(inside)] = inside
        windows.append(decibels(mel_power(piece, config)).T)
    return torch.stack(windows)


@dataclass(frozen=True)
class _SpectrogramTask:
    store_path: Path
    config: SpectrogramConfig

    def __call__(self, video_id: str) -> bool:
        store = ClipStore.open(self.store_path)
        samples = read_audio(store.media_path(Modality.AUDIO, video_id), rate_hz=self.config.rate_hz)
        if samples is None or not len(samples):
            return False
        columns = log_mel(samples, self.config).numpy().astype(np.float16)
        arrays = {"log_mel": columns, "hop_s": np.array(self.config.hop_s), "start_s": np.array(0.0)}
        write_arrays(store.media_path(Modality.SPECTROGRAM, video_id), arrays)
        return True
