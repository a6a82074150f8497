"""Surfaces of the person: torso, arms with sleeves, hands, legs, head with hair and a head-mounted camera.

Shape letters: T times, K rings, N vertices.
"""

import numpy as np

from egoloom.kitchen.body import Person, Stance, forearm_hint
from egoloom.kitchen.geometry import Array, apply, cross, normalize
from egoloom.kitchen.hand import HandMesh
from egoloom.kitchen.materials import BOARDS, CHECKS, PLAIN, SKIN, Material, color, srgb
from egoloom.kitchen.meshes import Mesh, box, join, sphere
from egoloom.kitchen.tubes import resample_chain, tube_points, tube_texture, tube_triangles

TORSO_SIDES, ARM_SIDES, LEG_SIDES = 18, 12, 10


def person_palette(person: Person) -> dict[str, Material]:
    """Returns the materials of a participant."""
    skin = np.array(srgb(person.skin))
    pinker = color(skin * [1.02, 0.80, 0.76])
    shirt = srgb(person.shirt)
    lighter = color(0.55 * np.array(shirt) + 0.45)
    kind, scale = ((PLAIN, 1.0), (CHECKS, 22.0), (BOARDS, 26.0))[person.pattern]
    nail = color(0.6 * skin + 0.4 * np.array([0.95, 0.72, 0.66]))
    return {
        "skin": Material(color(skin), pinker, SKIN, 60.0, specular=0.10, gloss=14, wrap=0.22),
        "nail": Material(nail, specular=0.35, gloss=30, wrap=0.2),
        "shirt": Material(shirt, lighter, kind, scale, specular=0.0, wrap=0.15),
        "cuff": Material(color(0.75 * np.array(shirt)), specular=0.0, wrap=0.15),
        "trousers": Material(srgb(person.trousers), specular=0.0, wrap=0.15),
        "hair": Material(srgb(person.hair), specular=0.25, gloss=12, wrap=0.1),
        "shoes": Material(srgb("26211d"), specular=0.2),
        "frame": Material(srgb("17181a"), specular=0.6, gloss=40),
        "lens": Material(srgb("39424e"), specular=0.9, gloss=60),
        "eye": Material(srgb("f2efe9"), specular=0.5, gloss=50),
        "pupil": Material(srgb("1d1410"), specular=0.5, gloss=50),
        "lip": Material(color(skin * [0.85, 0.52, 0.5]), specular=0.1),
    }


