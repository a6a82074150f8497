"""What a clip is about: action, participant, kitchen, split, label. A function of the seed and the index alone."""

from dataclasses import dataclass

import numpy as np

from egoloom.kitchen.settings import KitchenSettings
from egoloom.kitchen.vocabulary import ACTIONS, SPLITS

GOLDEN_SHARE = 0.6180339887498949
_PURPOSES = {"plan": 11, "label": 12, "scene": 13, "audio": 14, "imu": 15, "boxes": 16, "camera": 17, "depth": 18}


@dataclass(frozen=True)
class ClipPlan:
    """One take: ``action`` is what really happens, ``label`` what the annotation says (-1 in the unlabelled pool)."""

    index: int
    action: int
    label: int
    participant: int
    kitchen: int
    split: str

    @property
    def take_id(self) -> str:
        """Name of the take; the two videos add ``_ego`` and ``_exo``."""
        return f"take_{self.index:06d}"


def clip_rng(settings: KitchenSettings, index: int, purpose: str) -> np.random.Generator:
    """Returns the random generator of one clip for one purpose, so that options do not disturb one another."""
    return np.random.default_rng([settings.seed, index, _PURPOSES[purpose]])


def plan_clip(settings: KitchenSettings, index: int) -> ClipPlan:
    """Returns what clip ``index`` is about; the same in a store of ten clips and of ten thousand.

    Actions come in shuffled rounds, so that every class is equally frequent. Splits follow a low-discrepancy sequence
    per class, so that each class has nearly the wanted share of each split.
    """
    num_actions = len(ACTIONS)
    block, place = divmod(index, num_actions)
    order = np.random.default_rng([settings.seed, block, _PURPOSES["plan"]]).permutation(num_actions)
    action = int(order[place])
    start = np.random.default_rng([settings.seed, _PURPOSES["plan"]]).random()
    split = _split_at(settings, (start + GOLDEN_SHARE * (action + 1) + (block + 1) * GOLDEN_SHARE * GOLDEN_SHARE) % 1.0)
    rng = clip_rng(settings, index, "plan")
    participant = _pick(rng, settings.num_participants, unseen=split == "unseen_participant")
    kitchen = _pick(rng, settings.num_kitchens, unseen=split == "unseen_kitchen")
    return ClipPlan(index, action, _label(settings, index, action, split), participant, kitchen, split)


def _split_at(settings: KitchenSettings, share: float) -> str:
    total = 0.0
    for split in SPLITS:
        total += getattr(settings.splits, split)
        if share < total:
            return split
    return "train"


def num_unseen(count: int) -> int:
    """Returns how many of ``count`` participants or kitchens never occur outside of their unseen split."""
    return max(1, count // 4)


def _pick(rng: np.random.Generator, count: int, *, unseen: bool) -> int:
    seen = count - num_unseen(count)
    return int(rng.integers(seen, count)) if unseen else int(rng.integers(0, seen))


def _label(settings: KitchenSettings, index: int, action: int, split: str) -> int:
    if split == "unlabelled":
        return -1
    rng = clip_rng(settings, index, "label")
    if split == "train" and rng.random() < settings.label_noise:
        return int((action + rng.integers(1, len(ACTIONS))) % len(ACTIONS))
    return action
