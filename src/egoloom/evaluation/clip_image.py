"""CLIP-I: how alike two clips are to the image encoder of CLIP (arXiv 2103.00020), from weights that the caller has.

Legend: T frames, H rows, W columns, D embedding channels.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cosine_similarity

from egoloom._optional import require_package
from egoloom.errors import UserError

BATCH_FRAMES = 16


class ClipImageSimilarity:
    """Mean cosine similarity of the CLIP image embeddings of frames that belong together.

    Args:
        folder: Local folder of ``transformers`` weights of CLIP (``config.json``, ``preprocessor_config.json``,
            safetensors). The paper's reconstructions use ViT-B/32; values of different checkpoints cannot be compared.

    Raises:
        UserError: If there are no such weights. Nothing is downloaded.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "config.json").is_file():
            raise UserError(
                f"There are no weights of CLIP at {folder}",
                allowed="a folder with config.json, preprocessor_config.json and model.safetensors",
                fix="download a checkpoint such as CLIP ViT-B/32 in transformers format and give its folder",
            )
        transformers: Any = require_package("transformers", extra="exo2ego")
        try:
            # Read through PIL, so that torchvision is not needed and bicubic resizing is that of the original.
            self._processor = transformers.CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
            self._model = transformers.CLIPVisionModelWithProjection.from_pretrained(
                folder, local_files_only=True, use_safetensors=True
            ).eval()
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{folder} holds no CLIP that transformers can read: {error}") from error
        self.name = folder.name

    def __call__(self, ours_T3HW: np.ndarray, theirs_T3HW: np.ndarray) -> float:
        """Returns the mean similarity, 1 at best, of RGB ``uint8`` clips of equally many frames."""
        return float(cosine_similarity(self.embed(ours_T3HW), self.embed(theirs_T3HW), dim=1).mean())

    @torch.inference_mode()
    def embed(self, frames_T3HW: np.ndarray) -> torch.Tensor:
        """Returns embeddings ``[T, D]``."""
        parts = []
        for start in range(0, len(frames_T3HW), BATCH_FRAMES):
            images = [frame.transpose(1, 2, 0) for frame in frames_T3HW[start : start + BATCH_FRAMES]]
            inputs = self._processor(images=images, return_tensors="pt", input_data_format="channels_last")
            parts.append(self._model(**inputs).image_embeds)
        return torch.cat(parts)
