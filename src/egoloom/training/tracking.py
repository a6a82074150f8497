"""The accelerator of a run, with the trackers that the user asked for."""

from pathlib import Path

from accelerate import Accelerator

from egoloom import _distributed
from egoloom.errors import UserError
from egoloom.training.config import OptimisationConfig


def open_accelerator(config: OptimisationConfig, out: Path) -> Accelerator:
    """Returns accelerate's handle on devices, processes and trackers.

    Args:
        config: ``mixed_precision`` and ``trackers``.
        out: The run folder; TensorBoard writes to ``tracking`` in it.

    Raises:
        UserError: If a tracker is unknown or not installed.
    """
    options = {"mixed_precision": config.mixed_precision, "step_scheduler_with_optimizer": False}
    if not config.trackers:
        return _distributed.open_accelerator(**options)
    try:
        accelerator = _distributed.open_accelerator(**options, log_with=list(config.trackers), project_dir=str(out))
    except ValueError as error:
        raise UserError(f"Unknown tracker: {error}", allowed="tensorboard, wandb, mlflow, aim, ...") from error
    if len(accelerator.log_with) < len(config.trackers):
        raise UserError(
            f"Not all of the trackers {', '.join(config.trackers)} are installed", fix='pip install "egoloom[track]"'
        )
    settings = {key: value for key, value in config.model_dump().items() if isinstance(value, int | float | str | bool)}
    accelerator.init_trackers("tracking", config=settings)
    return accelerator
