"""Generation shared among processes: clips are claimed one by one, finished ones are never lost or done twice.

A claim is an advisory lock (``flock``) on ``OUT/.job/claims/<clip>``. The system frees it when its holder dies, however
it dies, so a lost worker's clip is simply claimed again; whether a clip is done is decided by the store alone. The same
holds for workers of two commands, or of Ray, that share the folder. The file system must support locks.
"""

import contextlib
import errno
import fcntl
import json
import multiprocessing
import os
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from egoloom._parallel import use_one_thread
from egoloom.augmentation.generate import (
    AugmentationConfig,
    AugmentationReport,
    Generator,
    generate_clip,
    generated_id,
    generated_store,
    refuse_total_failure,
)
from egoloom.augmentation.generators import open_generator
from egoloom.augmentation.pick import Candidate
from egoloom.clips import Clip, ClipStore
from egoloom.clips.files import write_text
from egoloom.errors import UserError

STATE = ".job"
MAX_ATTEMPTS = 5  # of one clip within one run: more means that the clip itself kills its workers
MAX_DEATHS_IN_VAIN = 5
MIN_FREE_BYTES = 20 * 2**20
POLL_S = 0.2


@dataclass(frozen=True)
class Order:
    """One exo clip to do.

    Attributes:
        source: Its store.
        clip: The clip.
        prefix: Put before the ids of what is made.
        split: Split of what is made.
        marks: Written into its ``extra``.
    """

    source: Path
    clip: Clip
    prefix: str = ""
    split: str = "train"
    marks: dict[str, str] = field(default_factory=dict)

    @property
    def made_id(self) -> str:
        """Id of the clip that is made."""
        return generated_id(self.clip, self.prefix)


@dataclass(frozen=True)
class Job:
    """What workers need to know; it travels to other processes and machines.

    Attributes:
        orders: The clips.
        out: Store of the generated clips; it exists.
        generator: ``builtin``, ``inpainting`` or a folder.
        config: Sizes and options.
        run: Attempts and failures of other runs do not count.
    """

    orders: tuple[Order, ...]
    out: Path
    generator: str
    config: AugmentationConfig
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    def with_orders(self, candidates: Sequence[Candidate], *, split: str) -> "Job":
        """Returns the job with further clips, which get another split."""
        return replace(self, orders=self.orders + _orders(candidates, split))

    @property
    def state(self) -> Path:
        """Folder of claims and failures."""
        return self.out / STATE


def plan_job(
    candidates: Sequence[Candidate], out: Path, generator: str, config: AugmentationConfig, *, split: str = "train"
) -> Job:
    """Returns the job for picked clips and makes its store.

    Raises:
        UserError: If there are no clips, or the sources have different classes.
    """
    if not candidates:
        raise UserError("No exo clip is left to generate", fix="lower --min-coverage, --min-visibility")
    sources = list({candidate.store.path: candidate.store for candidate in candidates}.values())
    for other in sources[1:]:
        if other.info.label_spaces != sources[0].info.label_spaces:
            raise UserError(f"{other.path} has other classes than {sources[0].path}", fix="augment them separately")
    _, name = open_generator(generator)
    generated_store(out, sources[0], name)
    return Job(_orders(candidates, split), out, generator, config)


def _orders(candidates: Sequence[Candidate], split: str) -> tuple[Order, ...]:
    counts = Counter(candidate.clip.clip_id for candidate in candidates)
    return tuple(
        Order(
            candidate.store.path,
            candidate.clip,
            f"{candidate.store.path.name}-" if counts[candidate.clip.clip_id] > 1 else "",
            split,
            {"label_confidence": f"{candidate.label_confidence:.3f}", "expected_coverage": f"{candidate.coverage:.3f}"},
        )
        for candidate in candidates
    )


def run_job(job: Job, *, num_workers: int = 1, ray_address: str | None = None) -> AugmentationReport:
    """Generates all clips of a job that its store does not hold yet.

    Args:
        job: The clips.
        num_workers: Processes; 1 works in this one.
        ray_address: Cluster to work on instead (``local`` starts one here, ``auto`` finds one, or ``host:port``).

    Raises:
        UserError: If nothing could be generated, the disk is full, or workers keep dying.
    """
    store = ClipStore.open(job.out)
    wanted = {order.made_id for order in job.orders}
    before = wanted & {clip.clip_id for clip in store.clips}
    (job.state / "claims").mkdir(parents=True, exist_ok=True)
    (job.state / "stop.json").unlink(missing_ok=True)
    with _progress_bar() as bar:
        shown = bar.add_task("generating", total=len(wanted), completed=len(before))

        def on_poll() -> int:
            settled = len(settled_ids(job))
            bar.update(shown, completed=settled)
            return settled

        if len(before) < len(wanted):
            if ray_address is not None:
                from egoloom.augmentation.ray_workers import work_on_ray

                work_on_ray(job, ray_address, num_workers, on_poll)
            elif num_workers > 1:
                _supervise(job, num_workers, on_poll)
            else:
                work(job, on_clip=lambda: bar.advance(shown))
    _raise_stop(job)
    store.reload()
    there = wanted & {clip.clip_id for clip in store.clips}
    failures = {id_: reason for id_, reason in read_failures(job).items() if id_ not in there}
    report = AugmentationReport(store, len(there) - len(before), len(before), failures)
    refuse_total_failure(report, len(job.orders))
    return report


# -- the work of one process ----------------------------------------------------------------------------------


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
            if (parent is not None and os.getppid() != parent) or (job.state / "stop.json").exists():
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
        _write_failure(job, order, getattr(error, "what", "") or f"{type(error).__name__}: {error}")


