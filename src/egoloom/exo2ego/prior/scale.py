"""One metric scale per clip: what the depth must be multiplied by so that it fits the world of the poses.

Monocular "metric" depth is wrong by a factor, mostly because the network assumed another field of view. Several weak
cues are fused in log scale: each says a factor and how sure it is; cues that disagree lower the confidence.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from scipy.special import erf
from torch import Tensor

from egoloom.cameras import Camera
from egoloom.exo2ego.prior.scale_cues import Cue, CueInputs, first_frame_cue, floor_cue, head_cue, points_cue


class ScaleConfig(BaseModel):
    """What the solver takes for granted about people and depth networks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    eye_height_m: float = Field(default=1.6, gt=0, description="of a standing adult, above the floor")
    eye_height_sigma_m: float = Field(default=0.10, gt=0)
    foot_sigma_m: float = Field(default=0.15, gt=0, description="error of a floor height read off somebody's feet")
    head_sigma: float = Field(default=0.15, gt=0, description="relative error of depth on a moving head")
    prior_sigma: float = Field(default=0.5, gt=0, description="how far metric depth may be off, in log scale")
    tolerance: float = Field(default=0.10, gt=0, description="confidence = probability that the scale is within this")


@dataclass(frozen=True, eq=False)
class ScaleEvidence:
    """What a caller may know beyond poses and depth.

    Attributes:
        up_world: Direction against gravity in the world, ``[3]``; without it the floor cannot be used.
        points_world_N3: Points of the scene in metres (SLAM points, or triangulated between two exo cameras).
        first_ego_frame_CHW: A real frame of the ego camera, uint8.
        first_ego_index: Its frame number.
        wearer_THW: Where the wearer is in the exo frames; without it, what moves is taken.
    """

    up_world: tuple[float, float, float] | None = None
    points_world_N3: np.ndarray | None = None
    first_ego_frame_CHW: np.ndarray | None = None
    first_ego_index: int = 0
    wearer_THW: np.ndarray | None = None


@dataclass(frozen=True)
class ScaleResult:
    """The factor, and why.

    Attributes:
        scale: Factor on depth.
        confidence: Probability, as far as the cues can tell, that the factor is right within the tolerance.
        log_sigma: Standard deviation in log scale.
        cues: What each cue said.
        notes: Cues that could not be used, with reasons.
    """

    scale: float
    confidence: float
    log_sigma: float
    cues: tuple[Cue, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, object]:
        """For ``meta.json``."""
        return {
            "scale": round(self.scale, 4),
            "confidence": round(self.confidence, 3),
            "log_sigma": round(self.log_sigma, 3),
            "cues": [cue.to_dict() for cue in self.cues],
            "notes": list(self.notes),
        }


def solve_depth_scale(
    static_depth_HW: np.ndarray,
    depth_THW: np.ndarray,
    dynamic_THW: np.ndarray | None,
    exo_camera: Camera,
    T_world_exo: Tensor,
    T_world_ego_T: Tensor,
    *,
    evidence: ScaleEvidence | None = None,
    config: ScaleConfig | None = None,
    colour_HW3: np.ndarray | None = None,
    ego_camera: Camera | None = None,
) -> ScaleResult:
    """Solves the clip's depth scale from what is known.

    Args:
        static_depth_HW: Depth of the static background, 0 where unknown; of a moving exo camera: of its first frame.
        depth_THW: Depth of every frame.
        dynamic_THW: What moves in every frame, or None.
        exo_camera: The exo camera.
        T_world_exo: Its pose ``[4, 4]``, or ``[T, 4, 4]`` if it moves.
        T_world_ego_T: Ego poses ``[T, 4, 4]``.
        evidence: Further knowledge.
        config: Assumptions.
        colour_HW3: Colours of the background (for the first-frame cue).
        ego_camera: The ego camera (for the first-frame cue).

    Returns:
        The factor with its confidence; factor 1 with confidence 0 where no cue speaks.
    """
    config, evidence = config or ScaleConfig(), evidence or ScaleEvidence()
    wearer = evidence.wearer_THW if evidence.wearer_THW is not None else dynamic_THW
    inputs = CueInputs(
        static_depth_HW,
        depth_THW,
        wearer,
        exo_camera,
        torch.as_tensor(T_world_exo, dtype=torch.float64),
        torch.as_tensor(T_world_ego_T, dtype=torch.float64),
    )
    makers: list[tuple[str, Callable[[], Cue | str]]] = [
        ("floor", lambda: floor_cue(inputs, evidence.up_world, config)),
        ("head", lambda: head_cue(inputs, config)),
        ("points", lambda: points_cue(inputs, evidence.points_world_N3)),
    ]
    cues, notes = [], []
    for name, make in makers:
        said = make()
        if isinstance(said, str):
            notes.append(f"{name}: {said}")
        else:
            cues.append(said)
    result = fuse_cues(cues, config, notes)
    if evidence.first_ego_frame_CHW is None or colour_HW3 is None or ego_camera is None:
        return result
    # Matching against a rendering needs a first guess, so this cue comes last.
    said = first_frame_cue(
        inputs, colour_HW3, ego_camera, evidence.first_ego_frame_CHW, evidence.first_ego_index, result.scale
    )
    if isinstance(said, str):
        return fuse_cues(cues, config, [*notes, f"first ego frame: {said}"])
    return fuse_cues([*cues, said], config, notes)


def fuse_cues(cues: list[Cue], config: ScaleConfig, notes: list[str] | None = None) -> ScaleResult:
    """Fuses cues in log scale: a robust weighted mean, with the spread of the cues in its standard deviation."""
    if not cues:
        return ScaleResult(1.0, 0.0, config.prior_sigma, (), (*(notes or []), "no cue: depth is taken as metric"))
    value = np.log([cue.scale for cue in cues])
    sigma = np.array([cue.log_sigma for cue in cues])
    # The prior "metric depth is roughly metric" is a weak observation of factor 1.
    value, sigma = np.append(value, 0.0), np.append(sigma, config.prior_sigma)
    trust = np.ones_like(sigma)
    mean = 0.0
    for _ in range(20):
        weight = trust / sigma**2
        mean = float((weight * value).sum() / weight.sum())
        trust = 1 / (1 + ((value - mean) / (2.0 * sigma)) ** 2)
    weight = trust / sigma**2
    variance = 1 / weight.sum()
    misfit = ((value - mean) / sigma) ** 2
    inflation = max(1.0, float(misfit[:-1].sum()) / max(1, len(cues) - 1)) if len(cues) > 1 else 1.0
    log_sigma = float(np.sqrt(variance * inflation))
    confidence = float(erf(config.tolerance / (np.sqrt(2) * log_sigma)))
    return ScaleResult(float(np.exp(mean)), confidence, log_sigma, tuple(cues), tuple(notes or []))
