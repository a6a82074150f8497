"""The EPIC-KITCHENS-100 action recognition submission: a zip with ``test.json``, version 0.2."""

import json
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from egoloom.errors import UserError
from egoloom.evaluation.calibration import log_softmax
from egoloom.evaluation.epic100 import NUM_NOUNS, NUM_VERBS
from egoloom.evaluation.score_files import ScoreTable
from egoloom.evaluation.submissions.checks import check_complete, demand, is_finite, strict_json

EPIC_VERSION = "0.2"
EPIC_CHALLENGE = "action_recognition"
EPIC_HEADS = {"verb": NUM_VERBS, "noun": NUM_NOUNS}


class SupervisionLevels(BaseModel):
    """How much supervision an EPIC submission used, each 0..5.

    Attributes:
        pretraining: 0 none, 1 public images, 2 public images and video, 3 self-supervised public, 4 self-supervised
            public and EPIC, 5 private.
        training_labels: 0 none, 1 weak video, 2 weak temporal, 3 full temporal, 4 spatio-temporal (also where
            detections were used in training only), 5 spatio-temporal and extra priors.
        training_data: 0 zero-shot, 1 few-shot, 2 up to a quarter, 3 train, 4 train and validation, 5 with extra data.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pretraining: int = Field(default=2, ge=0, le=5)
    training_labels: int = Field(default=3, ge=0, le=5)
    training_data: int = Field(default=3, ge=0, le=5)


def epic_submission(
    scores: ScoreTable, levels: SupervisionLevels | None = None, *, normalise: bool = True
) -> dict[str, Any]:
    """Returns the content of ``test.json``.

    Args:
        scores: Verb and noun scores.
        levels: Supervision levels.
        normalise: Write log-softmax scores, which the official evaluation cannot drown; False writes them as they are.

    Raises:
        UserError: If a head is absent or has another number of classes.
    """
    levels = levels or SupervisionLevels()
    rows = {}
    for head, count in EPIC_HEADS.items():
        matrix = scores.head(head, count)
        rows[head] = (log_softmax(matrix) if normalise else matrix).tolist()
    results = {
        name: {head: {str(k): value for k, value in enumerate(rows[head][row])} for head in EPIC_HEADS}
        for row, name in enumerate(scores.ids)
    }
    return {
        "version": EPIC_VERSION,
        "challenge": EPIC_CHALLENGE,
        "sls_pt": levels.pretraining,
        "sls_tl": levels.training_labels,
        "sls_td": levels.training_data,
        "results": results,
    }


def write_epic_submission(
    path: str | Path,
    scores: ScoreTable,
    levels: SupervisionLevels | None = None,
    *,
    expected_ids: Collection[str] | None = None,
    normalise: bool = True,
    force: bool = False,
) -> Path:
    """Writes the zip that the server takes, after validating it; it appears whole or not at all.

    Args:
        path: The zip file.
        scores: Verb and noun scores.
        levels: Supervision levels.
        expected_ids: Segments of the test split; without them completeness is not checked.
        normalise: See `epic_submission`.
        force: Replace an existing file.

    Raises:
        UserError: If the target exists, or the content is not valid.
    """
    from egoloom.clips.files import atomic_path

    path = Path(path)
    if path.exists() and not force:
        raise UserError(f"{path} exists already", fix="choose another name, or add --force")
    content = epic_submission(scores, levels, normalise=normalise)
    check_epic_submission(content, expected_ids=expected_ids)
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=5) as archive,
    ):
        archive.writestr("test.json", json.dumps(content, allow_nan=False))
    return path


def read_epic_submission(path: str | Path, *, expected_ids: Collection[str] | None = None) -> dict[str, Any]:
    """Returns the content of a submission zip after validating it.

    Raises:
        UserError: If it is not a zip with exactly one ``test.json``, or that is not valid.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.namelist() != ["test.json"]:
                raise UserError(f"{path} holds {archive.namelist()}", allowed="exactly one file, test.json")
            text = archive.read("test.json").decode("utf-8")
    except (OSError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a submission zip: {error}") from error
    content = strict_json(text, str(path))
    check_epic_submission(content, expected_ids=expected_ids)
    return content


def check_epic_submission(content: Any, *, expected_ids: Collection[str] | None = None) -> None:
    """Raises UserError with the first fault of an EPIC submission's content; returns nothing if it is valid."""
    keys = ("version", "challenge", "sls_pt", "sls_tl", "sls_td", "results")
    demand(isinstance(content, Mapping), "The submission is not a JSON object")
    for key in keys:
        demand(key in content, f"The submission lacks {key!r}", allowed=", ".join(keys))
    demand(content["version"] == EPIC_VERSION, f"version is {content['version']!r}", allowed=EPIC_VERSION)
    demand(content["challenge"] == EPIC_CHALLENGE, f"challenge is {content['challenge']!r}", allowed=EPIC_CHALLENGE)
    for key in ("sls_pt", "sls_tl", "sls_td"):
        level = content[key]
        demand(type(level) is int and 0 <= level <= 5, f"{key} is {level!r}", allowed="a whole number 0..5")
    results = content["results"]
    demand(isinstance(results, Mapping) and bool(results), "The submission has no results")
    for name, segment in results.items():
        demand(isinstance(segment, Mapping), f"{name}: no scores")
        for head, count in EPIC_HEADS.items():
            _check_class_scores(name, head, segment.get(head), count)
    check_complete(results, expected_ids)


def _check_class_scores(name: str, head: str, scores: Any, count: int) -> None:
    demand(isinstance(scores, Mapping), f"{name}: {head} scores are missing")
    demand(len(scores) == count, f"{name}: {len(scores)} {head} classes", allowed=str(count))
    for k in range(count):
        value = scores.get(str(k))
        demand(is_finite(value), f"{name}: {head} class {k} has the score {value!r}", allowed="a finite number")
