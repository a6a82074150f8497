"""Actions that repeat a stroke: cut, stir, wash, wipe."""

# ruff: noqa: RUF005 - offsets are added to arrays, no lists are joined

import numpy as np

from egoloom.kitchen import hand as hands
from egoloom.kitchen import props
from egoloom.kitchen.geometry import Array, about_x, about_y, about_z, apply, multiply, rotation_from_axis, transpose
from egoloom.kitchen.hand import Cylinder
from egoloom.kitchen.motion import PoseFunction, ScalarFunction, Unrest, minimum_jerk, still
from egoloom.kitchen.room import COUNTER_Z, spout
from egoloom.kitchen.stage import (
    Contact,
    Event,
    Loop,
    Performance,
    Stage,
    fingers_path,
    held,
    living_fingers,
    place_things,
)  # fmt: skip

TWO_PI = 2 * np.pi


def cut(stage: Stage, food: str) -> Performance:
    """Cuts a carrot with quick chops or bread with slow saw strokes; slices fall away to the right."""
    place_things(stage, keep_centre=False)
    rng = stage.rng
    board = np.array([stage.x + rng.uniform(-0.03, 0.03), 0.20 + rng.uniform(-0.02, 0.02), COUNTER_Z])
    stage.placed["board"] = (about_z(rng.uniform(-0.08, 0.08)), board)
    top = board + [0, 0, props.BOARD[2]]
    other, bread = ("bread", False) if food == "carrot" else ("carrot", True)
    if rng.random() < 0.5:
        stage.placed[other] = (
            about_z(rng.uniform(-0.15, 0.15)),
            top + [rng.uniform(-0.05, 0.05), 0.075 if bread else 0.095, 0],
        )
    rate_hz = float(rng.uniform(1.3, 1.8) if bread else rng.uniform(2.2, 3.2))
    phase = float(rng.uniform(0, 1))
    pieces, length = (props.BREAD_PIECES, props.BREAD_SIZE[0]) if bread else (props.CARROT_PIECES, props.CARROT_LENGTH)
    per_cut = 2 if bread else 1
    span = length / pieces
    height = props.BREAD_SIZE[2] if bread else 2 * props.CARROT_RADIUS
    rest = top + [rng.uniform(-0.01, 0.03), -0.02, 0]
    first = pieces - int(rng.integers(1, 3))  # the cut moves left from here, one piece (or two strokes) at a time
    food_turn = float(rng.uniform(-0.08, 0.08))

    def count(times: Array) -> Array:
        return (times * rate_hz + phase) / per_cut

    def blade(times: Array) -> tuple[Array, Array]:
        return _blade(times, rest, first * span - length / 2, span, height, rate_hz, phase, bread, food_turn)

    knife_turn = about_z(np.pi / 2 + food_turn + 0.06)
    shape = Cylinder((-0.062, 0.0, 0.030), (1, 0, 0), 0.0125, 0.06)
    inverse = transpose(knife_turn)
    grip = stage.grip(
        shape, apply(inverse, (-0.45, 0.62, -0.64)), apply(inverse, (-0.86, -0.35, -0.25)), along=0.088, gap=0.012
    )
    left = _holding_hand(stage, rest, first * span - length / 2, span, height, count)
    objects: dict[str, PoseFunction] = {"knife": blade}
    for k in range(pieces):
        objects[f"{food}_{k}"] = _slice_pose(rng, rest, food_turn, first - k, span, count, bread)
    if not bread:
        objects["carrot_leaves"] = still(about_z(food_turn), rest)
    chops = [(k + (0.5 if not bread else 0.75) - phase) / rate_hz for k in range(int(stage.duration_s * rate_hz) + 2)]
    place = (float(rest[0]), float(rest[1]), float(rest[2]))
    if bread:
        loops = [Loop("saw", lambda times: np.abs(np.sin(TWO_PI * (rate_hz * times + phase))))]
        events = [Event(t, "board_soft", 0.25, place) for t in chops[1::2] if 0 < t < stage.duration_s]
    else:
        loops = []
        events = [Event(t, "board", float(rng.uniform(0.4, 0.7)), place) for t in chops if 0 < t < stage.duration_s]
    return Performance(
        held(blade, grip), left, living_fingers(stage, fingers_path([], [grip.fingers]), 0.01),
        living_fingers(stage, fingers_path([], [hands.CLAW]), 0.04), focus=(float(rest[0]) + 0.02, float(rest[1]),
        0.95),
        stand_xy=stage.stand(0.0, -0.26), objects=objects, events=events, loops=loops, gaze_hand_share=0.1,
        contacts={"right": Contact("knife"), "left": Contact(food)},
        rhythm=lambda times: np.sin(TWO_PI * (rate_hz * times + phase)) * (0.6 if bread else 1.0),
    )  # fmt: skip


