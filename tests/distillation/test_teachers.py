"""Teacher weights against recorded numbers, ensembles with silent teachers, fitting, ONNX teachers."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from egoloom.distillation.losses import logit_kd
from egoloom.distillation.teachers import (
    FittedEnsemble,
    ModuleTeacher,
    OnnxTeacher,
    TeacherEnsemble,
    TeacherEnsembleConfig,
)
from egoloom.distillation.weights import (
    camkd_weights,
    entropy_weights,
    fit_temperature,
    full_dataset_weights,
    mix_logits,
    mix_probabilities,
    per_sample_weights,
    selective_weights,
    softmin,
    teacher_cross_entropy,
    uniform_weights,
)
from egoloom.errors import UserError
from egoloom.models import create_model


class Fixed(torch.nn.Module):
    """A network whose verdict is its input: inputs[name] are the logits."""

    def __init__(self, name: str, classes: int) -> None:
        super().__init__()
        self.input_modalities = (name,)
        self.heads = {"verb": classes}

    def forward(self, inputs):
        return {"verb": inputs[self.input_modalities[0]]}


def test_weights_and_mixtures_match_the_reference(golden):
    arrays = np.load(golden("teacher_weights.npz"), allow_pickle=False)
    for group in json.loads(golden("teacher_weights_cases.json").read_text()):
        name, count = group["name"], group["mix_batch"]
        for head in group["heads"]:
            logits = torch.tensor(arrays[f"{name}/in/{head}/teacher_logits"])
            labels = torch.tensor(arrays[f"{name}/in/{head}/labels"])
            ce = teacher_cross_entropy(logits, labels)
            np.testing.assert_allclose(ce, arrays[f"{name}/ce/{head}"], atol=1e-5)
            uniform = mix_logits(logits[:count], uniform_weights(count, group["teachers"]))
            np.testing.assert_allclose(uniform, arrays[f"{name}/uniform/{head}/mixed_logits"], atol=1e-5)
            mean_ce = ce.double().mean(0)
            np.testing.assert_allclose(mean_ce, arrays[f"{name}/full_dataset/{head}/mean_ce"], atol=1e-6)
            for gamma in group["gammas"]:
                key = f"{name}/per_sample/gamma{gamma}/{head}"
                weights = per_sample_weights(logits[:count], labels[:count], gamma=gamma)
                np.testing.assert_allclose(weights, arrays[f"{key}/weights"], atol=2e-6)
                np.testing.assert_allclose(
                    mix_logits(logits[:count], weights), arrays[f"{key}/mixed_logits"], atol=1e-5
                )
                key = f"{name}/full_dataset/gamma{gamma}/{head}"
                weights = full_dataset_weights(mean_ce, gamma=gamma)
                np.testing.assert_allclose(weights, arrays[f"{key}/weights_as_run"], atol=1e-6)
                mixed = mix_logits(logits[:count], weights.float().expand(count, -1))
                np.testing.assert_allclose(mixed, arrays[f"{key}/mixed_logits"], atol=1e-5)


def test_ensemble_fits_the_same_weights(golden):
    arrays = np.load(golden("teacher_weights.npz"), allow_pickle=False)
    logits = {
        "verb": torch.tensor(arrays["epic_m3/in/VERB/teacher_logits"]),
    }
    labels = {"verb": torch.tensor(arrays["epic_m3/in/VERB/labels"])}
    teachers = {str(i): ModuleTeacher(Fixed(f"t{i}", 97)) for i in range(3)}
    ensemble = TeacherEnsemble(teachers, TeacherEnsembleConfig(weights="full_dataset", gamma=0.5))
    fitted = ensemble.fit(logits, labels)
    expected = arrays["epic_m3/full_dataset/gamma0.5/VERB/weights_float64"]
    np.testing.assert_allclose(fitted.weights["verb"], expected, atol=1e-6)
    inputs = {f"t{i}": logits["verb"][:6, i] for i in range(3)}
    targets = ensemble.targets(ensemble.logits(inputs), labels)
    np.testing.assert_allclose(
        targets.logits["verb"], arrays["epic_m3/full_dataset/gamma0.5/VERB/mixed_logits"], atol=1e-5
    )


def test_camkd_and_entropy_weights_match_published_code(golden):
    arrays = np.load(golden("kd_variants.npz"), allow_pickle=False)
    for name in ("c97", "c300", "c10"):
        logits, labels = torch.tensor(arrays[f"{name}/teachers"]), torch.tensor(arrays[f"{name}/labels"])
        student = torch.tensor(arrays[f"{name}/student"])
        weights = camkd_weights(logits, labels)
        np.testing.assert_allclose(weights, arrays[f"{name}/camkd/weights"], atol=1e-5)
        entropy = entropy_weights(logits)
        np.testing.assert_allclose(entropy, arrays[f"{name}/entropy_weighted/weights"], atol=1e-5)
        # The published loss: sum of weights times each teacher's KD, divided by M once more.
        keys = [key for key in arrays if key.startswith(f"{name}/camkd/T") and key.endswith("kd_loss")]
        assert keys
        for key in keys:
            temperature = float(key.split("/T")[1].split("/")[0])
            num_teachers = logits.shape[1]
            per_teacher = [
                logit_kd(student, logits[:, m], temperature=temperature, sample_weights_B=weights[:, m])
                for m in range(num_teachers)
            ]
            assert float(sum(per_teacher)) / num_teachers == pytest.approx(float(arrays[key]), rel=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.01, 10), min_size=2, max_size=5), st.floats(0.05, 50), st.floats(-5, 5))
def test_softmin_sums_to_one_ignores_a_shift_and_follows_permutations(values, gamma, shift):
    v = torch.tensor(values, dtype=torch.float64)
    w = softmin(v, gamma)
    assert float(w.sum()) == pytest.approx(1.0)
    torch.testing.assert_close(softmin(v + shift, gamma), w)
    torch.testing.assert_close(softmin(v.flip(0), gamma), w.flip(0))


def test_softmin_limits():
    v = torch.tensor([1.6, 1.9, 3.1])
    torch.testing.assert_close(softmin(v, 1e6), torch.full((3,), 1 / 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(softmin(v, 1e-3), torch.tensor([1.0, 0.0, 0.0]))
    np.testing.assert_allclose(softmin(v, 1.0), [0.51, 0.38, 0.11], atol=0.005)
    with pytest.raises(ValueError, match="gamma"):
        softmin(v, 0.0)


def test_selective_keeps_the_right_and_sure():
    logits = torch.log(
        torch.tensor(
            [
                [[0.8, 0.1, 0.1], [0.6, 0.2, 0.2], [0.1, 0.8, 0.1]],  # two right, one wrong
                [[0.4, 0.3, 0.3], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]],  # right but unsure; two wrong
                [[0.8, 0.1, 0.1], [0.4, 0.3, 0.3], [0.1, 0.8, 0.1]],  # unlabelled: sureness alone
            ]
        )
    )
    weights = selective_weights(logits, torch.tensor([0, 0, -1]), min_confidence=0.5)
    torch.testing.assert_close(weights, torch.tensor([[0.5, 0.5, 0], [0, 0, 0], [0.5, 0, 0.5]]))


def test_mixed_probabilities_are_recovered_at_the_losses_temperature():
    torch.manual_seed(0)
    logits, weights = 3 * torch.randn(4, 3, 6), torch.rand(4, 3).softmax(-1)
    for temperature in (1.0, 4.0):
        mixed = mix_probabilities(logits, weights, temperature=temperature)
        expected = (weights.unsqueeze(-1) * (logits / temperature).softmax(-1)).sum(1)
        torch.testing.assert_close((mixed / temperature).softmax(-1), expected)


def test_fitted_temperature_recovers_the_true_one():
    torch.manual_seed(0)
    true_logits = 2 * torch.randn(20_000, 5)
    labels = torch.distributions.Categorical(logits=true_logits).sample()
    assert fit_temperature(true_logits * 3.0, labels) == pytest.approx(3.0, rel=0.03)
    assert fit_temperature(true_logits * 0.5, labels) == pytest.approx(0.5, rel=0.03)


def make_ensemble(**config) -> TeacherEnsemble:
    return TeacherEnsemble(
        {"a": ModuleTeacher(Fixed("rgb", 4)), "b": ModuleTeacher(Fixed("flow", 4))},
        TeacherEnsembleConfig(**config),
    )


@pytest.mark.parametrize("scheme", ["uniform", "full_dataset", "per_sample", "camkd", "selective", "entropy"])
def test_a_silent_teacher_leaves_its_weight_to_the_others(scheme):
    torch.manual_seed(0)
    ensemble = make_ensemble(weights=scheme, min_confidence=0.0, when_none_qualifies="fall_back")
    logits = {"rgb": torch.randn(3, 4), "flow": torch.randn(3, 4)}
    labels = {"verb": torch.tensor([0, 1, -1])}
    ensemble.fit({"verb": torch.randn(10, 2, 4)}, {"verb": torch.randint(0, 4, (10,))})
    present = {"rgb": torch.tensor([True, True, True]), "flow": torch.tensor([True, False, True])}
    targets = ensemble.targets(ensemble.logits({**logits, "present": present}), labels)
    torch.testing.assert_close(targets.weights["verb"].sum(-1), torch.ones(3))
    torch.testing.assert_close(targets.weights["verb"][1], torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(targets.logits["verb"][1], logits["rgb"][1])
    nobody = {"rgb": torch.tensor([True, False, True]), "flow": torch.tensor([True, False, True])}
    targets = ensemble.targets(ensemble.logits({**logits, "present": nobody}), labels)
    assert targets.sample_weights["verb"].tolist() == [1.0, 0.0, 1.0]
    assert bool(torch.isfinite(targets.logits["verb"]).all())


def test_calibration_undoes_an_overconfident_teacher():
    torch.manual_seed(0)
    true_logits = 2 * torch.randn(5000, 4)
    labels = torch.distributions.Categorical(logits=true_logits).sample()
    stacked = torch.stack([true_logits, 5 * true_logits], dim=1)
    ensemble = make_ensemble(weights="full_dataset")
    fitted = ensemble.fit({"verb": stacked}, {"verb": labels}, calibrate=True)
    assert fitted.temperatures["verb"] == pytest.approx([1.0, 5.0], rel=0.05)
    assert fitted.weights["verb"] == pytest.approx([0.5, 0.5], abs=1e-3)
    targets = ensemble.targets({"verb": stacked[:10]}, {"verb": labels[:10]})
    torch.testing.assert_close(targets.logits["verb"], true_logits[:10], rtol=0.06, atol=0.06)


def test_independent_sensors_together_are_surer_than_their_mean():
    """Bayes: independent evidence adds up in log-odds, so the mean of two calibrated teachers lacks a factor of two."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (20000,), generator=generator)
    clean = torch.nn.functional.one_hot(labels, 4).float()
    evidence = [1.5 * (1.5 * clean + torch.randn(clean.shape, generator=generator)) for _ in range(2)]
    ensemble = make_ensemble(weights="uniform", mixing="logits")
    fitted = ensemble.fit({"verb": torch.stack(evidence, dim=1)}, {"verb": labels}, calibrate=True)
    assert fitted.temperatures["verb"] == pytest.approx([1.0, 1.0], rel=0.04)
    assert fitted.mixture_temperatures["verb"] == pytest.approx(0.5, rel=0.04)
    posterior = (evidence[0] + evidence[1]).softmax(-1)
    mixed = ensemble.targets({"verb": torch.stack(evidence, dim=1)}).logits["verb"].softmax(-1)
    torch.testing.assert_close(mixed, posterior, atol=0.03, rtol=0)


