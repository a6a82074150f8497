"""Every folder of recordings below one folder becomes a clip store: which source it is follows from the files in it."""

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from egoloom.clips import ClipStore, Modality
from egoloom.clips.files import write_text
from egoloom.errors import UserError
from egoloom.ingest.gpmf import sensor_samples
from egoloom.ingest.recordings import IngestOptions
from egoloom.ingest.sources import SOURCES
from egoloom.ingest.videos import video_files

OPTIONS = IngestOptions(progress=False)


@dataclass(frozen=True)
class Recognised:
    """What a folder holds: the name of a source with what it must be told, or why none can read it."""

    source: str | None
    reason: str = ""
    options: dict[str, Any] = field(default_factory=dict)


def recognise(folder: Path) -> Recognised:
    """Returns which source reads a folder, from marker files and never from its name.

    Args:
        folder: A folder of recordings, in the layout of its origin.
    """
    if (folder / "labels.json").is_file() and (folder / "videos").is_dir():
        return Recognised("something-else")
    if (folder / "meta.json").is_file() or any(folder.glob("*/meta.json")):
        return Recognised("egox")
    if any(folder.rglob("*.vrs")):
        return Recognised("aria")
    if any(folder.glob("EPIC_100_*.csv")) and not any(folder.glob("P*/videos")) and not any(folder.glob("P*/rgb*")):
        return Recognised(None, "EPIC-KITCHENS tables without the recordings that they describe")
    if any(folder.glob("EPIC_100_*.csv")):
        return Recognised("epic-kitchens")
    if any(folder.glob("annotations/fho_*.json")):
        return Recognised("ego4d")
    if any(folder.glob("*/aria*.mp4")) or (folder / "takes").is_dir():
        return Recognised("ego-exo4d")
    if epic := _epic_frames(folder):
        return epic
    videos = video_files(folder)
    if not videos:
        return Recognised(None, "no video, recording or table that a source knows")
    return Recognised("gopro" if any(map(_has_telemetry, videos)) else "videos")


def _epic_frames(folder: Path) -> Recognised | None:
    """Frames of EPIC-KITCHENS videos without their tables, which may lie in a folder beside."""
    found = (re.match(r"(P\d\d_\d+)_frame_\d+\.jpg", path.name) for path in folder.glob("*/P*_frame_*.jpg"))
    video_ids = sorted({match[1] for match in found if match})
    tables = next((path for path in folder.parent.iterdir() if (path / "EPIC_100_verb_classes.csv").is_file()), None)
    if not video_ids:
        return None
    if tables is None:
        return Recognised(None, "EPIC-KITCHENS frames without the tables that describe them")
    options: dict[str, Any] = {"annotations": tables, "videos": tuple(video_ids), "unannotated": True}
    if len(video_ids) == 1 and (boxes := next(folder.glob("*.npz"), None)):
        options |= {"object_boxes": boxes, "min_box_score": 0.3}
    return Recognised("epic-kitchens", options=options)


def _has_telemetry(path: Path) -> bool:
    try:
        return path.suffix.lower() == ".mp4" and sensor_samples(path, "ACCL") is not None
    except UserError:  # a damaged video is told when it is brought in
        return False


def ingest_every_source(data: Path, out: Path) -> dict[str, dict[str, Any]]:
    """Brings every folder below ``data`` into a store of its own and writes ``out/sources.json``.

    A folder that cannot be brought in is listed with the reason and stops nothing.

    Args:
        data: The folder of folders.
        out: Where the stores go, one a folder, by its name.

    Returns:
        Folder name to ``source``, ``num_videos``, ``num_clips``, ``modalities`` (name to clips), or ``left_out``.
    """
    found: dict[str, dict[str, Any]] = {}
    for folder in sorted(path for path in data.iterdir() if path.is_dir()):
        recognised = recognise(folder)
        if recognised.source is None:
            found[folder.name] = {"source": None, "left_out": recognised.reason}
            continue
        try:
            store = _ingest(recognised.source, folder, out / folder.name, recognised.options)
        except UserError as error:
            found[folder.name] = {"source": recognised.source, "left_out": error.what, "fix": error.fix}
            continue
        found[folder.name] = {"source": recognised.source, **_counts(store)}
    write_text(out / "sources.json", json.dumps(found, indent=1) + "\n")
    return found


def _ingest(source: str, folder: Path, out: Path, told: dict[str, Any]) -> ClipStore:
    from egoloom.modalities import spectrogram

    ingest: Callable[..., ClipStore] = SOURCES[source].load()
    options = {} if source == "egox" else {"options": OPTIONS}  # takes keep the size of their depth maps
    store = ingest(folder, out, **told, **options)
    if any(Modality.AUDIO in clip.present for clip in store.clips):
        spectrogram.compute(store, progress=False)
        store = ClipStore.open(out)
    return store


def _counts(store: ClipStore) -> dict[str, Any]:
    modalities = Counter(str(modality) for clip in store.clips for modality in clip.present)
    return {
        "num_videos": len(store.videos),
        "num_clips": len(store.clips),
        "modalities": dict(sorted(modalities.items())),
        "store": str(store.path),
    }


def show_sources(found: dict[str, dict[str, Any]], console: Console) -> None:
    """Prints one row a folder."""
    table = Table("folder", "source", "videos", "clips", "modalities (clips)")
    for name, entry in found.items():
        if "left_out" in entry:
            table.add_row(name, entry["source"] or "–", "–", "–", f"left out: {entry['left_out']}")
            continue
        shown = ", ".join(f"{modality} {count}" for modality, count in entry["modalities"].items())
        table.add_row(name, entry["source"], str(entry["num_videos"]), str(entry["num_clips"]), shown)
    console.print(table)
