"""A store with sound and known motion."""

from fractions import Fraction

import numpy as np
import pytest

from egoloom.clips import Clip, ClipStore, Modality, Video
from egoloom.clips.media import write_audio, write_video

SHIFT_PX = (3, -2)
NUM_FRAMES, HEIGHT, WIDTH = 8, 96, 128


def textured_frames(num_frames: int = NUM_FRAMES) -> np.ndarray:
    """A smooth random texture that moves by ``SHIFT_PX`` (right, up) a frame."""
    import cv2

    rng = np.random.default_rng(0)
    canvas = cv2.GaussianBlur(rng.uniform(0, 255, (HEIGHT + 80, WIDTH + 80)).astype(np.float32), (0, 0), 3)
    canvas = (canvas - canvas.min()) / np.ptp(canvas) * 255
    frames = []
    for number in range(num_frames):
        x, y = 40 - SHIFT_PX[0] * number, 40 - SHIFT_PX[1] * number
        frames.append(np.repeat(canvas[None, y : y + HEIGHT, x : x + WIDTH], 3, axis=0))
    return np.stack(frames).astype(np.uint8)


@pytest.fixture
def store(tmp_path) -> ClipStore:
    store = ClipStore.create(tmp_path / "store", name="s", source="test", splits=["train"], flow_bound_px=8.0)
    rate_hz = 16_000
    time_s = np.arange(rate_hz) / rate_hz
    videos, clips = [], []
    for index in range(3):
        video_id = f"v{index}"
        write_video(store.media_path(Modality.RGB, video_id), textured_frames(), 8)
        present = {Modality.RGB}
        if index < 2:
            sound = 0.5 * np.sin(2 * np.pi * (440 if index else 1000) * time_s).astype(np.float32)
            write_audio(store.media_path(Modality.AUDIO, video_id), sound, rate_hz)
            present.add(Modality.AUDIO)
        path = f"media/rgb/{video_id}.mp4"
        videos.append(Video(video_id, path, Fraction(8), WIDTH, HEIGHT, NUM_FRAMES, 1.0))
        clips.append(Clip(f"c{index}", video_id, "", "ego", "", 0.0, 1.0, "train", present=frozenset(present)))
    store.append(videos=videos, clips=clips)
    return store
