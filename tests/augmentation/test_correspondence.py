"""Points and boxes of one view in the other, against the ids of the simulated kitchen."""

import numpy as np
import pytest

from egoloom.augmentation.correspondence import open_cross_view
from egoloom.clips import Modality
from egoloom.clips.media import read_arrays, read_table
from egoloom.errors import UserError


def ids_of(store, video_id, time_s):
    arrays = read_arrays(store.media_path(Modality.IDS, video_id))
    return arrays["ids"][np.searchsorted(arrays["times_s"], time_s + 1e-4) - 1]


def inner_pixels(ids_HW, margin=2):
    """Pixels whose whole neighbourhood bears one id: rounding cannot change what they show."""
    height, width = ids_HW.shape
    rows, columns = np.mgrid[margin : height - margin : 3, margin : width - margin : 3]
    windows = np.lib.stride_tricks.sliding_window_view(ids_HW, (2 * margin + 1, 2 * margin + 1))
    same = (windows == windows[:, :, :1, :1]).all(axis=(2, 3))[rows - margin, columns - margin]
    return np.stack([columns[same], rows[same]], axis=1)


@pytest.mark.parametrize("source", ["exo", "ego"])
@pytest.mark.parametrize("with_ego_depth", [True, False])
def test_visible_points_show_the_same_thing_in_both_views(kitchen, source, with_ego_depth):
    target = "ego" if source == "exo" else "exo"
    num_points = num_same = num_visible = 0
    gaps = []
    for clip in kitchen.select(view="exo")[:4]:
        cross = open_cross_view(kitchen, clip, with_ego_depth=with_ego_depth)
        time_s = float(cross.exo_depth.times_s[7])
        here, there = (ids_of(kitchen, f"{clip.take_id}_{view}", time_s) for view in (source, target))
        pixels = inner_pixels(here)[:: 1 if source == "exo" else 2]
        places, visible = cross.points(pixels, time_s, source=source)
        num_points += len(pixels)
        num_visible += visible.sum()
        column, row = places[visible].round().astype(int).T
        num_same += (there[row, column] == here[pixels[visible, 1], pixels[visible, 0]]).sum()
        back, seen_again = cross.points(places[visible], time_s, source=target)
        gaps += list(np.linalg.norm(back - pixels[visible], axis=1)[seen_again])
    assert num_visible > 0.03 * num_points
    assert num_same / num_visible > (0.95 if with_ego_depth else 0.85)
    # Without ego depth the way back takes the nearest exo point, which cannot be finer than an ego pixel.
    assert np.median(gaps) < (0.75 if with_ego_depth else 2.0)


def test_points_without_depth_are_nowhere(kitchen):
    cross = open_cross_view(kitchen, kitchen.select(view="exo")[0])
    places, visible = cross.points(np.array([[-50.0, 10.0], [9999.0, 3.0]]), 0.0, source="exo")
    assert np.isnan(places).all()
    assert not visible.any()


def test_boxes_land_on_the_object(kitchen):
    """A projected box overlaps the true ego box of its object; only what both views show well counts."""
    overlaps = []
    for clip in kitchen.select(view="exo"):
        cross = open_cross_view(kitchen, clip, with_ego_depth=False)
        tables = {v: read_table(kitchen.media_path(Modality.BOXES, f"{clip.take_id}_{v}")) for v in ("exo", "ego")}
        time_s = float(cross.exo_depth.times_s[7])
        exo, ego = ({n: t[n][np.isclose(t["time_s"], time_s)] for n in t} for t in tables.values())
        sides = ("x1", "y1", "x2", "y2")
        boxes = np.stack([exo[name] for name in sides], axis=1)
        places, visible = cross.boxes(boxes, time_s, source="exo")
        for place, is_seen, track, box in zip(places, visible, exo["track"], boxes, strict=True):
            match = np.flatnonzero(ego["track"] == track)
            if is_seen and len(match) and (box[2:] - box[:2]).min() >= 6:
                truth = np.array([ego[name][match[0]] for name in sides])
                low, high = np.maximum(place[:2], truth[:2]), np.minimum(place[2:], truth[2:])
                shared = np.prod(np.maximum(high - low, 0))
                smaller = min(np.prod(place[2:] - place[:2]), np.prod(truth[2:] - truth[:2]))
                overlaps.append(shared / smaller)
    assert len(overlaps) >= 6
    assert np.median(overlaps) > 0.6


def test_a_take_without_depth_is_refused(square_store, kitchen):
    import dataclasses

    clip = dataclasses.replace(kitchen.select(view="exo")[0], present=frozenset({Modality.RGB}))
    with pytest.raises(UserError, match="no depth"):
        open_cross_view(kitchen, clip)
