"""Files of class scores: one row a segment, one array a head, in every format that people send.

``.npz``, ``.safetensors`` and ``.parquet`` with ``narration_id`` (or ``clip_id``) and ``<head>_output``; the
``predictions.npz`` of an EgoLoom run; and the official ``.pkl``/``.pt`` (a dictionary of arrays or a list of records),
read without running code.

Shape letters: N segments, V views, K classes.
"""

import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from egoloom.errors import UserError
from egoloom.evaluation.safe_pickle import read_plain_pickle, read_plain_torch

ID_KEYS = ("narration_id", "clip_id", "id")
OUTPUT_SUFFIX = "_output"


@dataclass(frozen=True)
class ScoreTable:
    """Scores by segment.

    Attributes:
        ids: N unique ids.
        scores: Head to finite scores ``[N, K]`` of any scale, higher is better.
        path: Where they came from, for messages.
    """

    ids: list[str]
    scores: dict[str, np.ndarray]
    path: str = "the predictions"

    def head(self, name: str, num_classes: int | None = None) -> np.ndarray:
        """Returns one head's scores.

        Raises:
            UserError: If it is absent or has another number of classes.
        """
        if name not in self.scores:
            raise UserError(
                f"{self.path} has no {name}{OUTPUT_SUFFIX}",
                allowed=f"it holds {', '.join(head + OUTPUT_SUFFIX for head in self.scores)}",
            )
        found = self.scores[name].shape[1]
        if num_classes is not None and found != num_classes:
            raise UserError(f"{self.path}: {name} scores have {found} classes", allowed=str(num_classes))
        return self.scores[name]


def read_scores(path: str | Path) -> ScoreTable:
    """Reads and checks a file of scores.

    Raises:
        UserError: If the file is missing, damaged or of an unknown kind, ids repeat, lengths differ, or a score is NaN
            or infinite.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no file {path}")
    if path.suffix not in _READERS:
        raise UserError(f"Scores cannot be read from {path.name}", allowed=", ".join(_READERS))
    columns = _READERS[path.suffix](path)
    if isinstance(columns, list):
        columns = _columns_of_records(path, columns)
    if not isinstance(columns, Mapping):
        raise UserError(
            f"{path} holds a {type(columns).__name__}", allowed="a dictionary of arrays or a list of records"
        )
    return _checked(path, columns)


def write_scores(path: str | Path, table: ScoreTable) -> None:
    """Writes scores as ``.npz`` with ``narration_id`` and ``<head>_output``, atomically."""
    from egoloom.clips.files import atomic_path

    arrays: dict[str, Any] = {"narration_id": np.array(table.ids)}
    arrays |= {head + OUTPUT_SUFFIX: scores for head, scores in table.scores.items()}
    with atomic_path(Path(path)) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _checked(path: Path, columns: Mapping[str, Any]) -> ScoreTable:
    id_key = next((key for key in ID_KEYS if key in columns), None)
    if id_key is None:
        raise UserError(f"{path} has no ids", allowed=f"one of {', '.join(ID_KEYS)}; it holds {', '.join(columns)}")
    ids = [item.decode() if isinstance(item, bytes) else str(item) for item in np.asarray(columns[id_key]).tolist()]
    scores = {}
    for key, value in columns.items():
        if key.endswith(OUTPUT_SUFFIX):
            scores[key.removesuffix(OUTPUT_SUFFIX)] = _as_matrix(path, key, value)
        elif key.endswith("/logits"):
            scores[key.removesuffix("/logits")] = _mean_of_views(path, key, value)
    if not scores:
        raise UserError(f"{path} has no scores", allowed="verb_output, noun_output, action_output")
    if not ids:
        raise UserError(f"{path} is empty")
    for head, matrix in scores.items():
        if len(matrix) != len(ids):
            raise UserError(f"{path}: {len(ids)} ids but {len(matrix)} rows of {head} scores")
        _refuse_not_finite(path, head, matrix, ids)
    _refuse_repeated(path, ids)
    return ScoreTable(ids, scores, str(path))


def _as_matrix(path: Path, key: str, value: Any) -> np.ndarray:
    try:
        matrix = np.asarray(value)
        matrix = matrix if matrix.dtype in (np.float32, np.float64) else matrix.astype(np.float32)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: rows of {key} differ in length or are not numbers") from error
    if matrix.ndim != 2:
        raise UserError(f"{path}: {key} has shape {list(matrix.shape)}", allowed="[segments, classes]")
    return matrix


def _mean_of_views(path: Path, key: str, value: Any) -> np.ndarray:
    from egoloom.evaluation.multiview import average_views

    if np.ndim(value) != 3:
        raise UserError(f"{path}: {key} has shape {list(np.shape(value))}", allowed="[clips, views, classes]")
    return average_views(value)


def _refuse_not_finite(path: Path, head: str, matrix: np.ndarray, ids: list[str]) -> None:
    bad = ~np.isfinite(matrix).all(axis=1)
    if bad.any():
        raise UserError(
            f"{path}: {int(bad.sum())} segments have NaN or infinite {head} scores, first: {ids[int(bad.argmax())]}",
            allowed="finite numbers",
        )


def _refuse_repeated(path: Path, ids: list[str]) -> None:
    values, counts = np.unique(np.array(ids), return_counts=True)
    if (counts > 1).any():
        first = values[int((counts > 1).argmax())]
        raise UserError(f"{path}: {int((counts > 1).sum())} segments occur more than once, first: {first}")


def _columns_of_records(path: Path, records: list[Any]) -> dict[str, Any]:
    if not records or not all(isinstance(record, Mapping) for record in records):
        raise UserError(f"{path} holds a list of something else", allowed="records with narration_id, verb_output, ...")
    keys = set(records[0])
    for number, record in enumerate(records):
        if set(record) != keys:
            raise UserError(f"{path}: record {number} has the keys {sorted(record)}, the first has {sorted(keys)}")
    return {key: [record[key] for record in records] for key in keys}


def _read_npz(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a readable .npz of plain arrays: {error}") from error


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            columns: dict[str, Any] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a safetensors file: {error}") from error
    for key in ID_KEYS:
        if key in metadata:
            columns[key] = json.loads(metadata[key])
        elif key in columns and columns[key].ndim == 2:
            # safetensors has no strings: rows of character codes, padded with zeros.
            columns[key] = [bytes(row[row > 0].astype(np.uint8)).decode() for row in columns[key]]
    return columns


def _read_parquet(path: Path) -> dict[str, Any]:
    import pyarrow as pa

    from egoloom.clips.parquet import read_parquet

    try:
        table = read_parquet(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is not a parquet file: {error}") from error
    columns = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        nested = pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type)
        flat = column.flatten().to_numpy(zero_copy_only=False) if nested else None
        if flat is not None and len(column) and len(flat) % len(column) == 0 and _even(column):
            columns[name] = flat.reshape(len(column), -1)
        else:
            columns[name] = column.to_pylist()
    return columns


def _even(column: Any) -> bool:
    from pyarrow import compute as pc

    lengths = pc.call_function("list_value_length", [column])
    return len(lengths.unique()) == 1


_READERS: dict[str, Callable[[Path], Any]] = {
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
    ".parquet": _read_parquet,
    ".pkl": read_plain_pickle,
    ".pickle": read_plain_pickle,
    ".pt": read_plain_torch,
    ".pth": read_plain_torch,
}
