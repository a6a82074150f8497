"""One take as geometry: every vertex of the kitchen, the things and the person at every frame.

Shape letters: T frames, N vertices, F triangles.
"""

# ruff: noqa: RUF005 - offsets are added to arrays, no lists are joined

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from egoloom.kitchen import props, room
from egoloom.kitchen.body import Stance, make_person
from egoloom.kitchen.choreography import MOTIONS
from egoloom.kitchen.figure import Figure, person_palette
from egoloom.kitchen.geometry import Array, about_x, about_y, apply, multiply, normalize
from egoloom.kitchen.materials import Material
from egoloom.kitchen.meshes import Mesh, join
from egoloom.kitchen.motion import PoseFunction, Unrest
from egoloom.kitchen.plan import ClipPlan, clip_rng
from egoloom.kitchen.raster import vertex_normals
from egoloom.kitchen.settings import KitchenSettings
from egoloom.kitchen.stage import Contact, Performance, Stage
from egoloom.kitchen.vocabulary import ACTIONS, DETECTOR_CATEGORIES

NOT_DETECTABLE = ""
_CATEGORY_OF = {"hand_right": "hand", "hand_left": "hand", "door": "cupboard", "lever": "tap"}
_DETECTABLE_FIXED = {"tap": "tap"}


@dataclass(frozen=True)
class Instance:
    """One value of the id images: a name, and the detector's category ("" if it has no word for it)."""

    name: str
    category: str


@dataclass
class Take:
    """One performed action: geometry over T frames (one more than is shown, for the flow of the last one)."""

    times_s: Array
    points: Array
    normals: Array
    texture: Array
    triangles: NDArray[np.int64]
    material_F: NDArray[np.int64]
    group_F: NDArray[np.int64]
    instance_F: NDArray[np.uint8]
    materials: Array
    veil_F: NDArray[np.bool_]
    casts_F: NDArray[np.bool_]
    num_static_points: int
    num_static_triangles: int
    num_ego_triangles: int
    instances: list[Instance]
    stage: Stage
    performance: Performance
    stance: Stance


class _Builder:
    """Collects parts in the order static, moving, head."""

    def __init__(self, times_s: Array) -> None:
        self.times_s = times_s
        self.parts: list[tuple[str, Mesh, Array | None, Array | None]] = []

    def fixed(self, name: str, mesh: Mesh) -> None:
        self.parts.append((name, mesh, None, None))

    def rigid(self, name: str, mesh: Mesh, pose: PoseFunction) -> None:
        rotation, position = pose(self.times_s)
        points = position[:, None] + apply(rotation[:, None], mesh.points)
        self.parts.append((name, mesh, points, apply(rotation[:, None], mesh.normals)))

    def soft(self, name: str, mesh: Mesh, points: Array) -> None:
        normals = np.empty_like(points)
        vertex_normals(points, mesh.triangles, normals)
        self.parts.append((name, mesh, points, normals))


def build_take(settings: KitchenSettings, plan: ClipPlan) -> Take:
    """Returns the geometry of a clip; deterministic in the settings' seed and the plan's index."""
    rng = clip_rng(settings, plan.index, "scene")
    kitchen = room.make_kitchen(settings.seed, plan.kitchen)
    person = make_person(settings.seed, plan.participant)
    action = ACTIONS[plan.action]
    station, motion = MOTIONS[action.motion]
    stage = Stage(kitchen, person, rng, settings.duration_s, station)
    performance = motion(stage)
    if action.reverse:
        performance = reversed_performance(performance, settings.duration_s)
    else:
        performance.events = [event for event in performance.events if event.only != "reverse"]
    stance = _stance(stage, performance)
    times = np.arange(settings.num_frames + 1) / settings.fps
    builder = _Builder(times)
    _add_kitchen(builder, stage, performance)
    moving_from = _add_moving(builder, stage, performance)
    figure = Figure(person)
    fingers = {"hand_right": performance.right_fingers(times), "hand_left": performance.left_fingers(times)}
    points = figure.points(stance, fingers, times)
    for name, mesh in figure.templates().items():
        builder.soft(name, mesh, points[name])
    palette = {**kitchen.palette, **person_palette(person)}
    return _assemble(builder, palette, moving_from, stage, performance, stance)


