"""Batch norms that keep recorded and generated clips apart while a network learns from both.

A mixture's statistics belong to neither domain, and the network is only ever used on recorded video. So each domain is
normalised by its own batch, and the running statistics, which evaluation uses, are those of recorded clips; scale and
shift are shared (the auxiliary norm of AdvProp, Xie et al., CVPR 2020, arXiv 1911.09665, keeps those apart too).
Names and number of weights stay, and no state is kept.

Shape letters: B clips, N rows of a layer (clips, or the frames of each clip next to each other).
"""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egoloom.models import Recogniser

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
IS_GENERATED = "is_generated"


class _Domains:
    """Which clips of the batch at hand are generated; None where nobody said."""

    is_generated_B: Tensor | None = None


def separate_norms(model: Recogniser) -> int:
    """Lets every batch norm of a recogniser normalise recorded and generated clips apart while training.

    Args:
        model: Its inputs may hold ``"is_generated"``, bool ``[B]``; without it nothing changes.

    Returns:
        The number of norms.

    Raises:
        ValueError: If there is none, or the network gathers the rows of several modalities.
    """
    if len(model.input_modalities) > 1:
        raise ValueError(f"{type(model).__name__} reads {len(model.input_modalities)} modalities")
    norms = [module for module in model.modules() if isinstance(module, NORMS)]
    if not norms:
        raise ValueError(f"{type(model).__name__} has no batch norms")
    domains = _Domains()

    def remember(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        domains.is_generated_B = arguments[0].get(IS_GENERATED)

    def forget(*_: Any) -> None:
        domains.is_generated_B = None

    model.register_forward_pre_hook(remember)
    model.register_forward_hook(forget, always_call=True)
    for norm in norms:
        norm.forward = functools.partial(_normalise_apart, norm, domains)  # type: ignore[method-assign]
    return len(norms)


def _normalise_apart(norm: nn.BatchNorm2d, domains: _Domains, x: Tensor) -> Tensor:
    is_generated_B = domains.is_generated_B
    if not norm.training or is_generated_B is None or not is_generated_B.any():
        return type(norm).forward(norm, x)
    is_generated_N = is_generated_B.repeat_interleave(len(x) // len(is_generated_B))
    normalised = torch.empty_like(x)
    generated = F.batch_norm(x[is_generated_N], None, None, norm.weight, norm.bias, training=True, eps=norm.eps)
    normalised[is_generated_N] = generated.to(x.dtype)
    if not is_generated_B.all():
        normalised[~is_generated_N] = type(norm).forward(norm, x[~is_generated_N]).to(x.dtype)
    return normalised
