"""Things that hands use: mug, plate, bottle, pot, knife, spoon, sponge, carrot, bread, and what else stands about.

Every mesh stands on z = 0 around its own origin, in metres.
"""

from collections.abc import Sequence

import numpy as np

from egoloom.kitchen.geometry import Array, about_x, about_y
from egoloom.kitchen.meshes import Mesh, box, cylinder, grid_triangles, join, lathe, sphere
from egoloom.kitchen.raster import vertex_normals
from egoloom.kitchen.tubes import tube_points, tube_texture, tube_triangles

MUG_RADIUS, MUG_HEIGHT = 0.041, 0.096
PLATE_RADIUS, PLATE_HEIGHT = 0.112, 0.020
BOTTLE_RADIUS, BOTTLE_HEIGHT = 0.036, 0.26
POT_RADIUS, POT_HEIGHT = 0.115, 0.125
BOARD = (0.38, 0.26, 0.018)
KNIFE_HANDLE = (-0.062, 0.0, 0.012)  # centre of the handle in the knife's frame; the blade points to +x, its edge to -z
SPOON_GRIP = (0.0, 0.0, 0.215)  # where a spoon is held; the bowl is at the origin, the handle rises along z
CARROT_RADIUS, CARROT_LENGTH, CARROT_PIECES = 0.024, 0.25, 20
BREAD_SIZE, BREAD_PIECES = (0.26, 0.100, 0.080), 13


def bent_tube(points: Sequence[tuple[float, float, float]], radius: float, material: str, sides: int = 8) -> Mesh:
    """Returns a closed tube through points (in metres)."""
    centers = np.array([points])
    radii = np.full((len(points), 2), radius)
    steps = np.diff(centers[0], axis=0)
    first, last = steps[0] / np.linalg.norm(steps[0]), steps[-1] / np.linalg.norm(steps[-1])
    centers = np.concatenate([centers[:, :1] - 0.001 * first, centers, centers[:, -1:] + 0.001 * last], 1)
    radii = np.concatenate([[[1e-4, 1e-4]], radii, [[1e-4, 1e-4]]])
    hint = (
        np.array([[0.31, 0.17, 0.93]])
        if abs(steps[0][2]) < 0.9 * np.linalg.norm(steps[0])
        else np.array([[1.0, 0.1, 0]])
    )
    vertices = tube_points(centers, radii, hint, sides)[0]
    triangles = tube_triangles(len(radii), sides)
    texture = tube_texture(np.linspace(0, 0.1, len(radii)), radii, sides)
    normals = vertices - np.repeat(centers[0], sides, 0)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    return Mesh(vertices, normals, texture, triangles, np.zeros(len(triangles), np.int64), [material] * len(triangles))


def mug() -> Mesh:
    """Returns a mug whose handle points to -y."""
    r, h = MUG_RADIUS, MUG_HEIGHT
    body = lathe(
        [(0, 0), (r - 0.004, 0), (r, 0.006), (r, h), (r - 0.004, h), (r - 0.004, 0.008), (0, 0.008)], "mug", 18
    )
    handle = [(0, -r + 0.004, 0.075), (0, -r - 0.018, 0.074), (0, -r - 0.029, 0.060), (0, -r - 0.029, 0.040),
              (0, -r - 0.018, 0.026), (0, -r + 0.004, 0.024)]  # fmt: skip
    return join(body, bent_tube(handle, 0.0055, "mug", 6))


def plate() -> Mesh:
    """Returns a dinner plate with a coloured rim."""
    r = PLATE_RADIUS
    under = lathe([(0, 0), (0.055, 0), (0.06, 0.004), (r, 0.016), (r + 0.002, 0.019)], "plate", 24)
    rim = lathe([(r + 0.002, 0.019), (r, 0.0205), (r * 0.84, 0.0165)], "rim", 24)
    top = lathe([(r * 0.84, 0.0165), (0.070, 0.0085), (0.062, 0.0065), (0, 0.0062)], "plate", 24)
    return join(under, rim, top)


def bottle() -> Mesh:
    """Returns a bottle with label and cap."""
    return join(bottle_open(), cylinder(0.0155, 0.238, BOTTLE_HEIGHT, "cap", 12))


