"""What a choreography works with: the station, where things stand, and the record of a performance."""

# ruff: noqa: RUF005 - offsets are added to arrays, no lists are joined

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from egoloom.kitchen import hand as hands
from egoloom.kitchen import props
from egoloom.kitchen.body import Person
from egoloom.kitchen.geometry import Array, about_z, rotation_from_axis
from egoloom.kitchen.motion import Anchor, PoseFunction, ScalarFunction, Unrest, attached, chain, steps, still
from egoloom.kitchen.room import COUNTER_Z, Kitchen

IDENTITY = np.eye(3)


@dataclass(frozen=True)
class Event:
    """A short sound: what kind, when, how loud, where; ``only`` limits it to one direction of time."""

    time_s: float
    kind: str
    strength: float
    position: tuple[float, float, float]
    only: str = ""


@dataclass(frozen=True)
class Loop:
    """A lasting sound: what kind and its loudness over time."""

    kind: str
    envelope: ScalarFunction


@dataclass(frozen=True)
class Contact:
    """A hand holds or presses something, named by the detector's word for it, from ``start_s`` to ``end_s``."""

    category: str
    start_s: float = -math.inf
    end_s: float = math.inf

    def share(self, duration_s: float) -> float:
        """Returns for which share of a clip from second 0 to ``duration_s`` the contact lasts."""
        return max(0.0, min(self.end_s, duration_s) - max(self.start_s, 0.0)) / duration_s


@dataclass
class Performance:
    """One action as functions of time (seconds from the start of the clip).

    ``contacts`` says what the hands ``"left"`` and ``"right"`` hold; a hand that is not there touches nothing.
    """

    right: PoseFunction
    left: PoseFunction
    right_fingers: ScalarFunction
    left_fingers: ScalarFunction
    focus: tuple[float, float, float]
    stand_xy: tuple[float, float]
    objects: dict[str, PoseFunction] = field(default_factory=dict)
    drawer_m: ScalarFunction | None = None
    door_rad: ScalarFunction | None = None
    lever_rad: ScalarFunction | None = None
    tap_flow: ScalarFunction | None = None
    tap_end_z: float = COUNTER_Z - 0.16
    pour: Callable[[Array], tuple[Array, Array, Array]] | None = None
    rhythm: ScalarFunction = field(default=lambda times: np.zeros(len(times)))
    events: list[Event] = field(default_factory=list)
    loops: list[Loop] = field(default_factory=list)
    gaze_hand_share: float = 0.45
    gaze: ScalarFunction | None = None
    contacts: dict[str, Contact] = field(default_factory=dict)


@dataclass
class Stage:
    """The place, the person and the chance that a choreography draws from."""

    kitchen: Kitchen
    person: Person
    rng: np.random.Generator
    duration_s: float
    station: str
    placed: dict[str, tuple[Array, Array]] = field(default_factory=dict)

    @property
    def x(self) -> float:
        """Where along the counter the action happens."""
        return {"sink": self.kitchen.sink_x, "hob": self.kitchen.hob_x, "prep": self.kitchen.prep_x}[self.station]

    def at(self, share: float, spread: float = 0.0) -> float:
        """Returns a time at ``share`` of a clip's nominal two seconds, jittered by ``spread`` seconds."""
        return float((share + self.rng.uniform(-spread, spread)) * self.duration_s / 2.0)

    def stand(self, dx: float = 0.0, y: float = -0.30) -> tuple[float, float]:
        """Returns where the person stands."""
        return (self.x + dx + float(self.rng.normal(0, 0.05)), y + float(self.rng.normal(0, 0.02)))

    def grip(self, shape: hands.Cylinder, fingers: ArrayLike, palm: ArrayLike, **options: Any) -> hands.Grip:
        """Returns how this person's hand holds a part; see :func:`egoloom.kitchen.hand.grip_cylinder`."""
        return hands.grip_cylinder(shape, fingers, palm, hand_scale=self.person.hand_scale, **options)

    def rest(self, side: str, stand_y: float = -0.28) -> PoseFunction:
        """Returns a hand that hovers or leans beside the work, with the small unrest of a living arm."""
        sign = 1.0 if side == "right" else -1.0
        rng = self.rng
        y = stand_y + rng.uniform(0.20, 0.38)
        # Before the counter's edge a hand hovers, behind it the hand may lean on the top.
        height = rng.uniform(0.97, 1.05) if y < 0.03 else rng.uniform(0.945, 1.0)
        position = np.array([self.x + sign * rng.uniform(0.20, 0.30), y, height])
        fingers = [-sign * rng.uniform(0.2, 0.6), 1.0, rng.uniform(-0.35, -0.1)]
        palm = [-sign * rng.uniform(0.1, 0.7), 0.0, -1.0]
        return self.alive(still(rotation_from_axis(fingers, -np.asarray(palm)), position), 0.006)

    def alive(self, pose: PoseFunction, amplitude_m: float) -> PoseFunction:
        """Returns the pose with smooth unrest added to its position."""
        unrest = Unrest(self.rng, [amplitude_m] * 3, 0.3, 1.6)

        def moved(times: Array) -> tuple[Array, Array]:
            rotation, position = pose(times)
            return rotation, position + unrest(times)

        return moved


