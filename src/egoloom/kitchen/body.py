"""The person: stance, lean, head and arms that follow the hands, and the surfaces of body and clothes.

World axes: x along the counter to the person's right, y into the wall, z up; the counter's front edge is y = 0.
Shape letters: T times, K rings.
"""

# ruff: noqa: RUF005 - offsets are added to arrays, no lists are joined

from dataclasses import dataclass

import numpy as np

from egoloom.kitchen.geometry import Array, about_x, about_y, about_z, apply, cross, multiply, normalize
from egoloom.kitchen.motion import PoseFunction, ScalarFunction, Unrest

MAX_PITCH_DOWN_RAD, MAX_YAW_RAD = np.radians(63.0), 0.9


@dataclass(frozen=True)
class Person:
    """Size and looks of a participant; lengths in metres, colours as hex."""

    height: float
    build: float
    skin: str
    shirt: str
    trousers: str
    hair: str
    sleeve: float
    pattern: int
    hair_length: float

    @property
    def arm_m(self) -> tuple[float, float]:
        """Upper arm and forearm length."""
        return 0.186 * self.height, 0.152 * self.height

    @property
    def hand_scale(self) -> float:
        """Size of the hand against the model hand."""
        return 0.96 * self.height / 1.72


_SKINS = ("f1c9a5", "e0ac80", "c68853", "9c6238", "71432a", "f5d4bd", "b57a4c", "54311f")
_SHIRTS = ("8c2f39", "2f5d8c", "3b7a57", "d9c77e", "5c4b8a", "cfd4d8", "30343b", "d07a3d")
_HAIR = ("2b1b12", "5a3a1e", "a9793f", "1b1b1f", "7b7b7b", "8a3b1c")


def make_person(seed: int, participant: int) -> Person:
    """Returns participant number ``participant`` of a store; the same for every clip."""
    rng = np.random.default_rng([seed, 101, participant])
    return Person(
        height=float(rng.uniform(1.58, 1.84)),
        build=float(rng.uniform(0.92, 1.14)),
        skin=_SKINS[participant % len(_SKINS)],
        shirt=_SHIRTS[int(rng.integers(len(_SHIRTS)))],
        trousers=("2c3544", "4a4037", "1f1f22", "5a6472")[int(rng.integers(4))],
        hair=_HAIR[int(rng.integers(len(_HAIR)))],
        sleeve=float(rng.choice([0.75, 1.05, 1.55, 1.92])),
        pattern=int(rng.integers(3)),
        hair_length=float(rng.choice([0.0, 0.0, 0.5, 1.0])),
    )


