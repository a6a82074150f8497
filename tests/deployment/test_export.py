import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from egoloom.cli.main import main, run_verb
from egoloom.clips.media import write_video
from egoloom.deployment import ParityClips, export_student, load_student, predict_video
from egoloom.deployment.card import read_card
from egoloom.deployment.graph import ClipGraph
from egoloom.deployment.parity import ParityLimits, compare
from egoloom.errors import UserError
from egoloom.models import Recogniser, create_model

TEMPERATURE = {"verb": 1.3, "noun": 0.8, "action": 1.7}


def torch_log_probs(checkpoint, frames):
    model = Recogniser.from_pretrained(checkpoint)
    with torch.no_grad():
        logits = model({"rgb": torch.from_numpy(frames)})
    return {head: (value / TEMPERATURE[head]).log_softmax(-1).numpy() for head, value in logits.items()}


@pytest.mark.parametrize("name", ["edge_tiny", "edge_small"])
@pytest.mark.parametrize("options", [{}, {"norm": "group", "widths": (16, 32, 48), "depths": (1, 1, 1)}])
def test_folding_changes_nothing_but_rounding(name, options, clips):
    torch.manual_seed(1)
    model = create_model(name, num_classes={"action": 7}, **options)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.2)
    frames = torch.from_numpy(clips[:3])
    with torch.no_grad():
        expected = (model.eval()({"rgb": frames})["action"] / 2.0).log_softmax(-1)
        actual = ClipGraph(model, {"action": 2.0})(frames)[0]
    assert expected.std() > 0.05
    torch.testing.assert_close(actual, expected, atol=2e-4, rtol=0)


