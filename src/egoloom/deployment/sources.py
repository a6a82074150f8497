"""Frames with their times from a file, a camera, a network or an Aria recording; what breaks is skipped and counted."""

import collections
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter

from egoloom._optional import require_package
from egoloom.errors import UserError

TimedFrame = tuple[float, np.ndarray]
LIVE_PREFIXES = ("rtsp://", "rtsps://", "rtmp://", "http://", "https://", "udp://", "tcp://")


@dataclass
class SourceCounts:
    """What happened to the frames of a source."""

    num_frames: int = 0
    num_broken: int = 0
    num_dropped: int = 0
    num_reconnects: int = 0


class MonotoneTime:
    """Makes times start at zero and rise strictly, across reconnects and streams whose clock jumps back."""

    def __init__(self) -> None:
        self._offset_s: float | None = None
        self._last_s = -1.0
        self._step_s = 1.0 / 30

    def __call__(self, raw_s: float) -> float:
        """Returns the time to use for a raw time stamp in seconds."""
        if self._offset_s is None:
            self._offset_s = -raw_s
        time_s = raw_s + self._offset_s
        if time_s <= self._last_s:
            self._offset_s += self._last_s + self._step_s - time_s
            time_s = self._last_s + self._step_s
        elif self._last_s >= 0:
            self._step_s = min(1.0, time_s - self._last_s)
        self._last_s = time_s
        return time_s


def is_live(source: str) -> bool:
    """Whether a source is live: a camera or a network address."""
    return source == "camera" or source.startswith((*LIVE_PREFIXES, "camera:"))


def open_source(
    source: str, counts: SourceCounts, *, reconnects: int = 5, realtime: bool = False
) -> Iterator[TimedFrame]:
    """Opens a source of frames.

    Args:
        source: Path of a video or ``.vrs`` file, ``camera`` or ``camera:N``, or an address such as ``rtsp://...``.
        counts: Filled while frames are read.
        reconnects: How often a live source is opened again after it broke, one after another without a frame.
        realtime: Deliver a file at its own pace and drop what the reader is too slow for, as a camera would.

    Returns:
        Pairs of seconds (from zero, rising) and uint8 RGB ``[H, W, 3]``.

    Raises:
        UserError: If a file is missing, no video, or without frames; if a live source cannot be reached.
    """
    if is_live(source):
        frames = _live_frames(source, counts, reconnects)
        return latest_only(frames, counts)
    path = Path(source)
    if not path.is_file():
        raise UserError(
            f"There is no video at {source}", allowed="a video file, a .vrs file, camera, camera:N, or rtsp://..."
        )
    frames = _vrs_frames(path, counts) if path.suffix.lower() == ".vrs" else _file_frames(path, counts)
    return latest_only(_paced(frames), counts) if realtime else frames


def _file_frames(path: Path, counts: SourceCounts) -> Iterator[TimedFrame]:
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError) as error:
        raise UserError(f"Cannot open {path} as a video: {error}", fix="check or replace the file") from error
    with container:
        if not container.streams.video:
            raise UserError(f"{path} holds no video stream")
        yield from _decode(container, counts, MonotoneTime())
    if not counts.num_frames:
        raise UserError(f"{path} has no frames that can be decoded", fix="check or replace the file")


def _decode(container: InputContainer, counts: SourceCounts, clock: Callable[[float], float]) -> Iterator[TimedFrame]:
    """Decodes packet by packet, so that one damaged packet costs its frames and not the stream."""
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise UserError(f"{container.name} holds video that cannot be decoded", fix="check or convert the file")
    stream.codec_context.thread_count = 1
    reformatter = VideoReformatter()
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.error.EOFError):
            return
        except av.error.InvalidDataError:  # other errors of the source end a file and reopen a live stream
            counts.num_broken += 1
            continue
        try:
            frames = packet.decode()
        except av.error.EOFError:
            return
        except av.error.FFmpegError:
            counts.num_broken += 1
            continue
        for frame in frames:
            if getattr(frame, "is_corrupt", False):
                counts.num_broken += 1
                continue
            picture = reformatter.reformat(frame, format="rgb24").to_ndarray()  # type: ignore[arg-type]
            turns = round((getattr(frame, "rotation", 0) or 0) / 90) % 4
            raw_s = float(frame.time) if frame.time is not None else counts.num_frames / 30
            counts.num_frames += 1
            yield clock(raw_s), np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


