"""How each action is done: hands, tools, hinges, water and the moments of contact, all as functions of time."""

# ruff: noqa: RUF005 - offsets are added to arrays, no lists are joined

from collections.abc import Callable

import numpy as np

from egoloom.kitchen import hand as hands
from egoloom.kitchen import props
from egoloom.kitchen.choreography_cyclic import cut, stir, wash, wipe
from egoloom.kitchen.geometry import Array, about_y, about_z, apply, multiply
from egoloom.kitchen.hand import Cylinder
from egoloom.kitchen.motion import Anchor, Unrest, chain, minimum_jerk, snap, steps, still, window
from egoloom.kitchen.room import (
    COUNTER_Z,
    CUPBOARD_HALF,
    CUPBOARD_Y,
    DRAWER_Z,
    LEVER_TIP,
    door_handle,
    lever_pivot,
    lever_turn,
    spout,
)
from egoloom.kitchen.stage import (
    IDENTITY,
    Contact,
    Event,
    Loop,
    Performance,
    Stage,
    fingers_path,
    held,
    living_fingers,
    place_things,
    reach_and_return,
)  # fmt: skip

# Held a little below its middle, and taller than the mug is, so that the thumb does not bend over the rim into it.
MUG_BODY = Cylinder((0, 0, 0.042), (0, 0, 1), props.MUG_RADIUS, 0.2)


def _point(values: Array) -> tuple[float, float, float]:
    return (float(values[0]), float(values[1]), float(values[2]))


def _contact_times(stage: Stage) -> tuple[float, float, float, float]:
    """Returns start, contact, release and return; symmetric about the middle, so that time can run backwards."""
    return (stage.at(0.10, 0.08), stage.at(0.62, 0.10), stage.at(1.38, 0.10), stage.at(1.90, 0.08))


def drawer(stage: Stage) -> Performance:
    """Pulls the drawer below the prep area open."""
    place_things(stage, keep_centre=True)
    begin, touch, leave, finish = _contact_times(stage)
    far = float(stage.rng.uniform(0.20, 0.32))
    x = stage.kitchen.prep_x

    def opened(times: Array) -> Array:
        return far * snap(times, touch + 0.06, leave - 0.04)

    def body(times: Array) -> tuple[Array, Array]:
        offset = opened(times)
        position = np.stack([np.full(len(times), x), -offset, np.zeros(len(times))], -1)
        return np.broadcast_to(IDENTITY, (len(times), 3, 3)), position

    shape = Cylinder((float(stage.rng.uniform(-0.02, 0.03)), -0.026, 0.772), (1, 0, 0), 0.0065, 0.09)
    grip = stage.grip(shape, (-0.12, 0.62, -0.78), (0.0, -0.8, -0.6), along=0.108, gap=0.010, opposition=0.7)
    right = reach_and_return(
        stage, stage.rest("right", -0.62), held(body, grip), stage.rest("right", -0.62), (begin, touch, leave, finish)
    )
    fingers = fingers_path(
        [begin, touch - 0.2, touch - 0.12, touch + 0.06, leave - 0.02, leave + 0.2, leave + 0.25, finish],
        [hands.RELAXED, hands.OPEN, grip.fingers, hands.OPEN, hands.RELAXED],
    )
    place = (x, -0.05, DRAWER_Z[1])
    return Performance(
        right, stage.rest("left", -0.62), living_fingers(stage, fingers), living_fingers(stage, fingers_path([],
        [hands.RELAXED])),
        contacts={"right": Contact("drawer", touch, leave)}, focus=(x, -0.08, 0.80), gaze_hand_share=0.6,
        stand_xy=stage.stand(-0.06, -0.62), objects={"drawer": body},
        drawer_m=opened,
        events=[
            Event(touch, "handle", 0.25, place, "forward"), Event(leave, "handle", 0.25, place, "reverse"),
            Event(leave - 0.04, "drawer_stop", 0.45, place, "forward"), Event(touch + 0.06, "drawer_stop", 0.75,
            place, "reverse"),
        ],
        loops=[Loop("slide", lambda times: window(times, touch + 0.06, leave, 0.15))],
    )  # fmt: skip


