"""Networks as devices run them: normalisation and batch norm folded into convolutions, temperature applied.

Shape letters: B batch, T frames, C channels, H height, W width, K classes, n shifted channels.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from egoloom.deployment.card import InputCard
from egoloom.errors import UserError
from egoloom.models import Recogniser
from egoloom.models.edge import ConvNormAct, EdgeRecogniser, ShiftBlock
from egoloom.models.frames import FrameNormalisation

TRACE_BATCH = 2  # a batch of one would be burnt into the traced graph


@dataclass
class Graph:
    """A network to convert: its example inputs by name (batch first), its outputs' names, and where it came from."""

    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]
    source: Recogniser


class ToFloat(nn.Module):
    """Stands where normalisation was before it moved into the stem."""

    def forward(self, frames_BTCHW: Tensor) -> Tensor:
        """Returns the frames as float32."""
        return frames_BTCHW.float()


def folded(model: Recogniser) -> Recogniser:
    """Returns a copy for inference with fewer operations and the same outputs up to rounding.

    Batch norm moves into the convolution before it, and the frames' normalisation into the stem, which is exact because
    the stem's patches do not overlap the border. Networks other than edge students are copied unchanged.
    """
    model = copy.deepcopy(model).eval().float()
    if not isinstance(model, EdgeRecogniser):
        return model
    for part in model.modules():
        if isinstance(part, ConvNormAct) and isinstance(part[1], nn.BatchNorm2d):
            part[0], part[1] = _fused(part[0], part[1]), nn.Identity()
        if isinstance(part, ShiftBlock) and isinstance(part.norm2, nn.BatchNorm2d):
            part.conv2, part.norm2 = _fused(part.conv2, part.norm2), nn.Identity()
    model.stem[0] = _with_normalisation(model.stem[0], model.normalise)
    model.normalise = ToFloat()  # type: ignore[assignment]
    return model


def _fused(convolution: nn.Module, norm: nn.Module) -> nn.Conv2d:
    return fuse_conv_bn_eval(convolution, norm)  # type: ignore[type-var,return-value]


def _with_normalisation(convolution: nn.Module, normalise: FrameNormalisation) -> nn.Conv2d:
    """W * (scale x + offset) + b = (W scale) * x + (b + sum(W offset))."""
    assert isinstance(convolution, nn.Conv2d)
    assert convolution.padding in ((0, 0), 0), "folding an offset needs a convolution without padding"
    scale, offset = (values.double().view(1, -1, 1, 1) for values in affine_of(normalise))
    fresh = copy.deepcopy(convolution)
    weight = convolution.weight.detach().double()
    bias = convolution.bias.detach().double() if convolution.bias is not None else 0.0
    fresh.weight = nn.Parameter((weight * scale).float())
    fresh.bias = nn.Parameter((bias + (weight * offset).sum(dim=(1, 2, 3))).float())
    return fresh


@torch.no_grad()
def affine_of(normalise: FrameNormalisation) -> tuple[Tensor, Tensor]:
    """Returns scale and offset ``[C]`` of a normalisation, asked by example so that its inner form may change."""
    num_channels = normalise.get_buffer("scale").numel()
    black = normalise(torch.zeros(1, 1, num_channels, 1, 1)).flatten()
    white = normalise(torch.full((1, 1, num_channels, 1, 1), 255.0)).flatten()
    return (white - black) / 255.0, black


class ClipGraph(nn.Module):
    """Frames ``uint8 [B, T, 3, H, W]`` to calibrated log-probabilities ``[B, K]``, one output a head."""

    def __init__(self, model: Recogniser, temperature: Mapping[str, float]) -> None:
        super().__init__()
        self.model = folded(model)
        self.temperature = {head: float(temperature.get(head, 1.0)) for head in model.heads}

    def forward(self, rgb: Tensor) -> tuple[Tensor, ...]:
        """Returns the log-probabilities in the order of the heads."""
        logits = self.model({"rgb": rgb})
        return tuple(torch.log_softmax(logits[head] / self.temperature[head], dim=-1) for head in self.temperature)


