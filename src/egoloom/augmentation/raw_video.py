"""A raw third-person video becomes a take: person found, head pose estimated, depth given or from a network.

For surveillance or drone footage and anything else that comes without a data set around it. What is not known is stated
by the caller (field of view, depth, a moving camera's trajectory) and never invented.

Shape letters: T time, C colours, H, W rows and columns of the video.
"""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage
from torch import Tensor

from egoloom.augmentation.takes import ExoTake
from egoloom.cameras import Camera, Pinhole, PosedCamera
from egoloom.clips import Clip
from egoloom.clips.media import VideoReader, read_arrays
from egoloom.errors import UserError
from egoloom.exo2ego.prior import fuse_background
from egoloom.exo2ego.prior.ego_pose import estimate_ego_poses
from egoloom.exo2ego.prior.user_files import read_ego_poses, read_keypoints, read_person_mask
from egoloom.modalities.depth_networks import network_depth_m

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".webm", ".avi")
# A second moving body of this share of the first, and this tall, is taken for a second person.
SECOND_BODY_SHARE, SECOND_BODY_HEIGHT = 0.35, 0.25
MAX_ABSENCE_S = 1.0  # over a longer one a head pose would be invented


class RawVideoConfig(BaseModel):
    """What is known about a raw exo video.

    Attributes:
        depth: An ``.npz`` with ``depth_m [T, H, W]`` and ``times_s [T]``, or a folder of a depth network.
        depth_range_m: Nearest and farthest distance in the scene; needed where the network gives relative depth.
        fov_deg: Horizontal field of view of the exo camera, where there is no calibration.
        calibration: JSON of the exo camera with its pose or trajectory (a clip store's calibration file).
        keypoints: JSON with pixels of head and hands, see ``egoloom ego-prior --help``.
        person_mask: An ``.npz`` with ``mask [T, H, W]`` of the wearer; found by what moves if absent.
        ego_poses: JSON with placed poses of the wearer's camera, which are then not estimated (and the person need not
            be seen), as the pose editor of ``egoloom ego-prior`` writes it.
        ego_fov_deg: Field of view of the wearer's camera to be shown.
        max_size_px: Larger videos are scaled down to this height.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    depth: Path | None = None
    depth_range_m: tuple[float, float] | None = None
    fov_deg: float = Field(default=60.0, gt=5, lt=170)
    calibration: Path | None = None
    keypoints: Path | None = None
    person_mask: Path | None = None
    ego_poses: Path | None = None
    ego_fov_deg: float = Field(default=80.0, gt=20, lt=150)
    max_size_px: int = Field(default=256, ge=32)


def is_video(path: Path) -> bool:
    """Whether a path is a video file by its name."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def take_from_video(path: Path, config: RawVideoConfig, *, num_frames: int, size_px: int = 64) -> ExoTake:
    """Returns a take with estimated ego poses from a raw third-person video.

    Args:
        path: The video.
        config: What is known about it.
        num_frames: Frames read, spread over its length.
        size_px: Side of the ego camera's frames.

    Raises:
        UserError: If there is no depth, nobody (or more than one person) is in view, the person leaves it, or a file
            does not fit.
    """
    _check_known(path, config)
    with VideoReader(path) as reader:
        times_s = np.arange(num_frames) * reader.duration_s / num_frames
        frames = _scale_down(reader.frames_at(times_s), config.max_size_px)
        duration_s, fps = reader.duration_s, num_frames / reader.duration_s
    height, width = frames.shape[2:]
    depth = read_depth(frames, times_s, config)
    camera, T_world_exo = _exo_camera(config, (width, height), times_s)
    T_world_ego, depth_scale = _ego_poses(frames, depth, times_s, camera, T_world_exo, config, fps)
    focal_px = 0.5 * size_px / math.tan(math.radians(config.ego_fov_deg) / 2)
    centre_px = (size_px - 1) / 2
    ego = Pinhole(torch.tensor([focal_px, focal_px, centre_px, centre_px], dtype=torch.float64), (size_px, size_px))
    name = path.stem
    clip = Clip(name, name, "", "exo", name, 0.0, duration_s, "test")
    return ExoTake(clip, times_s, frames, depth, camera, T_world_exo, ego, T_world_ego, None, depth_scale=depth_scale)


