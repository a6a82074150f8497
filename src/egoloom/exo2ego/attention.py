"""Geometry-guided self-attention as a processor on the stock ``WanTransformer3DModel``.

Tokens are put into the order [exo | ego] once per forward pass, so that the rows which carry a bias are one slice.
The geometry travels with the rotary embedding (a third element of that tuple): no module holds state that gradient
checkpointing could find changed when it recomputes a block.

Modes, all of one result except ``vmf``:
    ``blocks``  bias of one query frame at a time, on the fly; least memory (inference).
    ``cached``  bias of all ego rows, once per clip; least work per layer (training).
    ``dense``   bias for every query row and key; the oracle of the tests.
    ``flex``    FlexAttention with a ``score_mod``; the path for GPUs.
    ``vmf``     linear bias ``kappa * cos`` (von Mises-Fisher weights) as 3F extra query and key features.

Legend: B batch, H heads, N tokens, D head width, F frames, P ego tokens per frame, K exo tokens.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.transformers.transformer_wan import WanAttnProcessor, WanTransformer3DModel
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


class GeometryGuidedAttnProcessor(WanAttnProcessor):
    """Self-attention processor that applies the geometry found in the rotary embedding's tuple.

    Without geometry it is the stock processor, bit for bit.

    Args:
        layer: Index of the transformer block.
    """

    def __init__(self, layer: int = 0) -> None:
        super().__init__()
        self.layer = layer

    def __call__(
        self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary_emb=None
    ) -> torch.Tensor:
        """Returns ``[B, N, C]``; tokens are in the order [exo | ego] whenever geometry is present."""
        if rotary_emb is None or len(rotary_emb) == 2:
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)
        cos, sin, guidance = rotary_emb  # type: ignore[misc]
        if getattr(attn, "fused_projections", False):
            query, key, value = attn.to_qkv(hidden_states).chunk(3, dim=-1)
        else:
            query, key, value = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)
        query = _rotate(attn.norm_q(query).unflatten(2, (attn.heads, -1)), cos, sin).transpose(1, 2)
        key = _rotate(attn.norm_k(key).unflatten(2, (attn.heads, -1)), cos, sin).transpose(1, 2)
        value = value.unflatten(2, (attn.heads, -1)).transpose(1, 2)
        mixed = attend(query, key, value, guidance, self.layer)
        mixed = mixed.transpose(1, 2).flatten(2, 3).type_as(query)
        return attn.to_out[1](attn.to_out[0](mixed))


def _rotate(x_BNHD: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding in pairs of neighbouring channels, as Wan does it."""
    even, odd = x_BNHD.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., 0::2], sin[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).type_as(x_BNHD)


