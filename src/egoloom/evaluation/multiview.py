"""The multi-view protocol: several clips and crops of one video, averaged in logits or in probabilities.

The two averages differ in accuracy and more so in calibration, so every table names the one it took.

Shape letters: N samples, V views, K classes.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from egoloom.evaluation.calibration import expected_calibration_error, log_softmax
from egoloom.evaluation.metrics import top_k_accuracy

Average = Literal["logits", "probabilities"]


def average_views(logits_NVK: ArrayLike, average: Average = "logits") -> np.ndarray:
    """Returns one normalised log-probability a class, ``[N, K]``, float32 or float64 as the input.

    Args:
        logits_NVK: Logits of every view.
        average: ``logits``: mean of logits, then softmax (arXiv 2307.07483). ``probabilities``: mean of softmaxes.

    Raises:
        ValueError: If the shape or the average is not one of these.
    """
    logits = np.asarray(logits_NVK)
    if logits.ndim != 3:
        raise ValueError(f"Logits must be [N, V, K], got {list(logits.shape)}")
    if average == "logits":
        return log_softmax(logits.mean(axis=1))
    if average == "probabilities":
        log_probs = log_softmax(logits)
        top = log_probs.max(axis=1, keepdims=True)
        return np.log(np.exp(log_probs - top).mean(axis=1)) + top[:, 0]
    raise ValueError(f"Unknown average {average!r}; allowed: logits, probabilities")


@dataclass(frozen=True)
class ViewPoint:
    """One point of the curve of accuracy against compute."""

    num_views: int
    gmacs: float
    top1: float
    top5: float
    ece: float


def accuracy_by_views(
    logits_NVK: ArrayLike,
    labels_N: ArrayLike,
    *,
    gmacs_per_view: float = float("nan"),
    average: Average = "logits",
    num_subsets: int = 10,
    seed: int = 0,
) -> list[ViewPoint]:
    """Returns accuracy and calibration with 1, 2, ... V views, from the views of one run.

    Each number of views is the mean over random subsets of that size, so that no lucky view decides.
    """
    logits, labels = np.asarray(logits_NVK), np.asarray(labels_N)
    total = logits.shape[1]
    generator = np.random.default_rng(seed)
    points = []
    for count in range(1, total + 1):
        repeats = 1 if count == total else min(num_subsets, total if count == 1 else num_subsets)
        rows = []
        for repeat in range(repeats):
            subset = [repeat] if count == 1 else generator.permutation(total)[:count]
            log_probs = average_views(logits[:, np.sort(subset)], average)
            rows.append(
                (
                    top_k_accuracy(log_probs, labels),
                    top_k_accuracy(log_probs, labels, k=5),
                    expected_calibration_error(np.exp(log_probs), labels),
                )
            )
        top1, top5, ece = np.mean(rows, axis=0)
        points.append(ViewPoint(count, count * gmacs_per_view, float(top1), float(top5), float(ece)))
    return points
