"""What cached latents were made with, so that latents of other takes or of another autoencoder are never trained on."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from egoloom import __version__
from egoloom.clips.files import write_text
from egoloom.errors import UserError
from egoloom.exo2ego.geometry import ClipGeometry
from egoloom.exo2ego.lazy_samples import LazySamples
from egoloom.exo2ego.pipeline import EgoXPipeline
from egoloom.exo2ego.samples import GeneratorSample
from egoloom.exo2ego.training_cache import ClipCoding

MANIFEST, FORMAT_VERSION = "manifest.json", 1
# Options of the pipeline that change what is coded.
PIPELINE_OPTIONS = ("exo_mask", "use_hole_mask", "fill_prior_holes", "sample_latents", "text_length")


def latents_made_with(pipeline: EgoXPipeline, samples: Sequence[GeneratorSample], coding: ClipCoding) -> dict[str, Any]:
    """Returns all that cached latents depend on, as JSON; lazy samples are not read for it."""
    options = {name: pipeline.config[name] for name in PIPELINE_OPTIONS}
    sizes = {name: pipeline.transformer.config[name] for name in ("patch_size", "text_dim", "image_dim")}
    parts = {name: getattr(pipeline, name) for name in ("vae", "text_encoder", "image_encoder")}
    made_with = {
        "format": FORMAT_VERSION,
        "egoloom": __version__,
        **{name: "none" if part is None else network_name(part) for name, part in parts.items()},
        **options,
        **sizes,
        "window_frames": coding.window_frames,
        "keep_frames": coding.keep_frames,
        "seed": coding.seed if options["sample_latents"] else None,
        "takes": origins(samples),
    }
    return json.loads(json.dumps(made_with))


def network_name(network: nn.Module) -> str:
    """Returns class and digest of a network: its weights, and its configuration where diffusers keeps one."""
    config = getattr(network, "config", None)
    settings = {key: value for key, value in dict(config).items() if key[0] != "_"} if isinstance(config, dict) else {}
    weights = [part for name, value in sorted(network.state_dict().items()) for part in (name, value)]
    return f"{type(network).__name__} {_digest(json.dumps(settings, sort_keys=True, default=str), *weights)}"


def origins(samples: Sequence[GeneratorSample]) -> list[str]:
    """Returns one line for each sample: its name, and a digest of all that it is made from."""
    if isinstance(samples, LazySamples):
        return [f"{one.name} {_digest(json.dumps(one.origin, sort_keys=True))}" for one in samples.sources]
    return [f"{sample.name} {_digest(*_content(sample))}" for sample in samples]


def _content(value: GeneratorSample | ClipGeometry) -> list[str | torch.Tensor]:
    """Names and values of the fields of a sample and of its geometry."""
    content: list[str | torch.Tensor] = []
    for field in fields(value):
        held = getattr(value, field.name)
        content.append(field.name)
        if isinstance(held, ClipGeometry):
            content += _content(held)
        elif held is not None:
            content.append(held)
    return content


def _digest(*parts: str | torch.Tensor) -> str:
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            sha.update(f"{len(part)} {part}".encode())
        else:
            sha.update(f"{part.dtype} {tuple(part.shape)}".encode())
            sha.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return sha.hexdigest()[:16]


def is_made_with(manifest: Path, made_with: Mapping[str, Any], folder: Path) -> bool:
    """Whether there is a manifest that says so; False where there is none.

    Args:
        manifest: A file that :func:`write_manifest` wrote.
        made_with: What is wanted.
        folder: What a user must delete if it says something else.

    Raises:
        UserError: If it says something else, or cannot be read.
    """
    if not manifest.exists():
        return False
    try:
        there = dict(json.loads(manifest.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"Cannot read {manifest}: {error}", fix=f"rm -r {folder}") from error
    if there == made_with:
        return True
    raise UserError(
        f"{folder} was made with something else: {'; '.join(_differences(there, made_with))}",
        fix=f"continue with the same settings, choose another run folder, or make it again: rm -r {folder}",
    )


def write_manifest(manifest: Path, made_with: Mapping[str, Any]) -> None:
    """Writes what is made with what, before anything is made."""
    write_text(manifest, json.dumps(made_with, indent=1) + "\n")


def _differences(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    lines = []
    for key in {**there, **wanted}:
        old, new = there.get(key), wanted.get(key)
        if old == new:
            continue
        if not (isinstance(old, list) and isinstance(new, list) and key == "takes"):
            lines.append(f"{key} was {old}, is {new}")
        elif len(old) != len(new):
            lines.append(f"{len(old)} takes were there, now {len(new)}")
        else:
            changed = next(one for one, other in zip(new, old, strict=True) if one != other)
            lines.append(f"take {changed.rpartition(' ')[0]} is another one")
    return lines
