"""Reads what a run left behind; every part may be missing, a damaged part becomes a notice instead of an exception."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from egoloom.errors import UserError

REPORT_INPUTS = "report"


@dataclass
class Strip:
    """One picture with its words: panels side by side, named from left to right."""

    path: Path
    caption: str = ""
    panels: tuple[str, ...] = ()


@dataclass
class RunRecord:
    """The content of a run folder as far as the report shows it.

    Attributes:
        folder: The run folder.
        metrics: ``metrics.json``, nested.
        config_text: ``config.yaml`` as written, empty if absent.
        environment: ``environment.json``.
        notices: Plain sentences to show on top.
        reliability: Name to ``{"bins": [...], "ece": float}``.
        confusion: Name to ``{"matrix": [[...]], "class_names": [...]}``.
        history: Name to the list of rows of a training.
        strips: Pictures of the report.
        bench: Rows with ``name, latency_ms, top1, size_mb`` for the Pareto front.
        sweep: Rows with ``name, num_frames, top1, ece`` for fewer frames.
    """

    folder: Path
    metrics: dict[str, Any] = field(default_factory=dict)
    config_text: str = ""
    environment: dict[str, Any] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    reliability: dict[str, dict[str, Any]] = field(default_factory=dict)
    confusion: dict[str, dict[str, Any]] = field(default_factory=dict)
    history: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    strips: list[Strip] = field(default_factory=list)
    bench: list[dict[str, Any]] = field(default_factory=list)
    sweep: list[dict[str, Any]] = field(default_factory=list)


def read_run(folder: Path) -> RunRecord:
    """Reads a run folder.

    Raises:
        UserError: If the folder is missing, or holds neither ``metrics.json`` nor ``config.yaml``.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"There is no run folder at {folder}", fix="egoloom demo --out runs/demo")
    if not (folder / "metrics.json").is_file() and not (folder / "config.yaml").is_file():
        raise UserError(
            f"{folder} is not a run folder: it holds neither metrics.json nor config.yaml",
            allowed="a folder that `egoloom demo`, `train`, `distill` or `bench` wrote",
        )
    record = RunRecord(folder)
    record.notices = [str(text) for text in _read_list(record, folder / REPORT_INPUTS / "notes.json")]
    record.metrics = _read_dict(record, folder / "metrics.json")
    record.environment = _read_dict(record, folder / "environment.json")
    record.config_text = _read_config(record, folder / "config.yaml")
    inputs = folder / REPORT_INPUTS
    for path in sorted(inputs.glob("reliability/*.json")):
        record.reliability[path.stem] = _read_dict(record, path)
    for path in sorted(inputs.glob("confusion/*.json")):
        record.confusion[path.stem] = _read_dict(record, path)
    for path in sorted(inputs.glob("history/*.jsonl")) or sorted(folder.glob("history.jsonl")):
        record.history[path.stem] = _read_lines(record, path)
    record.strips = _read_strips(record, inputs / "strips")
    record.bench = _read_rows(record, inputs / "bench.json")
    record.sweep = _read_rows(record, inputs / "sweep.json")
    return record


def is_number(value: Any) -> bool:
    """Whether a value is a finite number (bool is not one)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _load(record: RunRecord, path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        record.notices.append(f"{path.relative_to(record.folder)} could not be read and is left out: {error}")
        return None


def _read_dict(record: RunRecord, path: Path) -> dict[str, Any]:
    content = _load(record, path)
    return content if isinstance(content, dict) else {}


def _read_list(record: RunRecord, path: Path) -> list[Any]:
    content = _load(record, path)
    return content if isinstance(content, list) else []


def _read_rows(record: RunRecord, path: Path) -> list[dict[str, Any]]:
    return [row for row in _read_list(record, path) if isinstance(row, dict)]


def _read_lines(record: RunRecord, path: Path) -> list[dict[str, Any]]:
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:  # a run that was interrupted may have left half a line
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _read_config(record: RunRecord, path: Path) -> str:
    if not path.is_file():
        return ""
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        yaml.safe_load(text)
    except yaml.YAMLError as error:
        record.notices.append(f"config.yaml is not valid YAML: {error}")
    return text


def _read_strips(record: RunRecord, folder: Path) -> list[Strip]:
    """Captions: ``{"name.png": "words"}`` or ``{"name.png": {"caption": "...", "panels": ["exo", ...]}}``."""
    captions = _read_dict(record, folder / "strips.json") or _read_dict(record, folder.parent / "strips.json")
    strips = []
    for path in sorted(folder.glob("*.png")):
        entry = captions.get(path.name, captions.get(path.stem, ""))
        if isinstance(entry, dict):
            panels = tuple(str(name) for name in entry.get("panels", ()))
            strips.append(Strip(path, str(entry.get("caption", "")), panels))
        else:
            text = str(entry)
            panels = tuple(part.strip() for part in text.split("|")) if text.count("|") >= 1 else ()
            strips.append(Strip(path, "" if panels else text, panels))
    return strips
