"""What is to be generated: clips of one or many stores, each with the id and the split of what it becomes."""

import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from egoloom.augmentation.generate import AugmentationConfig, generated_id
from egoloom.augmentation.pick import Candidate
from egoloom.clips import Clip, ClipStore
from egoloom.errors import UserError

STATE = ".job"


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
        orders: The clips; what they become has different ids.
        out: Store of the generated clips; `run_job` makes it.
        generator: ``builtin``, ``inpainting`` or a folder.
        config: Sizes and options.
        run: Attempts and failures of other runs do not count.
    """

    orders: tuple[Order, ...]
    out: Path
    generator: str
    config: AugmentationConfig
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    @property
    def state(self) -> Path:
        """Folder of claims and failures."""
        return self.out / STATE


def plan_job(
    candidates: Sequence[Candidate],
    out: Path,
    generator: str,
    config: AugmentationConfig,
    *,
    split: str = "train",
    held_out: Sequence[Candidate] = (),
    held_out_split: str = "validation",
) -> Job:
    """Returns the job for picked clips; nothing is written.

    Args:
        candidates: The clips.
        out: Store of what is made.
        generator: See `open_generator`.
        config: Sizes and options.
        split: Split of what is made of them.
        held_out: Further clips, whose results set the filter's thresholds.
        held_out_split: Split of those results.

    Raises:
        UserError: If there are no clips, or the sources have different classes.
    """
    if not candidates:
        raise UserError("No exo clip is left to generate", fix="lower --min-coverage, --min-visibility")
    everything = [*candidates, *held_out]
    sources = list({candidate.store.path: candidate.store for candidate in everything}.values())
    for other in sources[1:]:
        if other.info.label_spaces != sources[0].info.label_spaces:
            raise UserError(f"{other.path} has other classes than {sources[0].path}", fix="augment them separately")
    prefixes = _prefixes(sources)
    orders = [_order(one, prefixes, split) for one in candidates]
    orders += [_order(one, prefixes, held_out_split) for one in held_out]
    unique = {order.made_id: order for order in reversed(orders)}  # of equal ones the first counts
    return Job(tuple(order for order in orders if unique[order.made_id] is order), out, generator, config)


def _order(candidate: Candidate, prefixes: dict[tuple[Path, str], str], split: str) -> Order:
    marks = {"label_confidence": f"{candidate.label_confidence:.3f}", "expected_coverage": f"{candidate.coverage:.3f}"}
    prefix = prefixes.get((candidate.store.path, candidate.clip.clip_id), "")
    return Order(candidate.store.path, candidate.clip, prefix, split, marks)


def _prefixes(sources: Sequence[ClipStore]) -> dict[tuple[Path, str], str]:
    """What keeps clips with equal ids of several stores apart; it follows from the stores, not from what was picked."""
    counts = Counter(clip.clip_id for store in sources for clip in store.select(view="exo"))
    names = Counter(store.path.name for store in sources)
    found = {}
    for number, store in enumerate(sources):
        name = store.path.name if names[store.path.name] == 1 else f"{store.path.name}{number}"
        found |= {(store.path, c.clip_id): f"{name}-" for c in store.select(view="exo") if counts[c.clip_id] > 1}
    return found
