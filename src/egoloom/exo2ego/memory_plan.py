"""What will be resident when: a memory plan for a GPU of given size, from the sizes of the real configuration.

Weights are counted on the meta device from the components' own classes. Activations follow from the tensors that live
at the same time in the three heaviest phases of a Wan block, and in the widest layer of the autoencoder.

Legend: N tokens, D inner width, e bytes of an element.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from pydantic import BaseModel, ConfigDict, Field

from egoloom.errors import UserError
from egoloom.exo2ego.guided_attention import MAX_BLOCK_ROWS
from egoloom.exo2ego.layout import CanvasLayout

GIGABYTE = 1e9
# Wan-AI/Wan2.1-I2V-14B-480P-Diffusers, transformer/config.json.
WAN_14B: dict[str, Any] = {
    "num_attention_heads": 40,
    "attention_head_dim": 128,
    "in_channels": 36,
    "out_channels": 16,
    "ffn_dim": 13824,
    "num_layers": 40,
    "image_dim": 1280,
    "added_kv_proj_dim": 5120,
}
# UMT5-xxl and CLIP ViT-H/14 (vision) as the same repository uses them.
UMT5_XXL: dict[str, Any] = {
    "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "vocab_size": 256384,
    "feed_forward_proj": "gated-gelu",
}  # fmt: skip
CLIP_VIT_H: dict[str, Any] = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16,
    "image_size": 224, "patch_size": 14,
}  # fmt: skip
# What CUDA, cuDNN and the allocator keep besides tensors.
RUNTIME_GB = 1.0
BYTES = {"float32": 4.0, "bfloat16": 2.0, "int8": 1.0, "nf4": 0.5625}


class PlanConfig(BaseModel):
    """The clip and the budget that a plan is for.

    Args:
        num_frames: Pixel frames.
        height: Height of both views, px.
        exo_width: Width of the exo view, px.
        ego_width: Width of the ego view, px.
        budget_gb: Memory of the device.
        lora_rank: Rank of the LoRA; 0 means none.
        mode: Mode of geometry-guided attention.
        keep_exo: Keys and values of exo tokens are computed once a clip and kept, for both branches of guidance.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_frames: int = Field(default=49, ge=1)
    height: int = Field(default=448, ge=16)
    exo_width: int = Field(default=784, ge=16)
    ego_width: int = Field(default=448, ge=16)
    budget_gb: float = Field(default=24.0, gt=0)
    lora_rank: int = Field(default=256, ge=0)
    mode: str = "blocks"
    keep_exo: bool = False


@dataclass(frozen=True)
class Stage:
    """One stage of a generation.

    Args:
        name: What happens.
        resident: Components on the device.
        weights_gb: Their weights.
        activations_gb: The largest sum of temporary tensors.
    """

    name: str
    resident: str
    weights_gb: float
    activations_gb: float

    @property
    def total_gb(self) -> float:
        """Weights, temporary tensors and the runtime."""
        return self.weights_gb + self.activations_gb + RUNTIME_GB


@dataclass(frozen=True)
class MemoryPlan:
    """Stages under one strategy, in order."""

    strategy: str
    settings: tuple[str, ...]
    stages: tuple[Stage, ...]
    budget_gb: float

    @property
    def peak_gb(self) -> float:
        """The largest stage."""
        return max(stage.total_gb for stage in self.stages)

    @property
    def fits(self) -> bool:
        """Whether every stage fits the budget."""
        return self.peak_gb <= self.budget_gb

    def to_dict(self) -> dict[str, object]:
        """Returns plain values for ``--json``."""
        stages = [{**vars(stage), "total_gb": stage.total_gb} for stage in self.stages]
        head = {"strategy": self.strategy, "settings": list(self.settings), "budget_gb": self.budget_gb}
        return {**head, "peak_gb": self.peak_gb, "fits": self.fits, "stages": stages}


