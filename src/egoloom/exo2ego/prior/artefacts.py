"""Writes an ego prior: videos of prior, holes and confidence, ``meta.json`` in the EgoX layout, a preview.

Layout below the folder: ``meta.json``, ``videos/<take>/{exo,ego_Prior,hole_mask,confidence,preview}.mp4``,
``depth_maps/<take>/NNNNN.npy`` (times the depth scale, so that depth and poses fit) and ``calibration/<take>.json``
(the right lenses). The public EgoX reads the folder as ``example/<folder>`` of its repository.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from egoloom.cameras import Camera, invert, transform_points
from egoloom.clips.files import atomic_path, write_text
from egoloom.clips.media import write_video
from egoloom.errors import UserError
from egoloom.exo2ego.prior.render import EgoPrior

HOLE_BELOW = 10  # readers of the layout take pixels below this value as holes
FRUSTUM_DEPTH_M = 0.5


@dataclass(frozen=True, eq=False)
class PriorSource:
    """What a prior was made from, for ``meta.json`` and the preview.

    Attributes:
        take: Name of the take.
        exo_path: The exo video.
        depth_paths: The depth maps, one a frame, before scaling.
        exo_frames_TCHW: uint8 RGB.
        exo_camera: Camera of these frames.
        T_world_exo: Pose ``[4, 4]`` or ``[T, 4, 4]``.
        ego_camera: Camera of the prior.
        T_world_ego_T: Poses of the upright ego camera.
        fps: Frames a second.
        entry: Keys of the take's own ``meta.json`` entry to carry over.
        depth_window: The part ``(x0, y0, width, height)`` of the depth maps that the exo video shows; None for all.
    """

    take: str
    exo_path: Path
    depth_paths: Sequence[Path]
    exo_frames_TCHW: np.ndarray
    exo_camera: Camera
    T_world_exo: Tensor
    ego_camera: Camera
    T_world_ego_T: Tensor
    fps: Fraction
    entry: dict[str, Any] = field(default_factory=dict)
    depth_window: tuple[int, int, int, int] | None = None


def write_prior(folder: Path, prior: EgoPrior, source: PriorSource, *, mode: str, notes: list[str]) -> Path:
    """Writes everything; other takes in the folder's ``meta.json`` are kept.

    Returns:
        The path of ``ego_Prior.mp4``.

    Raises:
        UserError: If the folder holds takes that are no ego priors of ours, or a file cannot be written.
    """
    others = _other_takes(folder, source.take)
    videos = folder / "videos" / source.take
    path = videos / "ego_Prior.mp4"
    fps = source.fps
    write_video(path, visible_frames(prior) if mode == "correct" else prior.frames_TCHW, fps, crf=12)
    write_video(videos / "hole_mask.mp4", _grey(prior.hole_mask_THW * np.uint8(255)), fps, crf=12)
    confidence = np.clip(prior.confidence_THW * 255 + 0.5, 0, 255).astype(np.uint8)
    write_video(videos / "confidence.mp4", _grey(confidence), fps, crf=18)
    write_video(videos / "preview.mp4", preview_frames(prior, source), fps)
    if not source.exo_path.exists():
        write_video(videos / "exo.mp4", source.exo_frames_TCHW, fps)
    elif source.exo_path.resolve() != (videos / "exo.mp4").resolve():
        with atomic_path(videos / "exo.mp4") as temporary:
            shutil.copyfile(source.exo_path, temporary)
    grid_size = _write_depth(folder / "depth_maps" / source.take, source.depth_paths, prior.depth_scale)
    if mode == "correct":
        calibration = _calibration(source, grid_size)
        write_text(folder / "calibration" / f"{source.take}.json", json.dumps(calibration, indent=1) + "\n")
    entry = _entry(prior, source, f"./example/{folder.resolve().name}", mode, notes)
    takes = sorted([*others, entry], key=lambda one: one["take_name"])
    write_text(folder / "meta.json", json.dumps({"test_datasets": takes}, indent=1) + "\n")
    return path


def _other_takes(folder: Path, take: str) -> list[dict[str, Any]]:
    """Entries of earlier priors in the folder; refuses to touch anything else that has a ``meta.json``."""
    path = folder / "meta.json"
    if not path.is_file():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["test_datasets"]
        is_ours = all("egoloom" in entry and "take_name" in entry for entry in entries)
    except (ValueError, KeyError, TypeError):
        is_ours = False
    if not is_ours:
        raise UserError(
            f"{folder} holds takes that egoloom ego-prior did not write; nothing was changed",
            fix="choose another --out",
        )
    return [entry for entry in entries if entry["take_name"] != take]


def visible_frames(prior: EgoPrior) -> np.ndarray:
    """Frames in which dark content stays above the value that marks holes (the brightest channel is lifted)."""
    frames = prior.frames_TCHW.copy()
    brightest = frames.max(1)
    # Compression moves values by a few steps, hence a margin.
    lift = np.clip(HOLE_BELOW + 4 - brightest.astype(np.int16), 0, None) * ~prior.hole_mask_THW
    return np.clip(frames + lift[:, None], 0, 255).astype(np.uint8)


def _grey(values_THW: np.ndarray) -> np.ndarray:
    return np.repeat(values_THW[:, None], 3, axis=1)


def _entry(prior: EgoPrior, source: PriorSource, root: str, mode: str, notes: list[str]) -> dict[str, Any]:
    """The take's entry: the layout's keys, then ours under ``egoloom``."""
    R_sensor_upright = torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    ego_w2c = invert(source.T_world_ego_T)[:, :3]
    ego_w2c = R_sensor_upright @ ego_w2c  # the layout's ego axes are those of the un-rotated sensor
    exo_w2c = invert(source.T_world_exo)[..., :3, :]
    kept = {key: source.entry[key] for key in ("prompt", "camera_intrinsics", "ego_intrinsics") if key in source.entry}
    videos = f"{root}/videos/{source.take}"
    return {
        "take_name": source.take,
        "exo_path": f"{videos}/exo.mp4",
        "ego_prior_path": f"{videos}/ego_Prior.mp4",
        **kept,
        "camera_extrinsics": exo_w2c.tolist(),
        "ego_extrinsics": ego_w2c.tolist(),
        "depth_dir": f"{root}/depth_maps/{source.take}",
        "depth_frames": list(range(len(prior.frames_TCHW))),
        "egoloom": {
            "mode": mode,
            "depth_scale": round(prior.depth_scale, 5),
            "depth_is_scaled": mode == "correct",
            "scale_confidence": round(prior.scale_confidence, 3),
            "scale": prior.scale.to_dict() if prior.scale else "given",
            "coverage": round(prior.coverage, 4),
            "hole_mask_path": f"{videos}/hole_mask.mp4",
            "confidence_path": f"{videos}/confidence.mp4",
            "dark_content": f"lifted to {HOLE_BELOW + 4} so that values below {HOLE_BELOW} are holes",
            "exo_camera": source.exo_camera.to_dict(),
            "ego_camera": source.ego_camera.to_dict(),
            "T_world_ego_upright": source.T_world_ego_T.tolist(),
            "notes": [*notes, *prior.notes],
        },
    }


def _write_depth(folder: Path, paths: Sequence[Path], scale: float) -> tuple[int, int] | None:
    """Writes scaled float32 depth maps; returns their width and height, or None where there are none."""
    if folder.is_symlink():  # never write through a link into somebody's recordings
        folder.unlink()
    size = None
    for number, path in enumerate(paths):
        depth_HW = np.load(path, allow_pickle=False).astype(np.float32) * np.float32(scale)
        with atomic_path(folder / f"{number:05d}.npy") as temporary, temporary.open("wb") as handle:
            np.save(handle, depth_HW)
        size = (depth_HW.shape[1], depth_HW.shape[0])
    return size


def _calibration(source: PriorSource, grid_size: tuple[int, int] | None) -> dict[str, Any]:
    """Both lenses in the form that readers of the layout look for; the exo lens covers the whole depth grid."""
    exo, crop = source.exo_camera, source.depth_window
    if crop is not None and grid_size is not None:
        x0, y0, width, height = crop
        exo = exo.resize(width, height).crop(-x0, -y0, *grid_size)
    lenses = {"exo": exo.to_dict(), "ego": source.ego_camera.to_dict()}
    return lenses if crop is None else {**lenses, "exo_crop": list(crop)}


# Preview ---------------------------------------------------------------------------------------------------


def preview_frames(prior: EgoPrior, source: PriorSource) -> np.ndarray:
    """Exo video with the ego frustum drawn in, beside the prior; uint8 ``[T, 3, H, W]`` with even sides."""
    height = 2 * (min(448, source.exo_frames_TCHW.shape[2]) // 2)
    out = []
    for index, frame in enumerate(source.exo_frames_TCHW):
        pose = source.T_world_exo if source.T_world_exo.ndim == 2 else source.T_world_exo[index]
        image = np.ascontiguousarray(frame.transpose(1, 2, 0))
        draw_frustum(image, source.exo_camera, pose, source.ego_camera, source.T_world_ego_T[index])
        width = 2 * round(image.shape[1] * height / image.shape[0] / 2)
        left = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        picture = np.ascontiguousarray(prior.frames_TCHW[index].transpose(1, 2, 0))
        side = 2 * round(picture.shape[1] * height / picture.shape[0] / 2)
        right = cv2.resize(picture, (side, height), interpolation=cv2.INTER_AREA)
        out.append(np.hstack([left, right]).transpose(2, 0, 1))
    return np.stack(out)


def draw_frustum(
    image_HW3: np.ndarray, exo_camera: Camera, T_world_exo: Tensor, ego_camera: Camera, T_world_ego: Tensor
) -> None:
    """Draws the pyramid of what the ego camera sees into an exo frame, in place; lines bend with the exo lens."""
    width, height = ego_camera.image_size
    centre = torch.tensor([(width - 1) / 2, (height - 1) / 2], dtype=torch.float64)
    # Corners of a fisheye frame may see nothing: take points at 70 % of the way to them.
    signs = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]], dtype=torch.float64)
    rays, _ = ego_camera.unproject(centre + 0.7 * signs * centre)
    corners = transform_points(T_world_ego, rays * FRUSTUM_DEPTH_M)
    eye = T_world_ego[:3, 3]
    lines = [(eye, corner) for corner in corners]
    lines += [(corners[index], corners[(index + 1) % 4]) for index in range(4)]
    top = 0.5 * (corners[0] + corners[1])
    share = torch.linspace(0, 1, 17, dtype=torch.float64)[:, None]
    for number, (start, end) in enumerate(lines):
        points = transform_points(invert(T_world_exo), start + share * (end - start))
        pixels, valid = exo_camera.project(points)
        colour = (255, 170, 0) if number == 4 else (0, 255, 255)  # the upper edge tells which way is up
        run = pixels[valid].round().int().numpy().reshape(-1, 1, 2)
        if len(run) > 1:
            cv2.polylines(image_HW3, [run], False, colour, 2 if number == 4 else 1, cv2.LINE_AA)
    pixels, valid = exo_camera.project(transform_points(invert(T_world_exo), torch.stack([eye, top])))
    if bool(valid[0]):
        cv2.circle(image_HW3, tuple(int(v) for v in pixels[0].round()), 3, (255, 0, 80), -1, cv2.LINE_AA)
