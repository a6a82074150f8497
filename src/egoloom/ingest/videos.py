"""A folder of videos with an optional table: the way in for a phone, or for glasses that write an mp4."""

import itertools
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from egoloom.clips import Clip, ClipStore
from egoloom.clips.schema import ACTION_HEADS, EMPTY_HAND, HAND_OBJECT_HEADS, HEADS, UNLABELLED
from egoloom.errors import UserError
from egoloom.ingest.documents import number, read_csv, read_json
from egoloom.ingest.recordings import DEFAULT_OPTIONS, Copied, IngestOptions, Recording, bring_in, clip_times
from egoloom.ingest.sources import require_paths

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mts", ".mpg", ".mpeg", ".3gp"})
TABLE_NAME = "clips.csv"
COLUMNS = ("path", "start_s", "end_s", *HEADS, "narration", "split", "participant_id", "view", "take_id")


@dataclass(frozen=True)
class Row:
    """One line of the table: a stretch of a video and what is known of it."""

    path: Path
    start_s: float = 0.0
    end_s: float | None = None
    labels: dict[str, str] = field(default_factory=dict)
    narration: str = ""
    split: str = ""
    participant_id: str = ""
    view: str = ""
    take_id: str = ""


def ingest(
    source: Path,
    out: Path,
    *,
    table: Path | None = None,
    label_spaces: Path | None = None,
    labels_from_folders: bool = False,
    clip_length_s: float = 0.0,
    view: Literal["ego", "exo"] = "ego",
    split: str = "train",
    name: str = "",
    licence: str = "",
    options: IngestOptions = DEFAULT_OPTIONS,
) -> ClipStore:
    """Brings a folder of videos into a clip store.

    Args:
        source: Folder with videos, searched with its sub-folders; or one video file.
        out: The store.
        table: CSV with ``path`` and optionally ``start_s, end_s, verb, noun, action, left_hand_object,
            right_hand_object, narration, split, participant_id, view, take_id``; default: ``clips.csv`` in the source
            folder, if it is there.
        label_spaces: JSON with class names in index order by head; default: the sorted labels of the table.
        labels_from_folders: Without a table: the name of a video's folder is its action.
        clip_length_s: Without a table: cut videos into clips of this length; 0 makes one clip of each.
        view: View of videos that the table does not tell.
        split: Split of clips that the table does not tell.
        name: Name of the store; default: that of the folder.
        licence: Under which terms the videos may be used.
        options: How media are copied.
    """
    require_paths({source: "a folder of videos, or one video"}, source="videos")
    if table is None and source.is_dir() and (source / TABLE_NAME).is_file():
        table = source / TABLE_NAME
    rows = read_rows(table, source) if table else _rows_of_folder(source, labels_from_folders=labels_from_folders)
    spaces = _label_spaces(rows, label_spaces)
    by_path: dict[Path, list[Row]] = defaultdict(list)
    for row in rows:
        by_path[row.path].append(row)
    root = source if source.is_dir() else source.parent
    recordings = [_recording(path, root, of_path, view) for path, of_path in sorted(by_path.items())]
    store = ClipStore.create(
        out,
        name=name or source.stem,
        source="videos",
        licence=licence,
        label_spaces=spaces,
        splits=sorted({row.split or split for row in rows}),
        flow_bound_px=options.flow_bound_px(),
    )

    def clips_of(recording: Recording, copied: Copied) -> Sequence[Clip]:
        stretches = [piece for row in by_path[recording.source] for piece in _pieces(row, copied, clip_length_s)]
        return [
            _clip(recording, copied, row, times, number_of_clip, spaces, split)
            for number_of_clip, (row, times) in enumerate(stretches)
        ]

    bring_in(store, recordings, clips_of, options, description="videos")
    return store


def read_rows(table: Path, source: Path) -> list[Row]:
    """Reads the table of clips.

    Raises:
        UserError: If it is malformed, has unknown columns, or names videos that do not exist.
    """
    entries = read_csv(table, required=("path",))
    if not entries:
        raise UserError(f"{table} has no rows")
    if unknown := set(entries[0]) - set(COLUMNS):
        raise UserError(f"{table} has the unknown columns {', '.join(sorted(unknown))}", allowed=", ".join(COLUMNS))
    root = source if source.is_dir() else source.parent
    rows, missing = [], []
    for line, entry in enumerate(entries, start=2):
        where = f"{table} line {line}"
        path = root / entry["path"]
        if not path.is_file():
            missing.append(f"    {path}  (line {line})")
            continue
        start_s = number(entry["start_s"], f"{where}: start_s") if entry.get("start_s") else 0.0
        end_s = number(entry["end_s"], f"{where}: end_s") if entry.get("end_s") else None
        if start_s < 0 or (end_s is not None and end_s <= start_s):
            raise UserError(f"{where}: the clip lasts from {start_s} to {end_s} s", allowed="0 <= start_s < end_s")
        if entry.get("view", "") not in {"", "ego", "exo"}:
            raise UserError(f"{where}: the view is {entry['view']!r}", allowed="ego, exo")
        rows.append(
            Row(
                path,
                start_s,
                end_s,
                {head: entry[head] for head in HEADS if entry.get(head)},
                *(entry.get(key, "") for key in ("narration", "split", "participant_id", "view", "take_id")),
            )
        )
    if missing:
        raise UserError(
            f"{table} names {len(missing)} videos that do not exist:\n" + "\n".join(missing[:10]),
            fix="add the videos or remove the lines",
        )
    return rows


