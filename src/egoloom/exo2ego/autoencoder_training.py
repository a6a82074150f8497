"""Fitting the tiny generator's autoencoder: linear latents in closed form, a small Wan VAE by gradients."""

import json
import math
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from egoloom.clips.files import make_folder
from egoloom.errors import UserError
from egoloom.exo2ego.codec import PatchAutoencoder
from egoloom.exo2ego.latent_manifest import MANIFEST, is_made_with, write_manifest
from egoloom.exo2ego.lazy_samples import LazySequence
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
        videos: RGB ``uint8`` clips ``[T, 3, H, W]``, exo and ego alike. They may be lazy: linear latents read each of
            them once, the ``wan`` kind reads one for each crop.
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
    fitted = LazySequence(len(videos), lambda index: _as_signed(videos[index], tiny.time_stride))
    if isinstance(vae, PatchAutoencoder):
        vae.fit(fitted, seed=config.seed)
        return vae.eval()
    _train_wan_vae(vae, fitted, config, show_progress)
    _store_statistics(vae, fitted)
    return vae.eval().requires_grad_(False)


def stored_tiny_vae(
    videos: Sequence[torch.Tensor],
    origins: Sequence[str],
    tiny: TinyConfig,
    folder: Path,
    *,
    show_progress: bool = True,
) -> Any:
    """Returns the autoencoder of a run's folder of latents; it is fitted and stored where it is absent.

    Args:
        videos: What it is fitted to, as in :func:`train_tiny_vae`; not read if it is there.
        origins: What the videos come from (:func:`egoloom.exo2ego.latent_manifest.origins`).
        tiny: Kind and sizes of the latents.
        folder: The folder of latents.
        show_progress: Shows a bar.

    Raises:
        UserError: If it was fitted to something else, or cannot be read.
    """
    config, untrained = AutoencoderTraining(), build_tiny_vae(tiny)
    settings = {key: value for key, value in dict(untrained.config).items() if not key.startswith("_")}
    fitted_to = {"kind": type(untrained).__name__, **settings, "training": config.model_dump(), "takes": [*origins]}
    fitted_to = json.loads(json.dumps(fitted_to))
    path = folder / "autoencoder"
    if not is_made_with(path / MANIFEST, fitted_to, folder):
        vae = train_tiny_vae(videos, tiny, config, show_progress=show_progress)
        _store(vae, fitted_to, path)
    try:
        return type(untrained).from_pretrained(path).eval().requires_grad_(False)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"Cannot read the autoencoder in {path}: {error}", fix=f"rm -r {path}") from error


def _store(vae: Any, fitted_to: dict[str, Any], path: Path) -> None:
    """Writes the folder of an autoencoder whole; what another process wrote meanwhile, which is the same, stays."""
    make_folder(path.parent)
    with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as temporary:
        whole = Path(temporary) / path.name
        vae.save_pretrained(whole)
        write_manifest(whole / MANIFEST, fitted_to)
        try:
            os.rename(whole, path)
        except OSError as error:
            if not (path / MANIFEST).is_file():
                raise UserError(f"Cannot write {path}: {error.strerror}", fix=f"rm -r {path}") from error


def _as_signed(video_TCHW: torch.Tensor, time_stride: int) -> torch.Tensor:
    """``[3, T, H, W]`` in [-1, 1], cut to a length that can be coded."""
    frames = 1 + (len(video_TCHW) - 1) // time_stride * time_stride
    return video_TCHW[:frames].float().div(127.5).sub(1).transpose(0, 1)


def _train_wan_vae(vae: Any, videos: Sequence[torch.Tensor], config: AutoencoderTraining, show_progress: bool) -> None:
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


def _random_crop(
    videos: Sequence[torch.Tensor], config: AutoencoderTraining, generator: torch.Generator
) -> torch.Tensor:
    def below(limit: int) -> int:
        return int(torch.randint(max(1, limit), (1,), generator=generator))

    video = videos[below(len(videos))]
    frames, side = min(config.num_frames, video.shape[1]), min(config.crop_px, *video.shape[2:])
    start = below(video.shape[1] - frames + 1)
    top, left = below(video.shape[2] - side + 1), below(video.shape[3] - side + 1)
    return video[:, start : start + frames, top : top + side, left : left + side]


@torch.no_grad()
def _store_statistics(vae: Any, videos: Sequence[torch.Tensor], limit: int = 32) -> None:
    some = (videos[index] for index in range(min(limit, len(videos))))
    latents = [vae.encode(video[None]).latent_dist.mode().transpose(0, 1).flatten(1) for video in some]
    values = torch.cat(latents, dim=1)
    vae.register_to_config(latents_mean=values.mean(1).tolist(), latents_std=values.std(1).clamp_min(1e-4).tolist())