def test_cross_fitted_sensors_are_as_sure_as_those_that_judge_a_training_clip():
    """Four teachers in two folds: two judge a training clip, so the mixture must not be sharpened for four."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (20000,), generator=generator)
    clean = torch.nn.functional.one_hot(labels, 4).float()
    evidence = torch.stack([1.5 * (1.5 * clean + torch.randn(clean.shape, generator=generator)) for _ in range(4)], 1)
    teachers = {name: ModuleTeacher(Fixed(name, 4)) for name in "abcd"}
    folds = {"a": frozenset({"x"}), "b": frozenset({"x"}), "c": frozenset({"y"}), "d": frozenset({"y"})}
    for learnt, expected in ((folds, 0.5), ({}, 0.25)):
        ensemble = TeacherEnsemble(teachers, TeacherEnsembleConfig(), learnt=learnt)
        fitted = ensemble.fit({"verb": evidence}, {"verb": labels}, calibrate=True)
        assert fitted.mixture_temperatures["verb"] == pytest.approx(expected, rel=0.04)


def test_fitted_weights_are_saved_and_loaded(tmp_path):
    ensemble = make_ensemble(weights="full_dataset")
    fitted = ensemble.fit({"verb": torch.randn(20, 2, 4)}, {"verb": torch.randint(0, 4, (20,))}, calibrate=True)
    fitted.save(tmp_path / "teachers.json")
    assert FittedEnsemble.load(tmp_path / "teachers.json") == fitted
    with pytest.raises(UserError, match="does not hold"):
        FittedEnsemble.load(tmp_path / "nothing.json")
    swapped = dict(reversed(list(ensemble.teachers.items())))
    with pytest.raises(UserError, match="Fitted weights are for"):
        TeacherEnsemble(swapped, fitted=fitted)


def test_joint_target_knows_which_verb_goes_with_which_noun():
    # Teacher a is sure of (0, 0), teacher b of (1, 1): the margins allow (0, 1), the joint target does not.
    sure = torch.tensor([[10.0, -10.0], [-10.0, 10.0]]).unsqueeze(0)
    ensemble = TeacherEnsemble(
        {name: ModuleTeacher(torch.nn.Identity(), heads={"verb": 2, "noun": 2}, modalities=("rgb",)) for name in "ab"}
    )
    joint, weight = ensemble.joint_targets({"verb": sure, "noun": sure})
    np.testing.assert_allclose(joint.exp()[0], [0.5, 0.0, 0.0, 0.5], atol=1e-6)
    assert weight.tolist() == [1.0]


def test_teachers_are_frozen_and_stay_in_evaluation_mode():
    network = create_model("edge_tiny", num_classes={"verb": 4}, dropout=0.5)
    teacher = ModuleTeacher(network)
    network.train()
    frames = {"rgb": torch.randint(0, 256, (2, 2, 3, 16, 16), dtype=torch.uint8)}
    first, second = teacher.logits(frames)["verb"], teacher.logits(frames)["verb"]
    torch.testing.assert_close(first, second, atol=0, rtol=0)
    assert not first.requires_grad
    assert not any(parameter.requires_grad for parameter in network.parameters())
    before = teacher.fingerprint()
    with torch.no_grad():
        next(network.parameters()).add_(1.0)
    assert teacher.fingerprint() != before


def test_onnx_teacher_gives_the_networks_logits(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    network = create_model("imu_tiny", num_classes={"verb": 4, "noun": 3}).eval()

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, imu):
            return tuple(self.network({"imu": imu}).values())

    imu = torch.randn(2, 6, 64)
    path = tmp_path / "teacher.onnx"
    torch.onnx.export(
        Plain().eval(),
        (imu,),
        str(path),
        dynamo=True,
        input_names=["imu"],
        output_names=["verb", "noun"],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},),
        verbose=False,
    )
    teacher = OnnxTeacher(path)
    assert teacher.heads == {"verb": 4, "noun": 3}
    torch.testing.assert_close(
        teacher.logits({"imu": imu})["noun"], ModuleTeacher(network).logits({"imu": imu})["noun"], atol=1e-4, rtol=0
    )
    (tmp_path / "fake.onnx").write_bytes(b"not a model")
    with pytest.raises(UserError, match="not an ONNX model"):
        OnnxTeacher(tmp_path / "fake.onnx")


def test_bad_ensembles_are_refused():
    with pytest.raises(UserError, match="at least one"):
        TeacherEnsemble({})
    with pytest.raises(UserError, match="5 classes"):
        TeacherEnsemble({"a": ModuleTeacher(Fixed("rgb", 4)), "b": ModuleTeacher(Fixed("flow", 5))})
    with pytest.raises(ValueError, match="needs fit"):
        make_ensemble(weights="full_dataset").targets({"verb": torch.zeros(1, 2, 4)})
    ensemble = make_ensemble()
    with pytest.raises(ValueError, match="'a' gives NaN"):
        ensemble.logits({"rgb": torch.full((1, 4), torch.nan), "flow": torch.zeros(1, 4)})
    with pytest.raises(UserError, match="No held-out clip"):
        ensemble.fit({"verb": torch.zeros(2, 2, 4)}, {"verb": torch.tensor([-1, -1])})
