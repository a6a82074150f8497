"""How generated clips enter training: a stated largest share, best quality first, evenly over actions if asked."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from egoloom.clips.dataset import ClipEntry


def limit_generated(
    entries: Sequence[ClipEntry], max_generated_share: float, *, balance: Literal["quality", "action"] = "quality"
) -> list[ClipEntry]:
    """Returns the entries with at most the given share of generated clips.

    Recorded clips all stay. Generated ones are kept by quality, the best first (unknown quality last), until their
    share of the result would exceed the limit; the order of the input is kept.

    Args:
        entries: Recorded and generated clips.
        max_generated_share: Between 0 (none) and 1 (excluded).
        balance: ``quality`` takes the best overall; ``action`` takes the best of every action in turn, so that no
            action gets many more than another.

    Raises:
        ValueError: If the share is out of range.
    """
    if not 0 <= max_generated_share < 1:
        raise ValueError(f"max_generated_share is {max_generated_share}; it must lie in [0, 1)")
    num_recorded = sum(not entry.clip.is_generated for entry in entries)
    # g / (g + r) <= s  <=>  g <= s r / (1 - s); the small term keeps exact shares from rounding down.
    allowed = int(max_generated_share * num_recorded / (1 - max_generated_share) + 1e-9)
    generated = [index for index, entry in enumerate(entries) if entry.clip.is_generated]
    generated.sort(key=lambda index: -(entries[index].clip.quality or float("-inf")))
    if balance == "action":
        turns: Counter[int] = Counter()
        turn_of = {}
        for index in generated:
            turn_of[index] = turns[entries[index].clip.action]
            turns[entries[index].clip.action] += 1
        generated.sort(key=turn_of.__getitem__)
    dropped = set(generated[allowed:])
    return [entry for index, entry in enumerate(entries) if index not in dropped]


def generated_share(entries: Sequence[ClipEntry]) -> float:
    """Returns the share of generated clips; 0 for an empty list."""
    return sum(entry.clip.is_generated for entry in entries) / len(entries) if entries else 0.0
