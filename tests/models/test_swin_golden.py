"""Video Swin against numbers recorded from the reference code."""

import json

import numpy as np
import pytest
import torch

from egoloom.models import create_model, num_parameters
from egoloom.models.swin import VideoSwin


@pytest.fixture(scope="module")
def tiny(golden):
    arrays = np.load(golden("swin_tiny.npz"), allow_pickle=False)
    model = VideoSwin(embed_dim=16, depths=(2, 2, 2, 1), num_heads=(1, 2, 4, 8), window=(2, 4, 4))
    state = {name[6:]: torch.from_numpy(arrays[name]) for name in arrays if name.startswith("param/")}
    model.load_state_dict(state, strict=True)
    return model.eval(), arrays


@pytest.mark.parametrize("case", ["A", "B", "C"])
def test_tiny_features_match_the_reference(tiny, case):
    model, arrays = tiny
    x = torch.from_numpy(arrays[f"{case}/input_int8"].astype(np.float32) / 64)
    with torch.no_grad():
        features = model(x).numpy()
    np.testing.assert_allclose(features, arrays[f"{case}/features"], atol=2e-5)
    np.testing.assert_allclose(features.mean(axis=(2, 3, 4)), arrays[f"{case}/pooled"], atol=2e-5)


def test_tiny_buffers_are_the_reference_position_indices(tiny):
    model, arrays = tiny
    buffers = dict(model.named_buffers())
    for name in (name for name in arrays if name.startswith("buffer/")):
        np.testing.assert_array_equal(buffers[name[7:]].numpy(), arrays[name])


def test_tiny_gradients_match_the_reference(tiny):
    model, arrays = tiny
    x = torch.from_numpy(arrays["C/input_int8"].astype(np.float32) / 64).requires_grad_()
    model.zero_grad()
    (model(x) * torch.from_numpy(arrays["C/cotangent"])).sum().backward()
    expected = arrays["C/grad_input"]
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), expected, atol=1e-4 * np.abs(expected).max())
    norms = dict(zip(arrays["C/grad_param_names"], arrays["C/grad_param_norms"], strict=True))
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert float(parameter.grad.norm()) == pytest.approx(float(norms[name]), rel=1e-4, abs=1e-4)


def full_model(golden, input_modality: str = "rgb"):
    facts = json.loads(golden("swin_full_params.json").read_text())
    model = create_model("video_swin_t", num_classes=facts["heads"], input_modality=input_modality)
    return model, facts


def test_full_parameter_names_map_one_to_one(golden):
    model, facts = full_model(golden)
    ours = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    assert ours == dict(facts["parameters"])
    assert num_parameters(model) == facts["parameter_count"]
    assert num_parameters(model.backbone) == facts["backbone_parameter_count"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "modality"),
    [("clips2_t8_112", "rgb"), ("audio_t8_96", "spectrogram_frames"), ("t16_224", "rgb")],
)
def test_full_outputs_match_the_reference(golden, formula, case, modality):
    model, facts = full_model(golden, modality)
    formula.fill(model, facts["crc32_of_filled_values"])
    about = json.loads(golden("swin_full_outputs.json").read_text())[case]
    expected = np.load(golden("swin_full_outputs.npz"), allow_pickle=False)
    values = formula.values(f"golden-a:input:{case}", tuple(about["input_shape"]))
    decibels = modality == "spectrogram_frames"
    values = (-100 + 100 * values if decibels else values).astype(np.float32)
    frames = torch.from_numpy(values) if decibels else 255 * torch.from_numpy(values)
    frames = frames.flatten(0, 1)
    model.eval()
    with torch.no_grad():
        features = model.forward_map({modality: frames})  # type: ignore[operator]
        pooled = model.forward_features({modality: frames})
        logits = model.forward_head(pooled)
    np.testing.assert_allclose(features.flatten()[::97], expected[f"{case}/features_every_97th"], atol=2e-4)
    np.testing.assert_allclose(pooled, expected[f"{case}/pooled"], atol=1e-4)
    for head in facts["heads"]:
        np.testing.assert_allclose(logits[head], expected[f"{case}/logits/{head}"], atol=2e-4)
