"""The recognition half of the demonstration: one teacher a modality, an ensemble, a distilled RGB-only student."""

import shutil
from pathlib import Path
from typing import Any

from egoloom.clips import ClipStore
from egoloom.clips.dataset import entries_of
from egoloom.clips.files import write_text
from egoloom.clips.transforms import ViewConfig
from egoloom.distillation.config import DistillationConfig
from egoloom.distillation.losses import DistillationLossConfig
from egoloom.distillation.teachers import TeacherEnsembleConfig
from egoloom.evaluation.prediction import Predictions
from egoloom.evaluation.summary import confusion_record, reliability_record, summarise
from egoloom.models import Recogniser
from egoloom.recipes.demo.config import DemoConfig
from egoloom.recipes.demo.data import STUDENT, DemoData
from egoloom.recipes.networks import Network
from egoloom.recipes.recognition import train_recogniser
from egoloom.recipes.run_config import RunConfig
from egoloom.recipes.teaching import evaluate_ensemble
from egoloom.training.config import DataConfig, OptimisationConfig

VIEW = ViewConfig(num_frames=8, size_px=64, max_boxes=6, num_spectrogram_columns=100)


def label_run(config: DemoConfig, data: DemoData, network: Network) -> RunConfig:
    """Returns the configuration of a network trained on labels."""
    base = RunConfig(
        recipe="demo",
        data=DataConfig(store=data.recognition),
        view=VIEW,
        optimisation=OptimisationConfig(
            # Nine real clips make two batches an epoch; they need more epochs to be learnt at all.
            epochs=config.recognition_epochs * (3 if data.is_real else 1),
            batch_size=4 if data.is_real else 16,
            num_view_seeds=8,
            seed=config.seed,
        ),
    )
    return network.in_run(base)


def student_run(config: DemoConfig, data: DemoData, out: Path, *, generated: Path | None = None) -> RunConfig:
    """Returns the configuration of the distilled RGB-only student; ``generated`` mixes in generated clips."""
    base = label_run(config, data, STUDENT)
    return base.model_copy(
        update={
            "data": base.data.model_copy(
                update={
                    "extra_stores": () if generated is None else (generated,),
                    "max_generated_share": config.max_generated_share,
                }
            ),
            "distillation": DistillationConfig(
                teachers=tuple(out / "teachers" / name for name in data.teachers),
                ensemble=TeacherEnsembleConfig(weights="full_dataset", gamma=0.5),
                loss=DistillationLossConfig(temperature=1.0, lambda_ground_truth=0.5),
                unlabelled_splits=data.unlabelled_splits,
            ),
        }
    )


def train_teachers(config: DemoConfig, data: DemoData, out: Path) -> dict[str, Any]:
    """Trains every teacher on labels; returns name to figures on the test split."""
    figures = {}
    for name, network in data.teachers.items():
        run = label_run(config, data, network)
        metrics = train_recogniser(run, out / "teachers" / name, label=f"{name:10}")
        figures[name] = headline(metrics["splits"]["test"])
    return figures


def train_student(config: DemoConfig, data: DemoData, out: Path) -> dict[str, Any]:
    """Distils the student; returns its figures and those of the ensemble that taught it."""
    run = student_run(config, data, out)
    metrics = train_recogniser(run, out / "student", label="student   ")
    ensemble = evaluate_ensemble(run, out / "student", split="test")
    ensemble.save(out / "student" / "predictions" / "teacher-test.npz")
    return {
        "student": headline(metrics["splits"]["test"]),
        "teacher": headline(summarise(ensemble)),
        "teacher_weights": (out / "student" / "teacher_weights.json").name,
    }


def train_with_generated(config: DemoConfig, data: DemoData, out: Path, generated: Path) -> dict[str, Any]:
    """Distils the student once more with generated clips in the mixture."""
    run = student_run(config, data, out, generated=generated)
    metrics = train_recogniser(run, out / "student_with_generated", label="+generated")
    return {
        "student_with_generated": headline(metrics["splits"]["test"]),
        "generated_share": metrics["generated_share"],
        "max_generated_share": metrics["max_generated_share"],
    }


def headline(split: dict[str, Any]) -> dict[str, Any]:
    """Returns the figures of the action head (or the only one) with the number of clips behind them."""
    heads = split["heads"]
    figures = heads.get("action") or next(iter(heads.values()))
    return {**figures, "num_clips": split["num_clips"], "heads": {name: h["top1"] for name, h in heads.items()}}


def write_report_inputs(data: DemoData, out: Path) -> None:
    """Copies histories and writes reliability and confusion of the compared runs for the report."""
    import json

    folder = out / "report"
    class_names = ClipStore.open(data.recognition).class_names("action")
    runs = {"rgb_labels": out / "teachers" / "rgb_labels", "student": out / "student"}
    runs["student_with_generated"] = out / "student_with_generated"
    for name, run in runs.items():
        predictions = Predictions.load(run / "predictions" / "test.npz")
        card = json.loads((run / "checkpoints" / "best" / "card.json").read_text(encoding="utf-8"))
        record = reliability_record(predictions, "action", temperature=card["temperature"]["action"])
        write_text(folder / "reliability" / f"{name}.json", json.dumps(record))
        (folder / "history").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run / "history.jsonl", folder / "history" / f"{name}.jsonl")
    teacher = Predictions.load(out / "student" / "predictions" / "teacher-test.npz")
    write_text(folder / "reliability" / "teacher.json", json.dumps(reliability_record(teacher, "action")))
    if not data.is_real:  # 174 classes with nine clips make no picture
        student = Predictions.load(out / "student" / "predictions" / "test.npz")
        record = confusion_record(student, "action", class_names)
        write_text(folder / "confusion" / "student.json", json.dumps(record))


def label_spaces(data: DemoData) -> dict[str, list[str]]:
    """Returns the classes of the recognition store, which generated clips must share."""
    return ClipStore.open(data.recognition).info.label_spaces


def num_labelled_test_clips(data: DemoData) -> int:
    """Returns how many clips the figures rest on."""
    return len(entries_of(ClipStore.open(data.recognition), split="test", labelled=True))


def load_student(out: Path) -> Recogniser:
    """Returns the distilled student."""
    return Recogniser.from_pretrained(out / "student" / "checkpoints" / "best")
