"""The official tables of EPIC-KITCHENS-100 (Damen et al. 2022, arXiv 2006.13256)."""

import ast
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from egoloom.errors import UserError
from egoloom.ingest.documents import number, read_csv
from egoloom.ingest.sources import first_existing

SEGMENT_COLUMNS = (
    "narration_id",
    "participant_id",
    "video_id",
    "narration_timestamp",
    "start_timestamp",
    "stop_timestamp",
    "start_frame",
    "stop_frame",
)
LABEL_COLUMNS = ("narration", "verb", "verb_class", "noun", "noun_class", "all_nouns", "all_noun_classes")
SEGMENT_FILES = {
    "train": "EPIC_100_train.csv",
    "validation": "EPIC_100_validation.csv",
    "test": "EPIC_100_test_timestamps.csv",
}
FOLDERS = ("", "annotations", "epic-kitchens-100-annotations", "epic_kitchens_100")
VIDEO_ID = re.compile(r"(P\d\d)_(\d{2,3})$")
TIMESTAMP = re.compile(r"(\d+):([0-5]\d):([0-5]\d(?:\.\d+)?)$")
UNLABELLED = -1


@dataclass(frozen=True)
class Segment:
    """One action segment; classes are -1 in the test split."""

    narration_id: str
    participant_id: str
    video_id: str
    split: str
    start_s: float
    stop_s: float
    start_frame: int
    stop_frame: int
    narration: str = ""
    verb: int = UNLABELLED
    noun: int = UNLABELLED
    all_nouns: tuple[int, ...] = ()


@dataclass(frozen=True)
class EpicTables:
    """Everything that the tables say.

    Attributes:
        segments: All segments of the splits that were found.
        verbs: Class names in index order.
        nouns: Class names in index order.
        fps: Frames a second by video id, from ``EPIC_100_video_info.csv``.
        duration_s: Seconds by video id.
        unseen_participants: Participants of the evaluation splits who are not in training.
        tail_verbs: Rare verb classes.
        tail_nouns: Rare noun classes.
    """

    segments: list[Segment]
    verbs: list[str]
    nouns: list[str]
    fps: dict[str, float] = field(default_factory=dict)
    duration_s: dict[str, float] = field(default_factory=dict)
    unseen_participants: tuple[str, ...] = ()
    tail_verbs: tuple[int, ...] = ()
    tail_nouns: tuple[int, ...] = ()

    @property
    def action_pairs(self) -> list[tuple[int, int]]:
        """The (verb, noun) pairs that occur, sorted: the action classes in index order."""
        return sorted({(s.verb, s.noun) for s in self.segments if s.verb >= 0 and s.noun >= 0})


def find_folder(source: Path, given: Path | None) -> Path:
    """Returns the folder of the tables.

    Raises:
        UserError: Naming where they were looked for.
    """
    folders = [given] if given else [source / name for name in FOLDERS]
    for folder in folders:
        if any((folder / name).is_file() for name in SEGMENT_FILES.values()):
            return folder
    looked = "\n".join(f"    {folder / name}" for folder in folders for name in SEGMENT_FILES.values())
    raise UserError(f"Missing input: at least one of\n{looked}", fix="egoloom ingest epic-kitchens --help")


def read_tables(folder: Path) -> EpicTables:
    """Reads all tables of a folder; only the segment lists and the two class lists are required."""
    verbs = _class_names(folder / "EPIC_100_verb_classes.csv")
    nouns = _class_names(folder / "EPIC_100_noun_classes.csv")
    segments = [
        segment
        for split, name in SEGMENT_FILES.items()
        if (folder / name).is_file()
        for segment in _segments(folder / name, split, len(verbs), len(nouns))
    ]
    info = _rows(folder / "EPIC_100_video_info.csv", ("video_id", "duration", "fps"))
    participants = [
        row["participant_id"]
        for split in ("validation", "test")
        for row in _rows(folder / f"EPIC_100_unseen_participant_ids_{split}.csv", ("participant_id",))
    ]
    where = folder / "EPIC_100_video_info.csv"
    return EpicTables(
        segments,
        verbs,
        nouns,
        {row["video_id"]: number(row["fps"], f"{where}: fps of {row['video_id']}") for row in info},
        {row["video_id"]: number(row["duration"], f"{where}: duration of {row['video_id']}") for row in info},
        tuple(sorted(set(participants))),
        tuple(_class_ids(folder / "EPIC_100_tail_verbs.csv", "verb")),
        tuple(_class_ids(folder / "EPIC_100_tail_nouns.csv", "noun")),
    )


def nominal_fps(video_id: str) -> float:
    """Returns the frame rate by the name: ``PXX_YY`` (2018) 59.94, ``PXX_1YY`` (2020) 50.

    Raises:
        UserError: If the name has neither form.
    """
    match = VIDEO_ID.match(video_id)
    if not match:
        raise UserError(f"{video_id!r} is not the id of an EPIC-KITCHENS video", allowed="PXX_YY or PXX_1YY")
    return 50.0 if len(match.group(2)) == 3 else 60000 / 1001


