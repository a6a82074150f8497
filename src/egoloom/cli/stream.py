"""``egoloom stream``: follows a video, camera or network stream and writes events as JSON lines."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import ValidationError


def stream(
    model: Annotated[Path, tyro.conf.Positional],
    input: str,
    events: Path | None = None,
    output: Path | None = None,
    on_probability: float = 0.5,
    off_probability: float = 0.35,
    min_duration_s: float = 0.3,
    realtime: bool = False,
    reconnects: int = 5,
    max_seconds: float | None = None,
    num_threads: int = 1,
) -> None:
    """Names what the wearer does while it happens; every new frame costs one frame. Ctrl-C ends it and keeps all files.

    Args:
        model: An artefact folder of a causal student, or a checkpoint or run folder.
        input: A video or .vrs file, camera, camera:N, or an address such as rtsp://host/stream.
        events: Write the events there instead of to standard output.
        output: Also write a side-by-side mp4 with the predictions.
        on_probability: An event starts when its class reaches this.
        off_probability: It ends when its class falls below this.
        min_duration_s: Shorter events are dropped.
        realtime: Play a file at its own pace and drop frames like a camera.
        reconnects: How often a live source is opened again when it breaks.
        max_seconds: Stop after this much of the stream.
        num_threads: Threads of the runtime.
    """
    from egoloom.clips.files import atomic_path
    from egoloom.deployment.events import EventConfig, EventDetector
    from egoloom.deployment.overlay import OverlayWriter
    from egoloom.deployment.sources import SourceCounts, open_source
    from egoloom.deployment.streaming import open_stream, stream_predictions
    from egoloom.errors import UserError

    try:
        config = EventConfig(
            on_probability=on_probability, off_probability=off_probability, min_duration_s=min_duration_s
        )
    except ValidationError as error:
        raise UserError(f"The events cannot work: {error.errors()[0]['msg']}", allowed="0 < off <= on <= 1") from error
    student = open_stream(model, num_threads=num_threads)
    detector, counts = EventDetector(student.card, config), SourceCounts()
    frames = open_source(input, counts, reconnects=reconnects, realtime=realtime)
    num_events = num_predictions = 0
    time_s = 0.0
    with contextlib.ExitStack() as stack:
        overlay = stack.enter_context(OverlayWriter(output, student.card)) if output else None
        lines = stack.enter_context(stack.enter_context(atomic_path(events)).open("w")) if events else sys.stdout
        with _stopped_by_signals():
            for time_s, log_probs, frame in stream_predictions(student, frames):
                num_predictions += 1
                for event in detector.update(time_s, log_probs):
                    num_events += 1
                    print(event.to_json(), file=lines, flush=True)
                if overlay:
                    overlay.write(time_s, frame, log_probs, detector.current)
                if max_seconds is not None and time_s >= max_seconds:
                    break
        for event in detector.finish():
            num_events += 1
            print(event.to_json(), file=lines, flush=True)
    # Standard output belongs to the events; the summary goes to the terminal.
    say = sys.stderr
    print(
        f"{time_s:.1f} s: {counts.num_frames} frames read, {num_predictions} predictions, {num_events} events, "
        f"{counts.num_dropped} dropped, {counts.num_broken} broken, {counts.num_reconnects} reconnects",
        file=say,
    )
    for path, words in ((events, "Events"), (output, "Overlay")):
        if path:
            print(f"{words}: {path}", file=say)
    print(f"Next: egoloom bench {model}", file=say)


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Ctrl-C and a service manager's SIGTERM end a stream like its own end: what was seen so far is kept."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(arguments: list[str]) -> None:
    """Runs the verb."""
    tyro.cli(stream, prog="egoloom stream", args=arguments)
