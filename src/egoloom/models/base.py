"""The recogniser that every network of EgoLoom is: inputs by modality in, logits by head out.

Shape letters: B batch, T frames, C channels, H height, W width, D features, K classes, M modalities, N tokens.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn

from egoloom.errors import UserError

Inputs = Mapping[str, Any]
"""Modality name to tensor (boxes: to a dictionary of tensors); ``"present"`` may map modality to bool [B]."""


class RecogniserConfig(BaseModel):
    """What every recogniser's configuration holds: the heads with their class counts.

    Attributes:
        num_classes: Head to number of classes.
        dropout: Before the classifiers.
        domain_token: Learn a vector that is added to the features of generated clips while training, so that what sets
            them apart need not be learnt by the encoder; recorded clips never see it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_classes: dict[str, PositiveInt] = Field(min_length=1)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    domain_token: bool = False


class Recogniser(nn.Module):
    """Base of all recognisers: an encoder of one or several modalities and one linear classifier a head.

    A subclass sets ``Config``, calls ``build_heads`` at the end of its constructor and implements
    ``forward_tokens`` (or ``forward_features`` where it has no tokens).

    Attributes:
        config: The frozen configuration; ``type(model)(model.config)`` builds the same network.
        input_modalities: Keys that ``forward`` reads from its inputs.
        architecture: Name in the registry.
        extra: Free JSON content that travels with the weights (class names, fitted temperatures).
    """

    Config: ClassVar[type[Any]] = RecogniserConfig
    # accelerate's name for the classes of blocks that FSDP shards one by one; what is left is one more part.
    _no_split_modules: ClassVar[tuple[str, ...]] = ()
    architecture: str = ""

    def __init__(self, config: RecogniserConfig, *, input_modalities: tuple[str, ...]) -> None:
        super().__init__()
        self.config = config
        self.input_modalities = input_modalities
        self.extra: dict[str, Any] = {}
        self.num_features = 0
        self.dropout = nn.Dropout(config.dropout)
        self.classifiers = nn.ModuleDict()
        self.domain_token: nn.Parameter | None = None

    @property
    def heads(self) -> dict[str, int]:
        """Head name to number of classes."""
        return dict(self.config.num_classes)

    def build_heads(self, num_features: int) -> None:
        """Makes one classifier a head on features of the given size, and the domain token if there is to be one."""
        self.num_features = num_features
        if self.config.domain_token and self.domain_token is None:
            self.domain_token = nn.Parameter(torch.zeros(num_features))
        self.classifiers = nn.ModuleDict(
            {head: self.make_classifier(count) for head, count in self.config.num_classes.items()}
        )

    def make_classifier(self, num_classes: int) -> nn.Module:
        """Returns a fresh classifier from ``[B, num_features]`` to ``[B, num_classes]``."""
        return nn.Linear(self.num_features, num_classes)

    def reset_classifier(self, num_classes: dict[str, int]) -> None:
        """Replaces all heads by fresh ones; the encoder keeps its weights."""
        content = {**self.config.model_dump(), "num_classes": num_classes}
        self.config = type(self.config).model_validate(content)
        device = next(self.parameters()).device
        self.build_heads(self.num_features)
        self.classifiers.to(device)

    def forward_tokens(self, inputs: Inputs) -> Tensor:
        """Returns a sequence of features ``[B, N, D]`` in the order of time.

        Raises:
            UserError: If the network has none, as those that fuse modalities.
        """
        raise UserError(
            f"{self.architecture or type(self).__name__} gives one feature vector a clip and no sequence",
            allowed="networks of one modality as encoders of mid_fusion",
        )

    def forward_features(self, inputs: Inputs) -> Tensor:
        """Returns one feature vector a clip, ``[B, D]``: the mean of the tokens unless a subclass differs."""
        return self.forward_tokens(inputs).mean(dim=1)

    def forward_head(self, features_BD: Tensor) -> dict[str, Tensor]:
        """Returns logits ``[B, K]`` for each head from the features of ``forward_features``."""
        features_BD = self.dropout(features_BD)
        return {head: classifier(features_BD) for head, classifier in self.classifiers.items()}

    def forward(self, inputs: Inputs) -> dict[str, Tensor]:
        """Returns logits ``[B, K]`` for each head.

        Args:
            inputs: Modality name to tensor; at least the names in ``input_modalities``. ``"is_generated"``, bool
                ``[B]``, says which clips get the domain token; further keys are ignored.

        Raises:
            ValueError: If a modality that the network reads is missing.
        """
        features_BD = self.forward_features(inputs)
        if self.domain_token is not None and "is_generated" in inputs:
            features_BD = features_BD + inputs["is_generated"].to(features_BD)[:, None] * self.domain_token
        return self.forward_head(features_BD)

    def read(self, inputs: Inputs, modality: str) -> Any:
        """Returns the input of one modality.

        Raises:
            ValueError: If it is missing.
        """
        if modality not in inputs:
            raise ValueError(
                f"{self.architecture or type(self).__name__} needs the modality {modality!r}; "
                f"the inputs hold {sorted(inputs)}"
            )
        return inputs[modality]

    def save_pretrained(
        self, folder: str | Path, *, extra: dict[str, Any] | None = None, weights: Mapping[str, Tensor] | None = None
    ) -> Path:
        """Writes ``model.safetensors`` and ``config.json`` atomically; see `egoloom.models.pretrained`."""
        from egoloom.models.pretrained import save_pretrained

        return save_pretrained(self, folder, extra=extra, weights=weights)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Returns the recogniser that ``save_pretrained`` wrote, in evaluation mode.

        Raises:
            UserError: If the folder holds no recogniser, or one of another class than the one asked.
        """
        from egoloom.models.pretrained import load_pretrained

        return load_pretrained(folder, expected=cls)


def num_parameters(model: nn.Module) -> int:
    """Returns the number of parameters of a module."""
    return sum(parameter.numel() for parameter in model.parameters())


def batch_size_of(value: Any) -> int:
    """Returns B of a modality's input, be it a tensor or a dictionary of tensors."""
    tensor = next(iter(value.values())) if isinstance(value, Mapping) else value
    return tensor.shape[0]


def take_rows(value: Any, index_B: Tensor) -> Any:
    """Returns the chosen batch rows of a modality's input, be it a tensor or a dictionary of tensors."""
    if isinstance(value, Mapping):
        return {name: tensor[index_B] for name, tensor in value.items()}
    return value[index_B]


def presence(inputs: Inputs, modalities: tuple[str, ...]) -> Tensor:
    """Returns which sample has which modality, bool ``[B, M]``.

    A modality without a key is absent everywhere; one with a key is present unless ``inputs["present"]`` says
    otherwise.

    Raises:
        ValueError: If none of the modalities is there at all.
    """
    given = [name for name in modalities if name in inputs]
    if not given:
        raise ValueError(f"None of the modalities {list(modalities)} is in the inputs {sorted(inputs)}")
    value = inputs[given[0]]
    tensor = next(iter(value.values())) if isinstance(value, Mapping) else value
    flags = inputs.get("present", {})
    rows = torch.zeros(tensor.shape[0], len(modalities), dtype=torch.bool, device=tensor.device)
    for column, name in enumerate(modalities):
        if name in inputs:
            rows[:, column] = flags[name].to(rows) if name in flags else True
    return rows