def _live_frames(source: str, counts: SourceCounts, reconnects: int) -> Iterator[TimedFrame]:
    clock, failures = MonotoneTime(), 0
    while True:
        before = counts.num_frames
        reason = "the stream ended"
        try:
            with _open_live(source) as container:
                yield from _decode(container, counts, clock)
        except (av.error.FFmpegError, OSError) as error:
            reason = str(error)
        failures = 0 if counts.num_frames > before else failures + 1
        if failures > reconnects:
            if counts.num_frames:
                return
            raise UserError(f"Cannot read {source}: {reason}", fix="check the address, the camera and its rights")
        counts.num_reconnects += 1
        time.sleep(min(5.0, 0.1 * 2**failures))


def _open_live(source: str) -> InputContainer:
    if source.startswith("camera"):
        number = source.partition(":")[2] or "0"
        return av.open(f"/dev/video{number}", format="v4l2")
    options = {"rtsp_transport": "tcp"} if source.startswith("rtsp") else {}
    return av.open(source, options=options, timeout=(5.0, 5.0))


def _vrs_frames(path: Path, counts: SourceCounts) -> Iterator[TimedFrame]:
    """The RGB camera of a Project Aria recording, upright."""
    provider_module = require_package("projectaria_tools.core.data_provider", extra="aria", package="projectaria-tools")
    provider = provider_module.create_vrs_data_provider(str(path))
    stream = provider.get_stream_id_from_label("camera-rgb") if provider else None
    if stream is None:
        raise UserError(f"{path} holds no RGB camera stream")
    clock = MonotoneTime()
    # Gen 1 sensors are mounted turned by 90 degrees; later ones are wider than high and upright.
    for index in range(provider.get_num_data(stream)):
        image, record = provider.get_image_data_by_index(stream, index)
        if not image.is_valid():
            counts.num_broken += 1
            continue
        picture = image.to_numpy_array()
        picture = np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture
        picture = np.rot90(picture, 3) if picture.shape[0] == picture.shape[1] else picture
        counts.num_frames += 1
        yield clock(record.capture_timestamp_ns * 1e-9), np.ascontiguousarray(picture)


def _paced(frames: Iterator[TimedFrame]) -> Iterator[TimedFrame]:
    start = time.monotonic()
    for time_s, frame in frames:
        time.sleep(max(0.0, start + time_s - time.monotonic()))
        yield time_s, frame


def latest_only(frames: Iterator[TimedFrame], counts: SourceCounts) -> Iterator[TimedFrame]:
    """Reads in a thread of its own and hands out the newest frame; older ones that nobody took are dropped.

    A consumer that is too slow thus loses frames and never falls behind.
    """
    newest: collections.deque[TimedFrame] = collections.deque(maxlen=1)
    arrived, finished, stop = threading.Condition(), threading.Event(), threading.Event()
    failure: list[BaseException] = []

    def read() -> None:
        try:
            for item in frames:
                if stop.is_set():
                    return
                with arrived:
                    counts.num_dropped += len(newest)
                    newest.append(item)
                    arrived.notify()
        except BaseException as error:  # handed to the consumer
            failure.append(error)
        finally:
            finished.set()
            with arrived:
                arrived.notify()

    reader = threading.Thread(target=read, name="egoloom-stream-reader", daemon=True)
    reader.start()
    try:
        while True:
            with arrived:
                arrived.wait_for(lambda: newest or finished.is_set())
                if not newest:
                    break
                item = newest.popleft()
            yield item
    finally:
        stop.set()
    if failure:
        raise failure[0]
