"""The small networks of demo and experiments: one a modality, each with the rate and length that suit it."""

from dataclasses import dataclass, field, replace
from typing import Any

from egoloom.kitchen.vocabulary import OBJECT_CATEGORIES
from egoloom.recipes.run_config import RunConfig
from egoloom.training.config import ModelConfig


@dataclass(frozen=True)
class Network:
    """A network and how it is trained.

    Attributes:
        model: Name of the registry.
        options: Its options.
        learning_rate: Peak rate of AdamW.
        length: Epochs (or steps) in multiples of the student's; transformers need more than convolutions.
    """

    model: str
    options: dict[str, Any] = field(default_factory=dict)
    learning_rate: float = 4e-3
    length: float = 1.0

    def in_run(self, config: RunConfig) -> RunConfig:
        """Returns the run with this network, its rate and its length."""
        optimisation = {"learning_rate": self.learning_rate}
        optimisation["epochs"] = max(1, round(self.length * config.optimisation.epochs))
        return config.model_copy(
            update={
                "model": ModelConfig(name=self.model, options=self.options),
                "optimisation": config.optimisation.model_copy(update=optimisation),
            }
        )


RGB = Network("edge_tiny")
FLOW = Network("edge_tiny", {"input_modality": "flow"})
BOXES = Network("layout_tiny", {"layer_dropout": 0.0}, learning_rate=2e-3, length=2.0)
# The kitchen's detector names what it boxes.
NAMED_BOXES = replace(BOXES, options=BOXES.options | {"num_object_classes": len(OBJECT_CATEGORIES)})
AUDIO = Network("spectrogram_tiny")
IMU = Network("imu_tiny")

KITCHEN_SENSORS: dict[str, Network] = {"flow": FLOW, "boxes": NAMED_BOXES, "audio": AUDIO, "imu": IMU}
