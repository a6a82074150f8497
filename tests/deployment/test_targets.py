"""Every target whose libraries are installed; the others are skipped with a reason."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from egoloom.deployment import export_student, load_student
from egoloom.deployment.parity import ParityLimits
from egoloom.deployment.streaming import open_stream
from egoloom.deployment.targets import TARGET_NAMES, get_target, installed_targets
from egoloom.errors import UserError
from egoloom.models import Recogniser

OTHERS = ("openvino", "executorch", "litert")


def need(target):
    try:
        get_target(target).require(to_export=True)
    except UserError as error:
        pytest.skip(str(error).splitlines()[0])


@pytest.mark.parametrize("target", OTHERS)
def test_target_says_what_pytorch_says(target, checkpoint, clips, video, tmp_path):
    need(target)
    result = export_student(checkpoint, tmp_path / target, target=target, parity_clips=clips[:4])
    assert result.max_abs_diff < 1e-3
    with torch.no_grad():
        logits = Recogniser.from_pretrained(checkpoint)({"rgb": torch.from_numpy(clips[:4])})["action"]
    actual = load_student(result.path).log_probs(clips[:4])["action"]
    np.testing.assert_allclose(actual, (logits / 1.7).log_softmax(-1).numpy(), atol=1e-3)
    runner = subprocess.run(
        [sys.executable, str(result.path / "run.py"), str(video)], capture_output=True, text=True, check=False
    )
    assert runner.returncode == 0, runner.stderr
    assert len([line for line in runner.stdout.splitlines() if "%" in line]) == 5


@pytest.mark.parametrize("target", OTHERS)
def test_target_streams(target, checkpoint, clips, tmp_path):
    need(target)
    path = export_student(checkpoint, tmp_path / target, target=target, parity_clips=clips[:2]).path
    reference, stream = open_stream(checkpoint), open_stream(path)
    for frame in clips[0]:
        np.testing.assert_allclose(stream.push(frame)["verb"], reference.push(frame)["verb"], atol=1e-3)


@pytest.mark.parametrize("target", ["openvino", "executorch"])
def test_target_int8(target, checkpoint, clips, tmp_path):
    need(target)
    loose = ParityLimits(max_abs_diff=3.0, min_top1_agreement=0.7)
    result = export_student(
        checkpoint, tmp_path / target, target=target, precision="int8", parity_clips=clips, limits=loose
    )
    expected = load_student(checkpoint).log_probs(clips)["action"]
    actual = load_student(result.path).log_probs(clips)["action"]
    assert np.abs(np.exp(actual) - np.exp(expected)).max() < 0.15


@pytest.mark.parametrize("target", ["executorch", "litert"])
def test_dynamic_batch_is_refused_where_it_cannot_be(target, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(type(get_target(target)), "modules", ())
    monkeypatch.setattr(type(get_target(target)), "export_modules", ())
    with pytest.raises(UserError, match="one clip at a time"):
        export_student(checkpoint, tmp_path / "x", target=target, dynamic_batch=True)


def test_registry_lists_what_is_installed():
    installed = installed_targets()
    assert {"onnx", "torch"} <= set(installed) <= set(TARGET_NAMES)
    with pytest.raises(UserError, match="onnx, openvino, executorch, litert, torch"):
        get_target("coreml")
