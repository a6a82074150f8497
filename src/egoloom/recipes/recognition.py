"""Training and distilling a recogniser: the function behind ``egoloom train``, ``egoloom distill`` and the demo."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from egoloom.augmentation.mixing import generated_share, limit_generated
from egoloom.clips import ClipStore, Modality
from egoloom.clips.dataset import ClipDataset, ClipEntry, entries_of
from egoloom.clips.files import write_text
from egoloom.distillation.cross_fitting import check_each_is_judged, without_fold, write_training_clips
from egoloom.distillation.task import DistillationTask, cached_verdicts, online_verdicts
from egoloom.errors import UserError
from egoloom.evaluation.prediction import Predictions, predict_clips
from egoloom.evaluation.summary import fit_temperatures, score, summarise
from egoloom.models import Recogniser, create_model, num_parameters
from egoloom.recipes.run_config import RunConfig, prepare_run_folder
from egoloom.recipes.teaching import build_ensemble, build_soft_labels
from egoloom.training.domains import separate_norms
from egoloom.training.loop import Trainer
from egoloom.training.tasks import LabelTask, Task

CARD_FILE = "card.json"


def train_recogniser(config: RunConfig, out: Path, *, resume: bool = True, label: str = "training") -> dict[str, Any]:
    """Trains, picks the best epoch on the selection split, fits temperatures there and reports on other splits.

    Args:
        config: The whole configuration; with ``distillation`` set, teachers teach.
        out: Run folder; an interrupted run there continues.
        resume: Continue an interrupted run; False refuses to touch one.
        label: Text of the progress bar.

    Returns:
        The content of ``metrics.json``.

    Raises:
        UserError: If data, model and configuration do not fit together.
    """
    store = ClipStore.open(config.data.store)
    train_entries = training_entries(config, store)
    model = build_model(config, store)
    _separate_norms(config, model)
    selection = evaluation_dataset(config, entries_of(store, split=config.data.selection_split, labelled=True), model)
    prepare_run_folder(out, config, resume=resume)
    write_training_clips(out, train_entries)
    dataset = ClipDataset(
        train_entries,
        _student_modalities(config, model),
        config.view,
        is_training=True,
        cache_bytes=config.optimisation.cache_mb * 2**20,
    )
    trainer = Trainer(
        model,
        build_task(config, store, dataset, model, out),
        dataset,
        config.optimisation,
        out,
        generated_epochs=config.data.generated_epochs,
        score=lambda network: score(predict_clips(network, selection, batch_size=config.evaluation.batch_size)),
        label=label,
    )
    trainer.resume()
    trainer.fit()
    return finish_run(config, store, selection, train_entries, out)


def training_entries(config: RunConfig, store: ClipStore) -> list[ClipEntry]:
    """Returns the clips that a run trains on: recorded ones, and generated ones up to the stated share.

    Raises:
        UserError: If there are none, or an extra store has other classes.
    """
    data, teaching = config.data, config.distillation
    entries = entries_of(store, split=data.train_splits, labelled=True)
    if data.left_out_fold is not None:
        entries = without_fold(entries, *data.left_out_fold)
    if teaching and teaching.unlabelled_splits:
        entries += entries_of(store, split=teaching.unlabelled_splits)
    for path in data.extra_stores:
        extra = ClipStore.open(path)
        if extra.info.label_spaces != store.info.label_spaces:
            raise UserError(f"{path} has other classes than {data.store}", fix="mix stores of one label space")
        entries += entries_of(extra, split=data.train_splits, labelled=None if teaching else True)
    if not entries:
        raise UserError(f"{data.store} has no labelled ego clips in {', '.join(data.train_splits)}")
    return limit_generated(entries, data.max_generated_share, balance=data.generated_balance)


def build_model(config: RunConfig, store: ClipStore) -> Recogniser:
    """Returns the network with the store's class counts, optionally started from another checkpoint.

    Raises:
        UserError: If the store has none of the heads, or the checkpoint's classes differ.
    """
    available = store.num_classes()
    heads = {head: available[head] for head in config.model.heads if head in available}
    if not heads:
        raise UserError(
            f"{store.path} has no labels for the heads {', '.join(config.model.heads)}",
            allowed=", ".join(available) or "a store with labels",
        )
    if config.model.init_from is None:
        import torch

        torch.manual_seed(config.optimisation.seed)
        return create_model(config.model.name, num_classes=heads, **config.model.options)
    model = Recogniser.from_pretrained(checkpoint_folder(config.model.init_from))
    if model.heads != heads:
        raise UserError(f"{config.model.init_from} has the classes {model.heads}, {store.path} has {heads}")
    return model


def _separate_norms(config: RunConfig, model: Recogniser) -> None:
    if config.data.generated_norm == "separate":
        try:
            separate_norms(model)
        except ValueError as error:
            raise UserError(
                f"data.generated_norm is separate, but {error}",
                allowed="networks of one modality with batch norm, such as edge_tiny",
            ) from error


def build_task(config: RunConfig, store: ClipStore, dataset: ClipDataset, model: Recogniser, out: Path) -> Task:
    """Returns cross-entropy on labels, or distillation with its teachers weighted and their soft labels cached."""
    if config.distillation is None:
        return LabelTask(
            dict.fromkeys(model.heads, 1.0),
            label_smoothing=config.optimisation.label_smoothing,
            generated_weight=config.data.generated_weight,
        )
    ensemble = build_ensemble(config, store, model, out)
    if ensemble.learnt:
        check_each_is_judged([entry.clip.clip_id for entry in dataset.entries], ensemble.learnt)
    if config.distillation.use_cache:
        verdicts = cached_verdicts(build_soft_labels(config, ensemble, dataset, out))
    else:
        verdicts = online_verdicts(ensemble)
    teaching = config.distillation
    return DistillationTask(
        ensemble,
        verdicts,
        teaching.loss,
        generated_weight=teaching.generated_weight,
        label_noise=teaching.label_noise,
    )


def _student_modalities(config: RunConfig, model: Recogniser) -> tuple[Modality, ...]:
    own = tuple(Modality(name) for name in model.input_modalities)
    if config.distillation is None or config.distillation.use_cache:
        return own
    # Online teachers read the batch that the student reads, so it must hold their modalities too.
    needed = [Recogniser.from_pretrained(checkpoint_folder(path)) for path in config.distillation.teachers]
    theirs = (Modality(name) for teacher in needed for name in teacher.input_modalities)
    return tuple(dict.fromkeys((*own, *theirs)))


def evaluation_dataset(config: RunConfig, entries: Sequence[ClipEntry], model: Recogniser) -> ClipDataset:
    """Returns the regular views of the clips under the run's multi-view protocol."""
    return ClipDataset(
        entries,
        [Modality(name) for name in model.input_modalities],
        config.view,
        is_training=False,
        num_test_clips=config.evaluation.num_clips,
        num_test_crops=config.evaluation.num_crops,
        cache_bytes=config.optimisation.cache_mb * 2**20,
    )


