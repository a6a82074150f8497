"""Small students with lively weights, exported once for the whole folder."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from egoloom.clips.media import write_video
from egoloom.deployment import export_student
from egoloom.models import create_model

NUM_CLASSES = {"verb": 5, "noun": 6, "action": 8}
TEMPERATURE = {"verb": 1.3, "noun": 0.8, "action": 1.7}
SIZE_PX, NUM_FRAMES, SPACING_S = 32, 4, 0.2


def moving_frames(num_frames: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """A bright square that moves over a gradient, uint8 [T, 3, H, W]."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    base = np.stack([x * 255 / width, y * 255 / height, np.full((height, width), 90)])
    frames = np.repeat(base[None], num_frames, axis=0).astype(np.uint8)
    side, direction = height // 4, generator.uniform(-1, 1, 2)
    for t in range(num_frames):
        top = int((height - side) * (0.5 + 0.4 * direction[0] * t / num_frames))
        left = int((width - side) * (0.5 + 0.4 * direction[1] * t / num_frames))
        frames[t, :, top : top + side, left : left + side] = generator.integers(150, 255)
    return frames


def save_checkpoint(folder: Path, *, shift: str = "causal", seed: int = 0, **options) -> Path:
    torch.manual_seed(seed)
    heads = options.pop("num_classes", NUM_CLASSES)
    model = create_model("edge_tiny", num_classes=heads, temporal_shift=shift, **options)
    model.train()  # batch statistics as training would leave them
    for index in range(4):
        clips = np.stack([moving_frames(NUM_FRAMES, SIZE_PX, SIZE_PX, seed=10 * index + k) for k in range(4)])
        model({options.get("input_modality", "rgb"): torch.from_numpy(clips)})
    for classifier in model.classifiers.values():
        torch.nn.init.normal_(classifier.weight, std=0.5)
    model.eval().save_pretrained(folder)
    card = {
        "class_names": {head: [f"{head} {index}" for index in range(count)] for head, count in heads.items()},
        "temperature": {head: TEMPERATURE.get(head, 1.0) for head in heads},
        "view": {
            "num_frames": NUM_FRAMES,
            "size_px": SIZE_PX,
            "seconds_between_frames": SPACING_S,
            "sampling": "segments",
            "zoom": [1.15, 1.43],
        },
        "licence_note": "made up",
    }
    (folder / "card.json").write_text(json.dumps(card))
    return folder


@pytest.fixture(scope="session", name="moving_frames")
def moving_frames_function():
    return moving_frames


@pytest.fixture(scope="session", name="save_checkpoint")
def save_checkpoint_function():
    return save_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("causal") / "best")


@pytest.fixture(scope="session")
def bidirectional(tmp_path_factory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("bidirectional") / "best", shift="bidirectional")


@pytest.fixture(scope="session")
def clips() -> np.ndarray:
    return np.stack([moving_frames(NUM_FRAMES, SIZE_PX, SIZE_PX, seed=100 + k) for k in range(12)])


@pytest.fixture(scope="session")
def artefact(checkpoint, clips, tmp_path_factory) -> Path:
    return export_student(checkpoint, tmp_path_factory.mktemp("artefact") / "student", parity_clips=clips).path


@pytest.fixture(scope="session")
def student_onnx(artefact, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("file") / "student.onnx"
    path.write_bytes((artefact / "model.onnx").read_bytes())
    return path


@pytest.fixture(scope="session")
def video(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("video") / "kitchen.mp4"
    write_video(path, moving_frames(60, 48, 80, seed=7), 15)
    return path


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = Path(os.environ.get("EGOLOOM_REAL_DATA", "../shared/data"))
    if not (folder / "ego4d_clips").is_dir():
        pytest.skip(f"no real recordings at {folder} (EGOLOOM_REAL_DATA)")
    return folder
