"""One entry of ``meta.json`` in the EgoX layout, checked before anything relies on it."""

from pathlib import Path
from typing import Any

import numpy as np

from egoloom.errors import UserError

PATH_KEYS = ("exo_path", "ego_gt_path", "ego_prior_path", "depth_dir")
MAX_NAME_LENGTH = 255  # of a file, on all common file systems


def checked_entries(content: Any, meta: Path) -> list[dict[str, Any]]:
    """Returns the entries of a parsed ``meta.json``.

    Raises:
        UserError: If it is not in the EgoX layout, naming the entry and the key.
    """
    entries = content.get("test_datasets") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise UserError(f"{meta} is not in the EgoX layout", allowed='{"test_datasets": [...]}')
    for number, entry in enumerate(entries):
        where = f"{meta}: entry {number}"
        if not isinstance(entry, dict):
            raise UserError(f"{where} is {entry!r:.60}", allowed="an object")
        for key in ("take_name", *PATH_KEYS):
            _check_name(entry.get(key), f"{where}: {key}")
        poses = entry.get("ego_extrinsics")
        if poses is not None and not isinstance(poses, list):
            raise UserError(f"{where}: ego_extrinsics is {poses!r:.60}", allowed="a list of poses")
        if entry.get("exo_crop"):
            entry["exo_crop"] = checked_crop(entry["exo_crop"], f"{where}: exo_crop")
    return entries


def checked_crop(value: Any, where: str) -> tuple[int, int, int, int]:
    """Returns a window x0, y0, width, height of the depth grid.

    Raises:
        UserError: If it is none.
    """
    if not isinstance(value, list | tuple) or len(value) != 4 or not all(type(v) in (int, float) for v in value):
        raise UserError(f"{where} is {value!r:.60}", allowed="[x0, y0, width, height]")
    if not all(0 <= v < 1e6 for v in value) or min(value[2:]) < 1:
        raise UserError(f"{where} is {value!r:.60}", allowed="a window inside the depth grid")
    return int(value[0]), int(value[1]), int(value[2]), int(value[3])


def matrix_of(entry: dict[str, Any], key: str, shapes: set[tuple[int, ...]], where: str) -> np.ndarray:
    """Returns a matrix of an entry, float64.

    Raises:
        UserError: If it is missing, has another shape, or holds anything but finite numbers.
    """
    try:
        matrix = np.asarray(entry[key], dtype=np.float64)
    except KeyError as error:
        raise UserError(f"{where} has no {key}") from error
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{where}: {key} is {entry[key]!r:.60}", allowed="a matrix of numbers") from error
    if matrix.shape not in shapes or not np.isfinite(matrix).all():
        allowed = " or ".join(" x ".join(map(str, shape)) for shape in sorted(shapes))
        raise UserError(f"{where}: {key} is {entry[key]!r:.60}", allowed=f"{allowed} finite numbers")
    return matrix


def _check_name(value: Any, where: str) -> None:
    fits = isinstance(value, str) and "\0" not in value and max(map(len, value.split("/"))) <= MAX_NAME_LENGTH
    if value is not None and not fits:
        raise UserError(f"{where} is {value!r:.60}", allowed="a name or path")