def bottle_open() -> Mesh:
    """Returns a bottle with label and without cap."""
    r = BOTTLE_RADIUS
    low = lathe([(0, 0), (r - 0.004, 0), (r, 0.006), (r, 0.055)], "bottle", 16)
    label = lathe([(r + 0.0006, 0.055), (r + 0.0006, 0.125)], "label", 16)
    high = lathe(
        [(r, 0.125), (r, 0.150), (0.030, 0.172), (0.018, 0.196), (0.0135, 0.214), (0.013, 0.240)], "bottle", 16
    )
    return join(low, label, high, cylinder(0.0105, 0.2385, 0.2395, "handle", 10))


def pot() -> Mesh:
    """Returns a pot with two handles along x and stew in it."""
    r, h = POT_RADIUS, POT_HEIGHT
    body = lathe([(0, 0), (r - 0.006, 0), (r, 0.008), (r, h), (r + 0.004, h + 0.002), (r - 0.004, h + 0.002),
    (r - 0.004, 0.070)],
                 "pot", 24)  # fmt: skip
    stew = lathe([(r - 0.004, 0.070), (0.06, 0.0715), (0, 0.0720)], "stew", 24)
    handles = [
        bent_tube([(s * (r - 0.003), -0.035, 0.100), (s * (r + 0.030), -0.030, 0.104), (s * (r + 0.038), 0.0, 0.105),
                   (s * (r + 0.030), 0.030, 0.104), (s * (r - 0.003), 0.035, 0.100)], 0.0075, "handle", 6)
        for s in (-1.0, 1.0)
    ]  # fmt: skip
    return join(body, stew, *handles)


def knife() -> Mesh:
    """Returns a chef's knife: origin at the heel of the edge, blade along +x, edge down (-z)."""
    length, height = 0.165, 0.040
    outline = np.array([(0, 0.002), (0.06, 0.0), (0.11, 0.005), (length, 0.030), (0.10, height), (0, height + 0.002)])
    middle = np.stack([outline[:, 0], np.zeros(6), outline[:, 1]], -1)
    thick = np.array([0.0004, 0.0003, 0.0003, 0.0003, 0.0016, 0.0020])
    sides = []
    fan = np.array([[0, 1, 5], [1, 4, 5], [1, 2, 4], [2, 3, 4]])
    for sign in (1.0, -1.0):
        points = middle + np.stack([np.zeros(6), thick * sign, np.zeros(6)], -1)
        normals = np.tile([0.0, sign, -0.15], (6, 1))
        triangles = fan[:, ::-1] if sign > 0 else fan
        sides.append(Mesh(points, normals, points.copy(), triangles, np.zeros(4, np.int64), ["blade"] * 4))
    handle = sphere((0.064, 0.0105, 0.0145), (0, 0, 0), "grip", 10, 8).moved((-0.060, 0, 0.030))
    spine = box((0.0, -0.002, 0.0385), (0.10, 0.002, 0.0415), "blade")
    return join(*sides, handle, spine, box((-0.006, -0.006, 0.018), (0.004, 0.006, 0.042), "blade"))


def spoon() -> Mesh:
    """Returns a wooden spoon: bowl at the origin, handle along +z."""
    handle = bent_tube([(0, 0, 0.02), (0, 0, 0.12), (0, 0.002, 0.29)], 0.0058, "spoon", 7)
    return join(handle, sphere((0.026, 0.008, 0.036), (0, 0, 0), "spoon", 10, 7))


def sponge() -> Mesh:
    """Returns a two-coloured sponge."""
    return join(
        box((-0.052, -0.035, 0), (0.052, 0.035, 0.009), "scrub"),
        box((-0.052, -0.035, 0.009), (0.052, 0.035, 0.033), "sponge"),
    )


def cloth() -> Mesh:
    """Returns a crumpled kitchen cloth of 20 by 17 cm."""
    count = 11
    grid = np.linspace(-1, 1, count)
    x, y = np.meshgrid(grid * 0.10, grid * 0.085, indexing="xy")
    edge = 1 + 0.10 * np.sin(5 * np.arctan2(y, x) + 0.7)
    z = 0.012 + 0.008 * np.sin(38 * x + 9 * y) * np.cos(46 * y - 12 * x)
    rim = np.maximum(np.abs(x) / 0.10, np.abs(y) / 0.085)
    z = np.where(rim > 0.99, 0.0, z)
    points = np.stack([x * edge, y * edge, z], -1).reshape(-1, 3)
    triangles = grid_triangles(count, count, closed=False)
    normals = np.zeros_like(points)[None]
    vertex_normals(points[None], triangles, normals)
    texture = np.stack([points[:, 0], points[:, 2], points[:, 1]], -1)
    return Mesh(points, normals[0], texture, triangles, np.zeros(len(triangles), np.int64), ["cloth"] * len(triangles))


