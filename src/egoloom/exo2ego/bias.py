"""The geometry-guided bias: how strongly an ego ray and the direction to an exo point agree.

EgoX, arXiv 2512.08269, section 3.3; the exact rule with its scale factor is the one of the public inference code:
``bias = log(1 + 1e-6 + h(r_q . d_jk))`` with ``h(c) = scale * c`` (for ``scale > 1`` only where ``c > 0``).

Legend: B batch, F query (= ego) frames, P ego tokens of one frame, K exo tokens, Q = F * P, N = K + Q.
"""

import math
from dataclasses import dataclass

import torch

from egoloom.exo2ego.layout import CanvasLayout

EPSILON = 1e-6
NEUTRAL_BIAS = math.log1p(EPSILON)
# Elements of one float32 scratch tile: small enough that matmul, kink, sum and logarithm stay in the cache.
TILE_ELEMENTS = 1 << 17


@dataclass(frozen=True)
class DirectionTables:
    """Everything geometric that attention needs, pooled to tokens; its size grows with N, never with N^2.

    Args:
        rays_BFPC: Viewing direction of every ego token in world axes, ``[B, F, P, 3]``.
        directions_BFKC: Direction from the ego camera of frame f to every exo token, ``[B, F, K, 3]``.
            A zero vector is neutral: its bias is ``log(1 + 1e-6)``.
    """

    rays_BFPC: torch.Tensor
    directions_BFKC: torch.Tensor

    def __post_init__(self) -> None:
        rays, directions = self.rays_BFPC, self.directions_BFKC
        same_head = rays.shape[:2] == directions.shape[:2]
        if rays.ndim != 4 or directions.ndim != 4 or not same_head or rays.shape[-1] != 3 or directions.shape[-1] != 3:
            raise ValueError(
                f"Direction tables have shapes {tuple(rays.shape)} and {tuple(directions.shape)}; "
                "expected [B, F, P, 3] and [B, F, K, 3] with the same B and F"
            )

    @property
    def num_frames(self) -> int:
        """F."""
        return self.rays_BFPC.shape[1]

    @property
    def needs_clamp(self) -> bool:
        """Whether some scalar product can leave [-1, 1]; pooled unit vectors never can."""
        longest_ray = self.rays_BFPC.detach().norm(dim=-1).max()
        longest_direction = self.directions_BFKC.detach().norm(dim=-1).max()
        return bool(longest_ray * longest_direction > 1 + 1e-6)

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> "DirectionTables":
        """Returns the tables on a device."""
        return DirectionTables(self.rays_BFPC.to(device, dtype), self.directions_BFKC.to(device, dtype))

    def repeat(self, batch: int) -> "DirectionTables":
        """Returns the tables for a batch that holds each clip several times in a row of copies (for guidance)."""
        own = self.rays_BFPC.shape[0]
        if batch == own or own == 1:
            return self
        times = batch // own
        return DirectionTables(self.rays_BFPC.repeat(times, 1, 1, 1), self.directions_BFKC.repeat(times, 1, 1, 1))

    @classmethod
    def neutral(cls, layout: CanvasLayout) -> "DirectionTables":
        """Returns tables without any direction, whose bias is the same everywhere."""
        frames = layout.token_frames
        rays, keys = (1, frames, layout.ego_tokens_per_frame, 3), (1, frames, layout.num_exo_tokens, 3)
        return cls(torch.zeros(rays), torch.zeros(keys))

    @staticmethod
    def stack(tables: list["DirectionTables"]) -> "DirectionTables":
        """Returns one batch of several clips' tables."""
        return DirectionTables(
            torch.cat([table.rays_BFPC for table in tables]), torch.cat([table.directions_BFKC for table in tables])
        )


def geometry_bias(
    rays_BPC: torch.Tensor, directions_BKC: torch.Tensor, scale: float, *, clamp: bool = True
) -> torch.Tensor:
    """Returns the bias ``[B, P, K]`` of ego rays towards exo directions; differentiable in both.

    Args:
        rays_BPC: Ego rays, ``[B, P, 3]``.
        directions_BKC: Directions to the exo points as seen from the rays' camera, ``[B, K, 3]``.
        scale: The factor lambda; above 1 it acts on positive cosines only.
        clamp: Clamps the cosine to [-1, 1]; may be left out for vectors of length at most 1.
    """
    cosine = rays_BPC.float() @ directions_BKC.float().transpose(-1, -2)
    if clamp:
        cosine = cosine.clamp(-1.0, 1.0)
    scaled = torch.where(cosine > 0, cosine * scale, cosine) if scale > 1 else cosine * scale
    return torch.log(scaled + (1.0 + EPSILON))


@torch.no_grad()
def write_geometry_bias(
    out_BPN: torch.Tensor, rays_BPC: torch.Tensor, directions_BKC: torch.Tensor, scale: float, *, clamp: bool
) -> None:
    """Writes the bias of exo columns into the first K columns of ``out_BPN``, tile by tile in the cache.

    The factor is folded into the rays, so that ``lambda h(c)`` is one in-place leaky rectifier; the same values as
    :func:`geometry_bias` up to float32 rounding.
    """
    num_keys, num_rays = directions_BKC.shape[1], rays_BPC.shape[1]
    columns = max(256, TILE_ELEMENTS // max(num_rays, 1))
    for batch in range(rays_BPC.shape[0]):
        rays = rays_BPC[batch].float()
        keys_CK = directions_BKC[batch].float().T
        for start in range(0, num_keys, columns):
            stop = min(start + columns, num_keys)
            tile = rays @ keys_CK[:, start:stop]
            if clamp:
                tile.clamp_(-1.0, 1.0)
            if scale > 1:
                torch.nn.functional.leaky_relu_(tile.mul_(scale), 1.0 / scale)
            elif scale != 1:
                tile.mul_(scale)
            out_BPN[batch, :, start:stop] = tile.add_(1.0 + EPSILON).log_()


def ego_row_bias(tables: DirectionTables, num_ego_keys: int, scale: float, dtype: torch.dtype) -> torch.Tensor:
    """Returns the bias of all ego rows once per clip, ``[B, 1, Q, N]``, exo columns first (mode ``cached``)."""
    batch, frames, rays_per_frame, _ = tables.rays_BFPC.shape
    num_keys = tables.directions_BFKC.shape[2]
    bias = tables.rays_BFPC.new_full(
        (batch, frames, rays_per_frame, num_keys + num_ego_keys), NEUTRAL_BIAS, dtype=dtype
    )
    clamp = tables.needs_clamp
    for frame in range(frames):
        write_geometry_bias(
            bias[:, frame], tables.rays_BFPC[:, frame], tables.directions_BFKC[:, frame], scale, clamp=clamp
        )
    return bias.view(batch, 1, frames * rays_per_frame, num_keys + num_ego_keys)
