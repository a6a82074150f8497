"""Do generated first-person clips help a recogniser that has few labelled ones? On the kitchen, cell by cell.

Few labelled ego clips of few people in few kitchens, many labelled exo clips of other people in other kitchens; tested
on people and kitchens that occur in neither. Simulated data, tiny networks: the figures say how the method behaves.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from egoloom.augmentation.filtering import LABEL, fit_thresholds, judge, label_log_probs
from egoloom.augmentation.generate import AugmentationConfig, generate_clips, generated_store
from egoloom.augmentation.generators import open_generator
from egoloom.augmentation.other_modalities import add_modalities
from egoloom.augmentation.samples import generator_prior_config
from egoloom.clips import ClipStore, Modality
from egoloom.clips.dataset import ClipDataset, ClipEntry, Sample, ViewKey, batches, entries_of
from egoloom.clips.media import VideoReader, read_table, write_video
from egoloom.clips.transforms import ViewConfig
from egoloom.distillation.losses import DistillationLossConfig
from egoloom.distillation.task import DistillationTask
from egoloom.distillation.teachers import ModuleTeacher, TeacherEnsemble, TeacherEnsembleConfig
from egoloom.errors import UserError
from egoloom.evaluation.prediction import Predictions, predict_clips
from egoloom.exo2ego.generation import GenerationConfig
from egoloom.kitchen.settings import KitchenSettings, SplitShares
from egoloom.kitchen.store import make_store
from egoloom.kitchen.vocabulary import OBJECT_CATEGORIES
from egoloom.models import Recogniser, create_model
from egoloom.recipes.experiments.records import ExperimentRecord
from egoloom.recipes.experiments.runs import figures_of
from egoloom.training.config import OptimisationConfig
from egoloom.training.loop import Trainer
from egoloom.training.tasks import LabelTask, Task

TEST_SPLITS = ("unseen_participant", "unseen_kitchen")
VIEW = ViewConfig(num_frames=8, size_px=48, max_boxes=6, num_spectrogram_columns=100)
CELLS = ("ego_only", "raw_exo", "prior_inpainted", "generated", "generated_filtered", "true_ego")
DISTILLED_CELLS = ("ego_only", "raw_exo", "generated", "generated_filtered", "true_ego")
TEACHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "rgb": ("edge_tiny", {}),
    "flow": ("edge_tiny", {"input_modality": "flow"}),
    "boxes": ("layout_tiny", {"num_object_classes": len(OBJECT_CATEGORIES)}),
    "audio": ("spectrogram_tiny", {}),
    "imu": ("imu_tiny", {}),
}
SIDE_PX = 64  # of all stored clips that are trained on
EXO_CROP_SHARE = 0.75  # of the exo frame's height: about what a person at work fills


class AugmentationExperiment(BaseModel):
    """Size of the experiment.

    Attributes:
        labels_per_action: Labelled ego clips of an action, one setting each.
        num_seeds: Seeds of each setting; each draws the labelled clips and all networks anew. The takes and what is
            generated of them are the same for all.
        first_seed: The first of them.
        num_ego_takes: Takes for labelled ego clips, validation and test.
        num_exo_takes: Takes of which the exo clips become ego clips.
        steps: Optimiser steps on the mixture, the same for every cell.
        recorded_steps: Optimiser steps after that on the recorded ego clips alone, the same for every cell.
        distilled: Settings that are repeated with distillation from multimodal teachers.
        num_distilled_seeds: Seeds of those.
        report_splits: Splits whose figures are reported.
        worst_share: Share of validation clips that each threshold of the filter would reject.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    labels_per_action: tuple[int, ...] = (5, 10, 20)
    num_seeds: tuple[int, ...] = (5, 5, 3)
    first_seed: int = 0
    num_ego_takes: int = Field(default=666, ge=36)
    num_exo_takes: int = Field(default=360, ge=18)
    steps: int = Field(default=420, ge=1)
    recorded_steps: int = Field(default=0, ge=0)
    distilled: tuple[int, ...] = (10,)
    num_distilled_seeds: int = Field(default=3, ge=1)
    report_splits: tuple[str, ...] = TEST_SPLITS
    worst_share: float = Field(default=0.05, ge=0, lt=1)


