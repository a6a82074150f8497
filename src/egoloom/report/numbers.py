"""Turns nested metrics into the tables of the report: names in plain words, values with units and intervals."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from egoloom.report.run_record import is_number

SYSTEM_NAMES = {
    "rgb_labels": "RGB network on labels",
    "student": "Distilled RGB student",
    "student_with_generated": "Distilled student + generated clips",
    "teacher": "Multimodal teacher",
    "chance": "Chance",
    "flow": "Teacher: optical flow",
    "boxes": "Teacher: hand and object boxes",
    "audio": "Teacher: sound",
    "spectrogram": "Teacher: sound",
    "imu": "Teacher: motion sensor",
}
METRIC_NAMES = {
    "top1": "top-1",
    "top5": "top-5",
    "ece": "ECE",
    "ece_uncalibrated": "ECE before temperature",
    "nll": "NLL",
    "brier": "Brier",
    "psnr_db": "PSNR (dB)",
    "max_abs_diff": "largest difference of log-probabilities",
    "top1_agreement": "agreement of top-1",
    "latency_ms": "latency of one clip (ms)",
    "num_clips": "clips",
    "prior_psnr_db": "ego prior, PSNR (dB)",
    "generated_psnr_db": "generated, PSNR (dB)",
    "num_generated_clips": "generated clips",
    "max_generated_share": "largest share of generated clips",
}
PERCENT_METRICS = {"top1", "top5", "accuracy", "top1_agreement", "mean_class_accuracy"}
LOW_SUFFIXES, HIGH_SUFFIXES = ("_low", "_lower", "_ci_low"), ("_high", "_upper", "_ci_high")
INTERVAL_SUFFIXES = ("_ci95", "_ci", "_interval")
INTERVAL_KEYS = ("ci95", "ci", "interval", "confidence_interval")
VALUE_KEYS = ("value", "mean", "estimate")


@dataclass(frozen=True)
class Figure:
    """One number, with its interval where the run gives one."""

    key: str
    value: float
    low: float | None = None
    high: float | None = None
    num_clips: int | None = None

    @property
    def text(self) -> str:
        """The value as shown."""
        return format_value(self.key, self.value)

    @property
    def interval_text(self) -> str:
        """The interval as shown, empty if there is none."""
        if self.low is None or self.high is None:
            return ""
        return f"{format_value(self.key, self.low)} – {format_value(self.key, self.high)}"


@dataclass(frozen=True)
class SystemRow:
    """One row of the recognition table."""

    key: str
    name: str
    figures: dict[str, Figure]
    num_clips: int | None = None


def plain_name(key: str) -> str:
    """Returns a key in plain words."""
    return METRIC_NAMES.get(key) or SYSTEM_NAMES.get(key) or key.replace("_", " ")


def format_value(key: str, value: Any) -> str:
    """Returns a number as people read it: percent for accuracies, few digits for the rest."""
    if not is_number(value):
        return "–" if value is None or isinstance(value, float) else str(value)
    if key in PERCENT_METRICS and 0 <= value <= 1:
        return f"{100 * value:.1f} %"
    if isinstance(value, int):
        return f"{value:,}"
    if key.endswith("_ms"):
        return f"{value:.1f}" if value >= 1 else f"{value:.3f}"
    if value != 0 and abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:,.3f}" if abs(value) < 10 else f"{value:,.1f}"


def read_figure(section: Mapping[str, Any], key: str) -> Figure | None:
    """Returns a number of a section with its interval, whichever of the usual spellings the run used.

    Understood: ``{"top1": 0.6}``; ``{"top1": {"value": 0.6, "low": 0.5, "high": 0.7}}``, the same with a pair under
    ``ci95``, ``ci`` or ``interval``; and siblings such as ``top1_ci95: [0.5, 0.7]`` or ``top1_low`` and ``top1_high``.
    """
    content = section.get(key)
    num_clips = section.get("num_clips")
    if isinstance(content, Mapping):
        value = next((content[name] for name in VALUE_KEYS if is_number(content.get(name))), None)
        if value is None:
            return None
        pair = next((content[name] for name in INTERVAL_KEYS if name in content), None)
        low, high = _pair(pair) or (content.get("low"), content.get("high"))
        num_clips = content.get("num_clips", num_clips)
    elif is_number(content):
        value = content
        pair = next((section[key + suffix] for suffix in INTERVAL_SUFFIXES if key + suffix in section), None)
        nested = next((section[name] for name in INTERVAL_KEYS if isinstance(section.get(name), Mapping)), {})
        low, high = _pair(pair) or _pair(nested.get(key)) or (_first(section, key, LOW_SUFFIXES), None)
        high = _first(section, key, HIGH_SUFFIXES) if high is None else high
    else:
        return None
    has_interval = is_number(low) and is_number(high)
    return Figure(
        key,
        value,  # type: ignore[arg-type]
        float(low) if has_interval else None,  # type: ignore[arg-type]
        float(high) if has_interval else None,  # type: ignore[arg-type]
        int(num_clips) if is_number(num_clips) else None,  # type: ignore[arg-type]
    )


def figures_of(section: Any) -> list[Figure]:
    """Returns all numbers of one section in their order; bounds of intervals are not numbers of their own."""
    if not isinstance(section, Mapping):
        return []
    figures = [read_figure(section, key) for key in section if not _is_bound(key, section)]
    return [figure for figure in figures if figure is not None]


def system_rows(recognition: Any) -> list[SystemRow]:
    """Returns the rows of the recognition table: the known systems first, then all others that hold numbers."""
    if not isinstance(recognition, Mapping):
        return []
    order = ["chance", "rgb_labels", "teacher", "student", "student_with_generated"]
    keys = [key for key in order if key in recognition] + [key for key in recognition if key not in order]
    rows = []
    for key in keys:
        figures = {figure.key: figure for figure in figures_of(recognition[key])}
        clips = figures.pop("num_clips", None)
        if figures:
            counts = [figure.num_clips for figure in figures.values() if figure.num_clips is not None]
            rows.append(
                SystemRow(key, plain_name(key), figures, int(clips.value) if clips else counts[0] if counts else None)
            )
    return rows


def metric_columns(rows: list[SystemRow]) -> list[str]:
    """Returns the metrics of a table in a fixed order, only those that some row has."""
    known = ["top1", "top5", "ece", "nll", "brier"]
    present = dict.fromkeys(key for row in rows for key in row.figures)
    return [key for key in known if key in present] + [key for key in present if key not in known]


def flatten(content: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Returns every leaf of nested metrics as (dotted key, shown value)."""
    if isinstance(content, Mapping):
        return [pair for key, value in content.items() for pair in flatten(value, f"{prefix}{key}.")]
    key = prefix.rstrip(".")
    if isinstance(content, list):
        shown = ", ".join(format_value("", item) for item in content[:12])
        return [(key, shown + (" …" if len(content) > 12 else ""))]
    return [(key, format_value(key.rsplit(".", 1)[-1], content))]


def _pair(value: Any) -> tuple[float, float] | None:
    if isinstance(value, Mapping):
        value = [value.get("low"), value.get("high")]
    if isinstance(value, list | tuple) and len(value) == 2 and all(is_number(item) for item in value):
        return value[0], value[1]
    return None


def _first(section: Mapping[str, Any], key: str, suffixes: tuple[str, ...]) -> Any:
    return next((section[key + suffix] for suffix in suffixes if key + suffix in section), None)


def _is_bound(key: str, section: Mapping[str, Any]) -> bool:
    if key in INTERVAL_KEYS:
        return True
    suffixes = (*LOW_SUFFIXES, *HIGH_SUFFIXES, *INTERVAL_SUFFIXES)
    return any(key.endswith(suffix) and key.removesuffix(suffix) in section for suffix in suffixes)
