"""Foreign checkpoints: every naming, every key reported, nothing unpickled."""

import pickle

import pytest
import torch

from egoloom.distillation.convert import convert_checkpoint, our_key, read_foreign_checkpoint
from egoloom.errors import UserError
from egoloom.models import create_model

HEADS = {"verb": 5, "noun": 7}


def swin(seed: int, **overrides):
    torch.manual_seed(seed)
    return create_model("video_swin_tiny_test", num_classes=HEADS, **overrides).eval()


def reference_state(model) -> dict[str, torch.Tensor]:
    """The state dict as the reference code saves it: heads in upper case, position indices included."""
    state = {}
    for name, value in model.state_dict().items():
        parts = name.split(".")
        if parts[0] == "classifiers":
            parts[1] = parts[1].upper()
        state[".".join(parts)] = value
    for name, value in model.named_buffers():
        if name.endswith("relative_position_index"):
            state[name] = value
    return state


def same(a, b) -> bool:
    return all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())


@pytest.mark.parametrize("wrap", ["", "_orig_mod.", "module.", "module._orig_mod."])
@pytest.mark.parametrize("container", [None, "state_dict"])
def test_reference_checkpoint_under_every_wrapping(tmp_path, wrap, container):
    source, target = swin(0), swin(1)
    state = {wrap + key: value for key, value in reference_state(source).items()}
    torch.save({container: state, "epoch": 3} if container else state, tmp_path / "model_checkpoint.pt")
    report = convert_checkpoint(tmp_path / "model_checkpoint.pt", target)
    assert same(source, target)
    assert report.is_complete
    assert len(report.loaded) == len(source.state_dict())
    assert len(report.recomputed) == 7
    assert report.loaded["classifiers.VERB.weight"] == "classifiers.verb.weight"


@pytest.mark.parametrize("prefix", ["backbone.", ""])
def test_kinetics_file_fills_the_backbone_and_leaves_the_heads(tmp_path, prefix):
    source, target = swin(0), swin(1)
    heads_before = {name: value.clone() for name, value in target.classifiers.state_dict().items()}
    state = {prefix + key: value for key, value in source.backbone.state_dict().items()}
    if prefix:
        state |= {"cls_head.fc_cls.weight": torch.zeros(400, 128), "cls_head.fc_cls.bias": torch.zeros(400)}
    torch.save({"meta": {"epoch": 30}, "state_dict": state}, tmp_path / "swin_k400.pth")
    report = convert_checkpoint(tmp_path / "swin_k400.pth", target)
    assert same(source.backbone, target.backbone)
    for name, value in target.classifiers.state_dict().items():
        assert torch.equal(value, heads_before[name])
    assert report.unused == (["cls_head.fc_cls.weight", "cls_head.fc_cls.bias"] if prefix else [])
    assert report.missing == [f"classifiers.{head}.{part}" for head in HEADS for part in ("weight", "bias")]
    assert "missing     classifiers.verb.weight" in str(report)


def test_layout_transformer_checkpoint(tmp_path):
    torch.manual_seed(0)
    size = {"hidden": 32, "num_attention_heads": 4, "spatial_layers": 1, "temporal_layers": 1}
    source = create_model("stlt", num_classes={"action": 6}, **size)
    target = create_model("stlt", num_classes={"action": 6}, **size)
    torch.save(reference_state(source), tmp_path / "stlt.pt")
    assert convert_checkpoint(tmp_path / "stlt.pt", target).is_complete
    assert same(source, target)


def test_left_over_and_mismatched_keys_are_refused_with_a_list(tmp_path):
    source, target = swin(0), swin(1)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    state = reference_state(source)
    state["classifiers.VERB.weight"] = torch.zeros(97, 128)
    state["decoder.weight"] = torch.zeros(3)
    del state["backbone.norm.weight"]
    torch.save(state, tmp_path / "odd.pt")
    with pytest.raises(UserError) as caught:
        convert_checkpoint(tmp_path / "odd.pt", target)
    message = str(caught.value)
    assert "unused      decoder.weight" in message
    assert "missing     backbone.norm.weight" in message
    assert "classifiers.verb.weight: file [97, 128], model [5, 128]" in message
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())
    other_window = swin(2, window=(2, 3, 3))
    torch.save(reference_state(other_window), tmp_path / "window.pt")
    with pytest.raises(UserError, match="relative_position"):
        convert_checkpoint(tmp_path / "window.pt", target)


class Bomb:
    def __reduce__(self):
        return (open, ("bomb-went-off", "w"))


def test_code_in_a_checkpoint_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"a": torch.zeros(1)}, "extra": Bomb()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="cannot be read as weights"):
        read_foreign_checkpoint(tmp_path / "evil.pt")
    (tmp_path / "evil2.pt").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UserError, match="cannot be read as weights"):
        read_foreign_checkpoint(tmp_path / "evil2.pt")
    assert not (tmp_path / "bomb-went-off").exists()


def test_files_that_are_no_checkpoints_are_refused(tmp_path):
    with pytest.raises(UserError, match="no checkpoint"):
        read_foreign_checkpoint(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(UserError, match="cannot be read"):
        read_foreign_checkpoint(tmp_path / "text.pt")
    torch.save({"epoch": 3}, tmp_path / "epoch.pt")
    with pytest.raises(UserError, match="holds no weights"):
        read_foreign_checkpoint(tmp_path / "epoch.pt")


def test_key_names():
    assert our_key("classifiers.ACTION.bias") == "classifiers.action.bias"
    assert our_key("backbone.norm.weight") == "backbone.norm.weight"
