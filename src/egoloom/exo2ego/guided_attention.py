"""Kernels of geometry-guided attention over tokens in the order [exo | ego].

Modes, all of one result except ``vmf``:
    ``blocks``  bias of one query frame at a time, on the fly; least memory (inference).
    ``cached``  bias of all ego rows, once per clip; least work per layer (training).
    ``dense``   bias for every query row and key; the oracle of the tests.
    ``flex``    FlexAttention with a ``score_mod``; the path for GPUs.
    ``vmf``     linear bias ``kappa * cos`` (von Mises-Fisher weights) as 3F extra query and key features.

Legend: B batch, H heads, N tokens, D head width, F frames, P ego tokens per frame, K exo tokens.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from egoloom.errors import UserError
from egoloom.exo2ego.bias import NEUTRAL_BIAS, DirectionTables, ego_row_bias, geometry_bias, write_geometry_bias
from egoloom.exo2ego.exo_memory import ExoMemory
from egoloom.exo2ego.layout import CanvasLayout

GuidanceMode = Literal["blocks", "cached", "dense", "flex", "vmf"]
# Query rows of one masked call in mode `blocks`: half a frame of the full-size model.
MAX_BLOCK_ROWS = 392


@dataclass
class ActiveGuidance:
    """The geometry of the clips in one forward pass, shared by all blocks.

    Args:
        layout: The canvas.
        tables: Pooled rays and directions, one per batch element or one for all.
        scale: The factor lambda of the bias.
        mode: How the bias is applied.
        kappa_LH: Concentration per layer and head, only for ``vmf``.
        independent_exo: Exo tokens attend to exo tokens only and are modulated as clean ones (time 0).
        memory: Keys and values of independent exo tokens; a pass with it computes exo tokens only (to fill it) or ego
            tokens only (once it is filled).
    """

    layout: CanvasLayout
    tables: DirectionTables
    scale: float = 1.0
    mode: GuidanceMode = "blocks"
    kappa_LH: torch.Tensor | None = None
    independent_exo: bool = False
    memory: ExoMemory | None = None
    _cache: dict[object, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        frames, rays, keys = self.layout.token_frames, self.layout.ego_tokens_per_frame, self.layout.num_exo_tokens
        got = (*self.tables.rays_BFPC.shape[1:3], self.tables.directions_BFKC.shape[2])
        if got != (frames, rays, keys):
            raise ValueError(
                f"Direction tables cover (frames, ego tokens a frame, exo tokens) = {got}, "
                f"the canvas has {(frames, rays, keys)}"
            )
        self.clamp = self.tables.needs_clamp

    def ego_rows(self, dtype: torch.dtype) -> torch.Tensor:
        """Returns the bias of all ego rows ``[B, 1, Q, N]``, computed once for all layers and steps."""
        key = ("rows", dtype)
        if key not in self._cache:
            self._cache[key] = ego_row_bias(self.tables, self.layout.num_ego_tokens, self.scale, dtype)
        return self._cache[key]

    def token_order(self) -> torch.Tensor:
        """Returns which tokens of the canvas a pass computes, in its order: exo first, or one of the halves."""
        order, num_exo = self.layout.exo_first_order(), self.layout.num_exo_tokens
        if self.memory is None:
            return order
        return order[num_exo:] if self.memory.is_filled else order[:num_exo]


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, guidance: ActiveGuidance, layer: int = 0):
    """Returns geometry-guided attention over tokens in the order [exo | ego].

    Args:
        query: ``[B, H, N, D]`` after normalisation and rotation, as are ``key`` and ``value``.
        key: See ``query``.
        value: See ``query``.
        guidance: Geometry, mode and factor.
        layer: Index of the block, which selects its kappa in mode ``vmf``.
    """
    if guidance.independent_exo:
        return _attend_independently(query, key, value, guidance, layer)
    return _KERNELS[guidance.mode](query, key, value, guidance, layer)


def _attend_independently(query, key, value, guidance: ActiveGuidance, layer: int):
    """Exo rows see exo keys only. With a memory the tokens are one half of the canvas."""
    num_exo, memory = guidance.layout.num_exo_tokens, guidance.memory
    if memory is None:
        exo = scaled_dot_product_attention(query[:, :, :num_exo], key[:, :, :num_exo], value[:, :, :num_exo])
        return torch.cat([exo, _attend_ego_rows(query[:, :, num_exo:], key, value, guidance)], dim=2)
    if not memory.is_filled:
        memory.keep(layer, key, value)
        return scaled_dot_product_attention(query, key, value)
    exo_key, exo_value = memory.recall(layer)
    return _attend_ego_rows(query, torch.cat([exo_key, key], dim=2), torch.cat([exo_value, value], dim=2), guidance)


def _attend_ego_rows(query, key, value, guidance: ActiveGuidance):
    if guidance.mode == "cached":
        return scaled_dot_product_attention(query, key, value, attn_mask=guidance.ego_rows(query.dtype))
    parts = []
    for first, rays, directions in _row_blocks(guidance):
        mask = query.new_full((rays.shape[0], 1, rays.shape[1], key.shape[2]), NEUTRAL_BIAS)
        write_geometry_bias(mask[:, 0], rays, directions, guidance.scale, clamp=guidance.clamp)
        start = first - guidance.layout.num_exo_tokens
        rows = query[:, :, start : start + rays.shape[1]]
        parts.append(scaled_dot_product_attention(rows, key, value, attn_mask=mask))
    return torch.cat(parts, dim=2)


def _attend_blocks(query, key, value, guidance: ActiveGuidance, layer: int):
    num_exo, tables = guidance.layout.num_exo_tokens, guidance.tables
    if torch.is_grad_enabled():
        parts = [scaled_dot_product_attention(query[:, :, :num_exo], key, value)]
        for first, rays, directions in _row_blocks(guidance):
            # Autograd keeps the mask of every call, so each gets its own.
            mask = query.new_full((rays.shape[0], 1, rays.shape[1], query.shape[2]), NEUTRAL_BIAS)
            write_geometry_bias(mask[:, 0], rays, directions, guidance.scale, clamp=guidance.clamp)
            rows = query[:, :, first : first + rays.shape[1]]
            parts.append(scaled_dot_product_attention(rows, key, value, attn_mask=mask))
        return torch.cat(parts, dim=2)
    out = torch.empty_like(query)
    out[:, :, :num_exo] = scaled_dot_product_attention(query[:, :, :num_exo], key, value)
    most_rows = min(guidance.layout.ego_tokens_per_frame, MAX_BLOCK_ROWS)
    buffer = query.new_full((tables.rays_BFPC.shape[0], 1, most_rows, query.shape[2]), NEUTRAL_BIAS)
    for first, rays, directions in _row_blocks(guidance):
        mask = buffer[:, :, : rays.shape[1]]
        write_geometry_bias(mask[:, 0], rays, directions, guidance.scale, clamp=guidance.clamp)
        rows = slice(first, first + rays.shape[1])
        out[:, :, rows] = scaled_dot_product_attention(query[:, :, rows], key, value, attn_mask=mask)
    return out


def _row_blocks(guidance: ActiveGuidance) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """First query row, rays ``[B, rows, 3]`` and directions ``[B, K, 3]`` of every block of ego rows."""
    tables, per_frame = guidance.tables, guidance.layout.ego_tokens_per_frame
    for frame in range(tables.num_frames):
        for start in range(0, per_frame, MAX_BLOCK_ROWS):
            rays = tables.rays_BFPC[:, frame, start : start + MAX_BLOCK_ROWS]
            first = guidance.layout.num_exo_tokens + frame * per_frame + start
            yield first, rays, tables.directions_BFKC[:, frame]


def _attend_cached(query, key, value, guidance: ActiveGuidance, layer: int):
    num_exo = guidance.layout.num_exo_tokens
    exo = scaled_dot_product_attention(query[:, :, :num_exo], key, value)
    mask = guidance.ego_rows(query.dtype)
    return torch.cat([exo, scaled_dot_product_attention(query[:, :, num_exo:], key, value, attn_mask=mask)], dim=2)


def _attend_dense(query, key, value, guidance: ActiveGuidance, layer: int):
    batch, frames, rays, _ = guidance.tables.rays_BFPC.shape
    num_exo, num_tokens = guidance.layout.num_exo_tokens, query.shape[2]
    bias = geometry_bias(
        guidance.tables.rays_BFPC.flatten(0, 1),
        guidance.tables.directions_BFKC.flatten(0, 1),
        guidance.scale,
        clamp=guidance.clamp,
    )
    mask = bias.new_zeros(batch, 1, num_tokens, num_tokens)
    mask[:, :, num_exo:] = NEUTRAL_BIAS
    mask[:, 0, num_exo:, :num_exo] = bias.view(batch, frames * rays, num_exo)
    return scaled_dot_product_attention(query, key, value, attn_mask=mask.to(query.dtype))


def _attend_flex(query, key, value, guidance: ActiveGuidance, layer: int):
    num_exo, per_frame = guidance.layout.num_exo_tokens, guidance.layout.ego_tokens_per_frame
    rays, directions = guidance.tables.rays_BFPC.flatten(1, 2), guidance.tables.directions_BFKC
    last_table, scale = rays.shape[0] - 1, guidance.scale

    def score_mod(score, batch, head, row, column):
        ego_row = torch.clamp(row - num_exo, min=0)
        exo_column = torch.clamp(column, max=num_exo - 1)
        frame, table = ego_row // per_frame, torch.clamp(batch, max=last_table)
        products = [rays[table, ego_row, axis] * directions[table, frame, exo_column, axis] for axis in range(3)]
        cosine = torch.clamp(products[0] + products[1] + products[2], -1.0, 1.0)
        scaled = torch.where(cosine > 0, cosine * scale, cosine) if scale > 1 else cosine * scale
        bias = torch.where(column < num_exo, torch.log(scaled + (1 + 1e-6)), NEUTRAL_BIAS)
        return score + torch.where(row >= num_exo, bias, 0.0).to(score.dtype)

    return _flex_attention(query.device)(query, key, value, score_mod=score_mod)


def _flex_attention(device: torch.device) -> Callable[..., torch.Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    if device.type == "cuda":
        return torch.compile(flex_attention)
    return flex_attention


def _attend_vmf(query, key, value, guidance: ActiveGuidance, layer: int):
    if guidance.kappa_LH is None:
        raise ValueError("Mode 'vmf' needs a concentration kappa; build GeometryGuidance(mode='vmf')")
    num_exo, width = guidance.layout.num_exo_tokens, query.shape[-1]
    rays, directions = guidance.tables.rays_BFPC, guidance.tables.directions_BFKC
    batch, frames, per_frame, _ = rays.shape
    heads = query.shape[1]
    kappa_H = guidance.kappa_LH[layer % guidance.kappa_LH.shape[0]].expand(heads)
    one_hot = torch.eye(frames, dtype=rays.dtype, device=rays.device)
    features = torch.einsum("bfpc,fg->bfpgc", rays, one_hot).reshape(batch, 1, frames * per_frame, 3 * frames)
    # SDPA divides scores by sqrt(D); the extra features must not be divided.
    features = features * (kappa_H.to(rays.dtype).view(1, heads, 1, 1) * math.sqrt(width))
    key_features = directions.permute(0, 2, 1, 3).reshape(batch, 1, num_exo, 3 * frames)
    key_features = nn.functional.pad(key_features, (0, 0, 0, key.shape[2] - num_exo))
    full = (query.shape[0], heads)
    ego_query = torch.cat([query[:, :, num_exo:], features.expand(*full, -1, -1).to(query.dtype)], dim=-1)
    wide_key = torch.cat([key, key_features.expand(*full, -1, -1).to(key.dtype)], dim=-1)
    wide_value = nn.functional.pad(value, (0, 3 * frames))
    exo = scaled_dot_product_attention(query[:, :, :num_exo], key, value)
    ego = scaled_dot_product_attention(ego_query, wide_key, wide_value, scale=1.0 / math.sqrt(width))
    return torch.cat([exo, ego[..., :width]], dim=2)


_KERNELS = {
    "blocks": _attend_blocks,
    "cached": _attend_cached,
    "dense": _attend_dense,
    "flex": _attend_flex,
    "vmf": _attend_vmf,
}


def check_mode(mode: str) -> GuidanceMode:
    """Returns the mode or says which exist.

    Raises:
        UserError: If the mode is unknown.
    """
    if mode not in get_args(GuidanceMode):
        raise UserError(
            f"Unknown mode of geometry-guided attention: {mode!r}", allowed=", ".join(get_args(GuidanceMode))
        )
    return mode  # type: ignore[return-value]