def flow_stride(video_id: str) -> int:
    """Returns how many RGB frames lie between two published flow frames: 2 for ``PXX_YY``, 1 for ``PXX_1YY``."""
    return 1 if nominal_fps(video_id) == 50.0 else 2


def annotated_rate(segments: Sequence[Segment], video_fps: float) -> float:
    """Returns the rate that turns seconds into the frame numbers of the tables.

    The 2018 videos run at 59.94 frames a second, but their frames were taken at 60: the numbers are 60 x seconds.
    Which of the two holds is measured on the annotations, not assumed.
    """
    rates = {video_fps, float(round(video_fps))}
    if not segments:
        return float(round(video_fps))
    return min(rates, key=lambda rate: sum(abs(s.stop_s * rate - s.stop_frame) for s in segments))


def seconds_of(timestamp: str, where: str) -> float:
    """Returns the seconds of ``HH:MM:SS.SS``.

    Raises:
        UserError: Naming the place.
    """
    match = TIMESTAMP.match(timestamp)
    if not match:
        raise UserError(f"{where} is {timestamp!r:.40}", allowed="HH:MM:SS.SS")
    hours, minutes, seconds = match.groups()
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def integers_of(text: str, where: str) -> tuple[int, ...]:
    """Returns the integers of a Python list in text, ``[2, 10]``; nothing is evaluated.

    Raises:
        UserError: Naming the place.
    """
    try:
        values = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise UserError(f"{where} is {text!r:.60}", allowed="a list of integers") from error
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise UserError(f"{where} is {text!r:.60}", allowed="a list of integers")
    return tuple(values)


def _segments(path: Path, split: str, num_verbs: int, num_nouns: int) -> list[Segment]:
    labelled = split != "test"
    rows = read_csv(path, required=SEGMENT_COLUMNS + (LABEL_COLUMNS if labelled else ()))
    segments = []
    for line, row in enumerate(rows, start=2):
        where = f"{path} line {line}"
        start_s = seconds_of(row["start_timestamp"], f"{where}: start_timestamp")
        stop_s = seconds_of(row["stop_timestamp"], f"{where}: stop_timestamp")
        if stop_s <= start_s:
            raise UserError(f"{where}: the segment {row['narration_id']} ends at {stop_s} s, before it starts")
        if not VIDEO_ID.match(row["video_id"]):
            raise UserError(f"{where}: video_id is {row['video_id']!r:.40}", allowed="PXX_YY or PXX_1YY")
        segment = Segment(
            narration_id=row["narration_id"],
            participant_id=row["participant_id"],
            video_id=row["video_id"],
            split=split,
            start_s=start_s,
            stop_s=stop_s,
            start_frame=int(number(row["start_frame"], f"{where}: start_frame")),
            stop_frame=int(number(row["stop_frame"], f"{where}: stop_frame")),
        )
        if labelled:
            segment = replace(
                segment,
                narration=row["narration"],
                verb=_class(row["verb_class"], num_verbs, f"{where}: verb_class"),
                noun=_class(row["noun_class"], num_nouns, f"{where}: noun_class"),
                all_nouns=integers_of(row["all_noun_classes"], f"{where}: all_noun_classes"),
            )
        segments.append(segment)
    return segments


def _class(text: str, num_classes: int, where: str) -> int:
    if not text.isdecimal() or int(text) >= num_classes:
        raise UserError(f"{where} is {text!r:.40}", allowed=f"0 ... {num_classes - 1}")
    return int(text)


def _class_names(path: Path) -> list[str]:
    rows = read_csv(path, required=("id", "key"))
    names = {int(number(row["id"], f"{path}: id")): row["key"] for row in rows}
    if sorted(names) != list(range(len(rows))):
        raise UserError(f"{path}: the ids are not 0 ... {len(rows) - 1}")
    return [names[index] for index in range(len(names))]


def _class_ids(path: Path, column: str) -> list[int]:
    return [int(number(row[column], f"{path}: {column}")) for row in _rows(path, (column,))]


def _rows(path: Path, required: tuple[str, ...]) -> list[dict[str, str]]:
    return read_csv(path, required=required) if path.is_file() else []


def extra_info(tables: EpicTables) -> dict[str, str]:
    """Returns what the store carries along for the evaluation: unseen participants, tail classes, action pairs."""
    return {
        "unseen_participants": json.dumps(tables.unseen_participants),
        "tail_verbs": json.dumps(tables.tail_verbs),
        "tail_nouns": json.dumps(tables.tail_nouns),
        "action_pairs": json.dumps(tables.action_pairs),
    }


def optional_file(folder: Path, *names: str) -> Path | None:
    """Returns the first of several files that exists."""
    return first_existing(folder, names)
