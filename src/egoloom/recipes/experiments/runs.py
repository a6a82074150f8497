"""Runs of an experiment: trained side by side in processes of one thread each, kept when finished, then measured."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from egoloom._parallel import map_unordered
from egoloom.clips import ClipStore, Modality
from egoloom.clips.dataset import ClipDataset, entries_of
from egoloom.clips.files import write_text
from egoloom.errors import UserError
from egoloom.evaluation.calibration import expected_calibration_error, negative_log_likelihood
from egoloom.evaluation.prediction import Predictions, predict_clips
from egoloom.evaluation.summary import fit_temperatures
from egoloom.models import Recogniser
from egoloom.recipes.recognition import train_recogniser
from egoloom.recipes.run_config import RunConfig
from egoloom.recipes.teaching import evaluate_ensemble

FIGURES = "figures.json"
NUM_BINS = 15


@dataclass(frozen=True)
class Job:
    """One training run of an experiment.

    Attributes:
        setting: The setting.
        treatment: How it is trained.
        seed: Seed of data, network and order.
        config: The whole run.
        out: Its folder.
        test_modality: Show only this modality at test time, where the network can see several.
        with_ensemble: Also measure the ensemble of the teachers, as the treatment ``ensemble``.
    """

    setting: str
    treatment: str
    seed: int
    config: RunConfig
    out: Path
    test_modality: str | None = None
    with_ensemble: bool = False

    def __str__(self) -> str:
        return f"{self.setting}, {self.treatment}, seed {self.seed}"


@dataclass(frozen=True)
class Finished:
    """A job with its figures, treatment to metric to value."""

    job: Job
    figures: dict[str, dict[str, float]]


def run_jobs(
    jobs: Sequence[Job], *, num_workers: int, description: str, on_finished: Callable[[Finished], None]
) -> None:
    """Trains and measures; finished jobs are kept, interrupted ones continue.

    Raises:
        UserError: If a job fails for a reason the user can change.
    """
    for outcome in map_unordered(run_job, jobs, num_workers=num_workers, description=description):
        if outcome.failure is not None or outcome.result is None:
            raise UserError(f"{outcome.item}: {outcome.failure.reason if outcome.failure else 'failed'}")
        on_finished(outcome.result)


def run_job(job: Job) -> Finished:
    """Trains and measures one run, or reads what it measured before."""
    path = job.out / FIGURES
    if not path.is_file():
        train_recogniser(job.config, job.out, label=f"{job}")
        write_text(path, json.dumps(measure(job), indent=1) + "\n")
    return Finished(job, json.loads(path.read_text(encoding="utf-8")))


def measure(job: Job) -> dict[str, dict[str, float]]:
    """Returns the figures of a finished run, and of the ensemble that taught it."""
    splits = job.config.data.report_splits
    if job.test_modality is None:
        predictions = {split: Predictions.load(job.out / "predictions" / f"{split}.npz") for split in splits}
        temperature = json.loads((job.out / "metrics.json").read_text())["temperature"].get("action", 1.0)
    else:
        predictions, temperature = _predict_with_one_modality(job)
    figures = {job.treatment: figures_of(predictions, temperature)}
    if job.with_ensemble:
        ensemble = {split: evaluate_ensemble(job.config, job.out, split=split) for split in splits}
        figures["ensemble"] = figures_of(ensemble, 1.0)  # its teachers are calibrated one by one
    return figures


def _predict_with_one_modality(job: Job) -> tuple[dict[str, Predictions], float]:
    config, store = job.config, ClipStore.open(job.config.data.store)
    model = Recogniser.from_pretrained(job.out / "checkpoints" / "best")

    def predict(split: str) -> Predictions:
        dataset = ClipDataset(
            entries_of(store, split=split, labelled=True),
            [Modality(job.test_modality)],
            config.view,
            is_training=False,
            num_test_clips=config.evaluation.num_clips,
        )
        return predict_clips(model, dataset, batch_size=config.evaluation.batch_size)

    temperature = fit_temperatures(predict(config.data.selection_split))["action"]
    return {split: predict(split) for split in config.data.report_splits}, temperature


def figures_of(predictions: dict[str, Predictions], temperature: float, head: str = "action") -> dict[str, float]:
    """Returns accuracy and calibration over the clips of all splits together, and accuracy of each split.

    ``top1`` averages all views; ``top1_one_view`` takes the middle one alone. ``ece`` is after temperature scaling.
    """
    labels = np.concatenate([p.labels[head] for p in predictions.values()])
    scores_NVK = np.concatenate([p.logits[head] for p in predictions.values()])
    middle = scores_NVK.shape[1] // 2
    probs = _softmax(scores_NVK.mean(axis=1) / temperature)
    raw = _softmax(scores_NVK.mean(axis=1))
    one = _softmax(scores_NVK[:, middle] / temperature)
    figures = {
        "top1": float((probs.argmax(axis=1) == labels).mean()),
        "top1_one_view": float((one.argmax(axis=1) == labels).mean()),
        "ece": expected_calibration_error(probs, labels, NUM_BINS),
        "ece_uncalibrated": expected_calibration_error(raw, labels, NUM_BINS),
        "nll": negative_log_likelihood(probs, labels),
    }
    for split, p in predictions.items():
        hits = p.logits[head].mean(axis=1).argmax(axis=1) == p.labels[head]
        figures[f"top1_{split}"] = float(hits.mean())
    return figures


def _softmax(logits_NK: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits_NK.astype(np.float64) - logits_NK.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)
