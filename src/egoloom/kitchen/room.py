"""The kitchen itself: where its stations lie, how it looks, and its fixed and hinged parts.

World axes: x along the counter, y into the wall, z up, metres; the counter's front edge is y = 0, the floor z = 0.
"""

import functools
import itertools
from dataclasses import dataclass

import numpy as np

from egoloom.kitchen.geometry import Array, about_y, about_z, multiply
from egoloom.kitchen.materials import Material
from egoloom.kitchen.meshes import Mesh, box, cylinder, join, lathe, quad, sphere
from egoloom.kitchen.palette import kitchen_palette
from egoloom.kitchen.props import bent_tube

COUNTER_Z, WALL_Y = 0.90, 0.62
SINK_Y, TAP_Y = (0.07, 0.43), 0.485
SINK_HALF, SINK_DEPTH = 0.26, 0.17
DRAWER_HALF, DRAWER_Z = 0.26, (0.685, 0.845)
CUPBOARD_Y, CUPBOARD_Z = 0.30, (1.44, 2.06)
CUPBOARD_HALF = 0.21
LEVER_TIP = 0.085
LEVER_TURN_RAD = -0.65


@dataclass(frozen=True)
class Kitchen:
    """Layout and colours of one kitchen; x positions in metres, ``camera_side`` is where the exo camera stands."""

    sink_x: float
    hob_x: float
    prep_x: float
    camera_side: float
    camera_angle_deg: float
    camera_distance: float
    camera_height: float
    palette: dict[str, Material]
    lamp: tuple[float, float, float]
    warmth: float


def make_kitchen(seed: int, number: int) -> Kitchen:
    """Returns kitchen number ``number`` of a store; the same for every clip."""
    rng = np.random.default_rng([seed, 202, number])
    sink_x, hob_x = (-0.95, 0.95) if rng.random() < 0.5 else (0.95, -0.95)
    return Kitchen(
        sink_x=sink_x,
        hob_x=hob_x,
        prep_x=0.0,
        camera_side=1.0 if rng.random() < 0.6 else -1.0,
        camera_angle_deg=float(rng.uniform(80, 96)),
        camera_distance=float(rng.uniform(1.55, 1.8)),
        camera_height=float(rng.uniform(1.48, 1.72)),
        palette=kitchen_palette(rng),
        lamp=(float(rng.uniform(-0.4, 0.4)), float(rng.uniform(-0.75, -0.35)), 2.38),
        warmth=float(rng.uniform(0, 1)),
    )


@dataclass(frozen=True)
class Layout:
    """Where the stations lie along the counter; all that the fixed meshes depend on."""

    sink_x: float
    hob_x: float
    prep_x: float


def fixed_parts(kitchen: Kitchen) -> dict[str, Mesh]:
    """Returns the parts that never move, by name."""
    return _parts_of(Layout(kitchen.sink_x, kitchen.hob_x, kitchen.prep_x))


@functools.lru_cache(maxsize=16)
def _parts_of(layout: Layout) -> dict[str, Mesh]:
    return {
        "room": _room(),
        "counter": _counter(layout),
        "cabinets": _cabinets(layout),
        "sink": _sink(layout),
        "tap": _tap(layout),
        "hob": _hob(layout),
        "shelf": _wall_cupboard(layout),
        "window": _window(layout),
        "furniture": _furniture(),
    }


def _room() -> Mesh:
    low, high = np.array([-2.7, -2.7, 0.0]), np.array([2.7, WALL_Y, 2.5])
    x0, y0, z0 = low
    x1, y1, z1 = high

    def flat(outline: list, material: str, a: int, b: int) -> Mesh:
        corners = np.array(outline, float)
        return quad(corners, material, np.stack([corners[:, a], corners[:, b], np.full(4, 0.31)], -1))

    return join(
        flat([(x0, y0, z0), (x1, y0, z0), (x1, y1, z0), (x0, y1, z0)], "floor", 0, 1),
        flat([(x0, y1, z1), (x1, y1, z1), (x1, y0, z1), (x0, y0, z1)], "ceiling", 0, 1),
        flat([(x0, y1, 1.42), (x1, y1, 1.42), (x1, y1, z1), (x0, y1, z1)], "wall", 0, 2),
        flat([(x0, y1, z0), (x1, y1, z0), (x1, y1, 1.42), (x0, y1, 1.42)], "tiles", 0, 2),
        flat([(x1, y0, z0), (x0, y0, z0), (x0, y0, z1), (x1, y0, z1)], "wall", 0, 2),
        flat([(x0, y0, z0), (x0, y1, z0), (x0, y1, z1), (x0, y0, z1)], "wall", 1, 2),
        flat([(x1, y1, z0), (x1, y0, z0), (x1, y0, z1), (x1, y1, z1)], "wall", 1, 2),
    )


