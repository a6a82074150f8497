"""Training: the loss falls, LoRA and full weights, exact continuation, a stop on NaN."""

from pathlib import Path

import pytest
import torch

from egoloom.errors import UserError
from egoloom.exo2ego.autoencoder_training import train_tiny_vae
from egoloom.exo2ego.conditioning import ego_flow_loss
from egoloom.exo2ego.generation import GenerationConfig, generate
from egoloom.exo2ego.lora import save_lora
from egoloom.exo2ego.tiny import TinyConfig, build_tiny_pipeline
from egoloom.exo2ego.training import _rate, generator_loss, train_generator
from egoloom.exo2ego.training_cache import cache_clips, stack_clips
from egoloom.exo2ego.training_config import AutoencoderTraining, GeneratorTraining

QUICK = GeneratorTraining(
    num_steps=30, batch_size=2, learning_rate=3e-3, warmup_steps=3, lora_rank=None, caption_dropout=0.0
)


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(10 * torch.log10(255**2 / (a.float() - b.float()).square().mean()))


def test_full_weights_learn_to_beat_the_prior(pipeline, sample) -> None:
    config = QUICK.model_copy(update={"num_steps": 150})
    result = train_generator([sample], config, pipeline, show_progress=False)
    assert result.num_clips == 1
    assert result.mean_loss(20) < 0.3 * sum(result.losses[:5]) / 5
    frames = generate(pipeline, [sample], GenerationConfig(num_steps=2))[0]
    assert psnr(frames, sample.truth_TCHW) > psnr(sample.prior_TCHW, sample.truth_TCHW) + 3


def test_lora_trains_its_own_weights_only_and_loads_again(pipeline, sample, tiny_config, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in pipeline.transformer.named_parameters()}
    pipeline.transformer.proj_out.weight.data.normal_(0, 0.1)
    before["proj_out.weight"] = pipeline.transformer.proj_out.weight.detach().clone()
    config = QUICK.model_copy(update={"lora_rank": 4, "num_steps": 10})
    result = train_generator([sample], config, pipeline, show_progress=False)
    targets = 2 * 2 * 4  # blocks x attentions x projections
    assert result.num_parameters == targets * 2 * 4 * 32
    after = dict(pipeline.transformer.named_parameters())
    for name, value in before.items():
        stem, _, leaf = name.rpartition(".")
        now = after[name] if name in after else after[f"{stem}.base_layer.{leaf}"]
        assert torch.equal(now, value), name
    assert any(value.abs().max() > 0 for name, value in after.items() if "lora_B" in name)
    save_lora(pipeline.transformer, tmp_path)
    fresh = build_tiny_pipeline(tiny_config, vae=pipeline.vae)
    fresh.transformer.proj_out.load_state_dict(pipeline.transformer.proj_out.state_dict())
    report = fresh.load_lora(tmp_path)
    assert len(report.matched) == targets
    options = {"num_inference_steps": 2, "guidance_scale": 1.0}
    fresh.set_progress_bar_config(disable=True)
    torch.testing.assert_close(fresh(sample, **options).latents, pipeline(sample, **options).latents)


