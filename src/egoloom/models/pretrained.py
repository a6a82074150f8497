"""Saving and loading of recognisers: a folder with ``model.safetensors`` and ``config.json``, nothing pickled."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from egoloom.errors import UserError
from egoloom.models.base import Recogniser
from egoloom.models.registry import create_model, list_models

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
FORMAT = "egoloom-recogniser"
FORMAT_VERSION = 1

RecogniserT = TypeVar("RecogniserT", bound=Recogniser)


def save_pretrained(
    model: Recogniser,
    folder: str | Path,
    *,
    extra: dict[str, Any] | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> Path:
    """Writes a recogniser's weights and configuration; each file appears whole or not at all.

    Args:
        model: The recogniser.
        folder: Target folder; made where absent, its two files are replaced.
        extra: JSON content to keep with the weights; ``model.extra`` where not given.
        weights: Whole weights by name, where the model's own are sharded or others are wanted; else its own.

    Returns:
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "architecture": model.architecture,
        "config": model.config.model_dump(mode="json"),
        "extra": model.extra if extra is None else extra,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in (weights or model.state_dict()).items()}
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".weights-")
    os.close(handle)
    try:
        save_file(tensors, temporary, metadata={"format": "pt"})
        os.replace(temporary, folder / WEIGHTS_NAME)
    finally:
        Path(temporary).unlink(missing_ok=True)
    _write_text(folder / CONFIG_NAME, json.dumps(content, indent=1) + "\n")
    return folder


def read_config(folder: str | Path) -> dict[str, Any]:
    """Returns the content of a saved recogniser's ``config.json`` after checking that it is one.

    Raises:
        UserError: If the folder or the file is missing, unreadable or of another format.
    """
    folder = Path(folder)
    path = folder / CONFIG_NAME
    fix = "give the folder that `egoloom train` wrote, for instance runs/NAME/checkpoints/best"
    if not path.is_file():
        raise UserError(f"No recogniser at {folder}: {CONFIG_NAME} is missing", fix=fix)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not readable JSON: {error}", fix=fix) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} does not describe a recogniser", allowed=f'"format": "{FORMAT}"', fix=fix)
    if content.get("format_version") != FORMAT_VERSION:
        raise UserError(f"{path} has format version {content.get('format_version')!r}", allowed=str(FORMAT_VERSION))
    return content


def load_pretrained(folder: str | Path, *, expected: type[RecogniserT]) -> RecogniserT:
    """Returns the recogniser saved in a folder, in evaluation mode.

    Raises:
        UserError: If the folder holds no recogniser, an unknown architecture, another class than ``expected``, or
            weights that do not fit.
    """
    folder = Path(folder)
    content = read_config(folder)
    if content["architecture"] not in list_models():
        raise UserError(
            f"{folder} holds the unknown architecture {content['architecture']!r}",
            allowed=", ".join(list_models()),
        )
    model = create_model(content["architecture"], **content["config"])
    if not isinstance(model, expected):
        raise UserError(f"{folder} holds a {type(model).__name__}", allowed=expected.__name__)
    path = folder / WEIGHTS_NAME
    try:
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(f"The weights {path} cannot be loaded: {error}") from error
    model.extra = content.get("extra", {})
    return model.eval()


def weights_hash(folder: str | Path) -> str:
    """Returns the SHA-256 (first 16 hexadecimal digits) of a saved recogniser's weights."""
    import hashlib

    with open(Path(folder) / WEIGHTS_NAME, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def state_hash(model: torch.nn.Module) -> str:
    """Returns a hash (16 hexadecimal digits) of a module's names, shapes and values, saved or not."""
    import hashlib

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _write_text(path: Path, text: str) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".text-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
