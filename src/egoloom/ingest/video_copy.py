"""Copies of videos for the store: upright, constant frame rate, even size, short side 256, short GOP; flat memory.

Phones and glasses write rotated, variable-rate, odd-sized and hour-long files. All of that is settled here once, so
that the rest of EgoLoom sees plain videos.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.error
import cv2
import numpy as np
from av.container import InputContainer
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream

from egoloom.clips.media.encoding import encode_frames
from egoloom.errors import UserError
from egoloom.ingest.images import Image, read_image

STANDARD_RATES = tuple(
    Fraction(rate) for rate in (5, 6, 10, 12, 15, 20, "24000/1001", 24, 25, "30000/1001", 30, 48, 50, "60000/1001", 60)
)
NUM_PROBED_PACKETS = 600
MAX_GAP_S = 30.0  # a longer hole between two frames is a broken clock, not a slow camera
MIN_DECODED_SHARE = 0.9
MAX_RATE_HZ = 1000


@dataclass(frozen=True)
class VideoFacts:
    """What a file says of its video and sound.

    Attributes:
        fps: Constant rate, or for variable-rate files the standard rate nearest to the average.
        width: Width as shown, after rotation.
        height: Height as shown, after rotation.
        num_frames: Frames as stated; 0 if the container does not say.
        duration_s: Length in seconds.
        has_audio: Whether there is a sound stream.
        is_variable_rate: Whether the intervals between frames differ by more than half of their median.
        quarter_turns: Counter-clockwise quarter turns that bring the coded frame upright.
        start_s: Container time of the first frame.
    """

    fps: Fraction
    width: int
    height: int
    num_frames: int
    duration_s: float
    has_audio: bool
    is_variable_rate: bool
    quarter_turns: int
    start_s: float


@dataclass(frozen=True)
class CopiedVideo:
    """A video in the store, with the size of its source (to move boxes from one to the other)."""

    fps: Fraction
    width: int
    height: int
    num_frames: int
    duration_s: float
    source_width: int
    source_height: int

    @property
    def scale(self) -> tuple[float, float]:
        """Factors from source pixels to stored pixels, (x, y)."""
        return self.width / self.source_width, self.height / self.source_height


def open_media(path: Path) -> InputContainer:
    """Opens a media file.

    Raises:
        UserError: If it is missing or unreadable.
    """
    if not path.is_file():
        raise UserError(f"There is no video at {path}")
    try:
        return av.open(str(path), metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise UserError(f"Cannot open {path} as a video: {error}", fix="check or replace the file") from error


def probe(path: Path) -> VideoFacts:
    """Reads the facts of a video: its first frame and the times of its first packets.

    Raises:
        UserError: If the file is missing, unreadable, or has no video frames.
    """
    with open_media(path) as container:
        if not container.streams.video:
            raise UserError(f"{path} holds no video stream")
        stream = container.streams.video[0]
        _use_one_thread(path, stream)
        try:
            times = _packet_times_s(container, stream)
            with open_media(path) as again:  # some files refuse to seek back to their start
                frame = next(again.decode(again.streams.video[0]), None)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise UserError(f"{path} is damaged: {error}", fix="replace the file") from error
        if frame is None or not frame.width or not frame.height:
            raise UserError(f"{path} has no video frames")
        intervals = np.diff(times)
        is_variable = len(intervals) > 1 and bool(np.ptp(intervals) > 0.5 * np.median(intervals))
        quarter_turns = round((frame.rotation or 0) / 90) % 4
        width, height = frame.width, frame.height
        if quarter_turns % 2:
            width, height = height, width
        return VideoFacts(
            fps=_rate(path, stream, intervals, is_variable),
            width=width,
            height=height,
            num_frames=stream.frames,
            duration_s=_duration_s(container, stream),
            has_audio=bool(container.streams.audio),
            is_variable_rate=is_variable,
            quarter_turns=quarter_turns,
            start_s=float((stream.start_time or 0) * (stream.time_base or 0)),
        )


def target_size(width: int, height: int, short_side_px: int | None) -> tuple[int, int]:
    """Returns the stored size: short side at most ``short_side_px``, never enlarged, both sides even."""
    factor = 1.0 if short_side_px is None else min(1.0, short_side_px / min(width, height))
    return max(2, 2 * round(width * factor / 2)), max(2, 2 * round(height * factor / 2))


def copy_video(
    source: Path, target: Path, *, short_side_px: int | None = 256, fps: Fraction | None = None, crf: int = 20
) -> CopiedVideo:
    """Writes the store's copy of a video file.

    Args:
        source: Any video that FFmpeg reads.
        target: ``.mp4`` in the store.
        short_side_px: Upper limit of the short side; None keeps the size.
        fps: Frame rate of the copy; default: that of the source.
        crf: H.264 quality.

    Raises:
        UserError: If the source is damaged, ends far too early, or its clock is broken.
    """
    facts = probe(source)
    rate = fps or facts.fps
    size = target_size(facts.width, facts.height, short_side_px)
    with open_media(source) as container:
        stream = container.streams.video[0]
        _use_one_thread(source, stream)
        timed = _timed_frames(source, container, stream, facts)
        frames = upright_frames(at_constant_rate(source, timed, rate), size, facts.quarter_turns)
        num_frames = encode_frames(target, frames, size, "yuv420p", rate, crf=crf)
    return CopiedVideo(rate, *size, num_frames, num_frames / float(rate), facts.width, facts.height)


def copy_images(
    sources: Iterable[Image], target: Path, *, fps: Fraction, short_side_px: int | None = 256, crf: int = 20
) -> CopiedVideo:
    """Writes the store's copy of a folder of image files, one a frame.

    Raises:
        UserError: If there are none, or one cannot be read or has another size than the first.
    """
    sources = list(sources)
    if not sources:
        raise UserError(f"There are no frames for {target.stem}")
    height, width = read_image(sources[0]).shape[:2]
    size = target_size(width, height, short_side_px)

    def frames() -> Iterator[av.VideoFrame]:
        for path in sources:
            picture = read_image(path)
            if picture.shape[:2] != (height, width):
                raise UserError(
                    f"{path} is {picture.shape[1]} x {picture.shape[0]} px, the frames before it {width} x {height}"
                )
            if size != (width, height):
                picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
            yield _frame_of(picture, "bgr24").reformat(format="yuv420p", threads=1)

    num_frames = encode_frames(target, frames(), size, "yuv420p", fps, crf=crf)
    return CopiedVideo(fps, *size, num_frames, num_frames / float(fps), width, height)


def at_constant_rate(
    source: Path, timed: Iterable[tuple[av.VideoFrame, float]], fps: Fraction
) -> Iterator[av.VideoFrame]:
    """Yields the frame that is shown at every tick of ``fps``; the identity for a video of that rate.

    A frame counts as shown a quarter of an interval early, which absorbs clocks rounded to milliseconds.
    """
    interval_s = 1.0 / float(fps)
    shown, shown_s, tick = None, 0.0, 0
    for frame, time_s in timed:
        if shown is not None:
            if time_s - shown_s > MAX_GAP_S:
                raise UserError(
                    f"The clock of {source} jumps from {shown_s:.3f} to {time_s:.3f} s",
                    allowed=f"at most {MAX_GAP_S:g} s between two frames",
                    fix="cut the file at that point",
                )
            while (tick + 0.25) * interval_s < time_s:
                yield shown
                tick += 1
        shown, shown_s = frame, time_s
    while shown is not None and (tick == 0 or (tick - 0.5) * interval_s < shown_s - 0.25 * interval_s):
        yield shown
        tick += 1


def upright_frames(
    frames: Iterable[av.VideoFrame], size: tuple[int, int], quarter_turns: int
) -> Iterator[av.VideoFrame]:
    """Yields frames turned, resized and converted to limited-range BT.601 yuv420p."""
    width, height = size if quarter_turns % 2 == 0 else size[::-1]
    reformatter = VideoReformatter()
    last_in, last_out = None, None
    for frame in frames:
        if frame is not last_in:
            converted = reformatter.reformat(
                frame,
                width=width,
                height=height,
                format="yuv420p" if quarter_turns == 0 else "rgb24",
                dst_colorspace=Colorspace.ITU601 if quarter_turns == 0 else None,
                dst_color_range=ColorRange.MPEG if quarter_turns == 0 else None,
                interpolation=Interpolation.AREA,
                threads=1,
            )
            if quarter_turns:
                turned = np.ascontiguousarray(np.rot90(converted.to_ndarray(), quarter_turns))
                converted = _frame_of(turned, "rgb24").reformat(format="yuv420p", threads=1)
            last_in, last_out = frame, converted
        assert last_out is not None
        yield last_out


def _frame_of(picture: np.ndarray, pixel_format: str) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(picture.astype(np.uint8, copy=False), format=pixel_format)


def _timed_frames(
    source: Path, container: InputContainer, stream: VideoStream, facts: VideoFacts
) -> Iterator[tuple[av.VideoFrame, float]]:
    """Yields every frame with its seconds since the first; a missing clock is counted instead."""
    time_base, origin, previous_s, num_decoded = float(stream.time_base or 0), None, 0.0, 0
    try:
        for frame in container.decode(stream):
            time_s = num_decoded / float(facts.fps)
            if frame.pts is not None:
                origin = frame.pts if origin is None else origin
                time_s = (frame.pts - origin) * time_base
            num_decoded += 1
            previous_s = max(previous_s, time_s)
            yield frame, previous_s
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise UserError(f"{source} is damaged after {num_decoded} frames: {error}", fix="replace the file") from error
    if num_decoded == 0:
        raise UserError(f"{source} has no video frames")
    if num_decoded < MIN_DECODED_SHARE * facts.num_frames:
        raise UserError(
            f"{source} is truncated: it states {facts.num_frames} frames and holds {num_decoded}",
            fix="copy the file again",
        )


def _packet_times_s(container: InputContainer, stream: VideoStream) -> np.ndarray:
    ticks: list[int] = []
    for packet in container.demux(stream):
        if packet.pts is not None:
            ticks.append(packet.pts)
        if len(ticks) >= NUM_PROBED_PACKETS:
            break
    # The reordering of B-frames leaves holes at the end of the probed stretch; they are not part of the clock.
    sorted_ticks = np.sort(np.array(ticks, dtype=np.float64))
    return (sorted_ticks[:-8] if len(sorted_ticks) >= NUM_PROBED_PACKETS else sorted_ticks) * float(
        stream.time_base or 0
    )


def _rate(path: Path, stream: VideoStream, intervals: np.ndarray, is_variable: bool) -> Fraction:
    stated = stream.average_rate or stream.guessed_rate
    rate = Fraction(stated) if stated else Fraction(0)
    if rate <= 0 and len(intervals):
        rate = Fraction(1.0 / max(1e-6, float(np.mean(intervals)))).limit_denominator(1001)
    rate = rate or Fraction(30)
    if rate > MAX_RATE_HZ:
        raise UserError(f"{path} states {float(rate):g} frames a second", allowed=f"at most {MAX_RATE_HZ}")
    nearest = min(STANDARD_RATES, key=lambda standard: abs(float(standard - rate)))
    if is_variable or rate.denominator > 1001 or rate.numerator > 1_000_000:
        close = abs(float(nearest / rate) - 1) < 0.05
        return nearest if close else rate.limit_denominator(1000) or Fraction(1)
    return rate


def _duration_s(container: InputContainer, stream: VideoStream) -> float:
    if stream.duration:
        return float(stream.duration * (stream.time_base or 0))
    return (container.duration or 0) / av.time_base


def _use_one_thread(path: Path, stream: VideoStream) -> None:
    if stream.codec_context is None:  # the codec is unknown, or its name damaged
        raise UserError(f"{path} holds a video that cannot be decoded", fix="check or replace the file")
    stream.codec_context.thread_count = 1
    stream.codec_context.thread_type = "NONE"
