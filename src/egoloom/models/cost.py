"""What a network costs: multiply-accumulates of one forward pass."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from egoloom.models.base import Inputs


def count_gmacs(model: nn.Module, inputs: Inputs) -> float:
    """Returns the multiply-accumulates of one forward pass, in units of 10^9.

    Counts convolutions and matrix products (half of PyTorch's flop count), as published tables do.
    """
    was_training = model.training
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(inputs)
    model.train(was_training)
    return counter.get_total_flops() / 2e9
