"""Multimodal recognisers that accept any subset of their modalities, in training and at test time.

Shape letters: B batch, M modalities, N tokens, D features, K classes.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from egoloom.models.base import Inputs, Recogniser, RecogniserConfig, presence, take_rows
from egoloom.models.registry import create_model, register

DEFAULT_ENCODERS = {"rgb": "edge_tiny", "flow": "edge_tiny"}


class FusionConfig(RecogniserConfig):
    """What both ways of fusion share.

    Attributes:
        encoders: Modality to architecture name.
        encoder_options: Modality to configuration values of its encoder.
        modality_dropout: Probability with which a sample loses a modality in training; one always stays.
    """

    encoders: dict[str, str] = Field(default=DEFAULT_ENCODERS, min_length=1)
    encoder_options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    modality_dropout: float = Field(default=0.0, ge=0, lt=1)


class LateFusionConfig(FusionConfig):
    """Late fusion: each modality votes; ``mixing`` says whether logits or probabilities are averaged."""

    mixing: Literal["logits", "probabilities"] = "logits"


class MidFusionConfig(FusionConfig):
    """Mid fusion: tokens of all modalities meet in a transformer.

    Attributes:
        tokens_per_modality: Each modality's sequence is pooled to this many tokens.
    """

    hidden: int = Field(default=64, ge=8)
    num_attention_heads: int = Field(default=4, ge=1)
    num_layers: int = Field(default=2, ge=1)
    tokens_per_modality: int = Field(default=4, ge=1)
    layer_dropout: float = Field(default=0.0, ge=0, lt=1)


def drop_modalities(present_BM: Tensor, rate: float) -> Tensor:
    """Returns presence after modality dropout: each entry goes with probability ``rate``, but one a sample stays.

    MMT (arXiv 2401.11470) and KARMMA (arXiv 2504.08578) train so, that a network copes with what a device lacks.
    """
    noise_BM = torch.rand(present_BM.shape, device=present_BM.device)
    kept_BM = present_BM & (noise_BM >= rate)
    # The luckiest of the present ones stays, whatever was drawn.
    luckiest_B = noise_BM.masked_fill(~present_BM, -1.0).argmax(dim=1, keepdim=True)
    survivor_BM = torch.zeros_like(present_BM).scatter(1, luckiest_B, True) & present_BM
    return kept_BM | survivor_BM


class FusionRecogniser(Recogniser):
    """Base of both: one encoder a modality, run only for the samples that have it."""

    config: FusionConfig

    def __init__(self, config: FusionConfig) -> None:
        super().__init__(config, input_modalities=tuple(config.encoders))
        self.encoders = nn.ModuleDict()
        for modality, name in config.encoders.items():
            options = dict(config.encoder_options.get(modality, {}))
            if name.startswith(("edge_", "video_swin")):
                options.setdefault("input_modality", modality)
            encoder = create_model(name, num_classes=config.num_classes, **options)
            if encoder.input_modalities != (modality,):
                raise ValueError(f"Encoder {name!r} reads {encoder.input_modalities}, not {modality!r}")
            # The encoder's own heads would be dead weight here.
            encoder.classifiers = nn.ModuleDict()
            self.encoders[modality] = encoder

    def encoder(self, modality: str) -> Recogniser:
        """Returns the encoder of a modality."""
        encoder = self.encoders[modality]
        assert isinstance(encoder, Recogniser)
        return encoder

    def current_presence(self, inputs: Inputs) -> Tensor:
        """Returns presence ``[B, M]`` after modality dropout (training only)."""
        present_BM = presence(inputs, self.input_modalities)
        if self.training and self.config.modality_dropout > 0:
            present_BM = drop_modalities(present_BM, self.config.modality_dropout)
        return present_BM

    def encode(self, inputs: Inputs, modality: str, present_B: Tensor, *, tokens: bool) -> Tensor | None:
        """Returns tokens or features of one modality, zero rows for samples without it, None where nobody has it."""
        if modality not in inputs or not bool(present_B.any()):
            return None
        encoder = self.encoder(modality)
        run = encoder.forward_tokens if tokens else encoder.forward_features
        if bool(present_B.all()):
            return run({modality: inputs[modality]})
        rows_B = present_B.nonzero().squeeze(1)
        encoded = run({modality: take_rows(inputs[modality], rows_B)})
        full = encoded.new_zeros(present_B.shape[0], *encoded.shape[1:])
        return full.index_copy(0, rows_B, encoded)


class LateFusionHead(nn.Module):
    """Averages one linear classifier a modality over the modalities that a sample has."""

    def __init__(self, widths: list[int], num_classes: int, mixing: str) -> None:
        super().__init__()
        self.widths = widths
        self.mixing = mixing
        self.linears = nn.ModuleList(nn.Linear(width, num_classes) for width in widths)

    def votes(self, features_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Returns each modality's logits ``[B, M, K]`` and its weight ``[B, M]``."""
        *parts, present_BM = features_BD.split([*self.widths, len(self.widths)], dim=1)
        logits = [linear(part) for linear, part in zip(self.linears, parts, strict=True)]
        return torch.stack(logits, dim=1), present_BM / present_BM.sum(dim=1, keepdim=True)

    def forward(self, features_BD: Tensor) -> Tensor:
        """Returns mixed logits ``[B, K]``."""
        logits_BMK, weights_BM = self.votes(features_BD)
        if self.mixing == "logits":
            return (weights_BM.unsqueeze(-1) * logits_BMK).sum(dim=1)
        absent = torch.where(weights_BM > 0, weights_BM.clamp_min(1e-12).log(), -torch.inf)
        return torch.logsumexp(logits_BMK.log_softmax(dim=-1) + absent.unsqueeze(-1), dim=1)


