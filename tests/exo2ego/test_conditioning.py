"""Canvas, mask, sampling loop and loss against recorded numbers of the reference."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from egoloom.errors import UserError
from egoloom.exo2ego.conditioning import (
    canvas_mask,
    condition,
    ego_flow_loss,
    join_views,
    noised_canvas,
    transformer_input,
    zero_exo_velocity,
)
from egoloom.exo2ego.layout import CanvasLayout
from egoloom.exo2ego.schedule import build_scheduler, set_noise_levels

GOLDEN = Path(__file__).parents[1] / "golden"


def load(path: str) -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / path, allow_pickle=False) as arrays:
        return {key: torch.from_numpy(np.asarray(arrays[key])) for key in arrays.files}


def layout_of(data: dict[str, torch.Tensor], ego: str) -> CanvasLayout:
    frames, height, exo_width = data["x0_exo"].shape[2:]
    return CanvasLayout(frames, height, exo_width, data[ego].shape[-1], patch_size=(1, 1, 1))


def linear(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.einsum("oc,bcfhw->bofhw", weight, x)


def scheduler_of(name: str):
    return build_scheduler("unipc" if name.startswith("UniPC") else "euler")


@pytest.mark.parametrize(
    "case", json.loads((GOLDEN / "canvas/index.json").read_text())["cases"][:2], ids=lambda c: c["file"]
)
def test_input_and_sampling_loop_equal_the_reference(case: dict) -> None:
    data = load(f"canvas/{case['file']}")
    layout = layout_of(data, "noise_ego")
    mask = canvas_mask(layout)
    assert torch.equal(mask, data["mask4"])
    latents = join_views(data["x0_exo"], data["noise_ego"])
    assert torch.equal(latents, data["latents"])
    given = condition(data["x0_exo"], data["prior_ego"], mask)
    assert torch.equal(given, data["cond20"])
    assert torch.equal(transformer_input(latents, given), data["dit_input36"])
    scheduler = scheduler_of(case["scheduler"])
    set_noise_levels(scheduler, case["steps"])
    torch.testing.assert_close(scheduler.timesteps.float(), data["timesteps"])
    torch.testing.assert_close(scheduler.sigmas.float(), data["sigmas"])
    for step, timestep in enumerate(scheduler.timesteps):
        x = transformer_input(latents, given)
        with_text, without = linear(data["model_cond"], x), linear(data["model_uncond"], x)
        velocity = zero_exo_velocity(without + 5 * (with_text - without), layout.exo_width)
        if step == 0:
            torch.testing.assert_close(velocity, data["velocity_step0"], atol=1e-4, rtol=1e-5)
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        torch.testing.assert_close(latents, data["latents_per_step"][step], atol=1e-3, rtol=1e-4)
    assert (latents[..., : layout.exo_width] - data["x0_exo"]).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["UniPC", "Euler"])
def test_exo_columns_do_not_move_over_fifty_steps(name: str) -> None:
    generator = torch.Generator().manual_seed(3)
    exo, noise, prior = (torch.randn(1, 16, 3, 4, width, generator=generator) for width in (7, 4, 4))
    weight = 0.2 * torch.randn(16, 36, generator=generator)
    given = condition(exo, prior, canvas_mask(CanvasLayout(3, 4, 7, 4, (1, 1, 1))))
    latents, scheduler = join_views(exo, noise), scheduler_of(name)
    set_noise_levels(scheduler, 50)
    for timestep in scheduler.timesteps:
        velocity = linear(weight, transformer_input(latents, given))
        latents = scheduler.step(zero_exo_velocity(velocity, 7), timestep, latents, return_dict=False)[0]
    assert (latents[..., :7] - exo).abs().max() < 1e-5
    assert (latents[..., 7:] - noise).abs().max() > 1e-2


@pytest.mark.parametrize("case", ["loss_reference_f2_h2", "loss_batch2_f3_h4_exo7_ego4"])
@pytest.mark.parametrize("mask_name", ["first_frame", "reference_training"])
def test_loss_and_gradient_equal_the_reference(case: str, mask_name: str) -> None:
    data = load(f"loss/{case}.npz")
    if mask_name == "reference_training" and "reference_loss" not in data:
        pytest.skip("recorded for the inference mask only")
    layout = layout_of(data, "x0_ego")
    weight = data["model_weight"].clone().requires_grad_()
    noise = data["noise"][..., layout.exo_width :]
    latents = noised_canvas(data["x0_exo"], data["x0_ego"], noise, data["sigma"])
    given = condition(data["x0_exo"], data["prior_ego"], canvas_mask(layout, exo_mask=mask_name))  # type: ignore[arg-type]
    x = transformer_input(latents, given)
    prefix = "reference_" if mask_name == "reference_training" else ""
    suffix = "" if mask_name == "reference_training" else "_inference_mask"
    torch.testing.assert_close(x, data[f"{prefix}dit_input36{suffix}"], atol=1e-6, rtol=1e-6)
    mixed = linear(data["model_mean_weight"], x.mean(dim=(2, 3, 4), keepdim=True))
    loss = ego_flow_loss(linear(weight, x) + mixed, data["x0_ego"], noise)
    loss.backward()
    expected = data["reference_loss"] if prefix else data["loss_inference_mask"]
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    gradient = data["reference_grad_model_weight" if prefix else "grad_model_weight_inference_mask"]
    torch.testing.assert_close(weight.grad, gradient, atol=1e-5, rtol=1e-4)
    assert (loss - data["loss_if_wrongly_over_all_columns"]).abs() > 1e-2


def test_token_order_is_the_patch_embeddings() -> None:
    data = load("canvas/token_order.npz")
    layout = CanvasLayout(2, 4, 6, 4)
    assert torch.equal(layout.token_index_FHW(), data["token_index_fhw"])
    assert torch.equal(layout.exo_token_index(), data["exo_token_index"])
    assert torch.equal(layout.ego_token_index(), data["ego_token_index"])
    embedded = torch.nn.functional.conv3d(data["x"], data["conv_weight"], data["conv_bias"], stride=(1, 2, 2))
    torch.testing.assert_close(embedded.flatten(2).transpose(1, 2), data["tokens"], atol=1e-5, rtol=1e-5)


def test_hole_mask_fills_ego_columns_only() -> None:
    layout = CanvasLayout(2, 4, 6, 4, (1, 1, 1))
    known = torch.ones(1, 5, 8, 8)
    known[:, 3, :4] = 0
    mask = canvas_mask(layout, ego_known_BTHW=known)
    assert torch.equal(mask[..., :6], canvas_mask(layout)[..., :6])
    assert torch.equal(mask[0, 2, 1, :, 6:], torch.tensor([[0.0], [0.0], [1.0], [1.0]]).expand(4, 4))
    assert (mask[0, :, 0, :, 6:] == 1).all()


def test_views_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="side by side"):
        join_views(torch.zeros(1, 4, 2, 4, 4), torch.zeros(1, 4, 3, 4, 4))
    with pytest.raises(UserError, match="does not divide"):
        CanvasLayout(3, 5, 4, 4)
    with pytest.raises(UserError, match="hole mask"):
        canvas_mask(CanvasLayout(2, 4, 6, 4, (1, 1, 1)), ego_known_BTHW=torch.ones(1, 4, 8, 8))