def _blade(
    times: Array, rest: Array, first_x: float, span: float, height: float, rate_hz: float, phase: float,
    bread: bool, turn: float,
) -> tuple[Array, Array]:  # fmt: skip
    """Returns the knife: chops rock about the tip, saw strokes slide along the blade while it sinks."""
    cycle = times * rate_hz + phase
    beat = cycle - np.floor(cycle)
    if bread:
        half = cycle / 2 - np.floor(cycle / 2)
        lift = (1 - minimum_jerk(half, 0.05, 0.80) + minimum_jerk(half, 0.84, 1.0)) * (height + 0.008)
        along = 0.045 * np.sin(TWO_PI * cycle)
        index = np.floor(cycle / 2) + minimum_jerk(half, 0.84, 1.0)
        pitch = 0.06 * np.cos(TWO_PI * cycle)
    else:
        lift = 0.5 * (1 + np.cos(TWO_PI * beat)) * (height + 0.016)
        along = -0.012 * np.sin(TWO_PI * beat)
        index = np.floor(cycle) + minimum_jerk(beat, 0.62, 1.0)
        pitch = -0.16 * 0.5 * (1 + np.cos(TWO_PI * beat))
    x = first_x - span * index
    rotation = multiply(about_z(np.full(len(times), np.pi / 2 + turn + 0.06)), about_y(pitch))
    local = np.stack([x, -0.085 + along, lift + 0.001], -1)
    return rotation, rest + apply(about_z(turn), local)


def _holding_hand(
    stage: Stage, rest: Array, first_x: float, span: float, height: float, count: ScalarFunction
) -> PoseFunction:
    """Returns the left hand: a claw on the food that retreats before the blade."""
    unrest = Unrest(stage.rng, [0.002] * 3, 0.5, 2.0)
    rotation = rotation_from_axis((0.88, 0.20, -0.45), (0.42, 0.1, 0.90))
    scale = stage.person.hand_scale

    def pose(times: Array) -> tuple[Array, Array]:
        x = first_x - span * count(times) - 0.105
        tips = rest + np.stack([x, np.zeros(len(times)), np.full(len(times), height + 0.004)], -1)
        # The middle finger's tip of a claw lies this far from the wrist, in the hand's frame.
        tip = hands.finger_joints(hands.CLAW, left=True)[2, 3] * scale
        return np.broadcast_to(rotation, (len(times), 3, 3)), tips - apply(rotation, tip) + unrest(times)

    return pose


def _slice_pose(
    rng: np.random.Generator, rest: Array, turn: float, order: int, span: float, count: ScalarFunction, bread: bool
) -> PoseFunction:
    """Returns the pose of one piece: those right of the first cut lie loose, others fall when cut off."""
    shift = float(rng.uniform(0.004, 0.010)) + 0.004 * max(0, -order + 1)
    lean, spin = float(rng.uniform(0.2, 0.5)), float(rng.normal(0, 0.06))
    base = about_z(turn)
    tall = props.BREAD_SIZE[2] if bread else 2 * props.CARROT_RADIUS

    def pose(times: Array) -> tuple[Array, Array]:
        done = count(times) - order
        fall = minimum_jerk(done, -0.15, 0.25) if order > 0 else np.ones(len(times))
        pushed = np.clip(done, 0, 6) * 0.0025
        local = np.stack([fall * shift + pushed + fall * tall * 0.10, np.zeros(len(times)), np.zeros(len(times))], -1)
        rotation = multiply(base, multiply(about_z(spin * fall), about_y(fall * lean * (0.45 if bread else 0.35))))
        return rotation, rest + apply(base, local)

    return pose


