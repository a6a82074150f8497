"""Exo tokens that are computed once: the same clip as with all tokens at every step, and what it saves."""

import json
from pathlib import Path

import pytest
import torch

from egoloom.cli.exo2ego import main
from egoloom.errors import UserError
from egoloom.exo2ego.attention import GeometryGuidance
from egoloom.exo2ego.bias import DirectionTables
from egoloom.exo2ego.denoising import Denoiser
from egoloom.exo2ego.exo_memory import ExoMemory
from egoloom.exo2ego.guided_attention import ActiveGuidance, attend
from egoloom.exo2ego.layout import CanvasLayout
from egoloom.exo2ego.memory_plan import WAN_14B, exo_memory_bytes
from egoloom.exo2ego.pipeline import EgoXPipeline
from egoloom.exo2ego.training_cache import cache_clips, stack_clips


@pytest.fixture
def wan(wan_folder: Path) -> EgoXPipeline:
    pipeline = EgoXPipeline.from_wan(wan_folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(4)
    weight = pipeline.transformer.proj_out.weight
    weight.data = 0.3 * torch.randn(weight.shape, generator=generator)
    pipeline.guidance.make_exo_independent()
    return pipeline


def tokens_of_passes(pipeline: EgoXPipeline, counts: list[int]):
    return pipeline.transformer.blocks[0].register_forward_pre_hook(lambda m, inputs: counts.append(inputs[0].shape[1]))


@pytest.mark.parametrize("mode", ["blocks", "cached"])
def test_generation_with_kept_tokens_equals_all_tokens_at_every_step(
    wan: EgoXPipeline, make_sample, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    clips = [make_sample(5, seed=1), make_sample(5, seed=2)]
    text = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    options = {"num_inference_steps": 3, "guidance_scale": 4.0, "prompt_embeds": text, "mode": mode}
    counts: list[int] = []
    handle = tokens_of_passes(wan, counts)
    kept = wan(clips, **options).latents
    exo, ego = 2 * 2 * 3, 2 * 2 * 2
    # One pass over the exo tokens of each branch, then ego tokens alone in three steps of two branches.
    assert counts == [exo, ego, exo, ego, ego, ego, ego, ego]
    handle.remove()
    # The oracle: the whole canvas in every pass, as training computes it, with a time for each token.
    monkeypatch.setattr(Denoiser, "_branch", Denoiser._forward)
    counts.clear()
    handle = tokens_of_passes(wan, counts)
    torch.testing.assert_close(wan(clips, **options).latents, kept, atol=1e-5, rtol=1e-5)
    assert counts == [exo + ego] * 6
    handle.remove()
    assert not torch.allclose(kept, wan(clips, **{**options, "geometry_scale": 0.0}).latents, atol=1e-4)


@pytest.mark.parametrize("mode", ["blocks", "cached"])
def test_attention_equals_a_dense_mask(mode: str) -> None:
    layout = CanvasLayout(3, 4, 10, 6)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, layout.num_tokens, 8, generator=generator) for _ in range(3))
    frames, exo = layout.token_frames, layout.num_exo_tokens
    rays = torch.randn(2, frames, layout.ego_tokens_per_frame, 3, generator=generator)
    directions = torch.randn(2, frames, exo, 3, generator=generator)
    tables = DirectionTables(torch.nn.functional.normalize(rays, dim=-1), directions / 8)
    cosine = torch.einsum("bfpc,bfkc->bfpk", tables.rays_BFPC, tables.directions_BFKC).flatten(1, 2)
    mask = torch.zeros(2, 1, layout.num_tokens, layout.num_tokens)
    mask[:, 0, exo:, :exo] = torch.log(1 + 1e-6 + torch.where(cosine > 0, 3 * cosine, cosine))
    mask[:, 0, :exo, exo:] = -torch.inf
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    guidance = ActiveGuidance(layout, tables, 3.0, mode, independent_exo=True)  # type: ignore[arg-type]
    torch.testing.assert_close(attend(q, k, v, guidance), expected, atol=1e-5, rtol=1e-5)


def test_exo_tokens_know_neither_time_nor_ego_half(wan: EgoXPipeline, make_sample) -> None:
    """What is kept may be kept: nothing of the exo columns moves with the ego half or the time, and ego columns do."""
    batch = stack_clips(cache_clips(wan, [make_sample(5)]))
    width = batch.layout.exo_width
    guidance = wan.guidance.guide(batch.layout, batch.tables, 1.0, "cached")

    @torch.no_grad()
    def run(ego: torch.Tensor, time: float) -> torch.Tensor:
        canvas = torch.cat([batch.exo, ego], dim=-1)
        with wan.guidance.active(guidance):
            return wan.transformer(
                hidden_states=torch.cat([canvas, batch.given], dim=1),
                timestep=torch.tensor([time]),
                encoder_hidden_states=batch.text,
                encoder_hidden_states_image=batch.image,
                return_dict=False,
            )[0]

    first, other = run(batch.truth, 900.0), run(-batch.truth, 100.0)
    torch.testing.assert_close(first[..., :width], other[..., :width])
    assert not torch.allclose(first[..., width:], other[..., width:], atol=1e-3)


def test_training_and_generation_by_command(wan_folder: Path, egox_folder, tmp_path: Path, capsys) -> None:
    takes, run = str(egox_folder(5)), str(tmp_path / "run")
    base = str(wan_folder)
    main(["train", "tiny-lora", "--base", base, "--store", takes, "--steps", "1", "--independent-exo", "--out", run])
    options = ["generate", takes, "--model", base, "--lora", f"{run}/lora", "--num-frames", "5", "--size-px", "32"]
    capsys.readouterr()
    main([*options, "--steps", "2", "--independent-exo", "--json", "--out", str(tmp_path / "kept")])
    main([*options, "--steps", "2", "--json", "--out", str(tmp_path / "stock")])
    kept, stock = (json.loads(line)["clips"][0]["psnr_db"] for line in capsys.readouterr().out.splitlines())
    assert kept != stock


def test_the_plan_counts_what_is_kept(wan: EgoXPipeline, capsys) -> None:
    """Predicted bytes against those of a filled memory, and the line of the plan."""
    layout = CanvasLayout(2, 4, 6, 4)
    memory = ExoMemory()
    guidance = wan.guidance.guide(layout, None, 1.0, "blocks")
    guidance.memory = memory
    with torch.no_grad(), wan.guidance.active(guidance):
        wan.transformer(
            hidden_states=torch.randn(1, 36, 2, 4, 10), timestep=torch.tensor([0.0]),
            encoder_hidden_states=torch.zeros(1, 4, 8), encoder_hidden_states_image=torch.zeros(1, 1, 12),
        )  # fmt: skip
    config = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2}
    assert memory.num_bytes == exo_memory_bytes(config, layout, element=4, branches=1)
    assert exo_memory_bytes(WAN_14B, CanvasLayout(13, 56, 98, 56)) == 2 * 40 * 2 * 17_836 * 5120 * 2
    main(["generate", "--plan", "--budget-gb", "80", "--independent-exo"])
    assert "exo keys and values kept (36% of the tokens a step" in capsys.readouterr().out


def test_what_does_not_go_together(wan: EgoXPipeline, sample) -> None:
    wan.register_to_config(clean_exo=False)
    with pytest.raises(UserError, match="Noised exo latents"):
        wan(sample, num_inference_steps=1)
    with pytest.raises(UserError, match="Mode 'vmf' has no independent exo tokens"):
        GeometryGuidance(mode="vmf", independent_exo=True)
