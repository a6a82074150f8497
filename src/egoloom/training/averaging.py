"""Exponential moving average of the weights, evaluated and saved in place of the last ones."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from egoloom._distributed import sharded_like


class WeightAverage:
    """Keeps ``average <- decay * average + (1 - decay) * weights``; buffers are copied.

    The decay is lowered in the first steps to (1 + n) / (10 + n), so that the random start is soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self.tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Takes in the weights after an optimiser step."""
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                self.tensors[name].lerp_(tensor, 1 - decay)
            else:
                self.tensors[name].copy_(tensor)

    @contextlib.contextmanager
    def swapped_into(self, model: nn.Module) -> Iterator[None]:
        """Lends the averaged weights to the model for the time of the block."""
        own = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        model.load_state_dict(self.tensors)
        try:
            yield
        finally:
            model.load_state_dict(own)

    def state(self) -> dict[str, Tensor]:
        """Returns what a checkpoint keeps; sharded as the weights are."""
        tensors = {f"average/{name}": tensor for name, tensor in self.tensors.items()}
        return tensors | {"average_updates": torch.tensor(self.num_updates)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Puts back what ``state`` returned, made whole."""
        for name, tensor in self.tensors.items():
            tensor.copy_(sharded_like(state[f"average/{name}"], tensor))
        self.num_updates = int(state["average_updates"])
