"""Flow, sound, boxes and IMU of generated clips, so that teachers of every modality can judge them.

Each track says in ``Clip.extra`` where it comes from: flow is computed on the generated picture, sound is that of the
exo recording, boxes are the exo detector's boxes carried through depth and cameras, the IMU is computed from the
wearer's trajectory, without the noise of a real sensor.
"""

from dataclasses import replace

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation, RotationSpline

from egoloom.augmentation.correspondence import CrossView, open_cross_view
from egoloom.augmentation.takes import ego_video
from egoloom.cameras import PosedCamera
from egoloom.clips import Clip, ClipStore, Modality
from egoloom.clips.files import exclusive_lock
from egoloom.clips.media import read_audio, read_table, write_audio, write_table
from egoloom.clips.tables import write_clips
from egoloom.errors import UserError
from egoloom.modalities import flow, spectrogram

GRAVITY = 9.81
IMU_RATE_HZ = 200
AUDIO_RATE_HZ = 16000
SIMULATED_UP = (0.0, 0.0, 1.0)  # the kitchen's world


def add_modalities(store: ClipStore, *, num_workers: int = 1) -> dict[str, int]:
    """Adds what can be had to every generated clip of a store, and marks it.

    Args:
        store: Generated clips that name their source.
        num_workers: Processes that compute flow.

    Returns:
        Modality to number of clips that have it now.
    """
    marks: dict[str, dict[str, str]] = {}
    present: dict[str, set[Modality]] = {}
    sources: dict[str, ClipStore] = {}
    for clip in store.clips:
        if "source_store" not in clip.extra:
            continue
        source = sources.setdefault(clip.extra["source_store"], ClipStore.open(clip.extra["source_store"]))
        origin = next((one for one in source.clips if one.clip_id == clip.extra["source_clip"]), None)
        if origin is None:
            continue
        found = {"flow": "computed on the generated picture"}
        found |= _audio(store, clip, source, origin) | _imu(store, clip, source, origin)
        found |= _boxes(store, clip, source, origin)
        marks[clip.clip_id] = {f"modality_{name}": text for name, text in found.items()}
        present[clip.clip_id] = {Modality(name) for name in found if name != "flow"}
    _mark(store, marks, present)
    flow.compute(store, num_workers=num_workers, progress=False)
    if any(Modality.AUDIO in clip.present for clip in store.clips):
        spectrogram.compute(store, progress=False)
    store.reload()
    return {str(m): sum(m in clip.present for clip in store.clips) for m in Modality}


def imu_from_trajectory(
    camera: PosedCamera, start_s: float, end_s: float, *, up_world: np.ndarray, rate_hz: int = IMU_RATE_HZ
) -> dict[str, np.ndarray]:
    """Returns what an ideal inertial sensor in the wearer's camera reads: columns of an IMU track.

    Positions follow a cubic spline through the poses, rotations a spline with continuous angular acceleration. The
    specific force is ``R^T (a + g up)``, so at rest it points up; motion faster than half the pose rate is lost.

    Args:
        camera: The wearer's camera with its trajectory.
        start_s: Start in seconds of the trajectory; it becomes time 0.
        end_s: End.
        up_world: Unit vector against gravity in world axes.
        rate_hz: Samples a second.

    Raises:
        UserError: If fewer than four poses are known.
    """
    times, poses = camera.trajectory.times_s.numpy(), camera.trajectory.T_world_camera.numpy()
    if len(times) < 4:
        raise UserError(f"{len(times)} poses are too few for an IMU", allowed="4 or more")
    clock = np.arange(round((end_s - start_s) * rate_hz)) / rate_hz
    asked = np.clip(clock + start_s, times[0], times[-1])
    acceleration = CubicSpline(times, poses[:, :3, 3])(asked, 2)
    spline = RotationSpline(times, Rotation.from_matrix(poses[:, :3, :3]))
    rotation = spline(asked)
    force = rotation.inv().apply(acceleration + GRAVITY * np.asarray(up_world))
    rate = spline(asked, 1)
    columns = {name: force[:, axis].astype(np.float32) for axis, name in enumerate(("ax", "ay", "az"))}
    columns |= {name: rate[:, axis].astype(np.float32) for axis, name in enumerate(("gx", "gy", "gz"))}
    return {"time_s": clock, **columns}


