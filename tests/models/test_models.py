"""Every architecture of the registry: shapes, inputs, saving, missing modalities, bad input."""

import json

import numpy as np
import pytest
import torch

from egoloom.errors import UserError
from egoloom.models import (
    Recogniser,
    count_gmacs,
    create_model,
    decode_hand_object,
    hand_object_heads,
    list_models,
    num_parameters,
)
from egoloom.models.edge import TemporalShift
from egoloom.models.fusion import drop_modalities
from egoloom.models.omnivorous import draw_layout

HEADS = {"verb": 5, "noun": 7}
TINY = ["edge_tiny", "spectrogram_tiny", "imu_tiny", "layout_tiny", "video_swin_tiny_test"]
MULTIMODAL = ["late_fusion", "mid_fusion", "omnivorous"]


def make_inputs(batch: int = 2, num_frames: int = 4, size_px: int = 32, seed: int = 0) -> dict:
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(batch, num_frames, 3, 2, generator=g) * 0.5
    pad = torch.rand(batch, num_frames, 3, generator=g) < 0.3
    return {
        "rgb": torch.randint(0, 256, (batch, num_frames, 3, size_px, size_px), generator=g, dtype=torch.uint8),
        "flow": torch.randint(0, 256, (batch, num_frames, 3, size_px, size_px), generator=g, dtype=torch.uint8),
        "spectrogram": torch.randn(batch, 1, 40, 50, generator=g) * 4 - 6,
        "imu": torch.randn(batch, 6, 100, generator=g),
        "boxes": {
            "boxes": torch.cat([corner, corner + 0.3], dim=-1),
            "categories": torch.randint(1, 3, (batch, num_frames, 3), generator=g).masked_fill(pad, 0),
            "scores": torch.rand(batch, num_frames, 3, generator=g),
            "is_hand": torch.rand(batch, num_frames, 3, generator=g) < 0.5,
            "pad_mask": pad,
        },
    }


def make(name: str, **overrides) -> Recogniser:
    if name in {"late_fusion", "mid_fusion"}:
        overrides.setdefault(
            "encoders",
            {
                "rgb": "edge_tiny",
                "flow": "edge_tiny",
                "spectrogram": "spectrogram_tiny",
                "imu": "imu_tiny",
                "boxes": "layout_tiny",
            },
        )
    if name == "omnivorous":
        overrides.setdefault("modalities", ("rgb", "flow", "spectrogram", "imu", "boxes"))
    torch.manual_seed(0)
    return create_model(name, num_classes=HEADS, **overrides)


@pytest.mark.parametrize("name", TINY + MULTIMODAL)
def test_logits_have_the_heads_shapes_and_every_parameter_learns(name):
    model = make(name).train()
    logits = model(make_inputs())
    assert {head: tuple(value.shape) for head, value in logits.items()} == {"verb": (2, 5), "noun": (2, 7)}
    sum(value.square().sum() for value in logits.values()).backward()
    without = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    # Tables and tokens of what this batch does not hold (missing tokens) get no gradient.
    assert all("missing" in key for key in without), without


@pytest.mark.parametrize("name", TINY + MULTIMODAL)
def test_forward_is_head_of_features_and_batch_order_does_not_matter(name):
    model, inputs = make(name).eval(), make_inputs(batch=3)
    with torch.no_grad():
        features = model.forward_features(inputs)
        assert features.shape == (3, model.num_features)
        whole = model(inputs)
        torch.testing.assert_close(model.forward_head(features), whole)
        flipped = {
            key: {k: v.flip(0) for k, v in value.items()} if isinstance(value, dict) else value.flip(0)
            for key, value in inputs.items()
        }
        torch.testing.assert_close(model(flipped)["verb"].flip(0), whole["verb"], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", TINY + MULTIMODAL)
def test_saved_and_loaded_model_is_the_same(name, tmp_path):
    model, inputs = make(name).eval(), make_inputs()
    model.extra = {"verbs": ["take", "put"]}
    model.save_pretrained(tmp_path / "model")
    loaded = Recogniser.from_pretrained(tmp_path / "model")
    assert type(loaded) is type(model)
    assert loaded.config == model.config
    assert loaded.extra == model.extra
    with torch.no_grad():
        torch.testing.assert_close(loaded(inputs), model(inputs), atol=0, rtol=0)
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]


def test_uint8_and_float_frames_give_the_same_logits():
    model, inputs = make("edge_tiny").eval(), make_inputs()
    with torch.no_grad():
        torch.testing.assert_close(model({"rgb": inputs["rgb"].float()}), model(inputs))


