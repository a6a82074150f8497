"""The job's workers on a Ray cluster: one long task a worker, restarted by Ray where its node is lost.

The workers claim clips on the shared folder as local processes do, decode there, and need nothing from the driver.
"""

import socket
from collections.abc import Callable
from typing import Any

from egoloom._optional import require_package
from egoloom.augmentation.claims import is_stopped
from egoloom.augmentation.job import Job
from egoloom.augmentation.workers import worker_on_ray
from egoloom.errors import UserError

POLL_S = 0.5
CONNECT_TIMEOUT_S = 3.0
MAX_STARTS = 3


def work_on_ray(job: Job, address: str, num_workers: int, on_poll: Callable[[], int]) -> None:
    """Runs the workers of a job on a cluster until every clip is settled.

    Args:
        job: The job; its folders must be visible to all nodes under the same paths.
        address: ``local`` starts a cluster in this machine, ``auto`` finds a running one, otherwise ``host:port``.
        num_workers: Tasks at once.
        on_poll: Called now and then; returns the number of settled clips.

    Raises:
        UserError: If Ray is not installed, or there is no cluster at the address.
    """
    ray = require_package("ray", extra="ray")
    refuse_unreachable(address)
    _connect(ray, address, num_workers)
    try:
        remote = ray.remote(max_retries=-1, num_cpus=1)(worker_on_ray)
        waiting = [remote.remote(job, k * len(job.orders) // num_workers) for k in range(num_workers)]
        while on_poll() < len(job.orders) and waiting and not is_stopped(job):
            done, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=POLL_S)
            ray.get(done)  # raises what a worker raised
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str, num_workers: int) -> None:
    """Joins a cluster or starts one; Ray gives its own node half a minute to start, which a busy machine may exceed."""
    quiet = {"log_to_driver": False, "logging_level": "error"}
    if address != "local":
        try:
            ray.init(address=address, **quiet)
        except Exception as error:
            allowed = "local, auto, host:port or ray://host:port"
            raise UserError(f"Cannot reach Ray at {address!r}: {error}", allowed=allowed) from error
        return
    for attempt in range(1, MAX_STARTS + 1):
        try:
            ray.init(num_cpus=num_workers, include_dashboard=False, **quiet)
            return
        except Exception as error:
            ray.shutdown()
            if attempt == MAX_STARTS:
                raise UserError(
                    f"Ray did not start on this machine, {attempt} times: {error}", fix="--workers without --ray"
                ) from error


def refuse_unreachable(address: str) -> None:
    """Raises a UserError at once where nobody listens; Ray itself would try for a minute.

    Args:
        address: As in `work_on_ray`; only ``host:port`` and ``ray://host:port`` are tried.
    """
    if address in {"local", "auto"}:
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    allowed = "local, auto, host:port or ray://host:port"
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UserError(f"{address!r} is no address of a Ray cluster", allowed=allowed)
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise UserError(
            f"No Ray cluster answers at {address}: {error}", allowed=allowed, fix="ray start --head, or --ray local"
        ) from error