class StepGraph(nn.Module):
    """One frame of a stream: ``uint8 [B, 3, H, W]`` and each block's cached channels ``[B, n, h, w]``.

    Returns each head's logits over temperature ``[B, K]`` and the new caches. Because classifiers are linear, the mean
    of these logits over the last T frames equals the logits of a clip's mean feature; a log-softmax of that mean gives
    the calibrated scores. Starting from zero caches, T frames give exactly what a clip of these T frames gives.
    """

    def __init__(self, model: EdgeRecogniser, temperature: Mapping[str, float]) -> None:
        super().__init__()
        self.model = folded(model)
        self.temperature = {head: float(temperature.get(head, 1.0)) for head in model.heads}

    def forward(self, frame: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Returns ``(*logits, *new_states)``."""
        model = self.model
        x_BCHW = model.stem(frame.float())  # type: ignore[operator]
        fresh: list[Tensor] = []
        remaining = iter(states)
        for downsample, stage in zip(model.trunk.downsamples, model.trunk.stages, strict=True):  # type: ignore[union-attr,arg-type]
            x_BCHW = downsample(x_BCHW)
            for block in stage:
                n = block.shift.num_shifted
                shifted = x_BCHW
                if n:
                    fresh.append(x_BCHW[:, :n])
                    shifted = torch.cat([next(remaining), x_BCHW[:, n:]], dim=1)
                branch = block.norm2(block.conv2(block.conv1(shifted)))
                x_BCHW = block.act(x_BCHW + branch)
        logits = model.forward_head(x_BCHW.mean(dim=(2, 3)))
        return (*(logits[head] / value for head, value in self.temperature.items()), *fresh)


def clip_graph(
    model: Recogniser, temperature: Mapping[str, float], card: InputCard, *, batch: int = TRACE_BATCH
) -> Graph:
    """Returns the graph of a whole clip.

    Raises:
        UserError: If the network reads anything else than RGB.
    """
    require_rgb(model)
    generator = torch.Generator().manual_seed(0)
    shape = (batch, card.num_frames, 3, card.size_px, card.size_px)
    frames = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return Graph(ClipGraph(model, temperature).eval(), {"rgb": frames}, tuple(model.heads), model)


def require_rgb(model: Recogniser) -> None:
    """Raises UserError if a network reads anything else than RGB."""
    if tuple(model.input_modalities) != ("rgb",):
        raise UserError(
            f"Only RGB networks ship to devices; {model.architecture} reads {', '.join(model.input_modalities)}",
            fix="distil it into an RGB student: egoloom distill",
        )


def why_not_streaming(model: Recogniser) -> str | None:
    """Returns the reason why a network cannot run frame by frame, or None if it can."""
    if not isinstance(model, EdgeRecogniser):
        return f"{model.architecture} has no temporal shift whose features could be cached"
    if model.config.temporal_shift == "bidirectional":
        return "its temporal shift looks into the future (bidirectional)"
    if not all(isinstance(classifier, nn.Linear) for classifier in model.classifiers.values()):
        return "its classifiers are not linear"
    return None


def step_graph(
    model: Recogniser, temperature: Mapping[str, float], card: InputCard, *, batch: int = TRACE_BATCH
) -> Graph:
    """Returns the graph of one frame of a stream.

    Raises:
        UserError: If the network is not causal.
    """
    reason = why_not_streaming(model)
    if reason or not isinstance(model, EdgeRecogniser):
        raise UserError(
            f"This network cannot stream: {reason}",
            fix='train it with --model.options \'{"temporal_shift": "causal"}\' and export again',
        )
    step = StepGraph(model, temperature).eval()
    states = {
        f"state_{index}": torch.zeros(batch, *shape) for index, shape in enumerate(state_shapes(model, card.size_px))
    }
    frame = torch.randint(
        0, 256, (batch, 3, card.size_px, card.size_px), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    outputs = (*model.heads, *(f"new_{name}" for name in states))
    return Graph(step, {"frame": frame, **states}, outputs, model)


def state_shapes(model: EdgeRecogniser, size_px: int) -> list[tuple[int, int, int]]:
    """Returns ``(n, h, w)`` of each cached feature map for square frames of a size."""
    shapes = []
    side = (size_px - model.config.patch_px) // model.config.patch_px + 1
    for index, stage in enumerate(model.trunk.stages):
        side = side if index == 0 else (side - 1) // 2 + 1
        for block in stage:  # type: ignore[attr-defined]
            if block.shift.num_shifted:
                shapes.append((block.shift.num_shifted, side, side))
    return shapes
