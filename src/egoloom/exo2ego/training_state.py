"""Checkpoints of generator training: safetensors and JSON only, atomic, enough for an exact continuation."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from egoloom._distributed import full_tensors, is_main, sharded_like
from egoloom.errors import UserError
from egoloom.exo2ego.training_config import GeneratorTraining

MAX_STEPS_FIELDS = {"num_steps", "max_seconds", "checkpoint_every"}


class MovingAverage:
    """Exponential moving average of named parameters.

    Args:
        parameters: What to average.
        decay: Decay per step; 0 keeps no average.
    """

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in parameters.items()} if decay else {}
        self.num_updates = 0

    @torch.no_grad()
    def update(self, parameters: Mapping[str, torch.nn.Parameter]) -> None:
        """Moves the average towards the present weights; quicker during the first steps."""
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        for name, value in self.values.items():
            value.lerp_(parameters[name].detach(), 1 - decay)

    @torch.no_grad()
    def copy_to(self, parameters: Mapping[str, torch.nn.Parameter]) -> None:
        """Writes the average into the parameters."""
        for name, value in self.values.items():
            parameters[name].copy_(value)


@dataclass
class TrainingState:
    """Everything that a continued run needs.

    Args:
        parameters: Trained parameters by name.
        optimizer: AdamW over them, in this order.
        average: Their moving average.
        generator: Source of batches and noise.
        step: Finished steps.
        losses: Their losses.
    """

    parameters: dict[str, torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    average: MovingAverage
    generator: torch.Generator
    step: int = 0
    losses: list[float] = field(default_factory=list)


def _recipe(config: GeneratorTraining) -> dict[str, object]:
    """The part of a configuration that must not change when a run continues."""
    return {key: value for key, value in config.model_dump().items() if key not in MAX_STEPS_FIELDS}


def save_state(state: TrainingState, folder: Path, config: GeneratorTraining) -> None:
    """Writes a checkpoint folder; an interruption leaves the old or the new one, never a mixture.

    All processes must call it: each holds a part of sharded weights, and the main one writes.
    """
    tensors = {f"weights/{name}": value.detach() for name, value in state.parameters.items()}
    tensors |= {f"average/{name}": value for name, value in state.average.values.items()}
    for name, parameter in state.parameters.items():
        for key, value in state.optimizer.state[parameter].items():
            tensors[f"optimizer/{key}/{name}"] = torch.as_tensor(value)
    tensors["generator"] = state.generator.get_state()
    tensors = full_tensors(tensors, keep=is_main())
    if not is_main():
        return
    part, old = folder.with_name(folder.name + ".part"), folder.with_name(folder.name + ".old")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    save_file({key: value.contiguous() for key, value in tensors.items()}, part / "state.safetensors")
    summary = {"step": state.step, "num_updates": state.average.num_updates, "losses": state.losses}
    (part / "state.json").write_text(json.dumps({**summary, "recipe": _recipe(config)}))
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
    os.replace(part, folder)
    shutil.rmtree(old, ignore_errors=True)


@torch.no_grad()
def load_state(state: TrainingState, folder: Path, config: GeneratorTraining) -> None:
    """Reads a checkpoint into a prepared run.

    Raises:
        UserError: If the checkpoint belongs to another model or recipe, or cannot be read.
    """
    try:
        summary = json.loads((folder / "state.json").read_text())
        tensors = load_file(folder / "state.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"Cannot read the checkpoint in {folder}: {error}", fix=f"rm -r {folder}") from error
    if summary["recipe"] != json.loads(json.dumps(_recipe(config))):
        changed = [key for key, value in _recipe(config).items() if summary["recipe"].get(key) != value]
        raise UserError(
            f"The run in {folder} was started with other settings: {', '.join(changed)}",
            fix="continue with the same settings, or choose another folder",
        )
    names = {key.removeprefix("weights/") for key in tensors if key.startswith("weights/")}
    if names != state.parameters.keys():
        raise UserError(f"The checkpoint in {folder} is of another model", fix="choose another folder")
    for name, parameter in state.parameters.items():
        parameter.copy_(sharded_like(tensors[f"weights/{name}"], parameter))
        if name in state.average.values:
            state.average.values[name].copy_(sharded_like(tensors[f"average/{name}"], parameter))
        moments = {key: tensors.get(f"optimizer/{key}/{name}") for key in ("exp_avg", "exp_avg_sq")}
        state.optimizer.state[parameter] = {
            key: sharded_like(value, parameter).to(parameter.device)
            for key, value in moments.items()
            if value is not None
        }
        if f"optimizer/step/{name}" in tensors:
            state.optimizer.state[parameter]["step"] = tensors[f"optimizer/step/{name}"]
    state.generator.set_state(tensors["generator"])
    state.average.num_updates, state.step = summary["num_updates"], summary["step"]
    state.losses[:] = summary["losses"]
