"""What the files of an EgoX take hold: videos, depth maps, and how the video lies in their grid.

A reader that guesses sizes is how priors get misplaced, so the window of the depth grid that the video shows is stated
by :attr:`EgoXRecording.exo_window` with its reason in :attr:`EgoXRecording.notes`.
"""

from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from egoloom.clips.media import VideoReader
from egoloom.errors import UserError
from egoloom.ingest.egox_arrays import is_trajectory, read_depth, resize_nearest
from egoloom.ingest.egox_calibration import EgoXCalibration
from egoloom.ingest.egox_entry import matrix_of

ExoFit = Literal["layout", "same", "centre_crop", "resize"]


@dataclass(frozen=True)
class Window:
    """The part of the depth grid that the exo video shows, and the size it was resized to."""

    x0: int
    y0: int
    width: int
    height: int


@dataclass(eq=False)
class EgoXRecording:
    """The recorded part of a take; frames and depth are read when asked for.

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

    # The grid of the depth maps ---------------------------------------------------------------------------

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
