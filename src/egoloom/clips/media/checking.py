"""A look into one media file: does it open, and does what it holds decode?"""

import zipfile
from pathlib import Path

import av
import av.error

from egoloom.clips.media.arrays import read_table
from egoloom.clips.media.decoding import VideoReader
from egoloom.errors import UserError

TAIL_S = 0.5  # how much of the end of a sound is decoded


def check_media(path: Path, *, duration_s: float, fps: float) -> None:
    """Reads tables and arrays whole, of video and sound the beginning and the end.

    Args:
        path: A media file of a store; its suffix says what it is.
        duration_s: Length of the video that it belongs to.
        fps: Frame rate of that video.

    Raises:
        UserError: If the file is missing or damaged, naming it.
    """
    if path.suffix == ".npz":
        _check_archive(path)
    elif path.suffix == ".parquet":
        read_table(path)
    elif path.suffix == ".flac":
        _check_sound(path)
    else:
        with VideoReader(path) as reader:
            reader.frames_at([0.0, max(0.0, duration_s - 1.0 / fps)])


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except Exception as error:  # zipfile and zlib raise many kinds on damaged files
        raise UserError(f"Cannot read the arrays {path}: {error}", fix="compute the modality again") from error
    if broken is not None:
        raise UserError(f"Cannot read the arrays {path}: {broken} is damaged", fix="compute the modality again")


def _check_sound(path: Path) -> None:
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            next(container.decode(audio=0))
            length_s = (container.duration or 0) / av.time_base
            container.seek(int(max(0.0, length_s - TAIL_S) * av.time_base))
            num_samples = sum(frame.samples for frame in container.decode(audio=0))
    except (av.error.FFmpegError, OSError, ValueError, IndexError, StopIteration) as error:
        raise UserError(f"Cannot read the sound of {path}: {error}", fix="ingest it again") from error
    if not num_samples:
        raise UserError(f"The sound of {path} holds no samples", fix="ingest it again")
