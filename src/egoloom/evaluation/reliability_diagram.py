"""Draws reliability diagrams."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from egoloom.evaluation.calibration import reliability, softmax


def draw_reliability(path: Path, panels: Mapping[str, tuple[np.ndarray, np.ndarray]], num_bins: int = 15) -> None:
    """Writes one panel a set of (logits ``[N, K]``, labels ``[N]``): accuracy over confidence, and where samples lie.

    Args:
        path: A ``.png`` or ``.svg`` file.
        panels: Title to logits and labels.
        num_bins: Number of bins.
    """
    from matplotlib.figure import Figure

    from egoloom.clips.files import atomic_path

    figure = Figure(figsize=(3.2 * len(panels), 3.4), layout="constrained")
    for axis, (title, (logits_NK, labels_N)) in zip(
        np.atleast_1d(figure.subplots(1, len(panels))), panels.items(), strict=True
    ):
        diagram = reliability(softmax(logits_NK), labels_N, num_bins)
        full = diagram.count > 0
        centres = (diagram.edges[:-1] + diagram.edges[1:]) / 2
        share = diagram.count[full] / diagram.count.sum()
        axis.bar(centres[full], share, width=1 / num_bins, color="0.85", label="share of samples")
        axis.plot([0, 1], [0, 1], color="0.6", linewidth=1)
        axis.plot(diagram.confidence[full], diagram.accuracy[full], marker="o", markersize=3, label="accuracy")
        axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", aspect="equal")
        axis.set_title(f"{title}: ECE {100 * diagram.expected_error:.1f} %", fontsize=9)
    figure.axes[0].legend(fontsize=7, frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
