"""Reads what the generator needs of one exo clip out of a clip store: pictures, depth, cameras, ego trajectory.

Shapes: T frames, H rows, W columns.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from egoloom.cameras import Camera, PosedCamera
from egoloom.clips import Clip, ClipStore, Modality, Video
from egoloom.clips.media import VideoReader, read_arrays
from egoloom.errors import UserError

# Names of object ids that belong to the wearer.
WEARER_PARTS = ("arm_right", "arm_left", "hand_right", "hand_left")


@dataclass(frozen=True)
class ExoTake:
    """An exo clip with its geometry, at the moments that the generator works on.

    Attributes:
        clip: The exo clip.
        times_s: Seconds of the frames, ``[T]``.
        exo_TCHW: RGB uint8.
        depth_THW: z-depth of the exo camera in metres, float32, on the grid of the exo frames.
        exo_camera: Camera of exactly these frames.
        T_world_exo: ``[4, 4]`` where the camera stands still, else ``[T, 4, 4]``.
        ego_camera: The wearer's camera, upright, at the size of the recording.
        T_world_ego: ``[T, 4, 4]``.
        truth_TCHW: The recorded ego frames, if there are any.
        depth_scale: Factor that makes the depth fit the poses, where it is known.
        up_world: Direction against gravity, where it is known; helps to find an unknown depth scale.
        wearer_THW: Where the recorded ego frames show the wearer's hands and arms, if that is known.
    """

    clip: Clip
    times_s: np.ndarray
    exo_TCHW: np.ndarray
    depth_THW: np.ndarray
    exo_camera: Camera
    T_world_exo: torch.Tensor
    ego_camera: Camera
    T_world_ego: torch.Tensor
    truth_TCHW: np.ndarray | None
    depth_scale: float | None = None
    up_world: tuple[float, float, float] | None = None
    wearer_THW: np.ndarray | None = None


def frame_times(clip: Clip, video: Video, *, num_frames: int) -> np.ndarray:
    """Returns the start times of ``num_frames`` frames spread over a clip; poses and depth belong to frame starts."""
    first, last = round(clip.start_s * video.fps), round(clip.end_s * video.fps)
    indices = first + np.floor(np.arange(num_frames) * max(1, last - first) / num_frames)
    return np.minimum(indices, video.num_frames - 1) / float(video.fps)


def ego_video(store: ClipStore, take_id: str) -> Video | None:
    """Returns the recorded ego video of a take; None where there is none."""
    return next((v for v in store.videos.values() if v.take_id == take_id and v.view == "ego"), None)


def load_take(store: ClipStore, clip: Clip, *, num_frames: int) -> ExoTake:
    """Reads an exo clip with its depth, cameras and the trajectory of the ego camera of the same take.

    Args:
        store: The store.
        clip: An exo clip.
        num_frames: Frames to read, spread evenly over the clip.

    Raises:
        UserError: If the clip has no depth, no calibration, or nobody's ego camera is known in its take.
    """
    video = store.videos[clip.video_id]
    if Modality.DEPTH not in clip.present:
        raise UserError(
            f"The exo clip {clip.clip_id!r} has no depth, so its ego prior cannot be rendered",
            fix=f"egoloom modalities depth --store {store.path}, or ingest a source with depth maps",
        )
    ego = ego_video(store, video.take_id)
    ego_calibration = ego.calibration_id if ego else clip.extra.get("ego_calibration", "")
    if not video.calibration_id or not ego_calibration:
        raise UserError(
            f"The exo clip {clip.clip_id!r} lacks {'its own' if not video.calibration_id else 'an ego'} camera",
            fix="give calibration and ego trajectory when ingesting (egoloom ingest egox --help)",
        )
    times_s = frame_times(clip, video, num_frames=num_frames)
    exo = PosedCamera.from_dict(store.load_calibration(video.calibration_id))
    wearer = PosedCamera.from_dict(store.load_calibration(ego_calibration))
    return ExoTake(
        clip,
        times_s,
        _frames(store, video, times_s),
        _depth(store, video, times_s),
        exo.camera,
        exo.trajectory.T_world_camera[0] if len(exo.trajectory) == 1 else _poses(exo, times_s),
        wearer.camera,
        _poses(wearer, times_s),
        None if ego is None else _frames(store, ego, times_s),
    )


def wearer_mask(store: ClipStore, take: ExoTake, *, view: Literal["ego", "exo"] = "ego") -> np.ndarray | None:
    """Returns where the ego or exo frames of a take show the wearer's hands and arms, bool ``[T, H, W]``.

    None where the store has no object ids of that view (simulated stores have them).
    """
    video = store.videos[take.clip.video_id] if view == "exo" else ego_video(store, take.clip.take_id)
    if video is None or not store.media_path(Modality.IDS, video.video_id).is_file():
        return None
    names = store.load_calibration(video.calibration_id)["instances"]
    arrays = read_arrays(store.media_path(Modality.IDS, video.video_id))
    shown = np.searchsorted(arrays["times_s"], take.times_s + 1e-4, side="right") - 1
    ids = arrays["ids"][np.clip(shown, 0, len(arrays["ids"]) - 1)]
    return np.isin(ids, [names.index(name) for name in WEARER_PARTS if name in names])


def _frames(store: ClipStore, video: Video, times_s: np.ndarray) -> np.ndarray:
    with VideoReader(store.media_path(Modality.RGB, video.video_id)) as reader:
        return reader.frames_at(times_s)


def _depth(store: ClipStore, video: Video, times_s: np.ndarray) -> np.ndarray:
    arrays = read_arrays(store.media_path(Modality.DEPTH, video.video_id))
    shown = np.searchsorted(arrays["times_s"], times_s + 1e-4, side="right") - 1
    depth = arrays["depth_m"][np.clip(shown, 0, len(arrays["depth_m"]) - 1)].astype(np.float32)
    if depth.shape[1:] != (video.height, video.width):
        raise UserError(
            f"Depth of {video.video_id!r} is {depth.shape[2]} x {depth.shape[1]} px, its video {video.width} x "
            f"{video.height} px",
            fix="ingest the source again; the store keeps depth on the grid of the video",
        )
    return depth


def _poses(camera: PosedCamera, times_s: np.ndarray) -> torch.Tensor:
    return camera.trajectory.at(torch.from_numpy(times_s), tolerance_s=0.25)
