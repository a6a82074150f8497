"""``egoloom correspond STORE``: points and boxes of the exo view in the ego view, and back, with visibility."""

import json as json_module
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from egoloom.errors import UserError

if TYPE_CHECKING:
    from egoloom.clips import Clip, ClipStore


@dataclass
class Arguments:
    """Carries points and boxes of one view of a take into the other one, at one moment.

    Attributes:
        store: The store.
        take: The take, or the beginning of its name.
        points: Points as x,y in pixels of the source frame.
        boxes: Boxes as x1,y1,x2,y2 in pixels of the source frame.
        source: The view that points and boxes belong to.
        time_s: The moment, in seconds of the take.
        camera: Id of the exo clip, where a take has several exo cameras.
        ego_depth: Use the depth of the ego view where the store has it; otherwise only what the exo camera sees counts.
        json: Print one JSON line.
    """

    store: tyro.conf.Positional[Path]
    take: str
    points: tuple[str, ...] = ()
    boxes: tuple[str, ...] = ()
    source: Literal["exo", "ego"] = "exo"
    time_s: float = 0.0
    camera: str | None = None
    ego_depth: bool = True
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False


def main(arguments: list[str]) -> None:
    """Parses, carries over and prints."""
    options = tyro.cli(Arguments, prog="egoloom correspond", args=arguments)
    points = [_numbers(text, 2, "--points") for text in options.points]
    boxes = [_numbers(text, 4, "--boxes") for text in options.boxes]
    if not points and not boxes:
        raise UserError("Nothing to carry over", allowed="--points x,y ... or --boxes x1,y1,x2,y2 ...")
    from egoloom.augmentation.correspondence import open_cross_view
    from egoloom.clips import ClipStore

    store = ClipStore.open(options.store)
    clip = exo_clip(store, options.take, options.camera)
    duration_s = store.videos[clip.video_id].duration_s
    if not 0 <= options.time_s <= duration_s:
        raise UserError(f"--time-s {options.time_s} is outside of the take", allowed=f"0 to {duration_s:.2f}")
    cross = open_cross_view(store, clip, with_ego_depth=options.ego_depth)
    target = "ego" if options.source == "exo" else "exo"
    found: dict[str, Any] = {"take": clip.take_id, "time_s": options.time_s, "source": options.source, "target": target}
    for name, given, carry in (("points", points, cross.points), ("boxes", boxes, cross.boxes)):
        if given:
            import numpy as np

            places, visible = carry(np.array(given), options.time_s, source=options.source)
            found[name] = [
                {"source": one, "target": _plain(place), "visible": bool(is_seen)}
                for one, place, is_seen in zip(given, places, visible, strict=True)
            ]
    if options.json:
        print(json_module.dumps(found))
        return
    for name in ("points", "boxes"):
        for row in found.get(name, []):
            place = "nowhere" if row["target"] is None else ", ".join(f"{value:.1f}" for value in row["target"])
            state = "visible" if row["visible"] else "not visible"
            print(
                f"{options.source} {', '.join(f'{value:g}' for value in row['source'])} -> {target} {place} ({state})"
            )
    print(f"next: egoloom view {options.store} --clip {clip.clip_id}")


def exo_clip(store: "ClipStore", take: str, camera: str | None) -> "Clip":
    """Returns the exo clip of a take.

    Raises:
        UserError: If there is none, or several and none is chosen.
    """
    clips = [clip for clip in store.select(view="exo") if clip.take_id == take]
    clips = clips or [clip for clip in store.select(view="exo") if clip.take_id.startswith(take)]
    if camera is not None:
        clips = [clip for clip in clips if clip.clip_id == camera]
    if not clips:
        known = ", ".join(sorted({clip.take_id for clip in store.select(view="exo")})[:5]) or "none"
        raise UserError(f"{store.path} has no exo clip of the take {take!r}", allowed=f"{known}, ...")
    if len({clip.video_id for clip in clips}) > 1:
        raise UserError(
            f"{take!r} has {len(clips)} exo clips",
            allowed=", ".join(clip.clip_id for clip in clips[:8]),
            fix="--camera",
        )
    return clips[0]


def _numbers(text: str, count: int, option: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != count:
        raise UserError(f"{option} {text!r} is not understood", allowed=f"{count} numbers with commas, such as 12,40")
    return values


def _plain(place: Any) -> list[float] | None:
    values = [round(float(value), 2) for value in place]
    return None if any(value != value for value in values) else values  # NaN is unknown
