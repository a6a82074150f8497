"""Geometry-guided attention against recorded numbers of the reference and against its own dense oracle."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file

from egoloom.exo2ego.attention import GeometryGuidance
from egoloom.exo2ego.bias import DirectionTables, ego_row_bias, geometry_bias
from egoloom.exo2ego.geometry import direction_tables
from egoloom.exo2ego.guided_attention import ActiveGuidance, attend
from egoloom.exo2ego.layout import CanvasLayout

GOLDEN = Path(__file__).parents[1] / "golden" / "gga"
EXTERNAL = Path(os.environ.get("EGOLOOM_GOLDEN", Path(__file__).parents[3] / "shared" / "golden")) / "exo2ego/gga"
INDEX = json.loads((GOLDEN / "index.json").read_text())
FULL_CASES = [case for case in INDEX["cases"] if not case["file"].startswith("p_")]
FLOAT_CASES = [case for case in FULL_CASES if case["dtype"] == "float32"]


def load_case(name: str) -> dict[str, torch.Tensor]:
    path = GOLDEN / name if (GOLDEN / name).exists() else EXTERNAL / name
    if not path.exists():
        pytest.skip(f"{name} is not in the repository; set EGOLOOM_GOLDEN to the folder of golden numbers")
    with np.load(path, allow_pickle=False) as arrays:
        return {key: torch.from_numpy(np.asarray(arrays[key])) for key in arrays.files}


def case_layout(case: dict) -> CanvasLayout:
    return CanvasLayout(case["F"], 2 * case["H"], 2 * case["exo_W"], 2 * case["ego_W"])


def case_tables(data: dict[str, torch.Tensor], layout: CanvasLayout, kind: str) -> DirectionTables:
    """Tables from the recorded directions, which two kinds alter after the geometry."""
    vectors = data["point_vecs_per_frame"]
    pooled = torch.nn.functional.avg_pool2d(vectors.permute(0, 1, 4, 2, 3).flatten(0, 1), 2)
    directions = pooled.unflatten(0, vectors.shape[:2]).permute(0, 1, 3, 4, 2).flatten(1, 3)[None]
    rays = torch.nn.functional.avg_pool2d(data["cam_rays"].permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1).flatten(1, 2)
    return DirectionTables(rays[None], directions)


def tiny_transformer() -> WanTransformer3DModel:
    model = WanTransformer3DModel(**{**INDEX["config"], "patch_size": tuple(INDEX["config"]["patch_size"])})
    model.load_state_dict(load_file(GOLDEN / "tiny_transformer.safetensors"))
    return model.eval()


def run(model: WanTransformer3DModel, data: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(
            hidden_states=data["hidden_states"],
            timestep=data["timestep"],
            encoder_hidden_states=data["encoder_hidden_states"],
            encoder_hidden_states_image=data["encoder_hidden_states_image"],
            return_dict=False,
        )[0]


@pytest.mark.parametrize("case", FLOAT_CASES, ids=lambda case: case["file"])
@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_bias_attention_and_network_equal_the_reference(case: dict, scale: float) -> None:
    if scale not in case["lambdas"]:
        pytest.skip("not recorded for this factor")
    data, layout = load_case(case["file"]), case_layout(case)
    tables = case_tables(data, layout, case["kind"])
    order = layout.exo_first_order()
    prefix = f"lam{scale:g}"
    recorded = data[f"{prefix}/bias_ego"][:, order]
    ours = ego_row_bias(tables, layout.num_ego_tokens, scale, torch.float32)[0, 0]
    torch.testing.assert_close(ours.exp(), recorded.exp(), atol=2e-6, rtol=0)
    oracle = geometry_bias(tables.rays_BFPC[0], tables.directions_BFKC[0], scale).flatten(0, 1)
    torch.testing.assert_close(oracle.exp(), recorded[:, : layout.num_exo_tokens].exp(), atol=2e-6, rtol=0)
    q, k, v = (data[f"block0/{name}"][:, :, order] for name in "qkv")
    for mode in ("blocks", "cached", "dense", "flex"):
        mixed = attend(q, k, v, ActiveGuidance(layout, tables, scale, mode))
        torch.testing.assert_close(mixed, data[f"{prefix}/block0/attn"][:, :, order], atol=1e-5, rtol=0)
        model = tiny_transformer()
        guidance = GeometryGuidance(mode=mode).install(model)
        with guidance.active(ActiveGuidance(layout, tables, scale, mode)):
            torch.testing.assert_close(run(model, data), data[f"{prefix}/output"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", FLOAT_CASES[:2], ids=lambda case: case["file"])
def test_without_geometry_the_network_is_the_stock_one_bit_for_bit(case: dict) -> None:
    data, model = load_case(case["file"]), tiny_transformer()
    stock = run(model, data)
    torch.testing.assert_close(stock, data["nogga/output"], atol=1e-4, rtol=0)
    guidance = GeometryGuidance().install(model)
    assert torch.equal(run(model, data), stock)
    with guidance.active(None):
        assert torch.equal(run(model, data), stock)


@pytest.mark.parametrize("case", FLOAT_CASES[:1], ids=lambda case: case["file"])
def test_tables_from_points_and_centres_equal_the_recorded_directions(case: dict) -> None:
    data, layout = load_case(case["file"]), case_layout(case)
    tables = direction_tables(data["point_map"], data["cam_centers"], data["cam_rays"], layout)
    expected = case_tables(data, layout, "normal")
    torch.testing.assert_close(tables.directions_BFKC, expected.directions_BFKC, atol=1e-6, rtol=0)
    torch.testing.assert_close(tables.rays_BFPC, expected.rays_BFPC, atol=1e-6, rtol=0)


@pytest.mark.parametrize("case", [c for c in INDEX["cases"] if c["file"].startswith("p_")], ids=lambda c: c["file"])
def test_ego_grid_that_is_not_square(case: dict) -> None:
    data, layout = load_case(case["file"]), case_layout(case)
    tables = DirectionTables(data["ego_rays"].flatten(1, 2)[None], data["key_dirs"].flatten(1, 3)[None])
    order = layout.exo_first_order()
    q, k, v = (data[name][:, :, order] for name in "qkv")
    ours = ego_row_bias(tables, layout.num_ego_tokens, float(data["lam"]), torch.float32)[0, 0]
    torch.testing.assert_close(ours.exp(), data["bias_ego"][:, order].exp(), atol=2e-6, rtol=0)
    mixed = attend(q, k, v, ActiveGuidance(layout, tables, float(data["lam"]), "blocks"))
    torch.testing.assert_close(mixed, data["attn"][:, :, order], atol=1e-5, rtol=0)


def test_bfloat16_stays_within_its_own_rounding() -> None:
    case = next(case for case in FULL_CASES if case["dtype"] == "bfloat16")
    data, layout = load_case(case["file"]), case_layout(case)
    order = layout.exo_first_order()
    q, k, v = (data[f"block0/{name}"][:, :, order].bfloat16() for name in "qkv")
    tables = case_tables(data, layout, "normal")
    for mode in ("blocks", "cached"):
        mixed = attend(q, k, v, ActiveGuidance(layout, tables, 3.0, mode)).float()
        torch.testing.assert_close(mixed, data["lam3/block0/attn"][:, :, order], atol=2e-2, rtol=0)


def random_clip(batch: int, layout: CanvasLayout, seed: int = 0, heads: int = 2, width: int = 8):
    generator = torch.Generator().manual_seed(seed)

    def unit(*shape: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(*shape, 3, generator=generator), dim=-1)

    frames = layout.token_frames
    tables = DirectionTables(
        unit(batch, frames, layout.ego_tokens_per_frame), unit(batch, frames, layout.num_exo_tokens)
    )
    shape = (batch, heads, layout.num_tokens, width)
    return [torch.randn(shape, generator=generator) for _ in range(3)], tables


def test_batches_and_gradients_agree_with_the_dense_oracle() -> None:
    layout = CanvasLayout(3, 4, 10, 6)
    gradients = {}
    for mode in ("dense", "blocks", "cached"):
        inputs, tables = random_clip(2, layout)
        inputs = [x.requires_grad_() for x in inputs]
        attend(*inputs, ActiveGuidance(layout, tables, 3.0, mode)).square().sum().backward()
        gradients[mode] = [x.grad for x in inputs]
    for mode in ("blocks", "cached"):
        for ours, oracle in zip(gradients[mode], gradients["dense"], strict=True):
            torch.testing.assert_close(ours, oracle, atol=1e-5, rtol=1e-5)


def test_vmf_features_equal_the_linear_bias_as_a_mask() -> None:
    layout = CanvasLayout(3, 4, 10, 6)
    (q, k, v), tables = random_clip(2, layout)
    kappa = torch.tensor([[0.7, 2.5]], requires_grad=True)
    guidance = ActiveGuidance(layout, tables, 1.0, "vmf", kappa_LH=kappa)
    cosine = torch.einsum("bfpc,bfkc->bfpk", tables.rays_BFPC, tables.directions_BFKC).flatten(1, 2)
    mask = torch.zeros(2, 2, layout.num_tokens, layout.num_tokens)
    mask[:, :, layout.num_exo_tokens :, : layout.num_exo_tokens] = kappa.view(1, 2, 1, 1) * cosine[:, None]
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    ours = attend(q, k, v, guidance)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    ours.sum().backward()
    assert kappa.grad is not None
    assert kappa.grad.abs().max() > 0


def test_gradient_checkpointing_recomputes_with_the_same_geometry() -> None:
    case = FLOAT_CASES[0]
    data, layout = load_case(case["file"]), case_layout(case)
    tables = case_tables(data, layout, "normal")
    results = []
    for checkpointing in (False, True):
        model = tiny_transformer().train()
        if checkpointing:
            model.enable_gradient_checkpointing()
        guidance = GeometryGuidance(mode="cached").install(model)
        with guidance.active(ActiveGuidance(layout, tables, 1.0, "cached")):
            loss = (
                model(
                    data["hidden_states"],
                    timestep=data["timestep"],
                    encoder_hidden_states=data["encoder_hidden_states"],
                    encoder_hidden_states_image=data["encoder_hidden_states_image"],
                    return_dict=False,
                )[0]
                .square()
                .mean()
            )
        loss.backward()  # outside the context on purpose: the geometry travels with the pass
        results.append(model.blocks[0].attn1.to_q.weight.grad)
    torch.testing.assert_close(results[0], results[1])


def test_wrong_canvas_is_refused() -> None:
    layout = CanvasLayout(3, 4, 10, 6)
    _, tables = random_clip(1, layout)
    with pytest.raises(ValueError, match="Direction tables cover"):
        ActiveGuidance(CanvasLayout(3, 4, 8, 6), tables)