def run(config: AugmentationExperiment, out: Path, record_path: Path) -> dict[str, Any]:
    """Runs what is missing and writes the record after every finished training.

    Args:
        config: The size.
        out: Folder of the stores and of the networks' checkpoints; the same command continues there.
        record_path: The record.

    Returns:
        The record as plain values.
    """
    torch.set_num_threads(1)  # networks this small lose by more
    stores = make_stores(config, out / "clips")
    record = ExperimentRecord("augmentation", about(config, stores))
    if record_path.is_file():
        found = ExperimentRecord.load(record_path)
        if found.about.get("config") == record.about["config"]:
            record = found
    memory: Memory = {}
    for number, seed, is_distilled in plan(config):
        group = Group(config, stores, memory, out, number, seed)
        setting = setting_name(number, is_distilled=is_distilled)
        for cell in DISTILLED_CELLS if is_distilled else CELLS:
            if seed in record.values.get((setting, cell), {}):
                continue
            record.add(setting, cell, seed, group.figures(cell, is_distilled=is_distilled))
            record.save(record_path, gains(record))
    record.save(record_path, gains(record))
    return record.to_dict(gains(record))


def plan(config: AugmentationExperiment) -> list[tuple[int, int, bool]]:
    """Returns (labels an action, seed, distilled) in an order in which an early end leaves whole comparisons behind.

    Raises:
        UserError: If a setting lacks its number of seeds, or a distilled one is not among the settings.
    """
    if len(config.num_seeds) != len(config.labels_per_action) or min(config.num_seeds) < 1:
        raise UserError(
            f"{len(config.num_seeds)} numbers of seeds for {len(config.labels_per_action)} settings",
            allowed="as many of --num-seeds as of --labels-per-action, each 1 or more",
        )
    common = min(config.num_seeds)
    settings = list(zip(config.labels_per_action, config.num_seeds, strict=True))
    first = [(number, seed, False) for seed in range(common) for number, _ in settings]
    second = [(number, seed, True) for seed in range(config.num_distilled_seeds) for number in config.distilled]
    most = max(config.num_seeds)
    rest = [(number, seed, False) for seed in range(common, most) for number, count in settings if seed < count]
    return [(number, seed + config.first_seed, is_taught) for number, seed, is_taught in first + second + rest]


def setting_name(labels_per_action: int, *, is_distilled: bool = False) -> str:
    """Returns the name of a setting in the record."""
    return f"{labels_per_action} labels an action" + (", distilled" if is_distilled else "")


# -- data -----------------------------------------------------------------------------------------------------


def make_stores(config: AugmentationExperiment, folder: Path) -> dict[str, ClipStore]:
    """Returns the stores by name, made where they are not there yet."""
    sizes: dict[str, Any] = {"ego_size_px": SIDE_PX, "exo_width_px": 224, "exo_height_px": 128, "fps": 9}
    few = SplitShares(
        train=0.56, validation=0.12, test=0.0, unseen_participant=0.16, unseen_kitchen=0.16, unlabelled=0.0
    )
    all_train = SplitShares(train=1, validation=0, test=0, unseen_participant=0, unseen_kitchen=0, unlabelled=0)
    ego = KitchenSettings(seed=1009, num_kitchens=8, num_participants=8, splits=few, **sizes)
    exo = KitchenSettings(seed=2003, num_kitchens=16, num_participants=16, splits=all_train, **sizes)
    stores = {
        "ego": make_store(folder / "ego", num_clips=config.num_ego_takes, settings=ego),
        "third_person": make_store(folder / "third_person", num_clips=config.num_exo_takes, settings=exo),
    }
    stores["raw_exo"] = crop_exo(stores["third_person"], folder / "raw_exo")
    for name, generator in (("prior_inpainted", "inpainting"), ("generated", "builtin")):
        stores[name] = _generate(stores, folder / name, generator)
    return stores


