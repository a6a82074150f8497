"""Fixtures that all areas share: where real data and golden numbers lie, and a small synthetic store."""

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from egoloom.clips import Clip, ClipStore, Modality, Video
from egoloom.clips.media import write_arrays, write_flow, write_table, write_video

GOLDEN = Path(__file__).parent / "golden"
VERBS, NOUNS = ["open", "close"], ["drawer", "cup"]
ACTIONS = ["open drawer", "close drawer", "open cup", "close cup"]


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Two test processes share two cores; more threads would only get in each other's way."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def real_data() -> Path:
    path = Path(os.environ.get("EGOLOOM_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"real recordings are not at {path}; set EGOLOOM_REAL_DATA")
    return path


@pytest.fixture(scope="session")
def golden() -> Path:
    return GOLDEN


def moving_square(action: int, phase: float, num_frames: int = 20, size: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """A square that moves right (verb 0) or left (verb 1), red (noun 0) or blue (noun 1): frames and true flow."""
    noun, verb = divmod(action, 2)
    frames = np.full((num_frames, 3, size, size), 90, np.uint8)
    flow = np.zeros((num_frames, 2, size, size), np.float32)
    speed = 1.0 if verb == 0 else -1.0
    for t in range(num_frames):
        x = int((size / 2 + phase * 6 + speed * (t - num_frames / 2)) % (size - 14))
        frames[t, 2 * noun, 18:30, x : x + 12] = 240
        flow[t, 0, 18:30, x : x + 12] = speed
    return frames, flow


def make_square_store(path: Path, *, num_clips: int = 24, num_unlabelled: int = 0) -> ClipStore:
    """A store whose verb is only in the motion, whose noun only in the colour, with flow, spectrogram and boxes."""
    store = ClipStore.create(
        path,
        name="squares",
        source="test",
        is_simulated=True,
        label_spaces={"verb": VERBS, "noun": NOUNS, "action": ACTIONS},
        splits=["train", "validation", "test", "unlabelled"],
        flow_bound_px=4.0,
        box_categories=["triangle", "object"],
        modalities={Modality.SPECTROGRAM: {"num_mels": 16}},
    )
    rng = np.random.default_rng(0)
    videos, clips = [], []
    for index in range(num_clips + num_unlabelled):
        action = index % 4
        split = "unlabelled" if index >= num_clips else ("train", "train", "validation", "test")[(index // 4) % 4]
        video_id = f"square_{index:03d}"
        frames, flow = moving_square(action, rng.uniform(-1, 1))
        write_video(store.media_path(Modality.RGB, video_id), frames, Fraction(10), crf=12)
        write_flow(store.media_path(Modality.FLOW, video_id), flow, Fraction(10), bound_px=4.0)
        log_mel = rng.normal(size=(40, 16)).astype(np.float16) + np.float16(action)
        write_arrays(
            store.media_path(Modality.SPECTROGRAM, video_id),
            {"log_mel": log_mel, "hop_s": np.array(0.05), "start_s": np.array(0.0)},
        )
        columns = {"time_s": np.arange(20) / 10.0, "track": np.zeros(20, int), "category": ["object"] * 20}
        x1 = np.full(20, 10.0 + action)
        columns |= {"score": np.ones(20), "x1": x1, "y1": np.full(20, 18.0), "x2": x1 + 12, "y2": np.full(20, 30.0)}
        write_table(store.media_path(Modality.BOXES, video_id), columns | {"is_hand": np.zeros(20, bool)})
        videos.append(Video(video_id, f"media/rgb/{video_id}.mp4", Fraction(10), 48, 48, 20, 2.0))
        labels = {} if split == "unlabelled" else {"verb": action % 2, "noun": action // 2, "action": action}
        present = frozenset({Modality.RGB, Modality.FLOW, Modality.SPECTROGRAM, Modality.BOXES})
        clips.append(Clip(f"clip_{index:03d}", video_id, "p1", "ego", "", 0.0, 2.0, split, present=present, **labels))
    store.append(videos=videos, clips=clips)
    return store


@pytest.fixture(scope="session")
def square_store(tmp_path_factory) -> ClipStore:
    """Read-only: tests that write make their own with ``make_square_store``."""
    return make_square_store(tmp_path_factory.mktemp("squares") / "store", num_clips=32, num_unlabelled=8)


@pytest.fixture(scope="session")
def new_square_store():
    """The function that makes a store of one's own: ``new_square_store(path, num_clips=...)``."""
    return make_square_store
