"""Boxes from a detector that you bring as an ONNX file.

The model takes one float32 image ``[1, 3, H, W]``, RGB in 0..1, scaled to fit and padded with grey at the right and the
bottom, and returns ``[N, 6]`` or ``[1, N, 6]``: x1, y1, x2, y2 in pixels of that image, score, class. Class names come
from a text file, one a line; those that contain "hand" count as hands. ``docs/datasets.md`` shows how to export one.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from egoloom._optional import require_package
from egoloom.clips import ClipStore, Modality, Video
from egoloom.clips.media import VideoReader, write_table
from egoloom.errors import UserError
from egoloom.modalities.base import ModalityReport, compute_tracks

PADDING_GREY = 0.5
NUM_FRAMES_PER_BLOCK = 32


class ObjectsConfig(BaseModel):
    """Which detector runs on which frames.

    Attributes:
        model: The ONNX file.
        class_names: Text file with one class name a line.
        frames_a_second: How many frames a second are looked at.
        min_score: Weaker boxes are left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Path
    class_names: Path
    frames_a_second: float = Field(default=5.0, gt=0)
    min_score: float = Field(default=0.3, ge=0, le=1)


def compute(
    store: ClipStore,
    config: ObjectsConfig,
    *,
    num_workers: int = 1,
    progress: bool = True,
    recompute: bool = False,
    max_failed_share: float = 0.1,
) -> ModalityReport:
    """Detects objects in every video without boxes; boxes that a data set shipped are kept."""
    Detector(config)  # a bad model is one error, not one for every video
    return compute_tracks(
        store,
        Modality.BOXES,
        _DetectTask(store.path, dict(store.videos), config),
        num_workers=num_workers,
        progress=progress,
        recompute=recompute,
        max_failed_share=max_failed_share,
    )


class Detector:
    """Runs the model on single frames.

    Args:
        config: The model and its classes.

    Raises:
        UserError: If the files are missing, or the model has another signature.
    """

    def __init__(self, config: ObjectsConfig) -> None:
        runtime = require_package("onnxruntime", extra="export")
        for path in (config.model, config.class_names):
            if not path.is_file():
                raise UserError(f"There is no file {path}", fix="give --model and --class-names")
        self.names = [line.strip() for line in config.class_names.read_text(encoding="utf-8").splitlines()]
        options = runtime.SessionOptions()
        options.intra_op_num_threads = 1
        try:
            self._session = runtime.InferenceSession(str(config.model), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises kinds of its own
            raise UserError(f"{config.model} is not a model that ONNX Runtime can open: {error}") from error
        (entry,) = self._session.get_inputs()[:1]
        if len(entry.shape) != 4 or not all(isinstance(side, int) for side in entry.shape[2:]):
            raise UserError(f"{config.model} takes {entry.shape}", allowed="a float32 image [1, 3, H, W] of fixed size")
        self._input, self._size = entry.name, (int(entry.shape[3]), int(entry.shape[2]))

    def detect(self, frame_CHW: np.ndarray) -> np.ndarray:
        """Returns ``[N, 6]``: xyxy in pixels of the frame, score, class."""
        height, width = frame_CHW.shape[1:]
        scale = min(self._size[0] / width, self._size[1] / height)
        inner = (round(width * scale), round(height * scale))
        picture = cv2.resize(np.ascontiguousarray(frame_CHW.transpose(1, 2, 0)), inner, interpolation=cv2.INTER_AREA)
        canvas = np.full((1, 3, self._size[1], self._size[0]), PADDING_GREY, np.float32)
        canvas[0, :, : inner[1], : inner[0]] = picture.transpose(2, 0, 1).astype(np.float32) / 255.0
        found = np.asarray(self._session.run(None, {self._input: canvas})[0], np.float32)
        found = found[0] if found.ndim == 3 else found
        if found.ndim != 2 or found.shape[1] != 6:
            raise UserError(f"The detector returned the shape {list(found.shape)}", allowed="[N, 6] or [1, N, 6]")
        found = found[np.isfinite(found).all(axis=1)].copy()
        found[:, :4] = np.clip(found[:, :4] / scale, 0, [width, height, width, height])
        return found


@lru_cache(maxsize=1)
def _detector(config_json: str) -> Detector:
    return Detector(ObjectsConfig.model_validate_json(config_json))


@dataclass(frozen=True)
class _DetectTask:
    store_path: Path
    videos: dict[str, Video]
    config: ObjectsConfig

    def __call__(self, video_id: str) -> bool:
        store, video, detector = (
            ClipStore.open(self.store_path),
            self.videos[video_id],
            _detector(self.config.model_dump_json()),
        )
        times = np.arange(0.0, video.duration_s - 0.5 / float(video.fps), 1.0 / self.config.frames_a_second)
        rows: list[tuple[float, np.ndarray]] = []
        with VideoReader(self.store_path / video.path) as reader:
            for first in range(0, len(times), NUM_FRAMES_PER_BLOCK):
                block = times[first : first + NUM_FRAMES_PER_BLOCK]
                for time_s, frame in zip(block, reader.frames_at(block), strict=True):
                    found = detector.detect(frame)
                    rows += [(float(time_s), row) for row in found[found[:, 4] >= self.config.min_score]]
        names = [self._name(detector, int(row[5])) for _, row in rows]
        boxes = np.array([row for _, row in rows], np.float32).reshape(-1, 6)
        columns: dict[str, Any] = {
            "time_s": np.array([time_s for time_s, _ in rows], np.float64),
            "track": boxes[:, 5].astype(np.int32),
            "category": np.array(names, dtype=str).astype(object) if names else np.array([], dtype=str),
            "score": boxes[:, 4],
        }
        columns |= {name: boxes[:, axis] for axis, name in enumerate(("x1", "y1", "x2", "y2"))}
        write_table(
            store.media_path(Modality.BOXES, video_id),
            columns | {"is_hand": np.array(["hand" in name.lower() for name in names], bool)},
        )
        return True

    def _name(self, detector: Detector, index: int) -> str:
        if not 0 <= index < len(detector.names):
            raise UserError(
                f"The detector names the class {index}, {self.config.class_names} has {len(detector.names)}",
                fix="give the class names of this model",
            )
        return detector.names[index]
