"""Copies of sound for the store: mono 16-bit FLAC on the clock of the video; flat memory."""

from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np
from av.container import InputContainer, OutputContainer

from egoloom.clips.files import atomic_path
from egoloom.errors import UserError
from egoloom.ingest.video_copy import open_media

MAX_DRIFT_S = 0.05  # holes and overlaps beyond this are repaired with silence or cuts
MAX_HOLE_S = 600.0


class FlacWriter:
    """Writes mono float samples as they come; ``position`` counts what was written."""

    def __init__(self, container: OutputContainer, rate_hz: int) -> None:
        self._container, self.rate_hz, self.position = container, rate_hz, 0
        self._stream = container.add_stream("flac", rate=rate_hz)
        self._stream.codec_context.layout = "mono"
        self._stream.codec_context.format = "s16"

    def write(self, samples: np.ndarray) -> None:
        """Appends float samples in [-1, 1]."""
        pcm = np.rint(np.clip(np.nan_to_num(samples), -1.0, 1.0) * 32767.0).astype(np.int16)
        for start in range(0, len(pcm), 4096):
            chunk = np.ascontiguousarray(pcm[None, start : start + 4096])
            frame = av.AudioFrame.from_ndarray(chunk, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = self.rate_hz, self.position, Fraction(1, self.rate_hz)
            self._container.mux(self._stream.encode(frame))
            self.position += chunk.shape[1]

    def finish(self) -> None:
        """Writes what the encoder still holds."""
        self._container.mux(self._stream.encode())


def copy_audio(source: Path, target: Path, *, rate_hz: int = 16_000, video_start_s: float = 0.0) -> bool:
    """Writes the first sound stream as mono FLAC whose second 0 is the first video frame.

    Sound that starts late is preceded by silence, sound that starts early is cut; holes become silence.

    Args:
        source: Any file that FFmpeg reads.
        target: ``.flac`` in the store.
        rate_hz: Samples a second of the copy.
        video_start_s: Container time of the first video frame.

    Returns:
        Whether there was sound; nothing is written otherwise.

    Raises:
        UserError: If the sound cannot be decoded.
    """
    with open_media(source) as container:
        if not container.streams.audio:
            return False
        if container.streams.audio[0].codec_context is None:
            raise UserError(f"The sound of {source} cannot be decoded", fix="replace the file")
        with atomic_path(target) as temporary, av.open(str(temporary), "w", format="flac") as output:
            writer = FlacWriter(output, rate_hz)
            _transcode(source, container, writer, video_start_s)
            if writer.position == 0:
                raise UserError(f"The sound stream of {source} holds no samples")
            writer.finish()
    return True


class _Placer:
    """Puts samples at their place in time: before 0 they are dropped, holes before them become silence."""

    def __init__(self, writer: FlacWriter) -> None:
        self.writer, self.cursor = writer, 0

    def place(self, samples: np.ndarray) -> None:
        start, self.cursor = self.cursor, self.cursor + len(samples)
        while start > self.writer.position:
            self.writer.write(np.zeros(min(start - self.writer.position, 60 * self.writer.rate_hz), np.float32))
        self.writer.write(samples[max(0, self.writer.position - start) :])


def _transcode(source: Path, container: InputContainer, writer: FlacWriter, video_start_s: float) -> None:
    stream = container.streams.audio[0]
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=writer.rate_hz)
    placer, is_first = _Placer(writer), True
    try:
        for frame in container.decode(stream):
            # The frame's own clock only decides at the start and at holes; between them samples are counted.
            if frame.pts is not None and frame.time_base is not None:
                wanted = round((float(frame.pts * frame.time_base) - video_start_s) * writer.rate_hz)
                drift_s = (wanted - placer.cursor) / writer.rate_hz
                if abs(drift_s) > MAX_HOLE_S:
                    raise UserError(f"The sound clock of {source} jumps by {drift_s:.1f} s", fix="cut the file there")
                if is_first or abs(drift_s) > MAX_DRIFT_S:
                    placer.cursor = wanted
            is_first = False
            frame.pts = None
            for part in resampler.resample(frame):
                placer.place(part.to_ndarray()[0])
        for part in resampler.resample(None):
            placer.place(part.to_ndarray()[0])
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise UserError(f"The sound of {source} is damaged: {error}", fix="replace the file") from error
