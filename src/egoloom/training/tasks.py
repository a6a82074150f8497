"""What is optimised: a task turns a batch into a loss. Distillation has its own in `egoloom.distillation.task`."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Batch = Mapping[str, Any]


class Task(Protocol):
    """A way of teaching a network."""

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Returns named losses, means over the batch; ``"total"`` is the one that is optimised."""
        ...


def network_inputs(batch: Batch) -> dict[str, Any]:
    """Returns what a recogniser reads: the modalities, which of them are present, and which clips are generated."""
    return {**batch["inputs"], "present": batch["present"], "is_generated": batch["is_generated"]}


class LabelTask:
    """Cross-entropy on labels, the mean over heads; unlabelled clips of a head do not count.

    Args:
        head_weights: Weight of each head's cross-entropy.
        label_smoothing: Share of the target mass that is spread over all classes.
        generated_weight: Weight of generated clips against 1 for recorded ones.
    """

    def __init__(
        self, head_weights: Mapping[str, float], *, label_smoothing: float = 0.0, generated_weight: float = 1.0
    ) -> None:
        self.head_weights = dict(head_weights)
        self.label_smoothing = label_smoothing
        self.generated_weight = generated_weight

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """See `Task.loss`."""
        logits = model(network_inputs(batch))
        weights_B = torch.where(batch["is_generated"], self.generated_weight, 1.0)
        losses: dict[str, Tensor] = {}
        for head, weight in self.head_weights.items():
            per_sample_B = F.cross_entropy(
                logits[head].float(),
                batch["labels"][head],
                ignore_index=-1,
                reduction="none",
                label_smoothing=self.label_smoothing,
            )
            labelled_B = (batch["labels"][head] != -1) * weights_B
            losses[head] = weight * (per_sample_B * labelled_B).sum() / labelled_B.sum().clamp(min=1e-8)
        return {"total": torch.stack(list(losses.values())).mean(), **losses}
