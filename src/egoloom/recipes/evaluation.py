"""A trained run shown clips again: another split, another store, more views."""

import json
from pathlib import Path
from typing import Any

from egoloom.clips import ClipStore
from egoloom.errors import UserError
from egoloom.evaluation.summary import summarise
from egoloom.models import Recogniser
from egoloom.recipes.recognition import CARD_FILE, checkpoint_folder, evaluate_split
from egoloom.recipes.run_config import load_run_config
from egoloom.training.config import EvaluationConfig


def evaluate_again(
    run: Path, *, splits: tuple[str, ...] = (), store: Path | None = None, protocol: EvaluationConfig | None = None
) -> dict[str, Any]:
    """Returns the figures of a run's best checkpoint; scores of all views go to ``predictions/<split>.npz``.

    Args:
        run: A run folder of ``egoloom train`` or ``egoloom distill``.
        splits: The splits; the run's reported ones if empty.
        store: Another store with the same classes.
        protocol: Another multi-view protocol.

    Raises:
        UserError: If the folder is no finished run, or the store has other classes.
    """
    config = load_run_config(run / "config.yaml")
    folder = checkpoint_folder(run)
    if not (folder / CARD_FILE).is_file():
        raise UserError(f"{run} has no finished checkpoint", fix="give the training command again; it continues")
    card = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
    clips = ClipStore.open(store or config.data.store)
    for head, names in card["class_names"].items():
        if clips.class_names(head) != names:
            raise UserError(
                f"{clips.path} has other classes for {head!r} than the run", allowed=f"{len(names)} classes of the run"
            )
    config = config.model_copy(update={"evaluation": protocol or config.evaluation})
    model = Recogniser.from_pretrained(folder)
    figures: dict[str, Any] = {"run": str(run), "store": str(clips.path), "splits": {}}
    for split in splits or config.data.report_splits:
        predictions = evaluate_split(config, clips, split, model)
        suffix = "" if protocol is None and store is None else f"-{clips.info.name}-{predictions.num_views}views"
        predictions.save(run / "predictions" / f"{split}{suffix}.npz")
        figures["splits"][split] = summarise(
            predictions, average=config.evaluation.average, temperatures=card["temperature"]
        )
    return figures
