"""The held-out clips on which teachers are weighted and calibrated: chosen once, written to disk, never reported on."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from egoloom.clips.files import write_text
from egoloom.errors import UserError


def choose_weighting_split(
    clip_ids: Sequence[str],
    groups: Sequence[str],
    *,
    fraction: float,
    seed: int = 0,
) -> list[str]:
    """Returns ids of held-out clips: whole groups (videos) are taken until the asked share is reached.

    Neighbouring clips of one video look alike, so a split through a video would flatter the teachers.

    Args:
        clip_ids: Candidates; training clips that the teachers were not trained on.
        groups: The group of each clip, usually its video.
        fraction: Share of clips to take, between 0 and 1.
        seed: Decides the order of the groups.

    Raises:
        UserError: If the fraction is out of range or there is only one group.
    """
    if not 0 < fraction < 1:
        raise UserError(f"The held-out fraction is {fraction}", allowed="above 0 and below 1")
    names = sorted(set(groups))
    if len(names) < 2:
        raise UserError(f"All {len(clip_ids)} clips belong to one video, so none can be held out")
    order = np.random.default_rng(seed).permutation(len(names))
    wanted, chosen, taken = fraction * len(clip_ids), [], set()
    for index in order[:-1]:
        taken.add(names[index])
        chosen = [clip for clip, group in zip(clip_ids, groups, strict=True) if group in taken]
        if len(chosen) >= wanted:
            break
    return chosen


def write_weighting_split(path: Path, clip_ids: Sequence[str], *, reported: Collection[str], seed: int = 0) -> None:
    """Writes the held-out clip ids as JSON, after checking that none of them is reported on.

    Raises:
        UserError: If the split is empty or overlaps the reported one.
    """
    check_weighting_split(clip_ids, reported=reported)
    content = {"purpose": "weights and temperatures of teachers", "seed": seed, "clip_ids": list(clip_ids)}
    write_text(path, json.dumps(content, indent=1) + "\n")


def read_weighting_split(path: Path, *, reported: Collection[str]) -> list[str]:
    """Returns the clip ids of a written split, after the same check.

    Raises:
        UserError: If the file is missing or of another kind, or the split overlaps the reported one.
    """
    try:
        clip_ids = json.loads(path.read_text(encoding="utf-8"))["clip_ids"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a weighting split: {error}") from error
    check_weighting_split(clip_ids, reported=reported)
    return clip_ids


def check_weighting_split(clip_ids: Sequence[str], *, reported: Collection[str]) -> None:
    """Raises UserError where the split is empty or shares a clip with the reported one."""
    if not clip_ids:
        raise UserError("The split for weighting teachers is empty", fix="hold out a larger fraction")
    shared = sorted(set(clip_ids) & set(reported))
    if shared:
        raise UserError(
            f"{len(shared)} clips of the weighting split are also reported on, first: {shared[0]}",
            allowed="disjoint splits",
            fix="choose the weighting split among training clips",
        )
