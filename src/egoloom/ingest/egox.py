"""Takes in the EgoX layout: ``meta.json``, ``videos/<take>/*.mp4``, ``depth_maps/<take>/NNNNN.npy``.

The layout's conventions: extrinsics are world-to-camera 3x4 with OpenCV axes; ego axes are those of the un-rotated
Aria sensor while the ego video is upright (turned 90 degrees clockwise); depth i, exo frame i and pose i belong
together. A reader that guesses sizes is how priors get misplaced, so the window of the depth grid that the video
shows is stated by :attr:`EgoXTake.exo_window` with its reason in :attr:`EgoXTake.notes`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from egoloom.cameras import Camera, KannalaBrandt, Pinhole, Trajectory, as_pose, rigid, world_to_camera
from egoloom.cameras.undistorted import raw_focal_from_undistorted
from egoloom.clips.media import VideoReader
from egoloom.errors import UserError
from egoloom.ingest.documents import read_json
from egoloom.ingest.egox_arrays import camera_to_world, is_trajectory, read_depth, resize_nearest
from egoloom.ingest.egox_calibration import EgoXCalibration, find_calibration, read_calibration
from egoloom.ingest.egox_entry import checked_entries, matrix_of

MAX_POSE_GAP_S = 1.0
ExoFit = Literal["layout", "same", "centre_crop", "resize"]


@dataclass(frozen=True)
class Window:
    """The part of the depth grid that the exo video shows, and the size it was resized to."""

    x0: int
    y0: int
    width: int
    height: int


@dataclass(eq=False)
class EgoXTake:
    """One take; frames, depth and cameras are read when asked for.

    Args:
        name: Name of the take.
        folder: Folder of ``meta.json``; all paths are relative to it or absolute.
        entry: The take's entry in ``meta.json``.
        calibration: Lens calibration, or None (then only in-the-wild exo cameras are known).
        exo_fit: How the video lies in the depth grid where their sizes differ: "layout" (centre crop if the heights
            agree and the grid has the shape of the full frame, else refused), "same", "centre_crop", "resize".
        pose_fps: Rate of the poses where it is not the video's.
    """

    name: str
    folder: Path
    entry: dict[str, Any]
    calibration: EgoXCalibration | None = None
    exo_fit: ExoFit = "layout"
    pose_fps: float | None = None
    notes: list[str] = field(default_factory=list)

    # Files ------------------------------------------------------------------------------------------------

    def _path(self, key: str) -> Path | None:
        value = self.entry.get(key)
        if not value:
            return None
        path = Path(value)
        if path.is_absolute():
            return path
        # The published files say "./example/<set>/..." relative to the repository, two levels above meta.json.
        candidates = [self.folder / path, *(parent / path for parent in self.folder.resolve().parents[:2])]
        if path.parts[:1] == ("example",):  # a set that lies elsewhere
            candidates.append(self.folder.joinpath(*path.parts[2:]))
        return next((candidate for candidate in candidates if candidate.exists()), candidates[0])

    @property
    def exo_path(self) -> Path:
        """The exo video."""
        path = self._path("exo_path")
        if path is None:
            raise UserError(f"Take {self.name!r} names no exo_path in {self.folder / 'meta.json'}.")
        return path

    @property
    def ego_gt_path(self) -> Path | None:
        """The real ego video, if there is one."""
        return self._path("ego_gt_path")

    @property
    def ego_prior_path(self) -> Path | None:
        """The shipped ego prior, if there is one."""
        return self._path("ego_prior_path")

    @cached_property
    def depth_paths(self) -> list[Path]:
        """Depth maps in frame order, the longest run without a gap from the first."""
        folder = self._path("depth_dir") or self.folder / "depth_maps" / self.name
        if not folder.is_dir():
            raise UserError(f"Take {self.name!r} has no depth maps at {folder}.", fix="put NNNNN.npy files there")
        found = {int(path.stem): path for path in folder.glob("*.npy") if path.stem.isdigit()}
        if not found:
            raise UserError(f"{folder} holds no depth maps.", allowed="files named NNNNN.npy")
        start = min(found)
        if start != 0:
            raise UserError(f"The first depth map in {folder} is number {start}.", allowed="00000.npy for frame 0")
        run = next(n for n in range(len(found) + 1) if n not in found)
        if run < len(found):
            self.notes.append(f"depth map {run:05d} is missing: only frames before it are used")
        return [found[number] for number in range(run)]

    # Frames -----------------------------------------------------------------------------------------------

    @cached_property
    def _exo_video(self) -> tuple[Fraction, np.ndarray]:
        with VideoReader(self.exo_path) as reader:
            return reader.fps, reader.all_frames()

    @property
    def fps(self) -> Fraction:
        """Frames a second of the exo video."""
        return self._exo_video[0]

    @cached_property
    def num_frames(self) -> int:
        """Frames for which video, depth and poses all exist."""
        num_video, num_depth = len(self._exo_video[1]), len(self.depth_paths)
        counts = {"video frames": num_video, "depth maps": num_depth}
        for owner, key in (("ego", "ego_extrinsics"), ("exo", "camera_extrinsics")):
            raw = self.entry.get(key)
            if not isinstance(raw, list) or not raw or (owner == "exo" and not is_trajectory(raw)):
                continue
            if self.pose_fps is None:
                counts[f"{owner} poses"] = len(raw)
            else:
                covered_s = (len(raw) - 1) / self.pose_fps
                counts[f"video frames covered by {owner} poses"] = int(covered_s * float(self.fps) + 1e-6) + 1
        num_frames = min(counts.values())
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{count} {what}" for what, count in counts.items())
            self.notes.append(f"{listed}: the first {num_frames} frames are used")
        return num_frames

    @property
    def times_s(self) -> np.ndarray:
        """Time of every used frame, ``[T]``."""
        return np.arange(self.num_frames) / float(self.fps)

    def exo_frames(self) -> np.ndarray:
        """Exo video, uint8 ``[T, 3, H, W]``."""
        return self._exo_video[1][: self.num_frames]

    def ego_gt_frames(self) -> np.ndarray:
        """Real ego video, uint8 ``[T, 3, H, W]``."""
        return self._video("ego_gt_path", self.ego_gt_path)

    def ego_prior_frames(self) -> np.ndarray:
        """Shipped ego prior, uint8 ``[T, 3, H, W]``."""
        return self._video("ego_prior_path", self.ego_prior_path)

    def _video(self, key: str, path: Path | None) -> np.ndarray:
        if path is None:
            raise UserError(f"Take {self.name!r} has no {key}.")
        with VideoReader(path) as reader:
            return reader.all_frames()[: self.num_frames]

    @cached_property
    def depth_grid_size(self) -> tuple[int, int]:
        """Width and height of the depth maps."""
        shape = read_depth(self.depth_paths[0]).shape
        return shape[1], shape[0]

    def depth(self, *, full_grid: bool = False) -> np.ndarray:
        """Metric z-depth, float32 ``[T, H, W]``, aligned with the exo frames (or on its full grid)."""
        maps = [read_depth(path) for path in self.depth_paths[: self.num_frames]]
        shapes = {one.shape for one in maps}
        if len(shapes) > 1:
            raise UserError(f"The depth maps of take {self.name!r} have several sizes: {sorted(shapes)}")
        stacked = np.stack(maps)
        if full_grid:
            return stacked
        window = self.exo_window
        stacked = stacked[:, window.y0 : window.y0 + window.height, window.x0 : window.x0 + window.width]
        if (window.width, window.height) == self.exo_size:
            return stacked
        return resize_nearest(stacked, self.exo_size)

    # Cameras ----------------------------------------------------------------------------------------------

    @property
    def exo_size(self) -> tuple[int, int]:
        """Width and height of the exo video."""
        height, width = self._exo_video[1].shape[2:]
        return width, height

    @cached_property
    def exo_window(self) -> Window:
        """The part of the depth grid that the exo video shows; never guessed, see ``exo_fit``.

        Raises:
            UserError: If the sizes differ and nothing states how they relate.
        """
        (width, height), (grid_width, grid_height) = self.exo_size, self.depth_grid_size
        stated = self.entry.get("exo_crop") or (self.calibration.exo_crop if self.calibration else None)
        if stated:
            self.notes.append(f"exo video = window {tuple(stated)} of the depth grid, as stated")
            return Window(*stated)
        if (width, height) == (grid_width, grid_height):
            return Window(0, 0, width, height)
        if self.exo_fit == "resize":
            self.notes.append(f"exo video = the whole {grid_width}x{grid_height} depth grid, resized, as stated")
            return Window(0, 0, grid_width, grid_height)
        x0, y0 = (grid_width - width) // 2, (grid_height - height) // 2
        if self.exo_fit == "centre_crop" and x0 >= 0 and y0 >= 0:
            self.notes.append(f"exo video = centre crop of the {grid_width}x{grid_height} depth grid, as stated")
            return Window(x0, y0, width, height)
        if self.exo_fit == "layout" and height == grid_height and x0 > 0 and self._grid_is_full_frame():
            self.notes.append(
                f"exo video = columns {x0}..{x0 + width - 1} of the {grid_width} px wide depth grid (the layout's rule)"
            )
            return Window(x0, y0, width, height)
        raise UserError(
            f"Take {self.name!r}: the exo video is {width}x{height}, its depth maps are {grid_width}x{grid_height}.",
            allowed="a stated relation: same, centre_crop or resize, or exo_crop in meta.json",
            fix="--exo-fit centre_crop or --exo-fit resize",
        )

    def _grid_is_full_frame(self) -> bool:
        """Whether the depth grid has the shape of the frame that the intrinsics describe."""
        full_width, full_height = self._intrinsics_size()
        grid_width, grid_height = self.depth_grid_size
        return abs(full_width * grid_height / full_height - grid_width) < 1.0

    def _matrix(self, key: str, *shapes: tuple[int, int]) -> np.ndarray:
        return matrix_of(self.entry, key, set(shapes), f"{self.folder / 'meta.json'}: take {self.name!r}")

    @property
    def _intrinsics(self) -> np.ndarray:
        K = self._matrix("camera_intrinsics", (3, 3))
        if min(K[0, 0], K[1, 1], K[0, 2], K[1, 2]) < 1:
            raise UserError(
                f"{self.folder / 'meta.json'}: take {self.name!r}: camera_intrinsics is {K.tolist()!r:.80}",
                allowed="[[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels",
            )
        return K

    def _intrinsics_size(self) -> tuple[int, int]:
        K = self._intrinsics
        return round(2 * K[0, 2]), round(2 * K[1, 2])

    def pinhole_on_grid(self) -> Pinhole:
        """The camera of ``meta.json`` on the depth grid (right for in-the-wild takes only)."""
        K = torch.from_numpy(self._intrinsics)
        return Pinhole.from_matrix(K, self._intrinsics_size()).resize(*self.depth_grid_size)

    @cached_property
    def exo_camera(self) -> Camera:
        """The camera of the exo video's frames as they are (raw fisheye for Ego-Exo4D takes)."""
        window = self.exo_window
        return self._camera_on_grid().crop(window.x0, window.y0, window.width, window.height).resize(*self.exo_size)

    def _camera_on_grid(self) -> Camera:
        size = self._intrinsics_size()
        if self.calibration and self.calibration.exo is not None:
            return self.calibration.exo.resize(*self.depth_grid_size)
        if size in {self.exo_size, self.depth_grid_size}:
            return self.pinhole_on_grid()
        if self.calibration is None or self.calibration.exo_distortion is None:
            raise UserError(
                f"The intrinsics of take {self.name!r} are those of undistorted {size[0]}x{size[1]} frames, but the "
                "video is raw fisheye, and no calibration of the exo lens was found.",
                fix=f"put calibration.json beside or above {self.folder}, or give --calibration FILE",
            )
        D = np.array(self.calibration.exo_distortion)
        K = self._intrinsics
        raw_f = raw_focal_from_undistorted(float(K[0, 0]), D, size)
        self.notes.append(f"exo focal length {K[0, 0]:.1f} px (undistorted) -> {raw_f:.1f} px (raw fisheye)")
        params = torch.tensor([raw_f, raw_f, K[0, 2], K[1, 2], *D], dtype=torch.float64)
        return KannalaBrandt(params, size).resize(*self.depth_grid_size)

    @property
    def T_world_exo(self) -> torch.Tensor:
        """Exo pose ``[4, 4]``, or ``[T, 4, 4]`` at the used frames where ``camera_extrinsics`` lists many poses."""
        raw = self.entry.get("camera_extrinsics") or []
        if is_trajectory(raw):
            return self._trajectory(raw, "exo").at(self.times_s)
        return as_pose(world_to_camera(torch.from_numpy(self._matrix("camera_extrinsics", (3, 4), (4, 4)))))

    @property
    def exo_trajectory(self) -> Trajectory:
        """The exo camera's pose, or its poses at the used frames."""
        poses = self.T_world_exo
        return Trajectory.fixed(poses) if poses.ndim == 2 else Trajectory(torch.as_tensor(self.times_s), poses)

    @property
    def is_exo_world(self) -> bool:
        """Whether the world is the exo camera's own frame, as in takes whose ego poses were placed by hand."""
        return bool(torch.allclose(self.T_world_exo, torch.eye(4, dtype=torch.float64), atol=1e-6))

    @property
    def up_world(self) -> tuple[float, float, float]:
        """Direction against gravity: z in the worlds of Ego-Exo4D; the exo camera held level where it is the world."""
        return (0.0, -1.0, 0.0) if self.is_exo_world else (0.0, 0.0, 1.0)

    @property
    def known_depth_scale(self) -> float | None:
        """The factor that makes the depth maps fit the poses, where that is known: 1, or None.

        Poses placed by hand in the exo camera's frame were placed in this very depth, and ``egoloom ego-prior`` writes
        depth maps that are scaled already.
        """
        is_scaled = bool(self.entry.get("egoloom", {}).get("depth_is_scaled"))
        return 1.0 if is_scaled or self.is_exo_world else None

    def ego_camera(self, image_size: tuple[int, int] = (448, 448)) -> Camera:
        """The camera of the upright ego video."""
        if self.calibration is None:
            raise UserError(
                f"No calibration of the ego lens was found for take {self.name!r}.",
                fix=f"put calibration.json beside or above {self.folder}, or give --calibration FILE",
            )
        return self.calibration.ego_camera(image_size)

    @cached_property
    def sensor_trajectory(self) -> Trajectory:
        """Poses of the un-rotated ego sensor; null poses are interpolated over at most a second."""
        raw = self.entry.get("ego_extrinsics")
        if not raw:
            raise UserError(f"Take {self.name!r} has no ego poses.", fix="egoloom ego-prior --estimate-pose")
        return self._trajectory(raw, "ego")

    def _trajectory(self, raw: Sequence[Any], owner: str) -> Trajectory:
        """Poses from a list of world-to-camera matrices in which some may be null."""
        num_null = sum(pose is None for pose in raw)
        if num_null:
            self.notes.append(f"{num_null} of {len(raw)} {owner} poses are null: interpolated")
        poses = [camera_to_world(pose) for pose in raw]
        rate = self.pose_fps or float(self.fps)
        return Trajectory.from_poses(np.arange(len(raw)) / rate, poses, max_gap_s=MAX_POSE_GAP_S)

    @property
    def ego_trajectory(self) -> Trajectory:
        """Poses of the upright ego camera at the used frames."""
        return Trajectory(torch.as_tensor(self.times_s), self.T_world_ego())

    def T_world_ego(self) -> torch.Tensor:
        """Poses ``[T, 4, 4]`` of the upright ego camera at the used frames."""
        R_upright_sensor = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
        T_sensor_upright = rigid(R_upright_sensor.T, torch.zeros(3, dtype=torch.float64))
        return self.sensor_trajectory.at(self.times_s) @ T_sensor_upright

    def __repr__(self) -> str:
        return f"EgoXTake({self.name!r}, folder={str(self.folder)!r})"


