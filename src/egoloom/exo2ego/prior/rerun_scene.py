"""A Rerun recording of an ego prior: both cameras, the coloured cloud and the prior on a timeline (an extra)."""

from pathlib import Path

import numpy as np
import torch

from egoloom._optional import require_package
from egoloom.cameras import Camera, transform_points
from egoloom.exo2ego.prior.artefacts import PriorSource
from egoloom.exo2ego.prior.render import EgoPrior

MAX_POINTS = 120_000


def write_rerun(path: Path, prior: EgoPrior, source: PriorSource, depth_HW: np.ndarray) -> None:
    """Writes an ``.rrd`` file.

    Args:
        path: Target file.
        prior: The prior.
        source: What it was made from.
        depth_HW: Depth of the exo background or of one frame, before scaling.

    Raises:
        UserError: If rerun-sdk is not installed.
    """
    rr = require_package("rerun", extra="viz", package="rerun-sdk")
    path.parent.mkdir(parents=True, exist_ok=True)
    recording = rr.RecordingStream("egoloom_ego_prior")
    recording.save(str(path))
    recording.log("world", rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
    points, colours = _cloud(source, depth_HW * prior.depth_scale)
    recording.log("world/cloud", rr.Points3D(points, colors=colours, radii=0.01), static=True)
    _log_pinhole(rr, recording, "world/exo/image", source.exo_camera)
    _log_pinhole(rr, recording, "world/ego/image", source.ego_camera)
    for index in range(len(prior.frames_TCHW)):
        recording.set_time("time", duration=index / float(source.fps))
        exo_pose = source.T_world_exo if source.T_world_exo.ndim == 2 else source.T_world_exo[index]
        for name, pose in (("exo", exo_pose), ("ego", source.T_world_ego_T[index])):
            matrix = pose.numpy()
            recording.log(f"world/{name}", rr.Transform3D(translation=matrix[:3, 3], mat3x3=matrix[:3, :3]))
        exo, ego = source.exo_frames_TCHW[index].transpose(1, 2, 0), prior.frames_TCHW[index].transpose(1, 2, 0)
        recording.log("world/exo/image", rr.Image(exo).compress())
        recording.log("world/ego/image", rr.Image(ego).compress())
        recording.log("prior/confidence", rr.Image((prior.confidence_THW[index] * 255).astype(np.uint8)))
        recording.log("prior/coverage", rr.Scalars(float(1 - prior.hole_mask_THW[index].mean())))


def _log_pinhole(rr, recording, entity: str, camera: Camera) -> None:
    """Rerun knows pinholes only: a fisheye lens is shown by the pinhole with the same angle at half the radius."""
    width, height = camera.image_size
    x = torch.tensor([[camera.principal_point[0] + width / 4, camera.principal_point[1]]], dtype=torch.float64)
    ray = camera.unproject(x, unit=False)[0][0]
    focal = float(width / 4 / ray[0].clamp_min(1e-3))
    pinhole = rr.Pinhole(focal_length=focal, width=width, height=height, camera_xyz=rr.ViewCoordinates.RDF)
    recording.log(entity, pinhole, static=True)


def _cloud(source: PriorSource, depth_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rays, valid = source.exo_camera.rays(unit=False)
    pose = source.T_world_exo if source.T_world_exo.ndim == 2 else source.T_world_exo[0]
    known = (depth_HW > 0) & valid.numpy()
    points = transform_points(pose, rays[torch.from_numpy(known)] * torch.from_numpy(depth_HW[known])[:, None].double())
    colours = source.exo_frames_TCHW[0].transpose(1, 2, 0)[known]
    step = max(1, len(colours) // MAX_POINTS)
    return points.numpy()[::step], colours[::step]
