"""Array tracks (``.npz``) and table tracks (``.parquet``), written atomically and read without pickle."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from egoloom.clips.files import atomic_path
from egoloom.clips.parquet import read_parquet
from egoloom.errors import UserError


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], *, compress: bool = True) -> None:
    """Writes named arrays as ``.npz``."""
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        (np.savez_compressed if compress else np.savez)(handle, allow_pickle=False, **arrays)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads an ``.npz`` file.

    Raises:
        UserError: If it is missing or damaged, or holds pickled objects.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # zipfile, zlib and numpy raise many kinds on damaged files
        fix = "compute the modality again; save objects as plain arrays (numpy.savez of numbers, or JSON)"
        raise UserError(f"Cannot read the arrays {path}: {error}", fix=fix) from error


def write_table(path: Path, columns: Mapping[str, Sequence[Any] | np.ndarray]) -> None:
    """Writes named columns as ``.parquet``."""
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(dict(columns)), temporary, compression="zstd")


def read_table(path: Path) -> dict[str, np.ndarray]:
    """Reads a ``.parquet`` file into one array a column.

    Raises:
        UserError: If it is missing or damaged.
    """
    try:
        table = read_parquet(path)
        return {name: table[name].to_numpy() for name in table.column_names}
    except (OSError, pa.ArrowException, ValueError) as error:  # damaged text is a ValueError
        raise UserError(f"Cannot read the table {path}: {error}", fix="compute the modality again") from error