def reversed_performance(p: Performance, duration_s: float) -> Performance:
    """Returns the performance played backwards in time, with sounds that fit that direction."""

    def back(function: Any) -> Any:
        return None if function is None else (lambda times: function(duration_s - times))

    events = [
        dataclasses.replace(event, time_s=duration_s - event.time_s) for event in p.events if event.only != "forward"
    ]
    loops = [type(loop)(loop.kind, back(loop.envelope)) for loop in p.loops]
    contacts = {
        hand: Contact(contact.category, duration_s - contact.end_s, duration_s - contact.start_s)
        for hand, contact in p.contacts.items()
    }
    return Performance(
        back(p.right), back(p.left), back(p.right_fingers), back(p.left_fingers), p.focus, p.stand_xy,
        {name: back(pose) for name, pose in p.objects.items()}, back(p.drawer_m), back(p.door_rad), back(p.lever_rad),
        back(p.tap_flow), p.tap_end_z, back(p.pour), back(p.rhythm), events, loops, p.gaze_hand_share,
        contacts=contacts,
    )  # fmt: skip


def _stance(stage: Stage, p: Performance) -> Stance:
    """Joins hands and gaze to a body: the eyes lead the hand a little and look near the focus of the work."""
    lead_s = float(stage.rng.uniform(0.10, 0.22))
    focus = np.array(p.focus) + stage.rng.normal(0, [0.04, 0.035, 0.015])
    wander = Unrest(stage.rng, [0.025, 0.02, 0.015], 0.3, 1.0)
    share = p.gaze_hand_share

    def gaze(times: Array) -> Array:
        rotation, wrist = p.right(times + lead_s)
        hand = wrist + 0.09 * rotation[:, :, 1]
        return focus + share * (hand - focus) + wander(times)

    return Stance(stage.person, stage.rng, p.stand_xy, p.right, p.left, gaze, p.rhythm)


def _add_kitchen(builder: _Builder, stage: Stage, p: Performance) -> None:
    for name, mesh in room.fixed_parts(stage.kitchen).items():
        builder.fixed(name, mesh)
    if "drawer" not in p.objects:
        builder.fixed("drawer", room.drawer_mesh().moved((stage.kitchen.prep_x, 0, 0)))
    if "door" not in p.objects:
        hinge = (stage.kitchen.prep_x + room.CUPBOARD_HALF - 0.003, room.CUPBOARD_Y, 0)
        builder.fixed("door", room.cupboard_door().moved(hinge))
    if "lever" not in p.objects:
        raised = 0.0 if p.lever_rad is None else 0.75
        builder.fixed("lever", room.lever_mesh().moved(room.lever_pivot(stage.kitchen), room.lever_turn(raised)))
    for name, (rotation, position) in stage.placed.items():
        if not {name, f"{name}_0", f"{name}_open"} & set(p.objects):
            builder.fixed(name, _prop_mesh(name).moved(position, rotation))
    if "pot" in stage.placed and "spoon" not in p.objects:
        _, position = stage.placed["pot"]
        builder.fixed("spoon", props.spoon().moved(position + [0.03, 0.01, 0.08], _leaning()))


def _leaning() -> Array:
    return multiply(about_y(np.array(0.55)), about_x(np.array(0.25)))


@functools.cache
def _prop_mesh(name: str) -> Mesh:
    if name == "carrot":
        return join(*[props.carrot_piece(k) for k in range(props.CARROT_PIECES)], props.carrot_leaves())
    if name == "bread":
        return join(*[props.bread_piece(k) for k in range(props.BREAD_PIECES)])
    return getattr(props, name)()


@functools.cache
def _moving_mesh(name: str) -> Mesh:
    stem, _, number = name.partition("_")
    if number.isdigit():
        return {"carrot": props.carrot_piece, "bread": props.bread_piece}[stem](int(number))
    special = {
        "drawer": room.drawer_mesh,
        "door": room.cupboard_door,
        "lever": room.lever_mesh,
        "carrot_leaves": props.carrot_leaves,
    }
    return special[name]() if name in special else getattr(props, name)()


def _add_moving(builder: _Builder, stage: Stage, p: Performance) -> int:
    start = len(builder.parts)
    for name, pose in p.objects.items():
        builder.rigid(name, _moving_mesh(name), pose)
    times = builder.times_s
    if p.tap_flow is not None:
        top = np.broadcast_to(np.array(room.spout(stage.kitchen)), (len(times), 3))
        low = top * [1, 1, 0] + [0, 0, p.tap_end_z]
        _add_stream(builder, "tap_water", top, low, p.tap_flow(times), 1.0)
    if p.pour is not None:
        top, low, flow = p.pour(times)
        _add_stream(builder, "poured_water", top, low, flow, 1.3)
    return start


