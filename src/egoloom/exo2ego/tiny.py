"""A tiny EgoX from real classes: stock ``WanTransformer3DModel`` with a small autoencoder, sizes from one config."""

import math
from typing import Any, Literal

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from pydantic import BaseModel, ConfigDict, Field

from egoloom.exo2ego.attention import GeometryGuidance
from egoloom.exo2ego.codec import PatchAutoencoder
from egoloom.exo2ego.pipeline import EgoXPipeline
from egoloom.exo2ego.schedule import build_scheduler

LatentKind = Literal["linear", "pixels", "wan"]


class TinyConfig(BaseModel):
    """Sizes of the tiny generator.

    Args:
        latent: ``linear`` principal components of patches, ``pixels`` space-to-depth, ``wan`` a small AutoencoderKLWan.
        z_dim: Latent channels (ignored for ``pixels``).
        spatial_stride: Pixels per latent cell; a power of two.
        time_stride: Frames per latent frame; a power of two.
        lap_px: Side of the blocks of linear latents whose borders are lapped; 0 laps none.
        vae_base_dim: Width of the Wan autoencoder's first level.
        num_layers: Transformer blocks.
        num_heads: Attention heads.
        head_dim: Channels of a head; divisible by 4 with room for three rotary axes.
        ffn_dim: Hidden width of the feed-forward layers.
        text_dim: Channels of caption embeddings.
        text_length: Text tokens.
        prediction: What the network's output means.
        use_hole_mask: Feeds the prior's coverage in the mask of the ego columns.
        fill_prior_holes: Closes holes of the prior with surrounding colour before coding.
        clean_exo: Shows clean exo latents at every step; False is an ablation.
        geometry_mode: Mode of geometry-guided attention.
        geometry_scale: The factor lambda, the same in training and generation.
        solver: ``unipc`` or ``euler``.
        flow_shift: Shift of the noise levels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    latent: LatentKind = "linear"
    z_dim: int = Field(default=48, ge=1)
    spatial_stride: int = Field(default=4, ge=1)
    time_stride: int = Field(default=4, ge=1)
    lap_px: int = Field(default=8, ge=0)
    vae_base_dim: int = Field(default=16, ge=4)
    num_layers: int = Field(default=4, ge=1)
    num_heads: int = Field(default=3, ge=1)
    head_dim: int = Field(default=64, ge=12)
    ffn_dim: int = Field(default=768, ge=8)
    text_dim: int = Field(default=16, ge=1)
    text_length: int = Field(default=1, ge=1)
    prediction: Literal["velocity", "sample", "residual"] = "residual"
    use_hole_mask: bool = True
    fill_prior_holes: bool = True
    clean_exo: bool = True
    geometry_mode: str = "cached"
    geometry_scale: float = 1.0
    solver: str = "euler"
    flow_shift: float = Field(default=1.0, gt=0)


def build_tiny_vae(config: TinyConfig) -> AutoencoderKLWan | PatchAutoencoder:
    """Returns an untrained autoencoder."""
    if config.latent == "wan":
        levels = int(math.log2(config.spatial_stride))
        temporal = int(math.log2(config.time_stride))
        return AutoencoderKLWan(
            base_dim=config.vae_base_dim,
            z_dim=config.z_dim,
            dim_mult=[1, 2, 4, 4, 4][: levels + 1],
            num_res_blocks=1,
            temperal_downsample=[False] * (levels - temporal) + [True] * temporal,
            latents_mean=[0.0] * config.z_dim,
            latents_std=[1.0] * config.z_dim,
            scale_factor_temporal=config.time_stride,
            scale_factor_spatial=config.spatial_stride,
        )
    patch = 3 * config.time_stride * config.spatial_stride**2
    return PatchAutoencoder(
        z_dim=patch if config.latent == "pixels" else min(config.z_dim, patch),
        scale_factor_spatial=config.spatial_stride,
        scale_factor_temporal=config.time_stride,
        lap_px=config.lap_px,
    )


def tiny_transformer_config(config: TinyConfig, z_dim: int) -> dict[str, Any]:
    """Returns the arguments of a tiny ``WanTransformer3DModel`` for an autoencoder with ``z_dim`` channels."""
    return {
        "patch_size": (1, 2, 2),
        "num_attention_heads": config.num_heads,
        "attention_head_dim": config.head_dim,
        "in_channels": 2 * z_dim + config.time_stride,
        "out_channels": z_dim,
        "text_dim": config.text_dim,
        "freq_dim": 64,
        "ffn_dim": config.ffn_dim,
        "num_layers": config.num_layers,
        "rope_max_seq_len": 256,
    }


def build_tiny_pipeline(config: TinyConfig | None = None, *, vae: Any = None, seed: int = 0) -> EgoXPipeline:
    """Returns a tiny pipeline with random transformer weights.

    Args:
        config: Sizes.
        vae: A trained autoencoder; an untrained one is built if absent.
        seed: Seed of the weights.
    """
    config = config or TinyConfig()
    devices: list[int] = []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        vae = vae if vae is not None else build_tiny_vae(config)
        transformer = WanTransformer3DModel(**tiny_transformer_config(config, vae.config["z_dim"])).eval()
    if config.prediction == "residual":
        # The untrained network then returns the prior itself.
        torch.nn.init.zeros_(transformer.proj_out.weight)
        torch.nn.init.zeros_(transformer.proj_out.bias)
    guidance = GeometryGuidance(
        mode=config.geometry_mode,
        scale_training=config.geometry_scale,
        scale_inference=config.geometry_scale,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
    )
    return EgoXPipeline(
        vae=vae,
        transformer=transformer,
        scheduler=build_scheduler(config.solver, config.flow_shift),
        guidance=guidance,
        prediction=config.prediction,
        use_hole_mask=config.use_hole_mask,
        fill_prior_holes=config.fill_prior_holes,
        clean_exo=config.clean_exo,
        text_length=config.text_length,
    )
