"""Reads the components of a Wan checkpoint in diffusers layout; optional parts may be absent."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

from egoloom.errors import UserError
from egoloom.exo2ego.attention import GeometryGuidance
from egoloom.exo2ego.schedule import build_scheduler

DEFAULT_FLOW_SHIFT = 3.0


def load_wan_components(folder: Path, torch_dtype: torch.dtype, geometry_scale: float) -> dict[str, Any]:
    """Returns the arguments of ``EgoXPipeline`` from a local Wan image-to-video folder; nothing is downloaded.

    Args:
        folder: The checkpoint.
        torch_dtype: Type of transformer and encoders.
        geometry_scale: The factor lambda in generation.

    Raises:
        UserError: If transformer or autoencoder are missing or cannot be read.
    """
    for name in ("transformer", "vae"):
        if not (folder / name / "config.json").is_file():
            raise UserError(
                f"{folder} holds no {name}",
                allowed="a local folder of Wan image-to-video weights in diffusers layout, with transformer/ and vae/",
            )
    transformer = WanTransformer3DModel.from_pretrained(folder / "transformer", dtype=torch_dtype)
    guidance = GeometryGuidance(
        mode="blocks",
        scale_training=1.0,
        scale_inference=geometry_scale,
        num_layers=transformer.config["num_layers"],
        num_heads=transformer.config["num_attention_heads"],
    )
    return {
        "vae": AutoencoderKLWan.from_pretrained(folder / "vae", dtype=torch.float32),
        "transformer": transformer,
        "scheduler": build_scheduler("unipc", _flow_shift(folder)),
        "guidance": guidance,
        **_optional_components(folder, torch_dtype),
    }


def _flow_shift(folder: Path) -> float:
    path = folder / "scheduler" / "scheduler_config.json"
    if not path.is_file():
        return DEFAULT_FLOW_SHIFT
    return float(json.loads(path.read_text()).get("flow_shift", DEFAULT_FLOW_SHIFT))


def _optional_components(folder: Path, torch_dtype: torch.dtype) -> dict[str, Any]:
    """Text and image encoders, where the folder has them."""
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPVisionModel, UMT5EncoderModel

    readers = {
        "tokenizer": lambda path: AutoTokenizer.from_pretrained(path),
        "text_encoder": lambda path: UMT5EncoderModel.from_pretrained(path, dtype=torch_dtype),
        "image_processor": lambda path: CLIPImageProcessor.from_pretrained(path),
        "image_encoder": lambda path: CLIPVisionModel.from_pretrained(path, dtype=torch_dtype),
    }
    return {name: read(folder / name) for name, read in readers.items() if (folder / name).is_dir()}