def finish_run(
    config: RunConfig, store: ClipStore, selection: ClipDataset, train_entries: Sequence[ClipEntry], out: Path
) -> dict[str, Any]:
    """Calibrates the best checkpoint on the selection split, reports on the others, writes card and metrics."""
    folder = out / "checkpoints" / "best"
    model = Recogniser.from_pretrained(folder)
    temperatures = fit_temperatures(predict_clips(model, selection, batch_size=config.evaluation.batch_size))
    write_card(folder, config, store, model, temperatures)
    metrics: dict[str, Any] = {
        "model": config.model.name,
        "num_parameters": num_parameters(model),
        "num_training_clips": len(train_entries),
        "generated_share": generated_share(train_entries),
        "max_generated_share": config.data.max_generated_share,
        "protocol": {**config.evaluation.model_dump(mode="json", exclude={"batch_size"})},
        "temperature": temperatures,
        "splits": {},
    }
    for split in config.data.report_splits:
        predictions = evaluate_split(config, store, split, model)
        predictions.save(out / "predictions" / f"{split}.npz")
        metrics["splits"][split] = summarise(predictions, average=config.evaluation.average, temperatures=temperatures)
    write_text(out / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    return metrics


def evaluate_split(config: RunConfig, store: ClipStore, split: str, model: Recogniser) -> Predictions:
    """Predicts the labelled ego clips of a split.

    Raises:
        UserError: If the split has none.
    """
    entries = entries_of(store, split=split, labelled=True)
    if not entries:
        raise UserError(f"The split {split!r} of {store.path} has no labelled ego clips")
    dataset = evaluation_dataset(config, entries, model)
    return predict_clips(model, dataset, batch_size=config.evaluation.batch_size)


def write_card(
    folder: Path, config: RunConfig, store: ClipStore, model: Recogniser, temperatures: dict[str, float]
) -> None:
    """Writes ``card.json``: what a device needs to know beside the weights."""
    card = {
        "class_names": {head: store.class_names(head) for head in model.heads},
        "temperature": temperatures,
        "view": config.view.model_dump(mode="json"),
        "input_modalities": list(model.input_modalities),
        "trained_on": {"store": store.info.name, "source": store.info.source, "is_simulated": store.info.is_simulated},
        "licence_note": store.info.licence,
    }
    write_text(folder / CARD_FILE, json.dumps(card, indent=1) + "\n")


def checkpoint_folder(path: Path) -> Path:
    """Returns the checkpoint folder that a path means: itself, or ``checkpoints/best`` of a run folder."""
    best = path / "checkpoints" / "best"
    return best if best.is_dir() else path
