"""Training of the generator: latents cached first, LoRA or all weights, exact resume, a stop on NaN.

The loss is that of EgoX (arXiv 2512.08269, section 3.1): flow matching on the ego columns, exo latents clean.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from egoloom.errors import UserError
from egoloom.exo2ego.attention import ActiveGuidance
from egoloom.exo2ego.codec import PatchAutoencoder
from egoloom.exo2ego.conditioning import join_views, noised_canvas, transformer_input
from egoloom.exo2ego.latents import decode_pixels
from egoloom.exo2ego.lora import REFERENCE_TARGETS
from egoloom.exo2ego.pipeline import EgoXPipeline
from egoloom.exo2ego.prediction import clean_ego
from egoloom.exo2ego.samples import GeneratorSample
from egoloom.exo2ego.tiny import TinyConfig, build_tiny_vae
from egoloom.exo2ego.training_cache import CachedClip, ClipBatches, cache_clips
from egoloom.exo2ego.training_config import AutoencoderTraining, GeneratorTraining
from egoloom.exo2ego.training_state import MovingAverage, TrainingState, load_state, save_state

NUM_TRAIN_TIMESTEPS = 1000
# Share of a run over which the schedule `wsd` (warm-up, stable, decay: arXiv 2404.06395) goes down to zero.
DECAY_SHARE = 0.25


@dataclass
class TrainingResult:
    """What a training run did.

    Args:
        losses: Loss of every step since the start of the run.
        seconds: Time of this call.
        num_parameters: Trained numbers.
        num_clips: Cached clips.
    """

    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    num_parameters: int = 0
    num_clips: int = 0

    def mean_loss(self, last: int = 50) -> float:
        """Returns the mean loss of the last steps."""
        recent = self.losses[-last:]
        return sum(recent) / max(1, len(recent))


def generator_loss(
    pipeline: EgoXPipeline, batch: CachedClip, config: GeneratorTraining, generator: torch.Generator, model: Any = None
) -> torch.Tensor:
    """Returns the loss of one batch; all randomness comes from ``generator``.

    With velocity prediction this is exactly :func:`egoloom.exo2ego.conditioning.ego_flow_loss`; the two other
    predictions compare clean latents, which is the same error without its division by the noise level.
    """
    size, device = len(batch.truth), batch.truth.device
    uniform = torch.rand(size, generator=generator)
    # Whole timesteps as in the reference: t of 0 .. 999 stands for sigma = (t + 1) / 1000.
    index = (uniform ** (1.0 / config.noise_bias) * NUM_TRAIN_TIMESTEPS).long().clamp(max=NUM_TRAIN_TIMESTEPS - 1)
    sigma = ((index + 1).float() / NUM_TRAIN_TIMESTEPS).to(device)
    noise = torch.randn(batch.truth.shape, generator=generator).to(batch.truth)
    canvas = noised_canvas(batch.exo, batch.truth, noise, sigma)
    if not pipeline.config["clean_exo"]:
        exo_noise = torch.randn(batch.exo.shape, generator=generator).to(batch.exo)
        level = sigma.view(-1, 1, 1, 1, 1)
        canvas = join_views((1 - level) * batch.exo + level * exo_noise, canvas[..., batch.layout.exo_width :])
    dropped = torch.rand(size, generator=generator) < config.caption_dropout
    text = torch.where(dropped.view(-1, 1, 1).to(device), torch.zeros_like(batch.text), batch.text)
    guidance = None
    scale = float(pipeline.guidance.config["scale_training"])
    if config.geometry and batch.tables is not None and scale != 0:
        mode = pipeline.guidance.config["mode"]
        guidance = ActiveGuidance(batch.layout, batch.tables, scale, "cached" if mode == "blocks" else mode)
    with pipeline.guidance.active(guidance):
        output = (model or pipeline.transformer)(
            hidden_states=transformer_input(canvas, batch.given),
            timestep=sigma * NUM_TRAIN_TIMESTEPS,
            encoder_hidden_states=text,
            encoder_hidden_states_image=batch.image,
            return_dict=False,
        )[0]
    width = batch.layout.exo_width
    kind = pipeline.config["prediction"]
    if kind == "velocity":
        error = output[..., width:].float() - (noise - batch.truth)
    else:
        error = clean_ego(kind, output[..., width:].float(), canvas[..., width:], batch.prior, sigma) - batch.truth
    loss = error.square().mean()
    if config.pixels is not None and batch.frames is not None:
        clean = clean_ego(kind, output[..., width:].float(), canvas[..., width:], batch.prior, sigma)
        truth = batch.frames.to(clean).div(127.5).sub(1)
        wearer = None if batch.wearer is None else batch.wearer.to(clean)
        loss = loss + config.pixels(decode_pixels(pipeline.vae, clean), truth, wearer)
    return loss


def train_generator(
    samples: Sequence[GeneratorSample] | Sequence[CachedClip],
    config: GeneratorTraining,
    pipeline: EgoXPipeline,
    *,
    run_dir: str | Path | None = None,
    resume: bool = True,
    show_progress: bool = True,
    on_step: Callable[[int, float], None] | None = None,
    on_checkpoint: Callable[[int], None] | None = None,
) -> TrainingResult:
    """Trains the transformer of a pipeline in place and returns what happened.

    Args:
        samples: Clips with ego truth, or clips that are cached already.
        config: How to train.
        pipeline: The pipeline; its autoencoder must be trained already.
        run_dir: Where checkpoints go; a run found there continues exactly where it stopped.
        resume: False refuses to continue what is in ``run_dir``.
        show_progress: Shows a bar with rate and time left.
        on_step: Called with step and loss.
        on_checkpoint: Called with the step after each checkpoint, e.g. to write sample videos.

    Raises:
        UserError: If a clip cannot be used, or the loss becomes NaN or infinite.
    """
    from accelerate import Accelerator

    # accelerate keeps the precision of a process's first run for all later ones, so bfloat16, which needs no scaling of
    # gradients, is asked of torch itself.
    precision = "fp16" if config.mixed_precision == "fp16" else None
    accelerator = Accelerator(mixed_precision=precision, cpu=not torch.cuda.is_available())
    is_bf16 = config.mixed_precision == "bf16"
    generator = torch.Generator().manual_seed(config.seed + accelerator.process_index)
    cached = [clip for clip in samples if isinstance(clip, CachedClip)]
    if not cached:
        windows, keep = config.window_frames, config.pixels is not None
        cached = cache_clips(pipeline, samples, window_frames=windows, keep_frames=keep)  # type: ignore[arg-type]
    parameters = _trainable_parameters(pipeline, config)
    if config.gradient_checkpointing:
        pipeline.transformer.enable_gradient_checkpointing()
    optimizer = torch.optim.AdamW(
        parameters.values(), lr=config.learning_rate, betas=(0.9, 0.95), eps=1e-8, weight_decay=config.weight_decay
    )
    average = MovingAverage(parameters, config.ema_decay)
    state = TrainingState(parameters, optimizer, average, generator)
    folder = None if run_dir is None else Path(run_dir) / "checkpoints" / "last"
    if folder is not None and folder.exists():
        if not resume:
            raise UserError(f"{folder} holds a run already", fix="choose another folder, or leave out --no-resume")
        load_state(state, folder, config)
    model, wrapped = accelerator.prepare(pipeline.transformer, optimizer)
    result = TrainingResult(state.losses, 0.0, sum(p.numel() for p in parameters.values()), len(cached))
    batches = ClipBatches(cached, config.batch_size, generator)
    pipeline.transformer.train()
    started = time.monotonic()
    with _progress(show_progress and accelerator.is_main_process) as progress:
        bar = progress.add_task("training", total=config.num_steps, completed=state.step, loss=math.nan)
        while state.step < config.num_steps:
            elapsed = time.monotonic() - started
            if config.max_seconds is not None and elapsed >= config.max_seconds:
                break
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * _rate(config, state.step, elapsed)
            batch = _to_device(batches.draw(), accelerator.device)
            with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=is_bf16):
                loss = generator_loss(pipeline, batch, config, generator, model)
            if not math.isfinite(float(loss.detach())):
                raise UserError(
                    f"The training loss became {float(loss.detach())} at step {state.step + 1}",
                    fix="lower the learning rate; the last checkpoint is intact",
                )
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(list(parameters.values()), config.gradient_clip)
            wrapped.step()
            wrapped.zero_grad(set_to_none=True)
            average.update(parameters)
            state.step += 1
            state.losses.append(float(loss.detach()))
            progress.update(bar, completed=state.step, loss=result.mean_loss(20))
            if on_step is not None:
                on_step(state.step, state.losses[-1])
            if folder is not None and (state.step % config.checkpoint_every == 0 or state.step == config.num_steps):
                if accelerator.is_main_process:
                    save_state(state, folder, config)
                if on_checkpoint is not None:
                    on_checkpoint(state.step)
    average.copy_to(parameters)
    pipeline.transformer.eval()
    pipeline.transformer.requires_grad_(False)
    result.seconds = time.monotonic() - started
    return result


def _trainable_parameters(pipeline: EgoXPipeline, config: GeneratorTraining) -> dict[str, torch.nn.Parameter]:
    """Freezes everything but what is trained; adds a LoRA where asked for and none is there."""
    transformer = pipeline.transformer
    transformer.requires_grad_(config.lora_rank is None)
    pipeline.guidance.requires_grad_(pipeline.guidance.config["mode"] == "vmf")
    if config.lora_rank is not None:
        from peft import LoraConfig

        if not getattr(transformer, "peft_config", None):
            with torch.random.fork_rng([]):
                torch.manual_seed(config.seed)
                transformer.add_adapter(
                    LoraConfig(
                        r=config.lora_rank,
                        lora_alpha=config.lora_alpha or config.lora_rank,
                        init_lora_weights=True,
                        target_modules=list(REFERENCE_TARGETS),
                    )
                )
        for name, parameter in transformer.named_parameters():
            parameter.requires_grad_("lora_" in name)
    named = {f"transformer.{name}": value for name, value in transformer.named_parameters() if value.requires_grad}
    named |= {f"guidance.{name}": value for name, value in pipeline.guidance.named_parameters() if value.requires_grad}
    return named


def _rate(config: GeneratorTraining, step: int, elapsed_s: float) -> float:
    """Share of the peak learning rate."""
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.schedule == "constant":
        return warm
    done = step / config.num_steps
    if config.max_seconds is not None:
        done = max(done, elapsed_s / config.max_seconds)
    if config.schedule == "wsd":
        return min(warm, max(0.0, 1.0 - done) / DECAY_SHARE)
    return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _to_device(batch: CachedClip, device: torch.device) -> CachedClip:
    if device.type == "cpu":
        return batch
    tables = None if batch.tables is None else batch.tables.to(device)
    moved = {name: getattr(batch, name).to(device) for name in ("exo", "prior", "truth", "given", "text")}
    optional = {name: getattr(batch, name) for name in ("image", "frames", "wearer")}
    moved |= {name: value.to(device) for name, value in optional.items() if value is not None}
    return replace(batch, tables=tables, **moved)


def _progress(visible: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TimeRemainingColumn(),
        disable=not visible,
    )


# --- autoencoder ------------------------------------------------------------------------------------------------


def train_tiny_vae(
    videos: Sequence[torch.Tensor],
    tiny: TinyConfig | None = None,
    config: AutoencoderTraining | None = None,
    *,
    show_progress: bool = True,
) -> Any:
    """Returns a fitted autoencoder for the tiny generator, with its latent statistics in the configuration.

    Args:
        videos: RGB ``uint8`` clips ``[T, 3, H, W]``, exo and ego alike.
        tiny: Kind and sizes of the latents; linear latents are fitted in closed form within seconds.
        config: Training of the ``wan`` kind.
        show_progress: Shows a bar.
    """
    tiny, config = tiny or TinyConfig(), config or AutoencoderTraining()
    if not videos:
        raise UserError("There is no video to fit the autoencoder to")
    with torch.random.fork_rng([]):
        torch.manual_seed(config.seed)
        vae = build_tiny_vae(tiny)
    fitted = [_as_signed(video, tiny.time_stride) for video in videos]
    if isinstance(vae, PatchAutoencoder):
        vae.fit(fitted, seed=config.seed)
        return vae.eval()
    _train_wan_vae(vae, fitted, config, show_progress)
    _store_statistics(vae, fitted)
    return vae.eval().requires_grad_(False)


def _as_signed(video_TCHW: torch.Tensor, time_stride: int) -> torch.Tensor:
    """``[3, T, H, W]`` in [-1, 1], cut to a length that can be coded."""
    frames = 1 + (len(video_TCHW) - 1) // time_stride * time_stride
    return video_TCHW[:frames].float().div(127.5).sub(1).transpose(0, 1)


def _train_wan_vae(vae: Any, videos: list[torch.Tensor], config: AutoencoderTraining, show_progress: bool) -> None:
    generator = torch.Generator().manual_seed(config.seed)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    started = time.monotonic()
    with _progress(show_progress) as progress:
        bar = progress.add_task("autoencoder", total=config.num_steps, loss=math.nan)
        for step in range(config.num_steps):
            elapsed = time.monotonic() - started
            if config.max_seconds is not None and elapsed >= config.max_seconds:
                break
            done = max(step / config.num_steps, elapsed / config.max_seconds if config.max_seconds else 0.0)
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * min(1.0, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * done))
            batch = torch.stack([_random_crop(videos, config, generator) for _ in range(config.batch_size)])
            posterior = vae.encode(batch).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator)
            decoded = vae.decode(posterior.mean + posterior.std * noise, return_dict=False)[0]
            loss = (decoded - batch).abs().mean() + config.kl_weight * posterior.kl().mean()
            if not math.isfinite(float(loss.detach())):
                raise UserError(f"The autoencoder's loss became {float(loss.detach())} at step {step + 1}")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
            optimizer.step()
            progress.update(bar, advance=1, loss=float(loss.detach()))


def _random_crop(videos: list[torch.Tensor], config: AutoencoderTraining, generator: torch.Generator) -> torch.Tensor:
    def below(limit: int) -> int:
        return int(torch.randint(max(1, limit), (1,), generator=generator))

    video = videos[below(len(videos))]
    frames, side = min(config.num_frames, video.shape[1]), min(config.crop_px, *video.shape[2:])
    start = below(video.shape[1] - frames + 1)
    top, left = below(video.shape[2] - side + 1), below(video.shape[3] - side + 1)
    return video[:, start : start + frames, top : top + side, left : left + side]


@torch.no_grad()
def _store_statistics(vae: Any, videos: list[torch.Tensor], limit: int = 32) -> None:
    latents = [vae.encode(video[None]).latent_dist.mode().transpose(0, 1).flatten(1) for video in videos[:limit]]
    values = torch.cat(latents, dim=1)
    vae.register_to_config(latents_mean=values.mean(1).tolist(), latents_std=values.std(1).clamp_min(1e-4).tolist())
