"""Writes takes of the kitchen into a clip store: in parallel, resumable, the same whatever the number of processes."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from fractions import Fraction
from pathlib import Path

import numpy as np

from egoloom.clips import Clip, ClipStore, Modality, Video
from egoloom.clips.media import write_audio, write_flow, write_table, write_video
from egoloom.errors import UserError
from egoloom.kitchen.camera_view import Rendered
from egoloom.kitchen.clip import KitchenClip, render_clip
from egoloom.kitchen.plan import ClipPlan, clip_rng
from egoloom.kitchen.settings import KitchenSettings
from egoloom.kitchen.tracks import FLOW_BOUND_PX, HOP_S, estimated_flow, log_mel, monocular_depth, write_arrays
from egoloom.kitchen.vocabulary import (
    ACTION_NAMES,
    HELD_OBJECTS,
    LABEL_SPACES,
    OBJECT_CATEGORIES,
    SPLITS,
    noun_index,
    verb_index,
)  # fmt: skip

VIEWS = ("ego", "exo")
BATCH = 24
MAX_CLIPS = 1_000_000
LICENCE = "MIT; simulated by EgoLoom, free to use"


def make_store(
    path: Path | str, *, num_clips: int, seed: int | None = None, settings: KitchenSettings | None = None,
    num_workers: int = 1, on_progress: Callable[[int, int], None] | None = None,
) -> ClipStore:  # fmt: skip
    """Makes a kitchen store, or completes one that was interrupted or shall grow.

    One take is one ego clip and one exo clip with the same ``take_id``. The same settings and seed always give the
    same takes, whatever ``num_workers`` and however often the work was interrupted.

    Args:
        path: The store's folder: new, empty, or a kitchen store with the same settings.
        num_clips: Number of takes in the finished store.
        seed: Overrides the settings' seed.
        settings: Sizes, rates, noise, splits.
        num_workers: Processes; 1 works in this process.
        on_progress: Called with (takes done, takes in all).

    Raises:
        UserError: If a number is out of range, the folder holds something else, or the disk is full; the store stays
            valid and the same call continues.
    """
    if not 1 <= num_clips <= MAX_CLIPS:
        raise UserError(f"{num_clips} is not a possible number of clips", allowed=f"1 to {MAX_CLIPS}")
    if not 1 <= num_workers <= 256:
        raise UserError(f"{num_workers} is not a possible number of processes", allowed="1 to 256")
    settings = settings or KitchenSettings()
    if seed is not None:
        settings = KitchenSettings.model_validate({**settings.model_dump(), "seed": seed})
    store = open_store(path, settings)
    done = {clip.take_id for clip in store.clips}
    todo = [index for index in range(num_clips) if ClipPlan(index, 0, 0, 0, 0, "").take_id not in done]
    finished = num_clips - len(todo)
    rows: list[tuple[list[Video], list[Clip]]] = []
    try:
        for row in _written(store.path, settings, todo, num_workers):
            rows.append(row)
            finished += 1
            if len(rows) >= BATCH:
                _append(store, rows)
            if on_progress:
                on_progress(finished, num_clips)
    finally:
        _append(store, rows)
    return store


def open_store(path: Path | str, settings: KitchenSettings) -> ClipStore:
    """Returns the store with these settings, created if need be."""
    return ClipStore.create(
        path, name="kitchen", source="kitchen", licence=LICENCE, is_simulated=True, label_spaces=LABEL_SPACES,
        splits=SPLITS,
        flow_bound_px=FLOW_BOUND_PX, box_categories=list(OBJECT_CATEGORIES),
        extra={"settings": settings.model_dump_json()},
    )  # fmt: skip


def _append(store: ClipStore, rows: list[tuple[list[Video], list[Clip]]]) -> None:
    if rows:
        rows.sort(key=lambda row: row[1][0].take_id)
        store.append(videos=[v for videos, _ in rows for v in videos], clips=[c for _, clips in rows for c in clips])
        rows.clear()


def _written(
    path: Path, settings: KitchenSettings, todo: list[int], num_workers: int
) -> Iterator[tuple[list[Video], list[Clip]]]:
    if num_workers == 1 or len(todo) < 2:
        for index in todo:
            yield write_take(path, settings, index)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(num_workers, len(todo)), mp_context=context) as pool:
        # Batches in order keep what an interruption leaves behind small and nearly contiguous.
        for start in range(0, len(todo), BATCH):
            futures = [pool.submit(write_take, path, settings, index) for index in todo[start : start + BATCH]]
            try:
                for future in as_completed(futures):
                    yield future.result()
            finally:
                for future in futures:
                    future.cancel()


def write_take(path: Path, settings: KitchenSettings, index: int) -> tuple[list[Video], list[Clip]]:
    """Renders one take and writes its media; returns the rows that describe it."""
    store = ClipStore.open(path)
    try:
        clip = render_clip(settings, index)
        videos, clips = zip(*[_write_view(store, settings, clip, view) for view in VIEWS], strict=True)
    except OSError as error:
        raise UserError(
            f"Cannot write to {path}: {error.strerror or error}",
            fix="free disk space or choose another --out; the same command continues",
        ) from error
    return list(videos), list(clips)


def _write_view(store: ClipStore, settings: KitchenSettings, clip: KitchenClip, view: str) -> tuple[Video, Clip]:
    rendered = clip.view(view)
    video_id = f"{clip.plan.take_id}_{view}"
    present = {Modality.RGB, Modality.FLOW, Modality.DEPTH, Modality.IDS, Modality.EXACT_FLOW, Modality.BOXES}
    _write_pictures(store, settings, clip, rendered, video_id, view)
    write_table(store.media_path(Modality.BOXES, video_id), clip.boxes[view].columns())  # type: ignore[arg-type]
    if view == "ego":
        write_table(store.media_path(Modality.IMU, video_id), clip.imu.columns())
        present.add(Modality.IMU)
        if clip.audio is not None:
            _write_sound(store, settings, clip.audio, video_id)
            present |= {Modality.AUDIO, Modality.SPECTROGRAM}
    store.save_calibration(video_id, _calibration(rendered, clip, view))
    height, width = rendered.depth_m.shape[1:]
    video = Video(
        video_id, f"media/rgb/{video_id}.mp4", Fraction(settings.fps), width, height, settings.num_frames,
        settings.num_frames / settings.fps, view, clip.plan.take_id, video_id,
    )  # fmt: skip
    return video, _clip_row(clip, video, view, frozenset(present))


def _write_pictures(
    store: ClipStore, settings: KitchenSettings, clip: KitchenClip, rendered: Rendered, video_id: str, view: str
) -> None:
    write_video(store.media_path(Modality.RGB, video_id), rendered.rgb, settings.fps)
    flow = estimated_flow(rendered.rgb)
    write_flow(store.media_path(Modality.FLOW, video_id), flow, settings.fps, bound_px=FLOW_BOUND_PX)
    times = {"times_s": clip.times_s}
    depth = {"depth_m": rendered.depth_m.astype(np.float16)}
    if settings.monocular_depth:
        rng = clip_rng(settings, 2 * clip.plan.index + (view == "exo"), "depth")
        depth = {"depth_m": monocular_depth(rendered.depth_m, rng).astype(np.float16), "true_depth_m": depth["depth_m"]}
    write_arrays(store.media_path(Modality.DEPTH, video_id), {**depth, **times})
    write_arrays(store.media_path(Modality.IDS, video_id), {"ids": rendered.ids, **times})
    write_arrays(
        store.media_path(Modality.EXACT_FLOW, video_id), {"flow_px": rendered.flow_px.astype(np.float16), **times}
    )


def _write_sound(store: ClipStore, settings: KitchenSettings, audio: np.ndarray, video_id: str) -> None:
    write_audio(store.media_path(Modality.AUDIO, video_id), audio, settings.sample_rate_hz)
    arrays = {"log_mel": log_mel(audio, settings.sample_rate_hz), "hop_s": np.array(HOP_S), "start_s": np.array(0.0)}
    write_arrays(store.media_path(Modality.SPECTROGRAM, video_id), arrays)


def _calibration(rendered: Rendered, clip: KitchenClip, view: str) -> dict:
    poses = rendered.T_world_camera
    height, width = rendered.depth_m.shape[1:]
    moving = {"times_s": clip.times_s.tolist(), "T_world_camera": poses.tolist()}
    return {
        "model": "pinhole",
        "params": rendered.intrinsics.tolist(),
        "image_size": [width, height],
        "T_world_camera": moving if view == "ego" else poses[0].tolist(),
        "instances": [instance.name for instance in clip.instances],
    }


def _clip_row(clip: KitchenClip, video: Video, view: str, present: frozenset[Modality]) -> Clip:
    plan = clip.plan
    label = plan.label
    return Clip(
        video.video_id, video.video_id, f"P{plan.participant:02d}", view, plan.take_id, 0.0, video.duration_s,
        plan.split,
        verb=-1 if label < 0 else verb_index(label), noun=-1 if label < 0 else noun_index(label), action=label,
        narration="" if label < 0 else ACTION_NAMES[label], present=present,
        extra={"kitchen": f"K{plan.kitchen:02d}", "true_action": ACTION_NAMES[plan.action]},
        left_hand_object=-1 if label < 0 else HELD_OBJECTS.index(clip.held["left"]),
        right_hand_object=-1 if label < 0 else HELD_OBJECTS.index(clip.held["right"]),
    )  # fmt: skip