def _counter(layout: Layout) -> Mesh:
    z0, z1 = COUNTER_Z - 0.035, COUNTER_Z
    a, b = layout.sink_x - SINK_HALF, layout.sink_x + SINK_HALF
    return join(
        box((-1.75, 0.0, z0), (a, WALL_Y, z1), "counter"),
        box((b, 0.0, z0), (1.75, WALL_Y, z1), "counter"),
        box((a, 0.0, z0), (b, SINK_Y[0], z1), "counter"),
        box((a, SINK_Y[1], z0), (b, WALL_Y, z1), "counter"),
    )


def _cabinets(layout: Layout) -> Mesh:
    parts = [box((-1.75, 0.06, 0.0), (1.75, WALL_Y, 0.10), "carcass")]
    top = COUNTER_Z - 0.036
    a, b = layout.prep_x - DRAWER_HALF, layout.prep_x + DRAWER_HALF
    # Left and right of the drawer: closed carcasses; around it: a recess that the drawer slides out of.
    for low, high in ((-1.75, a), (b, 1.75)):
        inside = low < layout.sink_x < high
        parts.append(
            box((low, 0.035, 0.10), (high, WALL_Y, COUNTER_Z - SINK_DEPTH - 0.01 if inside else top), "carcass")
        )
        if inside:
            parts.append(box((low, 0.035, COUNTER_Z - SINK_DEPTH - 0.01), (high, SINK_Y[0] - 0.001, top), "carcass"))
        count = 3
        edges = np.linspace(low, high, count + 1)
        for left, right in itertools.pairwise(edges):
            parts.append(box((left + 0.006, 0.015, 0.105), (right - 0.006, 0.035, top - 0.006), "front"))
            x = right - 0.05 if left < layout.prep_x else left + 0.05
            parts.append(box((x - 0.006, -0.012, 0.62), (x + 0.006, 0.0, 0.80), "knob"))
    parts += [
        box((a, 0.035, 0.10), (b, WALL_Y, DRAWER_Z[0] - 0.012), "carcass"),
        box((a, 0.035, DRAWER_Z[1] + 0.004), (b, WALL_Y, top), "carcass"),
        box((a, 0.50, DRAWER_Z[0] - 0.012), (b, WALL_Y, DRAWER_Z[1] + 0.004), "carcass"),
        box((a + 0.006, 0.015, 0.40), (b - 0.006, 0.035, DRAWER_Z[0] - 0.010), "front"),
        box((a + 0.006, 0.015, 0.105), (b - 0.006, 0.035, 0.39), "front"),
        bent_tube(
            [(a + 0.16, 0.015, 0.61), (a + 0.16, -0.015, 0.61), (b - 0.16, -0.015, 0.61), (b - 0.16, 0.015, 0.61)],
            0.007,
            "knob",
            6,
        ),
    ]
    return join(*parts)


@functools.cache
def drawer_mesh() -> Mesh:
    """Returns a drawer with cutlery in it; closed at the origin of the drawer's recess, slides along -y."""
    w, (z0, z1) = DRAWER_HALF - 0.006, DRAWER_Z
    parts = [
        box((-w, 0.013, z0 - 0.006), (w, 0.034, z1), "front"),
        box((-w + 0.02, 0.034, z0 + 0.01), (w - 0.02, 0.47, z0 + 0.018), "inside"),
        box((-w + 0.012, 0.034, z0 + 0.01), (-w + 0.024, 0.47, z1 - 0.03), "inside"),
        box((w - 0.024, 0.034, z0 + 0.01), (w - 0.012, 0.47, z1 - 0.03), "inside"),
        box((-w + 0.012, 0.46, z0 + 0.01), (w - 0.012, 0.472, z1 - 0.03), "inside"),
        bent_tube(
            [(-0.09, 0.014, 0.772), (-0.09, -0.026, 0.772), (0.09, -0.026, 0.772), (0.09, 0.014, 0.772)],
            0.0065,
            "knob",
            8,
        ),
    ]
    for k, x in enumerate((-0.16, -0.10, -0.05, 0.05, 0.11, 0.17)):
        parts.append(
            box(
                (x - 0.008, 0.10 + 0.012 * (k % 3), z0 + 0.018),
                (x + 0.008, 0.30, z0 + 0.030),
                "chrome" if k % 2 else "spoon",
            )
        )
    return join(*parts)


