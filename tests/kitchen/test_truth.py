"""The truth that comes with a clip agrees with itself and with independent formulas."""

import functools
import math

import numpy as np
import pytest
import scipy.ndimage
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from egoloom.kitchen import KitchenSettings, render_clip
from egoloom.kitchen.clip import held_objects
from egoloom.kitchen.imu import GRAVITY, true_motion
from egoloom.kitchen.plan import plan_clip
from egoloom.kitchen.preview import first_index_of
from egoloom.kitchen.room import COUNTER_Z
from egoloom.kitchen.scene import build_take, reversed_performance
from egoloom.kitchen.settings import NoiseSettings
from egoloom.kitchen.stage import Contact, Performance
from egoloom.kitchen.vocabulary import ACTION_NAMES

CLEAN = KitchenSettings(noise=NoiseSettings.none())
SEEN = ("take mug", "open drawer", "stir pot")


@functools.cache
def clip_of(action: str):
    return render_clip(CLEAN, first_index_of(CLEAN, ACTION_NAMES.index(action)))


def pixel_grid(shape):
    rows, cols = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    return cols.astype(float), rows.astype(float)


def to_world(view, frame):
    """World points of every pixel from depth, intrinsics and pose: the pinhole formula written out."""
    u, v = pixel_grid(view.depth_m.shape[1:])
    fx, fy, cx, cy = view.intrinsics
    z = view.depth_m[frame].astype(float)
    points = np.stack([(u - cx) / fx * z, (v - cy) / fy * z, z], -1)
    pose = view.T_world_camera[frame]
    return points @ pose[:3, :3].T + pose[:3, 3]


def to_pixels(view, frame, points):
    pose = view.T_world_camera[frame]
    local = (points - pose[:3, 3]) @ pose[:3, :3]
    fx, fy, cx, cy = view.intrinsics
    return np.stack([fx * local[..., 0] / local[..., 2] + cx, fy * local[..., 1] / local[..., 2] + cy], -1), local[
        ..., 2
    ]


def psnr(a, b):
    return 10 * np.log10(255.0**2 / np.mean((a.astype(float) - b) ** 2))


