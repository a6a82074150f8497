"""Teachers of a distilled run: loaded, checked, weighted on held-out clips, and heard once for every view."""

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.progress import track

from egoloom.clips import ClipStore, Modality
from egoloom.clips.dataset import ClipDataset, ViewKey, batches, entries_of
from egoloom.distillation.cross_fitting import read_training_clips
from egoloom.distillation.holdout import write_weighting_split
from egoloom.distillation.soft_labels import SoftLabelCache, SoftLabelInfo, build_view, view_fingerprint
from egoloom.distillation.teachers import FittedEnsemble, ModuleTeacher, TeacherEnsemble
from egoloom.errors import UserError
from egoloom.evaluation.prediction import Predictions
from egoloom.models import Recogniser
from egoloom.recipes.run_config import RunConfig

WEIGHTS_FILE = "teacher_weights.json"


def build_ensemble(config: RunConfig, store: ClipStore, student: Recogniser, out: Path) -> TeacherEnsemble:
    """Returns the teachers with temperatures and weights fitted on the selection split, which is never reported.

    Writes ``teacher_weights.json`` with what was fitted and ``weighting_split.json`` with the clips it was fitted on.

    Raises:
        UserError: If there is no teacher, or its classes or modalities do not fit the store.
    """
    teaching = config.distillation
    assert teaching is not None
    modules = load_teachers(teaching.teachers)
    for name, module in modules.items():
        _check_teacher(name, module, student, store)
    learnt = {}
    if teaching.cross_fitted:
        learnt = {name: read_training_clips(path) for name, path in zip(modules, teaching.teachers, strict=True)}
    ensemble = TeacherEnsemble(
        {name: ModuleTeacher(module) for name, module in modules.items()}, teaching.ensemble, learnt=learnt
    )
    entries = entries_of(store, split=config.data.selection_split, labelled=True)
    dataset = ClipDataset(entries, _modalities(ensemble), config.view, is_training=False)
    logits, labels = judge(ensemble, dataset, batch_size=config.evaluation.batch_size)
    ensemble.fit(logits, labels, calibrate=teaching.calibrate_teachers).save(out / WEIGHTS_FILE)
    reported = {clip.clip_id for split in config.data.report_splits for clip in store.select(split=split)}
    clip_ids = [entry.clip.clip_id for entry in entries]
    write_weighting_split(out / "weighting_split.json", clip_ids, reported=reported)
    return ensemble


def judge(
    ensemble: TeacherEnsemble, dataset: ClipDataset, *, batch_size: int = 32
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Returns every teacher's logits ``[N, M, K]`` and the labels ``[N]`` of the first regular view of each clip."""
    keys = [ViewKey(index, 0) for index in range(len(dataset))]
    seen = [
        (ensemble.logits({**batch["inputs"], "present": batch["present"]}), batch["labels"])
        for batch in batches(dataset, keys, batch_size)
    ]
    logits = {head: torch.cat([part[head] for part, _ in seen]) for head in ensemble.heads}
    labels = {head: torch.cat([part[head] for _, part in seen]) for head in ensemble.heads}
    return logits, labels


def evaluate_ensemble(config: RunConfig, run: Path, *, split: str) -> Predictions:
    """Returns the ensemble's own predictions on a split, with the temperatures and weights that the run fitted.

    Label-based weights cannot be used here, since the split's labels are what is asked for; those schemes fall back to
    their label-free weights.
    """
    teaching = config.distillation
    assert teaching is not None
    store = ClipStore.open(config.data.store)
    ensemble = TeacherEnsemble(
        {name: ModuleTeacher(module) for name, module in load_teachers(teaching.teachers).items()},
        teaching.ensemble,
        fitted=FittedEnsemble.load(run / WEIGHTS_FILE),
    )
    dataset = ClipDataset(
        entries_of(store, split=split, labelled=True), _modalities(ensemble), config.view, is_training=False
    )
    logits, labels = judge(ensemble, dataset, batch_size=config.evaluation.batch_size)
    mixed = ensemble.targets(logits).logits
    return Predictions(
        [entry.clip.clip_id for entry in dataset.entries],
        {head: values.unsqueeze(1).numpy() for head, values in mixed.items()},
        {head: values.numpy() for head, values in labels.items()},
    )


def load_teachers(paths: Sequence[Path]) -> dict[str, Recogniser]:
    """Returns name to teacher; a path is a run folder or a checkpoint folder."""
    modules: dict[str, Recogniser] = {}
    for path in paths:
        best = path / "checkpoints" / "best"
        modules[_name(path, modules)] = Recogniser.from_pretrained(best if best.is_dir() else path)
    return modules


def build_soft_labels(config: RunConfig, ensemble: TeacherEnsemble, dataset: ClipDataset, out: Path) -> SoftLabelCache:
    """Returns the teachers' logits for all views of the training clips; finished view seeds are kept."""
    heard = ClipDataset(
        dataset.entries,
        _modalities(ensemble),
        config.view,
        is_training=True,
        cache_bytes=config.optimisation.cache_mb * 2**20,
    )
    info = SoftLabelInfo(
        teachers=ensemble.names,
        heads=ensemble.heads,
        clip_ids=[entry.clip.clip_id for entry in dataset.entries],
        teachers_fingerprint=ensemble.fingerprint(),
        view_fingerprint=view_fingerprint(config.view),
    )
    cache = SoftLabelCache(out / "soft_labels", info)
    keys = range(len(heard))
    num_seeds = min(config.optimisation.num_view_seeds, config.optimisation.epochs)
    for seed in track(range(num_seeds), "soft labels", transient=True):
        if not cache.has(seed):
            views = batches(heard, [ViewKey(index, seed) for index in keys], config.evaluation.batch_size)
            build_view(cache, ensemble, seed, views)
    return cache


def _check_teacher(name: str, teacher: Recogniser, student: Recogniser, store: ClipStore) -> None:
    for head, count in student.heads.items():
        if head in teacher.heads and teacher.heads[head] != count:
            raise UserError(
                f"Teacher {name!r} has {teacher.heads[head]} classes for {head!r}, {store.path} has {count}",
                fix="train the teacher on a store with the same classes",
            )
    if not any(head in teacher.heads for head in student.heads):
        raise UserError(f"Teacher {name!r} has no head in common with the student", allowed=", ".join(student.heads))
    present = {modality for clip in store.clips for modality in clip.present}
    if absent := [modality for modality in teacher.input_modalities if modality not in present]:
        raise UserError(
            f"Teacher {name!r} sees {', '.join(absent)}, which {store.path} does not hold",
            fix=f"egoloom modalities {' '.join(absent)} --store {store.path}",
        )


def _modalities(ensemble: TeacherEnsemble) -> list[Modality]:
    return [Modality(name) for name in ensemble.modalities]


def _name(path: Path, taken: dict[str, Recogniser]) -> str:
    """Returns a short unique name: the last part of the path that says something."""
    parts = [part for part in path.parts if part not in {"checkpoints", "best", "last"}]
    name = parts[-1] if parts else "teacher"
    return name if name not in taken else f"{name}-{len(taken)}"
