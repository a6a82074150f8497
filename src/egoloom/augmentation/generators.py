"""Generators on disk: a pipeline folder with its LoRA beside it, and the name that its clips carry."""

import hashlib
from pathlib import Path

import torch
from diffusers.utils import logging as diffusers_logging

from egoloom.errors import UserError
from egoloom.exo2ego.pipeline import EgoXPipeline

LORA_FOLDER = "lora"


def load_generator(folder: Path) -> tuple[EgoXPipeline, str]:
    """Returns a pipeline with the LoRA that lies in ``lora`` beside its folder (if any), and its name with a hash.

    Raises:
        UserError: If the folder holds no pipeline.
    """
    if not (folder / "model_index.json").is_file():
        raise UserError(
            f"{folder} holds no generator: model_index.json is missing",
            fix="egoloom demo trains one into runs/demo/exo2ego/base",
        )
    # The loader's own bars and remarks about annotations say nothing to a user.
    diffusers_logging.disable_progress_bar()
    diffusers_logging.set_verbosity_error()
    pipeline = EgoXPipeline.from_pretrained(folder, dtype=torch.float32)
    lora = folder.parent / LORA_FOLDER
    if lora.is_dir():
        pipeline.load_lora(lora)
    return pipeline, f"egox-{weights_hash(folder, lora)}"


def weights_hash(*folders: Path) -> str:
    """Returns the first 12 digits of a hash of all safetensors below the folders."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.glob("**/*.safetensors")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
