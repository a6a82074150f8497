"""The table of an augmentation experiment: what was added to the recorded clips, and what it changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from egoloom.report.numbers import format_value
from egoloom.report.run_record import is_number

BASELINE = "ego_only"
TREATMENT_NAMES = {
    "ego_only": "Recorded ego clips alone",
    "raw_exo": "+ third-person clips as they are",
    "prior_inpainted": "+ ego priors, holes inpainted",
    "generated": "+ generated ego clips",
    "generated_filtered": "+ generated ego clips, filtered",
    "true_ego": "+ the true ego view of the same takes (upper bound)",
}


@dataclass(frozen=True)
class MixtureRow:
    """One row: a treatment, its accuracy over seeds, and its gain over recorded clips alone, all as shown."""

    setting: str
    key: str
    name: str
    num_added: str
    top1: str
    interval: str
    gain: str
    gain_interval: str
    mean: float
    limits: tuple[float, float] | None


def mixture_rows(record: Any) -> list[MixtureRow]:
    """Returns the rows of an experiment's record in its order; what does not look like one gives no rows.

    Args:
        record: ``cells`` with ``setting``, ``treatment``, ``mean``, ``ci95``, ``metrics``, and ``gains``.
    """
    cells = record.get("cells") if isinstance(record, Mapping) else None
    rows = []
    for cell in cells if isinstance(cells, Sequence) else []:
        if not isinstance(cell, Mapping) or not is_number(cell.get("mean")):
            continue
        key, setting = str(cell.get("treatment")), str(cell.get("setting"))
        added = _mean_of(cell, "num_added")
        limits, gain = _pair(cell.get("ci95")), _gain(record, setting, key)
        rows.append(
            MixtureRow(
                setting,
                key,
                TREATMENT_NAMES.get(key, key.replace("_", " ")),
                "–" if added is None else f"{added:,.0f}",
                format_value("top1", cell["mean"]),
                "" if limits is None else " – ".join(format_value("top1", max(0.0, min(1.0, end))) for end in limits),
                "" if gain is None else f"{100 * gain['mean']:+.1f}",
                "" if gain is None or not (ends := _pair(gain.get("ci95"))) else _points(ends),
                float(cell["mean"]),
                limits,
            )
        )
    return rows


def _gain(record: Mapping[str, Any], setting: str, treatment: str) -> Mapping[str, Any] | None:
    for gain in record.get("gains") or []:
        wanted = {"setting": setting, "treatment": treatment, "compared_with": BASELINE}
        if isinstance(gain, Mapping) and all(gain.get(name) == value for name, value in wanted.items()):
            return gain if is_number(gain.get("mean")) else None
    return None


def _mean_of(cell: Mapping[str, Any], metric: str) -> float | None:
    metrics = cell.get("metrics")
    entry = metrics.get(metric) if isinstance(metrics, Mapping) else None
    value = entry.get("mean") if isinstance(entry, Mapping) else None
    return float(value) if is_number(value) else None  # type: ignore[arg-type]


def _pair(value: Any) -> tuple[float, float] | None:
    if isinstance(value, Sequence) and len(value) == 2 and all(map(is_number, value)):
        return float(value[0]), float(value[1])
    return None


def _points(limits: tuple[float, float]) -> str:
    return f"{100 * limits[0]:+.1f} – {100 * limits[1]:+.1f}"
