"""Work on many recordings at once: one process a worker, one thread each, failures collected instead of raised."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Generic, TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from egoloom.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

NUM_BEFORE_STOPPING = 5  # a share means nothing after one or two items


@dataclass(frozen=True)
class Failure:
    """An item that could not be done, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Outcome(Generic[Item, Result]):
    """What became of one item: a result, or a failure."""

    item: Item
    result: Result | None
    failure: Failure | None = None


def map_unordered(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    num_workers: int = 1,
    name_of: Callable[[Item], str] = str,
    description: str = "",
    progress: bool = True,
) -> Iterator[Outcome[Item, Result]]:
    """Yields the outcome of ``function`` for every item as soon as it is known.

    Workers are spawned, not forked (decoders do not survive a fork), and run one thread each. With one worker the
    work happens in this process. A user's mistake in one item becomes a failure; other exceptions are raised.

    Args:
        function: Picklable if ``num_workers > 1``.
        items: What to do.
        num_workers: Number of processes.
        name_of: How failures name an item.
        description: Label of the progress bar.
        progress: Whether to show it.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=not progress or not items, transient=True) as bar:
        task = bar.add_task(description, total=len(items))
        source = (
            _in_this_process(function, items, name_of)
            if num_workers <= 1 or len(items) <= 1
            else _in_workers(function, items, num_workers, name_of)
        )
        for outcome in source:
            bar.advance(task)
            yield outcome


def check_failures(failures: Sequence[Failure], num_done: int, num_total: int, max_failed_share: float) -> None:
    """Stops the work once too many items failed: then the input as a whole is probably wrong.

    Raises:
        UserError: If failures exceed ``max_failed_share`` of all items, or all of the first few failed.
    """
    num_failed = len(failures)
    hopeless = num_done == 0 and num_failed >= min(NUM_BEFORE_STOPPING, num_total)
    too_many = num_failed > max_failed_share * num_total and num_failed >= min(NUM_BEFORE_STOPPING, num_total)
    if num_failed and (hopeless or too_many):
        shown = "\n".join(f"    {failure.name}: {failure.reason}" for failure in failures[:5])
        raise UserError(
            f"{num_failed} of {num_total} recordings failed; stopped (what was finished is kept):\n{shown}",
            allowed=f"a failed share of at most {max_failed_share:g}",
            fix="repair the files, or pass a larger --max-failed-share; the same command continues",
        )


def _in_this_process(
    function: Callable[[Item], Result], items: Sequence[Item], name_of: Callable[[Item], str]
) -> Iterator[Outcome[Item, Result]]:
    for item in items:
        try:
            result = function(item)
        except UserError as error:
            yield Outcome(item, None, Failure(name_of(item), error.what))
        else:
            yield Outcome(item, result)


def _in_workers(
    function: Callable[[Item], Result], items: Sequence[Item], num_workers: int, name_of: Callable[[Item], str]
) -> Iterator[Outcome[Item, Result]]:
    context = multiprocessing.get_context("spawn")
    num_workers = min(num_workers, len(items))
    with ProcessPoolExecutor(num_workers, mp_context=context, initializer=_begin, initargs=(os.getpid(),)) as pool:
        waiting: dict[Future[Result], Item] = {}
        rest = iter(items)
        try:
            while True:
                # A short queue keeps memory flat and lets an interrupted run stop at once.
                while len(waiting) < 2 * num_workers and (item := next(rest, None)) is not None:
                    waiting[pool.submit(function, item)] = item
                if not waiting:
                    return
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield _outcome(future, waiting.pop(future), name_of)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _outcome(future: "Future[Result]", item: Item, name_of: Callable[[Item], str]) -> Outcome[Item, Result]:
    try:
        return Outcome(item, future.result())
    except UserError as error:
        return Outcome(item, None, Failure(name_of(item), error.what))
    except BrokenProcessPool as error:
        raise UserError(
            f"A worker process died at {name_of(item)} (out of memory, or a crash of the decoder)",
            fix="run again with --num-workers 1 to see which file it is, and remove it",
        ) from error


def _begin(parent: int) -> None:
    use_one_thread()
    end_with(parent)


def end_with(parent: int) -> None:
    """Ends this process soon after its parent, however that ended: an orphan would write beside the next run."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def use_one_thread() -> None:
    """Sets every library to one thread: the processes are the parallelism."""
    import cv2
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
