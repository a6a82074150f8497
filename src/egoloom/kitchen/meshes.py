"""Small triangle meshes: boxes, lathes, tubes. Front faces wind counter-clockwise seen from outside."""

import itertools
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from egoloom.kitchen.geometry import Array, cross, normalize


@dataclass
class Mesh:
    """Vertices and normals ``[N, 3]`` in metres, texture coordinates ``[N, 3]``, triangles ``[F, 3]``.

    ``group`` and ``material`` hold one entry per triangle; a group is a surface inside which edges need no
    anti-aliasing.
    """

    points: Array
    normals: Array
    texture: Array
    triangles: NDArray[np.int64]
    group: NDArray[np.int64]
    material: list[str] = field(default_factory=list)

    def moved(self, offset: ArrayLike = (0, 0, 0), rotation: Array | None = None) -> "Mesh":
        """Returns a copy that is first rotated, then shifted; texture coordinates stay with the surface."""
        points, normals = self.points, self.normals
        if rotation is not None:
            points = (rotation[None] * points[:, None, :]).sum(-1)
            normals = (rotation[None] * normals[:, None, :]).sum(-1)
        return Mesh(
            points + np.asarray(offset, float), normals, self.texture, self.triangles, self.group, self.material
        )

    def painted(self, material: str) -> "Mesh":
        """Returns a copy with one material."""
        names = [material] * len(self.triangles)
        return Mesh(self.points, self.normals, self.texture, self.triangles, self.group, names)


def join(*meshes: Mesh) -> Mesh:
    """Returns one mesh that holds all of them."""
    starts = np.cumsum([0] + [len(mesh.points) for mesh in meshes[:-1]])
    groups = np.cumsum([0] + [int(mesh.group.max()) + 1 for mesh in meshes[:-1]])
    return Mesh(
        np.concatenate([mesh.points for mesh in meshes]),
        np.concatenate([mesh.normals for mesh in meshes]),
        np.concatenate([mesh.texture for mesh in meshes]),
        np.concatenate([mesh.triangles + start for mesh, start in zip(meshes, starts, strict=True)]),
        np.concatenate([mesh.group + start for mesh, start in zip(meshes, groups, strict=True)]),
        [name for mesh in meshes for name in mesh.material],
    )


def quad(corners: ArrayLike, material: str, texture: ArrayLike | None = None) -> Mesh:
    """Returns a flat quad; ``corners [4, 3]`` run counter-clockwise seen from its front."""
    corners = np.asarray(corners, float)
    normal = normalize(cross(corners[1] - corners[0], corners[3] - corners[0]))
    return Mesh(
        corners,
        np.repeat(normal[None], 4, 0),
        corners.copy() if texture is None else np.asarray(texture, float),
        np.array([[0, 1, 2], [0, 2, 3]]),
        np.zeros(2, np.int64),
        [material] * 2,
    )


_BOX_FACES = (
    ((0, 4, 6, 2), 0), ((1, 3, 7, 5), 0), ((0, 1, 5, 4), 1), ((2, 6, 7, 3), 1), ((0, 2, 3, 1), 2), ((4, 5, 7, 6), 2),
)  # fmt: skip


def box(low: ArrayLike, high: ArrayLike, material: str, skip: tuple[str, ...] = ()) -> Mesh:
    """Returns a box between two corners; ``skip`` names faces to leave out ("-x", "+z", ...)."""
    low, high = np.asarray(low, float), np.asarray(high, float)
    corner = np.array([[(low, high)[(i >> a) & 1][a] for a in range(3)] for i in range(8)])
    names = ("-x", "+x", "-y", "+y", "-z", "+z")
    parts = [
        quad(corner[list(order)], material)
        for (order, _), name in zip(_BOX_FACES, names, strict=True)
        if name not in skip
    ]
    return join(*parts)


def lathe(profile: ArrayLike, material: str, sides: int = 16, crease_deg: float = 35.0) -> Mesh:
    """Returns a surface of revolution about z; ``profile [K, 2]`` lists (radius, height) with the outside on its right.

    A profile that climbs on the outside faces outwards. Corners sharper than ``crease_deg`` stay sharp.
    """
    profile = np.asarray(profile, float)
    angles = np.linspace(0, 2 * np.pi, sides + 1)
    spans = _smooth_spans(profile, crease_deg)
    return join(*[_lathe_span(profile[a : b + 1], angles, material) for a, b in spans])


def _smooth_spans(profile: Array, crease_deg: float) -> list[tuple[int, int]]:
    steps = normalize(np.diff(profile, axis=0))
    turns = (steps[1:] * steps[:-1]).sum(-1) < np.cos(np.radians(crease_deg))
    cuts = [0, *[int(i) + 1 for i in np.flatnonzero(turns)], len(profile) - 1]
    return list(itertools.pairwise(cuts))


def _lathe_span(profile: Array, angles: Array, material: str) -> Mesh:
    steps = normalize(np.diff(profile, axis=0))
    slopes = normalize(np.concatenate([steps[:1], steps[:-1] + steps[1:], steps[-1:]]))
    ring = np.stack([np.cos(angles), np.sin(angles)], -1)
    count, sides = len(profile), len(angles)
    points = np.empty((count, sides, 3))
    normals = np.empty((count, sides, 3))
    points[..., :2] = profile[:, None, :1] * ring
    points[..., 2] = profile[:, None, 1]
    normals[..., :2] = slopes[:, None, 1:] * ring
    normals[..., 2] = -slopes[:, None, 0]
    triangles = grid_triangles(count, sides, closed=False)
    points, normals = points.reshape(-1, 3), normals.reshape(-1, 3)
    return Mesh(
        points, normals, points.copy(), triangles, np.zeros(len(triangles), np.int64), [material] * len(triangles)
    )


def grid_triangles(rows: int, cols: int, *, closed: bool) -> NDArray[np.int64]:
    """Returns triangles over ``rows`` rings of ``cols`` points; ``closed`` joins the last column to the first.

    Rings that run counter-clockwise seen against the direction from row to row give outward faces.
    """
    spans = cols if closed else cols - 1
    i, j = np.meshgrid(np.arange(rows - 1), np.arange(spans), indexing="ij")
    a, b = i * cols + j, i * cols + (j + 1) % cols
    c, d = a + cols, b + cols
    return np.concatenate([np.stack([a, b, d], -1).reshape(-1, 3), np.stack([a, d, c], -1).reshape(-1, 3)])


def cylinder(radius: float, low: float, high: float, material: str, sides: int = 12) -> Mesh:
    """Returns a closed cylinder along z."""
    return lathe([(0, low), (radius, low), (radius, high), (0, high)], material, sides)


def sphere(radii: ArrayLike, center: ArrayLike, material: str, sides: int = 12, rings: int = 8) -> Mesh:
    """Returns an ellipsoid."""
    angles = np.linspace(-np.pi / 2, np.pi / 2, rings + 1)
    ball = lathe(np.stack([np.cos(angles), np.sin(angles)], -1), material, sides, crease_deg=170)
    radii = np.broadcast_to(np.asarray(radii, float), (3,))
    points = ball.points * radii
    normals = normalize(ball.normals / radii)
    return Mesh(points + np.asarray(center, float), normals, points, ball.triangles, ball.group, ball.material)
