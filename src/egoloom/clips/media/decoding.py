"""Video decoding by time: a reader that answers "which frames are shown at these seconds"."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Self

import av
import av.error
import numpy as np
from av.video.reformatter import VideoReformatter

from egoloom.errors import UserError

# Beyond this distance a seek to the next key frame is cheaper than decoding what lies between.
SEEK_AHEAD_S = 2.0
HALF_TICK_S = 1e-4  # times are floats; a frame that starts this little later is the one meant


class VideoReader:
    """Decodes frames of one video file by their time.

    One thread per reader: parallelism belongs to the data-loading workers. Rotation metadata is applied, so that
    frames come upright as a player shows them.

    Args:
        path: A video file.
        grey: Decode luma only, ``[T, 1, H, W]`` (used for flow).

    Raises:
        UserError: If the file is missing, is not a video, or has no frames.
    """

    def __init__(self, path: Path | str, *, grey: bool = False) -> None:
        self.path = Path(path)
        self._format = "gray" if grey else "rgb24"
        self._reformatter = VideoReformatter()
        if not self.path.is_file():
            raise UserError(f"There is no video at {self.path}")
        try:
            self._container = av.open(str(self.path), metadata_errors="replace")
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise UserError(f"Cannot open {self.path} as a video: {error}", fix="check or replace the file") from error
        if not self._container.streams.video:
            self._container.close()
            raise UserError(f"{self.path} holds no video stream")
        self._stream = self._container.streams.video[0]
        if self._stream.codec_context is None:  # the codec is unknown, or its name damaged
            self._container.close()
            raise UserError(f"{self.path} holds a video that cannot be decoded", fix="check or replace the file")
        self._stream.codec_context.thread_count = 1
        self._stream.codec_context.thread_type = "NONE"
        self._time_base = float(self._stream.time_base or Fraction(1, 90000))
        self._start_pts = self._stream.start_time or 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"VideoReader({str(self.path)!r}, fps={self.fps}, duration_s={self.duration_s:.3f})"

    def close(self) -> None:
        """Releases the file."""
        self._container.close()

    @property
    def fps(self) -> Fraction:
        """Average frames a second."""
        return Fraction(self._stream.average_rate or self._stream.guessed_rate or 30)

    @property
    def duration_s(self) -> float:
        """Length in seconds as the file states it."""
        if self._stream.duration:
            return self._stream.duration * self._time_base
        return (self._container.duration or 0) / av.time_base

    def frames_at(self, times_s: Sequence[float] | np.ndarray, *, tolerance_s: float | None = None) -> np.ndarray:
        """Returns the frame that is shown at each time.

        Args:
            times_s: Seconds since the first frame, in any order, repeats allowed.
            tolerance_s: How far the start of the shown frame may lie from the time asked for; default: two frame
                intervals, at least 0.1 s.

        Returns:
            uint8 ``[T, C, H, W]``.

        Raises:
            UserError: If the video ends before a time asked for, or cannot be decoded.
        """
        queried = np.asarray(times_s, dtype=np.float64)
        tolerance_s = max(0.1, 2.0 / float(self.fps)) if tolerance_s is None else tolerance_s
        pictures: dict[int, np.ndarray] = {}
        loaded = np.full(len(queried), np.nan)
        order = np.argsort(queried, kind="stable")
        try:
            self._collect(queried, order, pictures, loaded)
        except av.error.FFmpegError as error:
            raise UserError(f"{self.path} is damaged: {error}", fix="replace the file") from error
        if np.isnan(loaded).any() or (np.abs(loaded - queried) > tolerance_s).any():
            raise UserError(
                f"{self.path} has no frames near the times asked for. "
                f"Queried: {np.round(queried, 3).tolist()} s; loaded: {np.round(loaded, 3).tolist()} s",
                allowed=f"times between 0 and {self.duration_s:.3f} s, {tolerance_s:.3f} s of tolerance",
            )
        return np.stack([pictures[index] for index in range(len(queried))]).transpose(0, 3, 1, 2)

    def _collect(self, queried: np.ndarray, order: np.ndarray, pictures: dict, loaded: np.ndarray) -> None:
        """Walks forward through the sorted times; each gets the last frame that starts no later than it."""
        position = 0
        while position < len(order):
            sought = position
            self._seek(float(queried[order[position]]))
            shown, shown_s = None, np.nan
            for frame in self._container.decode(self._stream):
                time_s = self._time_of(frame)
                if shown is not None:
                    position = self._assign(shown, shown_s, time_s, queried, order, position, pictures, loaded)
                    if position >= len(order):
                        return
                    if position > sought and queried[order[position]] > time_s + SEEK_AHEAD_S:
                        break
                shown, shown_s = frame, time_s
            else:
                if shown is not None:  # what remains is shown the last frame, if the tolerance allows it
                    self._assign(shown, shown_s, np.inf, queried, order, position, pictures, loaded)
                return

    def _assign(
        self,
        shown: av.VideoFrame,
        shown_s: float,
        until_s: float,
        queried: np.ndarray,
        order: np.ndarray,
        position: int,
        pictures: dict[int, np.ndarray],
        loaded: np.ndarray,
    ) -> int:
        """Gives a frame to all times before ``until_s``; converts it once. Returns the next open position."""
        picture = None
        while position < len(order) and queried[order[position]] < until_s - HALF_TICK_S:
            picture = self._to_array(shown) if picture is None else picture
            pictures[order[position]], loaded[order[position]] = picture, shown_s
            position += 1
        return position

    def all_frames(self) -> np.ndarray:
        """Returns every frame, uint8 ``[T, C, H, W]``.

        Raises:
            UserError: If the video is damaged or has no frames.
        """
        try:
            self._seek(0.0)
            frames = [self._to_array(frame) for frame in self._container.decode(self._stream)]
        except av.error.FFmpegError as error:
            raise UserError(f"{self.path} is damaged: {error}", fix="replace the file") from error
        if not frames:
            raise UserError(f"{self.path} has no frames")
        return np.stack(frames).transpose(0, 3, 1, 2)

    def frame_times_s(self) -> np.ndarray:
        """Returns the start time of every frame in seconds, without decoding pictures."""
        self._seek(0.0)
        ticks = [packet.pts for packet in self._container.demux(self._stream) if packet.pts is not None]
        self._seek(0.0)
        return (np.sort(np.array(ticks, dtype=np.float64)) - self._start_pts) * self._time_base

    def _seek(self, time_s: float) -> None:
        target = self._start_pts + int(max(0.0, time_s) / self._time_base)
        try:
            self._container.seek(target, stream=self._stream, backward=True)
        except av.error.PermissionError:  # no key frame in the index before the target: start over from the beginning
            start = self._start_pts - int(1.0 / self._time_base)
            self._container.seek(start, stream=self._stream, backward=True)

    def _time_of(self, frame: av.VideoFrame) -> float:
        return ((frame.pts or 0) - self._start_pts) * self._time_base

    def _to_array(self, frame: av.VideoFrame) -> np.ndarray:
        if self._format == "gray":
            # The luma plane as it is: a conversion would stretch the limited range and move the values.
            plane = frame.planes[0]
            rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
            picture = rows[: frame.height, : frame.width, None]
        else:
            picture = self._reformatter.reformat(frame, format=self._format, threads=1).to_ndarray()
        quarter_turns = round((getattr(frame, "rotation", 0) or 0) / 90) % 4
        return np.ascontiguousarray(np.rot90(picture, quarter_turns)) if quarter_turns else picture
