"""Ego4D submissions: long-term and short-term anticipation, JSON.

Shape letters: K sequences, Z steps.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from egoloom.evaluation.submissions.checks import check_complete, demand, is_finite, write_json

LTA_NUM_SEQUENCES, LTA_NUM_STEPS = 5, 20
STA_VERSION = "1.0"
STA_CHALLENGE = "ego4d_short_term_object_interaction_anticipation"


def check_lta_submission(
    content: Any,
    *,
    num_verbs: int,
    num_nouns: int,
    expected_ids: Collection[str] | None = None,
    num_sequences: int = LTA_NUM_SEQUENCES,
    num_steps: int = LTA_NUM_STEPS,
) -> None:
    """Raises UserError with the first fault of an Ego4D long-term anticipation file; returns nothing if it is valid.

    The content maps ``<clip_uid>_<action_idx>`` (the last visible clip) to ``verb`` and ``noun``, each K sequences of Z
    class ids.
    """
    demand(isinstance(content, Mapping) and bool(content), "The submission is not a JSON object with predictions")
    for name, prediction in content.items():
        head, _, index = name.rpartition("_")
        demand(bool(head) and index.isdecimal(), f"The key {name!r} is malformed", allowed="<clip_uid>_<action_idx>")
        demand(
            isinstance(prediction, Mapping) and set(prediction) == {"verb", "noun"},
            f"{name} holds {sorted(prediction) if isinstance(prediction, Mapping) else type(prediction).__name__}",
            allowed="verb and noun",
        )
        for key, count in (("verb", num_verbs), ("noun", num_nouns)):
            sequences = prediction[key]
            shaped = isinstance(sequences, Sequence) and len(sequences) == num_sequences
            shaped = shaped and all(isinstance(s, Sequence) and len(s) == num_steps for s in sequences)
            demand(shaped, f"{name}: {key} has another shape", allowed=f"{num_sequences} x {num_steps} class ids")
            valid = all(type(k) is int and 0 <= k < count for sequence in sequences for k in sequence)
            demand(valid, f"{name}: {key} holds something other than class ids", allowed=f"0..{count - 1}")
    check_complete(content, expected_ids)


def write_lta_submission(
    path: str | Path, predictions: Mapping[str, Mapping[str, Any]], *, num_verbs: int, num_nouns: int, **limits: Any
) -> Path:
    """Writes an Ego4D long-term anticipation file after validating it.

    Args:
        path: The JSON file.
        predictions: Key to ``verb`` and ``noun``, arrays or lists ``[K, Z]`` of class ids.
        num_verbs: Size of the verb taxonomy.
        num_nouns: Size of the noun taxonomy.
        **limits: Further arguments of `check_lta_submission`.

    Raises:
        UserError: If the content is not valid.
    """
    content = {
        name: {key: np.asarray(value).tolist() for key, value in prediction.items()}
        for name, prediction in predictions.items()
    }
    check_lta_submission(content, num_verbs=num_verbs, num_nouns=num_nouns, **limits)
    return write_json(path, content)


def check_sta_submission(content: Any, *, expected_ids: Collection[str] | None = None) -> None:
    """Raises UserError with the first fault of an Ego4D short-term anticipation file; returns nothing if valid."""
    demand(isinstance(content, Mapping), "The submission is not a JSON object")
    for key, value in (("version", STA_VERSION), ("challenge", STA_CHALLENGE)):
        demand(content.get(key) == value, f"{key} is {content.get(key)!r}", allowed=value)
    results = content.get("results")
    demand(isinstance(results, Mapping), "The submission has no results")
    for name, detections in results.items():
        demand(isinstance(detections, Sequence) and not isinstance(detections, str), f"{name}: no list of detections")
        for number, detection in enumerate(detections):
            _check_detection(f"{name}, detection {number}", detection)
    check_complete(results, expected_ids)


def _check_detection(where: str, detection: Any) -> None:
    needed = {"box", "noun_category_id", "verb_category_id", "time_to_contact", "score"}
    demand(
        isinstance(detection, Mapping) and needed <= set(detection),
        f"{where} lacks {sorted(needed - set(detection)) if isinstance(detection, Mapping) else 'everything'}",
        allowed=", ".join(sorted(needed)),
    )
    box = detection["box"]
    valid = isinstance(box, Sequence) and len(box) == 4 and all(is_finite(value) for value in box)
    demand(
        valid and box[0] < box[2] and box[1] < box[3], f"{where}: box {box!r}", allowed="x1 < x2, y1 < y2, in pixels"
    )
    for key in ("noun_category_id", "verb_category_id"):
        demand(
            type(detection[key]) is int and detection[key] >= 0,
            f"{where}: {key} {detection[key]!r}",
            allowed="0, 1, ...",
        )
    seconds, score = detection["time_to_contact"], detection["score"]
    demand(is_finite(seconds) and seconds > 0, f"{where}: time_to_contact {seconds!r}", allowed="seconds above zero")
    demand(is_finite(score), f"{where}: score {score!r}", allowed="a finite number")


def write_sta_submission(
    path: str | Path,
    results: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    expected_ids: Collection[str] | None = None,
) -> Path:
    """Writes an Ego4D short-term anticipation file after validating it.

    Args:
        path: The JSON file.
        results: Annotation uid to detections with ``box`` (xyxy, pixels), ``noun_category_id``, ``verb_category_id``,
            ``time_to_contact`` (seconds) and ``score``.
        expected_ids: Uids of the test split.

    Raises:
        UserError: If the content is not valid.
    """
    content = {
        "version": STA_VERSION,
        "challenge": STA_CHALLENGE,
        "results": {name: [dict(detection) for detection in detections] for name, detections in results.items()},
    }
    check_sta_submission(content, expected_ids=expected_ids)
    return write_json(path, content)
