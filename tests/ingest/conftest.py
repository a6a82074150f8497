"""Small synthetic recordings whose frames tell their own number."""

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from egoloom.cameras import Pinhole
from egoloom.clips.media import write_video
from egoloom.ingest.egox import EgoXTake, read_takes
from egoloom.ingest.recordings import IngestOptions

RATE_HZ = 16_000
K_GRID = [[60.0, 0, 34.0], [0, 60.0, 24.0], [0, 0, 1]]


def grey_of(frame: int) -> int:
    return 20 + frame * 5 % 210


def _frames(num_frames: int, size: tuple[int, int]) -> list[np.ndarray]:
    width, height = size
    pictures = []
    for number in range(num_frames):
        picture = np.full((height, width, 3), grey_of(number), np.uint8)
        picture[: height // 2, : width // 2, 0] = 250  # red in the upper left corner, to see rotations
        pictures.append(picture)
    return pictures


def write_media(
    path: Path,
    *,
    num_frames: int = 24,
    fps: int | Fraction = 24,
    size: tuple[int, int] = (64, 48),
    times_s: list[float] | None = None,
    sound_hz: float | None = None,
    sound_delay_s: float = 0.0,
    codec: str = "libx264",
) -> Path:
    """Writes a video; with ``times_s`` at a variable rate, with ``sound_hz`` a tone that starts late."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        if codec == "libx264":
            stream.options = {"crf": "12", "g": "250"}
        stream.codec_context.time_base = Fraction(1, 90_000) if times_s else 1 / Fraction(fps)
        audio = container.add_stream("aac", rate=RATE_HZ, layout="mono") if sound_hz else None
        for number, picture in enumerate(_frames(num_frames, size)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times_s:
                frame.pts, frame.time_base = round(times_s[number] * 90_000), Fraction(1, 90_000)
            else:
                frame.pts, frame.time_base = number, 1 / Fraction(fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if audio is not None:
            duration_s = num_frames / float(fps) - sound_delay_s
            samples = 0.5 * np.sin(2 * np.pi * sound_hz * np.arange(int(duration_s * RATE_HZ)) / RATE_HZ)
            first = round(sound_delay_s * RATE_HZ)
            for start in range(0, len(samples), 1024):
                block = samples[None, start : start + 1024].astype(np.float32)
                sound = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
                sound.sample_rate, sound.pts, sound.time_base = RATE_HZ, first + start, Fraction(1, RATE_HZ)
                container.mux(audio.encode(sound))
            container.mux(audio.encode())
    return path


@pytest.fixture(scope="session")
def make_media() -> Callable[..., Path]:
    return write_media


@pytest.fixture(scope="session")
def quiet() -> IngestOptions:
    return IngestOptions(progress=False)


@pytest.fixture(scope="session")
def write_jpgs() -> Callable[..., None]:
    import cv2

    def write(folder: Path, num_frames: int, pattern: str = "{:04d}.jpg", size: tuple[int, int] = (64, 48)) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for number, picture in enumerate(_frames(num_frames, size)):
            cv2.imwrite(str(folder / pattern.format(number + 1)), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])

    return write


@pytest.fixture
def take(tmp_path) -> Callable[..., EgoXTake]:
    """Writes a take of 64 x 48 px video with depth of another width and returns its reader."""

    def write(grid=(68, 48), num_video=6, num_depth=6, num_poses=6, dtype=np.float16, calibration=True, **changes):
        folder = tmp_path / "set"
        options = {key: changes.pop(key) for key in ("exo_fit", "pose_fps") if key in changes}
        (folder / "depth_maps" / "one").mkdir(parents=True)
        frames = np.random.default_rng(0).integers(0, 255, (num_video, 3, 48, 64), np.uint8)
        write_video(folder / "videos/one/exo.mp4", frames, 20)
        for index in range(num_depth):
            ramp = np.arange(grid[0])[None] + 100 * np.arange(grid[1])[:, None]
            np.save(folder / f"depth_maps/one/{index:05d}.npy", (1 + ramp / 8192 + index).astype(dtype))
        poses = np.repeat(np.eye(4)[None, :3], num_poses, 0)
        poses[:, 0, 3] = -np.arange(num_poses) * 0.1
        entry = {
            "take_name": "one", "exo_path": "videos/one/exo.mp4", "camera_intrinsics": K_GRID,
            "camera_extrinsics": np.eye(4)[:3].tolist(), "ego_extrinsics": poses.tolist(), **changes,
        }  # fmt: skip
        (folder / "meta.json").write_text(json.dumps({"test_datasets": [entry]}))
        if calibration:
            ego = Pinhole(torch.tensor([50.0, 50.0, 31.5, 31.5]), (64, 64)).to_dict()
            (tmp_path / "calibration.json").write_text(json.dumps({"ego": ego}))
        return read_takes(folder, **options)[0]

    return write
