"""Monocular depth behind one interface: whatever network is at hand, out comes z-depth in metres or inverse depth.

Shape letters: T time, H, W rows and columns of the input frames.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F

from egoloom._optional import require_package
from egoloom.errors import UserError


class DepthNetwork(Protocol):
    """A monocular depth network."""

    kind: Literal["metric", "relative_inverse"]

    def depth(self, frames_TCHW: np.ndarray) -> np.ndarray:
        """float32 ``[T, H, W]``: metres for "metric", larger-is-nearer without unit for "relative_inverse"."""
        ...


class TransformersDepth:
    """Depth Anything and its kin from a local folder of ``transformers`` weights (safetensors).

    Args:
        folder: A folder with ``config.json``, ``preprocessor_config.json`` and ``model.safetensors``.
        kind: What the checkpoint puts out; read from its configuration (``depth_estimation_type``) where None.
        device: Where to run.

    Raises:
        UserError: If the folder is missing or holds no depth model. Nothing is downloaded.
    """

    def __init__(
        self, folder: Path | str, *, kind: Literal["metric", "relative_inverse"] | None = None, device: str = "cpu"
    ) -> None:
        folder = Path(folder)
        if not (folder / "config.json").is_file():
            raise UserError(
                f"There is no depth network at {folder}.", fix="give a local folder of transformers weights"
            )
        transformers: Any = require_package("transformers", extra="exo2ego")
        options = {"local_files_only": True}
        try:
            self._processor = transformers.AutoImageProcessor.from_pretrained(folder, use_fast=True, **options)
            self._model = transformers.AutoModelForDepthEstimation.from_pretrained(
                folder, use_safetensors=True, **options
            )
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{folder} holds no depth network that transformers can read: {error}") from error
        self._model = self._model.eval().to(device)
        self._device = device
        said = getattr(self._model.config, "depth_estimation_type", "relative")
        self.kind = kind or ("metric" if said == "metric" else "relative_inverse")

    @torch.inference_mode()
    def depth(self, frames_TCHW: np.ndarray, *, batch: int = 4) -> np.ndarray:
        """float32 ``[T, H, W]`` in the units of :attr:`kind`."""
        height, width = frames_TCHW.shape[-2:]
        out = []
        for start in range(0, len(frames_TCHW), batch):
            images = [frame.transpose(1, 2, 0) for frame in frames_TCHW[start : start + batch]]
            inputs = self._processor(images=images, return_tensors="pt").to(self._device)
            predicted = self._model(**inputs).predicted_depth[:, None].float()
            sized = F.interpolate(predicted, (height, width), mode="bicubic", align_corners=False)
            out.append(sized[:, 0].cpu().numpy())
        return np.concatenate(out)


@lru_cache(maxsize=1)
def _open_network(folder: str) -> TransformersDepth:
    return TransformersDepth(folder)


def network_depth_m(folder: Path, frames_TCHW: np.ndarray, range_m: tuple[float, float] | None) -> np.ndarray:
    """Returns depth in metres, float32 ``[T, H, W]``, whatever kind of depth the network gives.

    Raises:
        UserError: If there is no network, or it gives relative depth and no range was stated.
    """
    network = _open_network(str(folder))
    depth = network.depth(frames_TCHW)
    return depth if network.kind == "metric" else metric_from_relative(depth, range_m)


def metric_from_relative(inverse_THW: np.ndarray, range_m: tuple[float, float] | None) -> np.ndarray:
    """Returns metres from relative inverse depth: its 2nd and 98th percentile lie at the far and the near distance.

    Raises:
        UserError: If no sensible range was given; relative depth alone has neither scale nor offset.
    """
    if range_m is None or not 0 < range_m[0] < range_m[1]:
        raise UserError(
            f"The network gives relative depth, and the range is {range_m}",
            allowed="--depth-range NEAR FAR in metres, 0 < NEAR < FAR",
            fix="give the range, or a metric network",
        )
    near, far = range_m
    low, high = np.quantile(inverse_THW, [0.02, 0.98])
    share = np.clip((inverse_THW - low) / max(high - low, 1e-9), 0, 1)
    return (1 / (1 / far + share * (1 / near - 1 / far))).astype(np.float32)
