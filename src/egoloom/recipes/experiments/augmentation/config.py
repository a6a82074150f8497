"""Size and cells of the experiment."""

from pydantic import BaseModel, ConfigDict, Field

from egoloom.clips.transforms import ViewConfig

TEST_SPLITS = ("unseen_participant", "unseen_kitchen")
VIEW = ViewConfig(num_frames=8, size_px=48, max_boxes=6, num_spectrogram_columns=100)
CELLS = ("ego_only", "raw_exo", "prior_inpainted", "generated", "generated_filtered", "true_ego")
DISTILLED_CELLS = ("ego_only", "raw_exo", "generated", "generated_filtered", "true_ego")


class AugmentationExperiment(BaseModel):
    """Size of the experiment.

    Attributes:
        labels_per_action: Labelled ego clips of an action, one setting each.
        num_seeds: Seeds of each setting; each draws the labelled clips and all networks anew. The takes and what is
            generated of them are the same for all.
        first_seed: The first of them; those below served to choose the settings of the experiment.
        num_ego_takes: Takes for labelled ego clips, validation and test.
        num_exo_takes: Takes of which the exo clips become ego clips.
        steps: Optimiser steps on the mixture, the same for every cell.
        recorded_steps: Optimiser steps after that on the recorded ego clips alone, the same for every cell.
        distilled: Settings that are repeated with distillation from multimodal teachers.
        num_distilled_seeds: Seeds of those.
        report_splits: Splits whose figures are reported.
        worst_share: Largest share of validation clips that the filter would reject.
        num_workers: Processes; each trains the cells of one number of labels and one seed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    labels_per_action: tuple[int, ...] = (5, 10, 20)
    num_seeds: tuple[int, ...] = (4, 4, 3)
    first_seed: int = 20
    num_ego_takes: int = Field(default=900, ge=36)
    num_exo_takes: int = Field(default=360, ge=18)
    steps: int = Field(default=800, ge=1)
    recorded_steps: int = Field(default=0, ge=0)
    distilled: tuple[int, ...] = (10,)
    num_distilled_seeds: int = Field(default=3, ge=1)
    report_splits: tuple[str, ...] = TEST_SPLITS
    worst_share: float = Field(default=0.1, ge=0, lt=1)
    num_workers: int = Field(default=2, ge=1)
