"""Where a point of one view lies in the other: the same moment, through depth and cameras, with visibility.

Shapes: N points, H rows, W columns.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from egoloom.augmentation.takes import ego_video
from egoloom.cameras import Camera, PosedCamera, Trajectory, transform_points
from egoloom.cameras.poses import invert
from egoloom.clips import Clip, ClipStore, Modality, Video
from egoloom.clips.media import read_arrays
from egoloom.errors import UserError

View = Literal["exo", "ego"]
DEPTH_TOLERANCE = 0.04  # share of the depth by which a visible point may miss the surface seen there
SPLAT_SHARE = 3 / 128  # of the ego frame: how far from a pixel without depth an exo point may lie that is taken for it
MIN_BOX_PX = 2.0


@dataclass(frozen=True)
class DepthTrack:
    """Depth maps of one view over time.

    Attributes:
        times_s: Seconds of the maps.
        depth_THW: z-depth in metres; 0 or not finite where unknown.
    """

    times_s: np.ndarray
    depth_THW: np.ndarray

    def at(self, time_s: float) -> np.ndarray:
        """Returns the map that is shown at a time, float64 ``[H, W]``."""
        index = np.searchsorted(self.times_s, time_s + 1e-4, side="right") - 1
        return self.depth_THW[np.clip(index, 0, len(self.times_s) - 1)].astype(np.float64)


@dataclass(frozen=True)
class CrossView:
    """Two cameras of one take, with depth of the exo view and, where known, of the ego view.

    Attributes:
        exo_camera: Camera of the exo frames.
        exo_poses: Its poses.
        ego_camera: Camera of the ego frames.
        ego_poses: Its poses.
        exo_depth: Depth of the exo view.
        ego_depth: Depth of the ego view; without it the exo points that fall near a pixel say what lies there.
    """

    exo_camera: Camera
    exo_poses: Trajectory
    ego_camera: Camera
    ego_poses: Trajectory
    exo_depth: DepthTrack
    ego_depth: DepthTrack | None = None
    _fronts: dict[float, Tensor] = field(default_factory=dict, repr=False)

    def points(self, pixels_N2: np.ndarray, time_s: float, *, source: View) -> tuple[np.ndarray, np.ndarray]:
        """Returns where pixels of one view lie in the other, and whether they are visible there.

        Args:
            pixels_N2: x, y in pixels of the source frame.
            time_s: The moment.
            source: Which view they belong to.

        Returns:
            Pixels ``[N, 2]`` (NaN where nothing is known of the point) and visibility ``[N]``.
        """
        pixels = torch.as_tensor(np.asarray(pixels_N2, dtype=np.float64).reshape(-1, 2))
        points = self._lift(pixels, time_s, source)
        return self._land(points, time_s, "ego" if source == "exo" else "exo")

    def boxes(self, boxes_N4: np.ndarray, time_s: float, *, source: View) -> tuple[np.ndarray, np.ndarray]:
        """Returns the boxes around what boxes of one view hold, as the other view sees it, and whether it does.

        Of a box the pixels near the median depth of its middle count, which leaves out what stands behind; the result
        spans the 5th to 95th percentile of the visible ones.

        Args:
            boxes_N4: x1, y1, x2, y2 in pixels of the source frame.
            time_s: The moment.
            source: Which view they belong to.
        """
        found = np.full((len(boxes_N4), 4), np.nan)
        visible = np.zeros(len(boxes_N4), bool)
        for index, box in enumerate(np.asarray(boxes_N4, dtype=np.float64)):
            pixels = _grid_inside(box, self._camera(source).image_size)
            points = self._lift(torch.from_numpy(pixels), time_s, source)
            near = _near_the_middle(points, pixels, box, self._pose(source, time_s))
            landed, is_seen = self._land(points[near], time_s, "ego" if source == "exo" else "exo")
            if is_seen.sum() < 3 or is_seen.mean() < 0.1:
                continue
            low, high = np.percentile(landed[is_seen], [5, 95], axis=0)
            found[index] = [*low, *high]
            visible[index] = bool((high - low >= MIN_BOX_PX).all())
        return found, visible

    def _camera(self, view: View) -> Camera:
        return self.exo_camera if view == "exo" else self.ego_camera

    def _pose(self, view: View, time_s: float) -> Tensor:
        poses = self.exo_poses if view == "exo" else self.ego_poses
        return poses.at(time_s, tolerance_s=0.25)

    def _lift(self, pixels_N2: Tensor, time_s: float, view: View) -> Tensor:
        """World points of pixels; NaN where the depth is unknown."""
        if view == "ego" and self.ego_depth is None:
            return self._nearest_exo_points(pixels_N2, time_s)
        track = self.exo_depth if view == "exo" else self.ego_depth
        assert track is not None
        camera = self._camera(view)
        depth_N = _sample(track.at(time_s), pixels_N2.numpy(), camera.image_size)
        rays, is_valid = camera.unproject(pixels_N2, unit=False)
        points = transform_points(self._pose(view, time_s), rays * depth_N[:, None])
        return torch.where((is_valid & (depth_N > 0))[:, None], points, torch.nan)

    def _exo_cloud(self, time_s: float) -> Tensor:
        width, height = self.exo_camera.image_size
        grid = torch.stack(torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy"), -1)
        points = self._lift(grid.reshape(-1, 2).double(), time_s, "exo")
        return points[torch.isfinite(points).all(-1)]

    def _nearest_exo_points(self, pixels_N2: Tensor, time_s: float) -> Tensor:
        """The exo point that the ego camera sees at each pixel: of those that fall near it, the frontmost."""
        cloud = self._exo_cloud(time_s)
        local = transform_points(invert(self._pose("ego", time_s)), cloud)
        landed, is_inside = self.ego_camera.project(local)
        reach_px = self._splat_px()
        cloud, landed, depth = cloud[is_inside], landed[is_inside], local[is_inside, 2]
        found = torch.full((len(pixels_N2), 3), torch.nan, dtype=torch.float64)
        for index, pixel in enumerate(pixels_N2):
            gaps = (landed - pixel).norm(dim=-1)
            near = gaps <= reach_px
            if near.any():
                front = near & (depth <= depth[near].min() * (1 + DEPTH_TOLERANCE))
                found[index] = cloud[front][gaps[front].argmin()]
        return found

    def _land(self, points_N3: Tensor, time_s: float, view: View) -> tuple[np.ndarray, np.ndarray]:
        """Pixels of world points in a view, and whether they are in the frame and nothing stands before them."""
        local = transform_points(invert(self._pose(view, time_s)), torch.nan_to_num(points_N3))
        pixels, is_inside = self._camera(view).project(local)
        is_known = torch.isfinite(points_N3).all(-1)
        pixels = torch.where(is_known[:, None], pixels, torch.nan)
        is_seen = is_known & is_inside
        if is_seen.any():
            surface = self._surface(pixels, time_s, view)
            is_seen &= local[:, 2] <= surface * (1 + DEPTH_TOLERANCE)
        return pixels.numpy(), is_seen.numpy()

    def _surface(self, pixels_N2: Tensor, time_s: float, view: View) -> Tensor:
        """Depth of what a view shows at pixels, infinite where nothing is known."""
        track = self.exo_depth if view == "exo" else self.ego_depth
        size = self._camera(view).image_size
        if track is not None:
            depth = _sample(track.at(time_s), pixels_N2.nan_to_num().numpy(), size)
            return torch.where(depth > 0, depth, torch.inf)
        return self._splatted(pixels_N2, time_s)

    def _splat_px(self) -> float:
        return SPLAT_SHARE * max(self.ego_camera.image_size)

    def _splatted(self, pixels_N2: Tensor, time_s: float) -> Tensor:
        """Depth of the exo points that fall into the cell of each ego pixel; a cell is about as wide as their gaps."""
        width, height = self.ego_camera.image_size
        cell_px = self._splat_px()
        columns = int(width / cell_px) + 1
        num_cells = columns * (int(height / cell_px) + 1)

        def cells(pixels: Tensor) -> Tensor:
            index = (pixels.nan_to_num().clamp(-1e6, 1e6) / cell_px).long()
            return (index[:, 1] * columns + index[:, 0]).clamp(0, num_cells - 1)

        if time_s not in self._fronts:
            local = transform_points(invert(self._pose("ego", time_s)), self._exo_cloud(time_s))
            landed, is_inside = self.ego_camera.project(local)
            front = torch.full((num_cells,), torch.inf, dtype=torch.float64)
            front.scatter_reduce_(0, cells(landed[is_inside]), local[is_inside, 2], "amin")
            self._fronts[time_s] = front
        # Twice the tolerance: a slanted surface changes its depth within a cell.
        return self._fronts[time_s][cells(pixels_N2)] * (1 + DEPTH_TOLERANCE)


def open_cross_view(store: ClipStore, clip: Clip, *, with_ego_depth: bool = True) -> CrossView:
    """Returns the two views of the take of an exo clip.

    Args:
        store: The store.
        clip: The exo clip.
        with_ego_depth: Use the depth of the ego view where the store has it.

    Raises:
        UserError: If depth or a camera is missing.
    """
    exo, ego = store.videos[clip.video_id], ego_video(store, clip.take_id)
    ego_calibration = ego.calibration_id if ego else clip.extra.get("ego_calibration", "")
    if Modality.DEPTH not in clip.present:
        raise UserError(f"The exo clip {clip.clip_id!r} has no depth", fix=f"ingest depth maps into {store.path}")
    if not exo.calibration_id or not ego_calibration:
        raise UserError(
            f"The take {clip.take_id!r} lacks {'the ego' if exo.calibration_id else 'the exo'} camera",
            fix="give calibration and ego trajectory when ingesting (egoloom ingest egox --help)",
        )
    exo_camera = PosedCamera.from_dict(store.load_calibration(exo.calibration_id))
    ego_camera = PosedCamera.from_dict(store.load_calibration(ego_calibration))
    return CrossView(
        exo_camera.camera,
        exo_camera.trajectory,
        ego_camera.camera,
        ego_camera.trajectory,
        _depth(store, exo),
        _ego_depth(store, ego) if with_ego_depth else None,
    )


def _ego_depth(store: ClipStore, ego: Video | None) -> DepthTrack | None:
    has_depth = ego is not None and store.media_path(Modality.DEPTH, ego.video_id).is_file()
    return _depth(store, ego) if has_depth and ego is not None else None


def _depth(store: ClipStore, video: Video) -> DepthTrack:
    arrays = read_arrays(store.media_path(Modality.DEPTH, video.video_id))
    return DepthTrack(arrays["times_s"], arrays["depth_m"])


def _sample(depth_HW: np.ndarray, pixels_N2: np.ndarray, image_size: tuple[int, int]) -> Tensor:
    """Depth at the nearest pixel of the map; 0 outside of the frame or where it is unknown."""
    height, width = depth_HW.shape
    scale = np.array([width / image_size[0], height / image_size[1]])
    nearest = np.round((pixels_N2 + 0.5) * scale - 0.5).clip(-1e6, 1e6).astype(int)
    is_inside = ((nearest >= 0) & (nearest < [width, height])).all(axis=1)
    column, row = nearest.clip(0, [width - 1, height - 1]).T
    values = np.where(is_inside, depth_HW[row, column], 0.0)
    return torch.from_numpy(np.where(np.isfinite(values) & (values > 0), values, 0.0))


def _grid_inside(box: np.ndarray, image_size: tuple[int, int], *, num_side: int = 16) -> np.ndarray:
    low = np.clip(box[:2], 0, np.array(image_size) - 1)
    high = np.clip(box[2:] - 1, low, np.array(image_size) - 1)
    columns, rows = (np.linspace(low[axis], high[axis], num_side) for axis in (0, 1))
    return np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)


def _near_the_middle(points_N3: Tensor, pixels_N2: np.ndarray, box: np.ndarray, T_world_camera: Tensor) -> Tensor:
    """Whether points are about as far away as the middle of their box."""
    depth = transform_points(invert(T_world_camera), points_N3)[:, 2]
    centre, quarter = (box[:2] + box[2:]) / 2, np.maximum((box[2:] - box[:2]) / 4, 1.0)
    is_middle = torch.from_numpy((np.abs(pixels_N2 - centre) <= quarter).all(axis=1)) & torch.isfinite(depth)
    if not is_middle.any():
        return torch.isfinite(depth)
    middle = depth[is_middle].median()
    return (depth - middle).abs() <= 0.15 * middle