def stir(stage: Stage) -> Performance:
    """Stirs the pot in circles; the left hand holds its handle."""
    place_things(stage, keep_centre=True)
    rng = stage.rng
    _, pot = stage.placed["pot"]
    pot = pot + [rng.uniform(-0.02, 0.10), rng.uniform(-0.02, 0.03), 0]
    pot_turn = about_z(rng.uniform(-0.5, 0.2))
    rate_hz, phase = float(rng.uniform(0.9, 1.5)), float(rng.uniform(0, TWO_PI))
    sense = float(rng.choice([-1, 1]))
    radius = float(rng.uniform(0.045, 0.066))
    wobble = Unrest(rng, [0.004, 0.004, 0.003], 0.4, 1.5)

    def angle(times: Array) -> Array:
        return sense * TWO_PI * rate_hz * times + phase

    def spoon(times: Array) -> tuple[Array, Array]:
        a = angle(times)
        bowl = np.stack([radius * np.cos(a), radius * np.sin(a), np.full(len(times), 0.062)], -1)
        top = np.array([0.085, -0.075, 0.285]) + 0.45 * bowl * [1, 1, 0] + wobble(times)
        axis = top - bowl
        base = rotation_from_axis(np.array([0.25, 0.9, 0.3]) + 0 * axis, axis)
        z = axis / np.sqrt((axis**2).sum(-1, keepdims=True))
        y = base[:, :, 1] - z * (base[:, :, 1] * z).sum(-1, keepdims=True)
        y = y / np.sqrt((y**2).sum(-1, keepdims=True))
        return np.stack([np.cross(y, z), y, z], -1), pot + bowl

    shape = Cylinder((0, 0, 0.225), (0, 0, 1), 0.0065, 0.07)
    grip = stage.grip(shape, (-0.60, 0.75, -0.25), (-0.72, -0.65, -0.1), along=0.098, gap=0.012)
    pot_pose = still(pot_turn, pot)
    handle = Cylinder((-props.POT_RADIUS - 0.034, -0.004, 0.104), (0, 1, 0), 0.0075, 0.03)
    inverse = transpose(pot_turn)
    left_grip = stage.grip(
        handle,
        apply(inverse, (0.55, 0.70, -0.45)),
        apply(inverse, (0.45, -0.1, -0.88)),
        left=True,
        along=0.100,
        gap=0.012,
    )
    place = (float(pot[0]), float(pot[1]), float(pot[2]))
    scrapes = [t for t in np.arange(0.2, stage.duration_s, 1 / rate_hz) if rng.random() < 0.6]
    return Performance(
        held(spoon, grip), stage.alive(held(pot_pose, left_grip), 0.001),
        living_fingers(stage, fingers_path([], [grip.fingers]), 0.01), living_fingers(stage, fingers_path([],
        [left_grip.fingers]), 0.01),
        focus=(float(pot[0]) + 0.02, float(pot[1]) - 0.02, 1.0), stand_xy=(float(pot[0]) + 0.02, stage.stand()[1]),
        objects={"spoon": spoon, "pot": pot_pose}, gaze_hand_share=0.15,
        contacts={"right": Contact("spoon"), "left": Contact("pot")},
        rhythm=lambda times: 0.5 * np.sin(angle(times)),
        events=[Event(float(t), "pot_tick", 0.3, place) for t in scrapes],
        loops=[Loop("fry", lambda times: np.full(len(times), 0.6)), Loop("scrape",
        lambda times: 0.5 + 0.5 * np.sin(angle(times)))],
    )  # fmt: skip