def cupboard(stage: Stage) -> Performance:
    """Opens the cupboard above the prep area."""
    place_things(stage, keep_centre=True)
    begin, touch, leave, finish = _contact_times(stage)
    wide = float(stage.rng.uniform(0.9, 1.2))
    hinge = np.array([stage.kitchen.prep_x + CUPBOARD_HALF - 0.003, CUPBOARD_Y, 0.0])

    def angle(times: Array) -> Array:
        return wide * snap(times, touch + 0.05, leave - 0.03)

    def door(times: Array) -> tuple[Array, Array]:
        return about_z(angle(times)), np.broadcast_to(hinge, (len(times), 3))

    def handle(times: Array) -> tuple[Array, Array]:
        # The fingers slide around the upright bar: the hand turns less than the door.
        return about_z(0.8 * angle(times)), hinge + apply(about_z(angle(times)), door_handle())

    shape = Cylinder((0, 0, float(stage.rng.uniform(-0.02, 0.02))), (0, 0, 1), 0.0065, 0.06)
    grip = stage.grip(shape, (-0.45, 0.85, 0.30), (-0.8, -0.45, 0.1), along=0.112, gap=0.008, opposition=0.8)
    right = reach_and_return(
        stage,
        stage.rest("right", -0.60),
        held(handle, grip),
        stage.rest("right", -0.60),
        (begin, touch, leave, finish),
        0.02,
    )
    fingers = fingers_path(
        [begin, touch - 0.2, touch - 0.12, touch + 0.05, leave - 0.02, leave + 0.2, leave + 0.25, finish],
        [hands.RELAXED, hands.OPEN, grip.fingers, hands.OPEN, hands.RELAXED],
    )
    place = (stage.kitchen.prep_x, CUPBOARD_Y, 1.46)
    return Performance(
        right, stage.rest("left", -0.60), living_fingers(stage, fingers), living_fingers(stage, fingers_path([],
        [hands.RELAXED])),
        contacts={"right": Contact("cupboard", touch, leave)},
        focus=(stage.kitchen.prep_x, 0.25, 1.40), stand_xy=stage.stand(-0.10, -0.60), objects={"door": door},
        door_rad=angle, events=[
            Event(touch, "handle", 0.25, place, "forward"), Event(leave, "handle", 0.25, place, "reverse"),
            Event(touch + 0.05, "latch", 0.35, place, "forward"), Event(touch + 0.05, "thud", 0.7, place, "reverse"),
        ],
        loops=[Loop("creak", lambda times: 0.5 * window(times, touch + 0.05, leave, 0.15))], gaze_hand_share=0.35,
    )  # fmt: skip


def tap(stage: Stage) -> Performance:
    """Lifts the tap's lever; water starts to run."""
    place_things(stage, keep_centre=True)
    begin, touch, leave, finish = _contact_times(stage)
    pivot = np.array(lever_pivot(stage.kitchen))
    lift = float(stage.rng.uniform(0.6, 0.9))
    start, end = touch + 0.08, leave - 0.15

    def raised(times: Array) -> Array:
        return lift * minimum_jerk(times, start, end)

    def flow(times: Array) -> Array:
        return minimum_jerk(times, 0.5 * (start + end), end + 0.1)

    def lever(times: Array) -> tuple[Array, Array]:
        return lever_turn(raised(times)), np.broadcast_to(pivot, (len(times), 3))

    def knob(times: Array) -> tuple[Array, Array]:
        rotation = lever_turn(raised(times))
        return about_y(-0.25 * raised(times)), pivot + apply(rotation, (LEVER_TIP, -0.014, 0.013))

    shape = Cylinder((0, 0, 0), (1, 0, 0), 0.011, 0.016)
    grip = stage.grip(shape, (-0.35, 0.92, -0.18), (-0.35, -0.2, -0.92), along=0.125, gap=0.010, opposition=1.0)
    right = reach_and_return(
        stage, stage.rest("right"), held(knob, grip), stage.rest("right"), (begin, touch, leave, finish), 0.05
    )
    fingers = fingers_path(
        [begin, touch - 0.2, touch - 0.12, touch + 0.05, leave - 0.02, leave + 0.2, leave + 0.25, finish],
        [hands.RELAXED, hands.OPEN, grip.fingers, hands.OPEN, hands.RELAXED],
    )
    out = spout(stage.kitchen)
    return Performance(
        right, stage.rest("left"), living_fingers(stage, fingers), living_fingers(stage, fingers_path([],
        [hands.RELAXED])),
        contacts={"right": Contact("tap", touch, leave)}, focus=(stage.x, 0.28, 0.95),
        stand_xy=stage.stand(0.0, -0.22), objects={"lever": lever}, lever_rad=raised, tap_flow=flow, events=[
            Event(touch, "metal_click", 0.2, out, "forward"), Event(start, "metal_click", 0.3, out, "reverse"),
        ], loops=[Loop("water", flow)],
    )  # fmt: skip


