"""The ego prior: what the exo camera saw, drawn where the ego camera would see it, with holes and confidence.

Shape letters: T time, C channels, H, W rows and columns (exo or ego as named), R, C rows and columns of a grid.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from egoloom.cameras import Camera, invert, transform_points
from egoloom.exo2ego.prior.background import Background, clean_depth, fuse_background
from egoloom.exo2ego.prior.config import PriorConfig
from egoloom.exo2ego.prior.raster import NEAR_M, QUAD_SURFACE, QUAD_TWO_SIDED, rasterise_grid, splat_nearest
from egoloom.exo2ego.prior.scale import ScaleEvidence, ScaleResult, solve_depth_scale
from egoloom.exo2ego.prior.surfaces import ExoClip, Surface, check_inputs


@dataclass(frozen=True, eq=False)
class EgoPrior:
    """A rendered ego prior.

    Attributes:
        frames_TCHW: uint8 RGB, black in holes.
        hole_mask_THW: True where nothing is known.
        confidence_THW: 0..1, float32; 0 in holes.
        depth_THW: z-depth in the ego camera in metres, float32; 0 in holes.
        depth_scale: The factor that was applied to the depth.
        scale_confidence: 0..1; 1 for a scale that was given.
        scale: The solver's findings, None where the scale was given.
        notes: What was noticed, in words.
    """

    frames_TCHW: np.ndarray
    hole_mask_THW: np.ndarray
    confidence_THW: np.ndarray
    depth_THW: np.ndarray
    depth_scale: float
    scale_confidence: float
    scale: ScaleResult | None = None
    notes: tuple[str, ...] = ()

    @property
    def coverage(self) -> float:
        """Share of pixels that are not holes."""
        return float(1 - self.hole_mask_THW.mean())

    def __repr__(self) -> str:
        frames = "x".join(map(str, self.frames_TCHW.shape))
        return f"EgoPrior({frames}, coverage={self.coverage:.2f}, depth_scale={self.depth_scale:.3f})"


def render_ego_prior(
    exo_frames_TCHW: np.ndarray,
    depth_THW: np.ndarray,
    exo_camera: Camera,
    T_world_exo: Tensor,
    ego_camera: Camera,
    T_world_ego_T: Tensor,
    *,
    config: PriorConfig | None = None,
    dynamic_THW: np.ndarray | None = None,
    evidence: ScaleEvidence | None = None,
) -> EgoPrior:
    """Renders the ego prior of one clip.

    Args:
        exo_frames_TCHW: uint8 RGB of the exo camera.
        depth_THW: z-depth of the same pixels; zero, NaN and infinity are unknown.
        exo_camera: The camera of exactly these frames.
        T_world_exo: Its pose ``[4, 4]``, or ``[T, 4, 4]`` for a moving camera.
        ego_camera: Any camera model and image size.
        T_world_ego_T: Ego poses ``[T, 4, 4]``.
        config: See :class:`PriorConfig`.
        dynamic_THW: Pixels that move (people, hands, tools), where known; they stay out of the background.
        evidence: What helps to find the depth scale beyond the poses: up direction, SLAM points, a first ego frame.

    Raises:
        UserError: If sizes or counts disagree, or no depth is usable.
    """
    config = config or PriorConfig()
    exo_poses, ego_poses = check_inputs(exo_frames_TCHW, depth_THW, exo_camera, T_world_exo, T_world_ego_T, dynamic_THW)
    clip = ExoClip(exo_frames_TCHW, clean_depth(depth_THW), dynamic_THW, exo_camera, exo_poses)
    background = None
    if not clip.is_moving:
        background = fuse_background(clip.frames, clip.depth, dynamic_THW=dynamic_THW, config=config.background)
        clip = replace(clip, dynamic=background.is_dynamic_THW)
    result: ScaleResult | None = None
    if config.depth_scale is None:
        result = solve_depth_scale(
            clip.depth[0] if background is None else background.depth_HW, clip.depth, clip.dynamic, exo_camera,
            exo_poses, ego_poses, evidence=evidence, config=config.scale,
            colour_HW3=None if background is None else background.colour_HW3, ego_camera=ego_camera,
        )  # fmt: skip
    scale = 1.0 if result is None else result.scale
    clip = replace(clip, scale=config.depth_scale or scale)
    surfaces = _keyframe_surfaces(clip, config) if background is None else _static_surfaces(clip, background, config)
    return _render_frames(surfaces, clip, ego_camera, ego_poses, config, result, background)


def _static_surfaces(clip: ExoClip, background: Background, config: PriorConfig) -> list[Surface]:
    return clip.surfaces(background.depth_HW, background.colour_HW3, background.confidence_HW, 0, config)


def _keyframe_surfaces(clip: ExoClip, config: PriorConfig) -> list[Surface]:
    """A moving exo camera cannot be fused per pixel: some of its frames are kept as surfaces of their own."""
    num_frames = len(clip.frames)
    chosen = np.unique(np.linspace(0, num_frames - 1, min(config.num_keyframes, num_frames)).round().astype(int))
    surfaces = []
    for index in chosen:
        confidence = (clip.depth[index] > 0).astype(np.float32)
        keep = None if clip.dynamic is None else ~clip.dynamic[index]
        colour = clip.frames[index].transpose(1, 2, 0)
        surfaces.extend(clip.surfaces(clip.depth[index], colour, confidence, int(index), config, keep))
    return surfaces


class SurfaceCanvas:
    """The buffers of one ego frame."""

    def __init__(self, image_size: tuple[int, int]) -> None:
        width, height = image_size
        self.colour = np.zeros((height, width, 3), np.float32)
        self.depth = np.full((height, width), np.inf, np.float32)
        self.weight = np.zeros((height, width), np.float32)

    def draw(self, surface: Surface, camera: Camera, T_world_camera: Tensor, config: PriorConfig) -> None:
        """Draws a surface into the buffers."""
        T_camera_world = invert(T_world_camera).float()
        rows, columns = surface.quads_RC.shape[0] + 1, surface.quads_RC.shape[1] + 1
        points = transform_points(T_camera_world, surface.points_world_RC3.reshape(-1, 3))
        # Corners outside the frame are needed for quads that cross its border, so only the model's range counts.
        pixels, defined = camera._project(points)
        near = (points.square().sum(-1) < config.wearer_radius_m**2) | (points[:, 2] < NEAR_M)
        z = torch.where(defined & ~near, points[:, 2], points.new_zeros(()))
        grid_pixels, grid_z = pixels.numpy().reshape(rows, columns, 2), z.numpy().reshape(rows, columns)
        if config.surface == "mesh":
            rasterise_grid(
                grid_pixels, grid_z, surface.quads_RC, surface.colour_RC3, surface.confidence_RC,
                np.float32(config.max_edge_px), True, self.colour, self.depth, self.weight,
            )  # fmt: skip
        else:
            self._splat(surface, grid_pixels, grid_z, config)

    def _splat(self, surface: Surface, pixels: np.ndarray, z: np.ndarray, config: PriorConfig) -> None:
        used = np.zeros(z.shape, np.bool_)
        used[:-1, :-1] = (surface.quads_RC == QUAD_SURFACE) | (surface.quads_RC == QUAD_TWO_SIDED)
        index = np.full(self.depth.shape, -1, np.int32)
        kept = np.where(used, z, np.float32(0)).reshape(-1)
        splat_nearest(pixels.reshape(-1, 2), kept, np.float32(config.splat_radius_px), index, self.depth)
        drawn = index >= 0
        self.colour[drawn] = surface.colour_RC3.reshape(-1, 3)[index[drawn]]
        self.weight[drawn] = surface.confidence_RC.reshape(-1)[index[drawn]]


def _render_frames(
    surfaces: list[Surface],
    clip: ExoClip,
    ego_camera: Camera,
    ego_poses: Tensor,
    config: PriorConfig,
    result: ScaleResult | None,
    background: Background | None,
) -> EgoPrior:
    width, height = ego_camera.image_size
    num_frames = len(clip.frames)
    pictures = np.zeros((num_frames, 3, height, width), np.uint8)
    holes = np.ones((num_frames, height, width), np.bool_)
    confidence = np.zeros((num_frames, height, width), np.float32)
    depths = np.zeros((num_frames, height, width), np.float32)
    for index in range(num_frames):
        canvas = SurfaceCanvas(ego_camera.image_size)
        drawn = list(surfaces)
        if background is not None and config.colour == "frame":
            now = _colour_now(clip, background, index, config)
            drawn = [replace(surface, colour_RC3=now) for surface in surfaces]
        if config.include_dynamic and clip.dynamic is not None and clip.dynamic[index].any():
            drawn.extend(_dynamic_surfaces(clip, index, config))
        for surface in drawn:
            canvas.draw(surface, ego_camera, ego_poses[index], config)
        seen = np.isfinite(canvas.depth) & (canvas.weight >= config.min_confidence)  # the weight is -1 on backs
        holes[index] = ~seen
        confidence[index] = np.where(seen, np.clip(canvas.weight, 0, 1), 0)
        depths[index] = np.where(seen, canvas.depth, 0)
        rounded = (np.clip(canvas.colour, 0, 255) + 0.5).astype(np.uint8)
        pictures[index] = np.where(seen[..., None], rounded, 0).transpose(2, 0, 1)
    trust = 1.0 if result is None else result.confidence
    return EgoPrior(pictures, holes, confidence, depths, float(clip.scale), trust, result, _coverage_notes(holes))


def _colour_now(clip: ExoClip, background: Background, index: int, config: PriorConfig) -> np.ndarray:
    """The frame's own colours where it shows the background (light and shadows of now), means elsewhere."""
    depth = clip.depth[index]
    same = np.abs(depth - background.depth_HW) < config.background.depth_tolerance * background.depth_HW
    if clip.dynamic is not None:
        same &= ~clip.dynamic[index]
    return np.where(same[..., None], clip.frames[index].transpose(1, 2, 0), background.colour_HW3)


def _dynamic_surfaces(clip: ExoClip, index: int, config: PriorConfig) -> list[Surface]:
    """What moves in a frame, lifted with the depth of that frame."""
    mask = np.zeros(clip.depth.shape[1:], np.bool_) if clip.dynamic is None else clip.dynamic[index]
    grown = cv2.dilate(mask.view(np.uint8), np.ones((3, 3), np.uint8)).view(np.bool_)
    confidence = np.full(mask.shape, 0.5, np.float32)
    colour = clip.frames[index].transpose(1, 2, 0)
    return clip.surfaces(clip.depth[index], colour, confidence, index, config, grown)


def _coverage_notes(holes: np.ndarray) -> tuple[str, ...]:
    covered = 1 - holes.mean((1, 2))
    empty = int((covered < 0.01).sum())
    if not empty:
        return ()
    return (
        f"{empty} of {len(covered)} frames show nothing: the ego camera looks away from everything the exo camera saw, "
        "or stands inside something",
    )
