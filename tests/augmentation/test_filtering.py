"""Thresholds in closed form, the marks of rejected clips, and the page that shows them."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from egoloom.augmentation.filtering import LABEL, QUALITY, filter_store, fit_thresholds, judge, youdens_j
from egoloom.augmentation.generate import REJECTED, AugmentationConfig, generate_clips
from egoloom.augmentation.generators import open_generator
from egoloom.augmentation.page import write_page
from egoloom.augmentation.quality import hand_plausibility
from egoloom.augmentation.samples import generator_prior_config
from egoloom.clips import ClipStore
from egoloom.clips.transforms import ViewConfig
from egoloom.errors import UserError
from egoloom.models import create_model


def scores(value: float) -> dict[str, float]:
    return dict.fromkeys(QUALITY, value)


def test_the_worst_share_of_validation_clips_sets_the_threshold():
    thresholds = fit_thresholds([scores(v) for v in np.linspace(0, 1, 11)], worst_share=0.2)
    assert thresholds.least == pytest.approx(scores(0.2))
    assert judge(scores(0.21), thresholds) == ""
    assert judge(scores(0.5) | {"stability": 0.1}, thresholds) == "stability 0.100 is below 0.200"


def test_all_checks_together_reject_no_more_than_the_share():
    rng = np.random.default_rng(0)
    table = [dict(zip(QUALITY, row, strict=True)) for row in rng.random((200, len(QUALITY)))]  # independent checks
    for share in (0.0, 0.1, 0.3):
        thresholds = fit_thresholds(table, worst_share=share)
        rejected = np.mean([bool(judge(one, thresholds)) for one in table])
        assert share - 0.03 <= rejected <= share


def test_labels_are_checked_only_where_a_good_recogniser_spoke():
    judged = [scores(0.5) | {LABEL: np.log(value)} for value in (0.5, 0.6, 0.7)]
    thresholds = fit_thresholds(judged, wrong_log_probs=np.log([0.1, 0.2]), worst_share=0.0)
    assert thresholds.least[LABEL] == pytest.approx(np.log(0.5))
    assert thresholds.label_youden == 1.0
    assert judge(scores(0.5), thresholds) == ""
    assert judge(scores(0.5) | {LABEL: np.log(0.4)}, thresholds).startswith(LABEL)
    weak = fit_thresholds(judged, wrong_log_probs=np.log([0.1, 0.55, 0.65]), worst_share=0.0)
    assert weak.label_youden == pytest.approx(1 - 2 / 3)
    assert LABEL not in weak.least


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.lists(st.integers(0, 9), min_size=1, max_size=30))
def test_youdens_j_equals_the_definition(true, wrong):
    true, wrong = np.array(true, float), np.array(wrong, float)
    expected = max((true >= t).mean() - (wrong >= t).mean() for t in np.unique(true))
    assert youdens_j(true, wrong) == pytest.approx(expected)


def test_hands_must_stay_where_the_prior_shows_them():
    skin, grey = np.array([224, 172, 140], np.uint8), np.array([120, 120, 120], np.uint8)
    prior = np.broadcast_to(grey[None, :, None, None], (2, 3, 16, 16)).copy()
    prior[:, :, 4:8, 4:8] = skin[None, :, None, None]
    visible = np.ones((2, 16, 16), bool)
    assert hand_plausibility(prior, prior, visible) == 1.0
    gone = np.broadcast_to(grey[None, :, None, None], prior.shape)
    assert hand_plausibility(gone, prior, visible) == 0.0
    half = prior.copy()
    half[:, :, 4:8, 6:8] = grey[None, :, None, None]
    assert hand_plausibility(half, prior, visible) == pytest.approx(2 * 8 / (8 + 16))
    assert hand_plausibility(gone, gone, visible) == 1.0


@pytest.fixture(scope="module")
def generated(kitchen, tmp_path_factory) -> ClipStore:
    pipeline, name = open_generator("inpainting")
    out = tmp_path_factory.mktemp("filtering") / "generated"
    config = AugmentationConfig(num_frames=9, prior=generator_prior_config(is_metric=True))
    return generate_clips(kitchen, kitchen.select(view="exo"), pipeline, out, generator=name, config=config).store


def test_rejected_clips_are_kept_apart_and_can_be_judged_again(generated):
    verdicts, thresholds = filter_store(generated, worst_share=0.5)
    assert thresholds.source == "the clips themselves"
    rejected = {verdict.clip_id for verdict in verdicts if verdict.reason}
    assert 0 < len(rejected) <= 6
    assert {clip.clip_id for clip in generated.clips if clip.split == REJECTED} == rejected
    assert all(clip.extra["rejected"] for clip in generated.clips if clip.clip_id in rejected)
    page = write_page(generated, generated.path / "page.html").read_text()
    assert page.count("<figure>") == 6
    assert page.count("<span class=reason>") == len(rejected)
    assert json.loads((generated.path / "thresholds.json").read_text())["num_validation"] == 6

    filter_store(generated, worst_share=0.0)
    assert {clip.split for clip in generated.clips} == {"train"}
    assert not any("rejected" in clip.extra for clip in generated.clips)
    assert generated.validate() == []


def test_a_recogniser_scores_the_labels(generated):
    recogniser = create_model("edge_tiny", num_classes=generated.num_classes())
    view = ViewConfig(num_frames=4, size_px=48)
    verdicts, thresholds = filter_store(generated, recogniser=(recogniser, view), worst_share=0.0)
    labelled = {clip.clip_id for clip in generated.clips if clip.is_labelled}
    assert {verdict.clip_id for verdict in verdicts if LABEL in verdict.scores} == labelled
    assert thresholds.label_youden is not None
    other = create_model("edge_tiny", num_classes={"action": 3})
    with pytest.raises(UserError, match="knows 3 actions"):
        filter_store(generated, recogniser=(other, view))


def test_a_store_of_recordings_cannot_be_filtered(kitchen):
    with pytest.raises(UserError, match="no generated clips"):
        filter_store(kitchen)