def project_boxes(
    cross: CrossView, table: dict[str, np.ndarray], start_s: float, end_s: float, size_px: tuple[int, int]
) -> dict[str, np.ndarray]:
    """Returns the boxes of an exo track as the ego camera sees them, columns of a box track; time 0 is ``start_s``.

    Args:
        cross: The two views.
        table: Boxes in the exo view.
        start_s: Start of the clip in the exo video.
        end_s: Its end.
        size_px: Width and height of the generated frames.
    """
    width, height = cross.ego_camera.image_size
    scale = np.array([size_px[0] / width, size_px[1] / height] * 2)
    inside = np.flatnonzero((table["time_s"] >= start_s) & (table["time_s"] < end_s))
    kept, boxes = [], []
    for time_s in np.unique(table["time_s"][inside]):
        rows = inside[table["time_s"][inside] == time_s]
        exo = np.stack([table[name][rows] for name in ("x1", "y1", "x2", "y2")], axis=1)
        for row, box, is_seen in zip(rows, *cross.boxes(exo, time_s, source="exo"), strict=True):
            if is_seen:
                kept.append(row)
                boxes.append(box * scale)
    columns = {name: np.asarray(table[name])[kept] for name in ("track", "category", "score", "is_hand")}
    sides = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    columns |= {name: sides[:, axis] for axis, name in enumerate(("x1", "y1", "x2", "y2"))}
    return {"time_s": np.asarray(table["time_s"])[kept] - start_s, **columns}


def _audio(store: ClipStore, clip: Clip, source: ClipStore, origin: Clip) -> dict[str, str]:
    if Modality.AUDIO not in origin.present:
        return {}
    rate_hz = AUDIO_RATE_HZ
    samples = read_audio(source.media_path(Modality.AUDIO, origin.video_id), rate_hz=rate_hz)
    if samples is None:
        return {}
    part = samples[round(origin.start_s * rate_hz) : round(origin.end_s * rate_hz)]
    write_audio(store.media_path(Modality.AUDIO, clip.video_id), part, rate_hz)
    return {"audio": "carried over from the exo recording"}


def _imu(store: ClipStore, clip: Clip, source: ClipStore, origin: Clip) -> dict[str, str]:
    camera = _wearer(source, origin)
    if camera is None or len(camera.trajectory) < 4:
        return {}
    up = np.array(SIMULATED_UP) if source.info.is_simulated else _mean_up(camera)
    table = imu_from_trajectory(camera, origin.start_s, origin.end_s, up_world=up)
    write_table(store.media_path(Modality.IMU, clip.video_id), table)
    assumed = "" if source.info.is_simulated else "; up is taken as the mean up of the camera"
    return {"imu": f"simulated from the ego trajectory, without sensor noise{assumed}"}


def _boxes(store: ClipStore, clip: Clip, source: ClipStore, origin: Clip) -> dict[str, str]:
    if not {Modality.BOXES, Modality.DEPTH} <= origin.present:
        return {}
    mark = {"boxes": "projected from the exo view through depth and cameras"}
    if store.media_path(Modality.BOXES, clip.video_id).is_file():
        return mark
    cross = open_cross_view(source, origin, with_ego_depth=False)
    video = store.videos[clip.video_id]
    exo = read_table(source.media_path(Modality.BOXES, origin.video_id))
    table = project_boxes(cross, exo, origin.start_s, origin.end_s, (video.width, video.height))
    if not len(table["time_s"]):
        return {}
    write_table(store.media_path(Modality.BOXES, clip.video_id), table)
    return mark


def _wearer(source: ClipStore, origin: Clip) -> PosedCamera | None:
    ego = ego_video(source, origin.take_id)
    calibration = ego.calibration_id if ego else origin.extra.get("ego_calibration", "")
    return PosedCamera.from_dict(source.load_calibration(calibration)) if calibration else None


def _mean_up(camera: PosedCamera) -> np.ndarray:
    """Against the camera's y axis, on average: heads are upright more often than not."""
    up = -camera.trajectory.T_world_camera[:, :3, 1].mean(dim=0)
    return torch.nn.functional.normalize(up, dim=0).numpy()


def _mark(store: ClipStore, marks: dict[str, dict[str, str]], present: dict[str, set[Modality]]) -> None:
    with exclusive_lock(store.path / ".lock"):
        store.reload()
        clips = [
            replace(
                clip,
                extra=clip.extra | marks.get(clip.clip_id, {}),
                present=clip.present | present.get(clip.clip_id, set()),
            )
            for clip in store.clips
        ]
        write_clips(store.path / "clips.parquet", clips)
        store.reload()