class _Tube:
    """A tube part: fixed triangles, one material per ring interval."""

    def __init__(self, radii_K2: Array, lengths_K: Array, sides: int, materials: list[str]) -> None:
        self.radii, self.sides = radii_K2, sides
        triangles = tube_triangles(len(radii_K2), sides)
        names = [materials[k // sides] for k in range((len(radii_K2) - 1) * sides)] * 2
        points = np.zeros((len(radii_K2) * sides, 3))
        texture = tube_texture(lengths_K, radii_K2, sides)
        group = np.zeros(len(triangles), np.int64)
        self.template = Mesh(points, points.copy(), texture, triangles, group, names)

    def points(self, centers_TK3: Array, side_T3: Array) -> Array:
        return tube_points(centers_TK3, self.radii, side_T3, self.sides)


class Figure:
    """All surfaces of one person; ``points`` returns them per part for any times."""

    def __init__(self, person: Person) -> None:
        self.person = person
        self.hands = {
            "hand_right": HandMesh(person.hand_scale, left=False),
            "hand_left": HandMesh(person.hand_scale, left=True),
        }
        self.arm = self._arm()
        self.torso = self._torso()
        self.leg = self._leg()
        self.head = head_mesh(person)

    def templates(self) -> dict[str, Mesh]:
        """Returns the mesh of every part; parts of the head carry names that start with "head"."""
        return {
            "torso": self.torso.template,
            "leg_right": self.leg.template, "leg_left": self.leg.template,
            "arm_right": self.arm.template, "arm_left": self.arm.template,
            "hand_right": self.hands["hand_right"].template, "hand_left": self.hands["hand_left"].template,
            "head": self.head,
        }  # fmt: skip

    def points(self, stance: Stance, fingers: dict[str, Array], times: Array) -> dict[str, Array]:
        """Returns points ``[T, N, 3]`` of every part."""
        rotation, pelvis = stance.torso(times)
        camera_rotation, eye = stance.camera(times)
        parts = {"torso": self._torso_points(rotation, pelvis, camera_rotation, eye)}
        parts["leg_right"], parts["leg_left"] = (self._leg_points(stance, pelvis, s) for s in (1.0, -1.0))
        for name, pose, arm in zip(("right", "left"), (stance.right, stance.left), stance.arms(times), strict=True):
            hand_rotation, wrist = pose(times)
            parts[f"arm_{name}"] = self._arm_points(arm, hand_rotation)
            key = f"hand_{name}"
            parts[key] = self.hands[key].points(hand_rotation, wrist, fingers[key], normalize(arm[2] - arm[1]))
        parts["head"] = eye[:, None] + apply(camera_rotation[:, None], self.head.points)
        return parts

    def _arm(self) -> _Tube:
        shares = np.array([0, 0.04, 0.12, 0.3, 0.55, 0.8, 0.93, 1.0, 1.07, 1.2, 1.4, 1.6, 1.8, 1.93, 2.0, 2.0])
        wide = np.array(
            [
                0.030,
                0.052,
                0.056,
                0.050,
                0.046,
                0.043,
                0.042,
                0.0425,
                0.043,
                0.044,
                0.040,
                0.034,
                0.029,
                0.0265,
                0.026,
                0.010,
            ]
        )
        self.arm_shares = shares
        cloth = shares < self.person.sleeve
        radii = wide * self.person.build * np.where(cloth, 1.16, 1.0)
        flat = np.stack([radii, radii * np.where(shares > 1.7, 0.74, 0.96)], -1)
        names = []
        for k in range(len(shares) - 1):
            last = cloth[k] and not cloth[k + 1]
            names.append("cuff" if last and self.person.sleeve < 1.9 else "shirt" if cloth[k] else "skin")
        return _Tube(flat, shares * 0.28, ARM_SIDES, names)

    def _arm_points(self, arm: tuple[Array, Array, Array], hand_rotation: Array) -> Array:
        shoulder, elbow, wrist = arm
        chain = np.stack([shoulder, elbow, wrist], 1)
        centers = resample_chain(chain, self.arm_shares)
        # The elbow's corner is rounded by pulling its neighbours inwards.
        middle = 0.5 * (resample_chain(chain, [0.9]) + resample_chain(chain, [1.1]))
        for ring, pull in ((6, 0.18), (7, 0.5), (8, 0.18)):
            centers[:, ring] += pull * (middle[:, 0] - elbow) * 0.8
        # The last ring closes the wrist, which a bent hand would otherwise show as a hollow tube.
        centers[:, -1] += 0.014 * normalize(wrist - elbow)
        bend = forearm_hint(shoulder, elbow, wrist)
        # The forearm twists with the hand: its rings turn from the elbow's axis to the hand's side direction.
        side = hand_rotation[:, :, 0]
        along = normalize(wrist - elbow)
        across = normalize(cross(along, side))
        if (bend * across).sum() < 0:
            bend = -bend
        share = np.clip((self.arm_shares - 1.0), 0, 1)[None, :, None] ** 0.8
        hint = normalize(bend[:, None] * (1 - share) + across[:, None] * share)
        turned = normalize(cross(hint, np.broadcast_to(along[:, None], hint.shape)))
        return self.arm.points(centers, np.where(self.arm_shares[None, :, None] > 0.9, turned, turned[:, :1]))

    def _torso(self) -> _Tube:
        scale = self.person.height / 1.72
        build = self.person.build
        self.torso_heights = (
            np.array([-0.10, -0.09, 0.0, 0.10, 0.20, 0.30, 0.38, 0.44, 0.475, 0.495, 0.505, 0.53, 0.575]) * scale
        )
        wide = (
            np.array([0.02, 0.160, 0.172, 0.160, 0.152, 0.168, 0.185, 0.188, 0.165, 0.110, 0.062, 0.055, 0.055]) * build
        )
        deep = (
            np.array([0.02, 0.110, 0.118, 0.108, 0.104, 0.112, 0.118, 0.110, 0.095, 0.072, 0.058, 0.055, 0.053]) * build
        )
        names = ["trousers", "trousers"] + ["shirt"] * 8 + ["skin"] * 2
        return _Tube(np.stack([wide, deep], -1), self.torso_heights, TORSO_SIDES, names)

    def _torso_points(self, rotation: Array, pelvis: Array, camera_rotation: Array, eye: Array) -> Array:
        height = self.torso_heights
        # The spine bends: low rings stay upright, high rings follow the lean.
        share = np.clip((height + 0.05) / (0.35 * self.person.height / 1.72), 0, 1)
        up = rotation[:, :, 2]
        direction = np.array([0.0, 0, 1]) * (1 - share)[None, :, None] + up[:, None] * share[None, :, None]
        rise = np.diff(height, prepend=height[0])[None, :, None]
        start = pelvis + np.array([0, 0, 1.0]) * height[0]
        centers = start[:, None] + np.cumsum(normalize(direction) * rise, 1)
        centers += (pelvis + up * height[-1] - centers[:, -1])[:, None] * (share**2)[None, :, None]
        # The neck joins the collar to the base of the skull, 11 cm behind and 6 cm below the camera.
        skull = eye - camera_rotation[:, :, 2] * 0.105 + camera_rotation[:, :, 1] * 0.045
        collar = centers[:, -4]
        for k, share in ((3, 0.25), (2, 0.6), (1, 1.0)):
            centers[:, -k] = collar + share * (skull - collar)
        return self.torso.points(centers, rotation[:, :, 0])

    def _leg(self) -> _Tube:
        lengths = np.array([0, 0.12, 0.3, 0.45, 0.5, 0.56, 0.75, 0.9, 0.955, 0.965, 1.0])
        radii = (
            np.array([0.088, 0.090, 0.078, 0.064, 0.062, 0.061, 0.058, 0.048, 0.046, 0.045, 0.042]) * self.person.build
        )
        return _Tube(np.stack([radii, radii], -1), lengths, LEG_SIDES, ["trousers"] * 8 + ["shoes"] * 2)

    def _leg_points(self, stance: Stance, pelvis: Array, sign: float) -> Array:
        hip = pelvis + np.array([0.085 * sign, 0, -0.02])
        foot = np.broadcast_to(stance.stand * [1, 1, 0] + [0.10 * sign, 0.0, 0.03], hip.shape)
        knee = 0.5 * (hip + foot) + [0.01 * sign, 0.03, 0.0]
        lengths = np.array([0, 0.12, 0.3, 0.45, 0.5, 0.56, 0.75, 0.9, 0.955, 0.965, 1.0])
        centers = resample_chain(np.stack([hip, knee, foot], 1), lengths * 1.999)
        centers[:, -1] += [0, 0.10, -0.01]
        centers[:, -2] += [0, 0.04, 0.0]
        return self.leg.points(centers, np.broadcast_to(np.array([1.0, 0, 0]), hip.shape))


def head_mesh(person: Person) -> Mesh:
    """Returns head, hair, face and the camera glasses in the camera's frame (x right, y down, z forward)."""
    parts = [
        sphere((0.074, 0.088, 0.094), (0, -0.015, -0.098), "skin", 16, 10),  # skull
        sphere((0.058, 0.075, 0.060), (0, 0.045, -0.062), "skin", 14, 8),  # jaw and cheeks
        sphere((0.011, 0.020, 0.018), (0, 0.028, -0.004), "skin", 8, 5),  # nose
        sphere((0.079, 0.072, 0.096), (0, -0.045, -0.112), "hair", 16, 9),
        sphere(
            (0.076, 0.085 + 0.06 * person.hair_length, 0.055),
            (0, -0.005 + 0.05 * person.hair_length, -0.150),
            "hair",
            14,
            8,
        ),
        sphere((0.021, 0.006, 0.010), (0, 0.075, -0.012), "lip", 8, 4),
    ]
    for sign in (-1.0, 1.0):
        parts += [
            sphere((0.012, 0.008, 0.008), (0.030 * sign, 0.006, -0.018), "eye", 8, 5),
            sphere((0.005, 0.005, 0.004), (0.029 * sign, 0.006, -0.011), "pupil", 6, 4),
            sphere((0.010, 0.022, 0.014), (0.076 * sign, 0.012, -0.095), "skin", 8, 5),  # ear
            box(
                (0.066 * sign - 0.003 + 0.008 * sign, -0.004, -0.100),
                (0.066 * sign + 0.003 + 0.008 * sign, 0.004, -0.004),
                "frame",
            ),
            box((0.030 * sign - 0.024, -0.010, -0.006), (0.030 * sign + 0.024, -0.006, 0.0), "frame"),
            box((0.030 * sign - 0.024, 0.020, -0.006), (0.030 * sign + 0.024, 0.023, 0.0), "frame"),
        ]
    parts += [
        box((-0.078, -0.014, -0.012), (0.078, -0.006, -0.002), "frame"),
        box((-0.019, -0.034, -0.022), (0.019, -0.010, -0.001), "frame"),  # camera body
        sphere((0.008, 0.008, 0.006), (0, -0.022, 0.0), "lens", 8, 5),
    ]
    return join(*parts)
