"""Distillation as a training task: teachers' verdicts are weighted and mixed into the student's soft targets.

Shape letters: B batch, M teachers, K classes.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from egoloom.distillation.cross_fitting import with_label_as_evidence
from egoloom.distillation.losses import DistillationLossConfig, distillation_loss
from egoloom.distillation.soft_labels import SoftLabelCache
from egoloom.distillation.teachers import TeacherEnsemble

Verdicts = Callable[[Mapping[str, Any]], dict[str, Tensor]]
"""A batch to every teacher's raw logits: head to ``[B, M, K]``, NaN where a teacher cannot judge."""


def cached_verdicts(cache: SoftLabelCache) -> Verdicts:
    """Returns verdicts that are looked up by clip and view seed; the batch needs the student's modalities only."""

    def look_up(batch: Mapping[str, Any]) -> dict[str, Tensor]:
        device = batch["view_seed"].device
        return {h: v.to(device) for h, v in cache.lookup(batch["clip_id"], batch["view_seed"]).items()}

    return look_up


def online_verdicts(ensemble: TeacherEnsemble) -> Verdicts:
    """Returns verdicts that are computed on the batch at hand, which must hold all the teachers' modalities."""

    def judge(batch: Mapping[str, Any]) -> dict[str, Tensor]:
        return ensemble.logits({**batch["inputs"], "present": batch["present"]}, batch["clip_id"])

    return judge


class DistillationTask:
    """The total loss of arXiv 2307.07483 (`distillation_loss`) for one batch.

    Args:
        ensemble: Weights and mixes the teachers.
        verdicts: Every teacher's logits, cached or online.
        config: The loss.
        generated_weight: Weight of generated clips in the soft-target term against 1 for recorded ones.
        label_noise: Share of wrong labels; None leaves the teachers' verdict as it is (`with_label_as_evidence`).
    """

    def __init__(
        self,
        ensemble: TeacherEnsemble,
        verdicts: Verdicts,
        config: DistillationLossConfig,
        *,
        generated_weight: float = 1.0,
        label_noise: float | None = None,
    ) -> None:
        self.ensemble, self.verdicts, self.config = ensemble, verdicts, config
        self.generated_weight, self.label_noise = generated_weight, label_noise

    def loss(self, model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Returns the losses of a batch: ``total``, ``kd`` and ``gt``."""
        student = model({**batch["inputs"], "present": batch["present"], "is_generated": batch["is_generated"]})
        verdicts = {head: values for head, values in self.verdicts(batch).items() if head in student}
        temperatures = {head: self.config.temperature_of(head) for head in verdicts}
        targets = self.ensemble.targets(verdicts, batch["labels"], temperatures=temperatures)
        soft = targets.logits
        if self.label_noise is not None:
            soft = {
                h: with_label_as_evidence(v, batch["labels"][h], label_noise=self.label_noise) for h, v in soft.items()
            }
        share_B = 1.0 + (self.generated_weight - 1.0) * batch["is_generated"].float()
        losses = distillation_loss(
            student,
            soft,
            batch["labels"],
            self.config,
            sample_weights={head: weights_B * share_B for head, weights_B in targets.sample_weights.items()},
        )
        return {"total": losses.total, "kd": losses.kd, "gt": losses.gt}
