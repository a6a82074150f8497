"""Writes the report of a run: one HTML file that opens from disk and needs no network."""

import base64
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from egoloom import __version__
from egoloom.clips.files import write_text
from egoloom.report import figures as draw
from egoloom.report.mixtures import MixtureRow, mixture_rows
from egoloom.report.numbers import (
    SYSTEM_NAMES,
    Figure,
    figures_of,
    flatten,
    format_value,
    metric_columns,
    plain_name,
    read_figure,
    system_rows,
)
from egoloom.report.run_record import RunRecord, is_number, read_run

REPORT_NAME = "report.html"
HISTORY_KEYS = ("loss", "total", "loss_total", "top1", "accuracy", "validation_top1")
SECTIONS_WITH_A_PLACE = {"recognition", "exo2ego", "augmentation", "export", "seconds_per_stage", "notes", "notices"}


def write_report(run_folder: Path) -> Path:
    """Writes ``report.html`` into a run folder, from whatever the run left there.

    Args:
        run_folder: Holds ``metrics.json`` and optionally ``config.yaml``, ``environment.json`` and ``report/`` with
            ``reliability/*.json``, ``confusion/*.json``, ``history/*.jsonl``, ``strips/*.png`` (``strips.json`` has
            their captions), ``notes.json``, ``bench.json`` and ``sweep.json``.

    Returns:
        The path of the report.

    Raises:
        UserError: If the folder is no run folder.
    """
    record = read_run(Path(run_folder))
    path = record.folder / REPORT_NAME
    write_text(path, render(record))
    return path


def render(record: RunRecord) -> str:
    """Returns the HTML of a run."""
    import jinja2

    loader = jinja2.FunctionLoader(_template)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("report.html.j2").render(context(record))


def context(record: RunRecord) -> dict[str, Any]:
    """Returns everything the template shows."""
    metrics = record.metrics
    rows = system_rows(metrics.get("recognition"))
    mixtures = mixture_rows(metrics.get("augmentation"))
    return {
        "style": _template("report.css"),
        "title": str(metrics.get("title") or record.folder.resolve().name),
        "source": metrics.get("source"),
        "written": datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC"),
        "version": __version__,
        "notices": list(dict.fromkeys(record.notices)),
        "cards": _cards(metrics),
        "rows": rows,
        "columns": metric_columns(rows),
        "num_clips": metrics.get("num_clips"),
        "plain_name": plain_name,
        "format_value": format_value,
        "accuracy_figure": _accuracy_figure(rows),
        "reliability": _named(record.reliability, draw.reliability_figure),
        "confusion": _named(record.confusion, draw.confusion_figure),
        "history": [svg for key in HISTORY_KEYS if (svg := draw.history_figure(record.history, key))],
        "exo2ego": _labelled(metrics.get("exo2ego")),
        "strips": [(strip, _data_uri(strip.path)) for strip in record.strips],
        "mixtures": mixtures,
        "mixtures_about": metrics["augmentation"].get("about") if mixtures else None,
        "mixtures_figure": _mixtures_figure(mixtures),
        "export": _labelled(metrics.get("export")),
        "pareto": draw.pareto_figure(record.bench),
        "bench": record.bench,
        "sweeps": _sweeps(record),
        "stages": _stages(metrics.get("seconds_per_stage")),
        "others": _others(metrics),
        "config_text": record.config_text,
        "environment": flatten(record.environment),
    }


def _cards(metrics: Mapping[str, Any]) -> list[dict[str, str]]:
    """The handful of numbers that answer the reader's first questions; absent ones are left out."""
    recognition = metrics.get("recognition")
    recognition = recognition if isinstance(recognition, Mapping) else {}
    wanted = (
        (recognition.get("student"), "top1", "Distilled student", "top-1, RGB only"),
        (recognition.get("rgb_labels"), "top1", "Same network on labels", "top-1, for comparison"),
        (recognition.get("student"), "ece", "Calibration error", "ECE of the student, 15 bins"),
        (metrics.get("exo2ego"), "generated_psnr_db", "Generated ego view", "PSNR against the true view, dB"),
        (metrics.get("export"), "max_abs_diff", "Export parity", "largest difference of log-probabilities"),
        (metrics.get("export"), "latency_ms", "Exported student", "milliseconds a clip on this machine"),
    )
    cards = []
    for section, key, name, words in wanted:
        figure = read_figure(section, key) if isinstance(section, Mapping) else None
        if figure:
            cards.append({"value": figure.text, "interval": figure.interval_text, "name": name, "words": words})
    return cards


