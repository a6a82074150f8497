"""The pipeline from real tiny components: lengths, windows, saving, guidance branches, bad input."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

from egoloom.errors import UserError
from egoloom.exo2ego.attention import GeometryGuidance
from egoloom.exo2ego.pipeline import EgoXPipeline
from egoloom.exo2ego.samples import GeneratorSample, fill_holes
from egoloom.exo2ego.schedule import build_scheduler
from egoloom.exo2ego.text import embed_texts
from egoloom.exo2ego.tiny import TinyConfig, build_tiny_pipeline
from egoloom.exo2ego.windows import plan_windows

STEPS = {"num_inference_steps": 2, "guidance_scale": 1.0}


def random_weights(pipeline: EgoXPipeline, seed: int = 5) -> EgoXPipeline:
    """Gives the zero output layer real weights, so that the network has a say."""
    generator = torch.Generator().manual_seed(seed)
    weight = pipeline.transformer.proj_out.weight
    weight.data = 0.3 * torch.randn(weight.shape, generator=generator)
    return pipeline


def test_untrained_residual_model_returns_the_prior(pipeline, sample) -> None:
    frames = pipeline(sample, **STEPS).frames[0]
    assert frames.shape == sample.prior_TCHW.shape
    assert frames.dtype == torch.uint8
    known = ~sample.hole_THW[:, None].expand_as(frames)
    error = (frames.float() - sample.prior_TCHW.float())[known].abs().mean()
    assert error < 12  # coding error of 12 principal components only


@pytest.mark.parametrize("num_frames", [1, 5, 9, 16, 17])
def test_any_length_gives_as_many_frames(make_sample, pipeline, num_frames: int) -> None:
    clip = make_sample(num_frames)
    assert pipeline(clip, **STEPS).frames.shape[1] == num_frames


def test_windows_cover_long_clips_and_keep_shared_frames(make_sample, pipeline) -> None:
    random_weights(pipeline)
    clip = make_sample(25)
    frames = pipeline(clip, **STEPS, window_frames=9, overlap_frames=5).frames[0]
    alone = pipeline(clip.window(0, 9, 4), **STEPS).frames[0]
    assert len(frames) == 25
    assert torch.equal(frames[:9], alone)


def test_plan_of_windows() -> None:
    assert plan_windows(49, 49, 5, 4) == [(0, 49)]
    assert plan_windows(97, 49, 13, 4) == [(0, 49), (36, 85), (48, 97)]
    for total in range(1, 200, 4):
        plan = plan_windows(total, 17, 5, 4)
        assert plan[0][0] == 0
        assert plan[-1][1] == total
        assert all(start % 4 == 0 for start, _ in plan)
        assert all(later[0] < earlier[1] for earlier, later in pairwise(plan))
    with pytest.raises(UserError, match="never get ahead"):
        plan_windows(49, 17, 17, 4)
    with pytest.raises(UserError, match="cannot be coded"):
        plan_windows(49, 16, 5, 4)


@pytest.mark.parametrize("latent", ["linear", "wan"])
def test_save_and_load_give_the_same_clip(tmp_path: Path, sample, latent: str) -> None:
    config = TinyConfig(
        latent=latent, z_dim=8, vae_base_dim=4, num_layers=1, num_heads=2, head_dim=16, ffn_dim=32  # type: ignore[arg-type]
    )  # fmt: skip
    pipeline = random_weights(build_tiny_pipeline(config))
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(sample, **STEPS, seed=3).frames
    pipeline.save_pretrained(tmp_path / "egox")
    again = EgoXPipeline.from_pretrained(tmp_path / "egox")
    again.set_progress_bar_config(disable=True)
    assert again.config["prediction"] == config.prediction
    assert again.config["use_hole_mask"] == config.use_hole_mask
    assert isinstance(again.guidance, GeometryGuidance)
    difference = again(sample, **STEPS, seed=3).frames.int() - expected.int()
    assert difference.abs().max() <= 1  # the autoencoder may sum in another order after loading


def test_seed_and_geometry_matter_and_batches_equal_single_clips(make_sample, pipeline) -> None:
    random_weights(pipeline)
    clips = [make_sample(seed=1), make_sample(seed=2)]
    together = pipeline(clips, **STEPS, seed=1).latents
    assert not torch.equal(pipeline(clips, **STEPS, seed=2).latents, together)
    assert not torch.equal(pipeline(clips, **STEPS, seed=1, geometry_scale=0.0).latents, together)
    blocks = pipeline(clips, **STEPS, seed=1, mode="blocks").latents
    torch.testing.assert_close(blocks, together, atol=1e-4, rtol=1e-4)
    assert torch.equal(pipeline(clips, **STEPS, seed=1).latents, together)


@pytest.mark.parametrize("solver", ["unipc", "euler"])
def test_exo_latents_stay_clean_over_fifty_steps(pipeline, sample, solver: str) -> None:
    random_weights(pipeline)
    pipeline.scheduler = build_scheduler(solver)
    worst = []
    clean = pipeline.prepare([sample]).exo

    def watch(step: int, timestep: int, latents: torch.Tensor) -> None:
        worst.append(float((latents[..., : clean.shape[-1]] - clean).abs().max()))

    pipeline(sample, num_inference_steps=50, guidance_scale=1.0, callback_on_step_end=watch)
    assert len(worst) == 50
    assert max(worst) < 1e-5


def test_guidance_combines_both_branches_and_can_reuse_their_difference(pipeline, sample) -> None:
    random_weights(pipeline)
    text_dim = pipeline.transformer.config["text_dim"]
    text = torch.randn(1, 1, text_dim, generator=torch.Generator().manual_seed(0))
    calls = 0

    def count(module, positional, keywords):
        nonlocal calls
        calls += 1

    handle = pipeline.transformer.register_forward_pre_hook(count, with_kwargs=True)
    options = {"num_inference_steps": 4, "prompt_embeds": text}
    plain = pipeline(sample, guidance_scale=1.0, **options).latents
    assert calls == 4
    guided = pipeline(sample, guidance_scale=5.0, **options).latents
    assert calls == 12
    pipeline(sample, guidance_scale=5.0, unconditional_every=2, **options)
    handle.remove()
    assert calls == 18
    assert not torch.allclose(plain, guided)


def test_bad_input_says_what_is_allowed(make_sample, pipeline, sample) -> None:
    with pytest.raises(UserError, match="not divisible by 8"):
        pipeline(make_sample(size=36), **STEPS)
    with pytest.raises(UserError, match="different sizes"):
        pipeline([sample, make_sample(5)], **STEPS)
    with pytest.raises(UserError, match="different numbers of frames"):
        GeneratorSample("short", sample.exo_TCHW[:5], sample.prior_TCHW)
    with pytest.raises(UserError, match="uint8"):
        GeneratorSample("float", sample.exo_TCHW.float(), sample.prior_TCHW)
    with pytest.raises(UserError, match="no text encoder"):
        embed_texts(None, None, ["a kitchen"], 4, 8)
    pipeline.transformer.proj_out.bias.data.fill_(float("nan"))
    with pytest.raises(UserError, match="NaN or infinite at step 1"):
        pipeline(sample, **STEPS)


def test_transformer_and_autoencoder_must_fit() -> None:
    pipeline = build_tiny_pipeline(TinyConfig(z_dim=8, num_layers=1, num_heads=1, head_dim=16, ffn_dim=16))
    other = build_tiny_pipeline(TinyConfig(z_dim=12, num_layers=1, num_heads=1, head_dim=16, ffn_dim=16))
    with pytest.raises(UserError, match="channels"):
        EgoXPipeline(other.vae, pipeline.transformer, pipeline.scheduler, pipeline.guidance)


def test_null_pose_is_refused(sample) -> None:
    from dataclasses import replace

    centres = sample.geometry.ego_centres_FC.clone()
    centres[1] = float("nan")
    with pytest.raises(UserError, match="without a pose"):
        replace(sample.geometry, ego_centres_FC=centres)


def test_wan_folder_with_image_conditioning_takes_the_published_kind_of_lora(tmp_path: Path, make_sample) -> None:
    """The 14B model's own architecture at tiny size: 16 latent channels, 36 inputs, image tokens, 512 text tokens."""
    torch.manual_seed(0)
    vae = AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    transformer = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=36, out_channels=16, text_dim=8, freq_dim=16,
        ffn_dim=32, num_layers=1, image_dim=12, added_kv_proj_dim=32, rope_max_seq_len=64,
    )  # fmt: skip
    vae.save_pretrained(tmp_path / "vae")
    transformer.save_pretrained(tmp_path / "transformer")
    pipeline = EgoXPipeline.from_wan(tmp_path, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    clip = make_sample(5)
    plain = pipeline(clip, num_inference_steps=2, guidance_scale=5.0)
    assert plain.frames.shape == (1, 5, 3, 32, 32)
    assert plain.latents.shape == (1, 16, 2, 4, 10)
    generator = torch.Generator().manual_seed(0)
    targets = ("to_q", "to_k", "to_v", "to_out.0")
    lora = {
        f"transformer.blocks.0.attn{number}.{name}.lora_{side}.weight": torch.randn(shape, generator=generator)
        for number in (1, 2)
        for name in targets
        for side, shape in (("A", (4, 32)), ("B", (32, 4)))
    }
    assert len(pipeline.load_lora(lora).matched) == 8
    adapted = pipeline(clip, num_inference_steps=2, guidance_scale=5.0)
    assert not torch.equal(adapted.latents, plain.latents)
    tiles = EgoXPipeline.from_wan(tmp_path, torch_dtype=torch.bfloat16)
    assert tiles.transformer.dtype == torch.bfloat16
    assert tiles.guidance.config["scale_inference"] == 3.0
    with pytest.raises(UserError, match="holds no transformer"):
        EgoXPipeline.from_wan(tmp_path / "vae")


def test_holes_are_filled_from_their_surroundings() -> None:
    frames = torch.zeros(2, 3, 21, 30, dtype=torch.uint8)
    frames[:, 0] = 200
    hole = torch.zeros(2, 21, 30, dtype=torch.bool)
    hole[0, 5:12, 7:20] = True
    hole[1] = True
    filled = fill_holes(torch.where(hole[:, None], 0, frames), hole)
    assert torch.equal(filled[0], frames[0])
    assert ((filled[1].int() - 128).abs() <= 1).all()
    ramp = torch.arange(30, dtype=torch.uint8).mul(8).expand(1, 3, 21, 30)
    closed = fill_holes(torch.where(hole[:1, None], 0, ramp), hole[:1])
    assert (closed.int() - ramp.int()).abs().max() < 40
    assert torch.equal(closed[:, :, :5], ramp[:, :, :5])