def count_parameters(build: Callable[[], torch.nn.Module]) -> int:
    """Returns the number of weights of a module without allocating it."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build().parameters())


@cache
def component_parameters() -> dict[str, int]:
    """Returns the weights of every component of the 14B pipeline."""
    from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

    return {
        "transformer": count_parameters(lambda: WanTransformer3DModel(**WAN_14B)),
        "vae": count_parameters(AutoencoderKLWan),
        "text_encoder": count_parameters(lambda: UMT5EncoderModel(UMT5Config(**UMT5_XXL))),
        "image_encoder": count_parameters(lambda: CLIPVisionModel(CLIPVisionConfig(**CLIP_VIT_H))),
    }


def lora_parameters(config: dict[str, Any], rank: int) -> int:
    """Returns the weights of a LoRA on q, k, v and output of both attentions of every block."""
    width = config["num_attention_heads"] * config["attention_head_dim"]
    return config["num_layers"] * 2 * 4 * 2 * rank * width


def transformer_activation_bytes(
    config: dict[str, Any], layout: CanvasLayout, *, element: int = 2, mode: str = "blocks", batch: int = 1
) -> int:
    """Returns the largest sum of temporary tensors in a forward pass without gradients.

    Phases of a block, each with the residual stream alive: normalisation in float32; rotation of the keys while
    queries and values wait (products with the float32 tables are float32); attention with its output and the mask of
    its mode; the two wide tensors around the activation function, with the result of the cross-attention before it.
    """
    tokens, ego = layout.num_tokens, layout.num_ego_tokens
    width = config["num_attention_heads"] * config["attention_head_dim"]
    normalise = width * (element + 3 * 4)
    rotate = width * (5 * element + 2 * 4)
    attention = width * (6 * element)
    feed_forward = 3 * width * element + 2 * config["ffn_dim"] * element
    mask_rows = {"blocks": min(MAX_BLOCK_ROWS, layout.ego_tokens_per_frame), "cached": ego}.get(mode, 0)
    mask = mask_rows * tokens * element
    # The exo rows' result lives beside the whole output until it is copied.
    attention_bytes = attention * tokens + layout.num_exo_tokens * width * element + (0 if mode == "cached" else mask)
    block = max(normalise * tokens, rotate * tokens, attention_bytes, feed_forward * tokens)
    kept = mask if mode == "cached" else 0
    tables = 2 * tokens * config["attention_head_dim"] * 4
    return batch * (block + kept) + tables


def exo_memory_bytes(config: dict[str, Any], layout: CanvasLayout, *, element: int = 2, branches: int = 2) -> int:
    """Returns the size of the kept keys and values of all exo tokens in all layers."""
    width = config["num_attention_heads"] * config["attention_head_dim"]
    return branches * config["num_layers"] * 2 * layout.num_exo_tokens * width * element


def vae_activation_bytes(base_dim: int, height: int, width: int, *, element: int = 2, frames: int = 4) -> int:
    """Returns the largest sum of temporary tensors of a Wan autoencoder, which works on four frames at a time.

    Widest point: the last level of the decoder at full size, where a residual block holds its input, the normalised
    copy, the padded input of a causal convolution and its result, and the caches of its convolutions.
    """
    pixel_channels = base_dim * height * width
    return int(pixel_channels * element * (4 * frames + 6 * 2))


def make_plan(config: PlanConfig) -> MemoryPlan:
    """Returns the first strategy, from the quickest to the smallest, that fits the budget (or the smallest).

    Raises:
        UserError: If the canvas cannot be cut into patches.
    """
    plans = [_plan(config, *strategy) for strategy in _STRATEGIES]
    return next((plan for plan in plans if plan.fits), plans[-1])


def all_plans(config: PlanConfig) -> list[MemoryPlan]:
    """Returns the plan of every strategy."""
    return [_plan(config, *strategy) for strategy in _STRATEGIES]


# name, everything resident, bytes of transformer weights, blocks on the device (None: all), tiled autoencoder
_STRATEGIES: tuple[tuple[str, bool, str, int | None, bool], ...] = (
    ("all components resident", True, "bfloat16", None, False),
    ("one component at a time", False, "bfloat16", None, False),
    ("8-bit base, LoRA unfused", False, "int8", None, True),
    ("4-bit base, LoRA unfused", False, "nf4", None, True),
    ("blocks streamed from host memory", False, "bfloat16", 2, True),
)
VAE_TILE_PX = 256


def _plan(config: PlanConfig, name: str, together: bool, dtype: str, blocks: int | None, tiled: bool) -> MemoryPlan:
    layout = _layout(config)
    counts = component_parameters()
    weights = {key: count * 2.0 / GIGABYTE for key, count in counts.items()}
    quantised = dtype in {"int8", "nf4"}
    weights["transformer"] = counts["transformer"] * BYTES[dtype] / GIGABYTE
    if quantised and config.lora_rank:
        # A LoRA cannot be fused into quantised weights; elsewhere it is fused and costs nothing.
        weights["transformer"] += lora_parameters(WAN_14B, config.lora_rank) * 2.0 / GIGABYTE
    if blocks is not None:
        weights["transformer"] *= (blocks + 1) / WAN_14B["num_layers"]
    side = (min(config.height, VAE_TILE_PX), VAE_TILE_PX) if tiled else (config.height, config.exo_width)
    coding = vae_activation_bytes(96, *side) / GIGABYTE
    ego_side = (side[0], VAE_TILE_PX if tiled else config.ego_width)
    decoding = vae_activation_bytes(96, *ego_side) / GIGABYTE
    denoising = transformer_activation_bytes(WAN_14B, layout, mode=config.mode) / GIGABYTE
    if config.keep_exo:
        # The pass that fills the memory has fewer tokens than the canvas, whose tensors are counted here.
        denoising += exo_memory_bytes(WAN_14B, layout) / GIGABYTE

    def on_device(*names: str) -> tuple[str, float]:
        present = tuple(weights) if together else names
        return ", ".join(present), sum(weights[key] for key in present)

    stages = (
        Stage("caption (once)" if together else "caption (once, then dropped)", *on_device("text_encoder"), 0.1),
        Stage("first exo frame", *on_device("image_encoder"), 0.1),
        Stage("code exo and prior", *on_device("vae"), coding),
        Stage("denoise", *on_device("transformer"), denoising),
        Stage("decode the ego half only", *on_device("vae"), decoding),
    )
    if blocks is not None:
        stages = (Stage("caption (layers streamed)", "text_encoder", 2.2, 0.1), *stages[1:])
    elif quantised and not together:
        stages = (Stage("caption (8-bit)", "text_encoder", counts["text_encoder"] / GIGABYTE, 0.1), *stages[1:])
    settings = _settings(dtype, together, blocks, tiled, config.mode)
    if config.keep_exo:
        share = layout.num_ego_tokens / layout.num_tokens
        settings.append(f"exo keys and values kept ({share:.0%} of the tokens a step; for weights trained so)")
    return MemoryPlan(name, tuple(settings), stages, config.budget_gb)


_HOW = {
    "int8": "8-bit: transformer.enable_layerwise_casting(torch.float8_e4m3fn, torch.bfloat16), then load_lora",
    "nf4": "4-bit: WanTransformer3DModel.from_pretrained(quantization_config=BitsAndBytesConfig(...)), then load_lora",
}


def _settings(dtype: str, together: bool, blocks: int | None, tiled: bool, mode: str) -> list[str]:
    settings = [f"transformer weights {_HOW.get(dtype, dtype)}", f"geometry-guided attention: {mode}"]
    if not together:
        settings.append("pipeline.enable_model_cpu_offload()")
    if blocks is not None:
        settings.append(f"pipeline.transformer.enable_group_offload(..., num_blocks_per_group={blocks})")
    if tiled:
        settings.append("pipeline.vae.enable_tiling()")
    return settings


def _layout(config: PlanConfig) -> CanvasLayout:
    if (config.num_frames - 1) % 4:
        raise UserError(f"A clip of {config.num_frames} frames cannot be coded at once", allowed="4 k + 1 frames")
    for name, value in (("height", config.height), ("exo width", config.exo_width), ("ego width", config.ego_width)):
        if value % 16:
            raise UserError(f"The {name} of {value} px is not divisible by 16", allowed="multiples of 16")
    return CanvasLayout(
        (config.num_frames - 1) // 4 + 1, config.height // 8, config.exo_width // 8, config.ego_width // 8
    )


def format_plan(plan: MemoryPlan) -> str:
    """Returns a plan as a table."""
    lines = [f"{plan.budget_gb:g} GB: {plan.strategy} ({'fits' if plan.fits else 'does NOT fit'})"]
    lines += [f"  {setting}" for setting in plan.settings]
    lines.append(f"  {'stage':30} {'weights':>9} {'tensors':>9} {'total':>9}   resident")
    lines += [
        f"  {stage.name:30} {stage.weights_gb:6.1f} GB {stage.activations_gb:6.2f} GB {stage.total_gb:6.1f} GB"
        f"   {stage.resident}"
        for stage in plan.stages
    ]
    return "\n".join(lines)
