"""Checkpoints that survive a crash: a folder is complete or it is not there.

A training checkpoint holds ``model.safetensors`` and ``config.json`` (the network), ``state.safetensors`` (optimiser,
moving average, random state) and ``progress.json`` (epoch, step, best score).
"""

import dataclasses
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from egoloom._distributed import sharded_like
from egoloom.errors import UserError

STATE_FILE = "state.safetensors"
PROGRESS_FILE = "progress.json"


@dataclass
class Progress:
    """Where a run stands. ``step`` counts optimiser steps, ``batch`` the batches done in ``epoch``."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best_score: float = float("-inf")
    is_finished: bool = False


def save_checkpoint(
    folder: Path, model: Any, weights: Mapping[str, Tensor], state: Mapping[str, Tensor], progress: Progress
) -> None:
    """Replaces ``folder`` by a new complete checkpoint; the old one stays until the new one is whole."""
    fresh = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:8]}")
    model.save_pretrained(fresh, weights=weights)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, str(fresh / STATE_FILE))
    (fresh / PROGRESS_FILE).write_text(json.dumps(dataclasses.asdict(progress)) + "\n", encoding="utf-8")
    replace_folder(fresh, folder)


def replace_folder(fresh: Path, folder: Path) -> None:
    """Puts ``fresh`` in the place of ``folder``; between the two renames ``.<name>-old`` holds the old content."""
    old = folder.with_name(f".{folder.name}-old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.rename(folder, old)
    os.rename(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)


def find_checkpoint(folder: Path) -> Path | None:
    """Returns the newest complete training checkpoint at ``folder``, or None.

    Also removes what an interrupted write left beside it.
    """
    old = folder.with_name(f".{folder.name}-old")
    if not (folder / PROGRESS_FILE).exists() and (old / PROGRESS_FILE).exists():
        os.rename(old, folder)
    for rest in folder.parent.glob(f".{folder.name}-*"):
        shutil.rmtree(rest, ignore_errors=True)
    return folder if (folder / PROGRESS_FILE).exists() else None


def load_state(folder: Path) -> tuple[dict[str, Tensor], Progress]:
    """Reads the optimiser state and the progress of a training checkpoint.

    Raises:
        UserError: If a file is damaged.
    """
    try:
        state = load_file(folder / STATE_FILE)
        progress = Progress(**json.loads((folder / PROGRESS_FILE).read_text(encoding="utf-8")))
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise UserError(
            f"The checkpoint {folder} is damaged: {error}", fix=f"remove {folder} and start again"
        ) from error
    return state, progress


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Returns the optimiser's state as named tensors: ``optimizer/<parameter index>/<name>``."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer/{index}/{name}": value if isinstance(value, Tensor) else torch.tensor(float(value))
        for index, values in state.items()
        for name, value in values.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Puts the tensors of ``flatten_optimizer`` back; learning rates follow from the schedule and are not stored.

    The tensors are whole; of sharded parameters each process takes its part.
    """
    content = optimizer.state_dict()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        kind, _, rest = key.partition("/")
        if kind == "optimizer":
            index, name = rest.split("/")
            state.setdefault(int(index), {})[name] = sharded_like(value, parameters[int(index)])
    content["state"] = state
    optimizer.load_state_dict(content)
