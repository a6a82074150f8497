"""Hands: the worker's protocol with a real process, boxes against the points, objects that stay, real MediaPipe."""

import json
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from egoloom.cli.main import run_verb
from egoloom.clips import Clip, ClipStore, Modality, Video
from egoloom.clips.media import read_arrays, read_table, write_table, write_video
from egoloom.errors import UserError
from egoloom.modalities import hands
from egoloom.modalities.hands import HandsConfig, default_environment

# Stands for MediaPipe in a process of its own: a "hand" of 21 points around the frame's red square.
RED_SQUARE = """
import numpy as np, types, sys
def process(frame):
    rows, columns = np.nonzero(frame[..., 0] > 180)
    if not len(rows):
        return types.SimpleNamespace(multi_hand_landmarks=None, multi_handedness=None)
    x0, x1 = columns.min() / frame.shape[1], columns.max() / frame.shape[1]
    y0, y1 = rows.min() / frame.shape[0], rows.max() / frame.shape[0]
    point = lambda i: types.SimpleNamespace(x=float(x0 if i % 2 else x1), y=float(y0 if i < 10 else y1))
    side = types.SimpleNamespace(label="Left", score=0.9)
    return types.SimpleNamespace(
        multi_hand_landmarks=[types.SimpleNamespace(landmark=[point(i) for i in range(21)])],
        multi_handedness=[types.SimpleNamespace(classification=[side])],
    )
Hands = lambda **options: types.SimpleNamespace(process=process)
solutions = types.SimpleNamespace(hands=types.SimpleNamespace(Hands=Hands))
"""


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A folder like a virtual environment whose ``mediapipe`` finds red squares."""
    folder = tmp_path / "environment"
    (folder / "bin").mkdir(parents=True)
    (folder / "packages").mkdir()
    (folder / "packages" / "mediapipe.py").write_text(RED_SQUARE)
    python = folder / "bin" / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{folder / "packages"}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> ClipStore:
    store = ClipStore.create(tmp_path / "store", name="walk", source="test", splits=["train"])
    frames = np.full((20, 3, 64, 96), 40, np.uint8)
    frames[:10, 0, 20:44, 30:60] = 250  # red for one second, then gone
    frames[:10, 1:, 20:44, 30:60] = 0
    write_video(store.media_path(Modality.RGB, "one"), frames, 10, crf=5)
    video = Video("one", "media/rgb/one.mp4", Fraction(10), 96, 64, 20, 2.0)
    store.append(videos=[video], clips=[Clip("one", "one", "", "ego", "", 0.0, 2.0, "train")])
    return store


def run(store: ClipStore, environment: Path, *more: str) -> None:
    run_verb(["modalities", "hands", "--store", str(store.path), "--environment", str(environment), *more])


def test_boxes_lie_around_the_points(store: ClipStore, environment: Path, capsys) -> None:
    run(store, environment)
    assert "hands: 1 computed" in capsys.readouterr().out
    boxes = read_table(store.media_path(Modality.BOXES, "one"))
    assert np.allclose(boxes["time_s"], np.arange(5) / 5)  # five a second, and none where there is no hand
    assert set(boxes["category"]) == {"right hand"}  # MediaPipe's left is the right one without a mirror
    assert boxes["is_hand"].all()
    margin = 0.12 * 30
    expected = [30 - margin, 20 - margin, 60 + margin, 44 + margin]
    found = np.stack([boxes[name] for name in ("x1", "y1", "x2", "y2")], axis=1)
    np.testing.assert_allclose(found, np.tile(expected, (5, 1)), atol=2.5)
    points = read_arrays(hands.points_path(store.path, "one"))
    assert points["points_px"].shape == (5, 21, 2)
    assert points["is_right"].all()
    run(store, environment)
    assert "hands: 0 computed, 1 skipped" in capsys.readouterr().out
    assert Modality.BOXES in ClipStore.open(store.path).clips[0].present


def test_boxes_of_objects_stay(store: ClipStore, environment: Path) -> None:
    cup = {"time_s": [0.3], "track": [1], "category": ["cup"], "score": [1.0], "x1": [1.0], "y1": [1.0], "x2": [9.0],
           "y2": [9.0], "is_hand": [False]}  # fmt: skip
    write_table(store.media_path(Modality.BOXES, "one"), cup)
    run(store, environment)
    run(store, environment, "--recompute")
    boxes = read_table(store.media_path(Modality.BOXES, "one"))
    assert list(boxes["category"]).count("cup") == 1
    assert boxes["is_hand"].sum() == 5
    assert (np.diff(boxes["time_s"]) >= 0).all()


def test_shipped_hands_are_kept(store: ClipStore, environment: Path, capsys) -> None:
    shipped = {"time_s": [0.3], "track": [1], "category": ["hand"], "score": [1.0], "x1": [1.0], "y1": [1.0],
               "x2": [9.0], "y2": [9.0], "is_hand": [True]}  # fmt: skip
    write_table(store.media_path(Modality.BOXES, "one"), shipped)
    run(store, environment, "--json")
    assert json.loads(capsys.readouterr().out)[0]["num_done"] == 0
    assert len(read_table(store.media_path(Modality.BOXES, "one"))["time_s"]) == 1


def test_a_dying_worker_and_a_missing_environment_are_told(store: ClipStore, environment: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no environment") as error:
        run(store, tmp_path / "absent")
    assert "--setup" in str(error.value.fix)
    (environment / "packages" / "mediapipe.py").write_text("raise ImportError('the wheel is broken')")
    with pytest.raises(UserError, match="the wheel is broken"):
        run(store, environment)
    assert not store.media_path(Modality.BOXES, "one").exists()
    with pytest.raises(UserError, match="no model"):
        run(store, environment, "--model", str(tmp_path / "hand.task"))


@pytest.mark.real_data
@pytest.mark.skipif(not HandsConfig().python.exists(), reason=f"no MediaPipe in {default_environment()}")
def test_real_hands(real_data: Path, tmp_path: Path) -> None:
    from egoloom.clips.media import VideoReader

    with VideoReader(real_data / "ego4d_clips" / "tokyo.mp4") as reader:
        found = hands.find_hands(reader, np.arange(0, 5, 0.5), HandsConfig())
    assert sum(bool(frame) for frame in found) >= 3
