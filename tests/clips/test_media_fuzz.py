"""Damaged media: 2,000 bit-flipped and truncated files never crash or hang the readers, nor leave anything behind."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from egoloom.clips.media import VideoReader, read_arrays, read_audio, read_table, write_arrays, write_audio, write_table
from egoloom.clips.media.encoding import write_video
from egoloom.errors import UserError

MAX_SECONDS_A_FILE = 20.0


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("originals")
    rng = np.random.default_rng(0)
    write_video(folder / "v.mp4", rng.integers(0, 255, (8, 3, 32, 32), np.uint8), 8)
    write_audio(folder / "a.flac", rng.normal(0, 0.2, 4000).astype(np.float32), 16_000)
    write_arrays(folder / "x.npz", {"log_mel": rng.normal(size=(20, 8)).astype(np.float16), "hop_s": np.array(0.01)})
    write_table(folder / "t.parquet", {"time_s": np.arange(20) / 10, "category": ["hand"] * 20})
    return {path.suffix: path.read_bytes() for path in folder.iterdir()}


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    kind = rng.integers(4)
    if kind == 0:
        return content[: rng.integers(0, len(content))]
    array = np.frombuffer(content, np.uint8).copy()
    if kind == 1:  # a few bits anywhere
        for position in rng.integers(0, len(array), rng.integers(1, 9)):
            array[position] ^= 1 << rng.integers(8)
    elif kind == 2:  # a run of noise
        start = rng.integers(0, len(array))
        array[start : start + rng.integers(1, 64)] = rng.integers(0, 256)
    else:  # a piece is missing
        start = rng.integers(0, len(array))
        array = np.delete(array, slice(start, start + rng.integers(1, 200)))
    return array.tobytes()


def read_video(path: Path) -> None:
    with VideoReader(path) as reader:
        assert reader.all_frames().ndim == 4
        reader.frame_times_s()
        reader.frames_at([0.0, 0.5])


READERS = {
    ".mp4": read_video,
    ".flac": lambda path: read_audio(path, rate_hz=16_000),
    ".npz": read_arrays,
    ".parquet": read_table,
}


def refusal(function: Callable[[Path], object], path: Path) -> str:
    """Returns the message of the error, or nothing; anything but a UserError ends the test."""
    try:
        function(path)
    except UserError as error:
        return str(error)
    return ""


def fuzz(tmp_path: Path, originals: dict[str, bytes], num_cases: int, seed: int) -> int:
    rng, num_refused = np.random.default_rng(seed), 0
    for case in range(num_cases):
        suffix = list(READERS)[case % len(READERS)]
        path = tmp_path / f"case{suffix}"
        path.write_bytes(damaged(originals[suffix], rng))
        begin = time.perf_counter()
        message = refusal(READERS[suffix], path)
        num_refused += bool(message)
        assert not message or path.name in message, f"the error does not name the file: {message}"
        assert time.perf_counter() - begin < MAX_SECONDS_A_FILE, (seed, case)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(f"case{suffix}" for suffix in READERS)
    return num_refused


def test_damaged_files(tmp_path, originals):
    assert fuzz(tmp_path, originals, 240, seed=1) > 60


@pytest.mark.slow
def test_two_thousand_damaged_files(tmp_path, originals):
    assert fuzz(tmp_path, originals, 2000, seed=2) > 500


def test_pickled_arrays_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError, match=r"x\.npz"):
        read_arrays(path)
