"""Ego4D: published clips or full-scale videos with FHO annotations, IMU and sound."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from egoloom.clips import Clip, ClipStore, Modality
from egoloom.errors import UserError
from egoloom.ingest.documents import number, read_csv
from egoloom.ingest.ego4d_annotations import Action, Task, read_actions
from egoloom.ingest.epic_media import write_boxes
from egoloom.ingest.imu_track import Samples, write_imu
from egoloom.ingest.recordings import DEFAULT_OPTIONS, Copied, IngestOptions, Recording, bring_in, clip_times
from egoloom.ingest.sources import first_existing, require_paths

LICENCE = "Ego4D: its own licence agreement"
CLIP_FOLDERS = ("clips", "v2/clips", "v1/clips")
VIDEO_FOLDERS = ("full_scale", "v2/full_scale", "video_540ss", "v2/video_540ss", "v1/full_scale", "videos")
IMU_FOLDERS = ("imu", "v2/imu", "v1/imu")
IMU_COLUMNS = ("canonical_timestamp_ms", "gyro_x", "gyro_y", "gyro_z", "accl_x", "accl_y", "accl_z")


@dataclass(frozen=True)
class MediaFile:
    """The file that shows some actions, and where it begins in the full video."""

    path: Path
    video_uid: str
    start_s: float


def ingest(
    source: Path,
    out: Path,
    *,
    task: Task = "fho_lta",
    allow_missing: bool = False,
    options: IngestOptions = DEFAULT_OPTIONS,
) -> ClipStore:
    """Brings Ego4D into a clip store.

    Args:
        source: Folder that the Ego4D downloader wrote.
        out: The store.
        task: Which annotations become the clips.
        allow_missing: Leave out annotated videos that are not there, instead of stopping.
        options: How media are copied.
    """
    require_paths({source: "the data set folder"}, source="ego4d")
    actions, spaces = read_actions(source, task)
    by_file, missing = _assign(source, actions)
    if missing and (not allow_missing or not by_file):
        first = missing[0]
        raise UserError(
            f"The videos of {len(missing)} of {len(actions)} annotated actions are missing. Looked for\n"
            f"    {source / CLIP_FOLDERS[0] / (first.clip_uid or 'CLIP_UID')}.mp4\n"
            f"    {source / VIDEO_FOLDERS[0] / first.video_uid}.mp4",
            fix="download them (egoloom ingest ego4d --help), or pass --allow-missing",
        )
    store = ClipStore.create(
        out,
        name=f"Ego4D {task}",
        source="ego4d",
        licence=LICENCE,
        label_spaces=spaces,
        splits=sorted({action.split for action in actions}),
        flow_bound_px=options.flow_bound_px(),
    )
    recordings = [Recording(path.stem, path, take_id=file.video_uid) for path, (file, _) in by_file.items()]

    def clips_of(recording: Recording, copied: Copied) -> Sequence[Clip]:
        file, of_file = by_file[recording.source]
        present = set(copied.present)
        if imu := first_existing(source, tuple(f"{folder}/{file.video_uid}.csv" for folder in IMU_FOLDERS)):
            accelerometer, gyroscope = read_imu(imu, file.start_s, file.start_s + copied.video.duration_s)
            if accelerometer is not None and gyroscope is not None:
                write_imu(store.media_path(Modality.IMU, recording.video_id), accelerometer, gyroscope)
                present.add(Modality.IMU)
        if any(action.hands for action in of_file):
            _write_hands(store, recording, copied, file, of_file)
            present.add(Modality.BOXES)
        return [
            clip for action in of_file if (clip := _clip(action, recording, copied, file, spaces, frozenset(present)))
        ]

    bring_in(store, recordings, clips_of, options, description="ego4d")
    return store


def read_imu(path: Path, start_s: float, end_s: float) -> tuple[Samples | None, Samples | None]:
    """Reads the part of an IMU file between two seconds of the full video, on the clock that starts there.

    Returns:
        Accelerometer (m/s^2) and gyroscope (rad/s); None where the file has nothing for this stretch.
    """
    rows = read_csv(path, required=IMU_COLUMNS)
    sensors = []
    for prefix in ("accl", "gyro"):
        names = [f"{prefix}_{axis}" for axis in "xyz"]
        kept = [row for row in rows if row["canonical_timestamp_ms"] and all(row[name] for name in names)]
        times = np.array([number(r["canonical_timestamp_ms"], f"{path}: canonical_timestamp_ms") for r in kept]) * 1e-3
        values = np.array([[number(row[name], f"{path}: {name}") for name in names] for row in kept]).reshape(-1, 3)
        inside = (times >= start_s) & (times <= end_s) if len(times) else np.zeros(0, bool)
        sensors.append(Samples(times[inside] - start_s, values[inside]) if inside.sum() > 1 else None)
    return sensors[0], sensors[1]


def _assign(source: Path, actions: Sequence[Action]) -> tuple[dict[Path, tuple[MediaFile, list[Action]]], list[Action]]:
    """Finds the file of every action: the published clip if it is there, otherwise the full video."""
    files: dict[Path, MediaFile] = {}
    of_file: dict[Path, list[Action]] = defaultdict(list)
    missing = []
    for action in actions:
        clip_names = tuple(f"{folder}/{action.clip_uid}.mp4" for folder in CLIP_FOLDERS) if action.clip_uid else ()
        video_names = tuple(f"{folder}/{action.video_uid}.mp4" for folder in VIDEO_FOLDERS)
        if path := first_existing(source, clip_names):
            files.setdefault(path, MediaFile(path, action.video_uid, action.clip_start_s))
        elif path := first_existing(source, video_names):
            files.setdefault(path, MediaFile(path, action.video_uid, 0.0))
        else:
            missing.append(action)
            continue
        of_file[path].append(action)
    return {path: (files[path], of_file[path]) for path in sorted(files)}, missing


def _write_hands(
    store: ClipStore, recording: Recording, copied: Copied, file: MediaFile, actions: Sequence[Action]
) -> None:
    boxes = sorted({box for action in actions for box in action.hands}, key=lambda box: (box.time_s, box.side))
    scale = np.array(copied.video.scale * 2)
    write_boxes(
        store.media_path(Modality.BOXES, recording.video_id),
        times_s=[box.time_s - file.start_s for box in boxes],
        tracks=[box.side for box in boxes],
        categories=[("left hand", "right hand")[box.side] for box in boxes],
        scores=[1.0] * len(boxes),
        boxes=np.array([box.xyxy for box in boxes]) * scale,
        is_hand=[True] * len(boxes),
    )


def _clip(
    action: Action,
    recording: Recording,
    copied: Copied,
    file: MediaFile,
    spaces: dict[str, list[str]],
    present: frozenset[Modality],
) -> Clip | None:
    times = clip_times(action.start_s - file.start_s, action.end_s - file.start_s, copied.video)
    if times is None:
        return None
    labels = {head: spaces[head].index(name) for head, name in action.labels.items()}
    return Clip(
        clip_id=action.action_id,
        video_id=recording.video_id,
        participant_id="",
        view="ego",
        take_id=action.video_uid,
        start_s=times[0],
        end_s=times[1],
        split=action.split,
        verb=labels.get("verb", -1),
        noun=labels.get("noun", -1),
        action=labels.get("action", -1),
        narration=action.narration,
        present=present,
        extra=action.extra,
    )