def test_normalisation_is_the_documented_formula():
    model = make("edge_tiny")
    frames = make_inputs()["rgb"]
    mean = np.array([0.485, 0.456, 0.406]).reshape(1, 1, 3, 1, 1)
    std = np.array([0.229, 0.224, 0.225]).reshape(1, 1, 3, 1, 1)
    expected = (frames.numpy() / 255 - mean) / std
    np.testing.assert_allclose(model.normalise(frames).numpy(), expected, atol=1e-5)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("edge_tiny", 0.07e6, 0.1e6),
        ("edge_small", 0.9e6, 1.1e6),
        ("edge_base", 2.5e6, 3.5e6),
        ("edge_large", 8e6, 9e6),
    ],
)
def test_edge_sizes(name, low, high):
    model = create_model(name, num_classes=HEADS)
    assert low < num_parameters(model) < high
    assert {type(m).__name__ for m in model.modules() if "Conv" in type(m).__name__} == {"Conv2d", "ConvNormAct"}


def test_causal_edge_never_looks_ahead_and_bidirectional_does():
    inputs = make_inputs()
    changed = {"rgb": inputs["rgb"].clone()}
    changed["rgb"][:, -1] = 255 - changed["rgb"][:, -1]
    for direction, sees_the_future in (("causal", False), ("bidirectional", True), ("none", False)):
        model = make("edge_tiny", temporal_shift=direction).eval()
        with torch.no_grad():
            difference = (model.forward_tokens(changed) - model.forward_tokens(inputs))[:, :-1].abs().max()
        assert bool(difference > 0) == sees_the_future, direction


def test_frame_order_matters_with_shift_and_not_without():
    inputs = make_inputs()
    reverse = {"rgb": inputs["rgb"].flip(1)}
    for direction, matters in (("bidirectional", True), ("causal", True), ("none", False)):
        model = make("edge_tiny", temporal_shift=direction).eval()
        with torch.no_grad():
            difference = (model(reverse)["verb"] - model(inputs)["verb"]).abs().max()
        assert bool(difference > 1e-4) == matters, direction


def test_temporal_shift_moves_the_right_channels():
    x = torch.arange(2 * 3 * 8, dtype=torch.float32).view(6, 8, 1, 1)
    clips = x.view(2, 3, 8)
    shifted = TemporalShift(8, 0.25, "bidirectional")(x, 3).view(2, 3, 8)
    torch.testing.assert_close(shifted[:, 1:, :2], clips[:, :-1, :2])
    torch.testing.assert_close(shifted[:, :-1, 2:4], clips[:, 1:, 2:4])
    torch.testing.assert_close(shifted[:, :, 4:], clips[:, :, 4:])
    assert shifted[:, 0, :2].abs().sum() == 0
    assert shifted[:, -1, 2:4].abs().sum() == 0


@pytest.mark.parametrize("name", MULTIMODAL)
@pytest.mark.parametrize("kept", [["rgb"], ["imu"], ["flow", "boxes"]])
def test_any_subset_of_modalities_is_accepted(name, kept):
    model, inputs = make(name).eval(), make_inputs()
    subset = {key: inputs[key] for key in kept}
    with torch.no_grad():
        by_absence = model(subset)
        flags = {key: torch.full((2,), key in kept) for key in model.input_modalities}
        by_flag = model({**inputs, "present": flags})
    torch.testing.assert_close(by_flag, by_absence)


@pytest.mark.parametrize("name", MULTIMODAL)
def test_a_sample_that_lacks_a_modality_does_not_depend_on_its_filler(name):
    model, inputs = make(name).eval(), make_inputs(batch=3)
    inputs["present"] = {"spectrogram": torch.tensor([True, False, True])}
    with torch.no_grad():
        before = model(inputs)["verb"]
        inputs["spectrogram"][1] = 1e3
        torch.testing.assert_close(model(inputs)["verb"], before)


def test_late_fusion_is_the_mean_of_its_modalities():
    model, inputs = make("late_fusion").eval(), make_inputs()
    with torch.no_grad():
        single = [model({key: inputs[key]})["noun"] for key in model.input_modalities]
        torch.testing.assert_close(model(inputs)["noun"], torch.stack(single).mean(0))
        model = make("late_fusion", mixing="probabilities").eval()
        single = [model({key: inputs[key]})["noun"].softmax(-1) for key in model.input_modalities]
        torch.testing.assert_close(model(inputs)["noun"].softmax(-1), torch.stack(single).mean(0))


