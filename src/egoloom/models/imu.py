"""IMU networks: acceleration and rotation rate ``[B, 6, L]`` (m/s², rad/s).

Shape letters: B batch, C channels, L samples, D features.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from egoloom.models.base import Inputs, Recogniser, RecogniserConfig
from egoloom.models.edge import initialise_convolutions
from egoloom.models.registry import register

STANDARD_GRAVITY = 9.80665


class ImuConfig(RecogniserConfig):
    """Size of an IMU network; the scales bring both sensors to the order of one."""

    widths: tuple[int, ...] = Field(default=(32, 48, 64, 64), min_length=1)
    kernel: int = Field(default=5, ge=1)
    acceleration_scale: float = Field(default=STANDARD_GRAVITY, gt=0)
    rotation_scale: float = Field(default=1.0, gt=0)


class ImuRecogniser(Recogniser):
    """Strided 1-D convolutions over the six channels of an inertial sensor."""

    Config = ImuConfig
    config: ImuConfig

    def __init__(self, config: ImuConfig) -> None:
        super().__init__(config, input_modalities=("imu",))
        scale = torch.tensor([config.acceleration_scale] * 3 + [config.rotation_scale] * 3).view(1, 6, 1)
        self.register_buffer("scale", scale, persistent=False)
        layers: list[nn.Module] = []
        in_channels = 6
        for width in config.widths:
            layers += [
                nn.Conv1d(in_channels, width, config.kernel, stride=2, padding=config.kernel // 2, bias=False),
                nn.BatchNorm1d(width),
                nn.ReLU(inplace=True),
            ]
            in_channels = width
        self.layers = nn.Sequential(*layers)
        initialise_convolutions(self)
        self.build_heads(config.widths[-1])

    def forward_tokens(self, inputs: Inputs) -> Tensor:
        """Returns one token for every ``2^len(widths)`` samples, ``[B, L', D]``."""
        x_BCL = self.read(inputs, "imu")
        if x_BCL.ndim != 3 or x_BCL.shape[1] != 6:
            raise ValueError(f"IMU input must be [B, 6, L], got {list(x_BCL.shape)}")
        return self.layers(x_BCL.float() / self.get_buffer("scale")).transpose(1, 2)


register("imu_tiny", ImuRecogniser, "0.05 M parameters: inertial teacher or IMU-only student")
register("imu_small", ImuRecogniser, "0.5 M parameters: inertial teacher", widths=(64, 96, 128, 192, 256))
