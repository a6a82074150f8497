"""What a loss on latents leaves out: sharpness, and the small region that matters most, the wearer's hands and arms.

A squared error alone is least where the picture is the mean of all that could be there, hence soft. The texture term
asks for the local strength of edges of the true frames wherever they lie, the gradient term for edges in their place.

Legend: B batch, T pixel frames, C = 3 colours, H rows, W columns; pixels are in [-1, 1].
"""

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch.nn.functional import avg_pool2d, pad

# Side of the neighbourhood whose edges are compared, and the strength below which edges are noise.
TEXTURE_SIDE_PX, TEXTURE_FLOOR = 5, 1e-2


class PixelLoss(BaseModel):
    """Weights of the terms on decoded pixels that are added to the loss on latents.

    Args:
        wearer: Squared error within the wearer's hands and arms, where their masks are known (mean over all pixels).
        gradients: Absolute error of the differences between neighbouring pixels.
        texture: Absolute error of the root mean square of these differences around each pixel.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    wearer: float = Field(default=0.0, ge=0)
    gradients: float = Field(default=0.0, ge=0)
    texture: float = Field(default=0.0, ge=0)

    def __call__(
        self, ours_BTCHW: torch.Tensor, truth_BTCHW: torch.Tensor, wearer_BTHW: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Returns the weighted sum of the terms.

        Args:
            ours_BTCHW: Decoded frames.
            truth_BTCHW: True frames.
            wearer_BTHW: 1 on the wearer's hands and arms; None where masks are unknown.
        """
        loss = ours_BTCHW.new_zeros(())
        if self.wearer and wearer_BTHW is not None:
            loss = loss + self.wearer * (wearer_BTHW[:, :, None] * (ours_BTCHW - truth_BTCHW).square()).mean()
        if self.gradients:
            error = (_differences(ours_BTCHW) - _differences(truth_BTCHW)).abs()
            loss = loss + self.gradients * 2 * error.mean()
        if self.texture:
            error = (texture_strength(ours_BTCHW) - texture_strength(truth_BTCHW)).abs()
            loss = loss + self.texture * error.mean()
        return loss


def texture_strength(frames_BTCHW: torch.Tensor) -> torch.Tensor:
    """Returns the root mean square of pixel differences around each pixel, ``[B T, 1, H, W]``."""
    squares = _differences(frames_BTCHW).square().sum(0).flatten(0, 1).mean(1, keepdim=True)
    near = avg_pool2d(squares, TEXTURE_SIDE_PX, 1, TEXTURE_SIDE_PX // 2, count_include_pad=False)
    return (near + TEXTURE_FLOOR**2).sqrt()


def _differences(frames_BTCHW: torch.Tensor) -> torch.Tensor:
    """Differences to the right and to the lower neighbour, ``[2, B, T, C, H, W]``; 0 at the last column and row."""
    along = pad(frames_BTCHW.diff(dim=-1), (0, 1))
    down = pad(frames_BTCHW.diff(dim=-2), (0, 0, 0, 1))
    return torch.stack([along, down])