def _generate(stores: Mapping[str, ClipStore], path: Path, generator: str) -> ClipStore:
    pipeline, name = open_generator(generator)
    target = generated_store(path, stores["ego"], name)
    for source, split in (("third_person", "train"), ("ego", "validation")):
        augmentation = AugmentationConfig(
            size_px=SIDE_PX,
            num_frames=17,
            generation=GenerationConfig(num_steps=2),
            prior=generator_prior_config(is_metric=True),
            split=split,
        )
        clips = stores[source].select(view="exo", split=split)
        # Takes of the two kitchens have the same numbers.
        prefix = "" if split == "train" else f"{split}-"
        generate_clips(
            stores[source],
            clips,
            pipeline,
            path,
            generator=name,
            config=augmentation,
            target=target,
            prefix=prefix,
        )
    return ClipStore.open(path)


def crop_exo(source: ClipStore, path: Path, *, with_flow: bool = True) -> ClipStore:
    """Returns a store of the exo clips cut to a square around the hands, as a person who trains on them would do.

    Args:
        source: The store with the exo clips.
        path: The new store; an interrupted one is continued.
        with_flow: Also compute flow, which teachers of flow need.
    """
    store = ClipStore.create(
        path,
        name="raw exo",
        source="kitchen",
        is_simulated=True,
        label_spaces=source.info.label_spaces,
        splits=["train"],
    )
    done = {clip.clip_id for clip in store.clips}
    for clip in source.select(view="exo"):
        if clip.clip_id in done:
            continue
        video = source.videos[clip.video_id]
        with VideoReader(source.media_path(Modality.RGB, clip.video_id)) as reader:
            frames = reader.all_frames()
        left, top, side = _hands_square(source, clip.video_id, video.width, video.height)
        cut = torch.from_numpy(frames[:, :, top : top + side, left : left + side]).float()
        small = torch.nn.functional.interpolate(cut, size=(SIDE_PX, SIDE_PX), mode="area")
        write_video(store.media_path(Modality.RGB, clip.video_id), small.round().byte().numpy(), video.fps)
        own = replace(video, width=SIDE_PX, height=SIDE_PX, path=f"media/rgb/{clip.video_id}.mp4")
        store.append(videos=[own], clips=[replace(clip, present=frozenset({Modality.RGB}))])
    if with_flow and any(Modality.FLOW not in clip.present for clip in store.clips):
        from egoloom.modalities import flow

        flow.compute(store, progress=False)
    return ClipStore.open(path)


def _hands_square(source: ClipStore, video_id: str, width: int, height: int) -> tuple[int, int, int]:
    """Left, top and side of a square around the median place of the hands, within the frame."""
    table = read_table(source.media_path(Modality.BOXES, video_id))
    hands = np.asarray(table["is_hand"], bool)
    x, y = width / 2, height / 2
    if hands.any():
        x = float(np.median((table["x1"][hands] + table["x2"][hands]) / 2))
        y = float(np.median((table["y1"][hands] + table["y2"][hands]) / 2))
    side = min(round(EXO_CROP_SHARE * height), width)
    corner = np.clip([x - side / 2, y - side / 2], 0, [width - side, height - side])
    return int(corner[0]), int(corner[1]), side


