"""What all validators of submission files share."""

import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

from egoloom.errors import UserError


def is_finite(value: Any) -> bool:
    """Returns whether a value is a finite number (and no bool)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def demand(condition: bool, what: str, *, allowed: str | None = None) -> None:
    """Raises UserError where a condition does not hold."""
    if not condition:
        raise UserError(what, allowed=allowed)


def check_complete(found: Collection[str], expected_ids: Collection[str] | None) -> None:
    """Raises UserError where segments are unknown or missing; no expected ids, no check."""
    if expected_ids is None:
        return
    unknown, absent = sorted(set(found) - set(expected_ids)), sorted(set(expected_ids) - set(found))
    demand(not unknown, f"{len(unknown)} segments are not in the test split, first: {next(iter(unknown), '')}")
    demand(not absent, f"{len(absent)} segments of the test split are missing, first: {next(iter(absent), '')}")


def read_json_submission(path: str | Path) -> Any:
    """Returns the content of a JSON file, refusing NaN and repeated keys (a parser would keep the last one in silence).

    Raises:
        UserError: If it is not such a file.
    """
    try:
        return strict_json(Path(path).read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read {path}: {error}") from error


def strict_json(text: str, path: str) -> Any:
    """Returns the content of JSON text without NaN and without repeated keys."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content: dict[str, Any] = {}
        for key, value in pairs:
            demand(key not in content, f"{path}: the key {key!r} occurs twice")
            content[key] = value
        return content

    def refuse(constant: str) -> None:
        raise UserError(f"{path} holds {constant}, which is not JSON", allowed="finite numbers")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON: {error}") from error


def write_json(path: str | Path, content: Any) -> Path:
    """Writes JSON without NaN, atomically."""
    from egoloom.clips.files import write_text

    write_text(Path(path), json.dumps(content, allow_nan=False))
    return Path(path)
