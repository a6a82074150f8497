"""The EPIC-KITCHENS-100 action recognition protocol: verb, noun and action; all, unseen and tail segments.

Equal to the official evaluation on every metric, except where that is wrong: it takes one softmax over the scores of
the whole file, so a single segment with large scores drowns the action accuracy of all others. Here every segment has a
softmax of its own, and a warning says when the official script would collapse.

Shape letters: N segments, K classes.
"""

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from egoloom.errors import UserError
from egoloom.evaluation.calibration import (
    bin_edges,
    expected_calibration_error,
    log_softmax,
    negative_log_likelihood,
    reliability_of,
)
from egoloom.evaluation.metrics import joint_ranks, label_ranks
from egoloom.evaluation.score_files import ScoreTable

NUM_VERBS = 97
NUM_NOUNS = 300
FLOAT32_UNDERFLOW = -np.log(np.finfo(np.float32).tiny)
FLOAT64_UNDERFLOW = -np.log(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class EpicAnnotations:
    """Labels of the segments of a split, in the order of the CSV."""

    narration_ids: list[str]
    participant_ids: np.ndarray
    verbs: np.ndarray
    nouns: np.ndarray


@dataclass(frozen=True)
class EpicResult:
    """What was measured.

    Attributes:
        metrics: ``{all,unseen,tail}_{verb,noun,action}_accuracy_at_{1,5}`` in percent, the official keys.
        calibration: ``{verb,noun,action}_{ece,nll}``; ECE in percent over 15 bins.
        counts: Segments by group.
        warnings: What the reader of the numbers must know.
    """

    metrics: dict[str, float]
    calibration: dict[str, float]
    counts: dict[str, int]
    warnings: list[str] = field(default_factory=list)


def read_rows(path: str | Path, needed: tuple[str, ...]) -> list[dict[str, str]]:
    """Returns the rows of a CSV file with the given columns.

    Raises:
        UserError: If the file is missing, not text, empty or lacks a column.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [name for name in needed if name not in (reader.fieldnames or [])]
            if missing:
                raise UserError(f"{path} lacks the column {missing[0]!r}", allowed=f"columns {', '.join(needed)}")
            rows = list(reader)
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a CSV file: {error}") from error
    if not rows:
        raise UserError(f"{path} has no rows")
    return rows


def _integers(path: str | Path, rows: list[dict[str, str]], column: str) -> np.ndarray:
    try:
        return np.array([int(row[column]) for row in rows], np.int64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: column {column!r} holds something other than whole numbers: {error}") from error


def read_annotations(path: str | Path) -> EpicAnnotations:
    """Reads ``EPIC_100_validation.csv`` or a table like it.

    Raises:
        UserError: If columns are missing (the test split has no labels), labels are out of range or ids repeat.
    """
    rows = read_rows(path, ("narration_id", "participant_id", "verb_class", "noun_class"))
    verbs, nouns = _integers(path, rows, "verb_class"), _integers(path, rows, "noun_class")
    ids = [row["narration_id"] for row in rows]
    if len(set(ids)) != len(ids):
        raise UserError(f"{path} names a segment twice")
    for name, labels, count in (("verb_class", verbs, NUM_VERBS), ("noun_class", nouns, NUM_NOUNS)):
        if labels.min() < 0 or labels.max() >= count:
            raise UserError(f"{path}: {name} lies in {labels.min()}..{labels.max()}", allowed=f"0..{count - 1}")
    return EpicAnnotations(ids, np.array([row["participant_id"] for row in rows]), verbs, nouns)


def read_classes(path: str | Path, column: str) -> np.ndarray:
    """Returns the class ids of ``tail_verbs.csv`` (column ``verb``) or ``tail_nouns.csv`` (column ``noun``)."""
    return _integers(path, read_rows(path, (column,)), column)


def read_participants(path: str | Path) -> list[str]:
    """Returns the ids of ``unseen_participant_ids_*.csv``."""
    return [row["participant_id"] for row in read_rows(path, ("participant_id",))]


def align(scores: ScoreTable, ids: list[str], *, allow_missing: bool = False) -> tuple[np.ndarray, list[str]]:
    """Returns which annotated row each scored segment belongs to, int ``[N]``, and warnings.

    Raises:
        UserError: If a segment is not annotated, or an annotated one has no scores (unless ``allow_missing``).
    """
    row_of = {name: row for row, name in enumerate(ids)}
    unknown = [name for name in scores.ids if name not in row_of]
    if unknown:
        raise UserError(
            f"{scores.path}: {len(unknown)} segments are not in the annotations, first: {unknown[0]}",
            fix="give the annotations of the split that was predicted",
        )
    absent = len(ids) - len(scores.ids)
    if absent and not allow_missing:
        first = next(name for name in ids if name not in set(scores.ids))
        raise UserError(
            f"{scores.path}: {absent} of {len(ids)} annotated segments have no scores, first: {first}",
            fix="predict them, or add --allow-missing to score the others only, as the official script does",
        )
    warnings = [f"{absent} of {len(ids)} annotated segments have no scores and were left out"] if absent else []
    return np.array([row_of[name] for name in scores.ids]), warnings


def collapse_warning(verb: np.ndarray, noun: np.ndarray) -> str | None:
    """Returns a warning if the official script's single softmax over the file would underflow, else None.

    There, a segment's best action has probability exp(v - lse(all v)) * exp(n - lse(all n)), in the file's precision.
    """
    double = verb.dtype == np.float64 and noun.dtype == np.float64
    limit = FLOAT64_UNDERFLOW if double else FLOAT32_UNDERFLOW
    gap = np.zeros(len(verb))
    for matrix in (verb.astype(np.float64), noun.astype(np.float64)):
        top = matrix.max()
        gap += top + np.log(np.exp(matrix - top).sum()) - matrix.max(axis=1)
    num_lost = int((gap > limit).sum())
    if not num_lost:
        return None
    return (
        f"the official script takes one softmax over the whole file; with these scores {num_lost} of {len(verb)} "
        "segments underflow there and its action accuracy collapses. Here every segment has its own softmax. "
        "Submit log-softmax scores (egoloom writes them so)"
    )


def evaluate_epic100(
    scores: ScoreTable,
    annotations: EpicAnnotations,
    *,
    tail_verbs: np.ndarray | None = None,
    tail_nouns: np.ndarray | None = None,
    unseen_participants: list[str] | None = None,
    allow_missing: bool = False,
) -> EpicResult:
    """Returns the metrics of the EPIC-KITCHENS-100 action recognition challenge.

    An action is right when verb and noun are; pairs are ranked by the sum of their log-probabilities. Tail actions
    have a tail verb or a tail noun. Groups that are not asked for, or are empty, have no keys.

    Args:
        scores: Verb ``[N, 97]`` and noun ``[N, 300]`` scores.
        annotations: The split's labels.
        tail_verbs: Ids of tail verb classes.
        tail_nouns: Ids of tail noun classes.
        unseen_participants: Participants who do not occur in training.
        allow_missing: Score only the segments that have scores, as the official script does.

    Raises:
        UserError: If segments are unknown or missing, or class counts differ.
    """
    rows, warnings = align(scores, annotations.narration_ids, allow_missing=allow_missing)
    verb_raw, noun_raw = scores.head("verb", NUM_VERBS), scores.head("noun", NUM_NOUNS)
    collapse = collapse_warning(verb_raw, noun_raw)
    warnings += [collapse] if collapse else []
    verb, noun = log_softmax(verb_raw.astype(np.float64)), log_softmax(noun_raw.astype(np.float64))
    verb_labels, noun_labels = annotations.verbs[rows], annotations.nouns[rows]
    places = {
        "verb": label_ranks(verb_raw, verb_labels),
        "noun": label_ranks(noun_raw, noun_labels),
        "action": joint_ranks(verb, noun, verb_labels, noun_labels),
    }
    groups = {name: {"all": np.ones(len(rows), bool)} for name in places}
    if unseen_participants is not None:
        unseen = np.isin(annotations.participant_ids[rows], unseen_participants)
        for name in places:
            groups[name]["unseen"] = unseen
    tail_verb = None if tail_verbs is None else np.isin(verb_labels, tail_verbs)
    tail_noun = None if tail_nouns is None else np.isin(noun_labels, tail_nouns)
    if tail_verb is not None:
        groups["verb"]["tail"] = tail_verb
    if tail_noun is not None:
        groups["noun"]["tail"] = tail_noun
    if tail_verb is not None and tail_noun is not None:
        groups["action"]["tail"] = tail_verb | tail_noun
    metrics, counts, more = _accuracies(places, groups)
    calibration = _calibration(verb, noun, verb_labels, noun_labels)
    return EpicResult(metrics, calibration, counts, warnings + more)


def _accuracies(
    places: dict[str, np.ndarray], groups: dict[str, dict[str, np.ndarray]]
) -> tuple[dict[str, float], dict[str, int], list[str]]:
    metrics, counts, warnings = {}, {}, []
    for name, place in places.items():
        for group, members in groups[name].items():
            counts[f"{group}_{name}"] = int(members.sum())
            if not members.any():
                label = "unseen segment" if group == "unseen" else f"{group} {name} segment"
                hint = "; the participants' list may be that of another split" if group == "unseen" else ""
                text = f"there is no {label} to evaluate{hint}"
                warnings += [] if text in warnings else [text]
                continue
            for k in (1, 5) if group == "all" else (1,):
                metrics[f"{group}_{name}_accuracy_at_{k}"] = 100.0 * float((place[members] < k).mean())
    return metrics, counts, warnings


def _calibration(
    verb: np.ndarray, noun: np.ndarray, verb_labels: np.ndarray, noun_labels: np.ndarray
) -> dict[str, float]:
    """Returns ECE (percent) and NLL of verb, noun, action; an action's confidence is that of its most likely pair."""
    verb_probs, noun_probs = np.exp(verb), np.exp(noun)
    right = (verb.argmax(axis=1) == verb_labels) & (noun.argmax(axis=1) == noun_labels)
    confidence = verb_probs.max(axis=1) * noun_probs.max(axis=1)
    verb_nll = negative_log_likelihood(verb_probs, verb_labels)
    noun_nll = negative_log_likelihood(noun_probs, noun_labels)
    action = reliability_of(confidence, right, bin_edges(15, np.float64))
    return {
        "verb_ece": 100 * expected_calibration_error(verb_probs, verb_labels),
        "noun_ece": 100 * expected_calibration_error(noun_probs, noun_labels),
        "action_ece": 100 * action.expected_error,
        "verb_nll": verb_nll,
        "noun_nll": noun_nll,
        "action_nll": verb_nll + noun_nll,
    }


def as_record(result: EpicResult) -> dict[str, Any]:
    """Returns a result as one flat JSON object: the metrics under their official keys, then the rest."""
    return {
        **result.metrics,
        "calibration": result.calibration,
        "num_segments": result.counts,
        "warnings": result.warnings,
    }