def _ego_poses(
    frames_TCHW: np.ndarray,
    depth_THW: np.ndarray,
    times_s: np.ndarray,
    camera: Camera,
    T_world_exo: Tensor,
    config: RawVideoConfig,
    fps: float,
) -> tuple[Tensor, float]:
    """Poses ``[T, 4, 4]``, placed or estimated, and the factor on depth that fits them."""
    if config.ego_poses is not None:
        placed = read_ego_poses(config.ego_poses, times_s)
        return placed.T_world_ego_T, placed.depth_scale or 1.0
    person = _person(frames_TCHW, depth_THW, config, is_moving=T_world_exo.ndim == 3)
    refuse_two_people(person)
    estimate = estimate_ego_poses(
        depth_THW,
        person,
        camera,
        T_world_exo,
        # Without a calibration the world is the exo camera, held upright; with one, worlds are z up.
        up_world=(0.0, -1.0, 0.0) if config.calibration is None else (0.0, 0.0, 1.0),
        fps=fps,
        keypoints=_keypoints(config, len(frames_TCHW)),
    )
    refuse_absence(estimate.head_found_T, times_s, len(times_s) / fps)
    # The head was found in this very depth, so the picture does not depend on its scale.
    return estimate.T_world_ego_T, 1.0


def _check_known(path: Path, config: RawVideoConfig) -> None:
    if not path.is_file():
        raise UserError(f"There is no video {path}")
    if config.depth is None:
        raise UserError(
            f"{path} has no depth, so nothing says where its pixels lie in the room",
            allowed="--depth with a folder of a depth network (transformers weights, e.g. Depth Anything V2 Metric), "
            "or an .npz with depth_m [T, H, W] and times_s [T]",
            fix=f"egoloom exo2ego generate {path} --depth NETWORK_FOLDER",
        )


def _scale_down(frames_TCHW: np.ndarray, max_px: int) -> np.ndarray:
    height, width = frames_TCHW.shape[2:]
    if height <= max_px:
        return frames_TCHW
    size = (max_px, max(1, round(width * max_px / height)))
    small = torch.nn.functional.interpolate(torch.from_numpy(frames_TCHW).float(), size=size, mode="area")
    return small.round().to(torch.uint8).numpy()


def read_depth(frames_TCHW: np.ndarray, times_s: np.ndarray, config: RawVideoConfig) -> np.ndarray:
    """Returns depth in metres, float32 ``[T, H, W]`` on the grid of the frames; 0 is unknown."""
    assert config.depth is not None
    if config.depth.is_dir():
        return network_depth_m(config.depth, frames_TCHW, config.depth_range_m)
    arrays = read_arrays(config.depth)
    if not {"depth_m", "times_s"} <= set(arrays) or len(arrays["depth_m"]) != len(arrays["times_s"]):
        raise UserError(f"{config.depth} holds {sorted(arrays)}", allowed="depth_m [T, H, W] and times_s [T]")
    shown = np.searchsorted(arrays["times_s"], times_s + 1e-4, side="right") - 1
    depth = arrays["depth_m"][np.clip(shown, 0, None)].astype(np.float32)
    grid = torch.from_numpy(np.nan_to_num(depth, posinf=0, neginf=0))[:, None]
    return torch.nn.functional.interpolate(grid, size=frames_TCHW.shape[2:], mode="nearest-exact")[:, 0].numpy()


