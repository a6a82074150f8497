"""``clips.parquet`` and ``videos.parquet``: rows of the data model as Arrow tables, and back."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from egoloom.clips.files import atomic_path
from egoloom.clips.parquet import read_parquet
from egoloom.clips.schema import HAND_OBJECT_HEADS, Clip, Modality, Video
from egoloom.errors import UserError

VIDEO_SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("path", pa.string()),
        ("fps_numerator", pa.int64()),
        ("fps_denominator", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("num_frames", pa.int64()),
        ("duration_s", pa.float64()),
        ("view", pa.string()),
        ("take_id", pa.string()),
        ("calibration_id", pa.string()),
    ]
)

CLIP_SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("video_id", pa.string()),
        ("participant_id", pa.string()),
        ("view", pa.string()),
        ("take_id", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("split", pa.string()),
        ("verb", pa.int32()),
        ("noun", pa.int32()),
        ("action", pa.int32()),
        *[(head, pa.int32()) for head in HAND_OBJECT_HEADS],
        ("narration", pa.string()),
        ("is_generated", pa.bool_()),
        ("generator", pa.string()),
        ("quality", pa.float64()),
        *[(f"present_{modality}", pa.bool_()) for modality in Modality],
        ("extra", pa.string()),
    ]
)


def _video_row(video: Video) -> dict[str, Any]:
    row = dict(vars(video))
    fps = row.pop("fps")
    return row | {"fps_numerator": fps.numerator, "fps_denominator": fps.denominator}


def _clip_row(clip: Clip) -> dict[str, Any]:
    row = dict(vars(clip))
    present = row.pop("present")
    row["extra"] = json.dumps(row["extra"], sort_keys=True) if row["extra"] else ""
    return row | {f"present_{modality}": modality in present for modality in Modality}


def write_videos(path: Path, videos: Sequence[Video]) -> None:
    """Writes ``videos.parquet`` atomically."""
    _write(path, pa.Table.from_pylist([_video_row(video) for video in videos], schema=VIDEO_SCHEMA))


def write_clips(path: Path, clips: Sequence[Clip]) -> None:
    """Writes ``clips.parquet`` atomically."""
    _write(path, pa.Table.from_pylist([_clip_row(clip) for clip in clips], schema=CLIP_SCHEMA))


def read_videos(path: Path) -> list[Video]:
    """Reads ``videos.parquet``.

    Raises:
        UserError: If it is missing or damaged.
    """
    with _damage_named(path):
        videos = []
        for row in _rows(path, VIDEO_SCHEMA):
            fps = Fraction(row.pop("fps_numerator"), row.pop("fps_denominator"))
            videos.append(Video(fps=fps, **row))
        return videos


def read_clips(path: Path) -> list[Clip]:
    """Reads ``clips.parquet``.

    Raises:
        UserError: If it is missing or damaged.
    """
    with _damage_named(path):
        clips = []
        for row in _rows(path, CLIP_SCHEMA):
            present = frozenset(modality for modality in Modality if row.pop(f"present_{modality}", False))
            row["extra"] = json.loads(row["extra"]) if row["extra"] else {}
            clips.append(Clip(present=present, **row))
        return clips


def _write(path: Path, table: pa.Table) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException, ValueError, TypeError, ArithmeticError) as error:
        raise UserError(f"Cannot read the table {path}: {error}", fix="ingest the source again") from error


def _rows(path: Path, schema: pa.Schema) -> list[dict[str, Any]]:
    # One open file: a reader that opened it twice (footer, then data) could meet two versions of a replaced table.
    table = read_parquet(pa.BufferReader(path.read_bytes()))
    missing = [name for name in schema.names if name not in table.column_names and not _may_lack(name)]
    if missing:
        raise UserError(f"{path} lacks the columns {', '.join(missing)}", allowed=", ".join(schema.names))
    known = [name for name in schema.names if name in table.column_names]
    return table.select(known).to_pylist()


def _may_lack(column: str) -> bool:
    """Whether stores may lack a column: modalities and hand-object heads joined the format later."""
    return column.startswith("present_") or column in HAND_OBJECT_HEADS
