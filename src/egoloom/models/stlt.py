"""Spatial-Temporal Layout Transformer: recognises an action from hand and object boxes alone.

Radevski, Moens, Tuytelaars, *Revisiting spatio-temporal layouts for compositional action recognition*, BMVC 2021, in
the form that *Multimodal Distillation for Egocentric Action Recognition* (arXiv 2307.07483) uses as a teacher.
Parameter names follow that work's public checkpoints, so that they load one to one.

Shape letters: B batch, T frames, N boxes a frame, D features.
"""

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from egoloom.models.base import Inputs, Recogniser, RecogniserConfig
from egoloom.models.registry import register

PAD, OBJECT, HAND = 0, 1, 2
NUM_SIDES = 3
NUM_CONTACT_STATES = 6


class StltConfig(RecogniserConfig):
    """Size of a layout transformer.

    Attributes:
        num_categories: 3 means pad, object, hand (the published model; ``is_hand`` decides between the last two);
            a larger number means that ``categories`` holds class ids, 0 for pad.
        num_object_classes: Object classes that ``classes`` of the input tells apart (0 there is unknown); without
            any, as published, a box says where something is and not what.
        num_frames: Most frames a clip may have; each has a learned position.
        embedding_norm_eps: Epsilon of the norms after the embeddings; the published weights were trained with 0.1.
    """

    hidden: int = Field(default=768, ge=8)
    num_attention_heads: int = Field(default=8, ge=1)
    spatial_layers: int = Field(default=6, ge=1)
    temporal_layers: int = Field(default=6, ge=1)
    num_frames: int = Field(default=16, ge=1)
    num_categories: int = Field(default=3, ge=3)
    num_object_classes: int = Field(default=0, ge=0)
    layer_dropout: float = Field(default=0.1, ge=0, lt=1)
    embedding_norm_eps: float = Field(default=0.1, gt=0)


def make_encoder(config: StltConfig, num_layers: int) -> nn.TransformerEncoder:
    """Returns a post-norm encoder with exact GELU and a feed-forward of four times the hidden size."""
    layer = nn.TransformerEncoderLayer(
        config.hidden,
        config.num_attention_heads,
        dim_feedforward=4 * config.hidden,
        dropout=config.layer_dropout,
        activation="gelu",
        batch_first=True,
    )
    return nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)


class BoxEmbedding(nn.Module):
    """Sum of what is known of a box: category, place, score, side of the hand, contact state; then norm."""

    def __init__(self, config: StltConfig) -> None:
        super().__init__()
        self.category_embeddings = nn.Embedding(config.num_categories, config.hidden, padding_idx=PAD)
        self.box_embedding = nn.Linear(4, config.hidden)
        self.score_embedding = nn.Linear(1, config.hidden)
        self.side_embedding = nn.Embedding(NUM_SIDES, config.hidden, padding_idx=PAD)
        self.state_embedding = nn.Embedding(NUM_CONTACT_STATES, config.hidden, padding_idx=PAD)
        self.class_embedding = None
        if config.num_object_classes:
            self.class_embedding = nn.Embedding(config.num_object_classes + 1, config.hidden, padding_idx=PAD)
        self.layer_norm = nn.LayerNorm(config.hidden, eps=config.embedding_norm_eps)
        self.dropout = nn.Dropout(config.layer_dropout)

    def forward(self, layout: Mapping[str, Tensor]) -> Tensor:
        """Returns box embeddings ``[B, T, N, D]``."""
        embedded = self.category_embeddings(layout["categories"]) + self.box_embedding(layout["boxes"])
        embedded = embedded + self.score_embedding(layout["scores"].unsqueeze(-1))
        # The published model always adds these two; an unknown side or state is the zero row of its table.
        embedded = embedded + self.side_embedding(layout["sides"]) + self.state_embedding(layout["states"])
        if self.class_embedding is not None:
            embedded = embedded + self.class_embedding(layout["classes"])
        return self.dropout(self.layer_norm(embedded))


class SpatialTransformer(nn.Module):
    """Attends among the boxes of one frame; the class token comes first and stands for the frame."""

    def __init__(self, config: StltConfig) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden))
        self.category_box_embeddings = BoxEmbedding(config)
        self.transformer = make_encoder(config, config.spatial_layers)

    def forward(self, layout: Mapping[str, Tensor]) -> Tensor:
        """Returns frame embeddings ``[B, T, D]``."""
        boxes_BTND = self.category_box_embeddings(layout)
        batch, num_frames = boxes_BTND.shape[:2]
        boxes = boxes_BTND.flatten(0, 1)
        tokens = torch.cat([self.cls_token.expand(boxes.shape[0], -1, -1), boxes], dim=1)
        pad = layout["pad_mask"].flatten(0, 1)
        pad = torch.cat([torch.zeros_like(pad[:, :1]), pad], dim=1)
        return self.transformer(tokens, src_key_padding_mask=pad)[:, 0].unflatten(0, (batch, num_frames))


