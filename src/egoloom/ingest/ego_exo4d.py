"""Ego-Exo4D (Grauman et al. 2024, arXiv 2311.18259): frame-aligned ego and exo views, cameras, keysteps."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from egoloom.cameras import Trajectory
from egoloom.cameras.rig import PosedCamera
from egoloom.clips import Clip, ClipStore
from egoloom.errors import UserError
from egoloom.ingest import mps
from egoloom.ingest.documents import entry_value, number, objects, read_json
from egoloom.ingest.recordings import DEFAULT_OPTIONS, Copied, IngestOptions, Recording, bring_in, clip_times
from egoloom.ingest.sources import first_existing, require_paths

LICENCE = "Ego-Exo4D: its own licence agreement"
SPLITS = ("train", "val", "test")
VIDEO_FOLDERS = ("frame_aligned_videos/downscaled/448", "frame_aligned_videos", "")
KEYSTEP_FILES = ("keystep_{}.json", "annotations/keystep_{}.json")


@dataclass(frozen=True)
class Keystep:
    """One labelled step of a take, in seconds of its videos."""

    start_s: float
    end_s: float
    step_id: int
    name: str


@dataclass(frozen=True)
class Take:
    """One take: a folder with an ego video and exo videos of the same moments."""

    name: str
    folder: Path
    ego: Path
    exos: tuple[Path, ...]
    uid: str = ""
    split: str = ""
    entry: dict[str, Any] = field(default_factory=dict)


def ingest(
    source: Path,
    out: Path,
    *,
    takes: tuple[str, ...] = (),
    exo_keysteps: bool = True,
    aria_frames: Literal["upright", "sensor"] = "upright",
    default_split: str = "train",
    options: IngestOptions = DEFAULT_OPTIONS,
) -> ClipStore:
    """Brings Ego-Exo4D takes into a clip store.

    Args:
        source: Folder with ``takes.json`` and ``takes/``, or a folder of take folders.
        out: The store.
        takes: Only these take names.
        exo_keysteps: Also label the exo views with the keysteps.
        aria_frames: Whether the Aria videos are turned upright (as published) or as the sensor sees.
        default_split: Split of takes that ``annotations/splits.json`` does not name.
        options: How media are copied.
    """
    require_paths({source: "the data set folder"}, source="ego-exo4d")
    found = [take for take in find_takes(source, default_split) if not takes or take.name in takes]
    if not found:
        raise UserError(f"{source} holds none of the takes {', '.join(takes)}")
    keysteps, names = read_keysteps(source)
    store = ClipStore.create(
        out,
        name="Ego-Exo4D",
        source="ego-exo4d",
        licence=LICENCE,
        label_spaces={"action": names} if names else {},
        splits=sorted({take.split for take in found}),
        flow_bound_px=options.flow_bound_px(),
    )
    recordings, owners = [], {}
    for take in found:
        for view, path in [("ego", take.ego), *(("exo", path) for path in take.exos)]:
            video_id = f"{take.name}__{camera_name(path)}"
            recordings.append(Recording(video_id, path, view=view, take_id=take.name, calibration_id=video_id))
            owners[video_id] = take

    def clips_of(recording: Recording, copied: Copied) -> Sequence[Clip]:
        take = owners[recording.video_id]
        entry = calibration(source, take, recording, copied, turned=aria_frames == "upright")
        store.save_calibration(recording.calibration_id, entry)
        steps = keysteps.get(take.uid, []) or keysteps.get(take.name, [])
        return _clips(take, recording, copied, steps if recording.view == "ego" or exo_keysteps else [])

    bring_in(store, recordings, clips_of, options, description="ego-exo4d")
    return store


def find_takes(source: Path, default_split: str = "train") -> list[Take]:
    """Returns the takes below a folder; one that has no ego video is refused.

    Raises:
        UserError: If there are no takes, naming what was looked for.
    """
    entries = {}
    if (source / "takes.json").is_file():
        for entry in read_json(source / "takes.json", list):
            entries[entry_value(entry, "take_name", str, str(source / "takes.json"))] = entry
    splits_file = first_existing(source, ("annotations/splits.json", "splits.json"))
    splits = read_json(splits_file, dict).get("take_uid_to_split", {}) if splits_file else {}
    root = source / "takes" if (source / "takes").is_dir() else source
    takes = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        entry = entries.get(folder.name, {})
        uid = str(entry.get("take_uid", ""))
        if take := _take(folder, entry, uid, str(splits.get(uid, default_split))):
            takes.append(take)
    if not takes:
        raise UserError(
            f"Missing input:\n    {root}/<take>/frame_aligned_videos/aria01_214-1.mp4  (the ego video)\n"
            f"    {root}/<take>/frame_aligned_videos/cam01.mp4 ...  (the exo videos)",
            fix="egoloom ingest ego-exo4d --help says where to get it",
        )
    return takes


def camera_name(path: Path) -> str:
    """Returns ``aria01`` for ``aria01_214-1.mp4`` and ``cam01`` for ``cam01.mp4``."""
    return path.stem.split("_")[0]


def read_keysteps(source: Path) -> tuple[dict[str, list[Keystep]], list[str]]:
    """Reads keystep annotations: by take uid and by take name, and the step names in index order.

    The index of a step is its place among the sorted unique ids that occur.
    """
    by_take: dict[str, list[Keystep]] = defaultdict(list)
    names: dict[int, str] = {}
    for split in SPLITS:
        path = first_existing(source, tuple(pattern.format(split) for pattern in KEYSTEP_FILES))
        if path is None:
            continue
        content = read_json(path, dict)
        for uid, take in entry_value(content, "annotations", dict, str(path)).items():
            where = f"{path}: take {uid}"
            for segment in objects(entry_value(take, "segments", list, where), where):
                step_id = int(entry_value(segment, "step_unique_id", int, where))
                name = str(segment.get("step_name", step_id))
                times = [number(segment.get(key), f"{where}: {key}") for key in ("start_time", "end_time")]
                names.setdefault(step_id, name)
                keystep = Keystep(times[0], times[1], step_id, name)
                by_take[uid].append(keystep)
                if take.get("take_name"):
                    by_take[str(take["take_name"])].append(keystep)
    order = {step_id: index for index, step_id in enumerate(sorted(names))}
    indexed = {
        key: [Keystep(s.start_s, s.end_s, order[s.step_id], s.name) for s in steps] for key, steps in by_take.items()
    }
    return indexed, [names[step_id] for step_id in sorted(names)]


def calibration(source: Path, take: Take, recording: Recording, copied: Copied, *, turned: bool) -> dict[str, Any]:
    """Returns the calibration entry of a view for the stored size; ``missing`` says what is not known."""
    try:
        if recording.view == "exo":
            return _exo_calibration(take, camera_name(recording.source), copied)
        mounted = mps.read_online_calibration(take.folder / "trajectory" / "online_calibration.jsonl")
        mounted = mps.upright(mounted) if turned else mounted
        camera = mps.rgb_camera_for_video(mounted.camera, (copied.video.width, copied.video.height))
    except UserError as error:
        return {"missing": error.what}
    entry = camera.to_dict() | {"T_device_camera": mounted.T_device_camera.tolist()}
    name, num_frames = camera_name(recording.source), copied.video.num_frames
    try:
        trajectory = _ego_trajectory(source, take, name, mounted.T_device_camera, num_frames)
    except UserError as error:
        return entry | {"missing": error.what}
    return entry | {"T_world_camera": trajectory.to_dict()}


def _exo_calibration(take: Take, name: str, copied: Copied) -> dict[str, Any]:
    path = take.folder / "trajectory" / "gopro_calibs.csv"
    cameras = mps.read_gopro_calibrations(path)
    if name not in cameras:
        raise UserError(f"{path} has no camera {name}")
    camera, T_world_camera = cameras[name]
    stored = camera.resize(copied.video.width, copied.video.height)
    return PosedCamera(stored, Trajectory.fixed(T_world_camera)).to_dict()


def _ego_trajectory(source: Path, take: Take, name: str, T_device_camera: torch.Tensor, num_frames: int) -> Trajectory:
    """Places the poses on the video's clock with the frame times of the capture's ``timesync.csv``."""
    poses = mps.read_device_poses(take.folder / "trajectory" / "closed_loop_trajectory.csv")
    capture = str(take.entry.get("capture", {}).get("capture_name") or take.name.rpartition("_")[0])
    path = first_existing(source, (f"captures/{capture}/timesync.csv", f"captures/{capture}/timesync/timesync.csv"))
    start = take.entry.get("timesync_start_idx")
    if path is None or not isinstance(start, int):
        raise UserError(
            f"{source}/captures/{capture}/timesync.csv is not there: poses cannot be put on the video's clock"
        )
    times = mps.read_frame_times(path, name)[start : start + num_frames]
    known = np.isfinite(times)
    if not known.any():
        raise UserError(f"{path} has no frame times for {take.name}")
    # Frame i of the aligned video is row start + i; a missing frame's time is interpolated.
    index = np.arange(len(times))
    times = np.interp(index, index[known], times[known])
    return mps.camera_trajectory(poses, T_device_camera, times, float(times[0]))


def _take(folder: Path, entry: dict[str, Any], uid: str, split: str) -> Take | None:
    for name in VIDEO_FOLDERS:
        videos = sorted((folder / name).glob("*.mp4")) if (folder / name).is_dir() else []
        egos = [
            path for path in videos if path.stem.startswith("aria") and ("_" not in path.stem or "214-1" in path.stem)
        ]
        exos = [path for path in videos if path.stem.startswith(("cam", "gp"))]
        if egos:
            return Take(folder.name, folder, egos[0], tuple(exos), uid, split, entry)
    return None


def _clips(take: Take, recording: Recording, copied: Copied, steps: Sequence[Keystep]) -> list[Clip]:
    video = copied.video
    pieces = [
        (f"{recording.video_id}_{number_of_step:03d}", times, step)
        for number_of_step, step in enumerate(steps)
        if (times := clip_times(step.start_s, step.end_s, video))
    ]
    stretches = pieces or [(recording.video_id, (0.0, video.duration_s), None)]
    return [
        Clip(
            clip_id=clip_id,
            video_id=recording.video_id,
            participant_id=str(take.entry.get("participant_uid") or ""),
            view=recording.view,
            take_id=take.name,
            start_s=times[0],
            end_s=times[1],
            split=take.split,
            action=-1 if step is None else step.step_id,
            narration="" if step is None else step.name,
            present=copied.present,
        )
        for clip_id, times, step in stretches
    ]
