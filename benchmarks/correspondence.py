"""How well points and boxes are carried between the views of a take, against the truth of the kitchen. Simulated data.

    egoloom kitchen --num-clips 60 --seed 5 --out clips/views
    python benchmarks/correspondence.py --store clips/views

A point counts as right if the id image of the other view shows the same thing where it lands. Points whose
neighbourhood shows one thing alone are taken, so that rounding decides nothing. Boxes are the true boxes of things
that both views show at least ``MIN_SIDE_PX`` wide and high; their overlap is intersection over union. ``ego depth``
says whether the depth of the first-person view is known, as a headset with a depth camera knows it; without it only
what the third-person camera sees counts.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from egoloom.augmentation.correspondence import CrossView, View, open_cross_view
from egoloom.clips import ClipStore, Modality
from egoloom.clips.media import read_arrays

MARGIN_PX, MIN_SIDE_PX, MOMENTS_S = 2, 8, (0.3, 1.0, 1.7)


def ids_at(store: ClipStore, video_id: str, time_s: float) -> np.ndarray:
    """Returns the id image ``[H, W]`` that is shown at a moment."""
    arrays = read_arrays(store.media_path(Modality.IDS, video_id))
    return arrays["ids"][np.searchsorted(arrays["times_s"], time_s + 1e-4, side="right") - 1]


def inner_pixels(ids_HW: np.ndarray) -> np.ndarray:
    """Returns pixels ``[N, 2]`` (x, y) whose neighbourhood bears one id."""
    size = 2 * MARGIN_PX + 1
    windows = np.lib.stride_tricks.sliding_window_view(ids_HW, (size, size))
    rows, columns = np.nonzero((windows == windows[:, :, :1, :1]).all(axis=(2, 3)))
    return np.stack([columns, rows], axis=1)[::7] + MARGIN_PX


def true_boxes(ids_HW: np.ndarray) -> dict[int, np.ndarray]:
    """Returns id to box (x1, y1, x2, y2) of everything large enough; the room (the largest things) counts too."""
    found = {}
    for value in np.unique(ids_HW[ids_HW > 0]):
        rows, columns = np.nonzero(ids_HW == value)
        box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], float)
        if (box[2:] - box[:2]).min() >= MIN_SIDE_PX:
            found[int(value)] = box
    return found


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Returns intersection over union of two boxes."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    shared = float(np.prod(np.maximum(high - low, 0)))
    return shared / float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared)


def moments(store: ClipStore, *, with_ego_depth: bool) -> Iterator[tuple[CrossView, float, dict[View, np.ndarray]]]:
    """Yields both views of every take at a few moments, with their id images."""
    for clip in store.select(view="exo"):
        cross = open_cross_view(store, clip, with_ego_depth=with_ego_depth)
        for time_s in MOMENTS_S:
            ids: dict[View, np.ndarray] = {}
            for view in ("exo", "ego"):
                ids[view] = ids_at(store, f"{clip.take_id}_{view}", time_s)
            yield cross, time_s, ids


def measure(store: ClipStore, source: View, *, with_ego_depth: bool) -> dict[str, float]:
    """Returns shares and medians of one direction."""
    target: View = "ego" if source == "exo" else "exo"
    visible_shares, right, gaps, overlaps = [], [], [], []
    for cross, time_s, ids in moments(store, with_ego_depth=with_ego_depth):
        pixels = inner_pixels(ids[source])
        places, visible = cross.points(pixels, time_s, source=source)
        visible_shares.append(visible.mean())
        seen = np.clip(places[visible].round().astype(int), 0, np.array(ids[target].shape)[::-1] - 1)
        right.append(ids[target][seen[:, 1], seen[:, 0]] == ids[source][pixels[visible, 1], pixels[visible, 0]])
        back, seen_again = cross.points(places[visible], time_s, source=target)
        gaps.append(np.linalg.norm(back - pixels[visible], axis=1)[seen_again])
        here, there = true_boxes(ids[source]), true_boxes(ids[target])
        both = sorted(set(here) & set(there))
        if both:
            carried, is_seen = cross.boxes(np.stack([here[k] for k in both]), time_s, source=source)
            overlaps += [overlap(box, there[k]) for k, box, ok in zip(both, carried, is_seen, strict=True) if ok]
    return {
        "visible_share": round(float(np.mean(visible_shares)), 3),
        "right_thing_share": round(float(np.concatenate(right).mean()), 4),
        "there_and_back_px": round(float(np.median(np.concatenate(gaps))), 2),
        "box_overlap": round(float(np.median(overlaps)), 3),
        "num_points": int(sum(len(part) for part in right)),
        "num_boxes": len(overlaps),
    }


def main() -> None:
    """Measures both directions and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    store = ClipStore.open(options.store)
    rows = [
        {"from": source, "ego_depth": with_depth} | measure(store, source, with_ego_depth=with_depth)
        for source in ("exo", "ego")
        for with_depth in (True, False)
    ]
    if options.json:
        print(json.dumps(rows))
        return
    print("| " + " | ".join(rows[0]) + " |\n" + "|---" * len(rows[0]) + "|")
    for row in rows:
        print("| " + " | ".join(str(value) for value in row.values()) + " |")


if __name__ == "__main__":
    main()
