"""Which exo clips are taken: scarcity against brute force, cameras, labels, coverage against rendered priors."""

import dataclasses

import numpy as np
import pytest

from egoloom.augmentation.pick import (
    Candidate,
    PickConfig,
    best_cameras,
    by_scarcity,
    expected_coverage,
    label_confidence,
    pick_clips,
    visibility,
)
from egoloom.augmentation.samples import generator_prior_config, render_prior
from egoloom.augmentation.takes import load_take
from egoloom.clips import Clip, Modality
from egoloom.clips.media import read_arrays, write_arrays, write_table
from egoloom.clips.tables import write_clips
from egoloom.errors import UserError


def clip(index: int, action: int = 0, participant: str = "p", take: str = "") -> Clip:
    return Clip(f"c{index}", f"v{index}", participant, "exo", take or f"t{index}", 0.0, 1.0, "train", action=action)


def candidate(store, one: Clip, coverage: float = 0.5) -> Candidate:
    return Candidate(store, one, None, coverage, 1.0)


def test_greedy_choice_equals_brute_force(kitchen):
    rng = np.random.default_rng(0)
    config = PickConfig(max_clips=12)
    candidates = [
        candidate(kitchen, clip(i, int(rng.integers(4)), f"p{rng.integers(3)}"), float(rng.uniform(0.2, 1)))
        for i in range(30)
    ]
    recorded = [clip(100 + i, int(rng.integers(4)), f"p{rng.integers(3)}") for i in range(9)]
    expected, left = [], list(candidates)
    for _ in range(12):
        known = recorded + [one.clip for one in expected]

        def value(one):
            same_class = sum(other.action == one.clip.action for other in known)  # noqa: B023
            same_person = sum(other.participant_id == one.clip.participant_id for other in known)  # noqa: B023
            return one.coverage / (1 + same_class) / np.sqrt(1 + same_person)

        best = max(left, key=value)
        expected.append(best)
        left.remove(best)
    assert [one.clip.clip_id for one in by_scarcity(candidates, config, recorded)] == [
        one.clip.clip_id for one in expected
    ]


def test_scarce_classes_come_first(kitchen):
    candidates = [candidate(kitchen, clip(i, action=i % 2)) for i in range(8)]
    recorded = [clip(100 + i, action=0, participant="q") for i in range(4)]
    chosen = by_scarcity(candidates, PickConfig(max_clips=4), recorded)
    assert [one.clip.action for one in chosen] == [1, 1, 1, 1]


def test_the_best_camera_of_a_moment_is_taken(kitchen):
    poor, good = (candidate(kitchen, clip(i, take="same"), share) for i, share in ((0, 0.2), (1, 0.7)))
    chosen, others = best_cameras([poor, good], PickConfig())
    assert [one.clip.clip_id for one in chosen] == ["c1"]
    assert "c1 sees this moment better" in others[0].reason


def test_expected_coverage_is_about_that_of_rendered_priors(kitchen):
    gaps = []
    for one in kitchen.select(view="exo"):
        take = load_take(kitchen, one, num_frames=3)
        prior = render_prior(take, size_px=64, config=generator_prior_config(is_metric=True))
        rendered = 1 - np.asarray(prior.hole_mask_THW).mean()
        gaps.append(abs(expected_coverage(kitchen, one) - rendered))
    assert np.mean(gaps) < 0.1
    assert np.max(gaps) < 0.2


def test_what_the_exo_camera_does_not_see_is_not_expected(own_kitchen):
    one = own_kitchen.select(view="exo")[0]
    before = expected_coverage(own_kitchen, one)
    path = own_kitchen.media_path(Modality.DEPTH, one.video_id)
    arrays = read_arrays(path)
    depth = arrays["depth_m"].copy()
    depth[:, ::2] = 0  # every other row is unknown: still covered, but by fewer points
    depth[:, :, : depth.shape[2] // 2] = 0
    write_arrays(path, arrays | {"depth_m": depth})
    assert expected_coverage(own_kitchen, one) < 0.8 * before


def test_visibility_counts_frames_with_hands_and_with_objects(own_kitchen):
    one = own_kitchen.select(view="exo")[0]
    # 15 frames; a hand in the first 5, an object in the first 10, one of them too uncertain.
    times = np.concatenate([np.arange(5), np.arange(10)]) / 15.0
    hand = np.arange(15) < 5
    columns = {"time_s": times, "track": np.zeros(15, int), "category": ["hand"] * 5 + ["mug"] * 10}
    columns |= {name: np.full(15, 5.0) for name in ("x1", "y1", "x2", "y2")}
    scores = np.where(np.arange(15) == 14, 0.1, 0.9)
    write_table(own_kitchen.media_path(Modality.BOXES, one.video_id), columns | {"score": scores, "is_hand": hand})
    assert visibility(own_kitchen, one) == pytest.approx((5 + 9) / 30)
    assert visibility(own_kitchen, dataclasses.replace(one, present=frozenset({Modality.RGB}))) is None


def test_a_label_holds_as_far_as_poses_reach_and_nobody_contradicts(own_kitchen):
    one = own_kitchen.select(view="exo", labelled=True)[0]
    assert label_confidence(own_kitchen, one) == pytest.approx(1.0)
    half = own_kitchen.load_calibration(f"{one.take_id}_ego")
    count = len(half["T_world_camera"]["times_s"])
    for name in ("times_s", "T_world_camera"):
        half["T_world_camera"][name] = half["T_world_camera"][name][: round(0.4 * count)]
    own_kitchen.save_calibration(f"{one.take_id}_ego", half)
    assert label_confidence(own_kitchen, one) == pytest.approx(0.4, abs=0.01)
    own_kitchen.save_calibration(f"{one.take_id}_ego", half)
    changed = [
        dataclasses.replace(other, action=(other.action + 1) % 18) if other.view == "ego" else other
        for other in own_kitchen.clips
    ]
    write_clips(own_kitchen.path / "clips.parquet", changed)
    own_kitchen.reload()
    assert label_confidence(own_kitchen, one) == 0.0


def test_clips_are_passed_over_with_a_reason(kitchen):
    picked = pick_clips([kitchen], PickConfig(max_clips=2, min_coverage=0.1))
    assert len(picked.chosen) == 2
    assert len(picked.passed_over) == 4
    assert all(one.reason for one in picked.passed_over)
    nothing = pick_clips([kitchen], PickConfig(min_coverage=1.0))
    assert not nothing.chosen
    assert "of the ego view only" in nothing.passed_over[0].reason


def test_clips_without_a_label_are_passed_over_if_asked(own_kitchen):
    clips = [one.without_labels() for one in own_kitchen.clips]
    write_clips(own_kitchen.path / "clips.parquet", clips)
    own_kitchen.reload()
    picked = pick_clips([own_kitchen], PickConfig(need_label=True))
    assert not picked.chosen
    assert {one.reason for one in picked.passed_over} == {"it has no label"}


def test_a_store_without_exo_clips_is_refused(square_store):
    with pytest.raises(UserError, match="no exo clips"):
        pick_clips([square_store])
