"""Calibration: does a stated probability come true that often? In NumPy; every error is a fraction in 0..1.

Shape letters: N (or B) samples, K classes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from egoloom.evaluation.metrics import as_scores

MIN_PROBABILITY = 1e-12


def _probabilities(probs_BK: ArrayLike, labels_B: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    probs, labels = as_scores(probs_BK, labels_B)
    if probs.dtype not in (np.float32, np.float64):
        probs = probs.astype(np.float32 if probs.dtype == np.float16 else np.float64)
    sums = probs.sum(axis=1)
    if probs.min() < 0 or np.abs(sums - 1).max() > 1e-3:
        raise ValueError(
            f"Rows must be probabilities, but sums lie in {sums.min():.4g}..{sums.max():.4g} and the least value is "
            f"{probs.min():.4g}; apply softmax first"
        )
    return probs, labels


def bin_edges(num_bins: int, dtype: np.dtype | type) -> np.ndarray:
    """Returns the edges of equal bins over 0..1 in the precision of the confidences.

    Precision matters: float32 1/3 equals the float32 edge but exceeds the float64 one, and would change its bin.
    """
    # Counted up from 0 and down from 1 with one rounding each (the products are exact in float64), as torch.linspace
    # does: the edges agree with the reference to the last bit.
    width = np.float64(np.ones((), dtype) / np.asarray(num_bins, dtype))
    steps = np.arange(num_bins + 1)
    edges = np.where(steps < (num_bins + 1) // 2, steps * width, 1.0 - steps[::-1] * width)
    return edges.astype(dtype)


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: for each bin its edges, number of samples, mean confidence and accuracy (NaN if empty)."""

    edges: np.ndarray
    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def expected_error(self) -> float:
        """Mean gap between confidence and accuracy, weighted by samples."""
        return float((np.nan_to_num(np.abs(self.confidence - self.accuracy)) * self.count).sum() / self.count.sum())

    @property
    def maximum_error(self) -> float:
        """Largest gap of a bin."""
        return float(np.nan_to_num(np.abs(self.confidence - self.accuracy)).max())


def reliability_of(confidence_N: ArrayLike, correct_N: ArrayLike, edges: np.ndarray) -> Reliability:
    """Returns the diagram of given confidences over bins that are closed on the right, ``(a, b]``."""
    confidence, correct = np.asarray(confidence_N), np.asarray(correct_N, bool)
    num_bins = len(edges) - 1
    # A confidence equal to an edge belongs to the bin below; exactly 0 belongs to none, as in the reference.
    index = np.searchsorted(edges, confidence, side="left") - 1
    inside = (index >= 0) & (index < num_bins)
    index = index[inside]
    count = np.bincount(index, minlength=num_bins)
    sums = np.bincount(index, weights=confidence[inside].astype(np.float64), minlength=num_bins)
    hits = np.bincount(index, weights=correct[inside].astype(np.float64), minlength=num_bins)
    with np.errstate(invalid="ignore", divide="ignore"):
        return Reliability(edges, count, sums / count, hits / count)


def reliability(probs_BK: ArrayLike, labels_B: ArrayLike, num_bins: int = 15) -> Reliability:
    """Returns the reliability diagram of the predicted class over equal bins."""
    probs, labels = _probabilities(probs_BK, labels_B)
    confidence = probs.max(axis=1)
    return reliability_of(confidence, probs.argmax(axis=1) == labels, bin_edges(num_bins, probs.dtype))


def expected_calibration_error(probs_BK: ArrayLike, labels_B: ArrayLike, num_bins: int = 15) -> float:
    """Returns the expected calibration error (Guo et al., ICML 2017): mean |confidence - accuracy| over equal bins.

    Bins are ``(a, b]`` and their edges have the precision of ``probs_BK``. The result is a fraction; times 100 it is
    the figure that arXiv 2307.07483's code prints.

    Args:
        probs_BK: Probabilities (not logits).
        labels_B: Class ids.
        num_bins: Number of bins.

    Raises:
        ValueError: If rows are not probabilities, or shapes or labels do not fit.

    Example:
        >>> expected_calibration_error([[0.75, 0.25], [0.75, 0.25]], [0, 1])
        0.25
    """
    return reliability(probs_BK, labels_B, num_bins).expected_error


def maximum_calibration_error(probs_BK: ArrayLike, labels_B: ArrayLike, num_bins: int = 15) -> float:
    """Returns the largest gap of a bin."""
    return reliability(probs_BK, labels_B, num_bins).maximum_error


def adaptive_calibration_error(probs_BK: ArrayLike, labels_B: ArrayLike, num_bins: int = 15) -> float:
    """Returns the calibration error over bins of equally many samples (Nixon et al., CVPR-W 2019, top class only)."""
    probs, labels = _probabilities(probs_BK, labels_B)
    order = np.argsort(probs.max(axis=1), kind="stable")
    confidence = probs.max(axis=1)[order].astype(np.float64)
    correct = (probs.argmax(axis=1) == labels)[order]
    gaps = [
        abs(confidence[part].mean() - correct[part].mean()) * len(part)
        for part in np.array_split(np.arange(len(order)), min(num_bins, len(order)))
    ]
    return float(sum(gaps) / len(order))


