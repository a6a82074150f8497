"""From a take to a sample of the generator: ego prior rendered, pictures and cameras brought to one small size."""

import numpy as np
import torch
import torch.nn.functional as F

from egoloom.augmentation.takes import ExoTake
from egoloom.exo2ego.clip_geometry import geometry_from_cameras
from egoloom.exo2ego.prior import EgoPrior, PriorConfig, ScaleEvidence, render_ego_prior
from egoloom.exo2ego.prior.background import BackgroundConfig
from egoloom.exo2ego.samples import GeneratorSample

# Arms and hands, and most things that they hold, are thinner than twice this.
LIMB_RADIUS_M = 0.06
GRID_PX = 8  # of widths: autoencoder stride times patch size


def generator_prior_config(*, is_metric: bool) -> PriorConfig:
    """Returns how priors are rendered for the generator: what moves is drawn too, so that it sees hands and objects.

    Args:
        is_metric: The depth is metric already, as simulated depth is, and sharp at edges, so that less of it has to
            be thrown away (coverage .51 instead of .35 on small kitchen takes); otherwise one scale is solved for
            each clip, and the neighbourhood of edges is left out.
    """
    if not is_metric:
        return PriorConfig(include_dynamic=True, far_side_radius_m=LIMB_RADIUS_M)
    background = BackgroundConfig(edge_px=0, dilate_px=1, mesh_step=0.08)
    return PriorConfig(depth_scale=1.0, include_dynamic=True, far_side_radius_m=LIMB_RADIUS_M, background=background)


def render_prior(take: ExoTake, *, size_px: int, config: PriorConfig) -> EgoPrior:
    """Renders the ego prior of a take as a square of ``size_px``."""
    if take.depth_scale is not None:
        config = config.model_copy(update={"depth_scale": take.depth_scale})
    return render_ego_prior(
        take.exo_TCHW,
        take.depth_THW,
        take.exo_camera,
        take.T_world_exo,
        take.ego_camera.resize(size_px, size_px),
        take.T_world_ego,
        config=config,
        evidence=ScaleEvidence(up_world=take.up_world),
    )


def generator_sample(
    take: ExoTake,
    *,
    size_px: int,
    grid_px: int = GRID_PX,
    time_stride: int = 4,
    prior_config: PriorConfig | None = None,
) -> tuple[GeneratorSample, EgoPrior]:
    """Returns the generator's inputs for a take, and its prior.

    Args:
        take: The exo clip with depth and cameras.
        size_px: Side of the ego frames and height of the exo frames.
        grid_px: Widths are rounded to multiples of this (autoencoder stride times patch size).
        time_stride: Frames a latent frame.
        prior_config: How the prior is rendered.

    Returns:
        The sample (with the recorded ego frames as truth where the take has them) and the prior.
    """
    prior = render_prior(take, size_px=size_px, config=prior_config or generator_prior_config(is_metric=False))
    exo_width = exo_width_px(take, size_px, grid_px)
    # One scale for the whole clip, so that geometry and picture agree with the rendered prior.
    depth = torch.from_numpy(take.depth_THW) * float(prior.depth_scale)
    geometry = geometry_from_cameras(
        F.interpolate(depth[:, None], size=(size_px, exo_width), mode="nearest-exact")[:, 0],
        take.exo_camera.resize(exo_width, size_px),
        take.T_world_exo,
        take.ego_camera.resize(size_px, size_px),
        take.T_world_ego,
        time_stride=time_stride,
    )
    sample = GeneratorSample(
        name=take.clip.clip_id,
        exo_TCHW=resize(take.exo_TCHW, size_px, exo_width),
        prior_TCHW=torch.as_tensor(prior.frames_TCHW),
        hole_THW=torch.as_tensor(prior.hole_mask_THW),
        truth_TCHW=None if take.truth_TCHW is None else resize(take.truth_TCHW, size_px, size_px),
        geometry=geometry,
        caption=take.clip.extra.get("prompt", ""),
        wearer_THW=None if take.wearer_THW is None else resize_mask(take.wearer_THW, size_px),
    )
    return sample, prior


def exo_width_px(take: ExoTake, height_px: int, grid_px: int = GRID_PX) -> int:
    """Returns the width of exo frames of a height: the video's shape, rounded to a multiple of ``grid_px``."""
    height, width = take.exo_TCHW.shape[2:]
    return max(grid_px, round(height_px * width / height / grid_px) * grid_px)


def resize_mask(mask_THW: np.ndarray, side_px: int) -> torch.Tensor:
    """Returns a boolean mask on a square grid of another size: True where it covers most of a pixel."""
    mask = torch.from_numpy(np.ascontiguousarray(mask_THW))[:, None].float()
    return F.interpolate(mask, size=(side_px, side_px), mode="area")[:, 0] > 0.5


def resize(frames_TCHW: np.ndarray, height: int, width: int) -> torch.Tensor:
    """Returns uint8 frames of another size, area-averaged when they shrink."""
    frames = torch.from_numpy(np.ascontiguousarray(frames_TCHW)).float()
    return F.interpolate(frames, size=(height, width), mode="area").round().to(torch.uint8)