def board() -> Mesh:
    """Returns a cutting board."""
    x, y, z = BOARD
    return box((-x / 2, -y / 2, 0), (x / 2, y / 2, z), "board")


def bowl() -> Mesh:
    """Returns a mixing bowl."""
    outer = [
        (0, 0),
        (0.045, 0),
        (0.075, 0.022),
        (0.096, 0.055),
        (0.103, 0.080),
        (0.099, 0.081),
        (0.090, 0.055),
        (0.07, 0.026),
        (0, 0.008),
    ]
    return lathe(outer, "bowl", 20)


def apple() -> Mesh:
    """Returns an apple."""
    return join(sphere((0.038, 0.038, 0.034), (0, 0, 0.034), "apple", 12, 8), cylinder(0.0018, 0.064, 0.078, "grip", 5))


def carrot_piece(index: int) -> Mesh:
    """Returns piece ``index`` of a carrot that lies along x with its tip at +x; its pose at rest is the identity."""
    span = CARROT_LENGTH / CARROT_PIECES
    low, high = index * span - CARROT_LENGTH / 2, (index + 1) * span - CARROT_LENGTH / 2

    def radius(x: float) -> float:
        s = (x + CARROT_LENGTH / 2) / CARROT_LENGTH
        return CARROT_RADIUS * (1.05 - 0.55 * s) * (1 if s < 0.97 else 0.6)

    turn = about_y(np.pi / 2)
    center = (0.0, 0.0, CARROT_RADIUS)
    skin = lathe([(radius(low), low), (radius(high), high)], "carrot", 12)
    cuts = [
        lathe([(0, low), (radius(low), low)], "carrot_cut", 12),
        lathe([(radius(high), high), (0, high)], "carrot_cut", 12),
    ]
    return join(skin, *cuts).moved(center, turn)


def carrot_leaves() -> Mesh:
    """Returns the green stub at the thick end of the carrot."""
    stalks = [bent_tube([(-CARROT_LENGTH / 2, 0, CARROT_RADIUS), (-CARROT_LENGTH / 2 - 0.022, dy,
    CARROT_RADIUS + 0.012)], 0.003, "leaf", 5)
              for dy in (-0.008, 0.0, 0.008)]  # fmt: skip
    return join(*stalks)


def bread_piece(index: int) -> Mesh:
    """Returns slice ``index`` of a loaf that lies along x on z = 0."""
    length, depth, height = BREAD_SIZE
    span = length / BREAD_PIECES
    xs = np.array([index * span, (index + 1) * span]) - length / 2
    angles = np.arange(16) * (2 * np.pi / 16)
    rings = []
    for x in xs:
        end = min(1.0, 0.55 + 2.6 * (0.5 - abs(x) / length) / 0.5)
        y = np.sign(np.cos(angles)) * np.abs(np.cos(angles)) ** 0.7 * depth / 2 * end
        z = np.sign(np.sin(angles)) * np.abs(np.sin(angles)) ** 0.7 * height / 2 * end + height / 2 * end
        rings.append(np.stack([np.full(16, x), y, z], -1))
    points = np.concatenate(rings)
    normals = points - np.repeat([[xs[0], 0, height / 2], [xs[1], 0, height / 2]], 16, 0)
    normals[:, 0] = 0
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    crust = Mesh(points, normals, points.copy(), tube_triangles(2, 16), np.zeros(32, np.int64), ["crust"] * 32)
    return join(crust, _disc(rings[0], -1.0), _disc(rings[1], 1.0))


def _disc(ring: Array, sign: float) -> Mesh:
    center = ring.mean(0, keepdims=True)
    points = np.concatenate([center, ring])
    order = np.arange(16)
    triangles = np.stack([np.zeros(16, int), 1 + order, 1 + (order + 1) % 16], -1)
    if sign < 0:
        triangles = triangles[:, [0, 2, 1]]
    normals = np.tile([sign, 0.0, 0.0], (17, 1))
    return Mesh(points, normals, points.copy(), triangles, np.zeros(16, np.int64), ["crumb"] * 16)


def stream(length: float = 1.0) -> Mesh:
    """Returns a unit column of water along -z, to be scaled to its length."""
    return lathe([(0.0062, -length), (0.0068, -0.5 * length), (0.0078, 0)], "water", 8)


def lying(mesh: Mesh) -> Mesh:
    """Returns a mesh tipped onto its side (about x)."""
    return mesh.moved((0, 0, 0), about_x(np.pi / 2))
