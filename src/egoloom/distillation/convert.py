"""Loads foreign checkpoints (``.pt``, ``.pth``) into our recognisers, safely and with every key accounted for.

Known sources: checkpoints of *Multimodal Distillation for Egocentric Action Recognition* (Video Swin, STLT), the
Kinetics-400 Video Swin file of its authors, and either of them saved from a compiled or data-parallel model.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from torch import Tensor

from egoloom.errors import UserError
from egoloom.models.base import Recogniser

WRAPPERS = ("_orig_mod.", "module.")
CONTAINERS = ("state_dict", "model_state_dict", "model", "module")
RECOMPUTED = re.compile(r"relative_position_index$|attn_mask$|^(?:normalise|encoder\.normalise)\.")
"""Buffers that other code stores and ours derives from the configuration."""


@dataclass
class KeyReport:
    """What became of every key.

    Attributes:
        loaded: Source key to target key.
        recomputed: Source keys of buffers that we derive ourselves; where we have the same buffer it was compared.
        unused: Source keys without a place in the target (a pre-training head, for instance).
        missing: Target keys that got no value and keep their fresh weights.
        mismatched: Target key to (source shape, target shape).
    """

    loaded: dict[str, str] = field(default_factory=dict)
    recomputed: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    mismatched: dict[str, tuple[list[int], list[int]]] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether every weight of the target was loaded and every key of the source had a place."""
        return not (self.unused or self.missing or self.mismatched)

    def __str__(self) -> str:
        lines = [
            f"loaded {len(self.loaded)}, recomputed {len(self.recomputed)}, unused {len(self.unused)}, "
            f"missing {len(self.missing)}, mismatched {len(self.mismatched)}"
        ]
        lines += [f"  unused      {key}" for key in self.unused]
        lines += [f"  missing     {key}" for key in self.missing]
        lines += [f"  mismatched  {key}: file {a}, model {b}" for key, (a, b) in self.mismatched.items()]
        return "\n".join(lines)


def read_foreign_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Returns the tensors of a ``.pt``/``.pth`` (weights only: no code in it is run) or ``.safetensors`` file.

    Wrapping dictionaries (``state_dict``, ``model``, ...) are opened; ``_orig_mod.`` and ``module.`` are stripped.

    Raises:
        UserError: If the file is missing, is no checkpoint, or would need code to be run.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no checkpoint at {path}")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            content: Any = load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path} is not a safetensors file: {error}") from error
    else:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except (UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
            raise UserError(
                f"{path} cannot be read as weights: {str(error).splitlines()[0]}",
                allowed="a file of tensors; files that need code to be run are refused",
            ) from error
    for name in CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    if not isinstance(content, dict) or not any(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path} holds no weights")
    return {strip_wrappers(str(key)): value for key, value in content.items() if isinstance(value, Tensor)}


def strip_wrappers(key: str) -> str:
    """Returns a key without the prefixes that compiling and data parallelism put before it."""
    while key.startswith(WRAPPERS):
        key = key.split(".", 1)[1]
    return key


def our_key(key: str) -> str:
    """Returns our name of a source key: head names are lower case with us, everything else is equal."""
    match = re.match(r"^(.*?classifiers\.)([^.]+)(\..*)$", key)
    return f"{match[1]}{match[2].lower()}{match[3]}" if match else key


def convert_checkpoint(
    path: str | Path,
    model: Recogniser,
    *,
    kind: Literal["auto", "reference", "kinetics"] = "auto",
    strict: bool = True,
) -> KeyReport:
    """Loads a foreign checkpoint into a recogniser.

    Args:
        path: The file.
        model: A Video Swin or STLT recogniser of the checkpoint's size.
        kind: ``reference`` holds a whole recogniser; ``kinetics`` a pre-trained backbone, whose head is not used and
            whose absence of ours is no fault; ``auto`` looks for ``cls_head.`` (or for keys without ``backbone.``).
        strict: Raise if a key of the source or the target is left over (heads of ``kinetics`` excepted).

    Returns:
        What became of every key.

    Raises:
        UserError: If keys or shapes do not fit.
    """
    source = read_foreign_checkpoint(path)
    if kind == "auto":
        has_heads = any(key.startswith("classifiers.") for key in source)
        kind = "reference" if has_heads else "kinetics"
    target = model.state_dict()
    buffers = dict(model.named_buffers())
    prefix = "" if kind == "reference" or any(key.startswith("backbone.") for key in source) else "backbone."
    report = KeyReport()
    values: dict[str, Tensor] = {}
    for key, value in source.items():
        name = our_key(prefix + key)
        if name in target:
            if target[name].shape == value.shape:
                values[name] = value
                report.loaded[key] = name
            else:
                report.mismatched[name] = (list(value.shape), list(target[name].shape))
        elif RECOMPUTED.search(name):
            report.recomputed.append(key)
            _check_recomputed(key, value, buffers.get(name))
        else:
            report.unused.append(key)
    report.missing = [name for name in target if name not in values and name not in report.mismatched]
    _refuse_leftovers(path, report, kind=kind, strict=strict)
    model.load_state_dict(values, strict=False)
    return report


def _check_recomputed(key: str, value: Tensor, ours: Tensor | None) -> None:
    if ours is not None and (ours.shape != value.shape or not torch.equal(ours.to(value.dtype), value)):
        raise UserError(
            f"The checkpoint's {key} differs from what this configuration gives", fix="set window and patch as in it"
        )


def _refuse_leftovers(path: str | Path, report: KeyReport, *, kind: str, strict: bool) -> None:
    heads_aside = kind == "kinetics"
    unused = [key for key in report.unused if not (heads_aside and key.startswith("cls_head."))]
    missing = [key for key in report.missing if not (heads_aside and key.startswith("classifiers."))]
    if not report.loaded or report.mismatched or (strict and (unused or missing)):
        raise UserError(
            f"{path} does not fit the model:\n{report}", fix="create the model with the checkpoint's size and heads"
        )
