"""Unified conditioning of EgoX: the canvas, its mask, the transformer's input, and the loss on ego columns only.

EgoX, arXiv 2512.08269, section 3.1. The exo half stays clean at every step, in training and in generation; the
velocity of its columns is zero. Order of the input channels: noisy latents, mask, condition.

Legend: B batch, Z latent channels, S = VAE time stride (mask channels), F latent frames, H rows, W columns
(exo columns first), T pixel frames = S * (F - 1) + 1.
"""

from typing import Literal

import torch
from torch.nn.functional import adaptive_avg_pool2d

from egoloom.errors import UserError
from egoloom.exo2ego.layout import CanvasLayout

ExoMask = Literal["first_frame", "reference_training", "all_frames"]


def join_views(exo_BZFHW: torch.Tensor, ego_BZFHW: torch.Tensor) -> torch.Tensor:
    """Returns the canvas ``[exo | ego]`` along the width.

    Raises:
        UserError: If frames, rows or channels of both halves differ.
    """
    if exo_BZFHW.shape[:4] != ego_BZFHW.shape[:4]:
        raise UserError(
            f"Exo and ego latents do not fit side by side: {tuple(exo_BZFHW.shape)} and {tuple(ego_BZFHW.shape)}",
            allowed="the same batch, channels, frames and rows",
            fix="resize the exo video to the height of the ego video and cut both to the same number of frames",
        )
    return torch.cat([exo_BZFHW, ego_BZFHW], dim=-1)


def fold_time(mask_BTHW: torch.Tensor, time_stride: int) -> torch.Tensor:
    """Returns a per-pixel-frame mask as channels of latent frames, ``[B, S, F, H, W]``; frame 0 fills S channels."""
    first = mask_BTHW[:, :1].repeat(1, time_stride, 1, 1)
    folded = torch.cat([first, mask_BTHW[:, 1:]], dim=1).unflatten(1, (-1, time_stride))
    return folded.transpose(1, 2)


def canvas_mask(
    layout: CanvasLayout,
    *,
    time_stride: int = 4,
    exo_mask: ExoMask = "first_frame",
    ego_known_BTHW: torch.Tensor | None = None,
    batch: int = 1,
) -> torch.Tensor:
    """Returns the mask channels ``[B, S, F, H, W]``: 1 where the content is given.

    Args:
        layout: The canvas.
        time_stride: Pixel frames per latent frame (S).
        exo_mask: ``first_frame`` is what the published weights see in generation; ``reference_training`` also marks
            the last pixel frame, as the reference does in training only; ``all_frames`` marks the whole exo half.
        ego_known_BTHW: Optional coverage of the ego prior, 1 known and 0 hole, in pixels ``[B, T, h, w]``; it is
            averaged over latent cells and fills the ego columns, which are otherwise 0.
        batch: B where no coverage is given.
    """
    num_pixel_frames = time_stride * (layout.num_frames - 1) + 1
    batch = batch if ego_known_BTHW is None else len(ego_known_BTHW)
    mask = torch.zeros(batch, num_pixel_frames, layout.height, layout.width)
    marked = {
        "first_frame": [0],
        "reference_training": [0, num_pixel_frames - 1],
        "all_frames": range(num_pixel_frames),
    }[exo_mask]
    mask[:, list(marked), :, : layout.exo_width] = 1
    if ego_known_BTHW is not None:
        if ego_known_BTHW.shape[1] != num_pixel_frames:
            raise UserError(
                f"The hole mask has {ego_known_BTHW.shape[1]} frames, the canvas stands for {num_pixel_frames}",
                fix="give one mask per frame of the ego prior",
            )
        mask[..., layout.exo_width :] = adaptive_avg_pool2d(ego_known_BTHW.float(), (layout.height, layout.ego_width))
    return fold_time(mask, time_stride)


def condition(exo_BZFHW: torch.Tensor, prior_BZFHW: torch.Tensor, mask_BSFHW: torch.Tensor) -> torch.Tensor:
    """Returns mask and condition channels ``[B, S + Z, F, H, W]``: ``[mask, exo | prior]``."""
    joined = join_views(exo_BZFHW, prior_BZFHW)
    return torch.cat([mask_BSFHW.to(joined).expand(len(joined), -1, -1, -1, -1), joined], dim=1)


def transformer_input(latents_BZFHW: torch.Tensor, condition_BCFHW: torch.Tensor) -> torch.Tensor:
    """Returns the transformer's input ``[B, 2 Z + S, F, H, W]`` (36 channels for Wan 2.1)."""
    return torch.cat([latents_BZFHW, condition_BCFHW], dim=1)


def zero_exo_velocity(velocity_BZFHW: torch.Tensor, exo_width: int) -> torch.Tensor:
    """Returns the velocity with its exo columns set to zero, so that no scheduler step moves them."""
    velocity = velocity_BZFHW.clone()
    velocity[..., :exo_width] = 0
    return velocity


def noised_canvas(
    exo_BZFHW: torch.Tensor, ego_BZFHW: torch.Tensor, noise_BZFHW: torch.Tensor, sigma_B: torch.Tensor
) -> torch.Tensor:
    """Returns ``[x0_exo | (1 - sigma) x0_ego + sigma noise]``; the noise covers the ego columns."""
    sigma = sigma_B.view(-1, 1, 1, 1, 1).to(ego_BZFHW)
    return join_views(exo_BZFHW, (1 - sigma) * ego_BZFHW + sigma * noise_BZFHW)


def ego_flow_loss(
    velocity_BZFHW: torch.Tensor,
    ego_BZFHW: torch.Tensor,
    noise_BZFHW: torch.Tensor,
    weight_B: torch.Tensor | None = None,
) -> torch.Tensor:
    """Returns the flow-matching loss on ego columns, a mean over the batch.

    The target is ``noise - x0`` (EgoX section 3.1); columns left of the ego half are ignored.

    Args:
        velocity_BZFHW: The network's output over the whole canvas.
        ego_BZFHW: Clean ego latents.
        noise_BZFHW: Noise of the ego columns.
        weight_B: Optional weight of each sample.
    """
    ego_velocity = velocity_BZFHW[..., -ego_BZFHW.shape[-1] :].float()
    per_sample = (ego_velocity - (noise_BZFHW - ego_BZFHW).float()).square().mean(dim=(1, 2, 3, 4))
    return (per_sample if weight_B is None else per_sample * weight_B).mean()