class LateFusionRecogniser(FusionRecogniser):
    """Mean of the modalities' own verdicts; a missing modality does not vote.

    The feature vector is all encoders' features side by side, followed by one presence flag a modality.
    """

    Config = LateFusionConfig
    config: LateFusionConfig

    def __init__(self, config: LateFusionConfig) -> None:
        super().__init__(config)
        self.widths = [self.encoder(modality).num_features for modality in self.input_modalities]
        self.build_heads(sum(self.widths) + len(self.widths))

    def make_classifier(self, num_classes: int) -> nn.Module:
        """Returns a `LateFusionHead`."""
        return LateFusionHead(self.widths, num_classes, self.config.mixing)

    def forward_head(self, features_BD: Tensor) -> dict[str, Tensor]:
        """Returns logits for each head; dropout leaves the presence flags alone."""
        split = features_BD.shape[1] - len(self.widths)
        features_BD = torch.cat([self.dropout(features_BD[:, :split]), features_BD[:, split:]], dim=1)
        return {head: classifier(features_BD) for head, classifier in self.classifiers.items()}

    def forward_features(self, inputs: Inputs) -> Tensor:
        """Returns ``[B, sum(D_m) + M]``."""
        present_BM = self.current_presence(inputs)
        parts = []
        for column, (modality, width) in enumerate(zip(self.input_modalities, self.widths, strict=True)):
            encoded = self.encode(inputs, modality, present_BM[:, column], tokens=False)
            empty = torch.zeros(present_BM.shape[0], width, device=present_BM.device)
            parts.append(empty if encoded is None else encoded.float())
        return torch.cat([*parts, present_BM.float()], dim=1)


class MidFusionRecogniser(FusionRecogniser):
    """Transformer over the tokens of all modalities; a learned token stands in for a missing one."""

    Config = MidFusionConfig
    config: MidFusionConfig

    def __init__(self, config: MidFusionConfig) -> None:
        super().__init__(config)
        count = len(self.input_modalities)
        self.projections = nn.ModuleDict(
            {name: nn.Linear(self.encoder(name).num_features, config.hidden) for name in self.input_modalities}
        )
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, config.hidden))
        self.missing_tokens = nn.Parameter(0.02 * torch.randn(count, 1, config.hidden))
        self.modality_embeddings = nn.Parameter(0.02 * torch.randn(count, 1, config.hidden))
        self.position_embeddings = nn.Parameter(0.02 * torch.randn(config.tokens_per_modality, config.hidden))
        layer = nn.TransformerEncoderLayer(
            config.hidden,
            config.num_attention_heads,
            dim_feedforward=4 * config.hidden,
            dropout=config.layer_dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.transformer = nn.TransformerEncoder(layer, config.num_layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(config.hidden)
        self.build_heads(config.hidden)

    def modality_tokens(self, inputs: Inputs, column: int, present_B: Tensor) -> Tensor:
        """Returns ``[B, tokens_per_modality, hidden]`` of one modality, with the missing token where it is absent."""
        modality = self.input_modalities[column]
        count = self.config.tokens_per_modality
        missing = self.missing_tokens[column].expand(present_B.shape[0], count, -1)
        encoded_BND = self.encode(inputs, modality, present_B, tokens=True)
        if encoded_BND is None:
            tokens = missing
        else:
            pooled = F.adaptive_avg_pool1d(encoded_BND.transpose(1, 2), count).transpose(1, 2)
            tokens = torch.where(present_B.view(-1, 1, 1), self.projections[modality](pooled), missing)
        return tokens + self.modality_embeddings[column] + self.position_embeddings

    def forward_features(self, inputs: Inputs) -> Tensor:
        """Returns the class token after the transformer, ``[B, hidden]``."""
        present_BM = self.current_presence(inputs)
        parts = [self.cls_token.expand(present_BM.shape[0], -1, -1)]
        parts += [
            self.modality_tokens(inputs, column, present_BM[:, column]) for column in range(len(self.input_modalities))
        ]
        return self.norm(self.transformer(torch.cat(parts, dim=1))[:, 0])


register("late_fusion", LateFusionRecogniser, "mean of one network a modality (set encoders=...)")
register("mid_fusion", MidFusionRecogniser, "transformer over tokens of all modalities, with missing tokens")
