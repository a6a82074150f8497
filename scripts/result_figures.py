"""Figures of README and docs, drawn from the run records; each carries a checksum of the figures that it shows."""

import io
import json
import zlib
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

TREATMENTS = {
    "raw_exo": "third person, as it is",
    "prior_inpainted": "ego priors, inpainted",
    "generated": "generated",
    "generated_filtered": "generated, filtered",
    "true_ego": "true ego view (bound)",
}
COLOURS = {
    "raw_exo": "#8a8f98", "prior_inpainted": "#c08a3e", "generated": "#4878a8", "generated_filtered": "#1f4e79",
    "true_ego": "#5a8f5a",
}  # fmt: skip


def checksum(record: dict[str, Any]) -> str:
    """Returns what tells a figure of this record from one of another."""
    return f"{zlib.crc32(json.dumps(record['gains'], sort_keys=True).encode()):08x}"


def augmentation_gains(record: dict[str, Any]) -> str:
    """Returns an SVG: points over labelled ego clips alone, a panel a setting, 95 % intervals over seeds."""
    gains = [gain for gain in record["gains"] if gain["compared_with"] == "ego_only"]
    settings = list(dict.fromkeys(gain["setting"] for gain in gains))
    style: dict[Any, Any] = {"svg.hashsalt": "egoloom", "font.size": 9, "axes.spines.top": False}
    style |= {"axes.spines.right": False, "svg.fonttype": "none", "font.family": "sans-serif"}
    num_rows = (len(settings) + 2) // 3
    with mpl.rc_context(style):
        figure = Figure(figsize=(9.6, 0.4 + 1.9 * num_rows), layout="constrained", facecolor="white")
        FigureCanvasSVG(figure)
        panels = figure.subplots(num_rows, min(3, len(settings)), sharex=True, sharey=True, squeeze=False).ravel()
        for axes, setting in zip(panels, settings, strict=False):
            _panel(axes, setting, {gain["treatment"]: gain for gain in gains if gain["setting"] == setting})
        for axes in panels[len(settings) :]:
            axes.set_visible(False)
        figure.supxlabel("points of top-1 accuracy over labelled ego clips alone (simulated kitchen)", fontsize=9)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    return svg[: svg.index("<svg")] + f"<!-- record {checksum(record)} -->\n" + svg[svg.index("<svg") :]


def _panel(axes: Any, title: str, gains: dict[str, dict[str, Any]]) -> None:
    names = list(TREATMENTS)
    axes.axvline(0, color="#444444", linewidth=0.8)
    for row, name in enumerate(names):
        if name not in gains:
            continue
        mean, limits = 100 * gains[name]["mean"], gains[name]["ci95"]
        if limits is not None:
            axes.hlines(row, 100 * limits[0], 100 * limits[1], color=COLOURS[name], linewidth=5, alpha=0.35)
        axes.plot(mean, row, "o", color=COLOURS[name], markersize=6)
    axes.set_yticks(range(len(names)), [TREATMENTS[name] for name in names])
    axes.set(ylim=(len(names) - 0.5, -0.5))
    axes.set_title(title, fontsize=9)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
