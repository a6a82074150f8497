"""Cross-fitted teachers: a clip is judged only by teachers that did not learn from it.

A teacher knows the labels of its own training clips by heart, wrong ones included, so what it says of them is the label
once more. Teachers that each left out one fold of the training clips say something new about that fold (Dao et al.,
*Knowledge Distillation as Semiparametric Inference*, ICLR 2021, arXiv 2104.09732).

Shape letters: B batch, M teachers, K classes.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from egoloom.clips.dataset import ClipEntry
from egoloom.clips.files import write_text
from egoloom.errors import UserError

TRAINING_CLIPS_FILE = "training_clips.json"
RETRAIN = "train each teacher once a fold: --data.left-out-fold 0 2 and --data.left-out-fold 1 2"


def fold_of(video_id: str, num_folds: int) -> int:
    """Returns the fold of a video: clips of one video share it, since neighbouring clips look alike."""
    return int.from_bytes(hashlib.sha256(video_id.encode()).digest()[:8], "big") % num_folds


def without_fold(entries: Sequence[ClipEntry], fold: int, num_folds: int) -> list[ClipEntry]:
    """Returns the entries whose video is not in the fold.

    Raises:
        UserError: If none is left.
    """
    kept = [entry for entry in entries if fold_of(entry.clip.video_id, num_folds) != fold]
    if not kept:
        raise UserError(f"All {len(entries)} training clips are in fold {fold} of {num_folds}", fix="use more folds")
    return kept


def write_training_clips(run: Path, entries: Sequence[ClipEntry]) -> None:
    """Writes which clips a run learns from, ``training_clips.json``."""
    write_text(run / TRAINING_CLIPS_FILE, json.dumps({"clip_ids": [entry.clip.clip_id for entry in entries]}) + "\n")


def read_training_clips(run: Path) -> frozenset[str]:
    """Returns the clips that a run learnt from.

    Raises:
        UserError: If the run does not tell.
    """
    path = run / TRAINING_CLIPS_FILE
    try:
        return frozenset(json.loads(path.read_text(encoding="utf-8"))["clip_ids"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} does not tell which clips this teacher learnt from: {error}", fix=RETRAIN) from error


def check_each_is_judged(clip_ids: Sequence[str], learnt: Mapping[str, frozenset[str]]) -> None:
    """Raises UserError where every teacher learnt from a clip, so that nobody may judge it."""
    known_to_all = frozenset.intersection(*learnt.values())
    if unjudged := [clip_id for clip_id in clip_ids if clip_id in known_to_all]:
        raise UserError(
            f"{len(unjudged)} of {len(clip_ids)} training clips were learnt by every teacher, first: {unjudged[0]}",
            allowed="cross-fitted teachers that together leave out every clip once",
            fix=RETRAIN,
        )


def silence_learnt(
    logits: Mapping[str, Tensor], clip_ids: Sequence[str], learnt: Sequence[frozenset[str]]
) -> dict[str, Tensor]:
    """Returns the verdicts with NaN where a teacher judges a clip that it learnt from.

    Args:
        logits: Head to ``[B, M, K]``.
        clip_ids: The B clips.
        learnt: Of each of the M teachers, the clips it was trained on.
    """
    heard_by_heart_BM = torch.tensor([[clip_id in clips for clips in learnt] for clip_id in clip_ids])
    return {
        head: values.masked_fill(heard_by_heart_BM.to(values.device).unsqueeze(-1), torch.nan)
        for head, values in logits.items()
    }


def with_label_as_evidence(logits_BK: Tensor, labels_B: Tensor, *, label_noise: float) -> Tensor:
    """Returns teachers' logits after the given label was heard as one more witness (Bayes' rule).

    If a label is wrong with probability e and then any other class alike, it multiplies the odds of its own class
    by (1 - e)(K - 1) / e: confident teachers overrule it, doubtful ones follow it. The teachers must not have learnt
    from that label, or it counts twice.

    Args:
        logits_BK: Mixed and calibrated logits of the teachers.
        labels_B: Given labels, -1 where there is none.
        label_noise: The probability e, above 0 and below 1.
    """
    num_classes = logits_BK.shape[1]
    if num_classes < 2:
        return logits_BK
    log_odds = torch.tensor((1.0 - label_noise) * (num_classes - 1) / label_noise, dtype=logits_BK.dtype).log()
    given_BK = torch.nn.functional.one_hot(labels_B.clamp_min(0), num_classes) * (labels_B >= 0).unsqueeze(1)
    return logits_BK + log_odds.to(logits_BK.device) * given_BK
