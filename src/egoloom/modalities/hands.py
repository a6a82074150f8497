"""Hands of every video, with MediaPipe in an environment of its own: boxes and 21 points a hand.

The wheel that carries its models (0.10.21) needs numpy below 2, so it cannot live beside EgoLoom; ``setup`` makes an
environment for it. With a newer wheel there, a ``.task`` file of yours does the same.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from egoloom.clips import ClipStore, Modality, Video
from egoloom.clips.media import VideoReader, read_table, write_arrays, write_table
from egoloom.errors import UserError
from egoloom.modalities.base import ModalityReport, compute_tracks

WHEEL = "mediapipe==0.10.21"
WORKER = Path(__file__).with_name("hands_worker.py")
NUM_FRAMES_PER_BLOCK = 32
BOX_MARGIN = 0.12  # landmarks lie on joints, skin reaches further
SETUP_COMMAND = "egoloom modalities hands --setup"


def default_environment() -> Path:
    """Returns where the environment lies: ``$EGOLOOM_HOME/hands``, or ``~/.cache/egoloom/hands``."""
    return Path(os.environ.get("EGOLOOM_HOME", Path.home() / ".cache" / "egoloom")) / "hands"


class HandsConfig(BaseModel):
    """How hands are looked for.

    Attributes:
        environment: Environment with mediapipe; default: the one that --setup makes.
        model: A ``.task`` file, for an environment with a wheel that carries no models.
        frames_a_second: How many frames a second are looked at.
        min_confidence: Weaker detections are left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    environment: Path | None = None
    model: Path | None = None
    frames_a_second: float = Field(default=5.0, gt=0)
    min_confidence: float = Field(default=0.5, gt=0, lt=1)

    @property
    def python(self) -> Path:
        """The interpreter of the environment."""
        return (self.environment or default_environment()) / "bin" / "python"


def setup(environment: Path | None = None) -> Path:
    """Makes the environment (about 1 GB), or completes it; returns its folder.

    Raises:
        UserError: If the wheel cannot be installed.
    """
    folder = environment or default_environment()
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    result = subprocess.run([str(python), "-m", "pip", "install", "--quiet", WHEEL], capture_output=True, text=True)
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"{WHEEL} could not be installed into {folder}: {last}", fix="check the network, then repeat")
    return folder


def compute(
    store: ClipStore,
    config: HandsConfig | None = None,
    *,
    num_workers: int = 1,
    progress: bool = True,
    recompute: bool = False,
    max_failed_share: float = 0.1,
) -> ModalityReport:
    """Finds hands in every video; boxes of objects that a video has already stay, and so do hands a data set shipped.

    Raises:
        UserError: If the environment is not there.
    """
    config = config or HandsConfig()
    if not config.python.exists():
        raise UserError(f"There is no environment with MediaPipe at {config.python.parent.parent}", fix=SETUP_COMMAND)
    if config.model is not None and not config.model.is_file():
        raise UserError(f"There is no model {config.model}", allowed="a .task file of MediaPipe's hand landmarker")
    todo = [video_id for video_id in store.videos if recompute or not _is_done(store, video_id)]
    report = compute_tracks(
        store,
        Modality.BOXES,
        _HandsTask(store.path, dict(store.videos), config),
        video_ids=todo,
        num_workers=num_workers,
        progress=progress,
        recompute=True,  # of the file, whose other rows stay
        max_failed_share=max_failed_share,
    )
    num_skipped = report.num_skipped + len(store.videos) - len(todo)
    return ModalityReport(Modality.BOXES, report.num_done, num_skipped, report.failures)


def points_path(store_path: Path, video_id: str) -> Path:
    """Returns where the points of the hands of a video lie."""
    return store_path / "media" / "hands" / f"{video_id}.npz"


def _is_done(store: ClipStore, video_id: str) -> bool:
    if points_path(store.path, video_id).is_file():
        return True
    boxes = store.media_path(Modality.BOXES, video_id)
    return boxes.is_file() and bool(np.any(read_table(boxes)["is_hand"]))