SLOTS = (
    (0.32, 0.15), (0.36, 0.36), (-0.32, 0.17), (-0.38, 0.38), (-0.17, 0.50), (0.17, 0.50), (0.55, 0.22), (-0.55, 0.24),
    (0.45, 0.50), (-0.45, 0.50), (0.0, 0.52), (0.68, 0.40), (-0.68, 0.40),
)  # fmt: skip
# Half the width that a thing needs on the counter, in metres; the cutting board stands for what lies on it.
FOOTPRINT_M = {
    "mug": 0.065, "plate": 0.115, "bottle": 0.045, "bowl": 0.105, "apple": 0.045, "cloth": 0.115, "sponge": 0.07,
    "knife": 0.06,
}  # fmt: skip


def place_things(stage: Stage, keep_centre: bool) -> None:
    """Puts things onto the counter around the station; ``keep_centre`` leaves the board aside for the hands' work.

    A cloth, a sponge and crockery lie about in every kitchen, so that their presence gives no action away.
    """
    rng, kitchen = stage.rng, stage.kitchen
    taken = [(np.array([stage.x + 0.06, 0.22]), 0.20)]  # where the hands work
    stage.placed["pot"] = (about_z(rng.uniform(-0.3, 0.3)), np.array([kitchen.hob_x - 0.14, 0.19, COUNTER_Z + 0.0075]))
    board_x = kitchen.prep_x + (0.44 * float(rng.choice([-1, 1])) if stage.station == "prep" else 0.0)
    if keep_centre:
        stage.placed["board"] = (IDENTITY, np.array([board_x, 0.22, COUNTER_Z]))
        _food_on_board(stage)
        taken += [(np.array([board_x + dx, 0.22]), 0.15) for dx in (-0.09, 0.09)]
    side = float(rng.choice([-1, 1]))
    sponge = np.array([kitchen.sink_x + side * 0.34, 0.12 + rng.uniform(0, 0.1), COUNTER_Z])
    stage.placed["sponge"] = (about_z(rng.uniform(-1, 1)), sponge)
    taken.append((sponge[:2], FOOTPRINT_M["sponge"]))
    slots = [(stage.x + x, y) for x, y in SLOTS]
    for name in ("cloth", "plate", "bowl", "mug", "bottle", "apple"):
        spot = _free_spot(stage, slots, taken, FOOTPRINT_M[name])
        if spot is not None:
            stage.placed[name] = (about_z(rng.uniform(-np.pi, np.pi)), np.array([*spot, COUNTER_Z]))
            taken.append((spot, FOOTPRINT_M[name]))


def _free_spot(
    stage: Stage, slots: list[tuple[float, float]], taken: list[tuple[Array, float]], half_width: float
) -> Array | None:
    """Returns a slot where nothing else stands, off the sink and the hob; None if the counter is full."""
    kitchen = stage.kitchen
    for k in stage.rng.permutation(len(slots)):
        spot = np.array(slots[k]) + stage.rng.uniform(-0.02, 0.02, 2)
        off_sink = abs(spot[0] - kitchen.sink_x) > 0.27 + half_width or spot[1] > 0.60
        off_hob = abs(spot[0] - kitchen.hob_x) > 0.29 + half_width
        free = all(((spot - other) ** 2).sum() > (half_width + radius) ** 2 for other, radius in taken)
        if off_sink and off_hob and free and spot[1] + half_width < 0.64:
            return spot
    return None


def _food_on_board(stage: Stage) -> None:
    rng = stage.rng
    _, board = stage.placed["board"]
    top = board + [0, 0, props.BOARD[2]]
    spots = [(-0.03, 0.075), (0.03, -0.045)] if rng.random() < 0.5 else [(0.03, -0.06), (-0.02, 0.06)]
    stage.placed["carrot"] = (about_z(rng.uniform(-0.3, 0.3)), top + [*spots[0], 0])
    if rng.random() < 0.75:
        stage.placed["bread"] = (about_z(rng.uniform(-0.2, 0.2)), top + [*spots[1], 0])
    stage.placed["knife"] = (
        about_z(rng.uniform(1.2, 1.9)),
        top + [0.235 * np.sign(rng.normal()), -0.06, -props.BOARD[2] + 0.002],
    )


def held(parent: PoseFunction, grip: hands.Grip) -> PoseFunction:
    """Returns the pose of a hand that holds ``parent`` with ``grip``."""
    return attached(parent, grip.rotation, grip.position)


def fingers_path(key_times: list[float], states: list[Array]) -> ScalarFunction:
    """Returns finger states over time; see :func:`egoloom.kitchen.motion.steps` for the keys."""
    values = np.stack(states)
    return lambda times: steps(times, key_times, values)


def living_fingers(stage: Stage, path: ScalarFunction, amplitude: float = 0.03) -> ScalarFunction:
    """Returns finger states with small independent unrest."""
    unrest = Unrest(stage.rng, np.full((5, 3), amplitude), 0.4, 2.0)
    return lambda times: path(times) + unrest(times)


def reach_and_return(
    stage: Stage, start: PoseFunction, contact: PoseFunction, end: PoseFunction, times: tuple[float, float, float,
    float],
    lift: float = 0.04,
) -> PoseFunction:  # fmt: skip
    """Returns a hand that leaves ``start``, holds ``contact`` and ends at ``end``: at the four times, in order."""
    begin, arrive, leave, finish = times
    return chain([
        Anchor(start, -1.0, begin),
        Anchor(contact, arrive, leave, (0.0, -0.01, lift)),
        Anchor(end, finish, 99.0, (0.0, -0.02, lift)),
    ])  # fmt: skip
