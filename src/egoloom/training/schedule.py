"""Learning-rate schedules as pure functions of the step: nothing to save, nothing to restore."""

import math
from typing import Literal


def learning_rate(
    step: int,
    *,
    base: float,
    num_steps: int,
    num_warmup_steps: int = 0,
    schedule: Literal["linear", "cosine", "constant"] = "linear",
) -> float:
    """Returns the rate used at optimiser step ``step`` (counted from 0).

    Warm-up rises linearly from 0; then ``linear`` falls to 0 at ``num_steps`` (arXiv 2307.07483), ``cosine`` follows
    half a cosine to 0, ``constant`` stays. After ``num_steps`` a decaying rate is 0.
    """
    if step < num_warmup_steps:
        return base * step / num_warmup_steps
    if schedule == "constant":
        return base
    if step >= num_steps:
        return 0.0
    progress = (step - num_warmup_steps) / (num_steps - num_warmup_steps)
    if schedule == "linear":
        return base * (1.0 - progress)
    return base * 0.5 * (1.0 + math.cos(math.pi * progress))
