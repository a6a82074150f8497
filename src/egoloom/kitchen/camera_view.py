"""Renders a take from one camera: RGB, depth, ids and exact flow for every frame.

Shape letters: T frames, N vertices, F triangles, H rows, W columns.
"""

# ruff: noqa: RUF005 - offsets are added to arrays, no lists are joined

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from egoloom.kitchen import raster, shading
from egoloom.kitchen.film import Film
from egoloom.kitchen.geometry import Array, normalize
from egoloom.kitchen.jit import kernel
from egoloom.kitchen.scene import Take

SHADOW_TEXELS, SHADOW_HALF_M = 416, 1.05
_RING = np.array([(np.sin(a), np.cos(a)) for a in np.arange(8) * np.pi / 4])
TAPS = _RING * np.where(np.arange(8) % 2, 1.0, 0.5)[:, None]  # near and far neighbours in turn


@dataclass
class Rendered:
    """What one camera saw: RGB ``[T, 3, H, W]`` uint8, depth ``[T, H, W]`` m, ids uint8, flow ``[T, H, W, 2]`` px."""

    rgb: NDArray[np.uint8]
    depth_m: NDArray[np.float32]
    ids: NDArray[np.uint8]
    flow_px: NDArray[np.float32]
    T_world_camera: Array
    intrinsics: Array


@dataclass(frozen=True)
class Lens:
    """Size in pixels and field of view of a pinhole camera; ``fov_deg`` spans the width."""

    width: int
    height: int
    fov_deg: float

    @property
    def intrinsics(self) -> Array:
        """fx, fy, cx, cy; pixel centres lie on integer coordinates."""
        focal = 0.5 * self.width / np.tan(np.radians(self.fov_deg) / 2)
        return np.array([focal, focal, (self.width - 1) / 2, (self.height - 1) / 2])


@kernel
def _to_camera(points_N3, rotation, position, out_N3):
    for n in range(points_N3.shape[0]):
        x, y, z = points_N3[n, 0] - position[0], points_N3[n, 1] - position[1], points_N3[n, 2] - position[2]
        for c in range(3):
            out_N3[n, c] = rotation[0, c] * x + rotation[1, c] * y + rotation[2, c] * z


@kernel
def _to_shadow(points_N3, matrix, out_N3):
    for n in range(points_N3.shape[0]):
        x, y, z = points_N3[n, 0], points_N3[n, 1], points_N3[n, 2]
        for c in range(3):
            out_N3[n, c] = matrix[c, 0] * x + matrix[c, 1] * y + matrix[c, 2] * z + matrix[c, 3]


class Lighting:
    """Lamp, window and sky of a take, and its shadow map; the map's fixed part is drawn once."""

    def __init__(self, take: Take) -> None:
        kitchen = take.stage.kitchen
        self.take = take
        center = np.array([take.stage.x, 0.05, 0.95])
        lamp = np.array(kitchen.lamp) + [take.stage.x * 0.6, 0, 0]
        warm = np.array([1.0, 0.93, 0.82]) * kitchen.warmth + np.array([1.0, 0.98, 0.95]) * (1 - kitchen.warmth)
        # Fill light comes from the window side of the room and from the opposite wall.
        fill = normalize(np.array([0.25 * np.sign(kitchen.sink_x), -0.85, 0.35]))
        self.values = np.concatenate(
            [lamp, 2.1 * warm, [0.52, 0.55, 0.60], [0.26, 0.23, 0.20], fill, np.array([0.20, 0.20, 0.21])]
        )
        towards = normalize(lamp - center)
        u = normalize(np.cross([0, 1.0, 0], towards))
        v = np.cross(towards, u)
        scale = SHADOW_TEXELS / (2 * SHADOW_HALF_M)
        self.matrix = np.stack([
            np.append(u * scale, SHADOW_TEXELS / 2 - (u * center).sum() * scale),
            np.append(v * scale, SHADOW_TEXELS / 2 - (v * center).sum() * scale),
            np.append(towards, -(towards * center).sum()),
        ])  # fmt: skip
        self._points = np.empty_like(take.points[0])
        self._fixed = np.full((SHADOW_TEXELS, SHADOW_TEXELS), -1e9, np.float32)
        self._draw(0, take.points[0], self._fixed, take.triangles[: take.num_static_triangles])
        self._map = np.empty_like(self._fixed)

    def _draw(self, first: int, points: Array, depth: NDArray[np.float32], triangles: NDArray[np.int64]) -> None:
        _to_shadow(points, self.matrix, self._points)
        raster.draw_shadow(self._points, triangles, first, self.take.casts_F, depth)

    def shadow_map(self, frame: int) -> NDArray[np.float32]:
        """Returns the shadow map of a frame; valid until the next call."""
        self._map[:] = self._fixed
        self._draw(self.take.num_static_triangles, self.take.points[frame], self._map, self.take.triangles)
        return self._map


