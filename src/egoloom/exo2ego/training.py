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

from egoloom._distributed import from_main, open_accelerator
from egoloom.errors import UserError
from egoloom.exo2ego.conditioning import join_views, noised_canvas, transformer_input
from egoloom.exo2ego.latent_cache import LatentCache, coded_clips
from egoloom.exo2ego.latents import decode_pixels
from egoloom.exo2ego.lora import REFERENCE_TARGETS
from egoloom.exo2ego.pipeline import EgoXPipeline
from egoloom.exo2ego.prediction import clean_ego
from egoloom.exo2ego.progress import training_progress
from egoloom.exo2ego.samples import GeneratorSample
from egoloom.exo2ego.training_cache import CachedClip, ClipBatches
from egoloom.exo2ego.training_config import GeneratorTraining
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
    pipeline: EgoXPipeline,
    batch: CachedClip,
    config: GeneratorTraining,
    generator: torch.Generator,
    model: Any = None,
    process: tuple[int, int] = (0, 1),
) -> torch.Tensor:
    """Returns the loss of one batch, or of one process's share; all randomness comes from ``generator``.

    All processes draw for the whole batch, so that the numbers do not depend on how many share it.

    With velocity prediction this is exactly :func:`egoloom.exo2ego.conditioning.ego_flow_loss`; the two other
    predictions compare clean latents, which is the same error without its division by the noise level.
    """
    size, device = len(batch.truth), batch.truth.device
    uniform = torch.rand(size, generator=generator)
    # Whole timesteps as in the reference: t of 0 .. 999 stands for sigma = (t + 1) / 1000.
    index = (uniform ** (1.0 / config.noise_bias) * NUM_TRAIN_TIMESTEPS).long().clamp(max=NUM_TRAIN_TIMESTEPS - 1)
    sigma = ((index + 1).float() / NUM_TRAIN_TIMESTEPS).to(device)
    noise = torch.randn(batch.truth.shape, generator=generator).to(batch.truth)
    clean_exo = bool(pipeline.config["clean_exo"])
    exo_noise = batch.exo if clean_exo else torch.randn(batch.exo.shape, generator=generator).to(batch.exo)
    dropped = (torch.rand(size, generator=generator) < config.caption_dropout).to(device)
    if process[1] > 1:
        own = slice(process[0], None, process[1])
        batch, sigma, noise, exo_noise, dropped = batch.take(own), sigma[own], noise[own], exo_noise[own], dropped[own]
    canvas = noised_canvas(batch.exo, batch.truth, noise, sigma)
    if not clean_exo:
        level = sigma.view(-1, 1, 1, 1, 1)
        canvas = join_views((1 - level) * batch.exo + level * exo_noise, canvas[..., batch.layout.exo_width :])
    text = torch.where(dropped.view(-1, 1, 1), pipeline.empty_caption().to(batch.text), batch.text)
    mode = pipeline.guidance.config["mode"]
    guidance = pipeline.guidance.guide(
        batch.layout,
        batch.tables if config.geometry else None,
        float(pipeline.guidance.config["scale_training"]),
        "cached" if mode == "blocks" else mode,
        device,
    )
    x = transformer_input(canvas, batch.given).to(pipeline.transformer.dtype)
    with pipeline.guidance.active(guidance):
        output = (model or pipeline.transformer)(
            hidden_states=x,
            timestep=sigma * NUM_TRAIN_TIMESTEPS,
            encoder_hidden_states=text.to(x),
            encoder_hidden_states_image=None if batch.image is None else batch.image.to(x),
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
        samples: Clips with ego truth, in memory or lazy, or clips that are coded already.
        config: How to train.
        pipeline: The pipeline; its autoencoder must be trained already.
        run_dir: Where latents and checkpoints go; a run found there continues exactly where it stopped. Without it, all
            latents are kept in memory.
        resume: False refuses to continue what is in ``run_dir``.
        show_progress: Shows a bar with rate and time left.
        on_step: Called with step and loss.
        on_checkpoint: Called with the step after each checkpoint, e.g. to write sample videos.

    Raises:
        UserError: If a clip cannot be used, or the loss becomes NaN or infinite.
    """
    # accelerate keeps the precision of a process's first run for all later ones, so bfloat16, which needs no scaling of
    # gradients, is asked of torch itself.
    precision = "fp16" if config.mixed_precision == "fp16" else None
    accelerator = open_accelerator(mixed_precision=precision, cpu=not torch.cuda.is_available())
    is_bf16 = config.mixed_precision == "bf16"
    generator = torch.Generator().manual_seed(config.seed)
    parameters = _trainable_parameters(pipeline, config)
    _check_processes(accelerator, parameters, config)
    folder = None if run_dir is None else Path(run_dir) / "checkpoints" / "last"
    if folder is not None and folder.exists() and not resume:
        raise UserError(f"{folder} holds a run already", fix="choose another folder, or leave out --no-resume")
    cached = coded_clips(pipeline, samples, config, run_dir, accelerator, show_progress)
    if config.gradient_checkpointing:
        pipeline.transformer.enable_gradient_checkpointing()
    optimizer = torch.optim.AdamW(
        parameters.values(), lr=config.learning_rate, betas=(0.9, 0.95), eps=1e-8, weight_decay=config.weight_decay
    )
    model, wrapped = accelerator.prepare(pipeline.transformer, optimizer)
    parameters = _named_parameters(pipeline)  # FSDP has put its parts in their place
    average = MovingAverage(parameters, config.ema_decay)
    state = TrainingState(parameters, optimizer, average, generator)
    if folder is not None and folder.exists():
        load_state(state, folder, config)
    result = TrainingResult(state.losses, 0.0, sum(p.numel() for p in parameters.values()), len(cached))
    process = (accelerator.process_index, accelerator.num_processes)
    bucket_of = cached.bucket_of if isinstance(cached, LatentCache) else None
    batches = ClipBatches(cached, config.batch_size * accelerator.num_processes, generator, bucket_of)
    pipeline.transformer.train()
    started = time.monotonic()
    with training_progress(show_progress and accelerator.is_main_process) as progress:
        bar = progress.add_task("training", total=config.num_steps, completed=state.step, loss=math.nan)
        while state.step < config.num_steps:
            elapsed = time.monotonic() - started
            if config.max_seconds is not None:
                elapsed = from_main(elapsed)  # or processes would stop at different steps
                if elapsed >= config.max_seconds:
                    break
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * _rate(config, state.step, elapsed)
            batch = _to_device(batches.draw(), accelerator.device)
            with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=is_bf16):
                loss = generator_loss(pipeline, batch, config, generator, model, process)
            value = float(accelerator.reduce(loss.detach().float(), "mean"))  # type: ignore[arg-type]
            if not math.isfinite(value):
                raise UserError(
                    f"The training loss became {value} at step {state.step + 1}",
                    fix="lower the learning rate; the last checkpoint is intact",
                )
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(list(parameters.values()), config.gradient_clip)
            wrapped.step()
            wrapped.zero_grad(set_to_none=True)
            average.update(parameters)
            state.step += 1
            state.losses.append(value)
            progress.update(bar, completed=state.step, loss=result.mean_loss(20))
            if on_step is not None:
                on_step(state.step, state.losses[-1])
            if folder is not None and (state.step % config.checkpoint_every == 0 or state.step == config.num_steps):
                save_state(state, folder, config)
                accelerator.wait_for_everyone()
                if on_checkpoint is not None:
                    on_checkpoint(state.step)
    average.copy_to(parameters)
    pipeline.transformer.eval()
    pipeline.transformer.requires_grad_(False)
    result.seconds = time.monotonic() - started
    return result


def _check_processes(accelerator: Any, parameters: dict[str, torch.nn.Parameter], config: GeneratorTraining) -> None:
    if accelerator.num_processes > 1 and any(name.startswith("guidance.") for name in parameters):
        raise UserError(
            "Geometry mode vmf has weights outside the transformer, which processes would not share",
            allowed="blocks, cached, dense, flex with several processes",
            fix="train mode vmf with one process",
        )
    if accelerator.is_fsdp2 and config.lora_rank is None:
        raise UserError("FSDP trains a LoRA only, not all weights", fix="set lora_rank, or leave FSDP out")


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
            if "lora_" in name:
                # peft takes the base's type; bfloat16 would round away steps of a learning rate of 2e-5.
                parameter.data = parameter.data.float()
    return _named_parameters(pipeline)


def _named_parameters(pipeline: EgoXPipeline) -> dict[str, torch.nn.Parameter]:
    transformer = pipeline.transformer
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