def _add_stream(builder: _Builder, name: str, top: Array, low: Array, flow: Array, width: float) -> None:
    mesh = props.stream()
    share = -mesh.points[:, 2]
    times = builder.times_s[:, None]
    shimmer = 1 + 0.25 * np.sin(40 * share[None] - 37 * times) * share[None]
    radius = (np.clip(flow, 0, 1) ** 0.5)[:, None] * width * shimmer
    axis = top[:, None] + share[None, :, None] * (low - top)[:, None]
    points = axis + mesh.points[None] * [1, 1, 0] * radius[:, :, None]
    points = np.where((flow > 0.03)[:, None, None], points, top[:, None])
    builder.soft(name, mesh, points)


def _assemble(
    builder: _Builder, palette: dict[str, Material], moving_from: int, stage: Stage, p: Performance, stance: Stance
) -> Take:
    parts, count = builder.parts, len(builder.times_s)
    num_points = sum(len(mesh.points) for _, mesh, _, _ in parts)
    points, normals = np.empty((count, num_points, 3)), np.empty((count, num_points, 3))
    names = list(dict.fromkeys(name for _, mesh, _, _ in parts for name in mesh.material))
    row_of = {name: k for k, name in enumerate(names)}
    instances, instance_of = [Instance("nothing", NOT_DETECTABLE)], {}
    triangles, material, group, instance = [], [], [], []
    at, groups = 0, 0
    static_points = static_triangles = ego_triangles = 0
    for k, (name, mesh, moved, moved_normals) in enumerate(parts):
        if k == moving_from:
            static_points, static_triangles = at, sum(map(len, triangles))
        if name == "head":
            ego_triangles = sum(map(len, triangles))
        size = len(mesh.points)
        points[:, at : at + size] = mesh.points if moved is None else moved
        normals[:, at : at + size] = mesh.normals if moved_normals is None else moved_normals
        number = instance_of.setdefault(_instance_name(name), len(instances))
        if number == len(instances):
            instances.append(Instance(_instance_name(name), _category(_instance_name(name))))
        triangles.append(mesh.triangles + at)
        material.append([row_of[m] for m in mesh.material])
        group.append(mesh.group + groups)
        instance.append(np.full(len(mesh.triangles), number, np.uint8))
        at, groups = at + size, groups + int(mesh.group.max()) + 1
    material_F = np.concatenate([np.asarray(m, np.int64) for m in material])
    table = np.array([palette[name].row() for name in names])
    return Take(
        builder.times_s, points, normals, np.concatenate([mesh.texture for _, mesh, _, _ in parts]),
        np.concatenate(triangles), material_F, np.concatenate(group), np.concatenate(instance), table,
        np.array([palette[n].veil for n in names])[material_F], np.array([palette[n].casts for n in names])[material_F],
        static_points, static_triangles, ego_triangles, instances, stage, p, stance,
    )  # fmt: skip


def _instance_name(part: str) -> str:
    stem, _, rest = part.partition("_")
    return stem if stem in ("carrot", "bread", "bottle") and rest else part


def _category(name: str) -> str:
    name = _CATEGORY_OF.get(name, _DETECTABLE_FIXED.get(name, name))
    return name if name in DETECTOR_CATEGORIES else NOT_DETECTABLE


def exo_camera(settings: KitchenSettings, take: Take, rng: np.random.Generator) -> tuple[Array, Array]:
    """Returns rotation and position of the fixed camera beside the person, towards the middle of the room."""
    kitchen, stage = take.stage.kitchen, take.stage
    side = kitchen.camera_side if stage.station == "prep" else -float(np.sign(stage.x))
    angle = np.radians(kitchen.camera_angle_deg + rng.uniform(-3, 3))
    target = np.array([stage.x, -0.12, 1.16])
    distance = kitchen.camera_distance + rng.uniform(-0.05, 0.05)
    position = target + [side * np.sin(angle) * distance, np.cos(angle) * distance, kitchen.camera_height - target[2]]
    forward = normalize(target - position)
    right = normalize(np.cross(forward, [0, 0, 1.0]))
    return np.stack([right, np.cross(forward, right), forward], -1), position
