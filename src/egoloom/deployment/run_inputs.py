"""Finds the clips to check and calibrate an export on: a store given, or the one that a run was trained on."""

from pathlib import Path

import yaml

from egoloom.deployment.artefact import checkpoint_folder
from egoloom.deployment.card import InputCard, training_card
from egoloom.deployment.parity import ParityClips, parity_clips_from_store
from egoloom.models.pretrained import read_config


def clips_of_run(
    run: Path, store: Path | None, split: str | None, num_parity: int, num_calibration: int
) -> tuple[ParityClips | None, ParityClips | None]:
    """Returns clips for the parity gate and for calibration; None where no store is at hand or none are asked for.

    Args:
        run: A run or checkpoint folder.
        store: A clip store; None looks for the one in the run's ``config.yaml``.
        split: Split of the parity clips; None takes validation.
        num_parity: At most this many.
        num_calibration: At most this many, from ``train`` where the store has it; 0 for none.

    Raises:
        UserError: If the store given is none.
    """
    store = store or store_of_run(run)
    if store is None or not run.is_dir():
        return None, None
    card = input_card(run)
    parity = parity_clips_from_store(store, card, split=split, num_clips=num_parity)
    if not num_calibration:
        return parity, None
    from egoloom.clips import ClipStore

    train = "train" if "train" in ClipStore.open(store).info.splits else split
    return parity, parity_clips_from_store(store, card, split=train, num_clips=num_calibration, seed=1)


def input_card(run: Path) -> InputCard:
    """Returns what a run's best checkpoint reads."""
    folder = checkpoint_folder(run)
    heads = read_config(folder)["config"]["num_classes"]
    return InputCard.model_validate(training_card(folder, heads)["input"])


def store_of_run(run: Path) -> Path | None:
    """Returns the clip store named in a run's ``config.yaml`` if it still exists."""
    for folder in (run, run.parent.parent):
        path = folder / "config.yaml"
        if not path.is_file():
            continue
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            store = Path(content["data"]["store"])
        except (yaml.YAMLError, KeyError, TypeError):
            continue
        return store if (store / "info.json").is_file() else None
    return None
