"""How generated clips enter training: a stated largest share, best quality first."""

from collections.abc import Sequence

from egoloom.clips.dataset import ClipEntry


def limit_generated(entries: Sequence[ClipEntry], max_generated_share: float) -> list[ClipEntry]:
    """Returns the entries with at most the given share of generated clips.

    Recorded clips all stay. Generated ones are kept by quality, the best first (unknown quality last), until their
    share of the result would exceed the limit; the order of the input is kept.

    Args:
        entries: Recorded and generated clips.
        max_generated_share: Between 0 (none) and 1 (excluded).

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
    dropped = set(generated[allowed:])
    return [entry for index, entry in enumerate(entries) if index not in dropped]


def generated_share(entries: Sequence[ClipEntry]) -> float:
    """Returns the share of generated clips; 0 for an empty list."""
    return sum(entry.clip.is_generated for entry in entries) / len(entries) if entries else 0.0
