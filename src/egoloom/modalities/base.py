"""The contract of every computed modality: one track a video, resumable, parallel, faults listed instead of raised."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from egoloom._parallel import Failure, check_failures, map_unordered
from egoloom.clips import ClipStore, Modality

NUM_TRACKS_PER_MARK = 256


@dataclass(frozen=True)
class ModalityReport:
    """What ``compute`` did.

    Attributes:
        modality: Which track was computed.
        num_done: Videos whose track was computed now.
        num_skipped: Videos that had it already, or have nothing to compute it from (no sound, no IMU).
        failures: Videos that could not be read, and why.
    """

    modality: Modality
    num_done: int
    num_skipped: int
    failures: tuple[Failure, ...] = ()


Task = Callable[[str], bool]


def compute_tracks(
    store: ClipStore,
    modality: Modality,
    task: Task,
    *,
    video_ids: Sequence[str] | None = None,
    num_workers: int = 1,
    progress: bool = True,
    recompute: bool = False,
    max_failed_share: float = 0.1,
) -> ModalityReport:
    """Computes one track for every video and records what is present.

    Tracks that exist are kept, so that an interrupted run continues where it stopped and a second run does nothing.

    Args:
        store: The store.
        modality: Which track.
        task: Writes the track of one video id; returns False if there is nothing to compute it from. Picklable.
        video_ids: The videos; default: all.
        num_workers: Number of processes.
        progress: Whether to show a progress bar.
        recompute: Compute existing tracks again.
        max_failed_share: Share of unreadable videos above which the work stops.

    Raises:
        UserError: If too many videos fail.
    """
    video_ids = list(store.videos) if video_ids is None else list(video_ids)
    existing = [] if recompute else [v for v in video_ids if store.media_path(modality, v).is_file()]
    todo = sorted(set(video_ids) - set(existing))
    unmarked, num_done, num_empty, failures = list(existing), 0, 0, []
    try:
        for outcome in map_unordered(task, todo, num_workers=num_workers, description=str(modality), progress=progress):
            if outcome.failure is not None:
                failures.append(outcome.failure)
                check_failures(failures, num_done + num_empty + len(existing), len(video_ids), max_failed_share)
            elif outcome.result:
                num_done += 1
                unmarked.append(outcome.item)
            else:
                num_empty += 1
            if len(unmarked) >= NUM_TRACKS_PER_MARK:
                _mark(store, modality, unmarked)
                unmarked = []
    finally:  # also when interrupted: what exists must be known
        _mark(store, modality, unmarked)
    check_failures(failures, num_done + num_empty + len(existing), len(video_ids), max_failed_share)
    return ModalityReport(modality, num_done, len(existing) + num_empty, tuple(failures))


def rgb_path(store_path: Path, video_id: str) -> Path:
    """Returns where the RGB video of a store lies, also in reference mode."""
    store = ClipStore.open(store_path)
    return store.path / store.videos[video_id].path


def _mark(store: ClipStore, modality: Modality, video_ids: Sequence[str]) -> None:
    done = set(video_ids)
    if any(clip.video_id in done and modality not in clip.present for clip in store.clips):
        store.mark_present(modality, done)