class ViewRenderer:
    """Renders one camera of a take frame by frame.

    Args:
        take: The geometry.
        lens: Size and field of view.
        rotation: Camera to world, ``[T + 1, 3, 3]``.
        position: Camera position, ``[T + 1, 3]``, in metres.
        scale: Samples per pixel side.
        num_triangles: Triangles that this camera can see (the wearer's own head is left out).
        is_fixed: Whether the camera stands still, so that the fixed part of the scene is drawn once.
    """

    def __init__(
        self,
        take: Take,
        lens: Lens,
        rotation: Array,
        position: Array,
        *,
        scale: int,
        num_triangles: int,
        is_fixed: bool,
    ) -> None:
        self.take, self.lens, self.rotation, self.position, self.scale = take, lens, rotation, position, scale
        self.triangles = take.triangles[:num_triangles]
        self.is_fixed = is_fixed
        count = len(take.times_s) - 1
        h, w = lens.height, lens.width
        pose = np.tile(np.eye(4), (count, 1, 1))
        pose[:, :3, :3], pose[:, :3, 3] = rotation[:-1], position[:-1]
        self.out = Rendered(
            np.empty((count, 3, h, w), np.uint8), np.empty((count, h, w), np.float32), np.empty((count, h, w),
            np.uint8),
            np.empty((count, h, w, 2), np.float32), pose, lens.intrinsics,
        )  # fmt: skip
        self._now, self._next = np.empty_like(take.points[0]), np.empty_like(take.points[0])
        self._edges, self._boxes = np.empty((num_triangles, 9)), np.empty((num_triangles, 4))
        self._depth, self._seen = np.zeros((h, w)), np.full((h, w), -1, np.int32)
        self._fine_depth = np.zeros((h * scale, w * scale))
        self._fine = np.full((h * scale, w * scale), -1, np.int32)
        self._image = np.empty((h, w, 3))
        self._blurred = np.empty((h, w, 3))
        self._kept: tuple[np.ndarray, ...] | None = None
        _to_camera(take.points[0], rotation[0], position[0], self._next)

    def visibility(self, frame: int) -> None:
        """Finds the triangle behind every pixel and every sample of a frame."""
        take, first = self.take, 0
        self._now, self._next = self._next, self._now
        _to_camera(take.points[frame + 1], self.rotation[frame + 1], self.position[frame + 1], self._next)
        if self._kept is not None:
            self._depth[:], self._seen[:], self._fine_depth[:], self._fine[:] = self._kept
            first = take.num_static_triangles
        else:
            self._depth[:], self._seen[:], self._fine_depth[:], self._fine[:] = 0.0, -1, 0.0, -1
        if self.is_fixed and self._kept is None:
            self._draw(0, take.num_static_triangles)
            self._kept = tuple(a.copy() for a in (self._depth, self._seen, self._fine_depth, self._fine))
            first = take.num_static_triangles
        self._draw(first, len(self.triangles))

    def _draw(self, first: int, end: int) -> None:
        edges, boxes, veil = self._edges[:end], self._boxes[:end], self.take.veil_F
        raster.edge_functions(self._now, self.triangles[:end], self.lens.intrinsics, first, edges, boxes)
        raster.draw(edges, boxes, veil, first, 1, True, self._depth, self._seen)
        raster.draw(edges, boxes, veil, first, self.scale, False, self._fine_depth, self._fine)

    def render(self, frame: int, lighting: Lighting, shadow: NDArray[np.float32], film: Film) -> None:
        """Fills the outputs of one frame."""
        take, out, lens = self.take, self.out, self.lens
        self.visibility(frame)
        shading.surface_buffers(
            self._edges, self.triangles, take.instance_F, self._seen, self._depth, self._next, lens.intrinsics,
            out.depth_m[frame], out.ids[frame], out.flow_px[frame],
        )  # fmt: skip
        rotation = np.ascontiguousarray(self.rotation[frame])
        shading.shade_view(
            self._edges, self.triangles, take.group_F, take.material_F, take.materials, take.points[frame],
            take.normals[frame], take.texture, lighting.values, shadow, lighting.matrix, self.position[frame],
            np.ascontiguousarray(rotation.T), lens.intrinsics, TAPS, self._seen, self._depth, self._fine, self.scale,
            self._image,
        )  # fmt: skip
        out.rgb[frame] = film.develop(self._image, out.flow_px[frame], self._blurred).transpose(2, 0, 1)
