"""What makes ego clips: a trained pipeline with its LoRA, the one that ships, or plain inpainting of the prior.

The pipeline is imported when one is opened: diffusers takes seconds, and inpainting needs none of it.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from egoloom.errors import UserError
from egoloom.exo2ego.samples import GeneratorSample

if TYPE_CHECKING:
    from egoloom.exo2ego.pipeline import EgoXPipeline

LORA_FOLDER = "lora"
INPAINTING = "inpainting"


class Inpainting:
    """The simple method that a generator must beat: the ego prior with its holes inpainted, no network."""

    def __call__(self, sample: GeneratorSample) -> np.ndarray:
        """Returns uint8 frames ``[T, 3, H, W]``."""
        assert sample.hole_THW is not None
        return inpaint(sample.prior_TCHW.numpy(), sample.hole_THW.numpy())


def inpaint(prior_TCHW: np.ndarray, hole_THW: np.ndarray) -> np.ndarray:
    """Fills the holes of a prior with OpenCV's inpainting (Telea 2004)."""
    frames = []
    for frame, hole in zip(prior_TCHW, hole_THW, strict=True):
        picture = np.ascontiguousarray(frame.transpose(1, 2, 0))
        frames.append(cv2.inpaint(picture, hole.astype(np.uint8) * 255, 3, cv2.INPAINT_TELEA).transpose(2, 0, 1))
    return np.stack(frames)


def open_generator(name: str | Path) -> "tuple[EgoXPipeline | Inpainting, str]":
    """Returns a generator by name or folder, and the name that its clips carry.

    Args:
        name: ``builtin`` for the one that ships, ``inpainting`` for the prior with holes filled, or a folder.

    Raises:
        UserError: If there is no such generator.
    """
    if str(name) == INPAINTING:
        return Inpainting(), generator_name(name)
    if str(name) == "builtin":
        from egoloom.exo2ego import shipped

        return shipped.load_generator(), generator_name(name)
    return load_generator(_pipeline_folder(Path(name)))


def generator_name(name: str | Path) -> str:
    """Returns the name that a generator's clips carry, from its files alone: nothing is loaded.

    Args:
        name: See `open_generator`.

    Raises:
        UserError: If there is no such generator.
    """
    if str(name) == INPAINTING:
        return "prior-inpainted"
    if str(name) == "builtin":
        from egoloom.exo2ego import shipped

        return f"egox-builtin-{weights_hash(shipped.SHIPPED)}"
    folder = _pipeline_folder(Path(name))
    return f"egox-{weights_hash(folder, folder.parent / LORA_FOLDER)}"


def load_generator(folder: Path) -> "tuple[EgoXPipeline, str]":
    """Returns a pipeline with the LoRA that lies in ``lora`` beside its folder (if any), and its name with a hash.

    Raises:
        UserError: If the folder holds no pipeline.
    """
    folder, name = _pipeline_folder(folder), generator_name(folder)
    from diffusers.utils import logging as diffusers_logging

    from egoloom.exo2ego.pipeline import EgoXPipeline

    # The loader's own bars and remarks about annotations say nothing to a user.
    diffusers_logging.disable_progress_bar()
    diffusers_logging.set_verbosity_error()
    pipeline = EgoXPipeline.from_pretrained(folder, dtype=torch.float32)
    lora = folder.parent / LORA_FOLDER
    if lora.is_dir():
        pipeline.load_lora(lora)
    return pipeline, name


def _pipeline_folder(folder: Path) -> Path:
    """The pipeline itself: the folder, or ``model`` in a run's folder."""
    found = folder / "model" if (folder / "model" / "model_index.json").is_file() else folder
    if not (found / "model_index.json").is_file():
        raise UserError(
            f"{folder} holds no generator: model_index.json is missing",
            allowed="builtin, inpainting, or a folder of a trained generator",
            fix="egoloom demo trains one into runs/demo/exo2ego/base",
        )
    return found


def weights_hash(*folders: Path) -> str:
    """Returns the first 12 digits of a hash of all safetensors below the folders."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.glob("**/*.safetensors")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
