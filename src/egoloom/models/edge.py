"""Edge students: dense 2-D convolutions with a temporal shift, from 0.08 to 9 M parameters.

2-D convolutions run everywhere (phones have no fast 3-D ones), dense ones train fast on a CPU, and the shift brings
time at no multiplication: TSM, Lin et al., ICCV 2019 (arXiv 1811.08383), residual variant.

Shape letters: B batch, T frames, N = B * T, C channels, H height, W width, D features.
"""

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from egoloom.models.base import Inputs, Recogniser, RecogniserConfig
from egoloom.models.frames import FrameNormalisation, default_statistics
from egoloom.models.registry import register

ShiftDirection = Literal["causal", "bidirectional", "none"]
NormName = Literal["batch", "group"]


class EdgeConfig(RecogniserConfig):
    """Size and wiring of an edge student.

    Attributes:
        input_modality: Which input it reads; both are ``[B, T, 3, H, W]`` in 0..255.
        widths: Channels of the stages; each stage but the first halves height and width.
        depths: Residual blocks of the stages.
        patch_px: Size and stride of the stem's patches.
        temporal_shift: ``causal`` sees the past only (streaming), ``bidirectional`` both neighbours.
        shift_fraction: Share of channels that is shifted in each direction.
        pixel_mean: One value a channel on 0..1; the modality's default where not given.
        pixel_std: As ``pixel_mean``.
    """

    input_modality: Literal["rgb", "flow"] = "rgb"
    widths: tuple[int, ...] = Field(default=(16, 32, 48), min_length=1)
    depths: tuple[int, ...] = Field(default=(1, 1, 1), min_length=1)
    patch_px: int = Field(default=4, ge=1)
    temporal_shift: ShiftDirection = "bidirectional"
    shift_fraction: float = Field(default=0.125, gt=0.0, le=0.5)
    norm: NormName = "batch"
    pixel_mean: tuple[float, float, float] | None = None
    pixel_std: tuple[float, float, float] | None = None

    @model_validator(mode="after")
    def _same_number_of_stages(self) -> "EdgeConfig":
        if len(self.widths) != len(self.depths):
            raise ValueError(f"{len(self.widths)} widths but {len(self.depths)} depths")
        return self


class TemporalShift(nn.Module):
    """Moves a share of the channels one frame on (and another share one frame back); holds no weights.

    Args:
        num_channels: Channels of the input.
        fraction: Share of channels moved in each direction, rounded down but at least one.
        direction: See `EdgeConfig.temporal_shift`.
    """

    def __init__(self, num_channels: int, fraction: float, direction: ShiftDirection) -> None:
        super().__init__()
        self.num_shifted = 0 if direction == "none" else max(1, int(num_channels * fraction))
        self.direction = direction

    def forward(self, x_NCHW: Tensor, num_frames: int) -> Tensor:
        """Returns the shifted tensor; the first frame's past and the last frame's future are zero."""
        if self.num_shifted == 0 or (num_frames == 1 and self.direction == "none"):
            return x_NCHW
        n = self.num_shifted
        x = x_NCHW.unflatten(0, (-1, num_frames))
        past = x[:, :, :n]
        empty = torch.zeros_like(past[:, :1])
        parts = [torch.cat([empty, past[:, :-1]], dim=1)]
        if self.direction == "bidirectional":
            future = x[:, :, n : 2 * n]
            parts.append(torch.cat([future[:, 1:], empty], dim=1))
            n = 2 * n
        parts.append(x[:, :, n:])
        return torch.cat(parts, dim=2).flatten(0, 1)


