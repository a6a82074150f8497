"""Writes an ego prior into a clip store, marked as generated, with its camera, holes and depth."""

from pathlib import Path

import numpy as np

from egoloom.cameras import PosedCamera, Trajectory
from egoloom.clips import Clip, ClipStore, Modality, Video
from egoloom.clips.media import write_arrays, write_video
from egoloom.errors import UserError
from egoloom.exo2ego.prior.artefacts import PriorSource
from egoloom.exo2ego.prior.render import EgoPrior


def append_prior(path: Path, prior: EgoPrior, source: PriorSource, *, mode: str) -> Clip:
    """Appends a prior to a store, which is made where there is none.

    The clip ``<take>-prior`` has the prior as RGB and its z-depth (0 in holes) as depth;
    ``media/prior/<take>-prior.npz`` holds confidence (0 in holes). It carries no labels.

    Args:
        path: The store.
        prior: The prior.
        source: What it was made from.
        mode: ``correct`` or ``compat``.

    Raises:
        UserError: If the store holds a prior of this take already.
    """
    store = ClipStore.open(path) if (path / "info.json").is_file() else _create(path)
    video_id = f"{source.take}-prior"
    if video_id in store.videos:
        raise UserError(f"{path} holds {video_id!r} already", fix="give another --store")
    num_frames, _, height, width = prior.frames_TCHW.shape
    times_s = np.arange(num_frames) / float(source.fps)
    write_video(store.media_path(Modality.RGB, video_id), prior.frames_TCHW, source.fps)
    depth = {"depth_m": prior.depth_THW.astype(np.float16), "times_s": times_s}
    write_arrays(store.media_path(Modality.DEPTH, video_id), depth)
    confidence = np.round(prior.confidence_THW * 255).astype(np.uint8)
    write_arrays(store.path / "media" / "prior" / f"{video_id}.npz", {"confidence": confidence, "times_s": times_s})
    camera = PosedCamera(source.ego_camera, Trajectory.from_poses(times_s, list(source.T_world_ego_T)))
    store.save_calibration(video_id, camera.to_dict())
    duration_s = num_frames / float(source.fps)
    rgb = str(store.media_path(Modality.RGB, video_id).relative_to(store.path))
    video = Video(video_id, rgb, source.fps, width, height, num_frames, duration_s, "ego", source.take, video_id)
    clip = Clip(
        video_id,
        video_id,
        "",
        "ego",
        source.take,
        0.0,
        duration_s,
        store.info.splits[0],
        is_generated=True,
        generator=f"ego-prior-{mode}",
        quality=float(prior.coverage),
        present=frozenset({Modality.RGB, Modality.DEPTH}),
        extra={"depth_scale": f"{prior.depth_scale:.6g}", "scale_confidence": f"{prior.scale_confidence:.3g}"},
    )
    store.append(videos=[video], clips=[clip])
    return clip


def _create(path: Path) -> ClipStore:
    return ClipStore.create(
        path,
        name="ego priors",
        source="ego-prior",
        licence="terms of the exo videos they were made from",
        splits=["train"],
    )
