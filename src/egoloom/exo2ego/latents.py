"""Video to normalised latents and back, for any autoencoder with the interface of ``AutoencoderKLWan``.

Legend: B batch, T pixel frames, F latent frames, Z latent channels.
"""

from typing import Any

import torch

from egoloom.errors import UserError


def latent_strides(vae: Any) -> tuple[int, int]:
    """Returns ``(frames per latent frame, pixels per latent cell)`` from the autoencoder's configuration."""
    return int(vae.config["scale_factor_temporal"]), int(vae.config["scale_factor_spatial"])


def _device(vae: Any) -> torch.device:
    """Where the autoencoder computes: offloading keeps its weights elsewhere until it is called."""
    hook = getattr(vae, "_hf_hook", None)
    device = getattr(hook, "execution_device", None)
    return next(vae.parameters()).device if device is None else torch.device(device)


def _statistics(vae: Any, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    channels = vae.config["z_dim"]
    mean = vae.config["latents_mean"] or [0.0] * channels
    std = vae.config["latents_std"] or [1.0] * channels
    if len(mean) != channels or len(std) != channels:
        raise UserError(f"The autoencoder has {channels} channels but statistics of {len(mean)}")
    return like.new_tensor(mean).view(1, -1, 1, 1, 1), like.new_tensor(std).view(1, -1, 1, 1, 1)


@torch.no_grad()
def encode_video(
    vae: Any,
    frames_BTCHW: torch.Tensor,
    *,
    sample: bool = False,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Returns normalised latents ``[B, Z, F, h, w]`` of RGB ``uint8`` frames ``[B, T, 3, H, W]``.

    Args:
        vae: The autoencoder.
        frames_BTCHW: ``s k + 1`` frames.
        sample: Draws from the posterior (as the reference does) instead of taking its mode.
        generator: Randomness of the draw.
    """
    parameter = next(vae.parameters())
    video = frames_BTCHW.to(_device(vae)).float().div(127.5).sub(1).transpose(1, 2).to(parameter.dtype)
    posterior = vae.encode(video).latent_dist
    latents = posterior.sample(generator) if sample else posterior.mode()
    mean, std = _statistics(vae, latents.float())
    return (latents.float() - mean) / std


def decode_pixels(vae: Any, latents_BZFHW: torch.Tensor) -> torch.Tensor:
    """Returns frames ``[B, T, 3, H, W]`` in [-1, 1] of normalised latents, with gradients."""
    mean, std = _statistics(vae, latents_BZFHW.float())
    latents = (latents_BZFHW.float() * std + mean).to(_device(vae), next(vae.parameters()).dtype)
    return vae.decode(latents, return_dict=False)[0].float().transpose(1, 2)


@torch.no_grad()
def decode_video(vae: Any, latents_BZFHW: torch.Tensor) -> torch.Tensor:
    """Returns RGB ``uint8`` frames ``[B, T, 3, H, W]`` of normalised latents."""
    return decode_pixels(vae, latents_BZFHW).add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).cpu()
