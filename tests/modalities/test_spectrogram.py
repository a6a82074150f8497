"""Log-mel spectrograms against scipy and against an independent filter bank."""

import math

import numpy as np
import pytest
from scipy.signal import ShortTimeFFT, get_window

from egoloom.clips import Modality
from egoloom.clips.media import read_arrays
from egoloom.modalities import spectrogram
from egoloom.modalities.spectrogram import DEFAULT_CONFIG, REFERENCE_CONFIG, log_mel, mel_filter_bank, mel_power


def loop_filter_bank(num_mels: int, n_fft: int, rate_hz: int) -> np.ndarray:
    """The textbook definition, one number at a time."""
    to_mel = lambda f: 2595 * math.log10(1 + f / 700)  # noqa: E731
    to_hz = lambda m: 700 * (10 ** (m / 2595) - 1)  # noqa: E731
    top = to_mel(rate_hz / 2)
    points = [to_hz(top * index / (num_mels + 1)) for index in range(num_mels + 2)]
    bank = np.zeros((num_mels, n_fft // 2 + 1))
    for mel in range(num_mels):
        low, centre, high = points[mel : mel + 3]
        for k in range(n_fft // 2 + 1):
            f = k * rate_hz / n_fft
            if low < f <= centre:
                bank[mel, k] = (f - low) / (centre - low)
            elif centre < f < high:
                bank[mel, k] = (high - f) / (high - centre)
    return bank


@pytest.mark.parametrize("config", [DEFAULT_CONFIG, REFERENCE_CONFIG])
def test_filter_bank(config):
    ours = mel_filter_bank(config.num_mels, config.n_fft, config.rate_hz).numpy()
    np.testing.assert_allclose(ours, loop_filter_bank(config.num_mels, config.n_fft, config.rate_hz), atol=2e-6)


@pytest.mark.parametrize("config", [DEFAULT_CONFIG, REFERENCE_CONFIG])
def test_power_agrees_with_scipy(config):
    rng = np.random.default_rng(1)
    samples = rng.normal(size=8000).astype(np.float32)
    window = np.zeros(config.n_fft)
    left = (config.n_fft - config.win_length) // 2
    window[left : left + config.win_length] = get_window("hann", config.win_length, fftbins=True)
    padded = np.pad(samples.astype(np.float64), config.n_fft // 2, mode="reflect")
    transform = ShortTimeFFT(
        window, config.hop_length, config.rate_hz, fft_mode="onesided", scale_to=None, phase_shift=None
    )
    num_columns = 1 + len(samples) // config.hop_length
    columns = np.stack(
        [
            np.fft.rfft(padded[m * config.hop_length : m * config.hop_length + config.n_fft] * window)
            for m in range(num_columns)
        ]
    )
    scipys = transform.stft(samples.astype(np.float64), k_offset=0)
    middle = num_columns // 2  # away from the ends, where scipy pads with zeros
    np.testing.assert_allclose(
        np.abs(columns[middle]), np.abs(scipys[:, middle - transform.p_min]), rtol=1e-6, atol=1e-6
    )
    power = np.abs(columns) ** 2 @ loop_filter_bank(config.num_mels, config.n_fft, config.rate_hz).T
    np.testing.assert_allclose(mel_power(samples, config).numpy(), power, rtol=2e-3, atol=1e-3)
    ours = log_mel(samples, config).numpy()
    np.testing.assert_allclose(ours, np.log(power / config.n_fft + 1e-6), atol=2e-3)


def test_long_sound_in_blocks_is_the_same(monkeypatch):
    samples = np.random.default_rng(2).normal(size=20_000).astype(np.float32)
    whole = log_mel(samples)
    monkeypatch.setattr(spectrogram, "NUM_COLUMNS_PER_BLOCK", 17)
    np.testing.assert_allclose(log_mel(samples).numpy(), whole.numpy(), atol=1e-5)


@pytest.mark.parametrize("num_samples", [1, 100, 257, 512])
def test_very_short_sound(num_samples):
    assert log_mel(np.ones(num_samples, np.float32)).shape == (1 + num_samples // 160, 64)


def test_reference_window_is_224_columns_of_real_sound():
    samples = np.zeros(32_000, np.float32)
    samples[16_000] = 1.0  # a click at 1 s
    windows = spectrogram.reference_windows(samples, np.array([0.0, 0.6, 1.0]))
    assert windows.shape == (3, 128, 224)
    loudest = windows.mean(dim=1).argmax(dim=1)
    assert (windows[0] == -100).all()  # 1 s lies outside of +-0.558 s: silence at 10 log10(1e-10)
    assert loudest[1] == pytest.approx(112 + 0.4 / 0.005, abs=1.5)
    assert loudest[2] == pytest.approx(112, abs=1.5)


def test_store(store):
    report = spectrogram.compute(store, progress=False)
    assert (report.num_done, report.num_skipped) == (2, 1)
    assert [Modality.SPECTROGRAM in clip.present for clip in store.clips] == [True, True, False]
    for video_id, hz in (("v0", 1000), ("v1", 440)):
        arrays = read_arrays(store.media_path(Modality.SPECTROGRAM, video_id))
        assert arrays["log_mel"].shape == (101, 64)
        assert arrays["log_mel"].dtype == np.float16
        assert float(arrays["hop_s"]) == 0.01
        loudest = arrays["log_mel"].astype(float).mean(axis=0).argmax()
        mels = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 66)
        centre_hz = 700 * (10 ** (mels[loudest + 1] / 2595) - 1)
        assert centre_hz == pytest.approx(hz, rel=0.08)
    again = spectrogram.compute(store, progress=False)
    assert (again.num_done, again.num_skipped) == (0, 3)


def test_damaged_sound_is_listed(store):
    store.media_path(Modality.AUDIO, "v0").write_bytes(b"fLaC" + b"\0" * 50)
    report = spectrogram.compute(store, progress=False)
    assert report.num_done == 1
    assert [failure.name for failure in report.failures] == ["v0"]
    assert not store.media_path(Modality.SPECTROGRAM, "v0").exists()
