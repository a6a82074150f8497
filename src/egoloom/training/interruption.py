"""Ctrl-C without damage: the loop finishes the batch at hand, writes a checkpoint and only then stops."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interruption:
    """Whether a stop was asked for."""

    def __init__(self) -> None:
        self.is_requested = False

    def request(self, signum: int, frame: FrameType | None) -> None:
        """Signal handler: notes the first Ctrl-C; a second one stops at once."""
        if self.is_requested:
            raise KeyboardInterrupt
        self.is_requested = True


@contextlib.contextmanager
def deferred_interrupts() -> Iterator[Interruption]:
    """Turns SIGINT and SIGTERM into a request for the time of the block (in the main thread; elsewhere nothing)."""
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    previous = {number: signal.signal(number, interruption.request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interruption
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