def test_modality_dropout_keeps_one_and_has_the_asked_rate():
    torch.manual_seed(0)
    present = torch.ones(200_000, 3, dtype=torch.bool)
    present[:, 2] = False
    kept = drop_modalities(present, 0.4)
    assert bool(kept.any(dim=1).all())
    assert not bool(kept[:, 2].any())
    # Each of two goes with 0.4; both would go with 0.16, and then one of them stays.
    assert float(kept[:, 0].float().mean()) == pytest.approx(0.6 + 0.16 / 2, abs=0.005)
    assert bool((drop_modalities(present, 0.0) == present).all())


def test_omnivorous_classifies_each_modality_alone():
    model, inputs = make("omnivorous").eval(), make_inputs()
    with torch.no_grad():
        each = model.forward_each(inputs)  # type: ignore[operator]
        mean = torch.stack([each[name]["verb"] for name in model.input_modalities]).mean(0)
        torch.testing.assert_close(model(inputs)["verb"], mean)
        torch.testing.assert_close(model({"rgb": inputs["rgb"]})["verb"], each["rgb"]["verb"])


def test_omnivorous_sees_one_modality_a_sample_in_training():
    model, inputs = make("omnivorous").train(), make_inputs(batch=30)
    with torch.no_grad():
        each = {name: model.forward_head(model.features_of(inputs, name))["verb"] for name in model.input_modalities}  # type: ignore[operator]
        torch.manual_seed(3)
        got = model(inputs)["verb"]
    gap = torch.stack([(got - value).abs().amax(dim=1) for value in each.values()])
    assert float(gap.amin(dim=0).max()) < 1e-4
    assert len(set(gap.argmin(dim=0).tolist())) == len(each)


def test_layout_drawing_by_hand():
    layout = {
        "boxes": torch.tensor([[[[0.0, 0.0, 0.5, 0.5], [0.5, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]]]]),
        "categories": torch.tensor([[[1, 2, 0]]]),
        "scores": torch.tensor([[[0.8, 0.5, 1.0]]]),
        "pad_mask": torch.tensor([[[False, False, True]]]),
    }
    drawn = draw_layout(layout, 2)[0, 0]
    torch.testing.assert_close(drawn[0], torch.tensor([[0.8, 0.0], [0.0, 0.0]]))
    torch.testing.assert_close(drawn[1], torch.tensor([[0.0, 0.5], [0.0, 0.5]]))
    torch.testing.assert_close(drawn[2], torch.tensor([[1.0, 1.0], [0.0, 1.0]]) / 3)


def test_layout_with_class_ids_and_out_of_range_category():
    inputs = make_inputs()
    inputs["boxes"]["categories"] = torch.full((2, 4, 3), 9)
    assert make("layout_tiny", num_categories=10)(inputs)["verb"].shape == (2, 5)
    del inputs["boxes"]["is_hand"]
    with pytest.raises(ValueError, match="category 9 is out of range"):
        make("layout_tiny")(inputs)


def test_a_layout_tells_object_classes_apart_where_it_is_told_to():
    inputs = make_inputs()
    inputs["boxes"]["classes"] = torch.tensor([[1, 2, 0]]).expand(2, 4, 3).clone()
    swapped = {**inputs, "boxes": {**inputs["boxes"], "classes": torch.tensor([[2, 1, 0]]).expand(2, 4, 3)}}
    knowing, published = make("layout_tiny", num_object_classes=2).eval(), make("layout_tiny").eval()
    assert (knowing(inputs)["verb"] - knowing(swapped)["verb"]).abs().max() > 1e-4
    torch.testing.assert_close(published(inputs)["verb"], published(swapped)["verb"])
    inputs["boxes"]["classes"][0, 0, 0] = 3
    with pytest.raises(ValueError, match="Object class 3 is out of range"):
        knowing(inputs)


def test_hand_object_heads_decode():
    heads = hand_object_heads(3)
    logits = {head: torch.log(torch.tensor([[0.1, 0.2, 0.6, 0.1]])) for head in heads}
    assert set(heads.values()) == {4}
    left = decode_hand_object(logits)["left"]
    assert int(left.noun_B) == 1
    assert float(left.contact_probability_B) == pytest.approx(0.9)
    assert float(left.noun_probability_B) == pytest.approx(0.6 / 0.9)


