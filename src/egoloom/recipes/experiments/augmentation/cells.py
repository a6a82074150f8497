"""One cell of the experiment: which clips are mixed in, who teaches, training and figures."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from egoloom.augmentation.filtering import LABEL, fit_thresholds, judge, label_log_probs
from egoloom.clips import ClipStore, Modality
from egoloom.clips.dataset import ClipDataset, ClipEntry, Sample, ViewKey, batches, entries_of
from egoloom.clips.schema import ACTION_HEADS
from egoloom.distillation.losses import DistillationLossConfig
from egoloom.distillation.task import DistillationTask
from egoloom.distillation.teachers import ModuleTeacher, TeacherEnsemble, TeacherEnsembleConfig
from egoloom.evaluation.prediction import Predictions, predict_clips
from egoloom.models import Recogniser, create_model
from egoloom.recipes.experiments.augmentation.config import VIEW, AugmentationExperiment
from egoloom.recipes.experiments.runs import figures_of
from egoloom.recipes.networks import KITCHEN_SENSORS, RGB, Network
from egoloom.training.config import OptimisationConfig
from egoloom.training.loop import Trainer
from egoloom.training.tasks import LabelTask, Task

TEACHERS: dict[str, Network] = {"rgb": RGB, **KITCHEN_SENSORS}
MODALITIES = {"rgb": Modality.RGB, "flow": Modality.FLOW, "boxes": Modality.BOXES, "audio": Modality.SPECTROGRAM,
              "imu": Modality.IMU}  # fmt: skip
NUM_VIEW_SEEDS = 6

Memory = dict[tuple[str, str, tuple[str, ...], bool, int], Sample]


class RememberedViews(ClipDataset):
    """Views that are drawn once and kept for all cells, seeds and settings; they follow from clip and seed alone."""

    def __init__(self, entries: Sequence[ClipEntry], modality: Modality, memory: Memory, *, is_training: bool) -> None:
        super().__init__(entries, [modality], VIEW, is_training=is_training, num_test_clips=2, cache_bytes=64 * 2**20)
        self.memory = memory

    def __getitem__(self, key: ViewKey | tuple[int, int]) -> Sample:
        """See `ClipDataset`."""
        index, view_seed = key
        store, clip = self.entries[index]
        name = (str(store.path), clip.clip_id, self.modalities, self.is_training, view_seed)
        if name not in self.memory:
            self.memory[name] = super().__getitem__(key)
        return self.memory[name] | {"index": index, "clip_id": f"{store.path.name}/{clip.clip_id}"}


class Group:
    """All cells of one number of labels and one seed; they share the labelled clips, the filter and the teachers.

    Args:
        config: The experiment.
        stores: See `make_stores`.
        memory: Views drawn so far.
        out: For checkpoints.
        number: Labelled ego clips of an action.
        seed: Of everything.
    """

    def __init__(
        self,
        config: AugmentationExperiment,
        stores: dict[str, ClipStore],
        memory: Memory,
        out: Path,
        number: int,
        seed: int,
    ) -> None:
        self.config, self.stores, self.memory, self.seed = config, stores, memory, seed
        self.out = out / "runs" / f"{number}_labels" / f"seed{seed}"
        self.labelled = draw_labelled(stores["ego"], number, seed)
        self._baseline: Recogniser | None = None
        self._taught: tuple[TeacherEnsemble, dict[tuple[str, int], dict[str, torch.Tensor]]] | None = None

    def figures(self, cell: str, *, is_distilled: bool) -> dict[str, float]:
        """Trains one cell and returns its figures."""
        added = self.added(cell)
        task = self.distillation(added) if is_distilled else None
        model = self.train(cell, "rgb", added, task)
        if cell == "ego_only" and not is_distilled:
            self._baseline = model
        figures = self.measure(model)
        return figures | {"num_added": float(len(added)), "num_recorded": float(len(self.labelled))}

    def added(self, cell: str) -> list[ClipEntry]:
        """Returns the clips that a cell trains on besides the labelled ego clips."""
        if cell == "ego_only":
            return []
        if cell == "true_ego":
            return entries_of(self.stores["third_person"], view="ego")
        if cell == "raw_exo":
            return entries_of(self.stores["raw_exo"], view="exo")
        name = "generated" if cell == "generated_filtered" else cell
        entries = entries_of(self.stores[name], split="train")
        return self.accepted(entries) if cell == "generated_filtered" else entries

    def accepted(self, entries: list[ClipEntry]) -> list[ClipEntry]:
        """Returns the generated clips that pass; the recogniser of the filter saw the labelled ego clips alone."""
        store = self.stores["generated"]
        held_out = entries_of(store, split="validation", labelled=True)
        scores, wrong = self._judged_labels(held_out)
        thresholds = fit_thresholds(scores, worst_share=self.config.worst_share, wrong_log_probs=wrong)
        return [
            e for e, own in zip(entries, self._judged_labels(entries)[0], strict=True) if not judge(own, thresholds)
        ]

    def _judged_labels(self, entries: list[ClipEntry]) -> tuple[list[dict[str, float]], np.ndarray]:
        """Returns the scores of generated clips with that of the label, and the log-probabilities of other labels."""
        rows = label_log_probs(self.baseline(), entries, VIEW)
        own = zip(rows, (entry.clip for entry in entries), strict=True)
        scores = [json.loads(clip.extra["scores"]) | {LABEL: float(row[clip.action])} for row, clip in own]
        wrong = [np.delete(row, entry.clip.action) for row, entry in zip(rows, entries, strict=True)]
        return scores, np.concatenate(wrong)

    def baseline(self) -> Recogniser:
        """Returns the recogniser of the labelled ego clips alone."""
        if self._baseline is None:
            self._baseline = self.train("ego_only", "rgb", [], None)
        return self._baseline

    def train(self, cell: str, teacher: str, added: list[ClipEntry], task: Task | None) -> Recogniser:
        """Trains on the mixture, then on the recorded clips alone; the steps are the same for every cell."""
        network = TEACHERS[teacher]
        torch.manual_seed(self.seed)
        available = self.stores["ego"].num_classes()
        classes = {head: available[head] for head in ACTION_HEADS if head in available}
        model = create_model(network.model, num_classes=classes, **network.options)
        task = task or LabelTask(dict.fromkeys(model.heads, 1.0))
        rate, steps = network.learning_rate, round(network.length * self.config.steps)
        phases = [([*self.labelled, *added], steps, rate), (self.labelled, self.config.recorded_steps, rate / 4)]
        for number, (entries, steps, rate) in enumerate(phases):
            if steps:
                folder = self.out / f"{cell}_{teacher}_{number}"
                fit(model, task, self.views(entries, teacher), steps, rate, self.seed, folder)
        return model

    def views(self, entries: list[ClipEntry], teacher: str, *, is_training: bool = True) -> RememberedViews:
        """Returns the views of a modality."""
        return RememberedViews(entries, MODALITIES[teacher], self.memory, is_training=is_training)

    def measure(self, model: Recogniser) -> dict[str, float]:
        """Returns accuracy and calibration on the reported splits; the temperature is 1 for all cells."""
        predictions: dict[str, Predictions] = {}
        for split in self.config.report_splits:
            entries = entries_of(self.stores["ego"], split=split, labelled=True)
            predictions[split] = predict_clips(model, self.views(entries, "rgb", is_training=False))
        return figures_of(predictions, 1.0)

    def distillation(self, added: list[ClipEntry]) -> Task:
        """Returns the task whose targets come from teachers that saw the labelled ego clips alone."""
        if self._taught is None:
            modules = {name: self.train("teacher", name, [], None) for name in TEACHERS}
            teachers = {name: ModuleTeacher(module) for name, module in modules.items()}
            ensemble = TeacherEnsemble(teachers, TeacherEnsembleConfig(weights="full_dataset", gamma=0.5))
            held_out = entries_of(self.stores["ego"], split="validation", labelled=True)
            logits = {head: [] for head in ensemble.heads}
            labels = {head: [] for head in ensemble.heads}
            for values, known in self._judged(ensemble, held_out, range(1), is_training=False):
                for head in ensemble.heads:
                    logits[head].append(values[head])
                    labels[head].append(known["labels"][head])
            ensemble.fit(
                {h: torch.cat(v) for h, v in logits.items()},
                {h: torch.cat(v) for h, v in labels.items()},
                calibrate=True,
            )
            self._taught = ensemble, {}
        ensemble, verdicts = self._taught
        missing = [e for e in [*self.labelled, *added] if (f"{e.store.path.name}/{e.clip.clip_id}", 0) not in verdicts]
        for values, batch in self._judged(ensemble, missing, range(NUM_VIEW_SEEDS), is_training=True):
            for row, (clip_id, seed) in enumerate(zip(batch["clip_id"], batch["view_seed"], strict=True)):
                verdicts[clip_id, int(seed)] = {head: scores[row] for head, scores in values.items()}

        def look_up(batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
            rows = [verdicts[i, int(s)] for i, s in zip(batch["clip_id"], batch["view_seed"], strict=True)]
            return {head: torch.stack([row[head] for row in rows]) for head in rows[0]}

        loss = DistillationLossConfig(temperature=1.0, lambda_ground_truth=0.5)
        return DistillationTask(ensemble, look_up, loss)

    def _judged(self, ensemble: TeacherEnsemble, entries: list[ClipEntry], seeds: range, *, is_training: bool):
        """Yields the teachers' logits and the batch they belong to."""
        if not entries:
            return
        datasets = {name: self._present(entries, name, is_training) for name in TEACHERS}
        for seed in seeds:
            for start in range(0, len(entries), 64):
                keys = [ViewKey(index, seed) for index in range(start, min(start + 64, len(entries)))]
                parts = [next(batches(dataset, keys, 64)) for dataset in datasets.values() if dataset is not None]
                inputs: dict[str, Any] = {name: value for part in parts for name, value in part["inputs"].items()}
                inputs["present"] = {name: value for part in parts for name, value in part["present"].items()}
                yield ensemble.logits(inputs), parts[0]

    def _present(self, entries: list[ClipEntry], teacher: str, is_training: bool) -> RememberedViews | None:
        """Returns the views that a teacher judges; None if none of the clips has what it reads."""
        if not any(MODALITIES[teacher] in entry.clip.present for entry in entries):
            return None
        return self.views(entries, teacher, is_training=is_training)


def draw_labelled(store: ClipStore, number: int, seed: int) -> list[ClipEntry]:
    """Returns so many labelled training clips of every action; smaller numbers are part of larger ones."""
    entries = entries_of(store, split="train", labelled=True)
    order = np.random.default_rng([seed, 5]).permutation(len(entries))
    taken: dict[int, int] = {}
    chosen = []
    for index in order:
        action = entries[index].clip.action
        if taken.get(action, 0) < number:
            taken[action] = taken.get(action, 0) + 1
            chosen.append(entries[index])
    return chosen


def fit(model: Recogniser, task: Task, dataset: ClipDataset, steps: int, rate: float, seed: int, folder: Path) -> None:
    """Trains for about so many optimiser steps; nothing is selected, the last weights count."""
    batch_size = 16
    epochs = max(1, round(steps / max(1, len(dataset) // batch_size)))
    optimisation = OptimisationConfig(
        epochs=epochs, batch_size=batch_size, learning_rate=rate, num_view_seeds=NUM_VIEW_SEEDS, seed=seed
    )
    Trainer(model, task, dataset, optimisation, folder, label=folder.name).fit()
    model.eval()