def read_takes(
    folder: Path | str,
    *,
    calibration: Path | str | None = None,
    exo_fit: ExoFit = "layout",
    pose_fps: float | None = None,
) -> list[EgoXTake]:
    """Reads the list of takes of a folder in the EgoX layout; nothing is decoded yet.

    Args:
        folder: A folder with ``meta.json``, or that file.
        calibration: A calibration file; without it, one is looked for beside and above the takes.
        exo_fit: See :class:`EgoXTake`.
        pose_fps: See :class:`EgoXTake`.

    Raises:
        UserError: If there is no ``meta.json``, or it is not in the EgoX layout.
    """
    folder = Path(folder)
    meta = folder if folder.is_file() else folder / "meta.json"
    if not meta.is_file():
        below = sorted(path.parent.name for path in folder.glob("*/meta.json")) if folder.is_dir() else []
        fix = f"one of {', '.join(str(folder / name) for name in below)}" if below else "give the folder of meta.json"
        raise UserError(f"There is no EgoX take at {folder}: no meta.json.", fix=fix)
    takes = []
    for number, entry in enumerate(checked_entries(read_json(meta), meta)):
        name = entry.get("take_name") or Path(entry.get("exo_path") or "").parent.name or f"take_{number}"
        path = Path(calibration) if calibration else find_calibration(meta.parent, name)
        lens = read_calibration(path) if path else None
        takes.append(EgoXTake(name, meta.parent, entry, lens, exo_fit, pose_fps))
    return takes


def find_take(takes: Sequence[EgoXTake], name: str | None) -> EgoXTake:
    """The take of that name; a unique beginning is enough, and no name where there is only one take."""
    names = ", ".join(take.name for take in takes)
    matching = [take for take in takes if name is None or take.name == name]
    matching = matching or [take for take in takes if name is not None and take.name.startswith(name)]
    if len(matching) != 1:
        said = "No take was named" if name is None else f"{len(matching)} takes match {name!r}"
        raise UserError(f"{said}.", allowed=names, fix="--take NAME")
    return matching[0]