@contextlib.contextmanager
def claimed(job: Job, order: Order) -> Iterator[bool]:
    """Yields whether the clip is ours to do: nobody else holds it, it is not done, and it has not failed in this run.

    The claim's file keeps one line an attempt: run and process id.
    """
    path = job.state / "claims" / order.made_id
    with path.open("a+", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        handle.seek(0)
        attempts = handle.read().split("\n")[:-1]
        # Only a clip that somebody began before us can have been finished since we looked.
        if attempts and _is_done(job.out, order.made_id):
            yield False
            return
        num_own = sum(line.startswith(job.run) for line in attempts)
        if num_own >= MAX_ATTEMPTS:
            _write_failure(job, order, f"{num_own} workers died while they generated it")
        if order.made_id in read_failures(job):
            yield False
            return
        handle.write(f"{job.run} {os.getpid()}\n")
        handle.flush()
        yield True


def settled_ids(job: Job) -> set[str]:
    """Returns the ids that are done, or failed in this run."""
    there = {clip.clip_id for clip in ClipStore.open(job.out).clips}
    return ({order.made_id for order in job.orders} & there) | set(read_failures(job))


def read_failures(job: Job) -> dict[str, str]:
    """Returns id to reason of the clips that failed in this run."""
    found = {}
    for path in sorted((job.state / "failures" / job.run).glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        found[content["id"]] = content["reason"]
    return found


def write_stop(job: Job, reason: str) -> None:
    """Asks all workers' supervisor to stop; nothing more to do where even this cannot be written."""
    with contextlib.suppress(UserError, OSError):
        write_text(job.state / "stop.json", json.dumps({"reason": reason}))


def _write_failure(job: Job, order: Order, reason: str) -> None:
    path = job.state / "failures" / job.run / f"{order.made_id}.json"
    write_text(path, json.dumps({"id": order.made_id, "reason": reason}))


def _is_done(out: Path, made_id: str) -> bool:
    return any(clip.clip_id == made_id for clip in ClipStore.open(out).clips)


def _refuse_full_disk(out: Path) -> None:
    if shutil.disk_usage(out).free < MIN_FREE_BYTES:
        raise OSError(errno.ENOSPC, "no space left")


def _is_full_disk(error: BaseException) -> bool:
    chain = [error, error.__cause__, error.__context__]
    return any(isinstance(one, OSError) and one.errno == errno.ENOSPC for one in chain)


def _raise_stop(job: Job) -> None:
    path = job.state / "stop.json"
    if path.is_file():
        reason = json.loads(path.read_text(encoding="utf-8"))["reason"]
        raise UserError(f"{reason}; what was finished is kept", fix="free space; the same command continues")


# -- many processes -------------------------------------------------------------------------------------------


def worker_main(job: Job, offset: int, parent: int) -> None:
    """Entry point of a spawned process."""
    use_one_thread()
    work(job, offset=offset, parent=parent)


def worker_on_ray(job: Job, offset: int) -> None:
    """Entry point of a worker on a cluster."""
    use_one_thread()
    work(job, offset=offset)


def _supervise(job: Job, num_workers: int, on_poll: Callable[[], int]) -> None:
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
        while num_settled < len(job.orders) and not (job.state / "stop.json").exists():
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


def _progress_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        transient=True,
    )


# -- before the work ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """What a job will take.

    Attributes:
        num_clips: Clips to do.
        num_kept: Clips that are there already.
        seconds_a_clip: Measured on the first clips, one process.
        hours: With the workers asked for.
        megabytes: Space of the result.
        cost: Hours times price, where a price was given.
    """

    num_clips: int
    num_kept: int
    seconds_a_clip: float
    hours: float
    megabytes: float
    cost: float | None


def estimate(job: Job, *, num_workers: int = 1, price_per_hour: float | None = None, num_measured: int = 3) -> Estimate:
    """Generates a few clips into a temporary folder and returns time, space and cost of the whole job.

    Args:
        job: The job; nothing is written into its store.
        num_workers: Processes.
        price_per_hour: Price of the machine that runs all workers.
        num_measured: Clips generated.

    Raises:
        UserError: If none of the first clips can be generated.
    """
    import tempfile

    there = {clip.clip_id for clip in ClipStore.open(job.out).clips}
    todo = [order for order in job.orders if order.made_id not in there]
    if not todo:
        return Estimate(0, len(job.orders), 0.0, 0.0, 0.0, 0.0 if price_per_hour is not None else None)
    pipeline, name = open_generator(job.generator)
    spans, num_bytes, reason = [], [], ""
    with tempfile.TemporaryDirectory() as folder:
        for number, order in enumerate(todo[: num_measured + 1]):
            source = ClipStore.open(order.source)
            target = generated_store(Path(folder) / str(number), source, name)
            start_s = time.perf_counter()
            try:
                generate_clip(source, order.clip, pipeline, target, generator=name, config=job.config)
            except UserError as error:
                reason = error.what
                continue
            spans.append(time.perf_counter() - start_s)
            num_bytes.append(sum(path.stat().st_size for path in target.path.rglob("*") if path.is_file()))
    if not spans:
        raise UserError(f"None of the first clips can be generated: {reason}")
    # The first clip warms things up.
    seconds = sum(spans[1:]) / len(spans[1:]) if len(spans) > 1 else spans[0]
    hours = seconds * len(todo) / num_workers / 3600
    return Estimate(
        len(todo),
        len(job.orders) - len(todo),
        seconds,
        hours,
        len(todo) * sum(num_bytes) / len(num_bytes) / 2**20,
        None if price_per_hour is None else hours * price_per_hour,
    )
