"""Who teaches, how their voices are mixed, and with which loss."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

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
        cross_fitted: A teacher is silent about clips it learnt from. Teachers trained with ``data.left_out_fold`` then
            judge only their own fold of the training clips, and all others.
        label_noise: Share of wrong labels, where it is known or guessed: the teachers' verdict then takes the given
            label as one more witness (`with_label_as_evidence`). Needs ``cross_fitted``.
        generated_weight: Weight of generated clips in the soft-target term against 1 for recorded ones.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    teachers: tuple[Path, ...] = ()
    ensemble: TeacherEnsembleConfig = TeacherEnsembleConfig(weights="full_dataset")
    calibrate_teachers: bool = True
    loss: DistillationLossConfig = DistillationLossConfig()
    use_cache: bool = True
    unlabelled_splits: tuple[str, ...] = ()
    cross_fitted: bool = False
    label_noise: float | None = Field(default=None, gt=0, lt=1)
    generated_weight: float = Field(default=1.0, ge=0)

    @model_validator(mode="after")
    def _label_counts_once(self) -> "DistillationConfig":
        if self.label_noise is not None and not self.cross_fitted:
            raise ValueError("label_noise needs cross_fitted: teachers that learnt from a label would count it twice")
        return self
