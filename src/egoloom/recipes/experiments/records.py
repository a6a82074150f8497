"""The record of an experiment: one cell a (setting, treatment), its values over seeds, and paired gains.

All metrics are fractions of 1 (or nats). Intervals are Student's t over seeds; gains are differences between two cells
with the same seed, so what a seed changes for both (data, noise) drops out.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from egoloom.clips.files import write_text
from egoloom.errors import UserError
from egoloom.evaluation.significance import Interval, seed_interval

PRIMARY = "top1"


@dataclass
class ExperimentRecord:
    """Values of an experiment, as they come in.

    Attributes:
        name: The experiment.
        about: What a reader must know: data, command, sizes, budget.
        values: (setting, treatment) to seed to metric to value.
    """

    name: str
    about: dict[str, Any]
    values: dict[tuple[str, str], dict[int, dict[str, float]]] = field(default_factory=dict)

    def add(self, setting: str, treatment: str, seed: int, metrics: dict[str, float]) -> None:
        """Adds the figures of one run."""
        self.values.setdefault((setting, treatment), {})[seed] = metrics

    def interval(self, setting: str, treatment: str, metric: str = PRIMARY) -> Interval:
        """Returns the mean over seeds with its 95 % interval."""
        runs = self.values[setting, treatment]
        return seed_interval([runs[seed][metric] for seed in sorted(runs)])

    def gain(
        self, setting: str, treatment: str, compared_with: str, metric: str = PRIMARY, other_metric: str | None = None
    ) -> dict[str, Any]:
        """Returns the paired difference of two cells over their common seeds.

        Args:
            setting: The setting of both.
            treatment: Whose gain.
            compared_with: Over whom.
            metric: Of the treatment.
            other_metric: Of the other cell, where it is another one (one view against all views).

        Raises:
            ValueError: If they have no seed in common.
        """
        ours, theirs = self.values[setting, treatment], self.values[setting, compared_with]
        seeds = sorted(set(ours) & set(theirs))
        if not seeds:
            raise ValueError(f"{treatment} and {compared_with} have no seed in common in {setting}")
        differences = [ours[seed][metric] - theirs[seed][other_metric or metric] for seed in seeds]
        found = seed_interval(differences)
        return {
            "setting": setting,
            "treatment": treatment,
            "compared_with": compared_with,
            "metric": metric if other_metric in (None, metric) else f"{metric} against {other_metric}",
            "mean": found.value,
            "ci95": _limits(found),
            "values": differences,
            "seeds": seeds,
        }

    def to_dict(self, gains: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
        """Returns the record as plain values."""
        cells = []
        for setting, treatment in self.values:
            runs = self.values[setting, treatment]
            names = [name for name in next(iter(runs.values())) if all(name in run for run in runs.values())]
            metrics = {}
            for name in names:
                found = self.interval(setting, treatment, name)
                values = [runs[seed][name] for seed in sorted(runs)]
                metrics[name] = {"mean": found.value, "ci95": _limits(found), "values": values}
            cell = {"setting": setting, "treatment": treatment, "seeds": sorted(runs)}
            cells.append(cell | {key: metrics[PRIMARY][key] for key in ("mean", "ci95")} | {"metrics": metrics})
        return {"experiment": self.name, **self.about, "cells": cells, "gains": list(gains)}

    def save(self, path: Path, gains: Sequence[dict[str, Any]] = ()) -> None:
        """Writes the record, whole or not at all."""
        write_text(path, json.dumps(self.to_dict(gains), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "ExperimentRecord":
        """Reads what ``save`` wrote.

        Raises:
            UserError: If the file is no record.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            about = {k: v for k, v in content.items() if k not in {"experiment", "cells", "gains"}}
            record = cls(content["experiment"], about)
            for cell in content["cells"]:
                for index, seed in enumerate(cell["seeds"]):
                    metrics = {name: entry["values"][index] for name, entry in cell["metrics"].items()}
                    record.add(cell["setting"], cell["treatment"], seed, metrics)
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise UserError(f"{path} is no record of an experiment: {error!r}") from error
        return record


def _limits(interval: Interval) -> list[float] | None:
    """Returns the limits, or None for a single seed, which has no interval."""
    return None if interval.low == float("-inf") else [interval.low, interval.high]


def percent(mean: float, limits: list[float] | None) -> str:
    """Returns ``41.2 % [38.0, 44.4]``."""
    shown = f"{100 * mean:.1f} %"
    return shown if limits is None else f"{shown} [{100 * limits[0]:.1f}, {100 * limits[1]:.1f}]"


def points(mean: float, limits: list[float] | None) -> str:
    """Returns ``+3.1 [0.4, 5.8]`` in percentage points."""
    shown = f"{100 * mean:+.1f}"
    return shown if limits is None else f"{shown} [{100 * limits[0]:+.1f}, {100 * limits[1]:+.1f}]"


def markdown_tables(content: dict[str, Any], *, columns: Sequence[str] = (PRIMARY, "ece")) -> str:
    """Returns cells and gains of a record as two Markdown tables."""
    lines = ["| setting | trained as | " + " | ".join(columns) + " |", "|---" * (2 + len(columns)) + "|"]
    for cell in content["cells"]:
        metrics = cell["metrics"]
        shown = [
            "–"
            if name not in metrics
            else percent(metrics[name]["mean"], metrics[name]["ci95"])
            if name.startswith("top")
            else f"{metrics[name]['mean']:.3f}"
            for name in columns
        ]
        lines.append(f"| {cell['setting']} | {cell['treatment']} | " + " | ".join(shown) + " |")
    if content["gains"]:
        lines += ["", "| setting | gain of | over | in | points, 95 % interval |", "|---|---|---|---|---|"]
        for gain in content["gains"]:
            shown = points(gain["mean"], gain["ci95"])
            what = (gain["setting"], gain["treatment"], gain["compared_with"], gain["metric"], shown)
            lines.append("| " + " | ".join(what) + " |")
    return "\n".join(lines)
