"""Configuration of generator and autoencoder training."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from egoloom.exo2ego.pixel_loss import PixelLoss


class GeneratorTraining(BaseModel):
    """How the generator is trained. The defaults of optimiser and LoRA are those of the reference.

    Args:
        num_steps: Optimiser steps.
        max_seconds: Stops earlier when this much time has passed; such a run is not exactly repeatable.
        batch_size: Clips per step and process.
        learning_rate: Peak learning rate.
        schedule: After warm-up ``constant`` (reference), ``cosine`` to zero, or ``wsd``: stable, then down to zero over
            the last quarter, so that a run can be made longer or shorter until its decay begins.
        warmup_steps: Steps of linear warm-up.
        weight_decay: AdamW's.
        gradient_clip: Largest gradient norm.
        lora_rank: Rank of a LoRA on the reference's targets (both attentions); None trains all weights.
        lora_alpha: Its alpha; equal to the rank if absent.
        ema_decay: Decay of an average of the weights, which the finished pipeline then carries; 0 keeps none.
        caption_dropout: Share of steps with empty captions, so that guidance has something to compare with.
        noise_bias: Exponent b of the noise levels ``u^(1/b)``: 1 uniform (reference), above 1 noisier.
        pixels: Terms on decoded pixels that are added to the loss on latents; the reference has none.
        window_frames: Cuts longer clips into windows of so many frames.
        geometry: Uses geometry-guided attention where samples have geometry.
        gradient_checkpointing: Recomputes blocks in the backward pass.
        mixed_precision: ``no``, ``bf16`` or ``fp16``.
        checkpoint_every: Steps between checkpoints, where a run folder is given.
        seed: Seed of batches, noise and LoRA.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_steps: int = Field(default=400, ge=1)
    max_seconds: float | None = Field(default=None, gt=0)
    batch_size: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=2e-5, gt=0)
    schedule: Literal["constant", "cosine", "wsd"] = "constant"
    warmup_steps: int = Field(default=100, ge=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    gradient_clip: float = Field(default=1.0, gt=0)
    lora_rank: int | None = Field(default=256, ge=1)
    lora_alpha: int | None = None
    ema_decay: float = Field(default=0.0, ge=0, lt=1)
    caption_dropout: float = Field(default=0.1, ge=0, le=1)
    noise_bias: float = Field(default=1.0, gt=0)
    pixels: PixelLoss | None = None
    window_frames: int | None = None
    geometry: bool = True
    gradient_checkpointing: bool = False
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    checkpoint_every: int = Field(default=250, ge=1)
    seed: int = 42


class AutoencoderTraining(BaseModel):
    """How a small Wan autoencoder is trained; linear latents need none of it.

    Args:
        num_steps: Optimiser steps.
        max_seconds: Stops earlier when this much time has passed.
        batch_size: Clips per step.
        crop_px: Side of random crops.
        num_frames: Frames of random windows, ``s k + 1``.
        learning_rate: Peak learning rate.
        kl_weight: Weight of the divergence from a unit normal.
        seed: Seed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_steps: int = Field(default=400, ge=1)
    max_seconds: float | None = Field(default=None, gt=0)
    batch_size: int = Field(default=4, ge=1)
    crop_px: int = Field(default=32, ge=8)
    num_frames: int = Field(default=9, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0)
    kl_weight: float = Field(default=1e-5, ge=0)
    seed: int = 0


# Full-weights training of the tiny model within a few minutes on two cores.
TINY_GENERATOR_TRAINING = GeneratorTraining(
    num_steps=600,
    batch_size=4,
    learning_rate=1.5e-3,
    schedule="cosine",
    warmup_steps=30,
    weight_decay=0.01,
    lora_rank=None,
    ema_decay=0.98,
    caption_dropout=0.0,
    noise_bias=2.0,
)
# LoRA on the tiny model; a higher rate than at full size, because its matrices are small.
TINY_LORA_TRAINING = GeneratorTraining(
    num_steps=200, batch_size=2, learning_rate=1e-3, warmup_steps=10, lora_rank=8, caption_dropout=0.0, noise_bias=2.0
)
