"""Who teaches, how their voices are mixed, and with which loss."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from egoloom.distillation.losses import DistillationLossConfig

WeightScheme = Literal["uniform", "full_dataset", "per_sample", "camkd", "selective"]


class DistillationConfig(BaseModel):
    """Settings of a distilled run.

    Attributes:
        teachers: Checkpoint folders; each teacher reads its own modalities of the same view.
        weights: How teachers are weighted, see `egoloom.distillation.weights`.
        weights_gamma: γ of the softmin schemes: large is uniform, small is the best teacher only.
        mixing: Whether logits or probabilities are mixed.
        calibrate_teachers: Fit one temperature a teacher and head on the selection split first.
        loss: The soft-target and label terms.
        use_cache: Run the teachers once a (clip, view seed) and keep their logits; False runs them at every step.
        use_unlabelled: Also show unlabelled clips of the training splits, taught by soft labels alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    teachers: tuple[Path, ...] = Field(default=(), min_length=0)
    weights: WeightScheme = "full_dataset"
    weights_gamma: float = Field(1.0, gt=0)
    mixing: Literal["logits", "probabilities"] = "probabilities"
    calibrate_teachers: bool = True
    loss: DistillationLossConfig = Field(default_factory=DistillationLossConfig)
    use_cache: bool = True
    use_unlabelled: bool = True
