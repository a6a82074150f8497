"""Spectrogram networks: log-mel ``[B, 1, num_mels, num_columns]`` as a picture with a frequency axis.

Shape letters: B batch, C channels, F frequency, L time columns, D features.
"""

import torch
from pydantic import Field
from torch import Tensor

from egoloom.models.base import Inputs, Recogniser, RecogniserConfig
from egoloom.models.edge import ConvNormAct, EdgeTrunk, initialise_convolutions
from egoloom.models.registry import register


class SpectrogramConfig(RecogniserConfig):
    """Size of a spectrogram network and the statistics of its log-mel input (natural logarithm of power + 1e-6)."""

    widths: tuple[int, ...] = Field(default=(16, 32, 48), min_length=1)
    depths: tuple[int, ...] = Field(default=(1, 1, 1), min_length=1)
    log_mel_mean: float = -6.0
    log_mel_std: float = Field(default=4.0, gt=0)


class SpectrogramRecogniser(Recogniser):
    """Residual network over a spectrogram; a second channel tells each row its frequency.

    Pooling forgets where a feature lay on the frequency axis, but pitch matters; the coordinate keeps it.
    """

    Config = SpectrogramConfig
    config: SpectrogramConfig

    def __init__(self, config: SpectrogramConfig) -> None:
        super().__init__(config, input_modalities=("spectrogram",))
        self.stem = ConvNormAct(2, config.widths[0], kernel=3, stride=2, norm="batch")
        self.trunk = EdgeTrunk(config.widths, config.depths)
        initialise_convolutions(self)
        self.build_heads(config.widths[-1])

    def forward_tokens(self, inputs: Inputs) -> Tensor:
        """Returns one token a group of columns, ``[B, L', D]``."""
        x_BCFL = self.read(inputs, "spectrogram")
        if x_BCFL.ndim != 4 or x_BCFL.shape[1] != 1:
            raise ValueError(f"A spectrogram must be [B, 1, num_mels, num_columns], got {list(x_BCFL.shape)}")
        x_BCFL = (x_BCFL.float() - self.config.log_mel_mean) / self.config.log_mel_std
        frequency_F = torch.linspace(-1.0, 1.0, x_BCFL.shape[2], device=x_BCFL.device)
        coordinate = torch.zeros_like(x_BCFL) + frequency_F[:, None]
        features = self.trunk(self.stem(torch.cat([x_BCFL, coordinate], dim=1)), num_frames=1)
        return features.mean(dim=2).transpose(1, 2)


register("spectrogram_tiny", SpectrogramRecogniser, "0.09 M parameters: audio teacher for tests and the kitchen")
register(
    "spectrogram_small",
    SpectrogramRecogniser,
    "1.2 M parameters: audio teacher",
    widths=(32, 64, 96, 176),
    depths=(1, 1, 1, 1),
)