def make_norm(name: NormName, num_channels: int) -> nn.Module:
    """Returns batch norm, or group norm with groups of eight channels."""
    return nn.BatchNorm2d(num_channels) if name == "batch" else nn.GroupNorm(num_channels // 8, num_channels)


class ConvNormAct(nn.Sequential):
    """Convolution without bias, norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, *, kernel: int, stride: int, norm: NormName) -> None:
        padding = 0 if kernel == stride else kernel // 2
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False),
            make_norm(norm, out_channels),
            nn.ReLU(inplace=True),
        )


class ShiftBlock(nn.Module):
    """Residual block of two dense 3x3 convolutions whose branch sees shifted channels."""

    def __init__(self, width: int, *, fraction: float, direction: ShiftDirection, norm: NormName) -> None:
        super().__init__()
        self.shift = TemporalShift(width, fraction, direction)
        self.conv1 = ConvNormAct(width, width, kernel=3, stride=1, norm=norm)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = make_norm(norm, width)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x_NCHW: Tensor, num_frames: int) -> Tensor:
        """Returns a tensor of the input's shape."""
        branch = self.norm2(self.conv2(self.conv1(self.shift(x_NCHW, num_frames))))
        return self.act(x_NCHW + branch)


class EdgeTrunk(nn.Module):
    """The stages behind a stem; frames of one clip lie next to each other in the batch."""

    def __init__(
        self,
        widths: tuple[int, ...],
        depths: tuple[int, ...],
        *,
        fraction: float = 0.125,
        direction: ShiftDirection = "none",
        norm: NormName = "batch",
    ) -> None:
        super().__init__()
        self.downsamples = nn.ModuleList(
            nn.Identity() if i == 0 else ConvNormAct(widths[i - 1], width, kernel=3, stride=2, norm=norm)
            for i, width in enumerate(widths)
        )
        self.stages = nn.ModuleList(
            nn.ModuleList(ShiftBlock(width, fraction=fraction, direction=direction, norm=norm) for _ in range(depth))
            for width, depth in zip(widths, depths, strict=True)
        )

    def forward(self, x_NCHW: Tensor, num_frames: int) -> Tensor:
        """Returns features ``[N, widths[-1], H / 2^(stages-1), W / 2^(stages-1)]``."""
        for downsample, stage in zip(self.downsamples, self.stages, strict=True):
            x_NCHW = downsample(x_NCHW)
            for block in stage:  # type: ignore[attr-defined]
                x_NCHW = block(x_NCHW, num_frames)
        return x_NCHW


def initialise_convolutions(module: nn.Module) -> None:
    """Draws convolution weights after He et al. (fan out), as is usual before a ReLU."""
    for part in module.modules():
        if isinstance(part, nn.Conv1d | nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)


class EdgeRecogniser(Recogniser):
    """The network that ships: RGB (or flow) frames ``[B, T, 3, H, W]`` in 0..255, any T, H, W."""

    Config = EdgeConfig
    _no_split_modules = ("ShiftBlock",)
    config: EdgeConfig

    def __init__(self, config: EdgeConfig) -> None:
        super().__init__(config, input_modalities=(config.input_modality,))
        mean, std = default_statistics(config.input_modality)
        self.normalise = FrameNormalisation(config.pixel_mean or mean, config.pixel_std or std)
        self.stem = ConvNormAct(3, config.widths[0], kernel=config.patch_px, stride=config.patch_px, norm=config.norm)
        self.trunk = EdgeTrunk(
            config.widths,
            config.depths,
            fraction=config.shift_fraction,
            direction=config.temporal_shift,
            norm=config.norm,
        )
        initialise_convolutions(self)
        self.build_heads(config.widths[-1])

    def forward_tokens(self, inputs: Inputs) -> Tensor:
        """Returns one token a frame, ``[B, T, D]``."""
        frames_BTCHW = self.normalise(self.read(inputs, self.config.input_modality))
        num_frames = frames_BTCHW.shape[1]
        x_NCHW = self.trunk(self.stem(frames_BTCHW.flatten(0, 1)), num_frames)
        return x_NCHW.mean(dim=(2, 3)).unflatten(0, (-1, num_frames))


register("edge_tiny", EdgeRecogniser, "0.08 M parameters: tests and demo")
register(
    "edge_small",
    EdgeRecogniser,
    "1.0 M parameters: microcontrollers with a neural unit",
    widths=(24, 48, 96, 176),
    depths=(1, 1, 1, 1),
)
register(
    "edge_base",
    EdgeRecogniser,
    "3.1 M parameters: the usual student",
    widths=(40, 80, 160, 288),
    depths=(1, 1, 2, 1),
)
register(
    "edge_large",
    EdgeRecogniser,
    "8.6 M parameters: phones",
    widths=(64, 128, 256, 480),
    depths=(1, 2, 2, 1),
)
