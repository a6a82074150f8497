"""Which generated clips may be trained on: every score against a threshold that validation clips set.

The validation clips are generated as the others are, from takes that are not trained on. All thresholds lie at the same
quantile of their scores, the largest at which the checks together reject no more than a stated share of them. One of
the scores is the log-probability of the label by a recogniser that never saw the clip; it is checked only if the
recogniser separates true from wrong labels of validation clips (Youden's J), because a weak one rejects hard clips
rather than wrong ones.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from egoloom.augmentation.generate import REJECTED
from egoloom.clips import Clip, ClipStore, Modality
from egoloom.clips.dataset import ClipDataset, ClipEntry
from egoloom.clips.files import exclusive_lock, write_text
from egoloom.clips.tables import write_clips
from egoloom.clips.transforms import ViewConfig
from egoloom.errors import UserError
from egoloom.evaluation.prediction import predict_clips
from egoloom.models import Recogniser

QUALITY = ("coverage", "agreement", "stability", "hands")
LABEL = "label_log_prob"
MIN_VALIDATION = 5  # fewer clips say nothing about a threshold
MIN_YOUDEN = 0.8
NUM_QUANTILES = 200
THRESHOLDS_FILE = "thresholds.json"


class Thresholds(BaseModel):
    """Least values of every score; what is not listed is not checked.

    Attributes:
        least: Score to least value.
        num_validation: Validation clips that set them.
        source: ``validation``, or ``the clips themselves`` where there were no validation clips.
        label_youden: How well the recogniser separates true from wrong labels there: 0 not at all, 1 perfectly; below
            ``MIN_YOUDEN`` the label is not checked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    least: dict[str, float]
    num_validation: int
    source: str
    label_youden: float | None = None


@dataclass(frozen=True)
class Verdict:
    """A clip's scores and why it is rejected; the reason is empty if it is not."""

    clip_id: str
    scores: dict[str, float]
    reason: str


def fit_thresholds(
    scores: Sequence[Mapping[str, float]],
    *,
    worst_share: float = 0.1,
    wrong_log_probs: np.ndarray | None = None,
    source: str = "validation",
) -> Thresholds:
    """Returns thresholds from scores of validation clips.

    Args:
        scores: Quality scores of the clips, and ``LABEL`` of those that a recogniser judged.
        worst_share: Largest share of them that all thresholds together reject.
        wrong_log_probs: The recogniser's log-probabilities of the wrong labels of the clips that it judged.
        source: Written into the result.
    """
    names, youden = list(QUALITY), None
    true = np.array([one[LABEL] for one in scores if LABEL in one])
    if len(true) and wrong_log_probs is not None:
        youden = youdens_j(true, wrong_log_probs)
        names += [LABEL] if youden >= MIN_YOUDEN else []
    table_NS = np.array([[one.get(name, np.nan) for name in names] for one in scores])
    least_S = np.nanmin(table_NS, axis=0)
    for quantile in np.linspace(0, worst_share, NUM_QUANTILES + 1):
        higher_S = np.nanquantile(table_NS, quantile, axis=0)
        if (table_NS < higher_S).any(axis=1).mean() <= worst_share:
            least_S = higher_S
    least = dict(zip(names, least_S.tolist(), strict=True))
    return Thresholds(least=least, num_validation=len(scores), source=source, label_youden=youden)


def youdens_j(true: np.ndarray, wrong: np.ndarray) -> float:
    """Returns the largest difference of true positive and false positive rate over all thresholds (Youden 1950)."""
    values = np.unique(true)
    hits = 1 - np.searchsorted(np.sort(true), values, side="left") / len(true)
    alarms = 1 - np.searchsorted(np.sort(wrong), values, side="left") / max(1, len(wrong))
    return float((hits - alarms).max())


def judge(scores: Mapping[str, float], thresholds: Thresholds) -> str:
    """Returns why a clip is rejected; empty if every known score reaches its threshold."""
    for name, least in thresholds.least.items():
        if name in scores and scores[name] < least:
            return f"{name} {scores[name]:.3f} is below {least:.3f}"
    return ""


def label_log_probs(
    recogniser: Recogniser, entries: Sequence[ClipEntry], view: ViewConfig, head: str = "action"
) -> np.ndarray:
    """Returns the log-probabilities ``[N, K]`` that a recogniser gives every class for the middle view of the clips.

    Raises:
        UserError: If it has no such head, or does not read RGB.
    """
    if head not in recogniser.heads:
        raise UserError(f"The recogniser has no head {head!r}", allowed=", ".join(recogniser.heads))
    if "rgb" not in recogniser.input_modalities:
        raise UserError("The recogniser does not read RGB", allowed="a recogniser of RGB")
    dataset = ClipDataset(entries, [Modality.RGB], view, is_training=False)
    return predict_clips(recogniser, dataset).log_probs(head)


