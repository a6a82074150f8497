"""Losses against numbers of published implementations, closed forms, and bad input."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from egoloom.distillation.losses import (
    DistillationLossConfig,
    decoupled_kd,
    decoupled_kd_parts,
    dist_kd,
    distillation_loss,
    feature_kd,
    joint_log_probs,
    joint_verb_noun_kd,
    logit_kd,
    masked_cross_entropy,
    pearson,
    queue_kd,
    standardize,
    standardized_kd,
)


@pytest.fixture(scope="module")
def recorded(golden):
    return np.load(golden("distill_loss.npz"), allow_pickle=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_total_loss_and_gradients_match_the_reference(golden, recorded, dtype):
    cases = json.loads(golden("distill_loss_cases.json").read_text())
    assert len(cases) >= 10
    for case in cases:
        prefix = f"in/{case['inputs']}"
        heads = sorted({key.split("/")[2] for key in recorded if key.startswith(prefix + "/")})
        student = {h: torch.tensor(recorded[f"{prefix}/{h}/student"], dtype=dtype, requires_grad=True) for h in heads}
        teacher = {h: torch.tensor(recorded[f"{prefix}/{h}/teacher"], dtype=dtype) for h in heads}
        labels = {h: torch.tensor(recorded[f"{prefix}/{h}/labels"]) for h in heads}
        config = DistillationLossConfig(
            temperature=case["temperature"],
            lambda_distillation=case["lambda_distillation"],
            lambda_ground_truth=case["lambda_ground_truth"],
            head_weights={h: case["action_weights"].get(h) for h in heads},
        )
        losses = distillation_loss(student, teacher, labels, config)
        losses.total.backward()
        suffix = "64" if dtype == torch.float64 else ""
        for name, value in (("kd", losses.kd), ("gt", losses.gt), ("total", losses.total)):
            expected = float(recorded[f"out/{case['case']}/{name}_loss{suffix}"])
            tolerance = 1e-9 if dtype == torch.float64 else 1e-5
            assert float(value.detach()) == pytest.approx(expected, abs=tolerance * max(1.0, abs(expected))), case
        for head in heads:
            gradient = student[head].grad
            got = np.zeros(student[head].shape) if gradient is None else gradient.numpy()
            np.testing.assert_allclose(got, recorded[f"out/{case['case']}/grad/{head}"], atol=1e-6)


def variant_cases(golden):
    arrays = np.load(golden("kd_variants.npz"), allow_pickle=False)
    for case in json.loads(golden("kd_variants_cases.json").read_text())["cases"]:
        name = case["name"]
        student = torch.tensor(arrays[f"{name}/student"], requires_grad=True)
        teacher = torch.tensor(arrays[f"{name}/teachers"][:, 0])
        labels = torch.tensor(arrays[f"{name}/labels"])
        yield arrays, case, student, teacher, labels


def gradient_of(loss: torch.Tensor, student: torch.Tensor) -> np.ndarray:
    return torch.autograd.grad(loss, student)[0].numpy()


def test_kd_dkd_and_standardised_variants_match_published_code(golden):
    for arrays, case, student, teacher, labels in variant_cases(golden):
        for index, h in enumerate(case["hyper"]):
            key = f"{case['name']}/h{index}"
            t, alpha, beta = h["T"], h["alpha"], h["beta"]

            def near(name, key=key, arrays=arrays):
                return pytest.approx(float(arrays[f"{key}/{name}"]), rel=1e-5)

            assert float(logit_kd(student, teacher, temperature=t).detach()) == near("kd")
            target, others = decoupled_kd_parts(student, teacher, labels, temperature=t)
            assert float(target.detach().mean()) == near("dkd_tckd")
            assert float(others.detach().mean()) == near("dkd_nckd")
            dkd = decoupled_kd(student, teacher, labels, temperature=t, alpha=alpha, beta=beta)
            assert dkd.item() == near("dkd")
            expected = arrays[f"{key}/dkd_grad_student"]
            np.testing.assert_allclose(gradient_of(dkd, student), expected, atol=1e-4 * np.abs(expected).max())
            ls_kd = standardized_kd(student, teacher, temperature=t)
            assert ls_kd.item() == near("ls_kd")
            expected = arrays[f"{key}/ls_kd_grad_student"]
            np.testing.assert_allclose(gradient_of(ls_kd, student), expected, atol=1e-4 * np.abs(expected).max())
            ls_dkd = decoupled_kd(
                standardize(student), standardize(teacher), labels, temperature=t, alpha=alpha, beta=beta
            )
            assert ls_dkd.item() == near("ls_dkd")


def test_dist_matches_published_code(golden):
    for arrays, case, student, teacher, _ in variant_cases(golden):
        for index, h in enumerate(case["dist"]):
            key = f"{case['name']}/d{index}"
            options = {"temperature": h["tau"]}
            inter = dist_kd(student, teacher, **options, inter_weight=1.0, intra_weight=0.0)
            intra = dist_kd(student, teacher, **options, inter_weight=0.0, intra_weight=1.0)
            total = dist_kd(student, teacher, **options, inter_weight=h["beta"], intra_weight=h["gamma"])
            assert inter.item() == pytest.approx(float(arrays[f"{key}/dist_inter"]), rel=1e-4, abs=1e-4)
            assert intra.item() == pytest.approx(float(arrays[f"{key}/dist_intra"]), rel=1e-4, abs=1e-4)
            assert total.item() == pytest.approx(float(arrays[f"{key}/dist"]), rel=1e-4, abs=1e-4)


def test_dist_gradient_matches_published_code(golden):
    for arrays, case, student, teacher, _ in variant_cases(golden):
        for index, h in enumerate(case["dist"]):
            key = f"{case['name']}/d{index}/dist_grad_student"
            total = dist_kd(
                student,
                teacher,
                temperature=h["tau"],
                inter_weight=h["beta"],
                intra_weight=h["gamma"],
            )
            expected = arrays[key]
            np.testing.assert_allclose(gradient_of(total, student), expected, atol=1e-4 * np.abs(expected).max())


def test_pearson_is_numpys_corrcoef():
    a, b = np.random.default_rng(0).normal(size=(2, 50))
    assert float(pearson(torch.tensor(a), torch.tensor(b))) == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-7)


def test_joint_kd_over_all_pairs_is_the_sum_of_both_heads():
    torch.manual_seed(0)
    sv, sn, tv, tn = torch.randn(4, 5), torch.randn(4, 7), torch.randn(4, 5), torch.randn(4, 7)
    joint = joint_verb_noun_kd(sv, sn, joint_log_probs(tv, tn), temperature=3.0)
    apart = logit_kd(sv, tv, temperature=3.0) + logit_kd(sn, tn, temperature=3.0)
    assert float(joint) == pytest.approx(float(apart), rel=1e-5)


def test_joint_kd_over_existing_pairs_by_hand():
    pairs = torch.tensor([[0, 0], [1, 1]])
    sv, sn = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 2.0]])
    teacher = torch.tensor([[np.log(0.25), np.log(0.75)]])
    got = joint_verb_noun_kd(sv, sn, teacher, pairs_P2=pairs)
    q = np.exp([0.0, 3.0]) / np.exp([0.0, 3.0]).sum()
    expected = 0.25 * np.log(0.25 / q[0]) + 0.75 * np.log(0.75 / q[1])
    assert float(got) == pytest.approx(expected, rel=1e-5)


def test_feature_losses_by_hand():
    a, b = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert float(feature_kd(a, b, kind="l2")) == pytest.approx(0.5)
    assert float(feature_kd(a, b, kind="cosine")) == pytest.approx(0.5)
    assert float(feature_kd(a, b, kind="relational")) == pytest.approx(0.5)
    assert float(feature_kd(a, torch.eye(2, 5), kind="relational")) == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(ValueError, match="project the student"):
        feature_kd(a, torch.eye(2, 5), kind="l2")
    with pytest.raises(ValueError, match="allowed: l2"):
        feature_kd(a, b, kind="manhattan")


def test_queue_loss_is_least_for_a_student_that_ranks_like_the_teacher():
    torch.manual_seed(0)
    teacher, queue = torch.randn(6, 8), torch.randn(32, 8)
    same = queue_kd(teacher, teacher, queue, student_temperature=0.1)
    assert float(same) < float(queue_kd(torch.randn(6, 8), teacher, queue, student_temperature=0.1))


def test_unlabelled_samples_are_taught_by_soft_labels_alone():
    torch.manual_seed(0)
    student, teacher = {"verb": torch.randn(4, 5)}, {"verb": torch.randn(4, 5)}
    labels = {"verb": torch.tensor([2, -1, 0, -1])}
    config = DistillationLossConfig(temperature=2.0, lambda_ground_truth=1.0)
    losses = distillation_loss(student, teacher, labels, config)
    expected = torch.nn.functional.cross_entropy(student["verb"][[0, 2]], torch.tensor([2, 0]))
    assert float(losses.gt) == pytest.approx(float(expected), rel=1e-6)
    assert float(losses.kd) == pytest.approx(float(logit_kd(student["verb"], teacher["verb"], temperature=2.0)))
    nobody = distillation_loss(student, teacher, {"verb": torch.full((4,), -1)}, config)
    assert float(nobody.gt) == 0.0


def test_decoupled_kind_with_unlabelled_samples_mixes_both_forms():
    torch.manual_seed(0)
    s, t = torch.randn(4, 5), torch.randn(4, 5)
    labels = torch.tensor([2, -1, 0, -1])
    config = DistillationLossConfig(kind="decoupled", temperature=2.0, beta=3.0)
    got = distillation_loss({"verb": s}, {"verb": t}, {"verb": labels}, config).kd
    known = decoupled_kd(s[[0, 2]], t[[0, 2]], labels[[0, 2]], temperature=2.0, beta=3.0)
    unknown = logit_kd(s[[1, 3]], t[[1, 3]], temperature=2.0)
    assert float(got) == pytest.approx(float((known + unknown) / 2), rel=1e-5)


def test_per_head_temperatures_and_weights():
    torch.manual_seed(0)
    s = {"verb": torch.randn(4, 5), "noun": torch.randn(4, 7)}
    t = {"verb": torch.randn(4, 5), "noun": torch.randn(4, 7)}
    config = DistillationLossConfig(temperature={"verb": 2.0, "noun": 5.0}, kd_head_weights={"noun": 3.0})
    expected = (
        logit_kd(s["verb"], t["verb"], temperature=2.0) + 3.0 * logit_kd(s["noun"], t["noun"], temperature=5.0)
    ) / 2
    assert float(distillation_loss(s, t, None, config).kd) == pytest.approx(float(expected), rel=1e-6)


def test_sample_weights_leave_samples_out():
    torch.manual_seed(0)
    s, t = torch.randn(4, 5), torch.randn(4, 5)
    weights = torch.tensor([1.0, 0.0, 1.0, 0.0])
    got = logit_kd(s, t, temperature=2.0, sample_weights_B=weights)
    assert float(got) == pytest.approx(float(logit_kd(s[::2], t[::2], temperature=2.0)) / 2, rel=1e-6)
    assert float(logit_kd(s, t, temperature=2.0, sample_weights_B=torch.zeros(4))) == 0.0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.2, 20.0), st.floats(-50, 50))
def test_kd_is_never_negative_zero_for_equals_and_blind_to_a_common_shift(seed, temperature, shift):
    g = torch.Generator().manual_seed(seed)
    s, t = 5 * torch.randn(3, 6, generator=g).double(), 5 * torch.randn(3, 6, generator=g).double()
    loss = float(logit_kd(s, t, temperature=temperature))
    assert loss >= 0
    assert float(logit_kd(s + shift, t, temperature=temperature)) == pytest.approx(loss, rel=1e-6, abs=1e-9)
    assert float(logit_kd(t, t, temperature=temperature)) == pytest.approx(0.0, abs=1e-9)
    # Standardised KD also ignores the size of the logits.
    ls = float(standardized_kd(s, t, temperature=temperature))
    assert float(standardized_kd(3 * s + shift, t, temperature=temperature)) == pytest.approx(ls, rel=1e-4, abs=1e-6)


def test_bfloat16_logits_are_compared_in_float32():
    torch.manual_seed(0)
    s, t = torch.randn(8, 50).bfloat16(), torch.randn(8, 50).bfloat16()
    assert logit_kd(s, t, temperature=4.0).dtype == torch.float32
    assert float(logit_kd(s, t, temperature=4.0)) == pytest.approx(
        float(logit_kd(s.double(), t.double(), temperature=4.0)), rel=1e-5
    )


def test_bad_input_names_the_problem():
    with pytest.raises(ValueError, match=r"must both be \[B, K\]"):
        logit_kd(torch.zeros(2, 3), torch.zeros(2, 4), temperature=1.0)
    with pytest.raises(ValueError, match="above zero"):
        logit_kd(torch.zeros(2, 3), torch.zeros(2, 3), temperature=0.0)
    with pytest.raises(ValueError, match="3 classes"):
        masked_cross_entropy(torch.zeros(2, 3), torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="No active head"):
        distillation_loss({"verb": torch.zeros(2, 3)}, {}, None, DistillationLossConfig(head_weights={"verb": None}))
