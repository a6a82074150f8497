"""``history.jsonl``: one row a batch, and one each time the selection split is judged."""

import json
from pathlib import Path

from egoloom.clips.files import write_text


def append_history(path: Path, row: dict[str, float]) -> None:
    """Adds a row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(row) + "\n")


def truncate_history(path: Path, num_batches: int, epoch: int) -> None:
    """Drops the rows after a checkpoint, which the resumed run writes again.

    Args:
        path: The history; it may be missing, and a killed run may have cut its last row.
        num_batches: Batches that the checkpoint has seen.
        epoch: Epochs that it has closed; later judgements of the selection split go.
    """
    if not path.exists():
        return
    kept: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            break
        is_batch = "learning_rate" in row
        if (is_batch and num_batches == 0) or row["epoch"] > epoch:
            break
        num_batches -= is_batch
        kept.append(f"{line}\n")
    write_text(path, "".join(kept))
