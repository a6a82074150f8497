"""The stated largest share of generated clips, and quality scores against closed forms."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from egoloom.augmentation.mixing import generated_share, limit_generated
from egoloom.augmentation.quality import score_clip
from egoloom.clips import Clip
from egoloom.clips.dataset import ClipEntry

RECORDED = Clip("r", "v", "p", "ego", "", 0.0, 1.0, "train")


def entry(index: int, quality: float | None = None, *, generated: bool = False) -> ClipEntry:
    clip = dataclasses.replace(RECORDED, clip_id=str(index), is_generated=generated, quality=quality)
    return ClipEntry(None, clip)  # type: ignore[arg-type]


@given(num_recorded=st.integers(0, 40), num_generated=st.integers(0, 40), share=st.floats(0, 0.99))
def test_the_share_is_kept_and_as_many_as_allowed_stay(num_recorded, num_generated, share):
    entries = [entry(i) for i in range(num_recorded)] + [
        entry(100 + i, 0.5, generated=True) for i in range(num_generated)
    ]
    kept = limit_generated(entries, share)
    num_kept = sum(e.clip.is_generated for e in kept)
    assert sum(not e.clip.is_generated for e in kept) == num_recorded
    assert generated_share(kept) <= share + 1e-9
    if num_kept < num_generated:
        assert (num_kept + 1) / (num_kept + 1 + num_recorded) > share - 1e-9


def test_the_best_stay_and_the_order_is_kept():
    entries = [entry(0), entry(1, 0.1, generated=True), entry(2, 0.9, generated=True), entry(3, None, generated=True)]
    assert [e.clip.clip_id for e in limit_generated(entries, 0.5)] == ["0", "2"]


def test_balance_over_actions_takes_the_best_of_each_in_turn():
    def of_action(index: int, action: int, quality: float) -> ClipEntry:
        made = entry(index, quality, generated=True)
        return ClipEntry(made.store, dataclasses.replace(made.clip, action=action))

    recorded = [entry(i) for i in range(4)]
    generated = [of_action(10 + i, 0, 0.9) for i in range(6)] + [of_action(20, 1, 0.2), of_action(21, 2, 0.1)]
    by_quality = limit_generated([*recorded, *generated], 0.5)
    assert [e.clip.action for e in by_quality if e.clip.is_generated] == [0, 0, 0, 0]
    even = limit_generated([*recorded, *generated], 0.5, balance="action")
    assert sorted(e.clip.action for e in even if e.clip.is_generated) == [0, 0, 1, 2]


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match="max_generated_share"):
        limit_generated([entry(0)], share)


def test_scores_of_a_copy_of_the_prior():
    prior = np.random.default_rng(0).integers(0, 256, (5, 3, 8, 8), dtype=np.uint8)
    hole = np.zeros((5, 8, 8), bool)
    hole[:, :2] = True
    scores = score_clip(prior, prior, hole)
    assert (scores.coverage, scores.agreement, scores.stability) == (0.75, 1.0, 1.0)
    assert scores.quality == 0.75


def test_scores_fall_with_error_and_flicker():
    prior = np.full((6, 3, 8, 8), 100, np.uint8)
    hole = np.zeros((6, 8, 8), bool)
    shifted = score_clip(prior + 16, prior, hole)
    assert shifted.agreement == pytest.approx(0.75)
    assert shifted.stability == 1.0
    flicker = prior.copy()
    flicker[::2] += 16
    assert score_clip(flicker, prior, hole).stability == pytest.approx(0.75)
    assert score_clip(prior, prior, np.ones_like(hole)).quality == 0.0
