"""Cross-fitted teachers: who may judge which clip, and how a label counts beside them."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from egoloom.distillation.config import DistillationConfig
from egoloom.distillation.cross_fitting import (
    check_each_is_judged,
    fold_of,
    silence_learnt,
    with_label_as_evidence,
    without_fold,
)
from egoloom.errors import UserError


def entries(num_videos: int, clips_a_video: int = 2) -> list[Any]:
    names = [f"video{video}" for video in range(num_videos) for _ in range(clips_a_video)]
    return [SimpleNamespace(clip=SimpleNamespace(video_id=name, clip_id=f"{name}-{i}")) for i, name in enumerate(names)]


@pytest.mark.parametrize("num_folds", [2, 3, 5])
def test_each_clip_is_left_out_once_and_videos_stay_whole(num_folds):
    clips = entries(60)
    kept = [{e.clip.clip_id for e in without_fold(clips, fold, num_folds)} for fold in range(num_folds)]
    for entry in clips:
        assert sum(entry.clip.clip_id not in names for names in kept) == 1
    sizes = [len(clips) - len(names) for names in kept]
    assert min(sizes) > 120 / num_folds / 3  # a hash spreads the videos
    assert all(size % 2 == 0 for size in sizes)


def test_folds_stay_what_they_were():
    # `printf video0 | sha256sum` begins with 094734c0484cc798: a run that continues must meet the same folds.
    assert fold_of("video0", 7) == 0x094734C0484CC798 % 7 == 2


def test_nothing_left_to_learn_from_is_told():
    with pytest.raises(UserError, match="All 2 training clips are in fold"):
        without_fold(entries(1), fold_of("video0", 2), 2)


def test_teachers_are_silent_about_what_they_learnt():
    verdicts = {"verb": torch.arange(12.0).reshape(3, 2, 2)}
    heard = silence_learnt(verdicts, ["a", "b", "c"], [frozenset("a"), frozenset("bc")])["verb"]
    silent_BM = torch.isnan(heard).all(-1)
    assert silent_BM.tolist() == [[True, False], [False, True], [False, True]]
    assert torch.equal(heard[~silent_BM], verdicts["verb"][~silent_BM])


def test_a_clip_that_every_teacher_learnt_has_no_judge():
    check_each_is_judged(["a", "b"], {"x": frozenset("a"), "y": frozenset("b")})
    with pytest.raises(UserError, match="1 of 2 training clips were learnt by every teacher, first: b"):
        check_each_is_judged(["a", "b"], {"x": frozenset("ab"), "y": frozenset("b")})


@given(st.integers(0, 10_000), st.integers(2, 7), st.floats(0.01, 0.9))
def test_a_label_is_one_more_witness(seed, num_classes, noise):
    generator = np.random.default_rng(seed)
    logits, label = generator.normal(0, 2, num_classes), int(generator.integers(num_classes))
    prior = np.exp(logits) / np.exp(logits).sum()
    likelihood = np.full(num_classes, noise / (num_classes - 1))  # of the given label, were this class the true one
    likelihood[label] = 1 - noise
    posterior = prior * likelihood / (prior * likelihood).sum()
    found = with_label_as_evidence(torch.tensor(logits)[None], torch.tensor([label]), label_noise=noise).softmax(-1)
    np.testing.assert_allclose(found[0].numpy(), posterior, atol=1e-12)


def test_unlabelled_clips_keep_the_teachers_verdict():
    logits = torch.randn(2, 4)
    assert torch.equal(with_label_as_evidence(logits, torch.tensor([-1, -1]), label_noise=0.3), logits)


def test_a_label_must_not_count_twice():
    with pytest.raises(ValueError, match="label_noise needs cross_fitted"):
        DistillationConfig(label_noise=0.3)