@pytest.mark.parametrize("lora_rank", [None, 4])
def test_a_continued_run_equals_an_uninterrupted_one(
    make_sample, tmp_path: Path, tiny_config, lora_rank: int | None
) -> None:
    clips = [make_sample(seed=1), make_sample(seed=2), make_sample(5, seed=3)]
    vae = train_tiny_vae([clip.truth_TCHW for clip in clips], tiny_config, show_progress=False)
    base = QUICK.model_copy(update={"lora_rank": lora_rank, "ema_decay": 0.9, "num_steps": 8})
    whole = build_tiny_pipeline(tiny_config, vae=vae)
    expected = train_generator(clips, base, whole, show_progress=False)
    first = base.model_copy(update={"num_steps": 5, "checkpoint_every": 5})
    train_generator(clips, first, build_tiny_pipeline(tiny_config, vae=vae), run_dir=tmp_path, show_progress=False)
    rest = build_tiny_pipeline(tiny_config, vae=vae)
    result = train_generator(clips, base, rest, run_dir=tmp_path, show_progress=False)
    assert result.losses == expected.losses
    ours, theirs = rest.transformer.state_dict(), whole.transformer.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_a_stable_run_can_be_made_longer_until_its_decay_begins(sample, tmp_path: Path, tiny_config) -> None:
    vae = train_tiny_vae([sample.truth_TCHW], tiny_config, show_progress=False)
    recipe = QUICK.model_copy(update={"schedule": "wsd", "num_steps": 12})
    whole = build_tiny_pipeline(tiny_config, vae=vae)
    expected = train_generator([sample], recipe, whole, show_progress=False).losses
    long = recipe.model_copy(update={"num_steps": 40, "checkpoint_every": 9})
    stopped = build_tiny_pipeline(tiny_config, vae=vae)

    def stop(step: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_generator([sample], long, stopped, run_dir=tmp_path, show_progress=False, on_checkpoint=stop)
    rest = build_tiny_pipeline(tiny_config, vae=vae)
    assert train_generator([sample], recipe, rest, run_dir=tmp_path, show_progress=False).losses == expected
    ours, theirs = rest.transformer.state_dict(), whole.transformer.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    # Three steps up, nine in all at the top, a quarter of twelve down.
    rates = [_rate(recipe, step, 0.0) for step in range(12)]
    assert rates == pytest.approx([1 / 3, 2 / 3, *[1] * 8, 2 / 3, 1 / 3])


def test_other_settings_or_another_model_do_not_continue_a_run(tmp_path: Path, pipeline, sample, tiny_config) -> None:
    short = QUICK.model_copy(update={"num_steps": 1})
    train_generator([sample], short, pipeline, run_dir=tmp_path, show_progress=False)
    changed = short.model_copy(update={"learning_rate": 1e-4})
    deeper = build_tiny_pipeline(tiny_config.model_copy(update={"num_layers": 3}), vae=pipeline.vae)
    with pytest.raises(UserError, match="learning_rate"):
        train_generator([sample], changed, pipeline, run_dir=tmp_path, show_progress=False)
    with pytest.raises(UserError, match="another model"):
        train_generator([sample], short, deeper, run_dir=tmp_path, show_progress=False)
    with pytest.raises(UserError, match="holds a run already"):
        train_generator([sample], short, pipeline, run_dir=tmp_path, resume=False, show_progress=False)
    (tmp_path / "checkpoints/last/state.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match="Cannot read the checkpoint"):
        train_generator([sample], short, pipeline, run_dir=tmp_path, show_progress=False)


def test_training_stops_on_nan_and_on_clips_without_truth(pipeline, sample) -> None:
    from dataclasses import replace

    with pytest.raises(UserError, match="no ego ground truth"):
        train_generator([replace(sample, truth_TCHW=None)], QUICK, pipeline, show_progress=False)
    with pytest.raises(UserError, match="no clip to train on"):
        train_generator([], QUICK, pipeline, show_progress=False)
    pipeline.transformer.proj_out.bias.data.fill_(float("nan"))
    with pytest.raises(UserError, match="loss became nan at step 1"):
        train_generator([sample], QUICK, pipeline, show_progress=False)


def test_velocity_loss_is_the_papers(tiny_config: TinyConfig, sample) -> None:
    config = tiny_config.model_copy(update={"prediction": "velocity"})
    pipeline = build_tiny_pipeline(config)
    batch = stack_clips(cache_clips(pipeline, [sample, sample]))
    recipe = QUICK.model_copy(update={"geometry": False})
    captured = {}
    handle = pipeline.transformer.register_forward_hook(lambda m, i, output: captured.update(output=output[0]))
    loss = generator_loss(pipeline, batch, recipe, torch.Generator().manual_seed(0))
    handle.remove()
    generator = torch.Generator().manual_seed(0)
    torch.rand(2, generator=generator)
    noise = torch.randn(batch.truth.shape, generator=generator)
    torch.testing.assert_close(loss, ego_flow_loss(captured["output"], batch.truth, noise))


@pytest.mark.parametrize("mode", ["cached", "vmf"])
def test_gradient_checkpointing_gives_the_same_gradients(tiny_config: TinyConfig, sample, mode: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        config = tiny_config.model_copy(update={"geometry_mode": mode, "prediction": "velocity"})
        pipeline = build_tiny_pipeline(config)
        if checkpointing:
            pipeline.transformer.enable_gradient_checkpointing()
        pipeline.transformer.train()
        batch = stack_clips(cache_clips(pipeline, [sample]))
        generator_loss(pipeline, batch, QUICK, torch.Generator().manual_seed(0)).backward()
        gradients.append(pipeline.transformer.blocks[0].attn1.to_q.weight.grad)
        if mode == "vmf":
            assert pipeline.guidance.kappa.grad.abs().max() > 0
    torch.testing.assert_close(gradients[0], gradients[1])


def test_small_wan_autoencoder_learns_and_knows_its_statistics(sample) -> None:
    tiny = TinyConfig(latent="wan", z_dim=8, vae_base_dim=4)
    recipe = AutoencoderTraining(num_steps=12, batch_size=1, crop_px=16, num_frames=5)
    untrained = train_tiny_vae(
        [sample.truth_TCHW], tiny, recipe.model_copy(update={"num_steps": 1}), show_progress=False
    )
    trained = train_tiny_vae([sample.truth_TCHW], tiny, recipe, show_progress=False)

    def error(vae) -> float:
        from egoloom.exo2ego.latents import decode_video, encode_video

        decoded = decode_video(vae, encode_video(vae, sample.truth_TCHW[None]))[0]
        return float((decoded.float() - sample.truth_TCHW.float()).square().mean())

    assert error(trained) < error(untrained)
    assert len(trained.config["latents_std"]) == 8
