"""Layer-wise learning rates: early layers, which pretraining has taught most, move least.

The rate of a layer is ``decay ** (number of layers above it)`` of the full one (ELECTRA, arXiv 2003.10555; BEiT,
arXiv 2106.08254). Layers are told apart by the numbers in their weights' names: ``backbone.layers.1.blocks.0`` comes
before ``backbone.layers.1.blocks.1``; what has no number lies below the first numbered layer or above the last one.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch

NUMBER = re.compile(r"\.(\d+)(?=\.)")
HEAD = "classifiers."


def parameter_groups(
    model: torch.nn.Module, weight_decay: float, *, layer_decay: float | None = None
) -> list[dict[str, Any]]:
    """Returns optimiser groups: matrices and kernels decay, norms, biases and position tables do not.

    With ``layer_decay`` each layer has groups of its own, whose ``rate_scale`` multiplies the learning rate.
    """
    scales = rate_scales([name for name, _ in model.named_parameters()], layer_decay or 1.0)
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        decays = parameter.ndim >= 2 and "position" not in name and "embedding" not in name
        empty = {"params": [], "weight_decay": weight_decay if decays else 0.0, "rate_scale": scales[name]}
        groups.setdefault((scales[name], decays), empty)["params"].append(parameter)
    return [groups[key] for key in sorted(groups, reverse=True)]


def rate_scales(names: Sequence[str], decay: float) -> dict[str, float]:
    """Returns the factor on the learning rate of every parameter.

    Args:
        names: Names of parameters in the order in which the network holds them.
        decay: Factor between neighbouring layers, in (0, 1].
    """
    body = [name for name in names if not name.startswith(HEAD)]
    numbered = [index for index, name in enumerate(body) if NUMBER.search(name)]
    first = numbered[0] if numbered else 0
    keys = {name: _key(name, is_stem=index < first) for index, name in enumerate(body)}
    layers = sorted(set(keys.values()))
    depths = {name: len(layers) - layers.index(key) for name, key in keys.items()}
    return {name: decay ** depths.get(name, 0) for name in names}


def _key(name: str, *, is_stem: bool) -> tuple[float, ...]:
    numbers = tuple(float(number) for number in NUMBER.findall(name)[:2])
    if not numbers:
        return (float("-inf"),) if is_stem else (float("inf"),)
    return numbers
