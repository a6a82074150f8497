"""Rays and points of one clip, pooled to the tokens of the canvas.

World axes throughout; ``T_world_camera`` maps camera coordinates to world coordinates; metres.

Legend: F token frames, H rows, W columns, C = 3, P ego tokens of a frame, K exo tokens, B batch.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import adaptive_avg_pool2d, normalize

from egoloom.errors import UserError
from egoloom.exo2ego.bias import DirectionTables
from egoloom.exo2ego.layout import CanvasLayout


@dataclass(frozen=True)
class ClipGeometry:
    """What geometry-guided attention needs to know about one clip, at the latent frames.

    Args:
        exo_points_FHWC: World position of what each exo pixel (or cell) shows, ``[F, H, W, 3]``, metres.
        ego_rays_FHWC: World viewing direction of each ego pixel (or cell), ``[F, h, w, 3]``.
        ego_centres_FC: World position of the ego camera, ``[F, 3]``, metres.
        confidence_FHW: Weight of each exo point in [0, 1]; zero is an unknown depth. All ones if absent.
        visibility_FFHW: Weight in [0, 1] of exo point ``[key frame]`` for ego frame ``[query frame]``; optional.
    """

    exo_points_FHWC: torch.Tensor
    ego_rays_FHWC: torch.Tensor
    ego_centres_FC: torch.Tensor
    confidence_FHW: torch.Tensor | None = None
    visibility_FFHW: torch.Tensor | None = None

    def __post_init__(self) -> None:
        frames = {len(self.exo_points_FHWC), len(self.ego_rays_FHWC), len(self.ego_centres_FC)}
        if len(frames) != 1:
            raise UserError(
                f"Exo points, ego rays and ego positions cover different numbers of frames: {sorted(frames)}",
                allowed="the same latent frames in all three",
                fix="take the poses at the pixel frames 0, 4, 8, ... (the VAE's time stride)",
            )
        if not bool(torch.isfinite(self.ego_centres_FC).all() and torch.isfinite(self.ego_rays_FHWC).all()):
            raise UserError(
                "The ego trajectory holds frames without a pose (NaN)", fix="interpolate the missing poses first"
            )

    @property
    def num_frames(self) -> int:
        """F."""
        return len(self.ego_centres_FC)

    def window(self, start: int, stop: int) -> "ClipGeometry":
        """Returns the latent frames ``start .. stop - 1``."""
        pick = slice(start, stop)
        confidence, visibility = self.confidence_FHW, self.visibility_FFHW
        return ClipGeometry(
            self.exo_points_FHWC[pick],
            self.ego_rays_FHWC[pick],
            self.ego_centres_FC[pick],
            None if confidence is None else confidence[pick],
            None if visibility is None else visibility[pick, pick],
        )

    def tables(self, layout: CanvasLayout) -> DirectionTables:
        """Returns the pooled tables for a canvas."""
        return direction_tables(
            self.exo_points_FHWC,
            self.ego_centres_FC,
            self.ego_rays_FHWC,
            layout,
            confidence_FHW=self.confidence_FHW,
            visibility_FFHW=self.visibility_FFHW,
        )


def direction_tables(
    exo_points_FHWC: torch.Tensor,
    ego_centres_FC: torch.Tensor,
    ego_rays_FHWC: torch.Tensor,
    layout: CanvasLayout,
    *,
    confidence_FHW: torch.Tensor | None = None,
    visibility_FFHW: torch.Tensor | None = None,
) -> DirectionTables:
    """Returns ``(P - c) / |P - c|`` from every ego frame to every exo token, and the ego rays.

    Directions are averaged over the cells of a token (EgoX section 3.3; not renormalised). Points without depth
    (not finite) do not enter the mean; confidence and visibility shorten the mean vector, so that the bias of an
    unknown or hidden point fades to neutral instead of misleading.

    Args:
        exo_points_FHWC: ``[F, H, W, 3]`` world points; H and W are multiples of the token grid in the usual case.
        ego_centres_FC: ``[F, 3]``.
        ego_rays_FHWC: ``[F, h, w, 3]``, normalised here.
        layout: The canvas; F must be its number of token frames.
        confidence_FHW: Weights in [0, 1].
        visibility_FFHW: Weights in [0, 1] per query frame.
    """
    if len(exo_points_FHWC) != layout.token_frames:
        raise UserError(
            f"The geometry covers {len(exo_points_FHWC)} latent frames, the canvas has {layout.token_frames}",
            fix="give one point map, pose and ray map per latent frame",
        )
    rows = layout.token_rows
    rays = _pool(normalize(ego_rays_FHWC.float(), dim=-1), rows, layout.ego_token_columns)
    valid = torch.isfinite(exo_points_FHWC).all(dim=-1)
    points = torch.where(valid[..., None], exo_points_FHWC, 0.0).float()
    weight = valid.float() if confidence_FHW is None else valid * confidence_FHW.float().clamp(0, 1)
    valid_share = _pool(valid.float()[..., None], rows, layout.exo_token_columns).clamp_min(1e-6)
    tables = []
    for frame, centre in enumerate(ego_centres_FC.float()):
        # At the camera's own position a direction does not exist; normalize() then gives zero, which is neutral.
        directions = normalize(points - centre, dim=-1)
        gate = weight if visibility_FFHW is None else weight * visibility_FFHW[frame].float()
        pooled = _pool(directions * gate[..., None], rows, layout.exo_token_columns) / valid_share
        tables.append(pooled.flatten(0, 2))
    return DirectionTables(rays.flatten(1, 2)[None], torch.stack(tables)[None])


def _pool(x_FHWC: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Mean over the cells of each token."""
    return adaptive_avg_pool2d(x_FHWC.permute(0, 3, 1, 2), (rows, columns)).permute(0, 2, 3, 1)


def z_buffer_visibility(
    pixels_KX: torch.Tensor,
    distance_K: torch.Tensor,
    image_size: tuple[int, int],
    *,
    cell_px: int = 4,
    tolerance: float = 0.1,
) -> torch.Tensor:
    """Returns whether each projected point is the nearest surface of its cell, ``[K]`` in {0, 1}.

    Args:
        pixels_KX: Projections ``[K, 2]``; not finite or outside the image is hidden.
        distance_K: Depth or distance from the camera, metres.
        image_size: Width and height in pixels.
        cell_px: Side of a z-buffer cell.
        tolerance: Relative distance behind the nearest point that still counts as the same surface.
    """
    width, height = image_size
    inside = torch.isfinite(pixels_KX).all(-1) & (distance_K > 0)
    x, y = torch.nan_to_num(pixels_KX, nan=-9.0, posinf=-9.0, neginf=-9.0).unbind(-1)
    inside &= (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)
    columns = -(-width // cell_px)
    cell = (y.clamp(0, height - 1) // cell_px * columns + x.clamp(0, width - 1) // cell_px).long()
    nearest = torch.full((columns * -(-height // cell_px),), torch.inf)
    nearest.scatter_reduce_(0, cell[inside], distance_K[inside].float(), "amin")
    return (inside & (distance_K <= nearest[cell] * (1 + tolerance))).float()
