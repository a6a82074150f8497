"""Metrics and calibration against recorded numbers, scikit-free closed forms, and bad input."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from egoloom.evaluation.calibration import (
    adaptive_calibration_error,
    bin_edges,
    brier_score,
    calibration_summary,
    classwise_calibration_error,
    expected_calibration_error,
    fit_temperature,
    fit_vector_scaling,
    log_softmax,
    maximum_calibration_error,
    negative_log_likelihood,
    reliability,
    softmax,
)
from egoloom.evaluation.metrics import (
    both_right,
    confusion_matrix,
    joint_ranks,
    label_ranks,
    per_class,
    standard_error,
    top_k_accuracy,
)
from egoloom.evaluation.multiview import accuracy_by_views, average_views
from egoloom.evaluation.significance import bootstrap_interval, mcnemar_p_value, paired_bootstrap, seed_interval


@pytest.mark.parametrize("name", ["calibration_ece_small.npz", "calibration_ece.npz"])
def test_ece_top1_and_reliability_match_the_reference(golden, name):
    arrays = np.load(golden(name), allow_pickle=False)
    seen = 0
    for case in json.loads(golden("calibration_ece_cases.json").read_text()):
        key = case["set"]
        if f"{key}/logits" not in arrays:
            continue
        seen += 1
        labels = arrays[f"{key}/labels"]
        log_probs = average_views(arrays[f"{key}/logits"])
        probs = softmax(arrays[f"{key}/logits"].mean(axis=1))
        assert 100 * expected_calibration_error(probs, labels) == pytest.approx(case["ece_percent"], abs=1e-3), key
        np.testing.assert_array_equal(bin_edges(15, np.float32), arrays["bin_edges_float32"])
        diagram = reliability(probs, labels)
        expected = arrays[f"{key}/bins"]
        np.testing.assert_array_equal(diagram.count, expected[:, 0])
        full = expected[:, 0] > 0
        np.testing.assert_allclose(diagram.confidence[full], expected[full, 1], atol=1e-5)
        np.testing.assert_allclose(diagram.accuracy[full], expected[full, 2], atol=1e-6)
        assert 100 * top_k_accuracy(log_probs, labels) == pytest.approx(case["top1_percent"], abs=0.006), key
        if case["top5_percent"] is not None:
            assert 100 * top_k_accuracy(log_probs, labels, k=5) == pytest.approx(case["top5_percent"], abs=0.006)
        mixed = np.exp(average_views(arrays[f"{key}/logits"], "probabilities"))
        if "edges" not in key:
            assert 100 * expected_calibration_error(mixed, labels) == pytest.approx(
                case["ece_percent_if_probabilities_averaged"], abs=1e-3
            )
    assert seen >= 7


def test_ece_in_float64_takes_float64_edges(golden):
    arrays = np.load(golden("calibration_ece_small.npz"), allow_pickle=False)
    for case in json.loads(golden("calibration_ece_cases.json").read_text()):
        if f"{case['set']}/logits" in arrays:
            probs = softmax(arrays[f"{case['set']}/logits"].astype(np.float64).mean(axis=1))
            value = 100 * expected_calibration_error(probs, arrays[f"{case['set']}/labels"])
            accepted = (case["ece_percent"], case["ece_percent_if_all_float64"])
            assert min(abs(value - a) for a in accepted) < 1e-3, case["set"]


def test_two_headed_multiview_metrics_match_the_reference(golden):
    arrays = np.load(golden("multiview_epic.npz"), allow_pickle=False)
    expected = json.loads(golden("multiview_epic_expected.json").read_text())
    verbs, nouns = average_views(arrays["verb_logits"]), average_views(arrays["noun_logits"])
    verb_labels, noun_labels = arrays["verb_labels"], arrays["noun_labels"]
    verb_right, noun_right = label_ranks(verbs, verb_labels) == 0, label_ranks(nouns, noun_labels) == 0
    action = both_right(verbs, nouns, verb_labels, noun_labels)
    tail_verb, tail_noun = np.isin(verb_labels, arrays["tail_verbs"]), np.isin(noun_labels, arrays["tail_nouns"])
    groups = {
        "verb_acc": verb_right,
        "noun_acc": noun_right,
        "action_acc": action,
        "tail_verb_acc": verb_right[tail_verb],
        "tail_noun_acc": noun_right[tail_noun],
        "tail_action_AND_acc": action[tail_verb & tail_noun],
        "tail_action_OR_acc": action[tail_verb | tail_noun],
        "verb_top5_acc": label_ranks(verbs, verb_labels) < 5,
        "noun_top5_acc": label_ranks(nouns, noun_labels) < 5,
    }
    for name, right in groups.items():
        assert round(100 * right.mean(), 2) == pytest.approx(expected["metrics_percent_rounded_to_2"][name], abs=1e-9)
        if name in expected["with_standard_error"]:
            error = 100 * standard_error(float(right.mean()), len(right))
            assert round(error, 2) == float(expected["with_standard_error"][name].split("+/- ")[1])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 7), st.integers(2, 7), st.booleans())
def test_joint_ranks_agree_with_ranking_every_pair(seed, num_verbs, num_nouns, with_ties):
    g = np.random.default_rng(seed)
    verbs, nouns = g.normal(size=(6, num_verbs)), g.normal(size=(6, num_nouns))
    if with_ties:
        verbs, nouns = verbs.round(), nouns.round()
    verb_labels, noun_labels = g.integers(0, num_verbs, 6), g.integers(0, num_nouns, 6)
    got = joint_ranks(verbs, nouns, verb_labels, noun_labels, k=5)
    for row in range(6):
        grid = verbs[row][:, None] + nouns[row][None, :]
        own = grid[verb_labels[row], noun_labels[row]]
        lowest, highest = (grid > own).sum(), (grid >= own).sum() - 1
        assert min(lowest, 5) <= got[row] <= min(highest, 5)
        if not with_ties:
            assert got[row] == min(lowest, 5)


def test_ranks_break_ties_by_class_index():
    assert label_ranks([[1.0, 1.0, 1.0]] * 3, [0, 1, 2]).tolist() == [0, 1, 2]
    assert top_k_accuracy([[0.1, 0.9], [0.9, 0.1]], [1, 1]) == 0.5
    assert top_k_accuracy([[0.1, 0.9], [0.9, 0.1]], [1, 1], k=5) == 1.0


def test_confusion_and_per_class_by_hand():
    confusion = confusion_matrix([0, 1, 1, 2], [0, 0, 1, 1], 4)
    assert confusion.tolist() == [[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    report = per_class(confusion)
    np.testing.assert_allclose(report.recall_K, [0.5, 0.5, np.nan, np.nan])
    np.testing.assert_allclose(report.precision_K, [1.0, 0.5, 0.0, np.nan])
    np.testing.assert_allclose(report.f1_K, [2 / 3, 0.5, 0.0, np.nan])
    assert report.mean_recall == 0.5
    assert report.macro_f1 == pytest.approx((2 / 3 + 0.5) / 2)


def test_brier_nll_and_maximum_error_by_hand():
    probs, labels = [[0.75, 0.25], [0.75, 0.25]], [0, 1]
    assert brier_score(probs, labels) == pytest.approx((2 * 0.0625 + 2 * 0.5625) / 2)
    assert negative_log_likelihood(probs, labels) == pytest.approx(-(np.log(0.75) + np.log(0.25)) / 2)
    assert maximum_calibration_error(probs, labels) == pytest.approx(0.25)
    assert classwise_calibration_error(probs, labels) == pytest.approx(0.25)


def test_adaptive_error_with_one_bin_is_the_gap_of_means():
    g = np.random.default_rng(0)
    probs, labels = softmax(g.normal(size=(50, 4))), g.integers(0, 4, 50)
    gap = abs(probs.max(1).mean() - (probs.argmax(1) == labels).mean())
    assert adaptive_calibration_error(probs, labels, num_bins=1) == pytest.approx(gap)
    assert adaptive_calibration_error(probs, labels, num_bins=1000) >= gap


def test_a_calibrated_classifier_has_small_errors():
    torch.manual_seed(0)
    logits = 2 * torch.randn(40_000, 6)
    labels = torch.distributions.Categorical(logits=logits).sample().numpy()
    summary = calibration_summary(softmax(logits.numpy()), labels)
    for name in ("ece", "adaptive_ece", "classwise_ece"):
        assert summary[name] < 0.012, name


def test_softmax_agrees_with_scipy_and_survives_large_logits():
    z = np.random.default_rng(0).normal(size=(5, 7)) * 300
    np.testing.assert_allclose(softmax(z), special.softmax(z, axis=1), atol=1e-12)
    np.testing.assert_allclose(log_softmax(z), special.log_softmax(z, axis=1), atol=1e-9)


def test_temperature_scaling_lowers_nll_and_keeps_the_order():
    torch.manual_seed(0)
    true_logits = 2 * torch.randn(5000, 5)
    labels = torch.distributions.Categorical(logits=true_logits).sample().numpy()
    logits = 2.5 * true_logits.numpy()
    temperature = fit_temperature(logits, labels)
    assert temperature == pytest.approx(2.5, rel=0.05)
    before, after = softmax(logits), softmax(logits / temperature)
    assert negative_log_likelihood(after, labels) < negative_log_likelihood(before, labels)
    assert expected_calibration_error(after, labels) < expected_calibration_error(before, labels)
    np.testing.assert_array_equal(before.argmax(1), after.argmax(1))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_temperature_scaling_never_raises_nll_on_its_own_split(seed):
    g = np.random.default_rng(seed)
    logits, labels = g.normal(size=(20, 4)) * g.uniform(0.1, 10), g.integers(0, 4, 20)
    temperature = fit_temperature(logits, labels)
    after, before = softmax(logits / temperature), softmax(logits)
    assert negative_log_likelihood(after, labels) <= negative_log_likelihood(before, labels) + 1e-9


def test_vector_scaling_removes_a_class_bias_that_a_temperature_cannot():
    torch.manual_seed(0)
    true_logits = 2 * torch.randn(8000, 4)
    labels = torch.distributions.Categorical(logits=true_logits).sample().numpy()
    logits = true_logits.numpy() + np.array([3.0, 0.0, 0.0, -2.0])
    by_temperature = softmax(logits / fit_temperature(logits, labels))
    scaling = fit_vector_scaling(logits, labels, l2=0.0)
    by_vector = softmax(scaling(logits))
    assert negative_log_likelihood(by_vector, labels) < negative_log_likelihood(by_temperature, labels) - 0.1
    np.testing.assert_allclose(scaling.bias_K - scaling.bias_K[1], [-3.0, 0.0, 0.0, 2.0], atol=0.25)


def test_averages_of_views_by_hand_and_their_curve():
    logits = np.log(np.array([[[0.9, 0.1], [0.2, 0.8]]]))
    by_probability = np.exp(average_views(logits, "probabilities"))
    np.testing.assert_allclose(by_probability, [[0.55, 0.45]], atol=1e-9)
    mean = np.sqrt([0.9 * 0.2, 0.1 * 0.8])
    np.testing.assert_allclose(np.exp(average_views(logits)), [mean / mean.sum()], atol=1e-9)
    g = np.random.default_rng(0)
    labels = g.integers(0, 5, 400)
    noisy = np.eye(5)[labels][:, None, :] + g.normal(size=(400, 6, 5)) * 1.2
    curve = accuracy_by_views(noisy, labels, gmacs_per_view=2.0)
    assert [point.gmacs for point in curve] == [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]
    assert curve[-1].top1 > curve[0].top1 + 0.1
    assert curve[-1].top1 == pytest.approx(top_k_accuracy(average_views(noisy), labels))
    single = np.mean([top_k_accuracy(noisy[:, v], labels) for v in range(6)])
    assert curve[0].top1 == pytest.approx(single)


def test_bootstrap_interval_covers_like_the_normal_approximation():
    values = (np.random.default_rng(1).random(1000) < 0.3).astype(float)
    interval = bootstrap_interval(values, num_resamples=4000)
    error = standard_error(values.mean(), 1000)
    assert interval.value == values.mean()
    assert interval.low == pytest.approx(values.mean() - 1.96 * error, abs=0.004)
    assert interval.high == pytest.approx(values.mean() + 1.96 * error, abs=0.004)
    slow = bootstrap_interval(values, lambda rows: float(rows.mean()), num_resamples=1000)
    assert slow.low == pytest.approx(interval.low, abs=0.006)


def test_grouped_bootstrap_is_wider_when_groups_agree_within():
    g = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 50)
    values = (g.random(20) < 0.5).astype(float)[groups]
    single, grouped = bootstrap_interval(values), bootstrap_interval(values, groups_N=groups)
    assert grouped.high - grouped.low > 3 * (single.high - single.low)


def test_paired_intervals_and_mcnemar():
    g = np.random.default_rng(0)
    b = g.random(2000) < 0.5
    a = b | (g.random(2000) < 0.08)
    assert paired_bootstrap(a, b).excludes_zero
    assert not paired_bootstrap(a, a).excludes_zero
    only_a = int((a & ~b).sum())
    assert mcnemar_p_value(a, b) == pytest.approx(2 * 0.5**only_a)
    assert mcnemar_p_value(a, a) == 1.0


def test_seed_interval_is_students():
    values = [0.61, 0.64, 0.66]
    expected = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    interval = seed_interval(values)
    assert (interval.low, interval.high) == pytest.approx(expected)
    assert seed_interval([0.5]).high == np.inf


def test_bad_input_names_the_problem():
    for probs, labels, message in [
        ([[2.0, -1.0]], [0], "apply softmax"),
        ([[0.5, 0.5]], [2], "2 classes"),
        ([[0.5, 0.5]], [-1], "Labels lie in"),
        ([[np.nan, 0.5]], [0], "NaN"),
        (np.zeros((0, 3)), np.zeros(0, int), "no samples"),
        ([0.5, 0.5], [0], r"\[N, K\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            expected_calibration_error(probs, labels)
    with pytest.raises(ValueError, match="allowed: logits"):
        average_views(np.zeros((1, 1, 2)), "median")  # type: ignore[arg-type]
