"""The total loss of a distilled student over its heads: soft targets, labels, and what else is asked for.

Shape letters: B batch, K classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from egoloom.distillation.losses.logits import (
    decoupled_kd,
    dist_kd,
    joint_log_probs,
    joint_verb_noun_kd,
    logit_kd,
    masked_cross_entropy,
    standardize,
    standardized_kd,
)

KdKind = Literal["kd", "decoupled", "standardized", "standardized_decoupled", "dist"]


class DistillationLossConfig(BaseModel):
    """How soft targets and labels make one loss.

    Attributes:
        kind: The soft-target loss; see `egoloom.distillation.losses`.
        temperature: One for all heads, or head to temperature.
        lambda_distillation: Weight of the soft-target term.
        lambda_ground_truth: Weight of the label term.
        head_weights: Head to its weight in the label term; a head with None or 0 leaves both terms. Heads that are not
            named have weight 1. As in arXiv 2307.07483, these weights do not scale the soft-target term.
        kd_head_weights: Head to its weight in the soft-target term, 1 where not named.
        joint_weight: Weight of KD on the joint verb-noun distribution, added to the soft-target term.
        alpha: Target-class weight of ``decoupled``.
        beta: Other-class weight of ``decoupled``.
        label_smoothing: Of the label term.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: KdKind = "kd"
    temperature: float | dict[str, float] = 1.0
    lambda_distillation: float = Field(default=1.0, ge=0)
    lambda_ground_truth: float = Field(default=0.0, ge=0)
    head_weights: dict[str, float | None] = Field(default_factory=dict)
    kd_head_weights: dict[str, float] = Field(default_factory=dict)
    joint_weight: float = Field(default=0.0, ge=0)
    alpha: float = Field(default=1.0, ge=0)
    beta: float = Field(default=8.0, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)

    def temperature_of(self, head: str) -> float:
        """Returns the temperature of a head."""
        return self.temperature.get(head, 1.0) if isinstance(self.temperature, dict) else self.temperature

    def active_heads(self, heads: list[str]) -> list[str]:
        """Returns the heads whose weight is neither None nor 0."""
        return [head for head in heads if self.head_weights.get(head, 1.0)]


@dataclass(frozen=True)
class DistillationLosses:
    """The terms of one batch; ``total`` is what to differentiate."""

    kd: Tensor
    gt: Tensor
    total: Tensor
    per_head: dict[str, dict[str, Tensor]] = field(default_factory=dict)


def soft_target_loss(
    student_BK: Tensor,
    teacher_BK: Tensor,
    labels_B: Tensor | None,
    config: DistillationLossConfig,
    *,
    temperature: float,
    sample_weights_B: Tensor | None = None,
) -> Tensor:
    """Returns the soft-target loss of one head in the configured form.

    Unlabelled samples (-1) have no target class: for ``decoupled`` forms they are taught by plain KD.
    """
    if config.kind == "kd":
        return logit_kd(student_BK, teacher_BK, temperature=temperature, sample_weights_B=sample_weights_B)
    if config.kind == "dist":
        return dist_kd(student_BK, teacher_BK, temperature=temperature)
    if config.kind == "standardized":
        return standardized_kd(student_BK, teacher_BK, temperature=temperature, sample_weights_B=sample_weights_B)
    if config.kind == "standardized_decoupled":
        student_BK, teacher_BK = standardize(student_BK), standardize(teacher_BK)
    labels_B = torch.full_like(student_BK[:, 0], -1, dtype=torch.long) if labels_B is None else labels_B
    weights_B = torch.ones_like(labels_B, dtype=torch.float32) if sample_weights_B is None else sample_weights_B
    known_B = (labels_B >= 0).to(weights_B.dtype)
    decoupled = decoupled_kd(
        student_BK,
        teacher_BK,
        labels_B.clamp_min(0),
        temperature=temperature,
        alpha=config.alpha,
        beta=config.beta,
        sample_weights_B=weights_B * known_B,
    )
    plain = logit_kd(student_BK, teacher_BK, temperature=temperature, sample_weights_B=weights_B * (1 - known_B))
    return decoupled + plain


