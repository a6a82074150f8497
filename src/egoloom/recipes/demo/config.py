"""Settings of the demonstration run."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class DemoConfig(BaseModel):
    """Sizes that let the whole loop run in minutes on two cores.

    Attributes:
        data: Folder with real recordings (``something_else`` and ``egox`` below it); None makes the kitchen.
        num_takes: Kitchen takes with labels and every sensor.
        num_exo_takes: Kitchen takes of a second owner, of which only the third-person video is used.
        ego_size_px: Side of the kitchen's ego frames.
        exo_size_px: Width and height of the kitchen's exo frames; larger than ego, because the ego prior needs pixels.
        recognition_epochs: Epochs of every recogniser on the kitchen.
        lora_steps: Optimiser steps of the generator's LoRA on the takes at hand.
        generated_size_px: Side of generated frames.
        generated_frames: Frames of a generated clip.
        max_generated_share: Largest share of generated clips in the last training.
        experiment_labels: Labelled ego clips of an action in the small augmentation experiment.
        experiment_seeds: Its seeds.
        experiment_steps: Optimiser steps of each of its trainings.
        num_workers: Processes that render the kitchen and train the small experiment.
        seed: Seed of everything.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: Path | None = None
    num_takes: int = Field(default=320, ge=40)
    num_exo_takes: int = Field(default=72, ge=2)
    ego_size_px: int = 96
    exo_size_px: tuple[int, int] = (224, 128)
    recognition_epochs: int = Field(default=24, ge=1)
    lora_steps: int = Field(default=200, ge=1)
    generated_size_px: int = 64
    generated_frames: int = 17
    max_generated_share: float = Field(default=0.25, ge=0, lt=1)
    experiment_labels: int = Field(default=3, ge=1)
    experiment_seeds: int = Field(default=4, ge=1)
    experiment_steps: int = Field(default=150, ge=1)
    num_workers: int = Field(default=2, ge=1)
    seed: int = 0
