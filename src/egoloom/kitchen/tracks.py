"""Tracks derived from a take before it is stored: estimated flow, log-mel spectrogram, monocular-like depth."""

import itertools
import zipfile
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from egoloom.clips.files import atomic_path

FLOW_BOUND_PX = 16.0
ZLIB_LEVEL = 1  # exact flow hardly compresses: higher levels cost a fifth of a clip's time and save a tenth of its size
NUM_MELS, HOP_S, WINDOW_S = 64, 0.010, 0.025
FLOOR = 1e-6


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes named arrays as ``.npz``, atomically, with quick compression."""
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=ZLIB_LEVEL) as archive,
    ):
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as handle:
                np.lib.format.write_array(handle, np.asanyarray(array), allow_pickle=False)


def estimated_flow(rgb_T3HW: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns flow to the next frame as DIS estimates it from the pictures, ``[T, 2, H, W]`` px; the last one repeats.

    It sees water flicker and misses untextured walls, as an estimator does; the exact flow is stored beside it.
    """
    cv2.setNumThreads(1)
    estimator = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    grey = [cv2.cvtColor(np.ascontiguousarray(frame.transpose(1, 2, 0)), cv2.COLOR_RGB2GRAY) for frame in rgb_T3HW]
    flows = [
        np.asarray(estimator.calc(now, after, None), np.float32)  # type: ignore[call-overload]
        for now, after in itertools.pairwise(grey)
    ]
    return np.stack([*flows, flows[-1]]).transpose(0, 3, 1, 2)


def mel_filters(rate_hz: int, num_bins: int) -> NDArray[np.float32]:
    """Returns triangular filters ``[num_mels, num_bins]``, equally spaced on the mel scale (HTK formula)."""
    mel = np.linspace(0, 2595 * np.log10(1 + rate_hz / 2 / 700), NUM_MELS + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    frequency = np.linspace(0, rate_hz / 2, num_bins)[None]
    rise = (frequency - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - frequency) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(0, np.minimum(rise, fall)).astype(np.float32)


def log_mel(audio: NDArray[np.float32], rate_hz: int) -> NDArray[np.float16]:
    """Returns the natural log of mel power ``[num_columns, 64]``: 25 ms Hann windows every 10 ms."""
    window = round(WINDOW_S * rate_hz)
    hop = round(HOP_S * rate_hz)
    size = 1 << (window - 1).bit_length()
    padded = np.pad(audio, (window // 2, window))
    starts = np.arange(0, len(audio), hop)
    frames = padded[starts[:, None] + np.arange(window)] * np.hanning(window).astype(np.float32)
    power = np.abs(np.fft.rfft(frames, size)) ** 2 / size
    mel = (
        (power[:, None, :] * _bank(rate_hz, size)[None]).sum(-1) if len(frames) < 4 else power @ _bank(rate_hz, size).T
    )
    return np.log(mel + FLOOR).astype(np.float16)


def _bank(rate_hz: int, size: int) -> NDArray[np.float32]:
    return mel_filters(rate_hz, size // 2 + 1)


def monocular_depth(depth_THW: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Returns depth as a monocular network gives it: affine errors of inverse depth per frame, blur and holes.

    The output is again metres-like (larger is farther), but each frame's inverse depth is ``a * (1 / depth) + b`` with
    its own a and b around those of the clip; edges bleed and 0 marks pixels without a value.
    """
    count, height, width = depth_THW.shape
    inverse = 1 / np.maximum(depth_THW, 0.05)
    clip_scale, clip_shift = np.exp(rng.normal(0, 0.35)), rng.normal(0, 0.06)
    frame_scale = clip_scale * np.exp(0.03 * rng.standard_normal(count))
    frame_shift = clip_shift + 0.02 * rng.standard_normal(count)
    out = np.empty_like(depth_THW)
    for t in range(count):
        soft = cv2.GaussianBlur(inverse[t], (0, 0), max(0.6, width / 160))
        texture = cv2.resize(
            rng.standard_normal((6, 6)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
        )
        value = frame_scale[t] * soft * (1 + 0.015 * texture) + frame_shift[t]
        out[t] = 1 / np.maximum(value, 0.04)
        step = np.abs(np.diff(depth_THW[t], axis=1, append=depth_THW[t][:, -1:]))
        hole = (step > 0.12) & (rng.random((height, width)) < 0.7)
        for _ in range(int(rng.integers(1, 4))):
            x, y = rng.integers(0, width), rng.integers(0, height)
            hole[y : y + max(2, height // 16), x : x + max(2, width // 12)] = True
        out[t][hole | (depth_THW[t] <= 0)] = 0
    return out