@pytest.mark.parametrize("action", SEEN)
def test_flow_warps_the_next_frame_at_least_5_db_better_than_no_flow(action):
    view = clip_of(action).ego
    height, width = view.depth_m.shape[1:]
    u, v = pixel_grid((height, width))
    warped_db, still_db = [], []
    for t in range(0, len(view.rgb) - 1, 3):
        x, y = u + view.flow_px[t, ..., 0], v + view.flow_px[t, ..., 1]
        inside = (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
        if np.abs(view.flow_px[t]).mean() < 0.3:
            continue  # hardly any motion: both are the same
        moved = np.stack([scipy.ndimage.map_coordinates(c.astype(float), [y, x], order=1) for c in view.rgb[t + 1]])
        warped_db.append(psnr(view.rgb[t][:, inside], moved[:, inside]))
        still_db.append(psnr(view.rgb[t][:, inside], view.rgb[t + 1][:, inside]))
    assert np.mean(warped_db) >= np.mean(still_db) + 5.0


@pytest.mark.parametrize("action", SEEN)
def test_flow_agrees_with_depth_and_cameras_where_the_scene_is_static(action):
    clip = clip_of(action)
    view = clip.ego
    static = [
        i
        for i, one in enumerate(clip.instances)
        if one.name in {"room", "counter", "cabinets", "window", "tap", "sink"}
    ]
    u, v = pixel_grid(view.depth_m.shape[1:])
    errors = []
    for t in range(0, len(view.rgb) - 1, 5):
        pixels, _ = to_pixels(view, t + 1, to_world(view, t))
        expected = pixels - np.stack([u, v], -1)
        still = np.isin(view.ids[t], static)
        errors.append(np.linalg.norm(expected - view.flow_px[t], axis=-1)[still])
    assert np.median(np.concatenate(errors)) < 0.1
    assert np.quantile(np.concatenate(errors), 0.999) < 0.1


def id_agreement(clip):
    """Counts ego pixels that the exo camera sees too (depths within 2 cm), and those of them with the same id."""
    agree = visible = 0
    for t in range(0, len(clip.times_s), 5):
        pixels, depth = to_pixels(clip.exo, t, to_world(clip.ego, t))
        col, row = np.rint(pixels[..., 0]).astype(int), np.rint(pixels[..., 1]).astype(int)
        height, width = clip.exo.ids.shape[1:]
        inside = (depth > 0.1) & (col >= 0) & (row >= 0) & (col < width) & (row < height) & (clip.ego.depth_m[t] > 0)
        col, row, depth = col[inside], row[inside], depth[inside]
        seen = np.abs(clip.exo.depth_m[t][row, col] - depth) < 0.02
        agree += (clip.exo.ids[t][row, col][seen] == clip.ego.ids[t][inside][seen]).sum()
        visible += seen.sum()
    return agree, visible


@pytest.mark.slow
def test_ego_depth_reprojected_into_the_exo_view_agrees_on_ids():
    agree, visible = np.sum([id_agreement(clip_of(name)) for name in ACTION_NAMES], axis=0)
    assert visible > 200_000
    assert agree / visible >= 0.985


@pytest.mark.parametrize("action", SEEN)
def test_the_agreement_on_ids_is_limited_by_the_exo_pixel_alone(action):
    fine = CLEAN.model_copy(update={"exo_width_px": 336, "exo_height_px": 336, "fps": 3})
    agree, visible = id_agreement(render_clip(fine, first_index_of(fine, ACTION_NAMES.index(action))))
    assert visible > 2000
    assert agree / visible >= 0.985


def test_depth_is_measured_along_the_optical_axis_and_in_metres():
    view = clip_of("take mug").ego
    counter = next(i for i, one in enumerate(clip_of("take mug").instances) if one.name == "counter")
    heights = to_world(view, 10)[view.ids[10] == counter][:, 2]
    assert np.median(heights) == pytest.approx(COUNTER_Z, abs=1e-4)


@pytest.mark.parametrize("action", [*SEEN, "cut carrot"])
def test_integrated_gyroscope_follows_the_head(action):
    clip = clip_of(action)
    rotation = Rotation.from_matrix(clip.ego.T_world_camera[0, :3, :3])
    step_s = clip.imu.time_s[1]
    frame_of = np.rint(clip.times_s / step_s).astype(int)
    worst = 0.0
    for k in range(frame_of[-1]):
        if k in frame_of:
            true = Rotation.from_matrix(clip.ego.T_world_camera[np.flatnonzero(frame_of == k)[0], :3, :3])
            worst = max(worst, np.degrees((rotation.inv() * true).magnitude()))
        middle = 0.5 * (clip.imu.gyro[k] + clip.imu.gyro[k + 1]).astype(float)
        rotation = rotation * Rotation.from_rotvec(middle * step_s)
    # Frames lie up to half a sample from the nearest sample; the head turns by less than 1 rad/s there.
    assert worst < 0.5


def test_accelerometer_points_up_with_9_81_when_motion_is_taken_out():
    for action in SEEN:
        plan = plan_clip(CLEAN, first_index_of(CLEAN, ACTION_NAMES.index(action)))
        stance = build_take(CLEAN, plan).stance
        times = np.linspace(0, 2, 4001)
        force, _ = true_motion(stance, times)
        rotation, _ = stance.camera(times)
        world = np.einsum("tij,tj->ti", rotation, force)
        _, ends = stance.camera(np.array([-1e-4, 1e-4, 2 - 1e-4, 2 + 1e-4]))
        change = (ends[3] - ends[2]) / 2e-4 - (ends[1] - ends[0]) / 2e-4
        mean = np.trapezoid(world, times, axis=0) / 2.0
        np.testing.assert_allclose(mean, [0, 0, GRAVITY] + change / 2.0, atol=0.02)


def test_a_level_camera_at_rest_reads_minus_9_81_along_y():
    class Still:
        def camera(self, times):
            level = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
            return np.tile(level, (len(times), 1, 1)), np.zeros((len(times), 3))

    force, rate = true_motion(Still(), np.linspace(0, 1, 5))  # type: ignore[arg-type]
    np.testing.assert_allclose(force, np.tile([0, -9.81, 0], (5, 1)), atol=1e-9)
    np.testing.assert_allclose(rate, 0, atol=1e-9)


def _onset_s(audio: np.ndarray, rate_hz: int, after_s: float) -> float:
    """The first moment after ``after_s`` at which the envelope exceeds a quarter of its peak in the next 80 ms."""
    start = int(after_s * rate_hz)
    part = np.abs(audio[start : start + int(0.16 * rate_hz)])
    return after_s + np.flatnonzero(part > 0.25 * part.max())[0] / rate_hz


@pytest.mark.parametrize(("action", "thing"), [("put mug", "mug"), ("put bottle", "bottle"), ("put plate", "plate")])
def test_a_thing_that_is_put_down_is_heard_when_it_meets_the_counter(action, thing):
    index = first_index_of(CLEAN, ACTION_NAMES.index(action))
    take = build_take(CLEAN, plan_clip(CLEAN, index))
    times = np.arange(0, 2, 0.001)
    height = take.performance.objects[thing](times)[1][:, 2] - COUNTER_Z
    contact_s = times[np.flatnonzero(height > 0.001)[-1]]
    audio = render_clip(CLEAN, index).audio
    assert audio is not None
    assert abs(_onset_s(audio, CLEAN.sample_rate_hz, contact_s - 0.08) - contact_s) < 0.02


def test_chops_are_heard_when_the_blade_is_lowest():
    index = first_index_of(CLEAN, ACTION_NAMES.index("cut carrot"))
    take = build_take(CLEAN, plan_clip(CLEAN, index))
    times = np.arange(0, 2, 0.001)
    height = take.performance.objects["knife"](times)[1][:, 2]
    lowest = times[1:-1][(height[1:-1] <= height[:-2]) & (height[1:-1] < height[2:])]
    events = [e.time_s for e in take.performance.events if 0.05 < e.time_s < 1.95]
    assert len(events) >= 3
    for event in events:
        assert np.abs(lowest - event).min() < 0.02


def test_a_drawer_that_closes_is_heard_when_it_is_shut():
    take = build_take(CLEAN, plan_clip(CLEAN, first_index_of(CLEAN, ACTION_NAMES.index("close drawer"))))
    assert take.performance.drawer_m is not None
    times = np.arange(0, 2, 0.001)
    shut_s = times[np.flatnonzero(take.performance.drawer_m(times) > 0.001)[-1]]
    thuds = [e.time_s for e in take.performance.events if e.kind == "drawer_stop"]
    assert len(thuds) == 1
    assert abs(thuds[0] - shut_s) < 0.02


def distance_m(take, hand, category, frame):
    """Smallest distance from the hand's vertices to points spread over the triangles of everything of a category."""
    number = next(i for i, one in enumerate(take.instances) if one.name == f"hand_{hand}")
    numbers = [i for i, one in enumerate(take.instances) if one.category == category]
    corners = take.points[frame][take.triangles[np.isin(take.instance_F, numbers)]]
    weights = np.array([(i, j, 12 - i - j) for i in range(13) for j in range(13 - i)]) / 12
    surface = np.einsum("wk,fkd->fwd", weights, corners).reshape(-1, 3)
    vertices = take.points[frame][np.unique(take.triangles[take.instance_F == number])]
    return cKDTree(surface).query(vertices)[0].min()


@pytest.mark.parametrize(
    ("action", "hands"),
    [("close cupboard", {"right": "cupboard"}), ("turn on tap", {"right": "tap"}), ("put plate", {"right": "plate"}),
     ("cut carrot", {"left": "carrot", "right": "knife"}), ("wash plate", {"left": "plate", "right": "sponge"})],
)  # fmt: skip
def test_hands_touch_what_the_contacts_say_and_only_then(action, hands):
    settings = CLEAN.model_copy(update={"fps": 5})
    take = build_take(settings, plan_clip(settings, first_index_of(settings, ACTION_NAMES.index(action))))
    contacts = take.performance.contacts
    assert {hand: contact.category for hand, contact in contacts.items()} == hands
    for hand, contact in contacts.items():
        for frame in range(len(take.times_s)):
            before, after = contact.start_s - take.times_s[frame], take.times_s[frame] - contact.end_s
            if max(before, after) < -0.05:
                assert distance_m(take, hand, contact.category, frame) < 0.01
            elif max(before, after) > 0.3:  # hands arrive slowly
                assert distance_m(take, hand, contact.category, frame) > 0.03


def test_a_contact_counts_for_the_part_of_the_clip_that_it_lasts():
    assert Contact("mug", 0.5, 1.5).share(2.0) == pytest.approx(0.5)
    assert Contact("mug").share(2.0) == 1.0
    assert Contact("mug", 1.9, 9.0).share(2.0) == pytest.approx(0.05)
    played = Performance(
        *[None] * 4, (0, 0, 0), (0, 0), contacts={"left": Contact("mug", 1.9), "right": Contact("cup")}
    )
    assert held_objects(played, 2.0) == {"left": "none", "right": "cup"}
    assert reversed_performance(played, 2.0).contacts["left"] == Contact("mug", -math.inf, pytest.approx(0.1))
