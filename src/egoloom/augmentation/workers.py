"""Generation shared among processes: clips are claimed one by one, finished ones are never lost or done twice."""

import errno
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from egoloom._parallel import use_one_thread
from egoloom.augmentation.claims import claimed, is_stopped, settled_ids, write_failure, write_stop
from egoloom.augmentation.generate import Generator, generate_clip
from egoloom.augmentation.generators import open_generator
from egoloom.augmentation.job import Job, Order
from egoloom.clips import ClipStore
from egoloom.errors import UserError

MAX_DEATHS_IN_VAIN = 5
MIN_FREE_BYTES = 20 * 2**20
POLL_S = 0.2


def work(job: Job, *, offset: int = 0, parent: int | None = None, on_clip: Callable[[], object] | None = None) -> None:
    """Does every clip that nobody else does, and waits for those of others, which are done here should they die.

    Args:
        job: The job.
        offset: Where to start, so that workers do not queue for the same claims.
        parent: Process id of the supervisor; without it the work stops after the clip at hand.
        on_clip: Called after each clip.
    """
    pipeline, name = open_generator(job.generator)
    target = ClipStore.open(job.out)
    sources = {path: ClipStore.open(path) for path in {order.source for order in job.orders}}
    orders = [job.orders[(index + offset) % len(job.orders)] for index in range(len(job.orders))]
    while orders := _unsettled(job, orders):
        num_claimed = 0
        for order in orders:
            if (parent is not None and os.getppid() != parent) or is_stopped(job):
                return
            with claimed(job, order) as is_mine:
                if is_mine:
                    num_claimed += 1
                    _do(job, order, sources[order.source], target, pipeline, name)
            if is_mine and on_clip:
                on_clip()
        if not num_claimed:
            time.sleep(POLL_S)


def _unsettled(job: Job, orders: Sequence[Order]) -> list[Order]:
    settled = settled_ids(job)
    return [order for order in orders if order.made_id not in settled]


def _do(job: Job, order: Order, source: ClipStore, target: ClipStore, pipeline: Generator, name: str) -> None:
    """Generates one clip; whatever a bad clip raises becomes its failure."""
    config = job.config.model_copy(update={"split": order.split})
    try:
        _refuse_full_disk(job.out)
        generate_clip(
            source, order.clip, pipeline, target, generator=name, config=config, prefix=order.prefix, marks=order.marks
        )
    except Exception as error:  # the others go on
        if _is_full_disk(error):
            write_stop(job, f"The disk of {job.out} is full")
            return
        write_failure(job, order, getattr(error, "what", "") or f"{type(error).__name__}: {error}")


def _refuse_full_disk(out: Path) -> None:
    if shutil.disk_usage(out).free < MIN_FREE_BYTES:
        raise OSError(errno.ENOSPC, "no space left")


def _is_full_disk(error: BaseException) -> bool:
    chain = [error, error.__cause__, error.__context__]
    return any(isinstance(one, OSError) and one.errno == errno.ENOSPC for one in chain)


def worker_main(job: Job, offset: int, parent: int) -> None:
    """Entry point of a spawned process."""
    use_one_thread()
    work(job, offset=offset, parent=parent)


def worker_on_ray(job: Job, offset: int) -> None:
    """Entry point of a worker on a cluster."""
    use_one_thread()
    work(job, offset=offset)


def supervise(job: Job, num_workers: int, on_poll: Callable[[], int]) -> None:
    """Keeps ``num_workers`` processes at work until every clip is settled; dead ones are replaced."""
    context = multiprocessing.get_context("spawn")
    num_started = 0

    def start() -> BaseProcess:
        nonlocal num_started
        offset = num_started * len(job.orders) // num_workers
        num_started += 1
        process = context.Process(target=worker_main, args=(job, offset, os.getpid()))
        process.start()
        return process

    workers = [start() for _ in range(min(num_workers, len(job.orders)))]
    num_settled, deaths_in_vain = on_poll(), 0
    try:
        while num_settled < len(job.orders) and not is_stopped(job):
            time.sleep(POLL_S)
            now = on_poll()
            if now > num_settled:
                num_settled, deaths_in_vain = now, 0
            for index, worker in enumerate(workers):
                if worker.is_alive():
                    continue
                deaths_in_vain += worker.exitcode != 0
                if deaths_in_vain > MAX_DEATHS_IN_VAIN * num_workers:
                    raise UserError(
                        f"{deaths_in_vain} workers died in a row without finishing a clip (the last with exit code "
                        f"{worker.exitcode})",
                        fix="run with --workers 1 to see why; fewer workers need less memory",
                    )
                workers[index] = start()
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()