@dataclass(frozen=True)
class _HandsTask:
    store_path: Path
    videos: dict[str, Video]
    config: HandsConfig

    def __call__(self, video_id: str) -> bool:
        video = self.videos[video_id]
        times_s = np.arange(0.0, video.duration_s - 0.5 / float(video.fps), 1.0 / self.config.frames_a_second)
        with VideoReader(self.store_path / video.path) as reader:
            found = find_hands(reader, times_s, self.config)
        hands = [(float(time_s), one) for time_s, frame in zip(times_s, found, strict=True) for one in frame]
        points = np.array([one["points"] for _, one in hands], np.float32).reshape(-1, 21, 2)
        points *= np.array([video.width, video.height], np.float32)
        _write_boxes(ClipStore.open(self.store_path).media_path(Modality.BOXES, video_id), hands, points, video)
        write_arrays(  # last: it marks the video as done
            points_path(self.store_path, video_id),
            {
                "time_s": np.array([time_s for time_s, _ in hands], np.float64),
                "is_right": np.array([one["side"] == "right" for _, one in hands], bool),
                "score": np.array([one["score"] for _, one in hands], np.float32),
                "points_px": points,
            },
        )
        return True


def find_hands(reader: VideoReader, times_s: np.ndarray, config: HandsConfig) -> list[list[dict[str, Any]]]:
    """Returns the hands at moments of a video, as the worker script describes them.

    Raises:
        UserError: If MediaPipe fails.
    """
    command = [str(config.python), str(WORKER), str(config.min_confidence)]
    command += [] if config.model is None else [str(config.model)]
    # Its many remarks go to a file: a full pipe that nobody reads would stop it.
    with tempfile.TemporaryFile() as remarks:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=remarks) as worker:
            assert worker.stdin is not None
            assert worker.stdout is not None
            feeder = threading.Thread(target=_feed, args=(worker.stdin, reader, times_s), daemon=True)
            feeder.start()
            found = [json.loads(line) for line in worker.stdout]
            feeder.join()
        remarks.seek(0)
        words = remarks.read().decode(errors="replace").strip().splitlines()
    if worker.returncode or len(found) != len(times_s):
        last = (words or ["no message"])[-1]
        raise UserError(f"MediaPipe stopped after {len(found)} of {len(times_s)} frames: {last}", fix=SETUP_COMMAND)
    return found


def _feed(pipe: IO[bytes], reader: VideoReader, times_s: np.ndarray) -> None:
    try:
        with pipe:
            for first in range(0, len(times_s), NUM_FRAMES_PER_BLOCK):
                frames = reader.frames_at(times_s[first : first + NUM_FRAMES_PER_BLOCK])
                if first == 0:
                    pipe.write(f"{frames.shape[3]} {frames.shape[2]}\n".encode())
                pipe.write(np.ascontiguousarray(frames.transpose(0, 2, 3, 1)).tobytes())
    except BrokenPipeError:
        return  # the worker died; its exit code and last words are reported


def _write_boxes(path: Path, hands: list[tuple[float, dict[str, Any]]], points_N21: np.ndarray, video: Video) -> None:
    """Writes hand boxes beside the rows of objects that are there."""
    low, high = points_N21.min(axis=1, initial=np.inf), points_N21.max(axis=1, initial=-np.inf)
    margin = BOX_MARGIN * (high - low).max(axis=1, keepdims=True, initial=0)
    corners = np.concatenate([low - margin, high + margin], axis=1)
    corners = np.clip(corners, 0, [video.width, video.height, video.width, video.height]).astype(np.float32)
    sides = [one["side"] for _, one in hands]
    columns: dict[str, Any] = {
        "time_s": np.array([time_s for time_s, _ in hands], np.float64),
        "track": np.array([1000 + (side == "right") for side in sides], np.int32),
        "category": np.array([f"{side} hand" for side in sides], dtype=object if sides else str),
        "score": np.array([one["score"] for _, one in hands], np.float32),
        **{name: corners[:, axis] for axis, name in enumerate(("x1", "y1", "x2", "y2"))},
        "is_hand": np.ones(len(hands), bool),
    }
    if path.is_file():
        old = read_table(path)
        kept = ~np.asarray(old["is_hand"], bool)
        order = np.argsort(np.concatenate([np.asarray(old["time_s"])[kept], columns["time_s"]]), kind="stable")
        columns = {name: np.concatenate([np.asarray(old[name])[kept], columns[name]])[order] for name in columns}
    write_table(path, columns)