def classwise_calibration_error(probs_BK: ArrayLike, labels_B: ArrayLike, num_bins: int = 15) -> float:
    """Returns the mean over classes of the binned gap between a class's probability and its frequency.

    Kull et al., NeurIPS 2019: unlike the usual error it sees all classes of a prediction, not only the first.
    """
    probs, labels = _probabilities(probs_BK, labels_B)
    edges = bin_edges(num_bins, probs.dtype)
    errors = []
    for k in range(probs.shape[1]):
        diagram = reliability_of(probs[:, k], labels == k, edges)
        errors.append(diagram.expected_error if diagram.count.sum() else 0.0)
    return float(np.mean(errors))


def negative_log_likelihood(probs_BK: ArrayLike, labels_B: ArrayLike) -> float:
    """Returns the mean of -log p(true class)."""
    probs, labels = _probabilities(probs_BK, labels_B)
    own = np.take_along_axis(probs, labels[:, None], axis=1).astype(np.float64)
    return float(-np.log(np.maximum(own, MIN_PROBABILITY)).mean())


def brier_score(probs_BK: ArrayLike, labels_B: ArrayLike) -> float:
    """Returns the mean over samples of the squared distance between probabilities and the one-hot label (0..2)."""
    probs, labels = _probabilities(probs_BK, labels_B)
    target = np.eye(probs.shape[1])[labels]
    return float(((probs - target) ** 2).sum(axis=1).mean())


def log_softmax(logits: ArrayLike, axis: int = -1) -> np.ndarray:
    """Returns log-probabilities, in float64 for float64 input and float32 otherwise; safe for logits of any size."""
    z = np.asarray(logits)
    z = z if z.dtype == np.float64 else z.astype(np.float32)
    z = z - z.max(axis=axis, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=axis, keepdims=True))


def softmax(logits: ArrayLike, axis: int = -1) -> np.ndarray:
    """Returns probabilities, in float64 for float64 input and float32 otherwise."""
    z = np.asarray(logits)
    z = z if z.dtype == np.float64 else z.astype(np.float32)
    z = np.exp(z - z.max(axis=axis, keepdims=True))
    return z / z.sum(axis=axis, keepdims=True)


def _mean_nll(logits_NK: np.ndarray, labels_N: np.ndarray) -> float:
    return float(-np.take_along_axis(log_softmax(logits_NK), labels_N[:, None], axis=1).mean())


def fit_temperature(logits_NK: ArrayLike, labels_N: ArrayLike, *, bounds: tuple[float, float] = (0.05, 20.0)) -> float:
    """Returns the temperature T that minimises the mean NLL of ``logits / T`` (Guo et al., ICML 2017).

    The objective is convex in 1/T; where nothing in the bounds beats T = 1, T = 1 is returned, so NLL never rises.
    """
    from scipy.optimize import minimize_scalar

    logits, labels = as_scores(logits_NK, labels_N)
    logits = logits.astype(np.float64)
    best: Any = minimize_scalar(
        lambda inverse: _mean_nll(logits * inverse, labels),
        bounds=(1.0 / bounds[1], 1.0 / bounds[0]),
        method="bounded",
        options={"xatol": 1e-7},
    )
    return float(1.0 / best.x) if best.fun < _mean_nll(logits, labels) else 1.0


@dataclass(frozen=True)
class VectorScaling:
    """Per-class scale and bias of logits: ``z * scale + bias``."""

    scale_K: np.ndarray
    bias_K: np.ndarray

    def __call__(self, logits_NK: ArrayLike) -> np.ndarray:
        """Returns calibrated logits."""
        return np.asarray(logits_NK, np.float64) * self.scale_K + self.bias_K


def fit_vector_scaling(logits_NK: ArrayLike, labels_N: ArrayLike, *, l2: float = 1e-2) -> VectorScaling:
    """Returns vector scaling (Guo et al., ICML 2017), started from the best temperature.

    Args:
        logits_NK: Logits of held-out samples.
        labels_N: Their classes.
        l2: Weight of the squared distance from the best temperature; classes that hold-out hardly saw stay near it.
    """
    from scipy.optimize import minimize

    logits, labels = as_scores(logits_NK, labels_N)
    logits = logits.astype(np.float64)
    num_classes = logits.shape[1]
    start = np.concatenate([np.full(num_classes, 1.0 / fit_temperature(logits, labels)), np.zeros(num_classes)])
    target = np.eye(num_classes)[labels]

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        log_probs = log_softmax(logits * x[:num_classes] + x[num_classes:])
        residual = (np.exp(log_probs) - target) / len(labels)
        away = x - start
        gradient = np.concatenate([(residual * logits).sum(axis=0), residual.sum(axis=0)]) + 2 * l2 * away / num_classes
        value = -(target * log_probs).sum() / len(labels) + l2 * (away**2).sum() / num_classes
        return float(value), gradient

    best: Any = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 200})
    return VectorScaling(best.x[:num_classes], best.x[num_classes:])


def calibration_summary(probs_BK: ArrayLike, labels_B: ArrayLike, num_bins: int = 15) -> dict[str, float]:
    """Returns ece, mce, adaptive_ece, classwise_ece, nll and brier."""
    return {
        "ece": expected_calibration_error(probs_BK, labels_B, num_bins),
        "mce": maximum_calibration_error(probs_BK, labels_B, num_bins),
        "adaptive_ece": adaptive_calibration_error(probs_BK, labels_B, num_bins),
        "classwise_ece": classwise_calibration_error(probs_BK, labels_B, num_bins),
        "nll": negative_log_likelihood(probs_BK, labels_B),
        "brier": brier_score(probs_BK, labels_B),
    }
