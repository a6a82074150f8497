"""One take of the kitchen in memory: both views and every sensor, with the truth behind them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from egoloom.clips.schema import EMPTY_HAND
from egoloom.errors import UserError
from egoloom.kitchen.audio import make_audio
from egoloom.kitchen.boxes import BoxTable, detect
from egoloom.kitchen.camera_view import Lens, Lighting, Rendered, ViewRenderer
from egoloom.kitchen.film import Film
from egoloom.kitchen.imu import ImuTable, make_imu
from egoloom.kitchen.plan import ClipPlan, clip_rng, plan_clip
from egoloom.kitchen.scene import Instance, Take, build_take, exo_camera
from egoloom.kitchen.settings import KitchenSettings
from egoloom.kitchen.stage import Event, Performance

MIN_CONTACT_SHARE = 0.2  # a hand on a handle stays for a quarter of a clip or more


@dataclass
class KitchenClip:
    """One take.

    Attributes:
        plan: What it is about, with the true action.
        ego: What the head-mounted camera saw.
        exo: What the fixed camera saw at the same times.
        times_s: Frame times ``[T]``.
        audio: Sound of the head-mounted microphone, float32 in [-1, 1], or None for a clip without sound.
        imu: 200 Hz accelerometer and gyroscope in the axes of the ego camera.
        boxes: Simulated detections per view.
        instances: Meaning of the values of the id images.
        events: True moments of contact that make a sound.
        held: What the hands ``"left"`` and ``"right"`` hold for at least a fifth of the clip, ``"none"`` if nothing.
    """

    plan: ClipPlan
    ego: Rendered
    exo: Rendered
    times_s: NDArray[np.float64]
    audio: NDArray[np.float32] | None
    imu: ImuTable
    boxes: dict[str, BoxTable]
    instances: list[Instance]
    events: list[Event]
    held: dict[str, str]

    def view(self, name: str) -> Rendered:
        """Returns ``"ego"`` or ``"exo"``."""
        return {"ego": self.ego, "exo": self.exo}[name]


def render_clip(settings: KitchenSettings, index: int) -> KitchenClip:
    """Returns clip ``index`` of the store with these settings; the same alone, in any order and on any processor.

    Raises:
        UserError: If the index is negative.
    """
    if index < 0:
        raise UserError(f"There is no clip {index}", allowed="0 and above")
    plan = plan_clip(settings, index)
    take = build_take(settings, plan)
    ego, exo = render_views(settings, take, index)
    instances = take.instances
    boxes = {
        name: detect(settings, view.ids, take.times_s[:-1], instances, clip_rng(settings, 2 * index + k, "boxes"))
        for k, (name, view) in enumerate((("ego", ego), ("exo", exo)))
    }
    return KitchenClip(
        plan, ego, exo, take.times_s[:-1],
        make_audio(settings, take.performance, take.stance, clip_rng(settings, index, "audio")),
        make_imu(settings, take.stance, take.performance, clip_rng(settings, index, "imu")), boxes, instances,
        take.performance.events, held_objects(take.performance, settings.duration_s),
    )  # fmt: skip


def held_objects(performance: Performance, duration_s: float) -> dict[str, str]:
    """Returns what each hand holds for at least a fifth of a clip; ``"none"`` if it is shorter or nothing."""
    held = {}
    for hand in ("left", "right"):
        contact = performance.contacts.get(hand)
        long_enough = contact is not None and contact.share(duration_s) >= MIN_CONTACT_SHARE
        held[hand] = contact.category if contact and long_enough else EMPTY_HAND
    return held


def render_views(settings: KitchenSettings, take: Take, index: int) -> tuple[Rendered, Rendered]:
    """Returns what the two cameras saw."""
    rng = clip_rng(settings, index, "camera")
    scale = 2 if settings.anti_aliasing else 1
    count = len(take.times_s)
    ego_rotation, ego_position = take.stance.camera(take.times_s)
    exo_rotation, exo_position = exo_camera(settings, take, rng)
    ego = ViewRenderer(
        take, Lens(settings.ego_size_px, settings.ego_size_px, settings.ego_fov_deg), ego_rotation, ego_position,
        scale=scale, num_triangles=take.num_ego_triangles, is_fixed=False,
    )  # fmt: skip
    exo = ViewRenderer(
        take, Lens(settings.exo_width_px, settings.exo_height_px, settings.exo_fov_deg),
        np.tile(exo_rotation, (count, 1, 1)), np.tile(exo_position, (count, 1)),
        scale=scale, num_triangles=len(take.triangles), is_fixed=True,
    )  # fmt: skip
    noise = settings.noise
    films = [
        Film(rng, sigma=noise.rgb_sigma, shutter=noise.shutter, exposure_sigma=noise.exposure_sigma) for _ in range(2)
    ]
    lighting = Lighting(take)
    for frame in range(count - 1):
        shadow = lighting.shadow_map(frame)
        ego.render(frame, lighting, shadow, films[0])
        exo.render(frame, lighting, shadow, films[1])
    return ego.out, exo.out
