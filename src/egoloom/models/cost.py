"""What a network costs: multiply-accumulates of one forward pass."""

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from egoloom.models.base import Inputs


def count_gmacs(model: nn.Module, inputs: Inputs) -> float:
    """Returns the multiply-accumulates of one forward pass, in units of 10^9.

    Counts convolutions and matrix products (half of PyTorch's flop count), as published tables do. Fused attention and
    the fused encoder layer are switched off meanwhile, because the counter does not see into them.
    """
    was_training, had_fastpath = model.training, torch.backends.mha.get_fastpath_enabled()
    model.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(had_fastpath)
        model.train(was_training)
    return counter.get_total_flops() / 2e9
