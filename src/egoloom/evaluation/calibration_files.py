"""Calibration of files of scores: labels for them, the fitted parameters as JSON, and their use on other files.

Shape letters: N segments, K classes.
"""

import csv
from pathlib import Path
from typing import Any, Literal

import numpy as np

from egoloom.errors import UserError
from egoloom.evaluation.calibration import (
    calibration_summary,
    fit_temperature,
    fit_vector_scaling,
    log_softmax,
    softmax,
)
from egoloom.evaluation.score_files import ID_KEYS, ScoreTable

Method = Literal["temperature", "vector"]
LABEL_SUFFIXES = ("_class", "_label", "")


def read_labels(predictions: Path, annotations: Path | None, scores: ScoreTable) -> dict[str, np.ndarray]:
    """Returns head to labels ``[N]`` in the order of the scores, -1 where unlabelled.

    They come from a CSV with ids and ``<head>_class`` columns, or from the ``<head>/labels`` of a run's predictions.

    Raises:
        UserError: If there are none, or a segment is not in the CSV.
    """
    if annotations is None:
        return _labels_beside(predictions, scores)
    try:
        with annotations.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"Cannot read {annotations}: {error}") from error
    id_key = next((key for key in ID_KEYS if rows and key in rows[0]), None)
    if id_key is None:
        raise UserError(f"{annotations} has no ids", allowed=f"a column named {', '.join(ID_KEYS)}")
    by_id = {row[id_key]: row for row in rows}
    unknown = [name for name in scores.ids if name not in by_id]
    if unknown:
        raise UserError(f"{len(unknown)} segments are not in {annotations}, first: {unknown[0]}")
    labels = {}
    for head in scores.scores:
        column = next((head + suffix for suffix in LABEL_SUFFIXES if head + suffix in rows[0]), None)
        if column is not None:
            try:
                labels[head] = np.array([int(by_id[name][column]) for name in scores.ids])
            except ValueError as error:
                raise UserError(f"{annotations}: column {column!r} holds no class ids: {error}") from error
    if not labels:
        raise UserError(f"{annotations} labels none of the heads {', '.join(scores.scores)}", allowed="<head>_class")
    return labels


def _labels_beside(predictions: Path, scores: ScoreTable) -> dict[str, np.ndarray]:
    labels = {}
    if predictions.suffix == ".npz":
        with np.load(predictions, allow_pickle=False) as archive:
            labels = {
                key.split("/")[0]: archive[key]
                for key in archive.files
                if key.endswith("/labels") and key.split("/")[0] in scores.scores
            }
    if not labels:
        raise UserError(f"{predictions} holds no labels", fix="add --annotations CSV")
    return labels


def labelled(scores_NK: np.ndarray, labels_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns scores and labels of the labelled segments.

    Raises:
        UserError: If there are none.
    """
    known = labels_N >= 0
    if not known.any():
        raise UserError("No segment is labelled, so nothing can be fitted")
    if labels_N.max() >= scores_NK.shape[1]:
        raise UserError(f"A label is {labels_N.max()}, but there are {scores_NK.shape[1]} classes")
    return scores_NK[known], labels_N[known]


def fit_calibration(
    scores: ScoreTable, labels: dict[str, np.ndarray], *, method: Method = "temperature"
) -> dict[str, Any]:
    """Returns fitted parameters and the figures before and after for each labelled head, ready for JSON."""
    heads = {}
    for head, labels_N in labels.items():
        logits, truth = labelled(scores.scores[head], labels_N)
        fitted: dict[str, Any] = {"num_samples": len(truth)}
        if method == "temperature":
            fitted["temperature"] = fit_temperature(logits, truth)
        else:
            scaling = fit_vector_scaling(logits, truth)
            fitted |= {"scale": scaling.scale_K.tolist(), "bias": scaling.bias_K.tolist()}
        fitted["before"] = calibration_summary(softmax(logits), truth)
        fitted["after"] = calibration_summary(softmax(_apply(fitted, logits)), truth)
        heads[head] = fitted
    return {"method": method, "heads": heads}


def _apply(fitted: dict[str, Any], scores_NK: np.ndarray) -> np.ndarray:
    if "temperature" in fitted:
        return scores_NK / fitted["temperature"]
    return scores_NK * np.array(fitted["scale"]) + np.array(fitted["bias"])


def apply_calibration(record: dict[str, Any], scores: ScoreTable) -> ScoreTable:
    """Returns calibrated log-probabilities; heads that were not fitted are only normalised.

    Raises:
        UserError: If a head has another number of classes than the fitted one.
    """
    calibrated = {}
    for head, matrix in scores.scores.items():
        fitted = record["heads"].get(head)
        if fitted and "scale" in fitted and len(fitted["scale"]) != matrix.shape[1]:
            raise UserError(f"{scores.path}: {head} has {matrix.shape[1]} classes", allowed=str(len(fitted["scale"])))
        calibrated[head] = log_softmax(matrix if fitted is None else _apply(fitted, matrix)).astype(np.float32)
    return ScoreTable(scores.ids, calibrated, scores.path)