@functools.cache
def cupboard_door() -> Mesh:
    """Returns the cupboard's door with its hinge on the right at the origin; it reaches to -x, its front faces -y."""
    width, (z0, z1) = 2 * CUPBOARD_HALF - 0.006, CUPBOARD_Z
    panel = box((-width, -0.020, z0), (0, 0, z1), "front")
    inset = box((-width + 0.05, -0.024, z0 + 0.06), (-0.05, -0.019, z1 - 0.06), "front_edge")
    x = -width + 0.035
    handle = bent_tube(
        [(x, -0.018, z0 + 0.045), (x, -0.052, z0 + 0.045), (x, -0.052, z0 + 0.165), (x, -0.018, z0 + 0.165)],
        0.0065,
        "knob",
        8,
    )
    return join(panel, inset, handle)


def door_handle() -> tuple[float, float, float]:
    """Returns the middle of the cupboard's handle in the door's frame."""
    return (-(2 * CUPBOARD_HALF - 0.006) + 0.035, -0.052, CUPBOARD_Z[0] + 0.105)


def _wall_cupboard(layout: Layout) -> Mesh:
    x, (z0, z1) = layout.prep_x, CUPBOARD_Z
    a, b, y0, y1 = x - CUPBOARD_HALF, x + CUPBOARD_HALF, CUPBOARD_Y, WALL_Y
    t = 0.016
    parts = [
        box((a - t, y0, z0 - t), (a, y1, z1 + t), "front"),
        box((b, y0, z0 - t), (b + t, y1, z1 + t), "front"),
        box((a, y0, z0 - t), (b, y1, z0), "front"),
        box((a, y0, z1), (b, y1, z1 + t), "front"),
        box((a, y1 - 0.02, z0), (b, y1, z1), "inside"),
        box((a, y0 + 0.03, z0 + 0.30), (b, y1 - 0.02, z0 + 0.315), "inside"),
    ]
    for k in range(3):
        cup = cylinder(0.036, 0.0, 0.09, ("bowl", "plate", "rim")[k], 12)
        parts.append(cup.moved((a + 0.08 + 0.13 * k, y0 + 0.12, z0 + 0.001)))
        parts.append(
            cylinder(0.05, 0.0, 0.05 + 0.02 * k, ("plate", "bowl", "label")[k], 12).moved(
                (a + 0.08 + 0.13 * k, y0 + 0.13, z0 + 0.316)
            )
        )
    return join(*parts)


def _sink(layout: Layout) -> Mesh:
    x, (y0, y1) = layout.sink_x, SINK_Y
    a, b, z0, z1 = x - SINK_HALF, x + SINK_HALF, COUNTER_Z - SINK_DEPTH, COUNTER_Z
    walls = [
        quad([(a, y0, z0), (b, y0, z0), (b, y1, z0), (a, y1, z0)], "steel"),
        quad([(a, y0, z0), (a, y1, z0), (a, y1, z1), (a, y0, z1)], "steel"),
        quad([(b, y1, z0), (b, y0, z0), (b, y0, z1), (b, y1, z1)], "steel"),
        quad([(a, y1, z0), (b, y1, z0), (b, y1, z1), (a, y1, z1)], "steel"),
        quad([(b, y0, z0), (a, y0, z0), (a, y0, z1), (b, y0, z1)], "steel"),
    ]
    rim = [
        box((a - 0.012, y0 - 0.012, z1), (b + 0.012, y0, z1 + 0.004), "steel"),
        box((a - 0.012, y1, z1), (b + 0.012, y1 + 0.012, z1 + 0.004), "steel"),
        box((a - 0.012, y0, z1), (a, y1, z1 + 0.004), "steel"),
        box((b, y0, z1), (b + 0.012, y1, z1 + 0.004), "steel"),
    ]
    drain = cylinder(0.028, z0, z0 + 0.003, "handle", 12).moved((x, 0.5 * (y0 + y1), 0))
    return join(*walls, *rim, drain)


def spout(kitchen: Kitchen) -> tuple[float, float, float]:
    """Returns where water leaves the tap."""
    return (kitchen.sink_x, TAP_Y - 0.165, COUNTER_Z + 0.18)


def lever_pivot(kitchen: Kitchen) -> tuple[float, float, float]:
    """Returns the pivot of the tap's lever, on the right of its column."""
    return (kitchen.sink_x + 0.028, TAP_Y, COUNTER_Z + 0.135)


