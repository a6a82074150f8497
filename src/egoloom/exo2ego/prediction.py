"""What the network's output means: velocity (Wan, EgoX), clean latents, or their difference from the prior.

With ``x = (1 - s) x0 + s noise`` the velocity ``noise - x0`` equals ``(x - x0) / s``, so all three are one
flow-matching model; a small network learns the last one soonest, because it starts from the prior.

Legend: B batch, Z latent channels, F latent frames, H rows, W columns of the ego half.
"""

from typing import Literal

import torch

Prediction = Literal["velocity", "sample", "residual"]
# Below this noise level a division by sigma would only amplify rounding.
SIGMA_FLOOR = 0.02


def clean_ego(
    kind: Prediction,
    output_BZFHW: torch.Tensor,
    ego_BZFHW: torch.Tensor,
    prior_BZFHW: torch.Tensor,
    sigma_B: torch.Tensor,
) -> torch.Tensor:
    """Returns the estimate of the clean ego latents from the network's output on the ego columns."""
    if kind == "velocity":
        return ego_BZFHW - sigma_B.view(-1, 1, 1, 1, 1) * output_BZFHW
    return output_BZFHW if kind == "sample" else prior_BZFHW + output_BZFHW


def ego_velocity(
    kind: Prediction,
    output_BZFHW: torch.Tensor,
    ego_BZFHW: torch.Tensor,
    prior_BZFHW: torch.Tensor,
    sigma_B: torch.Tensor,
) -> torch.Tensor:
    """Returns the velocity of the ego columns from the network's output on them."""
    if kind == "velocity":
        return output_BZFHW
    clean = clean_ego(kind, output_BZFHW, ego_BZFHW, prior_BZFHW, sigma_B)
    return (ego_BZFHW - clean) / sigma_B.clamp_min(SIGMA_FLOOR).view(-1, 1, 1, 1, 1)
