"""The figures of a run: accuracy and calibration of each head from the scores of all views.

All figures are fractions of 1, not percent.
"""

from typing import Any

import numpy as np

from egoloom.evaluation.calibration import (
    brier_score,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
)
from egoloom.evaluation.metrics import confusion_matrix, label_ranks, top_k_accuracy
from egoloom.evaluation.prediction import Average, Predictions
from egoloom.evaluation.significance import bootstrap_interval

NUM_BINS = 15


def summarise(
    predictions: Predictions, *, average: Average = "logits", temperatures: dict[str, float] | None = None
) -> dict[str, Any]:
    """Returns the figures of every labelled head.

    Args:
        predictions: Scores of all views.
        average: How views are averaged; named in the result.
        temperatures: Head to temperature; ``ece``, ``nll`` and ``brier`` are after it, ``ece_uncalibrated`` before.

    Returns:
        ``num_clips``, ``num_views``, ``average`` and ``heads``: head to ``top1`` (with ``top1_ci95``), ``top5``,
        ``ece``, ``ece_uncalibrated``, ``nll``, ``brier``.
    """
    heads = {}
    for head in predictions.logits:
        labelled = predictions.labels[head] >= 0
        if not labelled.any():
            continue
        temperature = (temperatures or {}).get(head, 1.0)
        calibrated = predictions.log_probs(head, average=average, temperature=temperature)[labelled]
        raw = predictions.log_probs(head, average=average)[labelled]
        heads[head] = _figures(calibrated, raw, predictions.labels[head][labelled])
    return {
        "num_clips": len(predictions.clip_ids),
        "num_views": predictions.num_views,
        "average": average,
        "heads": heads,
    }


def _figures(log_probs_NK: np.ndarray, raw_NK: np.ndarray, labels_N: np.ndarray) -> dict[str, Any]:
    hits = (label_ranks(log_probs_NK, labels_N) < 1).astype(float)
    interval = bootstrap_interval(hits)
    probs = np.exp(log_probs_NK)
    return {
        "top1": float(hits.mean()),
        "top1_ci95": [interval.low, interval.high],
        "top5": top_k_accuracy(log_probs_NK, labels_N, k=min(5, log_probs_NK.shape[1])),
        "ece": expected_calibration_error(probs, labels_N, NUM_BINS),
        "ece_uncalibrated": expected_calibration_error(np.exp(raw_NK), labels_N, NUM_BINS),
        "nll": negative_log_likelihood(probs, labels_N),
        "brier": brier_score(probs, labels_N),
    }


def score(predictions: Predictions) -> float:
    """Returns what a checkpoint is chosen by: minus the mean cross-entropy over heads; finer than accuracy."""
    losses = []
    for head, labels in predictions.labels.items():
        labelled = labels >= 0
        if labelled.any():
            log_probs = predictions.log_probs(head)[labelled]
            losses.append(-np.take_along_axis(log_probs, labels[labelled, None], axis=1).mean())
    return -float(np.mean(losses)) if losses else float("-inf")


def fit_temperatures(predictions: Predictions) -> dict[str, float]:
    """Returns one temperature a head that minimises the cross-entropy of the view-averaged logits; 1 if unlabelled."""
    temperatures = {}
    for head, labels in predictions.labels.items():
        labelled = labels >= 0
        logits = predictions.logits[head].mean(axis=1)[labelled]
        temperatures[head] = fit_temperature(logits, labels[labelled]) if labelled.any() else 1.0
    return temperatures


def reliability_record(
    predictions: Predictions, head: str, *, average: Average = "logits", temperature: float = 1.0
) -> dict[str, Any]:
    """Returns the bins of a reliability diagram as plain lists, and their ECE."""
    labelled = predictions.labels[head] >= 0
    probs = np.exp(predictions.log_probs(head, average=average, temperature=temperature)[labelled])
    diagram = reliability(probs, predictions.labels[head][labelled], NUM_BINS)
    bins = [
        {
            "confidence": None if count == 0 else float(confidence),
            "accuracy": None if count == 0 else float(accuracy),
            "count": int(count),
        }
        for confidence, accuracy, count in zip(diagram.confidence, diagram.accuracy, diagram.count, strict=True)
    ]
    return {"head": head, "bins": bins, "ece": diagram.expected_error}


def confusion_record(predictions: Predictions, head: str, class_names: list[str]) -> dict[str, Any]:
    """Returns the confusion matrix (rows are truth) with its class names."""
    labels = predictions.labels[head]
    labelled = labels >= 0
    predicted = predictions.log_probs(head).argmax(axis=1)[labelled]
    counts = confusion_matrix(predicted, labels[labelled], len(class_names))
    return {"head": head, "class_names": class_names, "matrix": counts.tolist()}
