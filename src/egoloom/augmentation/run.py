"""Runs a job: here, in many processes or on a Ray cluster, with a progress bar; and says beforehand what it takes."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from egoloom.augmentation.claims import prepare, raise_stop, read_failures, settled_ids
from egoloom.augmentation.generate import AugmentationReport, generate_clip, generated_store, refuse_total_failure
from egoloom.augmentation.generators import generator_name, open_generator
from egoloom.augmentation.job import Job
from egoloom.augmentation.workers import supervise, work
from egoloom.clips import ClipStore
from egoloom.errors import UserError


def run_job(job: Job, *, num_workers: int = 1, ray_address: str | None = None) -> AugmentationReport:
    """Generates all clips of a job that its store does not hold yet.

    Args:
        job: The clips.
        num_workers: Processes; 1 works in this one.
        ray_address: Cluster to work on instead (``local`` starts one here, ``auto`` finds one, or ``host:port``).

    Raises:
        UserError: If nothing could be generated, the disk is full, or workers keep dying.
    """
    store = generated_store(job.out, ClipStore.open(job.orders[0].source), generator_name(job.generator))
    wanted = {order.made_id for order in job.orders}
    before = wanted & {clip.clip_id for clip in store.clips}
    prepare(job)
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
                supervise(job, num_workers, on_poll)
            else:
                work(job, on_clip=lambda: bar.advance(shown))
    raise_stop(job)
    store.reload()
    there = wanted & {clip.clip_id for clip in store.clips}
    failures = {id_: reason for id_, reason in read_failures(job).items() if id_ not in there}
    report = AugmentationReport(store, len(there) - len(before), len(before), failures)
    refuse_total_failure(report, len(job.orders))
    return report


def _progress_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        transient=True,
    )


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
        job: The job; its store is neither made nor written into.
        num_workers: Processes.
        price_per_hour: Price of the machine that runs all workers.
        num_measured: Clips generated.

    Raises:
        UserError: If none of the first clips can be generated.
    """
    there = {clip.clip_id for clip in ClipStore.open(job.out).clips} if job.out.exists() else set()
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