def distillation_loss(
    student: Mapping[str, Tensor],
    teacher: Mapping[str, Tensor],
    labels: Mapping[str, Tensor] | None,
    config: DistillationLossConfig,
    *,
    sample_weights: Mapping[str, Tensor] | None = None,
    label_weights_B: Tensor | None = None,
    teacher_joint_BP: Tensor | None = None,
    pairs_P2: Tensor | None = None,
) -> DistillationLosses:
    """Returns the total loss of arXiv 2307.07483 over all active heads A.

    ``kd = 1/|A| sum_a kd_a``, ``gt = 1/|A| sum_a weight_a CE_a``, ``total = lambda_d kd + lambda_gt gt``.

    Args:
        student: Head to student logits ``[B, K]``.
        teacher: Head to teacher logits ``[B, K]``; a head without a teacher is taught by its labels alone and still
            counts in |A|.
        labels: Head to class ids ``[B]``, -1 where unlabelled; None where there are none at all.
        config: Kind, temperatures and weights.
        sample_weights: Head to a weight a sample ``[B]`` for the soft-target term (selective teachers).
        label_weights_B: Weight of each sample in the label term (generated clips may count less).
        teacher_joint_BP: Teachers' joint verb-noun scores (`TeacherEnsemble.joint_targets`); without them and with a
            ``joint_weight`` they are made of the verb and noun targets.
        pairs_P2: The (verb, noun) pairs that exist.

    Raises:
        ValueError: If no head is active, or shapes or labels do not fit.
    """
    heads = config.active_heads(list(student))
    if not heads:
        raise ValueError(f"No active head among {list(student)}: all head_weights are None or 0")
    zero = next(iter(student.values())).sum() * 0.0
    kd, gt, per_head = zero, zero, {}
    for head in heads:
        labels_B = None if labels is None else labels.get(head)
        terms: dict[str, Tensor] = {}
        if head in teacher:
            terms["kd"] = soft_target_loss(
                student[head],
                teacher[head],
                labels_B,
                config,
                temperature=config.temperature_of(head),
                sample_weights_B=None if sample_weights is None else sample_weights.get(head),
            )
            kd = kd + config.kd_head_weights.get(head, 1.0) * terms["kd"]
        if labels_B is not None:
            terms["gt"] = masked_cross_entropy(student[head], labels_B, label_smoothing=config.label_smoothing)
            gt = gt + (config.head_weights.get(head, 1.0) or 0.0) * terms["gt"]
        per_head[head] = terms
    kd, gt = kd / len(heads), gt / len(heads)
    if config.joint_weight:
        kd = kd + config.joint_weight * _joint_term(student, teacher, config, teacher_joint_BP, pairs_P2)
    # A weight of zero must not turn an infinite term into NaN.
    total = zero
    if config.lambda_distillation:
        total = total + config.lambda_distillation * kd
    if config.lambda_ground_truth:
        total = total + config.lambda_ground_truth * gt
    return DistillationLosses(kd, gt, total, per_head)


def _joint_term(
    student: Mapping[str, Tensor],
    teacher: Mapping[str, Tensor],
    config: DistillationLossConfig,
    teacher_joint_BP: Tensor | None,
    pairs_P2: Tensor | None,
) -> Tensor:
    if not {"verb", "noun"} <= set(student):
        raise ValueError(f"joint_weight needs the heads 'verb' and 'noun'; the student has {list(student)}")
    if teacher_joint_BP is None:
        teacher_joint_BP = joint_log_probs(teacher["verb"], teacher["noun"], pairs_P2=pairs_P2)
    return joint_verb_noun_kd(
        student["verb"],
        student["noun"],
        teacher_joint_BP,
        temperature=config.temperature_of("verb"),
        pairs_P2=pairs_P2,
    )
