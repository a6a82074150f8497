"""The Something-Something V2 (and Something-Else) protocol: top-1 and top-5 over templates.

Shape letters: N videos, K classes.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from egoloom.errors import UserError
from egoloom.evaluation.calibration import calibration_summary, softmax
from egoloom.evaluation.epic100 import align
from egoloom.evaluation.metrics import confusion_matrix as count_confusions
from egoloom.evaluation.metrics import label_ranks, per_class
from egoloom.evaluation.score_files import ScoreTable


@dataclass(frozen=True)
class Ssv2Annotations:
    """Labels of a split."""

    video_ids: list[str]
    labels: np.ndarray
    num_classes: int


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"Cannot read {path}: {error}") from error


def template_of(item: dict[str, Any]) -> str:
    """Returns an item's template as the label file spells it, without its brackets."""
    return str(item["template"]).replace("[", "").replace("]", "")


def read_annotations(path: str | Path, labels_path: str | Path) -> Ssv2Annotations:
    """Reads a split (list of ``id`` and ``template``) and the label file (template to class id).

    Raises:
        UserError: If a file is unreadable, or an item lacks its template or names an unknown one.
    """
    items, classes = _read_json(Path(path)), _read_json(Path(labels_path))
    if not isinstance(items, list) or not items or not isinstance(classes, dict):
        raise UserError(f"{path} must be a list of videos and {labels_path} an object of templates")
    labels = []
    for item in items:
        if "template" not in item or "id" not in item:
            raise UserError(f"{path}: an item lacks id or template (the test split has no labels)")
        template = template_of(item)
        if template not in classes:
            raise UserError(f"{path}: video {item['id']} has the unknown template {template!r}", fix="check --labels")
        labels.append(int(classes[template]))
    return Ssv2Annotations([str(item["id"]) for item in items], np.array(labels), len(classes))


def evaluate_ssv2(scores: ScoreTable, annotations: Ssv2Annotations, *, allow_missing: bool = False) -> dict[str, Any]:
    """Returns top-1, top-5 and mean class accuracy in percent, calibration, counts and warnings.

    Raises:
        UserError: If videos are unknown or missing, or the number of classes differs.
    """
    rows, warnings = align(scores, annotations.video_ids, allow_missing=allow_missing)
    matrix = scores.head("action", annotations.num_classes)
    labels = annotations.labels[rows]
    places = label_ranks(matrix, labels)
    by_class = per_class(count_confusions(matrix.argmax(axis=1), labels, annotations.num_classes))
    summary = calibration_summary(softmax(matrix), labels)
    return {
        "all_action_accuracy_at_1": 100.0 * float((places < 1).mean()),
        "all_action_accuracy_at_5": 100.0 * float((places < 5).mean()),
        "mean_class_accuracy": 100.0 * by_class.mean_recall,
        "calibration": {"action_ece": 100 * summary["ece"], "action_nll": summary["nll"]},
        "num_segments": {"all_action": len(labels)},
        "warnings": warnings,
    }
