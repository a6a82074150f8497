"""Who does which clip: claims, failures and the request to stop, as files that all workers of a job see.

A claim is an advisory lock (``flock``) on ``OUT/.job/claims/<clip>``. The system frees it when its holder dies, however
it dies, so a lost worker's clip is simply claimed again; whether a clip is done is decided by the store alone. The same
holds for workers of two commands, or of Ray, that share the folder. The file system must support locks.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

from egoloom.augmentation.job import Job, Order
from egoloom.clips import ClipStore
from egoloom.clips.files import write_text
from egoloom.errors import UserError

STOP = "stop.json"
MAX_ATTEMPTS = 5  # of one clip within one run: more means that the clip itself kills its workers


def prepare(job: Job) -> None:
    """Makes the folder of claims and forgets an earlier request to stop."""
    (job.state / "claims").mkdir(parents=True, exist_ok=True)
    (job.state / STOP).unlink(missing_ok=True)


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
        if attempts and is_done(job.out, order.made_id):
            yield False
            return
        num_own = sum(line.startswith(job.run) for line in attempts)
        if num_own >= MAX_ATTEMPTS:
            write_failure(job, order, f"{num_own} workers died while they generated it")
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


def write_failure(job: Job, order: Order, reason: str) -> None:
    """Settles a clip for this run: it is not tried again, and the reason is shown."""
    path = job.state / "failures" / job.run / f"{order.made_id}.json"
    write_text(path, json.dumps({"id": order.made_id, "reason": reason}))


def write_stop(job: Job, reason: str) -> None:
    """Asks all workers' supervisor to stop; nothing more to do where even this cannot be written."""
    with contextlib.suppress(UserError, OSError):
        write_text(job.state / STOP, json.dumps({"reason": reason}))


def is_stopped(job: Job) -> bool:
    """Whether a worker asked all to stop."""
    return (job.state / STOP).exists()


def raise_stop(job: Job) -> None:
    """Raises a UserError if a worker asked all to stop."""
    path = job.state / STOP
    if path.is_file():
        reason = json.loads(path.read_text(encoding="utf-8"))["reason"]
        raise UserError(f"{reason}; what was finished is kept", fix="free space; the same command continues")


def is_done(out: Path, made_id: str) -> bool:
    """Whether the store holds a clip now."""
    return any(clip.clip_id == made_id for clip in ClipStore.open(out).clips)