# -- training -------------------------------------------------------------------------------------------------

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
        import json

        store = self.stores["generated"]
        held_out = entries_of(store, split="validation", labelled=True)
        baseline = self.baseline()
        log_probs = {
            name: label_log_probs(baseline, part, VIEW) for name, part in (("train", entries), ("held_out", held_out))
        }
        true = np.array([row[e.clip.action] for row, e in zip(log_probs["held_out"], held_out, strict=True)])
        wrong = np.concatenate(
            [np.delete(row, e.clip.action) for row, e in zip(log_probs["held_out"], held_out, strict=True)]
        )
        scores = [json.loads(entry.clip.extra["scores"]) for entry in held_out]
        thresholds = fit_thresholds(
            scores, worst_share=self.config.worst_share, true_log_probs=true, wrong_log_probs=wrong
        )
        kept = []
        for row, entry in zip(log_probs["train"], entries, strict=True):
            own = json.loads(entry.clip.extra["scores"]) | {LABEL: float(row[entry.clip.action])}
            if not judge(own, thresholds):
                kept.append(entry)
        return kept

    def baseline(self) -> Recogniser:
        """Returns the recogniser of the labelled ego clips alone."""
        if self._baseline is None:
            self._baseline = self.train("ego_only", "rgb", [], None)
        return self._baseline

    def train(self, cell: str, teacher: str, added: list[ClipEntry], task: Task | None) -> Recogniser:
        """Trains on the mixture, then on the recorded clips alone; the steps are the same for every cell."""
        name, options = TEACHERS[teacher]
        torch.manual_seed(self.seed)
        model = create_model(name, num_classes=self.stores["ego"].num_classes(), **options)
        task = task or LabelTask(dict.fromkeys(model.heads, 1.0))
        phases = [([*self.labelled, *added], self.config.steps, 4e-3)]
        phases.append((self.labelled, self.config.recorded_steps, 1e-3))
        for number, (entries, steps, rate) in enumerate(phases):
            if steps:
                folder = self.out / f"{cell}_{teacher}_{number}"
                fit(model, task, self.views(entries, teacher), steps, rate, self.seed, folder)
        return model

    def views(self, entries: list[ClipEntry], teacher: str, *, is_training: bool = True) -> RememberedViews:
        """Returns the views of a modality."""
        modality = {"flow": Modality.FLOW, "boxes": Modality.BOXES, "audio": Modality.SPECTROGRAM, "imu": Modality.IMU}
        return RememberedViews(entries, modality.get(teacher, Modality.RGB), self.memory, is_training=is_training)

    def measure(self, model: Recogniser) -> dict[str, float]:
        """Returns accuracy and calibration on the reported splits; the temperature is 1 for all cells."""
        predictions: dict[str, Predictions] = {}
        for split in self.config.report_splits:
            entries = entries_of(self.stores["ego"], split=split, labelled=True)
            predictions[split] = predict_clips(model, self.views(entries, "rgb", is_training=False))
        return figures_of(predictions, 1.0)

    # -- distillation -----------------------------------------------------------------------------------------

    def distillation(self, added: list[ClipEntry]) -> Task:
        """Returns the task whose targets come from teachers that saw the labelled ego clips alone."""
        if self._taught is None:
            if any(Modality.FLOW not in clip.present for clip in self.stores["generated"].clips):
                add_modalities(self.stores["generated"])
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
        return self.views(entries, teacher, is_training=is_training)


NUM_VIEW_SEEDS = 6


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


# -- the record -----------------------------------------------------------------------------------------------


def gains(record: ExperimentRecord) -> list[dict[str, Any]]:
    """Returns paired differences of the treatments, as far as the runs are there."""
    pairs = [(cell, rival) for rival in ("ego_only", "raw_exo", "true_ego") for cell in CELLS if cell != rival]
    found = []
    for setting in dict.fromkeys(setting for setting, _ in record.values):
        for cell, rival in pairs:
            ours, theirs = (record.values.get((setting, name), {}) for name in (cell, rival))
            if set(ours) & set(theirs):
                found.append(record.gain(setting, cell, rival))
    return found


def about(config: AugmentationExperiment, stores: Mapping[str, ClipStore]) -> dict[str, Any]:
    """Returns what a reader of the record must know."""
    counts = {split: len(stores["ego"].select(split=split, labelled=True)) for split in ("train", "validation")}
    counts |= {split: len(stores["ego"].select(split=split, labelled=True)) for split in config.report_splits}
    return {
        "data": "kitchen (simulated)",
        "command": " ".join(["egoloom", *sys.argv[1:]]) if sys.argv[1:2] == ["experiment"] else "",
        "num_labelled_clips": counts,
        "num_exo_clips": len(stores["third_person"].select(view="exo")),
        "num_generated_clips": len(stores["generated"].select(split="train")),
        "tuning": "steps, size of views and worst_share were chosen on validation clips with seeds 100 and 101",
        "protocol": "edge_tiny on RGB of 8 x 48 x 48; 2 clips x 1 crop, mean of logits; last weights, no selection; "
        "the same number of steps in every cell; figures over the report splits together",
        "config": config.model_dump(mode="json"),
    }
