"""The ego prior: depth alignment and scale, static background, surface renderer, compat mode, ego pose."""

from egoloom.exo2ego.prior.background import Background, BackgroundConfig, fuse_background
from egoloom.exo2ego.prior.config import PriorConfig
from egoloom.exo2ego.prior.render import EgoPrior, render_ego_prior
from egoloom.exo2ego.prior.scale import ScaleConfig, ScaleEvidence, ScaleResult, solve_depth_scale

__all__ = [
    "Background",
    "BackgroundConfig",
    "EgoPrior",
    "PriorConfig",
    "ScaleConfig",
    "ScaleEvidence",
    "ScaleResult",
    "fuse_background",
    "render_ego_prior",
    "solve_depth_scale",
]
