"""Reads the telemetry of GoPro videos: the GPMF key-length-value format (github.com/gopro/gpmf-parser, its README).

A record is: four characters, type, size of one structure, number of structures (big endian), data padded to four
bytes. Type 0 nests records: ``DEVC`` a device, ``STRM`` a stream, in it ``SCAL`` (divisors), ``ORIN`` (axis order of
the sensor: a capital letter is the positive axis, a small one the negative) and the data, for instance ``ACCL`` in
m/s^2 and ``GYRO`` in rad/s.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import av.error
import numpy as np

from egoloom.errors import UserError
from egoloom.ingest.imu_track import Samples
from egoloom.ingest.video_copy import open_media

# Type character to numpy type; other types are skipped.
TYPES = {"b": ">i1", "B": ">u1", "s": ">i2", "S": ">u2", "l": ">i4", "L": ">u4", "f": ">f4", "d": ">f8", "J": ">u8"}
MAX_DEPTH = 8


@dataclass(frozen=True)
class Record:
    """One key-length-value record; ``children`` if it nests others, ``data`` otherwise."""

    key: str
    type: str
    size: int
    count: int
    data: bytes
    children: tuple["Record", ...] = ()


@dataclass(frozen=True)
class Payload:
    """The telemetry of about one second: container times and the samples by key."""

    start_s: float
    duration_s: float
    samples: dict[str, np.ndarray]


def parse(content: bytes, depth: int = 0) -> tuple[Record, ...]:
    """Parses the records of a payload.

    Raises:
        ValueError: If a record ends beyond its parent.
    """
    if depth > MAX_DEPTH:
        raise ValueError("records are nested too deeply")
    records, position = [], 0
    while position + 8 <= len(content):
        key_bytes, type_code, size, count = struct.unpack_from(">4sBBH", content, position)
        if key_bytes == b"\0\0\0\0":
            break
        position += 8
        length = size * count
        if position + length > len(content):
            raise ValueError(f"the record {key_bytes!r} ends beyond its parent")
        data = content[position : position + length]
        children = parse(data, depth + 1) if type_code == 0 else ()
        key = key_bytes.decode("latin-1")
        records.append(Record(key, chr(type_code) if type_code else "", size, count, data, children))
        position += (length + 3) // 4 * 4
    return tuple(records)


def numbers(record: Record) -> np.ndarray | None:
    """Returns the numbers of a record, ``[count, elements]``, or None if it holds something else."""
    if record.type not in TYPES:
        return None
    kind = np.dtype(TYPES[record.type])
    if record.size == 0 or record.size % kind.itemsize:
        return None
    return np.frombuffer(record.data, kind).reshape(record.count, record.size // kind.itemsize).astype(np.float64)


def payloads(path: Path) -> list[Payload]:
    """Returns the telemetry of a video in time order; empty if it has none.

    Raises:
        UserError: If the file cannot be read.
    """
    result = []
    with open_media(path) as container:
        stream = next(
            (s for s in container.streams.data if s.metadata.get("handler_name", "").strip() == "GoPro MET"), None
        )
        candidates = [stream] if stream is not None else list(container.streams.data)
        try:
            for packet in container.demux(candidates) if candidates else ():
                content = bytes(packet)
                if packet.pts is None or content[:4] != b"DEVC":
                    continue
                time_base = float(packet.time_base)
                samples = _samples(content)
                result.append(Payload(packet.pts * time_base, (packet.duration or 0) * time_base, samples))
        except ValueError as error:
            raise UserError(f"The telemetry of {path} is damaged: {error}") from error
        except (av.error.FFmpegError, OSError) as error:
            raise UserError(f"Cannot read the telemetry of {path}: {error}") from error
    return sorted(result, key=lambda payload: payload.start_s)


def sensor_samples(path: Path, key: str, *, start_s: float = 0.0) -> Samples | None:
    """Returns all samples of a three-axis sensor on the clock of the video.

    The camera writes one payload a second without sample times; samples are spread evenly over their payload, from its
    start to the start of the next.

    Args:
        path: A GoPro video.
        key: ``ACCL``, ``GYRO`` or another key with three numbers a sample.
        start_s: Container time of the first video frame.

    Returns:
        None if the video has no such sensor.
    """
    of_key = [(p.start_s, p.duration_s, p.samples[key]) for p in payloads(path) if len(p.samples.get(key, ()))]
    if not of_key:
        return None
    times, values = [], []
    for index, (begin_s, duration_s, rows) in enumerate(of_key):
        following_s = of_key[index + 1][0] if index + 1 < len(of_key) else begin_s + duration_s
        span_s = following_s - begin_s
        if not 0 < span_s < 5.0:  # a missing payload: keep the stated duration
            span_s = duration_s or 1.0
        times.append(begin_s - start_s + np.arange(len(rows)) * span_s / len(rows))
        values.append(rows)
    stacked = np.concatenate(values)
    if stacked.shape[1] != 3:
        raise UserError(f"The sensor {key} of {path} has {stacked.shape[1]} axes", allowed="3")
    return Samples(np.concatenate(times), stacked)


def _samples(content: bytes) -> dict[str, np.ndarray]:
    samples: dict[str, np.ndarray] = {}
    for stream in _streams(parse(content)):
        by_key = {record.key: record for record in stream.children}
        data = stream.children[-1] if stream.children else None  # the measurements come last
        rows = numbers(data) if data is not None else None
        if data is None or rows is None or data.key in samples:
            continue
        scale = numbers(by_key["SCAL"]) if "SCAL" in by_key else None
        if scale is not None and scale.size in (1, rows.shape[1]) and (scale != 0).all():
            rows = rows / scale.reshape(1, -1)
        samples[data.key] = _oriented(rows, by_key["ORIN"].data.decode("latin-1") if "ORIN" in by_key else "")
    return samples


def _streams(records: tuple[Record, ...]) -> Iterator[Record]:
    for record in records:
        if record.key == "STRM":
            yield record
        elif record.key == "DEVC":
            yield from _streams(record.children)


def _oriented(rows: np.ndarray, order: str) -> np.ndarray:
    """Brings the columns into the order x, y, z."""
    order = order.strip("\0 ")
    if sorted(order.upper()) != ["X", "Y", "Z"] or rows.shape[1] != 3:
        return rows
    result = np.empty_like(rows)
    for column, letter in enumerate(order):
        result[:, "XYZ".index(letter.upper())] = rows[:, column] * (1 if letter.isupper() else -1)
    return result
