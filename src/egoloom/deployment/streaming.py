"""Frame-by-frame inference: a new frame costs one frame, because the causal shift's features are cached.

Shape letters: T frames of the window, C channels, H height, W width, K classes.
"""

from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from egoloom.clips.transforms import SpatialPlan, ViewConfig
from egoloom.deployment.card import Card
from egoloom.deployment.targets import Runtime


class StudentStream:
    """A causal student with its cached features and the logits of the last frames.

    After ``t`` frames the scores equal those of a clip of these ``t`` frames, as long as ``t`` does not exceed the
    window; later they are those of the last ``window`` frames, whose features also know what came before.

    Args:
        card: Of the artefact; must have a ``stream`` part.
        runtime: The loaded step graph.
        window: Frames that a prediction averages; default: the frames of a training clip.
    """

    def __init__(self, card: Card, runtime: Runtime, *, window: int | None = None) -> None:
        if card.stream is None:
            raise ValueError("The card has no stream part: this student is not causal")
        self.card = card
        self.runtime = runtime
        self.window = window or card.input.num_frames
        self._shapes = {name: (1, *shape) for name, shape in card.stream.state_shapes.items()}
        self.reset()

    def reset(self) -> None:
        """Forgets the past, for instance after a cut."""
        self._states = {name: np.zeros(shape, np.float32) for name, shape in self._shapes.items()}
        self._logits: dict[str, deque[np.ndarray]] = {head: deque(maxlen=self.window) for head in self.card.class_names}

    @property
    def num_frames(self) -> int:
        """Frames in the window so far."""
        return len(self._logits[self.card.main_head])

    def push(self, frame_CHW: np.ndarray) -> dict[str, np.ndarray]:
        """Takes the next frame and returns calibrated log-probabilities ``[K]`` of each head.

        Args:
            frame_CHW: uint8 RGB ``[3, size_px, size_px]``.
        """
        outputs = self.runtime.run({"frame": frame_CHW[None], **self._states})
        self._states = {name: outputs[f"new_{name}"] for name in self._states}
        scores = {}
        for head, values in self._logits.items():
            values.append(outputs[head][0])
            mean_K = np.mean(values, axis=0, dtype=np.float64)
            shifted = mean_K - mean_K.max()
            scores[head] = shifted - np.log(np.exp(shifted).sum())
        return scores


class FrameClock:
    """Decides which frames a student sees: the one that is shown at each tick of its training spacing.

    A source slower than the spacing repeats its last frame, at most a window's worth, exactly as clip sampling does.

    Args:
        spacing_s: Seconds between ticks.
        max_repeats: Upper bound of repeats after a gap.
    """

    def __init__(self, spacing_s: float, max_repeats: int) -> None:
        self.spacing_s = spacing_s
        self.max_repeats = max_repeats
        self._tick = 0
        self._start_s: float | None = None

    def ticks_before(self, time_s: float) -> list[float]:
        """Returns the ticks that the previous frame still covers when a frame that starts at ``time_s`` arrives."""
        if self._start_s is None:
            self._start_s = time_s
            return []
        ticks = []
        while (due_s := self._start_s + self._tick * self.spacing_s) < time_s - 1e-4:
            ticks.append(due_s)
            self._tick += 1
        return ticks[-self.max_repeats :]


def square(frame_HWC: np.ndarray, size_px: int) -> np.ndarray:
    """Returns the centre crop of a frame at the network's size, uint8 ``[3, size, size]``."""
    plan = SpatialPlan.regular(frame_HWC.shape[0], frame_HWC.shape[1], ViewConfig(size_px=size_px))
    return plan.rgb(frame_HWC.transpose(2, 0, 1)[None])[0]


def stream_predictions(
    stream: StudentStream, frames: Iterator[tuple[float, np.ndarray]]
) -> Iterator[tuple[float, dict[str, np.ndarray], np.ndarray]]:
    """Runs a student over timed frames.

    Args:
        stream: The student.
        frames: Pairs of seconds and uint8 RGB ``[H, W, 3]``, times rising.

    Yields:
        ``(time_s, log_probs, frame)`` for every tick; ``frame`` is the one that was shown then.
    """
    size = stream.card.input
    clock = FrameClock(size.seconds_between_frames, stream.window)
    previous: np.ndarray | None = None
    prepared: np.ndarray | None = None
    last_s, interval_s = 0.0, 1.0 / 30
    for time_s, frame in frames:
        for tick_s in clock.ticks_before(time_s):
            assert previous is not None, "the first frame covers no earlier tick"
            prepared = square(previous, size.size_px) if prepared is None else prepared
            yield tick_s, stream.push(prepared), previous
        if previous is not None:
            interval_s = time_s - last_s
        previous, prepared, last_s = frame, None, time_s
    if previous is not None:  # the last frame is shown as long as the one before it
        for tick_s in clock.ticks_before(last_s + interval_s):
            yield tick_s, stream.push(square(previous, size.size_px)), previous


def open_stream(path: Path | str, *, num_threads: int = 1, window: int | None = None) -> StudentStream:
    """Opens an artefact or checkpoint for streaming.

    Raises:
        UserError: If it cannot stream; see `egoloom.deployment.artefact.load_step`.
    """
    from egoloom.deployment.artefact import load_step

    card, runtime = load_step(path, num_threads=num_threads)
    return StudentStream(card, runtime, window=window)