def load_recogniser(path: Path) -> tuple[Recogniser, ViewConfig]:
    """Returns the recogniser of a run or checkpoint, and the views it was trained on.

    Raises:
        UserError: If there is none.
    """
    best = path / "checkpoints" / "best"
    folder = best if best.is_dir() else path
    card = folder / "card.json"
    view = ViewConfig()
    if card.is_file():
        view = ViewConfig.model_validate(json.loads(card.read_text(encoding="utf-8"))["view"])
    return Recogniser.from_pretrained(folder), view


def filter_store(
    store: ClipStore,
    *,
    validation_split: str = "validation",
    recogniser: tuple[Recogniser, ViewConfig] | None = None,
    worst_share: float = 0.1,
) -> tuple[list[Verdict], Thresholds]:
    """Moves generated clips that do not pass into the split ``rejected``, with the reason; writes ``thresholds.json``.

    Clips that were rejected before are judged again, so that a second call with other options corrects the first.

    Args:
        store: A store of generated clips.
        validation_split: Its clips set the thresholds; without any the clips themselves do.
        recogniser: A recogniser of RGB that never saw these clips, and its views.
        worst_share: See `fit_thresholds`.

    Raises:
        UserError: If the store has no generated clips, or the recogniser has other classes.
    """
    if not 0 <= worst_share < 1:
        raise UserError(f"--filter.worst-share {worst_share} is out of range", allowed="0 up to below 1")
    made = [clip for clip in store.clips if clip.is_generated and "scores" in clip.extra]
    if not made:
        raise UserError(f"{store.path} has no generated clips", fix="egoloom augment STORE --out OUT")
    scores = {clip.clip_id: dict(json.loads(clip.extra["scores"])) for clip in made}
    wrong = None
    judges = [clip for clip in made if clip.split == validation_split]
    judges = judges if len(judges) >= MIN_VALIDATION else made
    if recogniser is not None:
        classes = len(store.class_names("action"))
        if recogniser[0].heads.get("action") not in (None, classes):
            raise UserError(f"The recogniser knows {recogniser[0].heads['action']} actions, the store has {classes}")
        log_probs = label_log_probs(recogniser[0], [ClipEntry(store, clip) for clip in made], recogniser[1])
        known = {clip.clip_id: row for clip, row in zip(made, log_probs, strict=True) if clip.action >= 0}
        for clip in made:
            if clip.clip_id in known:
                scores[clip.clip_id][LABEL] = float(known[clip.clip_id][clip.action])
        others = [np.delete(known[clip.clip_id], clip.action) for clip in judges if clip.clip_id in known]
        wrong = np.concatenate(others) if others else None
    source = "validation" if judges is not made else "the clips themselves"
    thresholds = fit_thresholds(
        [scores[clip.clip_id] for clip in judges],
        worst_share=worst_share,
        wrong_log_probs=wrong,
        source=source,
    )
    verdicts = [
        Verdict(clip.clip_id, scores[clip.clip_id], judge(scores[clip.clip_id], thresholds))
        for clip in made
        if clip.split != validation_split
    ]
    _mark_rejected(store, verdicts)
    write_text(store.path / THRESHOLDS_FILE, thresholds.model_dump_json(indent=1) + "\n")
    return verdicts, thresholds


def _mark_rejected(store: ClipStore, verdicts: Sequence[Verdict]) -> None:
    by_id = {verdict.clip_id: verdict for verdict in verdicts}

    def marked(clip: Clip) -> Clip:
        verdict = by_id.get(clip.clip_id)
        if verdict is None:
            return clip
        extra = {name: value for name, value in clip.extra.items() if name not in {"rejected", "accepted_split"}}
        split = clip.extra.get("accepted_split", clip.split)
        extra["scores"] = json.dumps(verdict.scores)
        if verdict.reason:
            extra |= {"rejected": verdict.reason, "accepted_split": split}
            split = REJECTED
        return replace(clip, split=split, extra=extra)

    with exclusive_lock(store.path / ".lock"):
        store.reload()
        write_clips(store.path / "clips.parquet", [marked(clip) for clip in store.clips])
        store.reload()
