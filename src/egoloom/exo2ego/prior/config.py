"""Settings of the ego prior."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from egoloom.exo2ego.prior.background import BackgroundConfig
from egoloom.exo2ego.prior.scale import ScaleConfig


class PriorConfig(BaseModel):
    """How an ego prior is made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    depth_scale: float | None = Field(default=None, gt=0, description="factor on depth; None solves it from the scene")
    scale: ScaleConfig = ScaleConfig()
    background: BackgroundConfig = BackgroundConfig()
    include_dynamic: bool = Field(default=False, description="also draw what moves, from the depth of its own frame")
    far_side_radius_m: float = Field(
        default=0.0, ge=0, description="guess the far side of parts thinner than twice this; 0 leaves it open"
    )
    colour: Literal["frame", "mean"] = Field(
        default="frame", description="the frame's own light where the background is seen, or the clip's mean"
    )
    surface: Literal["mesh", "splat"] = "mesh"
    splat_radius_px: float = Field(default=2.5, ge=0)
    max_edge_px: float = Field(default=64.0, gt=0, description="quads that grow larger than this are not drawn")
    min_confidence: float = Field(default=0.0, ge=0, le=1, description="pixels below become holes")
    wearer_radius_m: float = Field(default=0.35, ge=0, description="nothing this near to the ego camera is drawn")
    num_keyframes: int = Field(default=8, ge=1, description="surfaces kept when the exo camera moves")