def _accuracy_figure(rows: list) -> str | None:
    points: list[tuple[str, float, float | None, float | None]] = []
    for row in rows:
        figure: Figure | None = row.figures.get("top1")
        if figure:
            scale = 100.0 if max(figure.value, figure.high or 0.0) <= 1 else 1.0
            bounds = [None if bound is None else scale * bound for bound in (figure.low, figure.high)]
            points.append((row.name, scale * figure.value, bounds[0], bounds[1]))
    return draw.intervals_figure(points, "top-1 (%)") if len(points) > 1 else None


def _mixtures_figure(rows: list[MixtureRow]) -> str | None:
    points: list[tuple[str, float, float | None, float | None]] = []
    for row in rows:
        low, high = row.limits or (None, None)
        points.append(
            (row.name, 100 * row.mean, None if low is None else 100 * low, None if high is None else 100 * high)
        )
    return draw.intervals_figure(points, "top-1 (%)") if len(points) > 1 else None


def _others(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What no section shows, also the plain values among the systems of the recognition table."""
    rest = {key: value for key, value in metrics.items() if key not in SECTIONS_WITH_A_PLACE}
    recognition = metrics.get("recognition")
    if isinstance(recognition, Mapping):
        plain = {key: value for key, value in recognition.items() if not isinstance(value, Mapping)}
        rest |= {"recognition": plain} if plain else {}
    return flatten(rest)


def _labelled(section: Any) -> list[tuple[str, Figure | str]]:
    """Every leaf of a section with its plain name: numbers with intervals, then nested ones and words."""
    numbers: list[tuple[str, Figure | str]] = [(plain_name(figure.key), figure) for figure in figures_of(section)]
    if not isinstance(section, Mapping):
        return numbers
    shown = {figure.key for figure in figures_of(section)}
    for key, value in section.items():
        if isinstance(value, str):
            numbers.append((plain_name(key), value))
        elif isinstance(value, Mapping) and key not in shown:
            numbers += [(f"{plain_name(key)}: {plain_name(name)}", text) for name, text in flatten(value)]
    return numbers


def _stages(seconds: Any) -> list[dict[str, Any]]:
    if not isinstance(seconds, Mapping):
        return []
    pairs = [(str(name), float(value)) for name, value in seconds.items() if is_number(value)]
    longest = max((value for name, value in pairs if name != "total"), default=0.0) or 1.0
    return [
        {
            "name": plain_name(name),
            "seconds": f"{value:,.1f} s",
            "percent": min(100.0, 100 * value / longest),
            "is_total": name == "total",
        }
        for name, value in pairs
    ]


def _sweeps(record: RunRecord) -> list[str]:
    figures = []
    for x_key, label in (("num_frames", "frames a clip"), ("size_px", "size (px)"), ("num_views", "views")):
        rows = [row for row in record.sweep if row.get("axis", x_key) == x_key]
        figures += [draw.sweep_figure(rows, x_key, y_key, label) for y_key in ("top1", "ece")]
    return [figure for figure in figures if figure]


def _named(contents: Mapping[str, Mapping[str, Any]], plot: Any) -> list[tuple[str, str]]:
    """Figures by plain name; a file whose content does not fit is skipped, not fatal."""
    figures = []
    order = list(SYSTEM_NAMES)
    for name, content in sorted(contents.items(), key=lambda item: (*order, item[0]).index(item[0])):
        try:
            figure = plot(name, content)
        except (KeyError, TypeError, ValueError, AttributeError):
            figure = None
        if figure:
            figures.append((plain_name(name), figure))
    return figures


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def _template(name: str) -> str:
    return resources.files("egoloom.report").joinpath("templates", name).read_text(encoding="utf-8")
