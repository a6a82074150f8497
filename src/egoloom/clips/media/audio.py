"""Audio tracks: mono FLAC in the store, any container that FFmpeg knows on the way in."""

from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np

from egoloom.clips.files import atomic_path
from egoloom.errors import UserError


def write_audio(path: Path, samples: np.ndarray, rate_hz: int) -> None:
    """Writes mono samples in [-1, 1] as 16-bit FLAC.

    Args:
        path: Target, ``.flac``.
        samples: float, ``[num_samples]``.
        rate_hz: Samples a second.
    """
    pcm = np.rint(np.clip(np.nan_to_num(samples), -1.0, 1.0) * 32767.0).astype(np.int16)
    with atomic_path(path) as temporary, av.open(str(temporary), "w", format="flac") as container:
        stream = container.add_stream("flac", rate=rate_hz)
        stream.codec_context.layout = "mono"
        stream.codec_context.format = "s16"
        block = 4096
        for start in range(0, len(pcm), block):
            chunk = np.ascontiguousarray(pcm[None, start : start + block])
            frame = av.AudioFrame.from_ndarray(chunk, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate_hz, start, Fraction(1, rate_hz)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def read_audio(path: Path, *, rate_hz: int) -> np.ndarray | None:
    """Reads the first audio stream as mono float32 in [-1, 1] at the rate asked for.

    Returns:
        ``[num_samples]``, or None if the file has no sound.

    Raises:
        UserError: If the file cannot be read.
    """
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.audio:
                return None
            resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate_hz)
            blocks = []
            for frame in container.decode(audio=0):
                blocks += [part.to_ndarray()[0] for part in resampler.resample(frame)]
            blocks += [part.to_ndarray()[0] for part in resampler.resample(None)]
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise UserError(f"Cannot read the sound of {path}: {error}") from error
    return np.concatenate(blocks).astype(np.float32) if blocks else None