def _tap(layout: Layout) -> Mesh:
    x, z = layout.sink_x, COUNTER_Z
    arc = [(x, TAP_Y, z + 0.10), (x, TAP_Y, z + 0.20), (x, TAP_Y - 0.02, z + 0.245), (x, TAP_Y - 0.07, z + 0.27),
    (x, TAP_Y - 0.12, z + 0.262),
           (x, TAP_Y - 0.155, z + 0.232), (x, TAP_Y - 0.165, z + 0.18)]  # fmt: skip
    column = lathe(
        [(0.030, 0), (0.030, 0.008), (0.022, 0.014), (0.020, 0.165), (0.012, 0.172), (0, 0.172)], "chrome", 12
    )
    return join(column.moved((x, TAP_Y, z)), bent_tube(arc, 0.0115, "chrome", 8))


def lever_turn(raised_rad: Array | float) -> Array:
    """Returns the lever's rotation: it points to the right and towards the person, so that both sides see it."""
    return multiply(about_z(LEVER_TURN_RAD), about_y(-np.asarray(raised_rad)))


@functools.cache
def lever_mesh() -> Mesh:
    """Returns the tap's lever: pivot at the origin, pointing to +x before :func:`lever_turn`."""
    stick = bent_tube([(-0.012, 0, 0), (0.02, 0, 0), (LEVER_TIP - 0.012, -0.012, 0.012)], 0.0075, "chrome", 8)
    return join(stick, sphere((0.017, 0.011, 0.011), (LEVER_TIP, -0.014, 0.013), "knob", 10, 6))


def _hob(layout: Layout) -> Mesh:
    x, z = layout.hob_x, COUNTER_Z
    parts = [box((x - 0.29, 0.06, z), (x + 0.29, 0.55, z + 0.006), "hob")]
    for dx, dy, r in ((-0.14, 0.18, 0.085), (0.14, 0.18, 0.085), (-0.14, 0.42, 0.07), (0.14, 0.42, 0.07)):
        parts.append(
            lathe([(r - 0.006, 0.0062), (r, 0.0062), (r, 0.0075), (r - 0.006, 0.0075)], "ring", 20).moved(
                (x + dx, dy, z)
            )
        )
    hood = [
        box((x - 0.30, 0.22, 1.62), (x + 0.30, WALL_Y, 1.70), "steel"),
        box((x - 0.14, 0.36, 1.70), (x + 0.14, WALL_Y, 2.5), "steel"),
    ]
    return join(*parts, *hood)


def _window(layout: Layout) -> Mesh:
    x = layout.sink_x
    a, b, z0, z1, y = x - 0.42, x + 0.42, 1.20, 2.05, WALL_Y - 0.012
    pane = quad([(a, y, z0), (b, y, z0), (b, y, z1), (a, y, z1)], "glass")
    bars = [
        box((a - 0.05, y - 0.02, z0 - 0.05), (b + 0.05, WALL_Y, z0), "frame_wood"),
        box((a - 0.05, y - 0.02, z1), (b + 0.05, WALL_Y, z1 + 0.05), "frame_wood"),
        box((a - 0.05, y - 0.02, z0), (a, WALL_Y, z1), "frame_wood"),
        box((b, y - 0.02, z0), (b + 0.05, WALL_Y, z1), "frame_wood"),
        box((x - 0.015, y - 0.015, z0), (x + 0.015, WALL_Y, z1), "frame_wood"),
        box((a, y - 0.015, 1.62), (b, WALL_Y, 1.65), "frame_wood"),
    ]
    return join(pane, *bars)


def _furniture() -> Mesh:
    parts = [
        box((-0.9, -2.2, 0.72), (0.7, -1.5, 0.76), "table"),
        *[box((x, y, 0.0), (x + 0.06, y + 0.06, 0.72), "table") for x in (-0.88, 0.62) for y in (-2.18, -1.58)],
        box((-1.6, -2.69, 1.2), (-0.7, -2.66, 1.8), "art"),
        box((0.9, -2.69, 0.0), (1.75, -2.66, 2.05), "frame_wood"),
        box((-2.69, -1.9, 1.25), (-2.66, -1.1, 1.85), "art"),
        box((2.66, -1.9, 1.15), (2.69, -1.2, 1.75), "art"),
        box((1.95, -0.05, 0.0), (2.65, WALL_Y, 1.85), "fridge"),
        box((1.98, -0.085, 0.75), (2.0, -0.05, 1.25), "knob"),
        box((-2.65, -0.02, 0.0), (-1.95, WALL_Y, 2.0), "front"),
    ]
    return join(*parts)
