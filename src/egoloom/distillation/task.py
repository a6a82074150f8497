"""Distillation as a training task: teachers' voices are weighted, mixed and become the student's soft targets."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from egoloom.distillation.losses import DistillationLossConfig, distillation_loss
from egoloom.distillation.soft_labels import TeacherVoices

Mixer = Callable[[str, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(head, logits [B, M, K], labels [B], present [B, M]) to (mixed logits [B, K], sample weights [B])."""


class DistillationTask:
    """The total loss of arXiv 2307.07483 for one batch.

    Args:
        voices: Every teacher's logits, cached or online.
        mix: Weights and mixes them.
        config: The loss.
        generated_weight: Weight of generated clips in the soft-target term against 1 for recorded ones.
    """

    def __init__(
        self, voices: TeacherVoices, mix: Mixer, config: DistillationLossConfig, *, generated_weight: float = 1.0
    ) -> None:
        self.voices, self.mix, self.config = voices, mix, config
        self.generated_weight = generated_weight

    def loss(self, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Returns the losses of a batch: ``total``, ``kd`` and ``gt``."""
        student = model({**batch["inputs"], "present": batch["present"]})
        voices, present_BM = self.voices(batch)
        targets, weights = {}, {}
        for head in student:
            if head in voices:
                targets[head], weights[head] = self.mix(head, voices[head], batch["labels"][head], present_BM)
                weights[head] = weights[head] * (1 + (self.generated_weight - 1) * batch["is_generated"])
        losses = distillation_loss(student, targets, batch["labels"], self.config, sample_weights=weights)
        return {"total": losses.total, "kd": losses.kd, "gt": losses.gt}