def _take(
    stage: Stage, name: str, shape: Cylinder, fingers: tuple, palm: tuple, along: float, opposition: float
) -> Performance:
    """Grasps something on the counter and brings it to the body."""
    place_things(stage, keep_centre=True)
    rng = stage.rng
    begin, touch, _, finish = _contact_times(stage)
    spot = np.array([stage.x + rng.uniform(-0.04, 0.17), rng.uniform(0.20, 0.32), COUNTER_Z])
    goal = np.array([stage.x + rng.uniform(-0.02, 0.16), rng.uniform(-0.02, 0.06), COUNTER_Z + rng.uniform(0.14, 0.22)])
    turn = float(rng.uniform(-0.25, 0.25))
    unrest = Unrest(rng, [0.004] * 3, 0.4, 1.5)
    tilt = Unrest(rng, [0.05] * 3, 0.3, 1.0)

    def carried(times: Array) -> tuple[Array, Array]:
        share = minimum_jerk(times, touch + 0.12, finish)
        arc = 0.05 * minimum_jerk(times, touch + 0.10, touch + 0.55) * (1 - 0.5 * share)
        # The first millimetres are quick: a thing leaves and meets the counter with some speed, and is heard.
        arc = arc + 0.006 * minimum_jerk(times, touch + 0.10, touch + 0.16)
        position = spot + share[:, None] * (goal - spot) + arc[:, None] * [0, 0, 1.0] + share[:, None] * unrest(times)
        rotation = about_z(turn + 0.25 * share)
        return multiply(rotation, about_y(share * tilt(times)[:, 1])), position

    grip = stage.grip(shape, fingers, palm, along=along, opposition=opposition)
    before = held(still(about_z(turn), spot), grip)
    approach = _offset(before, np.array([0.03, -0.09, 0.03]))
    right = chain([
        Anchor(stage.rest("right"), -1.0, begin),
        Anchor(approach, touch - 0.22, touch - 0.22, (0.0, -0.01, 0.04)),
        Anchor(held(carried, grip), touch, 99.0),
    ])  # fmt: skip
    path = fingers_path(
        [begin, touch - 0.25, touch - 0.12, touch + 0.08], [hands.RELAXED, hands.OPEN * 0.6, grip.fingers]
    )
    sound = {"mug": "ceramic", "plate": "plate", "bottle": "bottle"}[name]
    return Performance(
        right, stage.rest("left"), living_fingers(stage, path, 0.015), living_fingers(stage, fingers_path([],
        [hands.RELAXED])),
        contacts={"right": Contact(name, touch)}, focus=_point(0.6 * spot + 0.4 * goal),
        stand_xy=stage.stand(-0.03, -0.30), objects={name: carried},
        events=[
            Event(touch + 0.10, sound, 0.30, _point(spot), "forward"), Event(touch + 0.10, sound, 0.60,
            _point(spot), "reverse"),
        ],
    )  # fmt: skip


def _offset(pose: Callable, shift: Array) -> Callable:
    def moved(times: Array) -> tuple[Array, Array]:
        rotation, position = pose(times)
        return rotation, position + shift

    return moved


def move_mug(stage: Stage) -> Performance:
    """Takes the mug around its body."""
    shape = MUG_BODY
    return _take(stage, "mug", shape, (-0.45, 0.88, -0.05), (-0.88, -0.4, 0.0), 0.085, 0.8)


def move_bottle(stage: Stage) -> Performance:
    """Takes the bottle around its label."""
    shape = Cylinder((0, 0, 0.105), (0, 0, 1), props.BOTTLE_RADIUS, 0.08)
    return _take(stage, "bottle", shape, (-0.42, 0.9, 0.05), (-0.88, -0.4, 0.0), 0.085, 0.8)