def test_artefact_says_what_pytorch_says_for_any_batch(artefact, checkpoint, clips):
    session = onnxruntime.InferenceSession(str(artefact / "model.onnx"), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    for batch in (1, 3, 12):
        actual = dict(zip(names, session.run(None, {"rgb": clips[:batch]}), strict=True))
        expected = torch_log_probs(checkpoint, clips[:batch])
        for head, scores in expected.items():
            np.testing.assert_allclose(actual[head], scores, atol=1e-4)
            np.testing.assert_allclose(np.exp(actual[head]).sum(axis=1), 1, atol=1e-5)


def test_artefact_explains_itself(artefact):
    card = read_card(artefact)
    assert card.input.colour_order == "RGB"
    assert card.input.size_px == 32
    assert card.input.seconds_between_frames == 0.2
    assert np.allclose(card.input.mean, (0.485, 0.456, 0.406), atol=1e-5)
    assert np.allclose(card.input.std, (0.229, 0.224, 0.225), atol=1e-5)
    assert card.temperature == TEMPERATURE
    assert card.class_names["verb"][3] == "verb 3"
    assert card.parity["num_clips"] == 12
    assert card.parity["max_abs_diff"] < 1e-4
    assert card.parity["stream_max_abs_diff"] < 1e-4
    assert card.licence_note == "made up"
    assert card.gmacs_per_clip is not None
    assert card.gmacs_per_clip > 0
    assert {path.name for path in artefact.iterdir()} == {"card.json", "model.onnx", "stream.onnx", "run.py"}
    assert sum(bool(line) for line in (artefact / "run.py").read_text().splitlines()) <= 45
    embedded = {item.key: item.value for item in onnx.load(artefact / "model.onnx").metadata_props}
    assert json.loads(embedded["egoloom_card"])["class_names"] == card.class_names


def test_no_conv3d_in_the_graph(artefact):
    for file in ("model.onnx", "stream.onnx"):
        graph = onnx.load(artefact / file).graph
        weights = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
        kernels = [weights[node.input[1]] for node in graph.node if node.op_type == "Conv"]
        assert kernels
        assert set(kernels) == {4}


@pytest.mark.parametrize(("num_frames", "fps"), [(60, 15), (6, 1), (7, 15)], ids=["usual", "1 fps", "short"])
def test_plain_runner_needs_neither_egoloom_nor_torch(artefact, moving_frames, tmp_path, num_frames, fps):
    """It says what ``egoloom predict`` says of the same video, but for how the two shrink pictures."""
    video = tmp_path / "video.mp4"
    write_video(video, moving_frames(num_frames, 64, 96, seed=7), fps, crf=10)
    folder = shutil.copytree(artefact, tmp_path / "device")
    blocked = tmp_path / "blocked"
    for name in ("torch", "egoloom"):
        (blocked / name).mkdir(parents=True)
        (blocked / name / "__init__.py").write_text(f"raise ImportError('{name} is not on the device')")
    result = subprocess.run(
        [sys.executable, str(folder / "run.py"), str(video)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(blocked), "PATH": "/usr/bin:/bin"},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    said = {name.strip(): float(share) / 100 for share, name in (line.split("%", 1) for line in lines)}
    expected = dict(predict_video(load_student(artefact), video).top())
    assert next(iter(said)) == next(iter(expected))
    assert len(said) == 5
    for name in said.keys() & expected.keys():
        assert said[name] == pytest.approx(expected[name], abs=0.02)


def test_single_file_equals_folder(student_onnx, artefact, clips):
    alone, folder = load_student(student_onnx), load_student(artefact)
    assert alone.card.class_names == folder.card.class_names
    np.testing.assert_array_equal(alone.log_probs(clips)["action"], folder.log_probs(clips)["action"])


def test_checkpoint_runs_as_it_is(checkpoint, clips):
    scores = load_student(checkpoint).log_probs(clips)
    np.testing.assert_allclose(scores["action"], torch_log_probs(checkpoint, clips)["action"], atol=1e-4)


def test_torch_target(checkpoint, clips, tmp_path):
    result = export_student(checkpoint, tmp_path / "torch", target="torch", parity_clips=clips)
    scores = load_student(result.path).log_probs(clips)
    np.testing.assert_allclose(scores["noun"], torch_log_probs(checkpoint, clips)["noun"], atol=1e-4)


def test_gate_refuses_and_writes_nothing(checkpoint, clips, tmp_path):
    out = tmp_path / "artefact"
    strict = ParityLimits(max_abs_diff=1e-12, min_top1_agreement=1.0)
    with pytest.raises(UserError, match="parity gate"):
        export_student(checkpoint, out, parity_clips=clips, limits=strict, target="torch")
    assert list(tmp_path.iterdir()) == []


def test_gate_keeps_the_earlier_artefact(artefact, checkpoint, clips, tmp_path):
    out = shutil.copytree(artefact, tmp_path / "artefact")
    before = (out / "card.json").read_bytes()
    strict = ParityLimits(max_abs_diff=1e-12, min_top1_agreement=1.0)
    with pytest.raises(UserError, match="parity gate"):
        export_student(checkpoint, out, parity_clips=clips, limits=strict, target="torch")
    assert (out / "card.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["artefact"]


def test_parity_figures_by_hand():
    reference = np.log(np.array([[0.7, 0.3], [0.4, 0.6], [0.9, 0.1]]))
    other = np.log(np.array([[0.58, 0.42], [0.65, 0.35], [0.9, 0.1]]))
    clips = ParityClips(np.zeros((3, 1, 3, 8, 8), np.uint8), {"action": np.array([0, 1, -1])})
    parity = compare({"action": reference}, {"action": other}, clips)
    assert parity.top1_agreement == pytest.approx(2 / 3)
    assert parity.max_abs_diff == pytest.approx(np.log(0.6 / 0.35))
    assert parity.max_probability_diff == pytest.approx(0.25)
    assert (parity.accuracy_torch, parity.accuracy) == (1.0, 0.5)
    assert parity.accuracy_loss == 0.5
    # confidences .58 (right) and .65 (wrong): two bins of one clip each
    assert parity.ece == pytest.approx((0.42 + 0.65) / 2)


def test_nan_never_passes_the_gate():
    from egoloom.deployment.parity import LIMITS, check

    clips = ParityClips(np.zeros((2, 1, 3, 8, 8), np.uint8))
    good = np.log(np.full((2, 2), 0.5))
    bad = np.array([[np.nan, 0.0], [0.0, 0.0]])
    with pytest.raises(UserError, match="differ by nan"):
        check(compare({"a": good}, {"a": bad}, clips), LIMITS["int8"])


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_smaller_precisions(checkpoint, clips, tmp_path, precision):
    loose = ParityLimits(max_abs_diff=3.0, min_top1_agreement=0.7)
    calibration = np.concatenate([clips, clips[:, ::-1]])
    result = export_student(
        checkpoint,
        tmp_path / "small.onnx",
        precision=precision,
        parity_clips=clips,
        calibration_clips=calibration,
        limits=loose,
    )
    kinds = {node.op_type for node in onnx.load(result.path).graph.node}
    types = {tensor.data_type for tensor in onnx.load(result.path).graph.initializer}
    if precision == "int8":
        assert "QuantizeLinear" in kinds
        assert onnx.TensorProto.INT8 in types
    else:
        assert onnx.TensorProto.FLOAT16 in types
    expected = torch_log_probs(checkpoint, clips)["action"]
    actual = load_student(result.path).log_probs(clips)["action"]
    assert np.abs(np.exp(actual) - np.exp(expected)).max() < 0.15
    assert np.corrcoef(actual.ravel(), expected.ravel())[0, 1] > 0.98


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "tensorrt"}, "Unknown target"),
        ({"target": "torch", "precision": "int8"}, "cannot write int8"),
        ({"target": "executorch", "dynamic_batch": True}, "one clip at a time|not installed"),
    ],
)
def test_impossible_requests(checkpoint, tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        export_student(checkpoint, tmp_path / "x", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_missing_runtime_says_what_to_install(monkeypatch, checkpoint, tmp_path):
    from egoloom.deployment.targets.openvino_runtime import OpenVinoTarget

    monkeypatch.setattr(OpenVinoTarget, "modules", ("a_runtime_that_nobody_has",))
    with pytest.raises(UserError, match=r"pip install \"egoloom\[openvino\]\""):
        export_student(checkpoint, tmp_path / "x", target="openvino")


def test_foreign_folder_is_left_alone(checkpoint, clips, tmp_path):
    (tmp_path / "thesis.txt").write_text("final")
    with pytest.raises(UserError, match="no artefact"):
        export_student(checkpoint, tmp_path, parity_clips=clips)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_flow_network_cannot_ship(tmp_path, save_checkpoint):
    folder = save_checkpoint(tmp_path / "flow", input_modality="flow")
    with pytest.raises(UserError, match="Only RGB networks"):
        export_student(folder, tmp_path / "x")


def test_card_with_other_class_counts(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "best")
    card = json.loads((folder / "card.json").read_text())
    card["class_names"]["verb"] = ["only one"]
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match="names 1 classes for the head 'verb', the network has 5"):
        export_student(folder, tmp_path / "x")


def test_verb_prints_parity_and_next_command(checkpoint, tmp_path, capsys):
    run_verb(["export", str(checkpoint), "--out", str(tmp_path / "a"), "--target", "torch"])
    text = capsys.readouterr().out
    assert "synthetic patterns" in text
    assert "egoloom predict" in text
    run_verb(["export", str(checkpoint), "--out", str(tmp_path / "b"), "--target", "torch", "--json"])
    content = json.loads(capsys.readouterr().out)
    assert content["max_abs_diff"] < 1e-3
    assert content["latency_ms"] > 0


def test_export_of_nothing_exits_with_two(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["export", str(tmp_path / "missing")])
    assert stop.value.code == 2
    assert "There is no checkpoint" in capsys.readouterr().err
