"""Perceptual distance without torchvision: shift-tolerant LPIPS (ST-LPIPS, arXiv 2207.13686) on its AlexNet trunk.

The wheel ``stlpips-pytorch`` carries trunk and linear heads, so this works offline; of the wheel only the weights are
read. Values are not those of the original LPIPS (whose trunk no wheel carries) and must be labelled ST-LPIPS.

Legend: N frames, C channels, H rows, W columns.
"""

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from egoloom.errors import UserError

PACKAGE = "stlpips_pytorch"
WEIGHTS = Path("weights") / "vST0.0" / "alex_shift_tolerant.pth"
CONVOLUTIONS = ("net.slice1.0", "net.slice2.5", "net.slice3.9", "net.slice4.11", "net.slice5.13")
HEADS = tuple(f"lin{index}.model.1.weight" for index in range(5))
# Mean and deviation of ImageNet's colours for pixels in [-1, 1], as in LPIPS 0.1.
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
MIN_SIDE_PX = 32


class ShiftTolerantLpips:
    """ST-LPIPS with an AlexNet trunk: strides are taken by blurred pooling, so that a shift by a pixel costs little.

    Args:
        weights: Tensors by the names of the published file.
    """

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        self.weights = weights

    @torch.no_grad()
    def __call__(self, ours_N3HW: torch.Tensor, theirs_N3HW: torch.Tensor) -> torch.Tensor:
        """Returns the distance of each pair of frames ``[N]``; pixels are in [-1, 1]."""
        distance = torch.zeros(len(ours_N3HW))
        features = zip(self._features(ours_N3HW), self._features(theirs_N3HW), HEADS, strict=True)
        for ours, theirs, head in features:
            squares = (_unit(ours) - _unit(theirs)).square()
            distance = distance + F.conv2d(squares, self.weights[head]).mean(dim=(1, 2, 3))
        return distance

    def _features(self, frames_N3HW: torch.Tensor) -> list[torch.Tensor]:
        if min(frames_N3HW.shape[2:]) < MIN_SIDE_PX:
            raise UserError(
                f"Frames of {frames_N3HW.shape[3]}x{frames_N3HW.shape[2]} are too small for LPIPS",
                allowed=f"at least {MIN_SIDE_PX} px a side",
            )
        shift, scale = (torch.tensor(values).view(1, 3, 1, 1) for values in (SHIFT, SCALE))
        x = (frames_N3HW.float() - shift) / scale
        x = F.relu(_blurred_half(self._convolve(x, 0, padding=2)))
        features = [x]
        for index, padding in ((1, 2), (2, 1)):
            x = _blurred_half(F.max_pool2d(x, 3, stride=1))
            x = F.relu(self._convolve(x, index, padding))
            features.append(x)
        for index in (3, 4):
            x = F.relu(self._convolve(x, index, padding=1))
            features.append(x)
        return features

    def _convolve(self, x: torch.Tensor, index: int, padding: int) -> torch.Tensor:
        name = CONVOLUTIONS[index]
        return F.conv2d(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], padding=padding)


def _blurred_half(x_NCHW: torch.Tensor) -> torch.Tensor:
    """Every second pixel after a blur with [1 2 1] / 4 in both directions."""
    line = x_NCHW.new_tensor([0.25, 0.5, 0.25])
    kernel = (line[:, None] * line).expand(x_NCHW.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(x_NCHW, (2, 2, 2, 2), mode="reflect"), kernel, stride=2, groups=x_NCHW.shape[1])


def _unit(x_NCHW: torch.Tensor) -> torch.Tensor:
    return x_NCHW / (x_NCHW.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)


def load_lpips() -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Returns ST-LPIPS: frames in [-1, 1], ``[N, 3, H, W]`` twice, to distances ``[N]``.

    Raises:
        UserError: If the wheel is not installed, or its weights are others.
    """
    found = importlib.util.find_spec(PACKAGE)
    path = Path(found.origin).parent / WEIGHTS if found is not None and found.origin else None
    if path is None or not path.is_file():
        raise UserError(
            "The weights of ST-LPIPS are not at hand",
            fix='pip install "egoloom[lpips]"',
        )
    # weights_only: tensors are read, no code that a pickle might name.
    weights = torch.load(path, map_location="cpu", weights_only=True)
    wanted = {name for stem in CONVOLUTIONS for name in (f"{stem}.weight", f"{stem}.bias")} | set(HEADS)
    missing = sorted(wanted - weights.keys())
    if missing or not all(math.isfinite(float(weights[name].sum())) for name in wanted):
        raise UserError(f"The weights in {path} are not those of ST-LPIPS on AlexNet; missing: {missing[:3]}")
    return ShiftTolerantLpips({name: weights[name] for name in wanted})
