"""Geometry-guided self-attention as a processor on the stock ``WanTransformer3DModel``.

Tokens are put into the order [exo | ego] once per forward pass, so that the rows which carry a bias are one slice
(:mod:`egoloom.exo2ego.guided_attention` computes with them). The geometry travels with the rotary embedding (a third
element of that tuple): no module holds state that gradient checkpointing could find changed when it recomputes a block.

Legend: B batch, N tokens, H heads, D head width, C channels, F frames.
"""

import contextlib
from collections.abc import Iterator

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.transformers.transformer_wan import WanAttnProcessor, WanTransformer3DModel
from torch import nn

from egoloom.errors import UserError
from egoloom.exo2ego.bias import DirectionTables
from egoloom.exo2ego.guided_attention import ActiveGuidance, GuidanceMode, attend, check_mode
from egoloom.exo2ego.layout import CanvasLayout


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
