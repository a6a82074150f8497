"""EgoX takes as a clip store: exo view with metric depth and camera, real ego view with its trajectory."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from egoloom.cameras import Camera
from egoloom.cameras.rig import PosedCamera
from egoloom.clips import Clip, ClipStore, Modality
from egoloom.clips.media import write_arrays
from egoloom.errors import UserError
from egoloom.ingest.egox import EgoXTake, find_take, read_takes
from egoloom.ingest.egox_recording import ExoFit
from egoloom.ingest.recordings import Copied, IngestOptions, Recording, bring_in

DEFAULT_OPTIONS = IngestOptions(short_side_px=448)
LICENCE = "terms of the takes' origin (Ego-Exo4D terms for its takes); the EgoX repository states no licence"


def ingest(
    source: Path,
    out: Path,
    *,
    take: str = "",
    calibration: Path | None = None,
    exo_fit: ExoFit = "layout",
    split: str = "train",
    options: IngestOptions = DEFAULT_OPTIONS,
) -> ClipStore:
    """Brings takes in the EgoX layout into a clip store.

    Args:
        source: Folder with ``meta.json``, or one that holds several such folders.
        out: The store.
        take: Only this take (a unique beginning is enough).
        calibration: Lens calibration; default: ``calibration.json`` beside or above the takes.
        exo_fit: How the exo video lies in the depth maps where their sizes differ.
        split: Split of the clips.
        options: How media are copied; the default keeps the 448 px of the layout.
    """
    takes = _takes(source, calibration, exo_fit)
    takes = [find_take(takes, take)] if take else takes
    store = ClipStore.create(
        out,
        name="EgoX takes",
        source="egox",
        licence=LICENCE,
        splits=[split],
        flow_bound_px=options.flow_bound_px(),
    )
    recordings, owners = [], {}
    for one in takes:
        for view, path in (("exo", one.exo_path), ("ego", one.ego_gt_path)):
            if path is None:
                continue
            video_id = f"{one.name}_{view}"
            recordings.append(Recording(video_id, path, view=view, take_id=one.name, calibration_id=video_id))
            owners[video_id] = one

    def clips_of(recording: Recording, copied: Copied) -> Sequence[Clip]:
        one = owners[recording.video_id]
        present = set(copied.present)
        if recording.view == "exo":
            _write_depth(store, recording.video_id, one, copied)
            present.add(Modality.DEPTH)
        calibrated = _write_calibration(store, recording, one, copied)
        extra = {"prompt": str(one.entry.get("prompt") or ""), "calibrated": str(calibrated).lower()}
        if recording.view == "exo":
            extra["ego_calibration"] = _write_wearer(store, one)
        return [
            Clip(
                clip_id=recording.video_id,
                video_id=recording.video_id,
                participant_id="",
                view=recording.view,
                take_id=one.name,
                start_s=0.0,
                end_s=min(copied.video.duration_s, one.num_frames / float(copied.video.fps)),
                split=split,
                present=frozenset(present),
                extra={key: value for key, value in extra.items() if value},
            )
        ]

    bring_in(store, recordings, clips_of, options, description="egox")
    return store


def _takes(source: Path, calibration: Path | None, exo_fit: ExoFit) -> list[EgoXTake]:
    folders = [source] if (source / "meta.json").is_file() else sorted(p.parent for p in source.glob("*/meta.json"))
    if not folders:
        raise UserError(
            f"Missing input:\n    {source / 'meta.json'}  (the takes)", fix="egoloom ingest egox --help says where from"
        )
    return [one for folder in folders for one in read_takes(folder, calibration=calibration, exo_fit=exo_fit)]


def _write_depth(store: ClipStore, video_id: str, take: EgoXTake, copied: Copied) -> None:
    depth = take.depth()
    height, width = depth.shape[1:]
    if (copied.video.width, copied.video.height) != (width, height):
        # Nearest neighbour: averaging across an edge would invent surfaces between fore- and background.
        rows = np.minimum((np.arange(copied.video.height) + 0.5) * height / copied.video.height, height - 1).astype(int)
        columns = np.minimum((np.arange(copied.video.width) + 0.5) * width / copied.video.width, width - 1).astype(int)
        depth = depth[:, rows][:, :, columns]
    arrays = {"depth_m": depth.astype(np.float16), "times_s": np.asarray(take.times_s, np.float64)}
    write_arrays(store.media_path(Modality.DEPTH, video_id), arrays)


def _write_wearer(store: ClipStore, take: EgoXTake) -> str:
    """Writes the wearer's camera, which a take without a recorded ego view has as well; returns its id, or nothing."""
    try:
        posed = PosedCamera(take.ego_camera(), take.ego_trajectory)
    except UserError:
        return ""
    store.save_calibration(f"{take.name}_wearer", posed.to_dict())
    return f"{take.name}_wearer"


def _write_calibration(store: ClipStore, recording: Recording, take: EgoXTake, copied: Copied) -> bool:
    """Writes camera and poses for the stored size; a take without known lens is kept without them."""
    source_size = (copied.video.source_width, copied.video.source_height)
    try:
        camera: Camera = take.exo_camera if recording.view == "exo" else take.ego_camera(source_size)
        trajectory = take.exo_trajectory if recording.view == "exo" else take.ego_trajectory
    except UserError as error:
        store.save_calibration(recording.calibration_id, {"missing": error.what})
        return False
    stored = camera.resize(copied.video.width, copied.video.height)
    store.save_calibration(recording.calibration_id, PosedCamera(stored, trajectory).to_dict())
    return True
