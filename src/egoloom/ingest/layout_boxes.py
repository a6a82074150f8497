"""Hand and object boxes of Something-Else, in the public format and in the flat list of the reference repository."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from egoloom.clips.media import write_table
from egoloom.errors import UserError
from egoloom.ingest.documents import entry_value, number, objects, read_json
from egoloom.ingest.video_copy import CopiedVideo

HAND = "hand"


@dataclass(frozen=True)
class Box:
    """One box of one annotated frame.

    Attributes:
        frame_name: Stem of the frame's file (``0001``) in the public format; None where frames are counted.
        frame_index: Number of the frame from 0.
        track: What joins the boxes of one thing.
        category: ``hand`` or the object's name.
        score: Confidence, 1 for annotations by people.
        xyxy: Corners in pixels of the source frame.
        size: Width and height that the corners refer to; None for the source's own.
    """

    frame_name: str | None
    frame_index: int
    track: str
    category: str
    score: float
    xyxy: tuple[float, float, float, float]
    size: tuple[float, float] | None = None


def read(paths: Sequence[Path]) -> dict[str, list[Box]]:
    """Reads box files of either format.

    Public format: ``{video_id: [{"name": "2/0001.jpg", "labels": [{"box2d": {x1, y1, x2, y2}, "category",
    "standard_category", "gt_annotation"}]}]}``. Flat list: ``[{"id", "template", "size": [w, h], "frames":
    [[{x1, y1, x2, y2, category, score}]]}]``.

    Raises:
        UserError: Naming file and place of what is malformed.
    """
    boxes: dict[str, list[Box]] = {}
    for path in paths:
        content = read_json(path)
        found = _public(path, content) if isinstance(content, dict) else _flat(path, content)
        for video_id, rows in found.items():
            boxes.setdefault(video_id, []).extend(rows)
    return boxes


def write(
    path: Path, boxes: Sequence[Box], video: CopiedVideo, *, frame_numbers: Mapping[str, int] | None = None
) -> None:
    """Writes the boxes of one video as a store track, in pixels of the stored frame.

    Args:
        path: Target.
        boxes: The boxes; those of frames that the video does not have are left out.
        video: The stored video.
        frame_numbers: File stem to frame number, for videos made of image files.

    Raises:
        UserError: If not a single box belongs to the video's frames.
    """
    rows = []
    tracks: dict[str, int] = {}
    for box in boxes:
        index = box.frame_index
        if frame_numbers is not None and box.frame_name is not None:
            index = frame_numbers.get(box.frame_name, -1)
        if not 0 <= index < video.num_frames:
            continue
        width, height = box.size or (video.source_width, video.source_height)
        scale = np.array([video.width / width, video.height / height] * 2)
        corners = np.clip(np.array(box.xyxy) * scale, 0, [video.width, video.height] * 2)
        rows.append((index / float(video.fps), tracks.setdefault(box.track, len(tracks)), box, corners))
    if boxes and not rows:
        raise UserError(f"None of the {len(boxes)} boxes belongs to a frame of {path.stem}")
    rows.sort(key=lambda row: (row[0], row[1]))
    corners = np.array([row[3] for row in rows], np.float32).reshape(-1, 4)
    write_table(
        path,
        {
            "time_s": np.array([row[0] for row in rows], np.float64),
            "track": np.array([row[1] for row in rows], np.int32),
            "category": [row[2].category for row in rows],
            "score": np.array([row[2].score for row in rows], np.float32),
            "x1": corners[:, 0],
            "y1": corners[:, 1],
            "x2": corners[:, 2],
            "y2": corners[:, 3],
            "is_hand": np.array([row[2].category == HAND for row in rows], bool),
        },
    )


def _public(path: Path, content: dict[str, Any]) -> dict[str, list[Box]]:
    result = {}
    for video_id, frames in content.items():
        if not isinstance(frames, list):
            raise UserError(f"{path}: video {video_id} is {frames!r:.60}", allowed="a list of frames")
        result[str(video_id)] = [box for frame in frames for box in _public_frame(path, video_id, frame)]
    return result


def _public_frame(path: Path, video_id: str, frame: Any) -> list[Box]:
    where = f"{path}: a frame of video {video_id}"
    stem = Path(entry_value(frame, "name", str, where)).stem
    if not stem.isdecimal():
        raise UserError(f"{where}: the name is {frame['name']!r}", allowed="<video>/<number>.jpg")
    boxes = []
    for label in objects(entry_value(frame, "labels", list, where), where):
        corners = entry_value(label, "box2d", dict, where)
        is_hand = label.get("standard_category") == HAND
        category = HAND if is_hand else str(label.get("category", "object"))
        track = str(label.get("gt_annotation", category))
        boxes.append(Box(stem, int(stem) - 1, track, category, 1.0, _corners(corners, where)))
    return boxes


def _flat(path: Path, content: list[Any]) -> dict[str, list[Box]]:
    result: dict[str, list[Box]] = {}
    for number_of_item, item in enumerate(content):
        where = f"{path}: item {number_of_item}"
        video_id = str(entry_value(item, "id", (str, int), where))
        size = item.get("size")
        if size is not None:
            _check_size(size, where)
        rows = result.setdefault(video_id, [])
        for index, frame in enumerate(entry_value(item, "frames", list, where)):
            # The author's older converter wraps the list of a frame in a dictionary.
            objects = frame.get("frame_objects", []) if isinstance(frame, dict) else frame
            if not isinstance(objects, list):
                raise UserError(f"{where}, frame {index}: {objects!r:.60}", allowed="a list of boxes")
            for position, entry in enumerate(objects):
                corners = _corners(entry, f"{where}, frame {index}")
                category = str(entry.get("category", "object"))
                category = HAND if category.lower() == HAND else category
                score = number(entry.get("score", 1.0), f"{where}, frame {index}: score")
                track = HAND if category == HAND else f"object {position}"
                rows.append(Box(None, index, track, category, score, corners, tuple(size) if size else None))
    return result


def _check_size(size: Any, where: str) -> None:
    if not isinstance(size, list) or len(size) != 2 or min(number(side, f"{where}: size") for side in size) <= 0:
        raise UserError(f"{where}: size is {size!r:.60}", allowed="[width, height]")


def _corners(entry: Any, where: str) -> tuple[float, float, float, float]:
    if not isinstance(entry, dict):
        raise UserError(f"{where}: a box is {entry!r:.60}", allowed="x1, y1, x2, y2")
    x1, y1, x2, y2 = (number(entry.get(key), f"{where}: {key}") for key in ("x1", "y1", "x2", "y2"))
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)
