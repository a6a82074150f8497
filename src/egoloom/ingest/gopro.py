"""GoPro videos with telemetry: RGB, sound, accelerometer and gyroscope."""

from collections.abc import Sequence
from pathlib import Path

from egoloom.clips import Clip, ClipStore, Modality
from egoloom.errors import UserError
from egoloom.ingest.gpmf import sensor_samples
from egoloom.ingest.imu_track import write_imu
from egoloom.ingest.recordings import DEFAULT_OPTIONS, Copied, IngestOptions, Recording, bring_in
from egoloom.ingest.sources import require_paths
from egoloom.ingest.video_copy import probe
from egoloom.ingest.videos import cut, video_files, video_id_of


def ingest(
    source: Path,
    out: Path,
    *,
    split: str = "train",
    participant_id: str = "",
    clip_length_s: float = 0.0,
    require_imu: bool = False,
    licence: str = "",
    options: IngestOptions = DEFAULT_OPTIONS,
) -> ClipStore:
    """Brings GoPro videos into a clip store; the IMU comes from the telemetry track where there is one.

    Args:
        source: A video, or a folder that is searched with its sub-folders.
        out: The store.
        split: Split of the clips.
        participant_id: Who wore the camera.
        clip_length_s: Cut videos into clips of this length; 0 makes one clip of each.
        require_imu: Refuse videos without telemetry.
        licence: Under which terms the videos may be used.
        options: How media are copied.
    """
    require_paths({source: "a GoPro video, or a folder of them"}, source="gopro")
    root, files = (source, video_files(source)) if source.is_dir() else (source.parent, [source])
    if not files:
        raise UserError(f"{source} holds no videos")
    store = ClipStore.create(
        out,
        name=source.stem,
        source="gopro",
        licence=licence,
        splits=[split],
        flow_bound_px=options.flow_bound_px(),
    )

    def clips_of(recording: Recording, copied: Copied) -> Sequence[Clip]:
        present = set(copied.present)
        start_s = probe(recording.source).start_s
        accelerometer = sensor_samples(recording.source, "ACCL", start_s=start_s)
        gyroscope = sensor_samples(recording.source, "GYRO", start_s=start_s)
        if accelerometer is not None and gyroscope is not None:
            write_imu(store.media_path(Modality.IMU, recording.video_id), accelerometer, gyroscope)
            present.add(Modality.IMU)
        elif require_imu:
            raise UserError(f"{recording.source} has no accelerometer and gyroscope track")
        return [
            Clip(
                clip_id=f"{recording.video_id}_{number:04d}",
                video_id=recording.video_id,
                participant_id=participant_id,
                view="ego",
                take_id="",
                start_s=start,
                end_s=end,
                split=split,
                present=frozenset(present),
            )
            for number, (start, end) in enumerate(cut(0.0, copied.video.duration_s, clip_length_s))
        ]

    recordings = [Recording(video_id_of(path, root), path) for path in files]
    bring_in(store, recordings, clips_of, options, description="gopro")
    return store
