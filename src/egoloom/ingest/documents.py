"""Reading the JSON and CSV files of data sets: every fault becomes an error that names file and place."""

import csv
import io
import json
from pathlib import Path
from typing import Any

from egoloom.errors import UserError


def read_text(path: Path) -> str:
    """Reads a UTF-8 text file.

    Raises:
        UserError: If it is missing, unreadable or not text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}") from error


def read_json(path: Path, kind: type | tuple[type, ...] = (dict, list)) -> Any:
    """Reads a JSON file whose top level is of the given kind.

    Raises:
        UserError: If it cannot be read or parsed, or holds something else.
    """
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}", fix="download or export the file again") from error
    if not isinstance(content, kind):
        names = kind.__name__ if isinstance(kind, type) else " or ".join(part.__name__ for part in kind)
        raise UserError(f"{path} holds a {type(content).__name__}", allowed=names)
    return content


def read_csv(path: Path, required: tuple[str, ...] = ()) -> list[dict[str, str]]:
    """Reads a CSV file with a header.

    Returns:
        One dictionary a row; every value is a string without surrounding blanks.

    Raises:
        UserError: If it cannot be read, lacks a required column, or a row has too many or too few cells.
    """
    try:
        reader = csv.DictReader(io.StringIO(read_text(path)), strict=True)
        header = [name.strip() for name in reader.fieldnames or []]
        reader.fieldnames = header
        missing = [name for name in required if name not in header]
        if missing:
            raise UserError(f"{path} lacks the columns {', '.join(missing)}", allowed=", ".join(required))
        rows = []
        for row in reader:
            if None in row or None in row.values():
                raise UserError(f"{path} line {reader.line_num}: the row has not {len(header)} cells")
            rows.append({name: value.strip() for name, value in row.items()})
        return rows
    except csv.Error as error:
        raise UserError(f"{path} is not a valid CSV file: {error}") from error


def entry_value(entry: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """Returns ``entry[key]`` if it is there and of the given kind.

    Raises:
        UserError: Naming the place.
    """
    if not isinstance(entry, dict) or key not in entry:
        raise UserError(f"{where} has no {key!r}")
    value = entry[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UserError(f"{where}: {key} is {value!r:.80}")
    return value


def objects(value: Any, where: str) -> list[dict[str, Any]]:
    """Returns a list of JSON objects; nothing at all counts as an empty list.

    Raises:
        UserError: If it is anything else.
    """
    if value is None:
        return []
    if not isinstance(value, list):
        raise UserError(f"{where} is {value!r:.60}", allowed="a list of objects")
    for entry in value:
        if not isinstance(entry, dict):
            raise UserError(f"{where}: an entry is {entry!r:.60}", allowed="an object")
    return value


def number(text: Any, where: str) -> float:
    """Returns a finite number.

    Raises:
        UserError: Naming the place.
    """
    try:
        value = float(text)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where} is {text!r:.80}", allowed="a number") from error
    if value != value or value in (float("inf"), float("-inf")):
        raise UserError(f"{where} is {text!r:.80}", allowed="a finite number")
    return value
