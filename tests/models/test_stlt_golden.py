"""The layout transformer against numbers recorded from the reference code."""

import json

import numpy as np
import pytest
import torch

from egoloom.models import create_model, num_parameters


def layout_inputs(arrays) -> dict[str, dict[str, torch.Tensor]]:
    names = {
        "boxes": "bboxes",
        "categories": "class_labels",
        "scores": "scores",
        "sides": "sides",
        "states": "states",
        "pad_mask": "src_key_padding_mask_boxes",
    }
    return {"boxes": {ours: torch.from_numpy(arrays[f"in/{theirs}"]) for ours, theirs in names.items()}}


@pytest.fixture
def tiny(golden):
    facts = json.loads(golden("stlt_tiny.json").read_text())
    arrays = np.load(golden("stlt_tiny.npz"), allow_pickle=False)
    model = create_model(
        "stlt",
        num_classes=facts["heads"],
        hidden=facts["hidden"],
        num_attention_heads=facts["attention_heads"],
        spatial_layers=facts["spatial_layers"],
        temporal_layers=facts["temporal_layers"],
        num_frames=facts["num_frames"],
    )
    state = {name[6:]: torch.from_numpy(arrays[name]) for name in arrays if name.startswith("param/")}
    model.load_state_dict(state, strict=True)
    assert num_parameters(model) == facts["parameters"]
    return model.eval(), arrays


@pytest.mark.parametrize("gradients", [False, True], ids=["fused", "composed"])
def test_tiny_outputs_match_the_reference(tiny, gradients):
    # With gradients off PyTorch takes a fused path through its encoder layers; both must agree with the reference.
    model, arrays = tiny
    inputs = layout_inputs(arrays)
    with torch.set_grad_enabled(gradients):
        spatial = model.temporal_transformer.layout_embedding
        layout = model.layout(inputs)
        boxes = spatial.category_box_embeddings(layout)
        frames = spatial(layout)
        features = model.forward_features(inputs)
        logits = model(inputs)
    np.testing.assert_allclose(boxes.detach().flatten(), arrays["out/box_embeddings"].ravel(), atol=2e-5)
    np.testing.assert_allclose(frames.detach(), arrays["out/frame_embeddings"], atol=2e-5)
    np.testing.assert_allclose(features.detach(), arrays["out/features"], atol=2e-5)
    np.testing.assert_allclose(logits["ACTION"].detach(), arrays["out/logits/ACTION"], atol=2e-5)


def test_padded_boxes_do_not_matter(tiny):
    model, arrays = tiny
    inputs = layout_inputs(arrays)
    with torch.no_grad():
        before = model(inputs)["ACTION"]
        inputs["boxes"]["boxes"][inputs["boxes"]["pad_mask"]] = 0.77
        torch.testing.assert_close(model(inputs)["ACTION"], before)


def test_later_frames_do_not_change_earlier_tokens(tiny):
    model, arrays = tiny
    inputs = layout_inputs(arrays)
    with torch.no_grad():
        before = model.forward_tokens(inputs)
        inputs["boxes"]["boxes"][:, -1] = 0.5
        after = model.forward_tokens(inputs)
    torch.testing.assert_close(after[:, :-1], before[:, :-1])
    assert float((after[1:, -1] - before[1:, -1]).abs().max()) > 1e-4


def test_full_parameters_and_outputs_match_the_reference(golden, formula):
    facts = json.loads(golden("stlt_full_params.json").read_text())
    arrays = np.load(golden("stlt_full_outputs.npz"), allow_pickle=False)
    model = create_model("stlt", num_classes=facts["heads"], num_frames=facts["num_frames"]).eval()
    ours = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    assert ours == dict(facts["parameters"])
    assert num_parameters(model) == facts["parameter_count"]
    formula.fill(model, facts["crc32_of_filled_values"], facts["rows_forced_to_zero"])
    inputs = layout_inputs(arrays)
    with torch.no_grad():
        features = model.forward_features(inputs)
        logits = model.forward_head(features)
    np.testing.assert_allclose(features, arrays["out/features"], atol=2e-4)
    np.testing.assert_allclose(logits["ACTION"], arrays["out/logits/ACTION"], atol=2e-4)
