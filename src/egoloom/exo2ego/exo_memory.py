"""Keys and values of exo tokens, computed once a clip instead of at every denoising step.

Exo latents are clean at every step. Where exo tokens attend to exo tokens only and are modulated for time 0, nothing in
them depends on the step or on the ego half, so that steps compute ego tokens alone (36 % of the tokens at full size). A
model must be trained so: with the published weights exo tokens see ego tokens, and the time of the step.

Legend: B batch, H heads, K exo tokens, D head width.
"""

import torch


class ExoMemory:
    """Keys and values ``[B, H, K, D]`` of every layer, for one text branch. Filled by a pass over the exo tokens."""

    def __init__(self) -> None:
        self.is_filled = False
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def keep(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Keeps what a layer computed."""
        self._layers[layer] = (key, value)

    def recall(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns keys and values of a layer."""
        return self._layers[layer]

    @property
    def num_bytes(self) -> int:
        """Size of what is kept."""
        return sum(part.numel() * part.element_size() for pair in self._layers.values() for part in pair)
