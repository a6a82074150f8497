"""How much each teacher counts: pure functions from teachers' logits and labels to weights.

Shape letters: B batch, M teachers, K classes.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def teacher_cross_entropy(teacher_logits_BMK: Tensor, labels_B: Tensor) -> Tensor:
    """Returns the cross-entropy of each teacher on each sample, ``[B, M]``."""
    log_probs_BMK = teacher_logits_BMK.float().log_softmax(-1)
    index_BM1 = labels_B.view(-1, 1, 1).expand(-1, teacher_logits_BMK.shape[1], 1)
    return -log_probs_BMK.gather(-1, index_BM1).squeeze(-1)


def softmin(values_XM: Tensor, gamma: float) -> Tensor:
    """Returns ``softmax(-values / gamma)`` over the last axis.

    Raises:
        ValueError: If gamma is not above zero.
    """
    if not gamma > 0:
        raise ValueError(f"gamma must be above zero, got {gamma}")
    return (-values_XM / gamma).softmax(-1)


def uniform_weights(num_samples: int, num_teachers: int) -> Tensor:
    """Returns 1/M for everybody, ``[B, M]``."""
    return torch.full((num_samples, num_teachers), 1.0 / num_teachers)


def full_dataset_weights(mean_ce_M: Tensor, *, gamma: float = 1.0) -> Tensor:
    """Returns softmin of the teachers' mean cross-entropies on held-out clips, ``[M]`` (arXiv 2307.07483)."""
    return softmin(mean_ce_M, gamma)


def per_sample_weights(teacher_logits_BMK: Tensor, labels_B: Tensor, *, gamma: float = 1.0) -> Tensor:
    """Returns softmin of the teachers' cross-entropies on each sample, ``[B, M]`` (arXiv 2307.07483)."""
    return softmin(teacher_cross_entropy(teacher_logits_BMK, labels_B), gamma)


def camkd_weights(teacher_logits_BMK: Tensor, labels_B: Tensor) -> Tensor:
    """Returns the confidence-aware weights of CA-MKD (Zhang et al., ICASSP 2022), ``[B, M]``.

    They are ``(1 - softmax_m(CE)) / (M - 1)``; a single teacher has weight 1.
    """
    num_teachers = teacher_logits_BMK.shape[1]
    if num_teachers == 1:
        return torch.ones(teacher_logits_BMK.shape[:2])
    return (1.0 - teacher_cross_entropy(teacher_logits_BMK, labels_B).softmax(-1)) / (num_teachers - 1)


def entropy_weights(teacher_logits_BMK: Tensor) -> Tensor:
    """Returns ``1 - H_m / sum H``, ``[B, M]``: surer teachers count more; needs no labels; rows sum to M - 1."""
    log_probs_BMK = teacher_logits_BMK.float().log_softmax(-1)
    entropy_BM = -(log_probs_BMK.exp() * log_probs_BMK).sum(-1)
    return 1.0 - entropy_BM / entropy_BM.sum(-1, keepdim=True).clamp_min(1e-12)


def selective_weights(teacher_logits_BMK: Tensor, labels_B: Tensor, *, min_confidence: float = 0.5) -> Tensor:
    """Returns equal weights over the teachers that are right and sure of a sample, zeros if none is, ``[B, M]``.

    A sample without a label (-1) keeps every teacher that is sure (UNIEGO, arXiv 2606.20559, calls this selective).
    """
    confidence_BM, predicted_BM = teacher_logits_BMK.float().softmax(-1).max(-1)
    right_BM = (predicted_BM == labels_B.unsqueeze(1)) | (labels_B < 0).unsqueeze(1)
    chosen_BM = (right_BM & (confidence_BM >= min_confidence)).float()
    return chosen_BM / chosen_BM.sum(-1, keepdim=True).clamp_min(1.0)


def renormalise(weights_BM: Tensor, present_BM: Tensor | None = None) -> Tensor:
    """Returns weights of the present teachers that sum to 1 in each row, zeros where no weight is left."""
    if present_BM is not None:
        weights_BM = weights_BM * present_BM.to(weights_BM.dtype)
    total_B1 = weights_BM.sum(-1, keepdim=True)
    return torch.where(total_B1 > 0, weights_BM / total_B1.clamp_min(1e-12), torch.zeros_like(weights_BM))


def mix_logits(teacher_logits_BMK: Tensor, weights_BM: Tensor) -> Tensor:
    """Returns the weighted sum of logits, ``[B, K]``."""
    return (weights_BM.unsqueeze(-1) * teacher_logits_BMK.float()).sum(dim=1)


def mix_probabilities(teacher_logits_BMK: Tensor, weights_BM: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Returns logits whose softmax at the temperature is the weighted mean of the teachers' softened probabilities.

    These are ``T * log(sum_m w_m softmax(z_m / T))``; any loss that divides by T recovers the mixed probabilities.
    A row without weight becomes zeros (the uniform distribution); give it sample weight zero.
    """
    log_probs_BMK = (teacher_logits_BMK.float() / temperature).log_softmax(-1)
    log_weights = torch.where(weights_BM > 0, weights_BM.clamp_min(1e-30).log(), -torch.inf)
    mixed_BK = torch.logsumexp(log_probs_BMK + log_weights.unsqueeze(-1), dim=1) * temperature
    empty_B1 = (weights_BM.sum(-1, keepdim=True) <= 0).expand_as(mixed_BK)
    return mixed_BK.masked_fill(empty_B1, 0.0)


def fit_temperature(logits_BK: Tensor, labels_B: Tensor, *, bounds: tuple[float, float] = (0.05, 20.0)) -> float:
    """Returns the temperature that minimises the mean cross-entropy of ``logits / T`` on labelled samples.

    The objective is convex in 1/T, so a bounded search over it finds the optimum (Guo et al., ICML 2017).
    """
    from scipy.optimize import minimize_scalar

    logits_BK, labels_B = logits_BK.double(), labels_B.long()
    low, high = 1.0 / bounds[1], 1.0 / bounds[0]

    def objective(inverse: float) -> float:
        return float(F.cross_entropy(logits_BK * inverse, labels_B))

    best: Any = minimize_scalar(objective, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    return float(1.0 / best.x) if objective(best.x) < objective(1.0) else 1.0
