"""The whole configuration of one recognition run, and the run folder that it leaves behind."""

import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from egoloom import __version__
from egoloom.clips.files import write_text
from egoloom.clips.transforms import ViewConfig
from egoloom.distillation.config import DistillationConfig
from egoloom.errors import UserError
from egoloom.training.config import DataConfig, EvaluationConfig, ModelConfig, OptimisationConfig

RUN_FILES = {"config.yaml", "environment.json", "metrics.json", "report.html", "checkpoints", "history.jsonl"}


class RunConfig(BaseModel):
    """Everything that decides the outcome of a run; ``config.yaml`` of the run folder reproduces it.

    Attributes:
        recipe: The recipe that this came from.
        seed: Copied into the optimisation settings; one number for the whole run.
        distillation: Teachers and the loss they teach with; None trains on labels alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str = "custom"
    data: DataConfig = Field(default_factory=DataConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    view: ViewConfig = Field(default_factory=ViewConfig)
    optimisation: OptimisationConfig = Field(default_factory=OptimisationConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    distillation: DistillationConfig | None = None


def prepare_run_folder(out: Path, config: BaseModel, *, resume: bool) -> None:
    """Makes the run folder, or checks that an existing one continues the same run.

    Raises:
        UserError: If the folder holds something that is not a run of ours, or a run with another configuration.
    """
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file", fix="choose another --out")
    path = out / "config.yaml"
    if path.exists():
        if path.read_text(encoding="utf-8") != text:
            raise UserError(
                f"{out} holds a run with another configuration; nothing was changed",
                fix=f"choose another --out, or repeat that run with --from-config {path}",
            )
        if not resume and (out / "checkpoints").exists():
            raise UserError(f"{out} holds a run already", fix="choose another --out, or leave out --no-resume")
    elif out.exists() and any(entry.name not in RUN_FILES for entry in out.iterdir()):
        raise UserError(
            f"{out} is not empty and was not made by EgoLoom; nothing was written",
            allowed="a new or empty folder, or the folder of an earlier run",
            fix="choose another --out",
        )
    write_text(path, text)
    write_text(out / "environment.json", json.dumps(environment(), indent=1) + "\n")


def load_run_config(path: Path) -> RunConfig:
    """Reads a ``config.yaml``.

    Raises:
        UserError: If it is missing, unreadable or has unknown or wrong fields.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return RunConfig.model_validate(content)
    except FileNotFoundError as error:
        raise UserError(f"There is no configuration at {path}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {error}") from error
    except ValidationError as error:
        raise UserError(f"{path}: {describe(error)}") from error


def describe(error: ValidationError) -> str:
    """Returns field, value and rule of the first faults of a configuration."""
    faults = [f"{'.'.join(map(str, e['loc']))} = {e.get('input')!r}: {e['msg']}" for e in error.errors()[:3]]
    return "; ".join(faults)


def environment() -> dict[str, Any]:
    """Returns what a reader needs to judge and repeat a run: versions, machine, threads."""
    packages = ("torch", "numpy", "av", "diffusers", "transformers", "peft", "accelerate", "onnxruntime", "numba")
    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "egoloom": __version__,
        "python": sys.version.split()[0],
        "machine": platform.machine(),
        "system": platform.system(),
        "num_cpus": os.cpu_count(),
        "packages": versions,
    }
