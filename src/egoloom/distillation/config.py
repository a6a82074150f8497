"""Who teaches, how their voices are mixed, and with which loss."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from egoloom.distillation.losses import DistillationLossConfig
from egoloom.distillation.teachers import TeacherEnsembleConfig


class DistillationConfig(BaseModel):
    """Settings of a distilled run.

    Attributes:
        teachers: Runs or checkpoint folders; each teacher reads its own modalities of the same view.
        ensemble: How teachers are weighted and mixed.
        calibrate_teachers: Fit a temperature of each teacher and of the mixture, for each head, on the selection split.
        loss: The soft-target and label terms.
        use_cache: Run the teachers once a (clip, view seed) and keep their logits; False runs them at every step.
        unlabelled_splits: Further splits whose clips are taught by soft labels alone.
        generated_weight: Weight of generated clips in the soft-target term against 1 for recorded ones.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    teachers: tuple[Path, ...] = ()
    ensemble: TeacherEnsembleConfig = TeacherEnsembleConfig(weights="full_dataset")
    calibrate_teachers: bool = True
    loss: DistillationLossConfig = DistillationLossConfig()
    use_cache: bool = True
    unlabelled_splits: tuple[str, ...] = ()
    generated_weight: float = Field(default=1.0, ge=0)