class GeometryGuidance(ModelMixin, ConfigMixin):
    """Installs geometry-guided attention on a transformer and says which geometry the next passes use.

    A component of :class:`egoloom.exo2ego.pipeline.EgoXPipeline`; holds weights only in mode ``vmf``.

    Args:
        mode: One of ``blocks``, ``cached``, ``dense``, ``flex``, ``vmf``.
        scale_training: The factor lambda in training (reference: 1).
        scale_inference: The factor lambda in generation (reference: 3; ours are equal unless stated).
        num_layers: Blocks with a kappa of their own (``vmf``).
        num_heads: Heads with a kappa of their own (``vmf``).
        initial_kappa: Start value of kappa.
        independent_exo: Exo tokens attend to exo tokens only and are modulated as clean ones, so that generation
            computes their keys and values once a clip (ours; a model must be trained so, the published one is not).
    """

    @register_to_config
    def __init__(
        self,
        mode: str = "blocks",
        scale_training: float = 1.0,
        scale_inference: float = 1.0,
        num_layers: int = 1,
        num_heads: int = 1,
        initial_kappa: float = 1.0,
        independent_exo: bool = False,
    ) -> None:
        super().__init__()
        check_mode(mode)
        if independent_exo:
            self.make_exo_independent()
        self.kappa = nn.Parameter(torch.full((num_layers, num_heads), float(initial_kappa)))
        self._active: ActiveGuidance | None = None
        self._order: torch.Tensor | None = None
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def install(self, transformer: WanTransformer3DModel) -> "GeometryGuidance":
        """Sets the processors and the three hooks that reorder tokens; returns itself."""
        self.remove()
        for layer, block in enumerate(transformer.blocks):
            block.attn1.set_processor(GeometryGuidedAttnProcessor(layer))  # type: ignore[union-attr]
        self._handles = [
            transformer.register_forward_pre_hook(self._order_timesteps, with_kwargs=True),
            transformer.patch_embedding.register_forward_hook(self._exo_first),
            transformer.rope.register_forward_hook(self._attach_geometry),
            transformer.proj_out.register_forward_hook(self._restore_order),
        ]
        return self

    def remove(self) -> None:
        """Takes the hooks away; the processors then act as the stock ones."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def make_exo_independent(self) -> "GeometryGuidance":
        """Makes exo tokens independent of the step from now on; returns itself.

        Raises:
            UserError: If the mode cannot do it.
        """
        if self.config["mode"] not in {"blocks", "cached"}:
            raise UserError(f"Mode {self.config['mode']!r} has no independent exo tokens", allowed="blocks, cached")
        self.register_to_config(independent_exo=True)
        return self

    def guide(
        self,
        layout: CanvasLayout,
        tables: DirectionTables | None,
        scale: float,
        mode: GuidanceMode,
        device: torch.device | str = "cpu",
    ) -> ActiveGuidance | None:
        """Returns what :meth:`active` takes for clips of a layout; None where nothing differs from stock attention."""
        independent = bool(self.config.get("independent_exo", False))
        if tables is None or scale == 0:
            if not independent:
                return None
            tables = DirectionTables.neutral(layout)
        return ActiveGuidance(layout, tables.to(device), float(scale), mode, independent_exo=independent)

    @contextlib.contextmanager
    def active(self, guidance: ActiveGuidance | None) -> Iterator[None]:
        """Uses this geometry for every forward pass inside the block; ``None`` means stock attention."""
        previous = self._active, self._order
        self._active = guidance
        self._order = None if guidance is None else guidance.token_order()
        if guidance is not None and guidance.mode == "vmf":
            guidance.kappa_LH = self.kappa
        try:
            yield
        finally:
            self._active, self._order = previous

    def _exo_first(self, module, inputs, embedded_BCFHW):
        if self._order is None:
            return None
        tokens, expected = embedded_BCFHW.flatten(2), self._num_tokens()
        if tokens.shape[2] != expected:
            raise ValueError(f"The canvas gives {tokens.shape[2]} tokens, the geometry is for {expected}")
        return tokens.index_select(2, self._order.to(tokens.device))[:, :, None, None]

    def _attach_geometry(self, module, inputs, rotary):
        if self._order is None:
            return None
        order = self._order.to(rotary[0].device)
        return rotary[0].index_select(1, order), rotary[1].index_select(1, order), self._active

    def _restore_order(self, module, inputs, tokens_BNC):
        if self._order is None:
            return None
        order = self._order.to(tokens_BNC.device)
        if len(order) == self._num_tokens():
            return tokens_BNC.index_select(1, torch.argsort(order))
        whole = tokens_BNC.new_zeros(tokens_BNC.shape[0], self._num_tokens(), tokens_BNC.shape[2])
        return whole.index_copy(1, order, tokens_BNC)  # the half that was not computed stays zero

    def _order_timesteps(self, module, positional, keywords):
        timestep = keywords.get("timestep")
        if self._order is None or timestep is None:
            return positional, keywords
        if timestep.ndim == 2:
            timestep = timestep[:, self._order.to(timestep.device)]
        elif self._active is not None and self._active.independent_exo and self._active.memory is None:
            layout = self._active.layout
            exo = timestep.new_zeros(len(timestep), layout.num_exo_tokens)
            timestep = torch.cat([exo, timestep[:, None].expand(-1, layout.num_ego_tokens)], dim=1)
        return positional, {**keywords, "timestep": timestep}

    def _num_tokens(self) -> int:
        return 0 if self._active is None else self._active.layout.num_tokens


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
