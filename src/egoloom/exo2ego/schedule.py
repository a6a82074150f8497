"""Noise levels of generation: UniPC and Euler, many steps or few."""

from typing import Any

import numpy as np
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from egoloom.errors import UserError

SOLVERS = ("unipc", "euler")


def build_scheduler(solver: str, flow_shift: float = 3.0) -> Any:
    """Returns a stock flow-matching scheduler.

    Args:
        solver: ``unipc`` (what the published weights are used with) or ``euler``.
        flow_shift: Shift of the noise levels; 3 for 480p models.

    Raises:
        UserError: If the solver is unknown.
    """
    if solver == "unipc":
        return UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=flow_shift, solver_order=2
        )
    if solver == "euler":
        return FlowMatchEulerDiscreteScheduler(shift=flow_shift)
    raise UserError(f"Unknown solver: {solver!r}", allowed=", ".join(SOLVERS))


def flow_shift(scheduler: Any) -> float:
    """Returns the shift of a scheduler's noise levels; 1 where it has none."""
    return float(scheduler.config.get("flow_shift") or scheduler.config.get("shift") or 1.0)


def set_noise_levels(scheduler: Any, num_steps: int) -> None:
    """Sets the steps of a scheduler on the grid that the reference used.

    diffusers 0.35 moved UniPC's first level from ``1 - 1/1000`` to 1; the published EgoX settings were found with
    the older grid, which differs by up to two of 1,000 training steps.
    """
    if num_steps < 1:
        raise UserError(f"The number of denoising steps is {num_steps}", allowed="1 or more")
    if isinstance(scheduler, UniPCMultistepScheduler):
        top = 1.0 - 1.0 / scheduler.config["num_train_timesteps"]
        scheduler.set_timesteps(sigmas=np.linspace(top, 0.0, num_steps + 1)[:-1])  # type: ignore[arg-type]
    else:
        scheduler.set_timesteps(num_steps)
