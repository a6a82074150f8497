"""Linear patch latents: a video codec with the interface of ``AutoencoderKLWan`` that is fitted in closed form.

A patch of ``time_stride x spatial_stride x spatial_stride`` pixels becomes ``z_dim`` numbers by an orthonormal basis;
with ``z_dim`` equal to the patch's size this is pixels as latents (space-to-depth), below that the principal
components of the training patches. As in Wan, the first frame stands alone: ``s k + 1`` frames give ``k + 1``.

Legend: B batch, C = 3 colours, T pixel frames, F latent frames, Z latent channels, D patch size, M patches.
"""

import math
from collections.abc import Sequence
from types import SimpleNamespace

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from egoloom.errors import UserError

# Share of the step between the two pixels at a lapped border that decoding keeps.
KEPT_STEP = 0.3


class _PointLatents:
    """A distribution without spread: sample and mode are the same."""

    def __init__(self, latents: torch.Tensor) -> None:
        self.mean = latents

    def mode(self) -> torch.Tensor:
        """Returns the latents."""
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> torch.Tensor:
        """Returns the latents."""
        return self.mean


class PatchAutoencoder(ModelMixin, ConfigMixin):
    """Codes video patches with one orthonormal basis.

    Args:
        z_dim: Latent channels.
        scale_factor_spatial: Side of a patch in pixels.
        scale_factor_temporal: Frames of a patch.
        lap_px: Side of blocks whose borders are lapped (0: none): what a block says then fades into its neighbours, so
            that errors of a network which writes block by block show no grid. A multiple of the patch's side.
        latents_mean: Mean of each latent channel over the training data.
        latents_std: Standard deviation of each latent channel.
    """

    @register_to_config
    def __init__(
        self,
        z_dim: int = 48,
        scale_factor_spatial: int = 4,
        scale_factor_temporal: int = 4,
        lap_px: int = 0,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
    ) -> None:
        super().__init__()
        patch = 3 * scale_factor_temporal * scale_factor_spatial**2
        if not 0 < z_dim <= patch:
            raise UserError(f"A patch of {patch} values cannot have {z_dim} latent channels", allowed=f"1 to {patch}")
        if lap_px < 0 or lap_px % 2 or lap_px % scale_factor_spatial:
            raise UserError(
                f"Blocks of {lap_px} px cannot be lapped over patches of {scale_factor_spatial} px",
                allowed=f"even multiples of {scale_factor_spatial}, or 0",
            )
        self.basis_ZD = nn.Parameter(torch.eye(z_dim, patch), requires_grad=False)
        self.mean_D = nn.Parameter(torch.zeros(patch), requires_grad=False)

    def _patches(self, video_BCTHW: torch.Tensor) -> torch.Tensor:
        side, stride = self.config["scale_factor_spatial"], self.config["scale_factor_temporal"]
        lap = self.config["lap_px"]
        batch, colours, frames, height, width = video_BCTHW.shape
        grid = lap or side
        if height % grid or width % grid or (frames - 1) % stride:
            raise UserError(
                f"A video of {frames} frames of {width}x{height} cannot be cut into patches",
                allowed=f"sides divisible by {grid}, {stride} k + 1 frames",
            )
        if lap:
            video_BCTHW = _scale_border_steps(video_BCTHW, 1.0 / _border_weights(lap))
        padded = torch.cat([video_BCTHW[:, :, :1].expand(-1, -1, stride - 1, -1, -1), video_BCTHW], dim=2)
        cut = padded.reshape(batch, colours, -1, stride, height // side, side, width // side, side)
        return cut.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)

    def encode(self, x: torch.Tensor, return_dict: bool = True) -> SimpleNamespace | tuple[_PointLatents]:
        """Returns an object whose ``latent_dist`` gives latents ``[B, Z, F, H, W]`` of a video ``[B, 3, T, h, w]``."""
        latents = (self._patches(x) - self.mean_D) @ self.basis_ZD.T
        distribution = _PointLatents(latents.permute(0, 4, 1, 2, 3))
        return SimpleNamespace(latent_dist=distribution) if return_dict else (distribution,)

    def decode(self, z: torch.Tensor, return_dict: bool = True) -> DecoderOutput | tuple[torch.Tensor]:
        """Returns the video ``[B, 3, T, h, w]`` of latents ``[B, Z, F, H, W]``, clamped to [-1, 1]."""
        side, stride = self.config["scale_factor_spatial"], self.config["scale_factor_temporal"]
        patches = z.permute(0, 2, 3, 4, 1) @ self.basis_ZD + self.mean_D
        cut = patches.unflatten(4, (3, stride, side, side)).permute(0, 4, 1, 5, 2, 6, 3, 7)
        video = cut.flatten(6, 7).flatten(4, 5).flatten(2, 3)[:, :, stride - 1 :]
        if self.config["lap_px"]:
            video = _scale_border_steps(video, _border_weights(self.config["lap_px"]))
        video = video.clamp(-1, 1)
        return DecoderOutput(sample=video) if return_dict else (video,)

    @torch.no_grad()
    def fit(self, videos: Sequence[torch.Tensor], max_patches: int = 60_000, seed: int = 0) -> float:
        """Fits the basis to videos ``[3, T, h, w]`` in [-1, 1] and returns the share of variance it keeps.

        Args:
            videos: Read once, one after the other; a few patches of each are kept.
            max_patches: Patches kept of all of them, if that leaves one of each.
            seed: Seed of the choice of patches.
        """
        generator = torch.Generator().manual_seed(seed)
        per_video = max(1, max_patches // len(videos))
        # One block for all: many small ones between the large ones of videos would leave gaps that nothing fills.
        kept_MD = torch.empty(len(videos) * per_video, len(self.mean_D), dtype=torch.float64)
        count = 0
        for video in videos:
            patches_MD = self._patches(video[None]).flatten(0, 3)
            picked_MD = patches_MD[torch.randperm(len(patches_MD), generator=generator)[:per_video]]
            kept_MD[count : count + len(picked_MD)] = picked_MD
            count += len(picked_MD)
        kept_MD = kept_MD[:count]
        mean = kept_MD.mean(0)
        kept_MD -= mean
        covariance = kept_MD.T @ kept_MD / count
        variance, vectors = torch.linalg.eigh(covariance)
        basis = vectors.flip(1)[:, : self.config["z_dim"]].T
        self.mean_D.copy_(mean)
        self.basis_ZD.copy_(basis)
        kept = variance.flip(0)[: self.config["z_dim"]].clamp_min(0)
        # One scale for all channels: an error in latents is then an error in pixels, and fine detail, which has
        # little variance, is decided at low noise, as in pixel diffusion. Whitened channels weigh noise like content.
        scale = max(math.sqrt(float(kept.mean())), 1e-3)
        self.register_to_config(latents_mean=[0.0] * len(kept), latents_std=[scale] * len(kept))
        return float(kept.sum() / variance.clamp_min(0).sum().clamp_min(1e-12))


def _border_weights(lap_px: int) -> torch.Tensor:
    """How much of the step across a border is kept, by distance from it, ``[lap_px / 2]``; 1 far away."""
    distance = (torch.arange(lap_px // 2) + 0.5) / (lap_px // 2)
    return KEPT_STEP + (1 - KEPT_STEP) * distance


def _scale_border_steps(video_BCTHW: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Returns frames whose pixel pairs, mirrored at the borders of blocks, differ ``weights`` times as much as before.

    A lapped biorthogonal transform in its time-domain form (Tran, Liang and Tu 2003) with a diagonal matrix: its
    inverse is the same with inverse weights, and constant colour stays as it is.
    """
    for axis in (3, 4):
        half = len(weights)
        count = video_BCTHW.shape[axis] // (2 * half)
        if count < 2:
            continue
        # Blocks counted from the middle of one to the middle of the next, so that a border lies in each centre.
        inner = video_BCTHW.narrow(axis, half, 2 * half * (count - 1)).unflatten(axis, (count - 1, 2 * half))
        factor = torch.cat([weights.flip(0), weights]).to(video_BCTHW)
        factor = factor.view(-1, *[1] * (video_BCTHW.ndim - axis - 1))
        mirrored = inner.flip(axis + 1)
        lapped = (inner + mirrored) / 2 + factor * (inner - mirrored) / 2
        parts = [video_BCTHW.narrow(axis, 0, half), lapped.flatten(axis, axis + 1)]
        parts.append(video_BCTHW.narrow(axis, video_BCTHW.shape[axis] - half, half))
        video_BCTHW = torch.cat(parts, dim=axis)
    return video_BCTHW


def is_causal_length(num_frames: int, time_stride: int) -> bool:
    """Whether a number of frames is ``s k + 1``, what a causal video autoencoder codes without padding."""
    return num_frames >= 1 and (num_frames - 1) % time_stride == 0
