"""An articulated hand: palm, thumb and four fingers of three segments, closed onto what they hold.

Hand frame of both hands: origin at the wrist, y towards the finger tips, z out of the back of the hand; the thumb lies
at -x on a right hand and at +x on a left one. Finger state ``[..., 5, 3]``: thumb (opposition 0..1, two flexions), then
index to little finger (three flexions each), in radians.

Shape letters: T times, J joints, K rings, S sides.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from egoloom.kitchen.geometry import Array, apply, cross, normalize, rotation_from_axis, transpose
from egoloom.kitchen.meshes import Mesh
from egoloom.kitchen.tubes import resample_chain, tube_points, tube_texture, tube_triangles

# Adult right hand in metres: knuckle, splay (rad), segment lengths, radii at knuckle .. tip.
KNUCKLES = np.array([[-0.030, 0.092, 0.003], [-0.009, 0.096, 0.006], [0.012, 0.091, 0.004], [0.031, 0.081, -0.001]])
SPLAY = np.array([-0.10, -0.02, 0.06, 0.15])
LENGTHS = np.array([[0.044, 0.026, 0.021], [0.049, 0.030, 0.022], [0.045, 0.028, 0.022], [0.035, 0.021, 0.019]])
RADII = np.array([[0.0105, 0.0095, 0.0085, 0.0070], [0.0108, 0.0098, 0.0087, 0.0072],
                  [0.0102, 0.0092, 0.0082, 0.0068], [0.0090, 0.0080, 0.0072, 0.0060]])  # fmt: skip
THUMB_BASE = np.array([-0.020, 0.020, -0.010])
THUMB_OPEN, THUMB_OPPOSED = np.array([-0.74, 0.64, -0.22]), np.array([-0.42, 0.60, -0.68])
THUMB_BEND = np.array([0.80, 0.25, -0.55])
THUMB_LENGTHS = np.array([0.046, 0.035, 0.029])
THUMB_RADII = np.array([0.0165, 0.0128, 0.0110, 0.0088])
PALM_Y = np.array([-0.040, -0.030, -0.012, 0.006, 0.030, 0.055, 0.078, 0.094, 0.1015])
PALM_RADII = np.array([[0.0100, 0.0080], [0.0265, 0.0190], [0.0275, 0.0185], [0.0300, 0.0175], [0.0370, 0.0170],
[0.0410, 0.0155],
                       [0.0420, 0.0135], [0.0385, 0.0105], [0.0250, 0.0040]])  # fmt: skip
SIDES = 8
PALM_SIDES = 12

OPEN = np.array([[0.2, 0.1, 0.1], [0.12, 0.15, 0.1], [0.12, 0.18, 0.1], [0.15, 0.2, 0.1], [0.18, 0.2, 0.1]])
RELAXED = np.array([[0.4, 0.25, 0.25], [0.45, 0.55, 0.3], [0.5, 0.6, 0.35], [0.55, 0.65, 0.35], [0.6, 0.65, 0.35]])
FLAT = np.array([[0.15, 0.1, 0.0], [0.05, 0.12, 0.05], [0.03, 0.12, 0.05], [0.05, 0.12, 0.05], [0.1, 0.15, 0.05]])
CLAW = np.array([[0.7, 0.3, 0.4], [0.75, 0.95, 0.5], [0.75, 1.0, 0.5], [0.75, 1.0, 0.5], [0.8, 1.0, 0.5]])


def finger_joints(state: Array, *, left: bool = False) -> Array:
    """Returns joints ``[..., 5, 4, 3]`` in the hand frame for finger states ``[..., 5, 3]``."""
    joints = np.empty((*state.shape[:-2], 5, 4, 3))
    joints[..., 1:, 0, :] = KNUCKLES
    angle = np.cumsum(state[..., 1:, :], -1)
    splay = SPLAY * np.clip(1 - state[..., 1:, 0] / 1.2, 0, 1)
    direction = np.stack(
        [np.sin(splay)[..., None] * np.cos(angle), np.cos(splay)[..., None] * np.cos(angle), -np.sin(angle)], -1
    )
    joints[..., 1:, 1:, :] = KNUCKLES[:, None] + np.cumsum(LENGTHS[:, :, None] * direction, -2)
    base = normalize(THUMB_OPEN + state[..., 0, :1] * (THUMB_OPPOSED - THUMB_OPEN))
    bend = normalize(THUMB_BEND - base * (base * THUMB_BEND).sum(-1, keepdims=True))
    flexion = np.concatenate([np.zeros_like(state[..., 0, :1]), np.cumsum(state[..., 0, 1:], -1)], -1)[..., None]
    direction = np.cos(flexion) * base[..., None, :] + np.sin(flexion) * bend[..., None, :]
    joints[..., 0, 0, :] = THUMB_BASE
    joints[..., 0, 1:, :] = THUMB_BASE + np.cumsum(THUMB_LENGTHS[:, None] * direction, -2)
    if left:
        joints[..., 0] *= -1
    return joints


@dataclass(frozen=True)
class Cylinder:
    """What fingers close on: a capped cylinder in the frame of the object that carries it."""

    center: tuple[float, float, float]
    axis: tuple[float, float, float]
    radius: float
    half_length: float


@dataclass(frozen=True)
class Grip:
    """How a hand holds an object: the hand's pose in the object's frame and the state of its fingers."""

    rotation: Array
    position: Array
    fingers: Array


def _distance(points: Array, center: Array, axis: Array, radius: float, half_length: float) -> Array:
    offset = points - center
    along = (offset * axis).sum(-1)
    radial = np.sqrt(np.maximum(((offset - along[..., None] * axis) ** 2).sum(-1), 0)) - radius
    axial = np.abs(along) - half_length
    outside = np.sqrt(np.maximum(radial, 0) ** 2 + np.maximum(axial, 0) ** 2)
    return outside + np.minimum(np.maximum(radial, axial), 0)


def _first_contact(states: Array, shape: tuple, first_segment: int) -> NDArray[np.int64]:
    """Returns per finger the last row of ``states [Q, 5, 3]`` before a touch of the given segment or a later one."""
    joints = finger_joints(states)[:, 1:]
    count = 3 - first_segment
    samples = [joints[:, :, first_segment + k] * (1 - s) + joints[:, :, first_segment + k + 1] * s
               for k in range(count) for s in (0.5, 1.0)]  # fmt: skip
    reach = np.stack([RADII[:, first_segment + k + 1] for k in range(count) for _ in (0, 1)])
    touching = (_distance(np.stack(samples, 2), *shape) < reach.T[None] * 0.85).any(2)
    first = np.where(touching.any(0), touching.argmax(0), len(states) - 1)
    return np.maximum(first - 1, 0)


def close_fingers(shape: Cylinder, *, opposition: float = 1.0, tight: float = 1.0) -> Array:
    """Returns the finger state of a right hand closed onto a cylinder given in the hand's frame.

    Each joint in turn, from the knuckle outwards, flexes until its part of the finger touches.
    """
    geometry = (np.array(shape.center), normalize(shape.axis), shape.radius, shape.half_length)
    state = np.tile(np.array([0.0, 0.08, 0.06]), (5, 1))
    state[0] = [opposition, 0, 0]
    limits = ((-0.15, 1.35), (0.08, 1.75), (0.06, 1.1))
    for joint, (low, high) in enumerate(limits):
        sweep = np.linspace(low, high * tight, 36)
        trial = np.tile(state, (len(sweep), 1, 1))
        trial[:, 1:, joint] = sweep[:, None]
        index = _first_contact(trial, geometry, joint)
        state[1:, joint] = sweep[index]
    return _close_thumb(state, geometry)


def _close_thumb(state: Array, geometry: tuple) -> Array:
    for joint, high in ((1, 1.0), (2, 1.2)):
        sweep = np.linspace(-0.25, high, 30)
        trial = np.tile(state, (len(sweep), 1, 1))
        trial[:, 0, joint] = sweep
        joints = finger_joints(trial)[:, 0]
        samples = np.stack([(joints[:, joint + 1] + joints[:, joint]) / 2, joints[:, joint + 1], joints[:, 3]], 1)
        touching = (_distance(samples, *geometry) < THUMB_RADII[2] * 0.85).any(1)
        state[0, joint] = sweep[max(int(touching.argmax()) - 1, 0)] if touching.any() else 0.35
    return state


def grip_cylinder(
    shape: Cylinder, fingers: ArrayLike, palm: ArrayLike, *, left: bool = False, along: float = 0.083,
    gap: float = 0.015, opposition: float = 1.0, tight: float = 1.0, hand_scale: float = 1.0,
) -> Grip:  # fmt: skip
    """Returns the grip of a hand whose palm lies against a cylinder of the object.

    Args:
        shape: The part that is held, in the object's frame.
        fingers: Direction of the straight fingers in the object's frame.
        palm: Direction out of the palm in the object's frame.
        left: Whether it is a left hand.
        along: Distance from the wrist to the point of the palm that touches, in metres.
        gap: Half thickness of the palm there, in metres.
        opposition: 0 thumb beside the palm, 1 thumb across from the fingers.
        tight: Scales how far fingers may flex.
        hand_scale: Size of the hand against the one that ``along`` and ``gap`` are given for; smaller fingers close
            farther around the same thing.
    """
    rotation = rotation_from_axis(fingers, -np.asarray(palm, float))
    way = along * hand_scale * rotation[:, 1] - (shape.radius + gap * hand_scale) * rotation[:, 2]
    wrist = np.array(shape.center) - way
    center = apply(transpose(rotation), way) / hand_scale
    axis = apply(transpose(rotation), shape.axis)
    if left:
        center, axis = center * [-1, 1, 1], axis * [-1, 1, 1]
    local = Cylinder(tuple(center), tuple(axis), shape.radius / hand_scale, shape.half_length / hand_scale)
    return Grip(rotation, wrist, close_fingers(local, opposition=opposition, tight=tight))


class HandMesh:
    """The skin of a hand: ring points for any pose, with fixed triangles and texture coordinates."""

    finger_shares = np.array([0.0, 0.35, 0.8, 1.0, 1.2, 1.75, 2.0, 2.25, 2.7, 3.0])

    def __init__(self, scale: float, *, left: bool) -> None:
        self.scale, self.left = scale, left
        self.finger_radii = [self._finger_radii(radii) for radii in (THUMB_RADII, *RADII)]
        self.template = self._template()

    def _finger_radii(self, radii: Array) -> Array:
        values = np.interp(self.finger_shares, np.arange(4), radii)
        values = np.concatenate([values, [radii[3] * 0.86, radii[3] * 0.5, radii[3] * 0.05]])
        bulge = np.where(np.isin(np.append(self.finger_shares, [9, 9, 9]), [1.0, 2.0]), 1.05, 1.0)
        return np.stack([values * bulge, values * bulge * 0.95], -1) * self.scale

    def _template(self) -> Mesh:
        rings = len(self.finger_shares) + 3
        triangles = [tube_triangles(len(PALM_Y), PALM_SIDES)]
        texture = [tube_texture(PALM_Y, PALM_RADII, PALM_SIDES)]
        start = len(PALM_Y) * PALM_SIDES
        group = [np.zeros(len(triangles[0]), np.int64)]
        material = ["skin"] * len(triangles[0])
        for finger in range(5):
            part = tube_triangles(rings, SIDES)
            triangles.append(part + start)
            lengths = np.append(self.finger_shares, [3.1, 3.2, 3.25]) * 0.03
            texture.append(tube_texture(lengths + finger, self.finger_radii[finger], SIDES))
            group.append(np.full(len(part), finger + 1))
            start += rings * SIDES
            # Nails: the two quads on the back of each finger tip.
            names = ["skin"] * len(part)
            for ring in (8, 9):
                for side in (1, 2):
                    for half in (0, 1):
                        names[half * (rings - 1) * SIDES + ring * SIDES + side] = "nail"
            material += names
        points = np.zeros((start, 3))
        return Mesh(
            points, points.copy(), np.concatenate(texture), np.concatenate(triangles), np.concatenate(group), material
        )

    def points(self, rotation_T33: Array, wrist_T3: Array, state_T53: Array, forearm_T3: Array) -> Array:
        """Returns skin points ``[T, N, 3]`` in world coordinates; ``forearm_T3`` points from the elbow to the wrist."""
        joints = finger_joints(state_T53, left=self.left) * self.scale
        world = wrist_T3[:, None, None] + apply(rotation_T33[:, None, None], joints)
        side_T3, back_T3 = rotation_T33[:, :, 0], rotation_T33[:, :, 2]
        palm = np.stack([np.zeros_like(PALM_Y), PALM_Y, np.zeros_like(PALM_Y)], -1) * self.scale
        palm = wrist_T3[:, None] + apply(rotation_T33[:, None], palm)
        # Behind the wrist the skin follows the forearm, so that a bent wrist stays closed.
        behind = PALM_Y < 0
        palm[:, behind] = wrist_T3[:, None] + forearm_T3[:, None] * (PALM_Y[behind] * self.scale)[None, :, None]
        parts = [tube_points(palm, PALM_RADII * self.scale, side_T3, PALM_SIDES)]
        for finger in range(5):
            chain = world[:, finger]
            tip = chain[:, 3] - chain[:, 2]
            tip = tip / np.sqrt((tip**2).sum(-1, keepdims=True))
            radius = (THUMB_RADII if finger == 0 else RADII[finger - 1])[3] * self.scale
            rounded = [chain[:, 3] + tip * radius * k for k in (0.45, 0.82, 0.95)]
            centers = np.concatenate([resample_chain(chain, self.finger_shares), np.stack(rounded, 1)], 1)
            hint = side_T3 if finger else normalize(cross(tip, back_T3) + 0.3 * side_T3)
            parts.append(tube_points(centers, self.finger_radii[finger], hint, SIDES))
        return np.concatenate(parts, 1)
