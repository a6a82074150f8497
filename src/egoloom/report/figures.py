"""Figures as inline SVG that follow the page's light or dark theme.

Matplotlib knows no CSS variables, so figures are drawn in sentinel colours and those are replaced in the SVG text.
"""

import io
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from egoloom.report.numbers import plain_name
from egoloom.report.run_record import is_number

INK, MUTED, GRID = "#010101", "#020202", "#030303"
SERIES = ("#040401", "#040402", "#040403", "#040404", "#040405", "#040406")
_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--rule)"} | {
    colour: f"var(--series-{index + 1})" for index, colour in enumerate(SERIES)
}
MAX_CONFUSION_LABELS = 24


def draw(plot: Callable[[Any], None], *, size_in: tuple[float, float] = (4.2, 3.2), title: str = "") -> str:
    """Draws on fresh axes and returns the SVG element; ``title`` becomes its accessible name."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "egoloom",
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 9,
        "text.color": INK,
        "axes.labelcolor": MUTED,
        "axes.edgecolor": GRID,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.6,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "legend.frameon": False,
        "legend.fontsize": 8,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=size_in, layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        plot(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _themed(buffer.getvalue(), title)


def _themed(svg: str, title: str) -> str:
    svg = svg[svg.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    svg = re.sub(r"font: ([\d.]+)px[^;\"]*", r"font-size: \1px; font-family: var(--sans)", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Ids are unique in a file, but a page holds many: prefix them with a hash of the content.
    prefix = f"f{zlib.crc32(svg.encode()):08x}-"
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r"url\(#", f"url(#{prefix}", svg)
    svg = re.sub(r'href="#', f'href="#{prefix}', svg)
    # Text keeps its size: the figure may shrink with the page but never grows beyond its drawn width.
    svg = re.sub(r'width="([\d.]+)pt" height="[\d.]+pt"', _max_width, svg, count=1)
    label = title.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def _max_width(match: re.Match[str]) -> str:
    return f'style="max-width: {float(match[1]) * 96 / 72:.0f}px"'


def reliability_figure(name: str, content: Mapping[str, Any]) -> str | None:
    """Returns the reliability diagram of one model: accuracy against confidence, bars as wide as the bins.

    Args:
        name: For the accessible title.
        content: ``{"bins": [{"confidence", "accuracy", "count"}], "ece"}``.
    """
    bins = [row for row in content.get("bins", []) if is_number(row.get("accuracy")) and row.get("count", 0)]
    if not bins:
        return None
    width = 1.0 / max(1, len(content["bins"]))
    total = sum(row["count"] for row in bins)

    def plot(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        for row in bins:
            share = row["count"] / total
            axes.bar(row["confidence"], row["accuracy"], width * 0.86, color=SERIES[0], alpha=0.25 + 0.75 * share**0.5)
            gap = sorted((row["confidence"], row["accuracy"]))
            axes.vlines(row["confidence"], *gap, color=SERIES[1], linewidth=1.6)
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy", aspect="equal")
        if is_number(content.get("ece")):
            axes.text(0.04, 0.93, f"ECE {content['ece']:.3f}", fontsize=9)

    return draw(plot, size_in=(3.1, 3.0), title=f"Reliability diagram of {name}")


def confusion_figure(name: str, content: Mapping[str, Any]) -> str | None:
    """Returns a confusion matrix, rows normalised; class names are shown while they are legible."""
    matrix = content.get("matrix") or content.get("confusion") or content.get("counts")
    if not matrix or any(len(row) != len(matrix) for row in matrix):
        return None
    names = [str(item) for item in content.get("class_names") or content.get("labels") or range(len(matrix))]
    import numpy as np

    counts = np.asarray(matrix, dtype=float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)

    def plot(axes: Any) -> None:
        axes.grid(False)
        size = len(shares)
        for row, column in zip(*np.nonzero(shares), strict=True):
            colour = SERIES[0] if row == column else SERIES[1]
            axes.add_patch(_square(column, row, colour, float(shares[row, column])))
        axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), xlabel="predicted", ylabel="true", aspect="equal")
        if size <= MAX_CONFUSION_LABELS:
            axes.set_xticks(range(size), names, rotation=90, fontsize=7)
            axes.set_yticks(range(size), names, fontsize=7)

    side = 3.0 + min(2.4, 0.11 * len(shares))
    return draw(plot, size_in=(side, side), title=f"Confusion matrix of {name}")


def _square(column: float, row: float, colour: str, alpha: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, color=colour, alpha=max(0.06, alpha), linewidth=0)


def history_figure(histories: Mapping[str, Sequence[Mapping[str, Any]]], key: str) -> str | None:
    """Returns training curves of one quantity, a line a run."""
    curves = {}
    for name, rows in histories.items():
        points = [(row.get("step", row.get("epoch", i)), row[key]) for i, row in enumerate(rows) if key in row]
        points = [(x, y) for x, y in points if is_number(x) and is_number(y)]
        if len(points) >= 2:
            curves[name] = points
    if not curves:
        return None

    def plot(axes: Any) -> None:
        for index, (name, points) in enumerate(curves.items()):
            axes.plot(
                *zip(*points, strict=True), color=SERIES[index % len(SERIES)], linewidth=1.5, label=plain_name(name)
            )
        axes.set(xlabel="step", ylabel="loss" if key in {"total", "loss_total"} else key.replace("_", " "))
        axes.legend()

    return draw(plot, title=f"{key} over training")


def intervals_figure(rows: Sequence[tuple[str, float, float | None, float | None]], label: str) -> str | None:
    """Returns a dot with its interval for each system.

    Args:
        rows: ``(name, value, low, high)``; low and high may be None.
        label: Name of the axis.
    """
    if not rows:
        return None

    def plot(axes: Any) -> None:
        for index, (_, value, low, high) in enumerate(rows):
            if low is not None and high is not None:
                axes.hlines(index, low, high, color=SERIES[0], linewidth=5, alpha=0.3, capstyle="round")
            axes.plot(value, index, "o", color=SERIES[0], markersize=6)
        axes.set_yticks(range(len(rows)), [row[0] for row in rows], fontsize=9, color=INK)
        axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel=label)
        axes.grid(axis="y", visible=False)

    return draw(plot, size_in=(8.6, 0.7 + 0.36 * len(rows)), title=label)


def pareto_figure(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Returns accuracy against latency (logarithmic); area is file size, a line joins the Pareto front."""
    points = [row for row in rows if is_number(row.get("latency_ms")) and is_number(row.get("top1"))]
    if len(points) < 2:
        return None
    front = pareto_front(points)

    def plot(axes: Any) -> None:
        axes.plot(
            [row["latency_ms"] for row in front], [row["top1"] for row in front], color=SERIES[0], linewidth=1, zorder=1
        )
        for index, row in enumerate(sorted(points, key=lambda item: item["latency_ms"])):
            on_front = any(row is other for other in front)
            area = 18 + 26 * float(row.get("size_mb") or 0.0) ** 0.7
            axes.scatter(row["latency_ms"], row["top1"], s=area, color=SERIES[0 if on_front else 5], alpha=0.75)
            axes.annotate(
                str(row.get("name", "")),
                (row["latency_ms"], row["top1"]),
                xytext=(6, 5 if index % 2 == 0 else -13),  # neighbours' labels do not meet
                textcoords="offset points",
                fontsize=8,
            )
        axes.set_xscale("log")
        axes.margins(x=0.22, y=0.15)
        axes.set(xlabel="latency of one clip (ms, logarithmic)", ylabel="top-1")

    return draw(plot, size_in=(8.6, 4.0), title="Accuracy against latency")


