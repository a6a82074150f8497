"""LoRA files under every naming, against recorded merged weights, and at full size on the meta device."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from egoloom.errors import UserError
from egoloom.exo2ego.lora import load_lora, lora_state, parse_lora, read_lora, save_lora

GOLDEN = Path(__file__).parents[1] / "golden" / "lora"
NAMINGS = sorted(
    path.name
    for path in GOLDEN.glob("tiny_*.safetensors")
    if path.stem not in {"tiny_base_weights", "tiny_merged_weights"}
)
FULL = json.loads((GOLDEN / "expected_full_size.json").read_text())


def base_transformer(seed: int = 0) -> WanTransformer3DModel:
    """A stock transformer whose attention weights are the recorded base weights."""
    torch.manual_seed(seed)
    model = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=8, out_channels=4, text_dim=8, freq_dim=16,
        ffn_dim=32, num_layers=2, rope_max_seq_len=32,
    )  # fmt: skip
    outcome = model.load_state_dict(base_weights(), strict=False)
    assert not outcome.unexpected_keys
    return model.eval()


def base_weights() -> dict[str, torch.Tensor]:
    return {
        key.removeprefix("transformer."): value
        for key, value in load_file(GOLDEN / "tiny_base_weights.safetensors").items()
    }


def forward(model: WanTransformer3DModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        return model(
            torch.randn(1, 8, 2, 4, 6, generator=generator), torch.tensor([500]),
            torch.randn(1, 3, 8, generator=generator), return_dict=False,
        )[0]  # fmt: skip


@pytest.mark.parametrize("name", NAMINGS)
def test_every_naming_merges_into_the_recorded_weights(name: str) -> None:
    model = base_transformer()
    report = load_lora(model, GOLDEN / name)
    assert len(report.matched) == 16
    assert not report.missing + report.unexpected + report.mismatched
    unfused = forward(model)
    model.fuse_lora()
    torch.testing.assert_close(forward(model), unfused, atol=1e-5, rtol=0)
    model.unload_lora()
    merged = load_file(GOLDEN / "tiny_merged_weights.safetensors")
    state = model.state_dict()
    for key, value in merged.items():
        torch.testing.assert_close(state[key.removeprefix("transformer.")], value, atol=1e-5, rtol=0)
    torch.testing.assert_close(forward(model), unfused, atol=1e-5, rtol=0)


def test_one_layer_equals_the_recorded_product() -> None:
    with np.load(GOLDEN / "tiny_one_layer.npz", allow_pickle=False) as arrays:
        data = {key: arrays[key] for key in arrays.files}
    model = base_transformer()
    load_lora(model, GOLDEN / "tiny_no_prefix.safetensors")
    model.fuse_lora()
    layer = model.get_submodule(str(data["layer"]))
    torch.testing.assert_close(layer.base_layer.weight.detach(), torch.from_numpy(data["merged"]), atol=1e-5, rtol=0)


def full_size_names(naming: str) -> dict[str, torch.Tensor]:
    tensors = {key: torch.empty(shape, device="meta") for key, shape in FULL["shapes"].items()}
    plain = {key.removeprefix("transformer."): value for key, value in tensors.items()}
    if naming == "none":
        return plain
    if naming == "peft":
        return {f"base_model.model.{key.replace('.weight', '.default.weight')}": v for key, v in plain.items()}
    if naming == "native":
        for ours, theirs in (("attn1", "self_attn"), ("attn2", "cross_attn"), ("to_out.0", "o"), ("to_", "")):
            plain = {key.replace(ours, theirs): value for key, value in plain.items()}
        return {f"diffusion_model.{key}": value for key, value in plain.items()}
    if naming == "down_up":
        renamed = {key.replace("lora_A", "lora_down").replace("lora_B", "lora_up"): v for key, v in plain.items()}
        modules = {key.split(".lora_")[0] for key in plain}
        return renamed | {f"{module}.alpha": torch.empty((), device="meta") for module in modules}
    return {f"{naming}.{key}": value for key, value in plain.items()}


@pytest.fixture(scope="module")
def full_transformer() -> WanTransformer3DModel:
    with torch.device("meta"):
        return WanTransformer3DModel(
            in_channels=36, out_channels=16, image_dim=1280, added_kv_proj_dim=5120, num_layers=40
        )


@pytest.mark.parametrize("naming", ["transformer", "diffusion_model", "none", "peft", "native", "down_up"])
def test_all_640_tensors_of_the_published_lora_fit_the_14b_model(naming: str, full_transformer) -> None:
    weights = parse_lora(full_size_names(naming))
    report = weights.compare(full_transformer)
    assert len(weights.down) + len(weights.up) == 640
    assert len(report.matched) == 320
    assert report.rank == 256
    assert not report.missing + report.unexpected + report.mismatched
    assert sum(value.numel() for side in (weights.down, weights.up) for value in side.values()) == FULL["parameters"]


def test_a_lora_for_another_base_and_wrong_keys_are_refused(tmp_path: Path) -> None:
    good = load_file(GOLDEN / "tiny_no_prefix.safetensors")
    wrong_size = {key: torch.zeros(value.shape[0] + 1, value.shape[1] + 1) for key, value in good.items()}
    with pytest.raises(UserError, match="of another size"):
        load_lora(base_transformer(), wrong_size)
    missing = dict(list(good.items())[4:])
    with pytest.raises(UserError, match="missing"):
        load_lora(base_transformer(), missing)
    assert len(load_lora(base_transformer(), missing, strict=False).matched) == 14
    with pytest.raises(UserError, match="unexpected"):
        load_lora(base_transformer(), {**good, "something.else": torch.zeros(1)})
    with pytest.raises(UserError, match="does not fit"):
        load_lora(base_transformer(), {"a": torch.zeros(1)}, strict=False)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not a safetensors file")
    with pytest.raises(UserError, match="Cannot read"):
        read_lora(broken)
    with pytest.raises(UserError, match="Cannot read"):
        read_lora(tmp_path / "absent.safetensors")


def test_saved_lora_has_the_published_names_and_loads_again(tmp_path: Path) -> None:
    model = base_transformer()
    load_lora(model, GOLDEN / "tiny_down_up_alpha.safetensors")
    path = save_lora(model, tmp_path)
    saved = load_file(path)
    assert "transformer.blocks.1.attn2.to_out.0.lora_B.weight" in saved
    assert len(saved) == 32
    again = base_transformer()
    load_lora(again, tmp_path)
    torch.testing.assert_close(forward(again), forward(model))
    save_file(lora_state(again), tmp_path / "same.safetensors")
