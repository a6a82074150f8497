"""Quantisation-aware training: convolutions feel the rounding of int8 while they learn.

Weights are rounded per output channel, activations per tensor over the range of their batch; gradients pass straight
through (Jacob et al., CVPR 2018, arXiv 1712.05877, section 3). Rounding per channel commutes with the batch norm that
an export folds into the weights, so nothing needs to be folded here. Names of weights stay, evaluation stays in fp32,
and no state is kept: export with ``--precision int8`` calibrates as always.
"""

import functools

import torch
from torch import Tensor, nn

MAX_WEIGHT, MAX_ACTIVATION = 127, 255
TINY = 1e-8


def round_weight(weight_OIHW: Tensor) -> Tensor:
    """Returns a kernel whose output channels are rounded to 255 symmetric levels each."""
    scale_O = weight_OIHW.detach().flatten(1).abs().amax(dim=1).clamp_min(TINY) / MAX_WEIGHT
    zero_O = torch.zeros_like(scale_O, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight_OIHW, scale_O, zero_O, 0, -MAX_WEIGHT, MAX_WEIGHT)


def round_activation(x: Tensor) -> Tensor:
    """Returns a tensor rounded to 256 levels over its own range, which always holds 0."""
    low, high = x.detach().amin().clamp(max=0), x.detach().amax().clamp(min=0)
    scale = ((high - low) / MAX_ACTIVATION).clamp_min(TINY)
    zero = (-low / scale).round().to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, MAX_ACTIVATION)


def make_quantisation_aware(model: nn.Module) -> int:
    """Lets every 2-D convolution but the first (exports keep the stem in fp32) round while training.

    Returns:
        The number of convolutions that round.

    Raises:
        ValueError: If there is none.
    """
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)][1:]
    if not convolutions:
        raise ValueError(f"{type(model).__name__} has no 2-D convolutions that int8 would round")
    for convolution in convolutions:
        convolution._conv_forward = functools.partial(_rounded_forward, convolution)  # type: ignore[method-assign]
    return len(convolutions)


def _rounded_forward(convolution: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if convolution.training:
        x, weight = round_activation(x.float()), round_weight(weight.float())
    return nn.Conv2d._conv_forward(convolution, x, weight, bias)
