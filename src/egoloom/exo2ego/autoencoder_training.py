"""Fitting the tiny generator's autoencoder: linear latents in closed form, a small Wan VAE by gradients."""

import math
import time
from collections.abc import Sequence
from typing import Any

import torch

from egoloom.errors import UserError
from egoloom.exo2ego.codec import PatchAutoencoder
from egoloom.exo2ego.progress import training_progress
from egoloom.exo2ego.tiny import TinyConfig, build_tiny_vae
from egoloom.exo2ego.training_config import AutoencoderTraining


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
    with training_progress(show_progress) as progress:
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
