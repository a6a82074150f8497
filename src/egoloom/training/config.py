"""Settings of a training run; every field can be given on the command line and is written beside the run."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from pydantic import BaseModel, ConfigDict, Field, model_validator

FROZEN = ConfigDict(frozen=True, extra="forbid")
HeadName = Literal["verb", "noun", "action", "left_hand_object", "right_hand_object"]


class DataConfig(BaseModel):
    """Which clips a run reads.

    Attributes:
        store: The clip store.
        train_splits: Splits trained on; unlabelled clips among them are used by distillation only.
        left_out_fold: (k, K) leaves out fold k of K of the training clips, whole videos; for cross-fitted teachers.
        selection_split: Picks the best checkpoint, fits temperatures and teacher weights; never the reported one.
        report_splits: Splits whose figures are reported.
        extra_stores: Further stores whose training clips are mixed in, for instance generated clips.
        max_generated_share: Largest share of generated clips among the training clips; more are left out.
        generated_balance: Keep the best generated clips overall (``quality``) or as evenly over actions as their
            number allows (``action``).
        generated_weight: Weight of generated clips in the label term against 1 for recorded ones.
        generated_epochs: Generated clips are shown in so many first epochs, recorded ones alone afterwards; None shows
            them in all.
        generated_norm: ``separate`` normalises recorded and generated clips apart while training, for networks with
            batch norm; evaluation uses the statistics of recorded clips.
    """

    model_config = FROZEN

    store: Path = Path("clips/kitchen")
    train_splits: tuple[str, ...] = ("train",)
    left_out_fold: tuple[int, int] | None = None
    selection_split: str = "validation"
    report_splits: tuple[str, ...] = ("test",)
    extra_stores: tuple[Path, ...] = ()
    max_generated_share: float = Field(default=0.5, ge=0, lt=1)
    generated_balance: Literal["quality", "action"] = "quality"
    generated_weight: float = Field(default=1.0, ge=0)
    generated_epochs: int | None = Field(default=None, ge=0)
    generated_norm: Literal["shared", "separate"] = "shared"

    @model_validator(mode="after")
    def _fold_exists(self) -> "DataConfig":
        if self.left_out_fold is not None and not 0 <= self.left_out_fold[0] < self.left_out_fold[1]:
            raise ValueError(f"left_out_fold is {self.left_out_fold}; allowed is a fold k of K with 0 <= k < K")
        return self

    @model_validator(mode="after")
    def _selection_is_not_reported(self) -> "DataConfig":
        if self.selection_split in self.report_splits:
            raise ValueError(
                f"selection_split {self.selection_split!r} is also reported; choose the model on another split"
            )
        return self


class ModelConfig(BaseModel):
    """The network: a name of the registry and its options (JSON on the command line)."""

    model_config = FROZEN

    name: str = "edge_tiny"
    heads: tuple[HeadName, ...] = ("verb", "noun", "action")
    options: Annotated[dict[str, Any], tyro.conf.arg(constructor=json.loads, metavar="JSON")] = Field(
        default_factory=dict
    )
    init_from: Path | None = None


class OptimisationConfig(BaseModel):
    """Optimiser, schedule and the loop's size.

    Attributes:
        schedule: ``linear`` decays to 0 as the reference does, ``cosine`` likewise, ``constant`` stays.
        warmup_fraction: Share of all steps during which the rate rises from 0.
        num_view_seeds: Different random views a clip is shown in; epochs cycle through them. A soft-label cache
            holds this many entries a clip.
        ema_decay: Decay of the exponential moving average of the weights that is evaluated and saved; None is off.
        layer_decay: Factor between the learning rates of neighbouring layers, for pretrained networks; None is off.
        trackers: Where losses and rates go beside ``history.jsonl``: names that accelerate knows, such as
            ``tensorboard`` (extra ``track``).
        quantisation_aware: Convolutions round to int8 while they learn; for students that ship in int8.
        score_every_epochs: The selection split is judged after so many epochs and after the last; more than 1 saves
            time where epochs are short.
        checkpoint_every_steps: Also checkpoint within an epoch, so that little is lost when a machine dies.
    """

    model_config = FROZEN

    epochs: int = Field(default=12, ge=1)
    batch_size: int = Field(default=16, ge=1)
    gradient_accumulation: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=0.02, ge=0)
    schedule: Literal["linear", "cosine", "constant"] = "cosine"
    warmup_fraction: float = Field(default=0.1, ge=0, lt=1)
    clip_norm: float = Field(default=5.0, gt=0)
    num_view_seeds: int = Field(default=8, ge=1)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    mixed_precision: Literal["no", "bf16"] = "no"
    compile: bool = False
    layer_decay: float | None = Field(default=None, gt=0, le=1)
    trackers: tuple[str, ...] = ()
    quantisation_aware: bool = False
    seed: int = 0
    num_workers: int = Field(default=0, ge=0)
    cache_mb: int = Field(default=1500, ge=0)
    score_every_epochs: int = Field(default=1, ge=1)
    checkpoint_every_steps: int = Field(default=200, ge=1)


class EvaluationConfig(BaseModel):
    """The multi-view protocol: ``num_clips x num_crops`` views a clip and how their scores are averaged."""

    model_config = FROZEN

    num_clips: int = Field(default=1, ge=1)
    num_crops: Literal[1, 3] = 1
    average: Literal["logits", "probabilities"] = "logits"
    batch_size: int = Field(default=32, ge=1)