def wash(stage: Stage) -> Performance:
    """Scrubs a plate with a sponge under running water."""
    place_things(stage, keep_centre=True)
    rng = stage.rng
    rate_hz, phase = float(rng.uniform(1.3, 2.2)), float(rng.uniform(0, TWO_PI))
    out = np.array(spout(stage.kitchen))
    center = np.array([out[0] + rng.uniform(-0.03, 0.03), out[1] - 0.06, COUNTER_Z + rng.uniform(0.02, 0.07)])
    sway = Unrest(rng, [0.010, 0.008, 0.008], 0.3, 0.9)
    roll = Unrest(rng, [0.07, 0.07, 0.10], 0.3, 0.9)
    face = multiply(about_x(np.array(rng.uniform(0.45, 0.75))), about_y(np.array(rng.uniform(-0.15, 0.25))))
    reach = float(rng.uniform(0.028, 0.045))

    def plate(times: Array) -> tuple[Array, Array]:
        tilt = roll(times)
        return multiply(
            face, multiply(about_x(tilt[:, 0]), multiply(about_y(tilt[:, 1]), about_z(2 * tilt[:, 2])))
        ), center + sway(times)

    def circle(times: Array) -> Array:
        return TWO_PI * rate_hz * times + phase

    def rubbing(times: Array) -> tuple[Array, Array]:
        rotation, position = plate(times)
        a = circle(times)
        local = np.stack(
            [0.018 + reach * np.cos(a), reach * np.sin(a), np.full(len(times), props.PLATE_HEIGHT - 0.004)], -1
        )
        flat = multiply(face, about_z(np.full(len(times), 0.5)))
        return flat, position + apply(rotation, local)

    grip = _on_top(0.033, (-0.75, 0.62, 0.0), 0.028)
    rim = Cylinder((-0.100, -0.030, 0.016), (0, 0, 1), 0.012, 0.004)
    left_grip = stage.grip(rim, (0.80, 0.50, -0.12), (0.15, -0.35, 0.9), left=True, along=0.120, opposition=0.25)
    return Performance(
        held(rubbing, grip), held(plate, left_grip),
        living_fingers(stage, fingers_path([], [grip.fingers]), 0.05), living_fingers(stage, fingers_path([],
        [left_grip.fingers]), 0.01),
        focus=(float(center[0]), float(center[1]), float(center[2])), stand_xy=stage.stand(0.0, -0.24),
        objects={"plate": plate, "sponge": rubbing}, tap_flow=lambda times: np.ones(len(times)), gaze_hand_share=0.1,
        tap_end_z=float(center[2]) + 0.01, lever_rad=lambda times: np.full(len(times), 0.75),
        contacts={"right": Contact("sponge"), "left": Contact("plate")},
        rhythm=lambda times: 0.5 * np.sin(circle(times)),
        loops=[Loop("water", lambda times: np.ones(len(times))), Loop("rub",
        lambda times: 0.5 + 0.5 * np.sin(circle(times)))],
    )  # fmt: skip


def _on_top(thickness: float, fingers: tuple[float, float, float], sink: float) -> hands.Grip:
    """Returns a flat hand whose palm and fingers press onto the top of something that lies on its z = 0 plane."""
    rotation = rotation_from_axis(fingers, (0.0, 0.0, 1.0))
    wrist = -0.088 * rotation[:, 1] + (thickness + 0.5 * sink) * rotation[:, 2]
    return hands.Grip(rotation, wrist, np.array([[0.5, 0.3, 0.2], *[[0.22, 0.20, 0.12]] * 4]))


def wipe(stage: Stage) -> Performance:
    """Wipes the counter with a cloth in long strokes."""
    place_things(stage, keep_centre=False)
    rng = stage.rng
    rate_hz, phase = float(rng.uniform(0.8, 1.3)), float(rng.uniform(0, TWO_PI))
    half = float(rng.uniform(0.10, 0.16))
    start = np.array([stage.x + rng.uniform(0.0, 0.06), rng.uniform(0.12, 0.18), COUNTER_Z])
    drift = float(rng.uniform(0.02, 0.06))
    unrest = Unrest(rng, [0.006, 0.008, 0.0], 0.4, 1.4)

    def stroke(times: Array) -> Array:
        return TWO_PI * rate_hz * times + phase

    def rag(times: Array) -> tuple[Array, Array]:
        a = stroke(times)
        y = 0.030 * np.sin(2 * a) + drift * times
        position = start + np.stack([half * np.sin(a), y, np.zeros(len(times))], -1) + unrest(times)
        return about_z(0.25 - 0.12 * np.cos(a)), position

    grip = _on_top(0.020, (-0.45, 0.88, 0.0), 0.026)
    place = (float(start[0]), float(start[1]), COUNTER_Z)
    return Performance(
        held(rag, grip), stage.rest("left"),
        living_fingers(stage, fingers_path([], [grip.fingers]), 0.03), living_fingers(stage, fingers_path([],
        [hands.FLAT]), 0.03),
        focus=place, stand_xy=stage.stand(0.0, -0.28), objects={"cloth": rag}, gaze_hand_share=0.25,
        contacts={"right": Contact("cloth")},
        rhythm=lambda times: 0.8 * np.cos(stroke(times)),
        loops=[Loop("wipe", lambda times: np.abs(np.cos(stroke(times))))],
    )  # fmt: skip
