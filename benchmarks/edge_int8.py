"""What int8 loses: students of the built-in kitchen, judged on 808 simulated takes that they never saw."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from egoloom.deployment import export_student, load_student
from egoloom.deployment.parity import ParityClips, parity_clips_from_store, run_in_batches
from egoloom.deployment.run_inputs import clips_of_run, input_card, store_of_run
from egoloom.evaluation.calibration import expected_calibration_error
from egoloom.evaluation.significance import bootstrap_interval
from egoloom.kitchen import KitchenSettings, make_store
from egoloom.kitchen.settings import SplitShares
from egoloom.recipes.recognition import train_recogniser
from egoloom.recipes.registry import get_recipe
from egoloom.recipes.run_config import RunConfig

NUM_TAKES = 2000
SHARES = SplitShares(train=0.5, validation=0.1, test=0.4, unseen_participant=0, unseen_kitchen=0, unlabelled=0)
SETTINGS = KitchenSettings(seed=8, ego_size_px=80, exo_width_px=32, exo_height_px=32, fps=9, splits=SHARES)
NUM_GATE, NUM_CALIBRATION = 64, 128


def students(folder: Path) -> dict[str, Path]:
    """Returns a run for post-training quantisation, and the same fine-tuned for int8; both are made once.

    About 12 CPU minutes of takes, two of training and one of fine-tuning.
    """
    store = folder / "clips"
    make_store(store, num_clips=NUM_TAKES, settings=SETTINGS, num_workers=os.cpu_count() or 1)
    plain, aware = folder / "runs" / "labels", folder / "runs" / "qat"
    _train(_config(store, {}, {"epochs": 24, "score_every_epochs": 6}), plain)
    tuning = {"epochs": 6, "score_every_epochs": 6, "learning_rate": 4e-4, "quantisation_aware": True}
    _train(_config(store, {"init_from": plain, "options": {}}, tuning), aware)
    return {"post-training": plain, "quantisation-aware": aware}


def _config(store: Path, model: dict[str, Any], optimisation: dict[str, Any]) -> RunConfig:
    """The recipe ``tiny`` with a causal student and all heads, the hands among them."""
    plain = get_recipe("tiny")
    heads = ("verb", "noun", "action", "left_hand_object", "right_hand_object")
    return plain.model_copy(
        update={
            "data": plain.data.model_copy(update={"store": store}),
            "model": plain.model.model_copy(update={"heads": heads, "options": {"temporal_shift": "causal"}} | model),
            "optimisation": plain.optimisation.model_copy(update=optimisation),
        }
    )


def _train(config: RunConfig, out: Path) -> None:
    if not (out / "metrics.json").is_file():
        train_recogniser(config, out)


def int8_losses(run: Path, folder: Path, targets: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Returns what each runtime's int8 loses against ONNX fp32 on the test split; exports pass the gate as users' do.

    Args:
        run: A run folder whose clip store is still there.
        folder: Where the exports go.
        targets: Runtimes.
    """
    store = store_of_run(run)
    if store is None:
        raise SystemExit(f"{run}: its clip store is not there any more")
    gate, calibration = clips_of_run(run, store, None, NUM_GATE, NUM_CALIBRATION)
    test = parity_clips_from_store(store, input_card(run), split="test", num_clips=10**6)
    common: dict[str, Any] = {"parity_clips": gate, "calibration_clips": calibration}
    result = export_student(run, folder / f"{run.name}-fp32", target="onnx", precision="fp32", **common)
    expected = _scores(result.path, test)
    losses = {}
    for target in targets:
        result = export_student(run, folder / f"{run.name}-{target}-int8", target=target, precision="int8", **common)
        losses[target] = compare(expected, _scores(result.path, test), test) | {"size_mb": round(result.size_mb, 3)}
    return losses


def compare(expected_NK: np.ndarray, actual_NK: np.ndarray, clips: ParityClips) -> dict[str, Any]:
    """Returns accuracy and ECE of log-probabilities of two programs, and the paired 95 % interval of the loss."""
    labels = clips.labels["action"]
    hits, int8_hits = ((scores.argmax(1) == labels).astype(float) for scores in (expected_NK, actual_NK))
    loss = bootstrap_interval(100 * (hits - int8_hits))
    ece, int8_ece = (float(expected_calibration_error(np.exp(scores), labels)) for scores in (expected_NK, actual_NK))
    return {
        "num_clips": len(labels),
        "top1_fp32": round(float(hits.mean()), 4),
        "top1_int8": round(float(int8_hits.mean()), 4),
        "loss_points": round(loss.value, 3),
        "loss_points_ci95": [round(loss.low, 3), round(loss.high, 3)],
        "top1_agreement": round(float((expected_NK.argmax(1) == actual_NK.argmax(1)).mean()), 4),
        "ece_fp32": round(ece, 4),
        "ece_int8": round(int8_ece, 4),
        "ece_increase": round(int8_ece - ece, 4),
        "mean_log_probability_difference": round(float(np.abs(expected_NK - actual_NK).mean()), 4),
    }


def _scores(path: Path, clips: ParityClips) -> np.ndarray:
    return run_in_batches(load_student(path, num_threads=1).log_probs, clips.frames, 8)["action"]