def move_plate(stage: Stage) -> Performance:
    """Takes the plate by its rim: fingers below, thumb above."""
    shape = Cylinder((0.092, -0.052, 0.016), (0.0, 0.0, 1), 0.012, 0.004)
    return _take(stage, "plate", shape, (-0.80, 0.55, -0.10), (-0.15, -0.35, 0.9), 0.120, 0.25)


def pour(stage: Stage) -> Performance:
    """Pours water from the bottle into the mug that the left hand steadies."""
    place_things(stage, keep_centre=True)
    rng = stage.rng
    start, tip, back, end = stage.at(0.25, 0.12), stage.at(0.85, 0.1), stage.at(1.50, 0.1), stage.at(1.95, 0.05)
    mug = np.array([stage.x + rng.uniform(-0.10, -0.02), rng.uniform(0.16, 0.24), COUNTER_Z])
    turn = about_z(rng.uniform(-1.2, -0.4))
    angle = float(rng.uniform(1.75, 2.0))
    high = mug + [0.045, -0.004, props.MUG_HEIGHT + 0.155]
    aside = mug + [rng.uniform(0.20, 0.27), -0.02, props.BOTTLE_HEIGHT + rng.uniform(0.03, 0.08)]
    unrest = Unrest(rng, [0.004] * 3, 0.4, 1.5)

    def tilt(times: Array) -> Array:
        return angle * minimum_jerk(times, start, tip) * (1 - 0.85 * minimum_jerk(times, back, end))

    def mouth(times: Array) -> Array:
        return steps(times, [start, tip - 0.1, back, end], [aside, high, aside]) + unrest(times)

    def bottle(times: Array) -> tuple[Array, Array]:
        rotation = about_y(-tilt(times))
        return rotation, mouth(times) - apply(rotation, (0, 0, props.BOTTLE_HEIGHT - 0.02))

    def flow(times: Array) -> Array:
        return minimum_jerk(times, tip - 0.12, tip + 0.03) * (1 - minimum_jerk(times, back, back + 0.15))

    def water(times: Array) -> tuple[Array, Array, Array]:
        top = mouth(times)
        low = np.broadcast_to(mug + [0, 0, 0.03], top.shape)
        return top, low, flow(times)

    shape = Cylinder((0, 0, 0.105), (0, 0, 1), props.BOTTLE_RADIUS, 0.08)
    grip = stage.grip(shape, (-0.42, 0.9, 0.05), (-0.88, -0.4, 0.0), opposition=0.8)
    mug_pose = still(turn, mug)
    mug_shape = MUG_BODY
    inverse = turn.T
    left_grip = stage.grip(
        mug_shape, apply(inverse, (0.5, 0.86, -0.1)), apply(inverse, (0.86, -0.45, 0.0)), left=True, opposition=0.8
    )
    return Performance(
        held(bottle, grip), stage.alive(held(mug_pose, left_grip), 0.001),
        living_fingers(stage, fingers_path([], [grip.fingers]), 0.01), living_fingers(stage, fingers_path([],
        [left_grip.fingers]), 0.01),
        contacts={"right": Contact("bottle"), "left": Contact("mug")},
        focus=_point(mug + [0.02, 0, 0.08]), stand_xy=stage.stand(0.02, -0.30), objects={"bottle_open": bottle,
        "mug": mug_pose},
        pour=water, loops=[Loop("pour", flow)], gaze_hand_share=0.25,
    )  # fmt: skip


MOTIONS: dict[str, tuple[str, Callable[[Stage], Performance]]] = {
    "drawer": ("prep", drawer),
    "cupboard": ("prep", cupboard),
    "tap": ("sink", tap),
    "move_mug": ("prep", move_mug),
    "move_plate": ("prep", move_plate),
    "move_bottle": ("prep", move_bottle),
    "pour": ("prep", pour),
    "cut_carrot": ("prep", lambda stage: cut(stage, "carrot")),
    "cut_bread": ("prep", lambda stage: cut(stage, "bread")),
    "stir": ("hob", stir),
    "wash": ("sink", wash),
    "wipe": ("prep", wipe),
}