def pareto_front(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Returns the rows that no other row beats in both latency and accuracy, fastest first."""
    front: list[Mapping[str, Any]] = []
    for row in sorted(rows, key=lambda item: (item["latency_ms"], -item["top1"])):
        if not front or row["top1"] > front[-1]["top1"]:
            front.append(row)
    return front


def sweep_figure(rows: Sequence[Mapping[str, Any]], x_key: str, y_key: str, x_label: str) -> str | None:
    """Returns a line a model of ``y_key`` against ``x_key`` (frames, pixels or views)."""
    names = list(dict.fromkeys(str(row.get("name", "model")) for row in rows))
    lines = {
        name: sorted(
            (row[x_key], row[y_key])
            for row in rows
            if str(row.get("name", "model")) == name and is_number(row.get(x_key)) and is_number(row.get(y_key))
        )
        for name in names
    }
    lines = {name: points for name, points in lines.items() if len(points) >= 2}
    if not lines:
        return None

    def plot(axes: Any) -> None:
        for index, (name, points) in enumerate(lines.items()):
            axes.plot(*zip(*points, strict=True), "o-", color=SERIES[index % len(SERIES)], markersize=4, label=name)
        axes.set_xticks(sorted({x for points in lines.values() for x, _ in points}))
        axes.set(xlabel=x_label, ylabel={"top1": "top-1", "ece": "ECE"}.get(y_key, y_key))
        axes.legend()

    return draw(plot, size_in=(4.0, 2.9), title=f"{y_key} against {x_label}")
