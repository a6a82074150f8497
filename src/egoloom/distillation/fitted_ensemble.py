"""How teachers' voices are mixed, what is fitted for it on held-out clips, and what the student then hears."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from egoloom.clips.files import write_text
from egoloom.errors import UserError

WeightScheme = Literal["uniform", "full_dataset", "per_sample", "camkd", "selective", "entropy"]


class TeacherEnsembleConfig(BaseModel):
    """How teachers' voices are mixed.

    Attributes:
        weights: ``uniform``; ``full_dataset`` and ``per_sample`` are softmin of cross-entropies with temperature gamma;
            ``camkd``; ``selective`` (right and sure); ``entropy`` (sure, needs no labels).
        gamma: Temperature of the softmin: large is uniform, small is the best teacher only.
        mixing: Whether logits or probabilities are mixed.
        min_confidence: Of ``selective``.
        when_none_qualifies: Of ``selective``: ``skip`` the sample, or fall back to all teachers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: WeightScheme = "uniform"
    gamma: float = Field(default=1.0, gt=0)
    mixing: Literal["logits", "probabilities"] = "logits"
    min_confidence: float = Field(default=0.5, ge=0, le=1)
    when_none_qualifies: Literal["skip", "fall_back"] = "skip"


@dataclass(frozen=True)
class TeacherTargets:
    """What the student is to match.

    Attributes:
        logits: Head to mixed logits ``[B, K]``.
        weights: Head to each teacher's weight ``[B, M]``; rows sum to 1, or to 0 where nobody may teach.
        sample_weights: Head to 1 or 0 a sample ``[B]``: whether there is anything to match.
    """

    logits: dict[str, Tensor]
    weights: dict[str, Tensor]
    sample_weights: dict[str, Tensor]


@dataclass(frozen=True)
class FittedEnsemble:
    """What was fitted on held-out clips; saved beside the run and shown in its report.

    Attributes:
        teachers: Names in order.
        temperatures: Head to one temperature a teacher.
        mean_ce: Head to one mean cross-entropy a teacher (after its temperature).
        weights: Head to one full-data-set weight a teacher.
        num_clips: Number of held-out clips.
        gamma: Temperature of the softmin.
        mixture_temperatures: Head to the temperature of the mixture; 1 where none was fitted.
    """

    teachers: list[str]
    temperatures: dict[str, list[float]]
    mean_ce: dict[str, list[float]]
    weights: dict[str, list[float]]
    num_clips: int
    gamma: float
    mixture_temperatures: dict[str, float] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Writes JSON, atomically."""
        write_text(path, json.dumps(self.__dict__, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads what ``save`` wrote.

        Raises:
            UserError: If the file is missing or has other content.
        """
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{path} does not hold fitted teacher weights: {error}") from error
