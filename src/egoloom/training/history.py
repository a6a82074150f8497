"""``history.jsonl``: one row a batch, and one each time the selection split is judged."""

import json
from pathlib import Path

from egoloom.clips.files import write_text


def append_history(path: Path, row: dict[str, float]) -> None:
    """Adds a row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(row) + "\n")


def truncate_history(path: Path, step: int) -> None:
    """Drops the rows after the checkpoint, which the resumed run writes again."""
    if path.exists():
        rows = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
        write_text(path, "".join(f"{row}\n" for row in rows))


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return float("inf")
