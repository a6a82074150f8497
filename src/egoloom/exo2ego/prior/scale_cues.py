"""The single cues of the depth scale: floor, head, known points, a first ego frame.

Each returns a :class:`Cue`, or a sentence that says why it has nothing to say. Shape letters: T time, H, W exo image.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

from egoloom.cameras import Camera, invert, rotate_vectors, transform_points

if TYPE_CHECKING:
    from egoloom.exo2ego.prior.scale import ScaleConfig

UP_FACING_DEG = 40.0
HEAD_BEHIND_CAMERA_M = 0.09
HEAD_RADIUS_M = 0.11
MIN_POINTS = 10
MIN_FLOOR_SHARE = 0.3
TABLE_SHARE = 0.7
PATH_REACH = 0.03  # of the image width


@dataclass(frozen=True)
class Cue:
    """One opinion about the scale."""

    name: str
    scale: float
    log_sigma: float
    count: int
    note: str = ""

    def to_dict(self) -> dict[str, object]:
        """For ``meta.json``."""
        return {
            "name": self.name,
            "scale": round(self.scale, 4),
            "log_sigma": round(self.log_sigma, 3),
            "count": self.count,
            "note": self.note,
        }


@dataclass(frozen=True, eq=False)
class CueInputs:
    """What all cues look at; poses are ``T_world_camera`` in float64.

    The static depth belongs to the first exo pose; ``T_world_exo`` is ``[4, 4]``, or ``[T, 4, 4]`` if the camera moves.
    """

    static_depth_HW: np.ndarray
    depth_THW: np.ndarray
    wearer_THW: np.ndarray | None
    exo_camera: Camera
    T_world_exo: Tensor
    T_world_ego_T: Tensor

    @property
    def T_world_exo_T(self) -> Tensor:
        """The exo pose of every frame ``[T, 4, 4]``."""
        return self.T_world_exo.expand(len(self.T_world_ego_T), 4, 4)

    def project_to_exo(self, points_world_N3: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pixels, z-depths and visibility of world points in the frame that the static depth belongs to."""
        return self._project(transform_points(invert(self.T_world_exo_T[0]), points_world_N3))

    def project_each(self, points_world_T3: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pixels, z-depths and visibility of one world point for every frame, each in its own exo frame."""
        return self._project(transform_points(invert(self.T_world_exo_T), points_world_T3[:, None])[:, 0])

    def _project(self, points_N3: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        pixels, valid = self.exo_camera.project(points_N3)
        return pixels.numpy(), points_N3[:, 2].numpy(), (valid & (points_N3[:, 2] > 0.05)).numpy()


# Floor -----------------------------------------------------------------------------------------------------


def floor_cue(inputs: CueInputs, up_world: tuple[float, float, float] | None, config: "ScaleConfig") -> Cue | str:
    """The exo camera's height over the floor, in metres against in depth.

    The floor's height in the world comes from the standing wearer's eye height (a prior about people) and, where the
    wearer's feet are seen, from the ray through them; its height in depth from up-facing pixels near the wearer's path.
    """
    if up_world is None:
        return "the up direction of the world is not known"
    up = torch.tensor(up_world, dtype=torch.float64)
    up = up / torch.linalg.vector_norm(up)
    eye_heights = (inputs.T_world_ego_T[:, :3, 3] @ up).numpy()
    floor, sigma_m, note = _floor_height(inputs, up, float(eye_heights.max()), config)
    camera_height_m = float(inputs.T_world_exo_T[0, :3, 3] @ up) - floor
    if camera_height_m < 0.2:
        return f"the exo camera stands {camera_height_m:.2f} m above the floor, too low to measure with"
    heights, pixels = _up_facing_heights(inputs, up)
    if len(heights) < 0.002 * inputs.static_depth_HW.size:
        return "no surface that faces up is seen"
    path = inputs.T_world_ego_T[:, :3, 3] - (torch.from_numpy(eye_heights) - floor)[:, None] * up
    near, share = _near_path(inputs, pixels, path)
    below_wearer = heights[near]
    lowest = heights[_lowest_mode(heights)]
    doubt = 0.0
    if share < MIN_FLOOR_SHARE or np.median(below_wearer) < TABLE_SHARE * np.median(lowest):
        # Where the wearer stands no floor is seen: take the lowest level there is, which may still be a table top.
        below_wearer, doubt, note = lowest, 0.35, f"{note}; the floor below the wearer is not seen"
    low, height_depth, high = (float(value) for value in np.quantile(below_wearer, [0.16, 0.5, 0.84]))
    spread = max(0.04, 0.5 * (high - low) / height_depth)
    log_sigma = float(np.sqrt(spread**2 + (sigma_m / camera_height_m) ** 2 + doubt**2))
    return Cue("floor", camera_height_m / height_depth, log_sigma, len(below_wearer), note)


def _floor_height(
    inputs: CueInputs, up: Tensor, tallest_eye_m: float, config: "ScaleConfig"
) -> tuple[float, float, str]:
    """Height of the floor along ``up``, its standard deviation, and how it was found."""
    floor, variance = tallest_eye_m - config.eye_height_m, config.eye_height_sigma_m**2
    feet = _feet_heights(inputs, up)
    if len(feet) < 3:
        return floor, variance**0.5, f"eye height {config.eye_height_m} m assumed"
    # A lifted foot reads as a floor that is too high: take a low quantile.
    from_feet, feet_variance = float(np.quantile(feet, 0.25)), config.foot_sigma_m**2
    if abs(from_feet - floor) > 0.6:
        return (
            floor,
            variance**0.5,
            f"eye height {config.eye_height_m} m assumed (feet say {tallest_eye_m - from_feet:.2f})",
        )
    weight = feet_variance / (variance + feet_variance)
    fused = weight * floor + (1 - weight) * from_feet
    note = f"eye height {tallest_eye_m - fused:.2f} m ({len(feet)} frames with feet)"
    return fused, (variance * feet_variance / (variance + feet_variance)) ** 0.5, note


def _feet_heights(inputs: CueInputs, up: Tensor) -> np.ndarray:
    """Heights at which the rays through the wearer's lowest pixel pass below the head, one per usable frame."""
    if inputs.wearer_THW is None:
        return np.empty(0)
    eyes = inputs.T_world_ego_T[:, :3, 3]
    pixels, z, _ = inputs.project_each(eyes)
    height = inputs.static_depth_HW.shape[0]
    found = []
    step = max(1, len(eyes) // 17)
    for index in range(0, len(eyes), step):
        if z[index] <= 0.1:
            continue
        box = wearer_component(inputs.wearer_THW[index], pixels[index])
        if box is None or box.bottom >= height - 3:
            continue
        foot = torch.tensor([[box.foot_column, box.bottom]], dtype=torch.float64)
        pose = inputs.T_world_exo_T[index]
        ray, centre = rotate_vectors(pose, inputs.exo_camera.unproject(foot)[0])[0], pose[:3, 3]
        away = eyes[index] - centre
        level = away - (away @ up) * up
        ray_level = ray - (ray @ up) * up
        reach = torch.linalg.vector_norm(level) / torch.linalg.vector_norm(ray_level).clamp_min(1e-6)
        found.append(float((centre + reach * ray) @ up))
    return np.array(found)


@dataclass(frozen=True)
class WearerBox:
    """Where the connected region that belongs to the wearer ends."""

    bottom: int
    foot_column: float
    top: int
    area_px: int
    mask_HW: np.ndarray


def wearer_component(mask_HW: np.ndarray, head_px: np.ndarray, *, reach_px: float = 40.0) -> WearerBox | None:
    """The connected region nearest to the projected head, or None if nothing large is near."""
    num, labels, stats, _ = cv2.connectedComponentsWithStats(mask_HW.astype(np.uint8))
    best: tuple[float, int] | None = None
    for label in range(1, num):
        if stats[label, cv2.CC_STAT_AREA] < 2e-4 * mask_HW.size + 20:
            continue
        x, y, w, h = stats[label, :4]
        gap_x = max(x - head_px[0], head_px[0] - (x + w), 0)
        gap_y = max(y - head_px[1], head_px[1] - (y + h), 0)
        gap = float(np.hypot(gap_x, gap_y))
        # The head belongs to the upper part of its region.
        if gap < reach_px and head_px[1] < y + 0.6 * h and (best is None or gap < best[0]):
            best = (gap, label)
    if best is None:
        return None
    region = labels == best[1]
    rows, columns = np.nonzero(region)
    bottom = int(rows.max())
    return WearerBox(bottom, float(columns[rows >= bottom - 3].mean()), int(rows.min()), len(rows), region)


def _up_facing_heights(inputs: CueInputs, up: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Depths below the exo camera (in depth units) and pixels of surfaces that face up."""
    depth = cv2.medianBlur(np.ascontiguousarray(inputs.static_depth_HW, np.float32), 5)
    rays, _ = inputs.exo_camera.rays(unit=False)
    points = rays.float().numpy() * depth[..., None]
    up_exo = rotate_vectors(invert(inputs.T_world_exo_T[0]), up[None])[0].float().numpy()
    gap = 3
    centre = points[gap:-gap:2, gap:-gap:2]
    right = points[gap:-gap:2, 2 * gap :: 2][:, : centre.shape[1]] - points[gap:-gap:2, : -2 * gap : 2]
    down = points[2 * gap :: 2, gap:-gap:2][: centre.shape[0]] - points[: -2 * gap : 2, gap:-gap:2]
    normal = np.cross(down, right)  # towards the camera for x right, y down
    length = np.linalg.norm(normal, axis=-1)
    facing = (normal @ up_exo) > np.cos(np.deg2rad(UP_FACING_DEG)) * length
    below = -(centre @ up_exo)
    sides = [points[gap:-gap:2, 2 * gap :: 2][:, : centre.shape[1]], points[gap:-gap:2, : -2 * gap : 2]]
    sides += [points[2 * gap :: 2, gap:-gap:2][: centre.shape[0]], points[: -2 * gap : 2, gap:-gap:2]]
    known = np.all([side[..., 2] > 0 for side in sides], axis=0) & (centre[..., 2] > 0)
    chosen = facing & known & (below > 0.02) & (length > 0)
    rows, columns = np.nonzero(chosen)
    return below[chosen], np.stack([columns * 2 + gap, rows * 2 + gap], -1)


def _lowest_mode(heights: np.ndarray) -> np.ndarray:
    """Which of the up-facing pixels lie on the lowest well-supported level (tables lie above it)."""
    logs = np.log(heights)
    edges = np.arange(logs.min() - 0.15, logs.max() + 0.25, 0.1)  # an empty bin at either end
    counts, _ = np.histogram(logs, edges)
    smooth = np.convolve(counts, [0.5, 1, 0.5], "same")
    level = int(np.nonzero(smooth >= 0.25 * smooth.max())[0].max())
    return np.abs(logs - 0.5 * (edges[level] + edges[level + 1])) < 0.25


def _near_path(inputs: CueInputs, pixels: np.ndarray, path_N3: Tensor) -> tuple[np.ndarray, float]:
    """Which up-facing pixels lie next to the wearer's path on the floor, and their share of the image there.

    The share is 0 if the path is out of sight.
    """
    footprints, _, seen = inputs.project_to_exo(path_N3)
    if not seen.any():
        return np.zeros(len(pixels), bool), 0.0
    rows, columns = inputs.static_depth_HW.shape
    tree, reach = KDTree(footprints[seen]), PATH_REACH * columns
    near = tree.query(pixels)[0] < reach
    y, x = np.mgrid[0:rows:2, 0:columns:2]  # up-facing pixels are sampled with the same step
    beside = tree.query(np.stack([x.ravel(), y.ravel()], -1))[0] < reach
    return near, float(near.sum() / max(1, beside.sum()))


# Head ------------------------------------------------------------------------------------------------------


def head_cue(inputs: CueInputs, config: "ScaleConfig") -> Cue | str:
    """The wearer's head lies where the ego camera is: its depth in metres against in the depth map.

    Only pixels of the wearer count (a person mask, or what moves): without one the head pixel often shows background.
    """
    if inputs.wearer_THW is None:
        return "no mask of the wearer or of what moves"
    backwards = inputs.T_world_ego_T[:, :3, 2]
    heads = inputs.T_world_ego_T[:, :3, 3] - HEAD_BEHIND_CAMERA_M * backwards
    pixels, z, seen = inputs.project_each(heads)
    sideways = heads + HEAD_RADIUS_M * inputs.T_world_exo_T[:, :3, 0]
    radius = np.abs(inputs.project_each(sideways)[0][:, 0] - pixels[:, 0])
    ratios = []
    for index in np.nonzero(seen)[0]:
        depth = _median_in_disc(
            inputs.depth_THW[index], inputs.wearer_THW[index], pixels[index], max(2.0, radius[index])
        )
        if depth is not None:
            # What is seen is the near side of the head.
            ratios.append((z[index] - 0.7 * HEAD_RADIUS_M) / depth)
    if len(ratios) < 3:
        return f"the head was found in {len(ratios)} of {len(z)} frames"
    ratios = np.array(ratios)
    scale = float(np.median(ratios))
    spread = 1.4826 * float(np.median(np.abs(np.log(ratios / scale))))
    missing = 1 - len(ratios) / len(z)
    return Cue("head", scale, float(np.hypot(config.head_sigma * (1 + missing), spread)), len(ratios))


def _median_in_disc(depth_HW: np.ndarray, mask_HW: np.ndarray, centre: np.ndarray, radius: float) -> float | None:
    """Median depth of masked pixels in a disc; None if the mask covers less than a quarter of it."""
    height, width = depth_HW.shape
    x0, x1 = max(0, int(centre[0] - radius)), min(width, int(centre[0] + radius) + 2)
    y0, y1 = max(0, int(centre[1] - radius)), min(height, int(centre[1] + radius) + 2)
    if x0 >= x1 or y0 >= y1:
        return None
    y, x = np.mgrid[y0:y1, x0:x1]
    disc = np.hypot(x - centre[0], y - centre[1]) <= radius
    window = depth_HW[y0:y1, x0:x1]
    chosen = disc & mask_HW[y0:y1, x0:x1] & (window > 0)
    if chosen.sum() < max(3, 0.25 * disc.sum()):
        return None
    return float(np.median(window[chosen]))


# Known points ----------------------------------------------------------------------------------------------


def points_cue(inputs: CueInputs, points_world_N3: np.ndarray | None) -> Cue | str:
    """Points of the scene whose position is known (SLAM, or triangulated between two exo cameras)."""
    if points_world_N3 is None:
        return "no known points"
    pixels, z, seen = inputs.project_to_exo(torch.as_tensor(points_world_N3, dtype=torch.float64))
    columns, rows = (np.round(pixels[seen, axis]).astype(int) for axis in (0, 1))
    height, width = inputs.static_depth_HW.shape
    inside = (columns >= 0) & (rows >= 0) & (columns < width) & (rows < height)
    depth = inputs.static_depth_HW[rows[inside], columns[inside]]
    ratios = (z[seen][inside] / np.where(depth > 0, depth, np.nan))[depth > 0]
    if len(ratios) < MIN_POINTS:
        return f"{len(ratios)} of {len(points_world_N3)} known points fall on known depth, {MIN_POINTS} are needed"
    # Hidden points pull the ratio up: the mode of the logarithm, not its mean.
    logs = np.log(ratios)
    centre = np.median(logs)
    for _ in range(10):
        near = np.abs(logs - centre) < 0.15
        centre = np.median(logs[near]) if near.any() else centre
    spread = 1.4826 * float(np.median(np.abs(logs[near] - centre))) if near.any() else 0.3
    return Cue("points", float(np.exp(centre)), max(0.015, spread / np.sqrt(max(1, near.sum()))), int(near.sum()))


# First ego frame -------------------------------------------------------------------------------------------


def first_frame_cue(
    inputs: CueInputs,
    colour_HW3: np.ndarray,
    ego_camera: Camera,
    ego_frame_CHW: np.ndarray,
    frame_index: int,
    guess: float,
) -> Cue | str:
    """Matches a real ego frame with renderings of the background and solves the scale that moves them together."""
    from egoloom.exo2ego.prior.registration import match_to_rendering

    matches = match_to_rendering(
        inputs.static_depth_HW, colour_HW3, inputs.exo_camera, inputs.T_world_exo_T[0], ego_camera,
        inputs.T_world_ego_T[frame_index], ego_frame_CHW, guess,
    )  # fmt: skip
    if len(matches.points_unit_N3) < MIN_POINTS:
        return f"{len(matches.points_unit_N3)} matches, {MIN_POINTS} are needed"
    scales = guess * np.exp(np.linspace(-0.9, 0.9, 181))
    cost = np.array([matches.cost(scale) for scale in scales])
    best = int(cost.argmin())
    inliers = matches.num_inliers(scales[best])
    if inliers < MIN_POINTS:
        return f"only {inliers} matches agree on a scale"
    # How sharply the cost rises says how well this view can see the scale (little parallax: flat).
    rise = cost < cost[best] + 0.05
    log_sigma = float(np.clip(0.5 * np.log(scales[rise].max() / scales[rise].min()), 0.02, 0.5))
    return Cue("first ego frame", float(scales[best]), log_sigma, inliers)
