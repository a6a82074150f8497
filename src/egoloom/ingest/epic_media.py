"""Where the media of an EPIC-KITCHENS-100 video lie: video, frame folder, tar of frames, flow, boxes."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import ArrayLike

from egoloom.clips.media import write_table
from egoloom.clips.media.encoding import encode_flow_grey, encode_frames
from egoloom.errors import UserError
from egoloom.ingest.images import ArchivedImage, Image, by_number, images_in_archive, images_in_folder, read_image
from egoloom.ingest.protobuf import FrameDetections
from egoloom.ingest.video_copy import CopiedVideo

VIDEO_PATTERNS = ("{p}/videos/{v}{s}", "{p}/{v}{s}", "videos/{v}{s}", "{v}{s}")
VIDEO_SUFFIXES = (".MP4", ".mp4")
FRAME_PATTERNS = ("{p}/rgb_frames/{v}", "rgb_frames/{p}/{v}", "rgb_frames/{v}", "frames_rgb_flow/rgb/{p}/{v}")
FLOW_PATTERNS = ("{p}/flow_frames/{v}", "flow_frames/{p}/{v}", "flow_frames/{v}", "frames_rgb_flow/flow/{p}/{v}")
BOX_PATTERNS = ("hand-objects/{p}/{v}.pkl", "{p}/hand-objects/{v}.pkl", "{p}/hand_objects/{v}.pkl")
FLAT_RGB, FLAT_FLOW = "sample_rgb", "sample_flow"  # all videos in one folder, as rulstm's sample has it


@dataclass(frozen=True)
class FrameNumbers:
    """Pictures in order, with what was found of their numbering.

    Attributes:
        images: One picture a frame, without gaps: a missing frame repeats the one before it.
        first: Number of the first picture, the offset between file numbers and frames from 0.
        num_missing: How many pictures were missing in between.
    """

    images: tuple[Image, ...]
    first: int
    num_missing: int


def find_video(root: Path, video_id: str) -> Path | None:
    """Returns the video file, if there is one."""
    candidates = (_fill(root, p, video_id, s) for p in VIDEO_PATTERNS for s in VIDEO_SUFFIXES)
    return next((path for path in candidates if path.is_file()), None)


def find_frames(root: Path, video_id: str) -> FrameNumbers | None:
    """Returns the RGB frames from a folder, a tar, or a flat sample folder, if there are any."""
    images = _images(root, video_id, FRAME_PATTERNS, FLAT_RGB)
    return in_order(by_number(images)) if images else None


def find_flow(root: Path, video_id: str) -> tuple[dict[int, Image], dict[int, Image]] | None:
    """Returns the horizontal and the vertical flow pictures by number, if there are any.

    Raises:
        UserError: If one of the two directions is incomplete.
    """
    images = _images(root, video_id, FLOW_PATTERNS, FLAT_FLOW)
    planes: dict[str, list[Image]] = {"u": [], "v": []}
    for image in images:
        path = Path(image.name)
        folder = path.parent.name if isinstance(image, ArchivedImage) else image.parent.name
        direction = folder if folder in planes else next((d for d in planes if f"_flow_{d}_" in path.name), None)
        if direction:
            planes[direction].append(image)
    if not any(planes.values()):
        return None
    u, v = by_number(planes["u"]), by_number(planes["v"])
    if u.keys() != v.keys():
        odd = sorted(u.keys() ^ v.keys())
        raise UserError(f"The flow of {video_id} lacks u or v of {len(odd)} frames, for instance number {odd[0]}")
    return u, v


def in_order(numbered: dict[int, Image], max_missing_share: float = 0.05) -> FrameNumbers:
    """Closes gaps in the numbering, so that frame i is picture i.

    Raises:
        UserError: If too many pictures are missing.
    """
    numbers = sorted(numbered)
    first, num_frames = numbers[0], numbers[-1] - numbers[0] + 1
    num_missing = num_frames - len(numbers)
    if num_missing > max_missing_share * num_frames:
        raise UserError(
            f"{num_missing} of {num_frames} frames are missing beside {numbered[first]}",
            allowed=f"at most {max_missing_share:.0%}",
            fix="copy the frames again",
        )
    images, held = [], numbered[first]
    for number in range(first, first + num_frames):
        held = numbered.get(number, held)
        images.append(held)
    return FrameNumbers(tuple(images), first, num_missing)


def measured_stride(num_rgb: int, num_flow: int, expected: int) -> int:
    """Returns how many RGB frames lie between two flow frames: 1 or 2, whichever fits the counts better."""
    if num_rgb < 8:
        return expected
    return min((expected, 3 - expected), key=lambda stride: abs(num_flow * stride - num_rgb))


def write_flow_pictures(
    path: Path,
    planes: tuple[dict[int, Image], dict[int, Image]],
    video: CopiedVideo,
    *,
    stride: int,
    source_bound_px: float,
    bound_px: float,
) -> None:
    """Writes shipped flow pictures as a store track at ``fps / stride``.

    A picture's grey g means ``(2 g / 255 - 1) * source_bound_px``; displacements are scaled with the frame size.
    """
    u, v = planes
    order = [in_order(plane).images for plane in (u, v)]
    size = (video.width, video.height)

    def frames():
        for u_image, v_image in zip(*order, strict=True):
            grey = [read_image(image, grey=True) for image in (u_image, v_image)]
            flow = []
            for plane, target_side, axis in zip(grey, size, (1, 0), strict=True):
                flow_px = (plane.astype(np.float32) * (2.0 / 255.0) - 1.0) * source_bound_px
                scale = target_side / plane.shape[axis]
                if plane.shape[::-1] != size:
                    flow_px = cv2.resize(flow_px, size, interpolation=cv2.INTER_AREA)
                flow.append(flow_px * scale)
            stacked = encode_flow_grey(np.stack(flow), bound_px).reshape(2 * video.height, video.width)
            yield av.VideoFrame.from_ndarray(np.ascontiguousarray(stacked), format="gray")

    encode_frames(path, frames(), (video.width, 2 * video.height), "gray", Fraction(video.fps) / stride, crf=12)


def write_hand_object_boxes(
    path: Path,
    frames: Sequence[FrameDetections],
    video: CopiedVideo,
    *,
    first_number: int,
    number_rate: float,
    min_score: float,
) -> None:
    """Writes EPIC's hand and object detections as a store track.

    Args:
        path: Target.
        frames: What the published file holds.
        video: The stored video.
        first_number: Frame number that lies at second 0.
        number_rate: Frame numbers a second.
        min_score: Weaker detections are left out.
    """
    rows = [
        ((frame.frame_number - first_number) / number_rate, index, detection)
        for frame in frames
        for index, detection in enumerate(frame.detections)
        if detection.score >= min_score
    ]
    # Published boxes are relative to the frame; pixels of 1920 x 1080 are recognised by their size.
    largest = max(itertools.chain.from_iterable(row[2].ltrb for row in rows), default=0.0)
    scale = np.array([video.width, video.height] * 2) / (1.0 if largest <= 2.0 else np.array([1920, 1080] * 2))
    boxes = np.array([row[2].ltrb for row in rows], np.float32).reshape(-1, 4) * scale
    write_boxes(
        path,
        times_s=[row[0] for row in rows],
        tracks=[row[2].side if row[2].is_hand else 2 + row[1] for row in rows],
        categories=[("left hand", "right hand")[row[2].side == 1] if row[2].is_hand else "object" for row in rows],
        scores=[row[2].score for row in rows],
        boxes=boxes,
        is_hand=[row[2].is_hand for row in rows],
    )


def write_boxes(
    path: Path,
    *,
    times_s: ArrayLike,
    tracks: ArrayLike,
    categories: Sequence[str],
    scores: ArrayLike,
    boxes: ArrayLike,
    is_hand: ArrayLike,
) -> None:
    """Writes a boxes track: corners ``[N, 4]`` xyxy in pixels of the stored frame."""
    corners = np.asarray(boxes, np.float32).reshape(-1, 4)
    columns: dict[str, Any] = {
        "time_s": np.asarray(times_s, np.float64),
        "track": np.asarray(tracks, np.int32),
        "category": list(categories),
        "score": np.asarray(scores, np.float32),
    }
    columns |= {name: corners[:, index] for index, name in enumerate(("x1", "y1", "x2", "y2"))}
    write_table(path, columns | {"is_hand": np.asarray(is_hand, bool)})


def _images(root: Path, video_id: str, patterns: tuple[str, ...], flat: str) -> list[Image]:
    for pattern in patterns:
        folder = _fill(root, pattern, video_id)
        if folder.is_dir():
            parts = [folder, *(folder / name for name in ("u", "v") if (folder / name).is_dir())]
            return [image for part in parts for image in images_in_folder(part)]
        archive = folder.with_name(folder.name + ".tar")
        if archive.is_file():
            return list(images_in_archive(archive))
    if (root / flat).is_dir():
        return [image for image in images_in_folder(root / flat) if image.name.startswith(f"{video_id}_")]
    return []


def _fill(root: Path, pattern: str, video_id: str, suffix: str = "") -> Path:
    return root / pattern.format(p=video_id.split("_")[0], v=video_id, s=suffix)
