"""Side-by-side video of a stream: the frame on the left, what the student thinks on the right."""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import cv2
import numpy as np
from av.container import OutputContainer

from egoloom.clips.files import atomic_path
from egoloom.deployment.card import Card
from egoloom.deployment.events import HAND_HEADS, EventConfig, hand_state

HEIGHT_PX = 360
PANEL_PX = 360
INK, MUTED, BAR, PAPER = (232, 236, 238), (140, 150, 156), (79, 189, 182), (24, 29, 33)
TIME_BASE = Fraction(1, 1000)
NUM_BARS = 5
CONTACT_PROBABILITY = EventConfig().contact_probability


class OverlayWriter:
    """Writes frames with their predictions; the file appears when the block ends without an error.

    Args:
        path: Target, ``.mp4``.
        card: Names the classes.
    """

    def __init__(self, path: Path, card: Card) -> None:
        self.card = card
        self._atomic = atomic_path(path)
        self._container: OutputContainer | None = None
        self._stream: av.VideoStream | None = None
        self._last_pts = -1
        self._width = 0

    def __enter__(self) -> Self:
        self._container = av.open(str(self._atomic.__enter__()), "w")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._container is not None
        if self._stream is not None and kind is None:
            self._container.mux(self._stream.encode())
        self._container.close()
        if kind is None:
            self._atomic.__exit__(None, None, None)
        else:  # under another name: a closed pipe elsewhere is not a failure to write this file
            abandoned = RuntimeError("the stream broke off")
            self._atomic.__exit__(RuntimeError, abandoned, None)

    def write(
        self, time_s: float, frame_HWC: np.ndarray, log_probs: Mapping[str, np.ndarray], current: str | None
    ) -> None:
        """Appends one frame; frames that come closer than a millisecond are left out."""
        pts = round(time_s / TIME_BASE)
        if pts <= self._last_pts or self._container is None:
            return
        picture = self.compose(frame_HWC, log_probs, current, time_s)
        stream = self._stream or self._open_stream(picture.shape[0], picture.shape[1])
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = pts, TIME_BASE
        self._last_pts = pts
        self._container.mux(stream.encode(frame))

    def _open_stream(self, height: int, width: int) -> av.VideoStream:
        assert self._container is not None
        stream = self._container.add_stream("libx264", rate=30, options={"crf": "23", "preset": "veryfast"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        # Times are those of the source, whatever its rate.
        stream.time_base = stream.codec_context.time_base = TIME_BASE
        stream.codec_context.thread_count = 1
        self._stream = stream
        return stream

    def compose(
        self, frame_HWC: np.ndarray, log_probs: Mapping[str, np.ndarray], current: str | None, time_s: float
    ) -> np.ndarray:
        """Returns the picture of one moment, uint8 ``[H, W, 3]`` with even sides."""
        height, width = frame_HWC.shape[:2]
        if not self._width:  # a source that changes its size keeps the width of its first frame
            self._width = max(2, round(width * HEIGHT_PX / height / 2) * 2)
        way = cv2.INTER_AREA if height >= HEIGHT_PX else cv2.INTER_CUBIC
        left = cv2.resize(np.ascontiguousarray(frame_HWC), (self._width, HEIGHT_PX), interpolation=way)
        panel = np.full((HEIGHT_PX, PANEL_PX, 3), PAPER, np.uint8)
        _text(panel, f"{time_s:.2f} s", (20, 34), MUTED, 0.5)
        _text(panel, current or "-", (20, 70), INK, 0.75)
        probs_K = np.exp(log_probs[self.card.main_head])
        for row, index in enumerate(np.argsort(-probs_K)[:NUM_BARS]):
            y = 118 + 48 * row
            _text(panel, self.card.class_names[self.card.main_head][index][:34], (20, y), INK, 0.45)
            _text(panel, f"{100 * probs_K[index]:3.0f} %", (PANEL_PX - 64, y), MUTED, 0.45)
            length = max(1, round((PANEL_PX - 40) * float(probs_K[index])))
            cv2.rectangle(panel, (20, y + 8), (20 + length, y + 16), BAR, -1)
        _text(panel, self._hands(log_probs), (20, HEIGHT_PX - 10), MUTED, 0.45)
        return np.concatenate([left, panel], axis=1)

    def _hands(self, log_probs: Mapping[str, np.ndarray]) -> str:
        """What each hand holds, for networks that say so."""
        words = []
        for side, head in HAND_HEADS.items():
            if head in log_probs:
                state = hand_state(np.exp(log_probs[head]), self.card.class_names[head], CONTACT_PROBABILITY)
                words.append(f"{side} hand: {state['object'] or '-'}")
        return "   ".join(words)


def _text(panel: np.ndarray, text: str, origin: tuple[int, int], colour: tuple[int, int, int], scale: float) -> None:
    cv2.putText(panel, text, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)
