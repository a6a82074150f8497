"""Losses of knowledge distillation as pure functions, and their total over a student's heads."""

from egoloom.distillation.losses.features import feature_kd, queue_kd
from egoloom.distillation.losses.logits import (
    decoupled_kd,
    decoupled_kd_parts,
    dist_kd,
    joint_log_probs,
    joint_verb_noun_kd,
    kl_divergence,
    logit_kd,
    masked_cross_entropy,
    pearson,
    standardize,
    standardized_kd,
)
from egoloom.distillation.losses.total import (
    DistillationLossConfig,
    DistillationLosses,
    distillation_loss,
    soft_target_loss,
)

__all__ = [
    "DistillationLossConfig",
    "DistillationLosses",
    "decoupled_kd",
    "decoupled_kd_parts",
    "dist_kd",
    "distillation_loss",
    "feature_kd",
    "joint_log_probs",
    "joint_verb_noun_kd",
    "kl_divergence",
    "logit_kd",
    "masked_cross_entropy",
    "pearson",
    "queue_kd",
    "soft_target_loss",
    "standardize",
    "standardized_kd",
]
