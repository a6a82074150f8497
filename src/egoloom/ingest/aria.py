"""Project Aria recordings (VRS, Gen 1 and Gen 2): RGB, sound, both IMUs, calibration, hand tracking, gaze.

Needs ``projectaria-tools`` (extra ``aria``). Gen 1 sees the world turned by 90 degrees: frames and intrinsics are
turned clockwise together. IMU axes are those of the upright RGB camera (x right, y down, z forward).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from egoloom._optional import require_package
from egoloom._parallel import Failure, check_failures, map_unordered
from egoloom.cameras import Camera, Fisheye624
from egoloom.clips import Clip, ClipStore, Modality, Video
from egoloom.clips.files import atomic_path
from egoloom.clips.media import write_table
from egoloom.clips.media.encoding import encode_frames
from egoloom.errors import UserError
from egoloom.ingest import mps
from egoloom.ingest.audio_copy import FlacWriter
from egoloom.ingest.epic_media import write_boxes
from egoloom.ingest.imu_track import Samples, write_imu
from egoloom.ingest.recordings import DEFAULT_OPTIONS, IngestOptions, write_failures
from egoloom.ingest.sources import require_paths
from egoloom.ingest.video_copy import at_constant_rate, target_size, upright_frames
from egoloom.ingest.videos import cut, video_id_of

RGB = "camera-rgb"
IMUS = ("imu-right", "imu-left")  # the first one becomes the store's IMU track
MIN_HAND_CONFIDENCE = 0.2
TRAJECTORY_FILES = (
    "closed_loop_trajectory.csv",
    "slam/closed_loop_trajectory.csv",
    "trajectory/closed_loop_trajectory.csv",
)


def ingest(
    source: Path,
    out: Path,
    *,
    split: str = "train",
    participant_id: str = "",
    clip_length_s: float = 0.0,
    licence: str = "",
    options: IngestOptions = DEFAULT_OPTIONS,
) -> ClipStore:
    """Brings Project Aria recordings into a clip store.

    Args:
        source: A ``.vrs`` file, or a folder that is searched with its sub-folders. A ``closed_loop_trajectory.csv`` in
            ``mps_<name>_vrs/slam`` or beside the recording gives the poses.
        out: The store.
        split: Split of the clips.
        participant_id: Who wore the glasses.
        clip_length_s: Cut recordings into clips of this length; 0 makes one clip of each.
        licence: Under which terms the recordings may be used.
        options: How media are copied; ``reference`` mode is not possible for VRS.
    """
    require_paths({source: "a VRS file, or a folder of them"}, source="aria")
    if options.mode == "reference":
        raise UserError("VRS files cannot be referenced: they are no videos", fix="--mode copy")
    require_package("projectaria_tools.core.data_provider", extra="aria", package="projectaria-tools")
    root, files = (source, sorted(source.rglob("*.vrs"))) if source.is_dir() else (source.parent, [source])
    if not files:
        raise UserError(f"{source} holds no .vrs files")
    store = ClipStore.create(
        out,
        name=source.stem,
        source="aria",
        licence=licence,
        splits=[split],
        flow_bound_px=options.flow_bound_px(20.0),
    )

    def clips_of(video: Video, present: frozenset[Modality]) -> list[Clip]:
        return [
            Clip(
                clip_id=f"{video.video_id}_{number:04d}",
                video_id=video.video_id,
                participant_id=participant_id,
                view="ego",
                take_id="",
                start_s=start_s,
                end_s=end_s,
                split=split,
                present=present,
            )
            for number, (start_s, end_s) in enumerate(cut(0.0, video.duration_s, clip_length_s))
        ]

    _bring_in(store, root, files, clips_of, options)
    return store


def _bring_in(
    store: ClipStore,
    root: Path,
    files: Sequence[Path],
    clips_of: Callable[[Video, frozenset[Modality]], list[Clip]],
    options: IngestOptions,
) -> None:
    """Writes what the store lacks, in parallel; damaged recordings are listed, too many of them stop the work."""
    todo = [path for path in files if video_id_of(path, root) not in store.videos]
    failures: list[Failure] = []
    num_done = len(files) - len(todo)
    try:
        for outcome in map_unordered(
            _Writer(store.path, root, options),
            todo,
            num_workers=options.num_workers,
            description="aria",
            progress=options.progress,
        ):
            if outcome.result is not None:
                video, present = outcome.result
                store.append(videos=[video], clips=clips_of(video, present))
                num_done += 1
            elif outcome.failure is not None:
                failures.append(outcome.failure)
                check_failures(failures, num_done, len(files), options.max_failed_share)
    finally:
        write_failures(store, failures)


@dataclass(frozen=True)
class _Writer:
    """Writes one recording; a picklable function object for the workers."""

    store_path: Path
    root: Path
    options: IngestOptions

    def __call__(self, path: Path) -> tuple[Video, frozenset[Modality]]:
        return Recorded(path).write(ClipStore.open(self.store_path), video_id_of(path, self.root), self.options)


class Recorded:
    """One opened VRS recording.

    Args:
        path: The file.

    Raises:
        UserError: If it cannot be opened or has no RGB frames.
    """

    def __init__(self, path: Path) -> None:
        tools = require_package("projectaria_tools.core.data_provider", extra="aria", package="projectaria-tools")
        try:
            self.provider = tools.create_vrs_data_provider(str(path))
        except (RuntimeError, ValueError) as error:
            raise UserError(f"Cannot open {path} as VRS: {error}") from error
        if self.provider is None:
            raise UserError(f"Cannot open {path} as VRS", fix="check or copy the file again")
        self.path = path
        self.streams = {self.provider.get_label_from_stream_id(s): s for s in self.provider.get_all_streams()}
        if RGB not in self.streams or not self.provider.get_num_data(self.streams[RGB]):
            raise UserError(f"{path} has no RGB frames", allowed="a recording with the stream 214-1")
        self.calibration = self.provider.get_device_calibration()
        # Gen 1 records its RGB camera lying on its side; Gen 2 upright.
        self.turns_cw = 1 if str(self.provider.get_device_version()).endswith("Gen1") else 0
        first = self.provider.get_image_data_by_index(self.streams[RGB], 0)
        self.start_ns = int(first[1].capture_timestamp_ns)

    def write(self, store: ClipStore, video_id: str, options: IngestOptions) -> tuple[Video, frozenset[Modality]]:
        """Writes all tracks; returns the video's row and the modalities that exist."""
        mounted = self.rgb_camera()
        width, height = target_size(*mounted.camera.image_size, options.short_side_px)
        camera = mounted.camera.resize(width, height)
        fps = Fraction(self.provider.get_nominal_rate_hz(self.streams[RGB])).limit_denominator(1001)
        rgb_path = store.media_path(Modality.RGB, video_id)
        timed = at_constant_rate(self.path, self._frames(), fps)
        frames = upright_frames(timed, (width, height), -self.turns_cw % 4)
        num_frames = encode_frames(rgb_path, frames, (width, height), "yuv420p", fps, crf=options.crf)
        present = {Modality.RGB}
        if options.audio and self._write_sound(store, video_id, options.audio_rate_hz):
            present.add(Modality.AUDIO)
        if self._write_imus(store, video_id, mounted.T_device_camera):
            present.add(Modality.IMU)
        if self._write_hands(store, video_id, camera, mounted.T_device_camera):
            present.add(Modality.BOXES)
        self._write_gaze(store, video_id)
        entry = camera.to_dict() | {"T_device_camera": mounted.T_device_camera.tolist()}
        times_s = self.start_ns * 1e-9 + np.arange(num_frames) / float(fps)
        store.save_calibration(video_id, entry | self._poses(mounted, times_s))
        path = str(rgb_path.relative_to(store.path))
        duration_s = num_frames / float(fps)
        video = Video(video_id, path, fps, width, height, num_frames, duration_s, calibration_id=video_id)
        return video, frozenset(present)

    def rgb_camera(self) -> mps.MountedCamera:
        """Returns the upright RGB camera at its recorded size."""
        calib = self.calibration.get_camera_calib(RGB)
        if "FISHEYE624" not in str(calib.get_model_name()):
            raise UserError(f"The RGB camera of {self.path} has the model {calib.get_model_name()}")
        size = tuple(int(side) for side in calib.get_image_size())
        params = torch.tensor(np.asarray(calib.get_projection_params()), dtype=torch.float64)
        T_device_camera = torch.tensor(calib.get_transform_device_camera().to_matrix(), dtype=torch.float64)
        mounted = mps.MountedCamera(Fisheye624(params, (size[0], size[1])), T_device_camera)
        return mps.upright(mounted, self.turns_cw)

    def _seconds(self, time_ns: float) -> float:
        return (int(time_ns) - self.start_ns) * 1e-9

    def _frames(self) -> Iterator[tuple[av.VideoFrame, float]]:
        stream = self.streams[RGB]
        for index in range(self.provider.get_num_data(stream)):
            image, record = self.provider.get_image_data_by_index(stream, index)
            if not image.is_valid():
                continue
            picture = np.ascontiguousarray(image.to_numpy_array())
            yield av.VideoFrame.from_ndarray(picture, format="rgb24"), self._seconds(record.capture_timestamp_ns)

    def _write_sound(self, store: ClipStore, video_id: str, rate_hz: int) -> bool:
        """Writes the mean of the microphones as the store's sound, and all channels beside it."""
        if "mic" not in self.streams:
            return False
        stream = self.streams["mic"]
        settings = self.provider.get_audio_configuration(stream)
        num_channels, native_hz = int(settings.num_channels), int(settings.sample_rate)
        blocks, first_ns = [], None
        for index in range(self.provider.get_num_data(stream)):
            data, record = self.provider.get_audio_data_by_index(stream, index)
            first_ns = int(record.capture_timestamps_ns[0]) if first_ns is None else first_ns
            samples = np.asarray(data.data, np.float64).reshape(-1, num_channels) / float(data.max_amplitude)
            blocks.append(samples.astype(np.float32))
        if first_ns is None:
            return False
        channels = np.concatenate(blocks)
        offset = round(self._seconds(first_ns) * native_hz)
        channels = np.pad(channels, ((offset, 0), (0, 0))) if offset > 0 else channels[-offset:]
        _write_mono(store.media_path(Modality.AUDIO, video_id), channels.mean(axis=1), native_hz, rate_hz)
        write_table(
            store.path / "media" / "microphones" / f"{video_id}.parquet",
            {f"channel_{index}": (channels[:, index] * 32767).astype(np.int16) for index in range(num_channels)},
        )
        return True

    def _write_imus(self, store: ClipStore, video_id: str, T_device_camera: torch.Tensor) -> bool:
        R_camera_device = T_device_camera[:3, :3].T.numpy()
        written = False
        for label in IMUS:
            if label not in self.streams or self.provider.get_num_data(self.streams[label]) < 2:
                continue
            calib = self.calibration.get_imu_calib(label)
            R_camera_imu = R_camera_device @ calib.get_transform_device_imu().to_matrix()[:3, :3]
            stream = self.streams[label]
            records = [
                self.provider.get_imu_data_by_index(stream, i) for i in range(self.provider.get_num_data(stream))
            ]
            records = [record for record in records if record.accel_valid and record.gyro_valid]
            times = np.array([self._seconds(record.capture_timestamp_ns) for record in records])
            accel = np.array([calib.raw_to_rectified_accel(r.accel_msec2) for r in records]).reshape(-1, 3)
            gyro = np.array([calib.raw_to_rectified_gyro(r.gyro_radsec) for r in records]).reshape(-1, 3)
            path = store.media_path(Modality.IMU, video_id)
            if written:
                path = store.path / "media" / label.replace("-", "_") / path.name
            write_imu(path, Samples(times, accel @ R_camera_imu.T), Samples(times, gyro @ R_camera_imu.T))
            written = True
        return written

    def _write_hands(self, store: ClipStore, video_id: str, camera: Camera, T_device_camera: torch.Tensor) -> bool:
        """Projects tracked hands into the RGB frame: one box a hand, and the landmarks beside it."""
        rows: list[dict[str, Any]] = []
        T_camera_device = torch.linalg.inv(T_device_camera)
        for time_s, side, hand in self._hands():
            points = torch.tensor(np.array(hand.landmark_positions_device), dtype=torch.float64)
            points = points @ T_camera_device[:3, :3].T + T_camera_device[:3, 3]
            pixels, valid = camera.project(points)
            seen = pixels[valid & camera.contains(pixels)].numpy()
            if len(seen) >= 3:
                corners = np.concatenate([seen.min(axis=0), seen.max(axis=0)])
                rows.append({"time_s": time_s, "side": side, "score": hand.confidence, "box": corners})
        if not rows:
            return False
        write_boxes(
            store.media_path(Modality.BOXES, video_id),
            times_s=[row["time_s"] for row in rows],
            tracks=[row["side"] for row in rows],
            categories=[("left hand", "right hand")[row["side"]] for row in rows],
            scores=[row["score"] for row in rows],
            boxes=np.stack([row["box"] for row in rows]),
            is_hand=[True] * len(rows),
        )
        return True

    def _hands(self) -> Iterator[tuple[float, int, Any]]:
        stream = self.streams.get("handtracking")
        for index in range(self.provider.get_num_data(stream) if stream is not None else 0):
            pose = self.provider.get_hand_pose_data_by_index(stream, index)
            time_s = self._seconds(pose.tracking_timestamp.total_seconds() * 1e9)
            for side, hand in enumerate((pose.left_hand, pose.right_hand)):
                if hand is not None and hand.confidence >= MIN_HAND_CONFIDENCE:
                    yield time_s, side, hand

    def _write_gaze(self, store: ClipStore, video_id: str) -> None:
        stream = self.streams.get("eyegaze")
        if stream is None:
            return
        gaze = [self.provider.get_eye_gaze_data_by_index(stream, i) for i in range(self.provider.get_num_data(stream))]
        write_table(
            store.path / "media" / "gaze" / f"{video_id}.parquet",
            {
                "time_s": [self._seconds(sample.tracking_timestamp.total_seconds() * 1e9) for sample in gaze],
                "yaw_rad": [float(sample.yaw) for sample in gaze],
                "pitch_rad": [float(sample.pitch) for sample in gaze],
                "depth_m": [float(sample.depth) for sample in gaze],
            },
        )

    def _poses(self, mounted: mps.MountedCamera, frame_times_s: np.ndarray) -> dict[str, Any]:
        """Returns the poses at the frames' device times, or what is missing to know them."""
        folders = (self.path.parent / f"mps_{self.path.stem}_vrs", self.path.parent)
        path = next((f / n for f in folders for n in TRAJECTORY_FILES if (f / n).is_file()), None)
        if path is None:
            return {"missing": f"no {TRAJECTORY_FILES[0]} beside {self.path}"}
        poses = mps.read_device_poses(path)
        inside = (frame_times_s >= poses.times_s[0] - 0.1) & (frame_times_s <= poses.times_s[-1] + 0.1)
        if not inside.any():
            raise UserError(f"{path} does not cover the time of {self.path}")
        start_s = float(frame_times_s[0])
        placed = mps.camera_trajectory(poses, mounted.T_device_camera, frame_times_s[inside], start_s)
        return {"T_world_camera": placed.to_dict()}


def _write_mono(path: Path, samples: np.ndarray, native_hz: int, rate_hz: int) -> None:
    """Resamples with FFmpeg, as sound from files is."""
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate_hz)
    with atomic_path(path) as temporary, av.open(str(temporary), "w", format="flac") as output:
        writer = FlacWriter(output, rate_hz)
        for start in range(0, len(samples), 4096):
            block = np.ascontiguousarray(samples[None, start : start + 4096], np.float32)
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
            frame.sample_rate = native_hz
            for part in resampler.resample(frame):
                writer.write(part.to_ndarray()[0])
        for part in resampler.resample(None):
            writer.write(part.to_ndarray()[0])
        writer.finish()