class TemporalTransformer(nn.Module):
    """Attends among frames causally; the class token comes last and so sees them all."""

    def __init__(self, config: StltConfig) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden))
        self.layout_embedding = SpatialTransformer(config)
        self.position_embeddings = nn.Embedding(config.num_frames, config.hidden)
        self.layer_norm = nn.LayerNorm(config.hidden, eps=config.embedding_norm_eps)
        self.dropout = nn.Dropout(config.layer_dropout)
        self.transformer = make_encoder(config, config.temporal_layers)

    def forward(self, layout: Mapping[str, Tensor]) -> Tensor:
        """Returns the frame tokens followed by the class token, ``[B, T + 1, D]``."""
        frames_BTD = self.layout_embedding(layout)
        num_frames = frames_BTD.shape[1]
        if num_frames > self.position_embeddings.num_embeddings:
            raise ValueError(
                f"{num_frames} frames, but this layout transformer knows {self.position_embeddings.num_embeddings}"
            )
        positions = torch.arange(num_frames, device=frames_BTD.device)
        frames_BTD = self.dropout(self.layer_norm(frames_BTD + self.position_embeddings(positions)))
        tokens = torch.cat([frames_BTD, self.cls_token.expand(frames_BTD.shape[0], -1, -1)], dim=1)
        future = torch.ones(num_frames + 1, num_frames + 1, dtype=torch.bool, device=tokens.device).triu(1)
        return self.transformer(tokens, mask=future)


class StltRecogniser(Recogniser):
    """Layout transformer with heads; see the module for its source."""

    Config = StltConfig
    config: StltConfig

    def __init__(self, config: StltConfig) -> None:
        super().__init__(config, input_modalities=("boxes",))
        self.temporal_transformer = TemporalTransformer(config)
        self.build_heads(config.hidden)
        self.apply(_initialise)

    def layout(self, inputs: Inputs) -> dict[str, Tensor]:
        """Returns the complete layout that the embedding reads, from the modality ``boxes``.

        The modality holds ``boxes`` [B, T, N, 4] (xyxy, 0..1), ``categories`` [B, T, N] (0 pad), ``scores`` and
        ``pad_mask`` [B, T, N], and may hold ``is_hand``, ``classes``, ``sides`` and ``states`` (each 0 unknown).

        Raises:
            ValueError: If a category or an object class is out of range.
        """
        given = self.read(inputs, "boxes")
        categories = given["categories"].long()
        pad = given["pad_mask"].bool() if "pad_mask" in given else categories == PAD
        if self.config.num_categories == 3 and "is_hand" in given:
            categories = torch.where(given["is_hand"].bool(), HAND, OBJECT)
        categories = categories.masked_fill(pad, PAD)
        if not torch.compiler.is_compiling() and int(categories.max()) >= self.config.num_categories:
            raise ValueError(
                f"Box category {int(categories.max())} is out of range: this model knows "
                f"{self.config.num_categories} categories (0 is pad); set num_categories"
            )
        zeros = torch.zeros_like(categories)
        classes = given.get("classes", zeros).long()
        known = self.config.num_object_classes
        if known and not torch.compiler.is_compiling() and int(classes.max()) > known:
            raise ValueError(f"Object class {int(classes.max())} is out of range: this model knows {known}")
        return {
            "boxes": given["boxes"].float(),
            "categories": categories,
            "classes": classes,
            "scores": given["scores"].float(),
            "sides": given.get("sides", zeros).long(),
            "states": given.get("states", zeros).long(),
            "pad_mask": pad,
        }

    def forward_tokens(self, inputs: Inputs) -> Tensor:
        """Returns one token a frame, ``[B, T, D]``, without the class token."""
        return self.temporal_transformer(self.layout(inputs))[:, :-1]

    def forward_features(self, inputs: Inputs) -> Tensor:
        """Returns the temporal class token, ``[B, D]``."""
        return self.temporal_transformer(self.layout(inputs))[:, -1]


def _initialise(module: nn.Module) -> None:
    """Draws embeddings and class tokens small, as is usual for transformers; linear layers keep torch's choice."""
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
        if module.padding_idx is not None:
            with torch.no_grad():
                module.weight[module.padding_idx].zero_()
    elif isinstance(module, SpatialTransformer | TemporalTransformer):
        nn.init.normal_(module.cls_token, std=0.02)


register("stlt", StltRecogniser, "85 M parameters: the published layout transformer (boxes)")
register(
    "layout_tiny",
    StltRecogniser,
    "0.12 M parameters: layout teacher for tests and the kitchen",
    hidden=48,
    num_attention_heads=4,
    spatial_layers=2,
    temporal_layers=2,
    num_frames=32,
    embedding_norm_eps=1e-5,
)