class Stance:
    """How the body stands and follows the hands; every method takes times ``[T]``."""

    def __init__(
        self, person: Person, rng: np.random.Generator, stand_xy: tuple[float, float], right: PoseFunction,
        left: PoseFunction, gaze: ScalarFunction, rhythm: ScalarFunction,
    ) -> None:  # fmt: skip
        self.person, self.right, self.left, self.gaze, self.rhythm = person, right, left, gaze, rhythm
        self.stand = np.array([*stand_xy, 0.53 * person.height])
        self.sway = Unrest(rng, [0.010, 0.008, 0.003], 0.15, 0.9)
        self.nod = Unrest(rng, [0.016, 0.020, 0.010], 0.2, 1.4)
        self.breath = Unrest(rng, [0.0025], 0.22, 0.33)
        self.base_lean = float(rng.uniform(0.07, 0.24))
        # Nobody wears a camera straight: radians by which it sits off the head's axes in this clip.
        self.mount_roll, self.mount_pitch, self.mount_yaw = (
            float(np.clip(rng.normal(0.0, sigma), -2 * sigma, 2 * sigma)) for sigma in (0.06, 0.09, 0.08)
        )
        self.reach = sum(person.arm_m) * 0.93

    def torso(self, times: Array) -> tuple[Array, Array]:
        """Returns rotation and pelvis position of the torso."""
        pelvis = self.stand + self.sway(times)
        height = 0.295 * self.person.height
        _, right = self.right(times)
        _, left = self.left(times)
        need, twist, side = 0.0, 0.0, 0.0
        for wrist, sign in ((right, 1.0), (left, -1.0)):
            offset = wrist - (pelvis + [0.17 * sign, 0.05, height])
            horizontal = np.sqrt(offset[:, 0] ** 2 + offset[:, 1] ** 2)
            allowed = np.sqrt(np.maximum(self.reach**2 - offset[:, 2] ** 2, 0.04))
            excess = horizontal - allowed
            soft = 0.5 * (excess + np.sqrt(excess**2 + 0.05**2))
            need = need + soft
            twist = twist + sign * 0.55 * (offset[:, 1] - 0.3)
            side = side + 0.10 * offset[:, 0]
        lean = self.base_lean + np.minimum(need, 0.4) / height * 0.62 + self.rhythm(times) * 0.02
        return multiply(about_z(twist * 0.5), multiply(about_y(np.clip(side, -0.3, 0.3)), about_x(-lean))), pelvis

    def neck(self, times: Array) -> Array:
        """Returns the joint about which the head nods ``[T, 3]``."""
        rotation, pelvis = self.torso(times)
        height = self.person.height
        joint = pelvis + apply(rotation, [0, 0.012, 0.318 * height])
        half = 0.5 * (rotation + np.eye(3))
        bob = self.rhythm(times)[:, None] * np.array([0.0015, 0.001, 0.004])
        return joint + apply(half, [0, 0.028, 0.048 * height]) + bob + self.breath(times) * np.array([0, 0, 1.0])

    def eye(self, times: Array) -> Array:
        """Returns the position of the camera on the head ``[T, 3]``."""
        return self.camera(times)[1]

    def camera(self, times: Array) -> tuple[Array, Array]:
        """Returns ``T_world_camera`` as rotation and position: OpenCV axes, as level as the camera is worn."""
        neck = self.neck(times)
        offset = self.gaze(times) - (neck + [0, 0.10, 0.02])
        # Near the nadir a look-at would spin: the eyes, not the head, take up small sideways offsets there.
        yaw = _soft_clip(np.arctan2(-offset[:, 0], np.abs(offset[:, 1]) + 0.40), -MAX_YAW_RAD, MAX_YAW_RAD)
        flat = np.sqrt(offset[:, 0] ** 2 + offset[:, 1] ** 2)
        pitch = _soft_clip(np.arctan2(offset[:, 2], flat), -MAX_PITCH_DOWN_RAD, 0.6)
        nod = self.nod(times)
        pitch = pitch + nod[:, 0] + self.mount_pitch + 0.010 * self.rhythm(times)
        roll = self.mount_roll + nod[:, 2] + 0.05 * yaw
        upright = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # camera axes of a level head facing +y
        head = multiply(about_z(yaw + self.mount_yaw + nod[:, 1]), multiply(about_x(pitch), about_y(roll)))
        return multiply(head, upright), neck + apply(head, [0, 0.095, 0.075])

    def arms(self, times: Array) -> list[tuple[Array, Array, Array]]:
        """Returns shoulder, elbow and wrist ``[T, 3]`` of the right and the left arm."""
        rotation, pelvis = self.torso(times)
        upper, lower = self.person.arm_m
        chains = []
        for pose, sign in ((self.right, 1.0), (self.left, -1.0)):
            hand_rotation, wrist = pose(times)
            rest = pelvis + apply(rotation, [0.118 * self.person.height * sign * self.person.build**0.5, 0.0,
                                             0.288 * self.person.height])  # fmt: skip
            way = wrist - rest
            far = np.sqrt((way**2).sum(-1, keepdims=True))
            shoulder = rest + way / far * 0.07 * np.clip(far / (upper + lower) - 0.55, 0, 0.6)
            # The elbow hangs outwards, behind the hand, and rises with the back of the hand.
            pole = apply(rotation, [0.75 * sign, -0.35, -0.85])
            pole = pole - 0.6 * hand_rotation[:, :, 1] + 0.6 * hand_rotation[:, :, 2]
            elbow, wrist = _two_bones(shoulder, wrist, upper, lower, pole)
            chains.append((shoulder, elbow, wrist))
        return chains


def _soft_clip(values: Array, low: float, high: float, knee: float = 0.08) -> Array:
    """Clips with rounded corners, so that angular acceleration stays finite."""
    values = 0.5 * (values + low + np.sqrt((values - low) ** 2 + knee**2))
    return 0.5 * (values + high - np.sqrt((values - high) ** 2 + knee**2))


def _two_bones(root: Array, end: Array, upper: float, lower: float, pole: Array) -> tuple[Array, Array]:
    """Returns the middle joint and the end of a two-bone chain; an end out of reach stretches the bones a little."""
    way = end - root
    distance = np.sqrt((way**2).sum(-1, keepdims=True))
    stretch = np.maximum(1.0, distance / (upper + lower) / 0.995)
    upper, lower = upper * stretch, lower * stretch
    direction = way / np.maximum(distance, 1e-6)
    distance = np.maximum(distance, 0.12)
    cosine = np.clip((upper**2 + distance**2 - lower**2) / (2 * upper * distance), -1, 1)
    bend = normalize(pole - direction * (pole * direction).sum(-1, keepdims=True))
    return root + upper * (cosine * direction + np.sqrt(1 - cosine**2) * bend), end


def forearm_hint(shoulder: Array, elbow: Array, wrist: Array) -> Array:
    """Returns the axis about which an elbow bends ``[T, 3]``: the side direction of an arm's rings."""
    return normalize(cross(elbow - shoulder, wrist - elbow) + 1e-6)
