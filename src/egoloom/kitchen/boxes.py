"""A simulated detector: boxes of what is visible, with misses, jitter, confusions and false alarms."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from egoloom.kitchen.geometry import Array
from egoloom.kitchen.jit import kernel
from egoloom.kitchen.scene import Instance
from egoloom.kitchen.settings import KitchenSettings
from egoloom.kitchen.vocabulary import DETECTOR_CATEGORIES

MIN_AREA_PX = 10
# What a detector takes for what; drawn once per track.
_LOOKALIKES = {
    "mug": "bowl", "bowl": "plate", "plate": "bowl", "bottle": "mug", "carrot": "bread", "bread": "carrot",
    "pot": "bowl",
    "knife": "spoon", "spoon": "knife", "sponge": "bread", "board": "plate", "apple": "mug", "drawer": "cupboard",
    "cupboard": "drawer", "tap": "spoon",
}  # fmt: skip


@dataclass
class BoxTable:
    """Detections of one view, one row each; boxes in pixels of the frame, xyxy."""

    time_s: Array
    track: NDArray[np.int64]
    category: list[str]
    score: NDArray[np.float32]
    boxes: NDArray[np.float32]
    is_hand: NDArray[np.bool_]

    def columns(self) -> dict[str, Any]:
        """Returns the columns of the stored table."""
        names = ("x1", "y1", "x2", "y2")
        sides = {name: np.ascontiguousarray(self.boxes[:, k]) for k, name in enumerate(names)}
        head: dict[str, Any] = {
            "time_s": self.time_s,
            "track": self.track,
            "category": self.category,
            "score": self.score,
        }
        return head | sides | {"is_hand": self.is_hand}


@kernel
def visible_extent(ids_HW, extent_I5):
    """Fills, per id, the visible box (x1, y1, x2, y2, with exclusive ends) and the visible area in pixels."""
    rows, cols = ids_HW.shape
    for i in range(extent_I5.shape[0]):
        extent_I5[i, 0], extent_I5[i, 1], extent_I5[i, 2], extent_I5[i, 3], extent_I5[i, 4] = cols, rows, 0, 0, 0
    for r in range(rows):
        for c in range(cols):
            i = ids_HW[r, c]
            extent_I5[i, 0] = min(extent_I5[i, 0], c)
            extent_I5[i, 1] = min(extent_I5[i, 1], r)
            extent_I5[i, 2] = max(extent_I5[i, 2], c + 1)
            extent_I5[i, 3] = max(extent_I5[i, 3], r + 1)
            extent_I5[i, 4] += 1


def true_extents(ids_THW: NDArray[np.uint8], num_ids: int) -> NDArray[np.int64]:
    """Returns visible boxes and areas ``[T, num_ids, 5]`` (x1, y1, x2, y2, area)."""
    extents = np.zeros((len(ids_THW), num_ids, 5), np.int64)
    for frame, ids in enumerate(ids_THW):
        visible_extent(ids, extents[frame])
    return extents


def detect(
    settings: KitchenSettings,
    ids_THW: NDArray[np.uint8],
    times_s: Array,
    instances: list[Instance],
    rng: np.random.Generator,
) -> BoxTable:
    """Returns what a detector reports on a view."""
    noise = settings.noise
    extents = true_extents(ids_THW, len(instances))
    count, (height, width) = len(ids_THW), ids_THW.shape[1:]
    rows: list[tuple[float, int, str, float, Array, bool]] = []
    for number, instance in enumerate(instances):
        area = extents[:, number, 4]
        if not instance.category or area.max() < MIN_AREA_PX:
            continue
        category = instance.category
        if category in _LOOKALIKES and rng.random() < noise.box_confusion:
            category = _LOOKALIKES[category]
        missing = _missing(rng, count, noise.box_miss)
        drift = _smooth_noise(rng, count) * noise.box_jitter
        score = np.clip(0.55 + 0.4 * np.minimum(area / 250.0, 1) + 0.05 * rng.standard_normal(count), 0.3, 0.999)
        for frame in range(count):
            if area[frame] < MIN_AREA_PX or missing[frame]:
                continue
            x1, y1, x2, y2 = extents[frame, number, :4].astype(float)
            w, h = x2 - x1, y2 - y1
            box = np.array([x1, y1, x2, y2]) + drift[frame] * [w, h, w, h]
            box = np.clip(box, 0, [width, height, width, height])
            if box[2] - box[0] < 1 or box[3] - box[1] < 1:
                continue
            rows.append((times_s[frame], number, category, score[frame], box, category == "hand"))
    rows += _false_alarms(rng, times_s, (width, height), noise.box_miss)
    rows.sort(key=lambda row: (row[0], row[1]))
    return BoxTable(
        np.array([row[0] for row in rows], float), np.array([row[1] for row in rows], np.int64),
        [row[2] for row in rows],
        np.array([row[3] for row in rows], np.float32), np.array([row[4] for row in rows], np.float32).reshape(-1, 4),
        np.array([row[5] for row in rows], bool),
    )  # fmt: skip


def _missing(rng: np.random.Generator, count: int, share: float) -> NDArray[np.bool_]:
    """Misses come in runs: a two-state chain with the given share and a mean length of three frames."""
    if share <= 0:
        return np.zeros(count, bool)
    leave = 1 / 3
    enter = min(1.0, leave * share / max(1 - share, 1e-6))
    draws = rng.random(count)
    state = np.zeros(count, bool)
    now = rng.random() < share
    for frame in range(count):
        now = (draws[frame] >= leave) if now else (draws[frame] < enter)
        state[frame] = now
    return state


def _smooth_noise(rng: np.random.Generator, count: int) -> Array:
    """Box errors ``[T, 4]`` of unit size: half constant in a track, half anew in each frame."""
    return 0.6 * rng.standard_normal((1, 4)) + 0.8 * rng.standard_normal((count, 4))


def _false_alarms(rng: np.random.Generator, times_s: Array, size: tuple[int, int], share: float) -> list:
    rows = []
    for track in range(int(rng.poisson(3 * share)) if share > 0 else 0):
        category = DETECTOR_CATEGORIES[int(rng.integers(1, len(DETECTOR_CATEGORIES)))]
        corner = rng.uniform(0, 0.8, 2) * size
        box = np.concatenate([corner, np.minimum(corner + rng.uniform(0.08, 0.3, 2) * size, size)])
        start, length = rng.integers(0, len(times_s)), rng.integers(2, 9)
        for time_s in times_s[start : start + length]:
            rows.append((float(time_s), 200 + track, category, float(rng.uniform(0.3, 0.6)), box, False))
    return rows