def video_files(folder: Path) -> list[Path]:
    """Returns the video files below a folder, sorted; hidden ones are left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file() and not path.name.startswith(".")
    )


def video_id_of(path: Path, root: Path) -> str:
    """Returns an id made of the path below ``root``: letters, digits, ``.-_``; folders joined with ``__``."""
    parts = path.relative_to(root).with_suffix("").parts
    return "__".join(re.sub(r"[^\w.\-]+", "_", part) for part in parts)


def cut(start_s: float, end_s: float, length_s: float) -> list[tuple[float, float]]:
    """Returns a stretch in pieces of at least ``length_s``; the last one takes what is left over. 0 keeps it whole."""
    if length_s <= 0:
        return [(start_s, end_s)]
    num_pieces = max(1, int((end_s - start_s) / length_s + 1e-9))
    edges = [start_s + length_s * index for index in range(num_pieces)] + [end_s]
    return list(itertools.pairwise(edges))


def _rows_of_folder(source: Path, *, labels_from_folders: bool) -> list[Row]:
    files = video_files(source) if source.is_dir() else [source]
    if not files:
        raise UserError(f"{source} holds no videos", allowed=", ".join(sorted(VIDEO_SUFFIXES)))
    if labels_from_folders and any(path.parent == source for path in files):
        raise UserError(f"Videos directly in {source} have no label", fix="put each video into a folder of its class")
    return [Row(path, labels={"action": path.parent.name} if labels_from_folders else {}) for path in files]


def _label_spaces(rows: Sequence[Row], given: Path | None) -> dict[str, list[str]]:
    used = {head: {row.labels[head] for row in rows if head in row.labels} for head in HEADS}
    if given is None:
        held = sorted(set().union(*(used[head] for head in HAND_OBJECT_HEADS)) - {EMPTY_HAND})
        spaces = {head: sorted(used[head]) for head in ACTION_HEADS if used[head]}
        return spaces | {head: [EMPTY_HAND, *held] for head in HAND_OBJECT_HEADS if used[head]}
    spaces = read_json(given, dict)
    for head, names in spaces.items():
        if head not in HEADS or not isinstance(names, list) or len(set(map(str, names))) != len(names):
            raise UserError(f"{given}: {head!r} is not a list of distinct class names", allowed=", ".join(HEADS))
        if head in HAND_OBJECT_HEADS and names[:1] != [EMPTY_HAND]:
            raise UserError(f"{given}: the first class of {head} is {names[:1]}", allowed=f'"{EMPTY_HAND}" (nothing)')
    spaces = {head: [str(name) for name in names] for head, names in spaces.items()}
    for head, names in used.items():
        if unknown := names - set(spaces.get(head, ())):
            raise UserError(f"The {head} {min(unknown)!r} is not in {given}", allowed=", ".join(spaces.get(head, ())))
    return spaces


def _recording(path: Path, root: Path, rows: Sequence[Row], view: str) -> Recording:
    views, takes = {row.view or view for row in rows}, {row.take_id for row in rows}
    if len(views) > 1 or len(takes) > 1:
        raise UserError(f"The lines of {path} disagree on view or take_id")
    return Recording(video_id_of(path, root), path, view=views.pop(), take_id=takes.pop())


def _pieces(row: Row, copied: Copied, clip_length_s: float) -> list[tuple[Row, tuple[float, float]]]:
    duration_s = copied.video.duration_s
    wanted = (row.start_s, duration_s if row.end_s is None else row.end_s)
    if wanted[1] > duration_s + 0.5 or (times := clip_times(*wanted, copied.video)) is None:
        raise UserError(f"A clip of {row.path} ends at {wanted[1]:.3f} s, the video at {duration_s:.3f} s")
    length_s = clip_length_s if row.end_s is None else 0.0
    return [(row, piece) for piece in cut(*times, length_s)]


def _clip(
    recording: Recording,
    copied: Copied,
    row: Row,
    times: tuple[float, float],
    number_of_clip: int,
    spaces: dict[str, list[str]],
    split: str,
) -> Clip:
    labels = {head: spaces[head].index(name) for head, name in row.labels.items()}
    return Clip(
        clip_id=f"{recording.video_id}_{number_of_clip:04d}",
        video_id=recording.video_id,
        participant_id=row.participant_id,
        view=recording.view,
        take_id=recording.take_id,
        start_s=times[0],
        end_s=times[1],
        split=row.split or split,
        narration=row.narration,
        present=copied.present,
        extra={"original": row.path.name},
        verb=labels.get("verb", UNLABELLED),
        noun=labels.get("noun", UNLABELLED),
        action=labels.get("action", UNLABELLED),
        left_hand_object=labels.get("left_hand_object", UNLABELLED),
        right_hand_object=labels.get("right_hand_object", UNLABELLED),
    )
