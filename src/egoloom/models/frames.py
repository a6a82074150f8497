"""Normalisation of frame-like inputs; it lives inside the model so that no caller can forget it.

Shape letters: B batch, T frames, C channels, H height, W width.
"""

import torch
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
FLOW_MEAN = (128 / 255, 128 / 255, 0.0)
"""Maps grey 128, which means no motion, to zero."""
FLOW_STD = (0.25, 0.25, 1.0)


class FrameNormalisation(nn.Module):
    """Maps frames of 0..255, uint8 or float, to ``(x / 255 - mean) / std``.

    Args:
        mean: One value a channel, on the scale 0..1.
        std: One value a channel, on the scale 0..1.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        shape = (1, 1, len(mean), 1, 1)
        # Not persistent: the values are part of the configuration, and foreign checkpoints do not have them.
        scale = 1.0 / (255.0 * torch.tensor(std, dtype=torch.float64)).view(shape)
        offset = -255.0 * torch.tensor(mean, dtype=torch.float64).view(shape) * scale
        self.register_buffer("scale", scale.float(), persistent=False)
        self.register_buffer("offset", offset.float(), persistent=False)

    def forward(self, frames_BTCHW: Tensor) -> Tensor:
        """Returns normalised frames of the same shape in the buffers' floating-point type.

        Raises:
            ValueError: If the input is not ``[B, T, C, H, W]`` with the channels of the constructor.
        """
        offset: Tensor = self.get_buffer("offset")
        if frames_BTCHW.ndim != 5 or frames_BTCHW.shape[2] != offset.shape[2]:
            raise ValueError(f"Frames must be [B, T, {offset.shape[2]}, H, W], got {list(frames_BTCHW.shape)}")
        # One pass over the frames: on small networks reading them is a visible share of a training step.
        return torch.addcmul(offset, frames_BTCHW.to(offset.dtype), self.get_buffer("scale"))


def default_statistics(modality: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns (mean, std) on the scale 0..1 for ``"rgb"`` (ImageNet) or ``"flow"`` (no motion becomes zero)."""
    return (FLOW_MEAN, FLOW_STD) if modality == "flow" else (IMAGENET_MEAN, IMAGENET_STD)