def test_reset_classifier_keeps_the_encoder():
    model, inputs = make("edge_tiny").eval(), make_inputs()
    with torch.no_grad():
        before = model.forward_features(inputs)
        model.reset_classifier({"action": 11})
        assert model.heads == {"action": 11}
        torch.testing.assert_close(model.forward_features(inputs), before)
        assert model(inputs)["action"].shape == (2, 11)


def test_gmacs_by_hand():
    class Convolution(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 8, 3, padding=1)

        def forward(self, inputs):
            return self.conv(inputs["rgb"])

    assert count_gmacs(Convolution(), {"rgb": torch.zeros(2, 3, 10, 10)}) == pytest.approx(2 * 100 * 8 * 27 / 1e9)


@pytest.mark.parametrize(
    ("name", "shape", "published"), [("video_swin_t", (1, 8, 3, 224, 224), 19.7), ("stlt", (1, 16, 14), 10.9)]
)
def test_gmacs_of_published_networks(name, shape, published):
    # Fused attention must be counted too.
    model = create_model(name, num_classes={"verb": 97})
    if name == "stlt":
        boxes = {"boxes": torch.zeros(*shape, 4), "categories": torch.ones(shape, dtype=torch.long)}
        inputs: dict = {
            "boxes": {**boxes, "scores": torch.ones(shape), "pad_mask": torch.zeros(shape, dtype=torch.bool)}
        }
    else:
        inputs = {"rgb": torch.zeros(shape)}
    assert count_gmacs(model, inputs) == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize("name", ["edge_tiny"])
def test_export_to_onnx_with_dynamic_batch(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, inputs = make(name).eval(), make_inputs(batch=2)
    key = model.input_modalities[0]

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model({key: x})

    batch = torch.export.Dim("batch", min=1, max=64)
    path = tmp_path / "model.onnx"
    torch.onnx.export(
        Plain().eval(), (inputs[key].float(),), str(path), dynamo=True, dynamic_shapes=({0: batch},), verbose=False
    )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    bigger = make_inputs(batch=5, seed=1)[key].float()
    outputs = session.run(None, {session.get_inputs()[0].name: bigger.numpy()})
    with torch.no_grad():
        expected = model({key: bigger})
    for got, head in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(got, expected[head], atol=1e-4)


def test_unknown_names_and_values_are_user_errors():
    assert {"edge_tiny", "edge_base", "stlt", "video_swin_t", "omnivorous"} <= set(list_models())
    assert list_models("edge_*") == ["edge_base", "edge_large", "edge_small", "edge_tiny"]
    with pytest.raises(UserError, match="edge_tiny"):
        create_model("edge_huge", num_classes=HEADS)
    with pytest.raises(UserError, match="temporal_shift"):
        create_model("edge_tiny", num_classes=HEADS, temporal_shift="sideways")
    with pytest.raises(UserError, match="wings"):
        create_model("edge_tiny", num_classes=HEADS, wings=2)
    with pytest.raises(UserError, match="num_classes"):
        create_model("edge_tiny", num_classes={"verb": 0})


def test_missing_modality_and_wrong_shapes_name_the_problem():
    with pytest.raises(ValueError, match="needs the modality 'rgb'"):
        make("edge_tiny")({"flow": torch.zeros(1, 2, 3, 8, 8)})
    with pytest.raises(ValueError, match=r"\[B, T, 3, H, W\]"):
        make("edge_tiny")({"rgb": torch.zeros(1, 3, 2, 8, 8)})
    with pytest.raises(ValueError, match="None of the modalities"):
        make("mid_fusion")({"gaze": torch.zeros(1, 2)})


def test_an_encoder_without_a_sequence_is_refused_by_mid_fusion():
    nested = {"encoders": {"imu": "late_fusion"}, "encoder_options": {"imu": {"encoders": {"imu": "imu_tiny"}}}}
    model, inputs = make("mid_fusion", **nested), make_inputs()
    with pytest.raises(UserError, match="late_fusion gives one feature vector a clip and no sequence"):
        model({"imu": inputs["imu"]})


def test_files_that_are_not_a_model_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"config\.json is missing"):
        Recogniser.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="does not describe a recogniser"):
        Recogniser.from_pretrained(tmp_path)
    make("edge_tiny").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(UserError, match="cannot be loaded"):
        Recogniser.from_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**content, "architecture": "vgg"}))
    with pytest.raises(UserError, match="vgg"):
        Recogniser.from_pretrained(tmp_path)