def _exo_camera(config: RawVideoConfig, size: tuple[int, int], times_s: np.ndarray) -> tuple[Camera, Tensor]:
    """The camera of the frames and its pose ``[4, 4]``, or ``[T, 4, 4]`` where it moves."""
    width, height = size
    if config.calibration is None:
        focal_px = 0.5 * width / math.tan(math.radians(config.fov_deg) / 2)
        params = torch.tensor([focal_px, focal_px, (width - 1) / 2, (height - 1) / 2], dtype=torch.float64)
        return Pinhole(params, size), torch.eye(4, dtype=torch.float64)
    try:
        posed = PosedCamera.from_dict(json.loads(config.calibration.read_text()))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{config.calibration} holds no calibration: {error!r}") from error
    camera = posed.camera.resize(width, height)
    if len(posed.trajectory) == 1:
        return camera, posed.trajectory.T_world_camera[0]
    return camera, posed.trajectory.at(torch.from_numpy(times_s), tolerance_s=0.25)


def _keypoints(config: RawVideoConfig, num_frames: int) -> dict[str, np.ndarray] | None:
    if config.keypoints is None:
        return None
    keypoints = read_keypoints(config.keypoints)
    for name, values in keypoints.items():
        if len(values) != num_frames:
            raise UserError(
                f"{config.keypoints}: {name} has {len(values)} entries", allowed=f"{num_frames}, one for each frame"
            )
    return keypoints


def _person(frames_TCHW: np.ndarray, depth_THW: np.ndarray, config: RawVideoConfig, *, is_moving: bool) -> np.ndarray:
    if config.person_mask is not None:
        height, width = frames_TCHW.shape[2:]
        return read_person_mask(config.person_mask, len(frames_TCHW), (width, height))
    if is_moving:
        raise UserError(
            "A moving camera sees everything move, so the person cannot be told from the room",
            fix="--person-mask FILE.npz with mask [T, H, W], or --keypoints FILE.json with a mask",
        )
    return fuse_background(frames_TCHW, depth_THW).is_dynamic_THW


def refuse_absence(head_found_T: np.ndarray, times_s: np.ndarray, duration_s: float) -> None:
    """Raises a UserError where the head is out of view longer than a head pose can be bridged.

    Args:
        head_found_T: Whether the head is seen in each frame.
        times_s: Seconds of the frames.
        duration_s: Length of the video.
    """
    seen_s = [0.0, *times_s[head_found_T], duration_s]
    start_s, end_s = max(itertools.pairwise(seen_s), key=lambda span: span[1] - span[0])
    if end_s - start_s > MAX_ABSENCE_S:
        raise UserError(
            f"Nobody's head is in view from {start_s:.1f} to {end_s:.1f} s",
            allowed=f"{MAX_ABSENCE_S:g} s without it at most; longer, its pose would be invented",
            fix="cut the video to the seconds with the person in view (ffmpeg -ss START -to END -i IN OUT), or show "
            "the person with --person-mask",
        )


def refuse_two_people(person_THW: np.ndarray) -> None:
    """Raises a UserError where a second body, nearly as large as the first, is in most frames that show anybody.

    Args:
        person_THW: Pixels of whoever moves.
    """
    height = person_THW.shape[1]
    num_seen = num_double = 0
    for mask in person_THW:
        labels, count = ndimage.label(ndimage.binary_closing(mask, iterations=2))  # type: ignore[misc]
        if not count:
            continue
        num_seen += 1
        sizes = ndimage.sum_labels(mask, labels, np.arange(1, count + 1))
        boxes = ndimage.find_objects(labels)
        large = [
            index
            for index in range(count)
            if sizes[index] >= SECOND_BODY_SHARE * max(sizes)
            and boxes[index][0].stop - boxes[index][0].start >= SECOND_BODY_HEIGHT * height
        ]
        num_double += len(large) > 1
    if num_double > 0.5 * num_seen:
        raise UserError(
            f"Two people move in {num_double} of {num_seen} frames, and nothing says whose view is meant",
            fix="--person-mask FILE.npz with mask [T, H, W] of one of them",
        )
