"""Recognition metrics, in NumPy; every fraction is in 0..1.

Shape letters: N samples, K classes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


def as_scores(scores_NK: ArrayLike, labels_N: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Returns scores and labels as arrays after checking that they fit each other.

    Raises:
        ValueError: If shapes do not fit, a score is NaN, or a label is out of range.
    """
    scores, labels = np.asarray(scores_NK), np.asarray(labels_N)
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ValueError(f"Scores must be [N, K] and labels [N], got {list(scores.shape)} and {list(labels.shape)}")
    if len(labels) == 0:
        raise ValueError("There are no samples to measure")
    if np.isnan(scores).any():
        raise ValueError(f"{int(np.isnan(scores).any(axis=1).sum())} samples have NaN scores")
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise ValueError(f"Labels lie in {labels.min()}..{labels.max()}, but there are {scores.shape[1]} classes")
    return scores, labels.astype(np.int64)


def label_ranks(scores_NK: ArrayLike, labels_N: ArrayLike) -> np.ndarray:
    """Returns the place of the true class among all, 0 for the best, ``[N]``; ties go to the lower class index."""
    scores, labels = as_scores(scores_NK, labels_N)
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    earlier = np.arange(scores.shape[1])[None, :] < labels[:, None]
    return ((scores > own) | ((scores == own) & earlier)).sum(axis=1)


def top_k_accuracy(scores_NK: ArrayLike, labels_N: ArrayLike, *, k: int = 1) -> float:
    """Returns the share of samples whose true class is among the k best."""
    return float((label_ranks(scores_NK, labels_N) < k).mean())


def both_right(
    verb_scores: ArrayLike, noun_scores: ArrayLike, verb_labels: ArrayLike, noun_labels: ArrayLike
) -> np.ndarray:
    """Returns where verb and noun are both right at top-1, bool ``[N]``."""
    return (label_ranks(verb_scores, verb_labels) == 0) & (label_ranks(noun_scores, noun_labels) == 0)


def joint_ranks(
    verb_scores: ArrayLike,
    noun_scores: ArrayLike,
    verb_labels: ArrayLike,
    noun_labels: ArrayLike,
    *,
    k: int = 5,
) -> np.ndarray:
    """Returns the place of the true (verb, noun) among all pairs ranked by the sum of scores, at most ``k``, ``[N]``.

    A pair among the k best is made of one of the k best verbs and one of the k best nouns, so k² sums decide.
    """
    verbs, verb_labels_N = as_scores(verb_scores, verb_labels)
    nouns, noun_labels_N = as_scores(noun_scores, noun_labels)
    verb_place, noun_place = label_ranks(verbs, verb_labels_N), label_ranks(nouns, noun_labels_N)
    best_verbs = -np.sort(-verbs, axis=1)[:, :k].astype(np.float64)
    best_nouns = -np.sort(-nouns, axis=1)[:, :k].astype(np.float64)
    sums = best_verbs[:, :, None] + best_nouns[:, None, :]
    rows = np.arange(len(sums))
    inside = (verb_place < k) & (noun_place < k)
    # A pair with few classes may have fewer than k candidates on an axis.
    v, n = np.minimum(verb_place, sums.shape[1] - 1), np.minimum(noun_place, sums.shape[2] - 1)
    own = sums[rows, v, n][:, None]
    flat = sums.reshape(len(sums), -1)
    earlier = np.arange(flat.shape[1])[None, :] < (v * sums.shape[2] + n)[:, None]
    place = ((flat > own) | ((flat == own) & earlier)).sum(axis=1)
    return np.where(inside, np.minimum(place, k), k)


def confusion_matrix(predicted_N: ArrayLike, labels_N: ArrayLike, num_classes: int) -> np.ndarray:
    """Returns counts ``[true class, predicted class]``, int64 ``[K, K]``."""
    predicted, labels = np.asarray(predicted_N, np.int64), np.asarray(labels_N, np.int64)
    counts = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


@dataclass(frozen=True)
class PerClass:
    """One value a class: recall (its accuracy), precision, F1 (NaN where undefined), and number of samples."""

    recall_K: np.ndarray
    precision_K: np.ndarray
    f1_K: np.ndarray
    support_K: np.ndarray

    @property
    def mean_recall(self) -> float:
        """Mean class accuracy, over the classes that occur."""
        return float(np.nanmean(self.recall_K))

    @property
    def macro_f1(self) -> float:
        """Mean F1 over the classes that occur."""
        return float(np.nanmean(self.f1_K[self.support_K > 0]))


def per_class(confusion_KK: np.ndarray) -> PerClass:
    """Returns recall, precision and F1 of each class from a confusion matrix."""
    hits, support, predicted = np.diag(confusion_KK), confusion_KK.sum(axis=1), confusion_KK.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = np.where(support > 0, hits / support, np.nan)
        precision = np.where(predicted > 0, hits / predicted, np.nan)
        f1 = np.where(support + predicted > 0, 2 * hits / (support + predicted), np.nan)
    return PerClass(recall, precision, f1, support)


def standard_error(fraction: float, num_samples: int) -> float:
    """Returns the binomial standard error of an accuracy, sqrt(p (1 - p) / n)."""
    return float(np.sqrt(fraction * (1.0 - fraction) / num_samples))
