"""The words of the data model: a modality, a video, a clip, and what a store says of itself."""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from fractions import Fraction
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

FORMAT_VERSION = 1
UNLABELLED = -1
ACTION_HEADS = ("verb", "noun", "action")
HAND_OBJECT_HEADS = ("left_hand_object", "right_hand_object")
HEADS = (*ACTION_HEADS, *HAND_OBJECT_HEADS)
EMPTY_HAND = "none"  # class 0 of a hand-object head


class Modality(StrEnum):
    """One kind of measurement of a clip; the value is the folder below ``media/``."""

    RGB = "rgb"
    FLOW = "flow"
    AUDIO = "audio"
    SPECTROGRAM = "spectrogram"
    SPECTROGRAM_FRAMES = "spectrogram_frames"
    BOXES = "boxes"
    IMU = "imu"
    DEPTH = "depth"
    IDS = "ids"
    EXACT_FLOW = "exact_flow"

    @property
    def suffix(self) -> str:
        """The file suffix of this modality's tracks, with the dot."""
        return _SUFFIXES[self]


_SUFFIXES = {
    Modality.RGB: ".mp4",
    Modality.FLOW: ".mp4",
    Modality.AUDIO: ".flac",
    Modality.SPECTROGRAM: ".npz",
    Modality.SPECTROGRAM_FRAMES: ".npz",
    Modality.BOXES: ".parquet",
    Modality.IMU: ".parquet",
    Modality.DEPTH: ".npz",
    Modality.IDS: ".npz",
    Modality.EXACT_FLOW: ".npz",
}


@dataclass(frozen=True)
class Video:
    """One recording of one camera.

    Attributes:
        video_id: Unique in the store; also the stem of its media files.
        path: Where the RGB video lies: relative to the store, or absolute in reference mode.
        fps: Frames a second, exact; every video keeps its own.
        width: Width of the stored frame in pixels.
        height: Height of the stored frame in pixels.
        num_frames: Number of frames.
        duration_s: Length in seconds.
        view: ``"ego"`` or ``"exo"``.
        take_id: Joins the videos that were recorded together; empty if alone.
        calibration_id: Name of the file below ``calibration/``; empty if unknown.
    """

    video_id: str
    path: str
    fps: Fraction
    width: int
    height: int
    num_frames: int
    duration_s: float
    view: str = "ego"
    take_id: str = ""
    calibration_id: str = ""


@dataclass(frozen=True)
class Clip:
    """A labelled stretch of a video: from ``start_s`` to ``end_s``, in seconds of that video.

    ``verb``, ``noun``, ``action`` and what each hand holds (``left_hand_object``, ``right_hand_object``; class 0 is
    nothing) index the store's label spaces; ``-1`` means unlabelled. ``present`` lists the modalities that exist for
    this clip: a missing one is a fact, never a tensor of zeros. Generated clips carry ``is_generated``, the
    ``generator`` (name and weights' hash) and a ``quality`` score.
    """

    clip_id: str
    video_id: str
    participant_id: str
    view: str
    take_id: str
    start_s: float
    end_s: float
    split: str
    verb: int = UNLABELLED
    noun: int = UNLABELLED
    action: int = UNLABELLED
    narration: str = ""
    is_generated: bool = False
    generator: str = ""
    quality: float | None = None
    present: frozenset[Modality] = frozenset({Modality.RGB})
    extra: dict[str, str] = field(default_factory=dict)
    left_hand_object: int = UNLABELLED
    right_hand_object: int = UNLABELLED

    def label(self, head: str) -> int:
        """Returns the class index of one of ``HEADS``; -1 if unlabelled."""
        return getattr(self, head)

    @property
    def is_labelled(self) -> bool:
        """Whether at least one head has a label."""
        return any(self.label(head) != UNLABELLED for head in HEADS)

    def without_labels(self) -> Self:
        """Returns the clip as nobody annotated it: no class of any head, no narration."""
        return replace(self, **dict.fromkeys(HEADS, UNLABELLED), narration="")


class StoreInfo(BaseModel):
    """What ``info.json`` holds.

    Attributes:
        box_categories: Object classes that the detector of the store's boxes can name, in index order, without hands;
            empty where boxes have no fixed vocabulary.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str = "egoloom-clip-store"
    format_version: int = FORMAT_VERSION
    name: str
    source: str
    adapter_version: str = "1"
    licence: str = ""
    is_simulated: bool = False
    label_spaces: dict[str, list[str]] = Field(default_factory=dict)
    splits: list[str] = Field(default_factory=list)
    flow_bound_px: float = 16.0
    box_categories: list[str] = Field(default_factory=list)
    modalities: dict[Modality, dict[str, float | str]] = Field(default_factory=dict)
    extra: dict[str, str] = Field(default_factory=dict)
