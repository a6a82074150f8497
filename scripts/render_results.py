"""Writes tables and figures of README and docs from the run records in ``docs/results``; none is typed by hand.

    python scripts/render_results.py            rewrite every marked block
    python scripts/render_results.py --check    exit with 1 if a block differs from its record

A block stands between ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->``.
"""

import itertools
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from generator_tables import tiny_ablation, tiny_quality
from result_figures import augmentation_gains, checksum

ROOT = Path(__file__).parents[1]
NETWORKS = {
    "rgb_labels": "RGB network, labels only",
    "flow": "teacher: flow",
    "boxes": "teacher: boxes",
    "audio": "teacher: audio",
    "imu": "teacher: IMU",
    "teacher": "ensemble of all teachers",
    "ensemble": "ensemble of all teachers",
    "omnivorous": "one network trained on all sensors, shown RGB",
    "student": "**RGB student, taught by all**",
    "student_cross_fitted": "**RGB student, cross-fitted teachers**",
    "student_with_generated": "RGB student, with generated clips in the mixture",
    "ego_only": "labelled ego clips only",
    "raw_exo": "+ third-person clips as they are",
    "prior_inpainted": "+ ego priors, holes inpainted",
    "generated": "+ generated",
    "generated_filtered": "**+ generated, filtered**",
    "true_ego": "+ true ego view of the same takes (upper bound)",
}
SETTINGS = {
    "clean": "clean labels",
    "pool": "few labels, many unlabelled",
    "noisy": "30 % wrong labels",
}


def main() -> int:
    """Rewrites or checks all blocks whose record is there."""
    is_check = sys.argv[1:] == ["--check"]
    stale = []
    for document, name, record, render in BLOCKS:
        path, source = ROOT / document, ROOT / "docs/results" / record
        if not source.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        block = f"<!-- {name}:begin -->\n{render(json.loads(source.read_text(encoding='utf-8')))}\n<!-- {name}:end -->"
        pattern = re.compile(rf"<!-- {name}:begin -->.*?<!-- {name}:end -->", re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(f"{document} has no block {name!r}")
        new = pattern.sub(lambda _, block=block: block, text)
        if new != text:
            stale.append(f"{document}: {name}")
            if not is_check:
                path.write_text(new, encoding="utf-8")
    for picture, record, draw in FIGURES:
        path, source = ROOT / picture, ROOT / "docs/results" / record
        content = json.loads(source.read_text(encoding="utf-8"))
        if not path.is_file() or checksum(content) not in path.read_text(encoding="utf-8"):
            stale.append(picture)
            if not is_check:
                path.write_text(draw(content), encoding="utf-8")
    for line in stale:
        print(("differs from its record: " if is_check else "wrote ") + line)
    return 1 if is_check and stale else 0


# -- the demo -------------------------------------------------------------------------------------------------


def demo(record: dict[str, Any]) -> str:
    """Returns the paragraph and the table of one demo run."""
    recognition, pictures = record["recognition"], record["exo2ego"]
    num_test = recognition["student"]["num_clips"]
    lines = [
        f"One run, one seed, {record['num_clips']} simulated takes, {num_test} test clips, so the intervals are wide; "
        "`make demo`, record `docs/results/demo.json`.",
        "",
        "| network | top-1 action | 95 % interval | ECE |",
        "|---|---|---|---|",
    ]
    for name in ("rgb_labels", "flow", "boxes", "audio", "imu", "teacher", "student", "student_with_generated"):
        figures = recognition[name]
        low, high = figures["top1_ci95"]
        lines.append(
            f"| {NETWORKS[name]} | {100 * figures['top1']:.1f} % | {100 * low:.0f} % – {100 * high:.0f} % "
            f"| {figures['ece']:.3f} |"
        )
    top1 = {name: figures["top1"] for name, figures in recognition.items() if isinstance(figures, dict)}
    share = 100 * recognition["generated_share"]
    lines += [
        "",
        f"Distillation {_moved(top1['student'] - top1['rgb_labels'])} over labels alone; "
        f"{record['num_generated_clips']} generated clips in the mixture (share {share:.0f} %) then "
        f"{_moved(top1['student_with_generated'] - top1['student'])}.",
        f"Generated against recorded ego view, {pictures['num_measured_takes']} {pictures['measured_on']}: ego prior "
        f"{pictures['prior_psnr_db']:.1f} dB (holes black), holes inpainted "
        f"{pictures['inpainted_prior_psnr_db']:.1f} dB, generated "
        f"{pictures['generated_psnr_db']:.1f} dB PSNR. ONNX differs from PyTorch by at most "
        f"{record['export']['max_abs_diff']:.0e} in log-probability.",
    ]
    return "\n".join(lines)


def _moved(difference: float) -> str:
    verb = "gained" if difference >= 0 else "lost"
    return f"{verb} {100 * abs(difference):.1f} points"


# -- experiments ----------------------------------------------------------------------------------------------


def distillation_summary(record: dict[str, Any]) -> str:
    """Returns one line a setting: labels against student, with the paired gain."""
    cells = {(cell["setting"], cell["treatment"]): cell["metrics"] for cell in record["cells"]}
    gains = {(g["setting"], g["treatment"], g["compared_with"], g["metric"]): g for g in record["gains"]}
    lines = [
        _setup(record, "distillation.json"),
        "",
        "| setting | labels only | all sensors (ensemble) | **student, RGB only** | gain over labels, points | ECE, "
        "labels → student |",
        "|---|---|---|---|---|---|",
    ]
    for (setting, name), ours in itertools.product(SETTINGS.items(), ("student", "student_cross_fitted")):
        if (setting, ours) not in cells:
            continue
        name += ", cross-fitted teachers" if ours == "student_cross_fitted" else ""
        labels, ensemble, student = (cells[setting, kind] for kind in ("rgb_labels", "ensemble", ours))
        tops = " | ".join(_share(metrics["top1"]) for metrics in (labels, ensemble, student))
        gain = _difference(gains[setting, ours, "rgb_labels", "top1"], 100)
        lines.append(f"| {name} | {tops} | {gain} | {labels['ece']['mean']:.3f} → {student['ece']['mean']:.3f} |")
    return "\n".join(lines)


def distillation(record: dict[str, Any]) -> str:
    """Returns the table of all cells and all gains of the student."""
    lines = [
        _setup(record, "distillation.json"),
        "",
        "| setting | trained as | top-1 action | with one view | ECE |",
        "|---|---|---|---|---|",
    ]
    lines += [_row(cell, SETTINGS, ("top1", "top1_one_view"), ("ece",)) for cell in record["cells"]]
    lines += ["", "| setting | student | against | in | difference, 95 % interval |", "|---|---|---|---|---|"]
    for gain in record["gains"]:
        scale, unit = (100, " points") if gain["metric"].startswith("top1") else (1, "")
        setting = SETTINGS.get(gain["setting"], gain["setting"])
        ours, rival = (NETWORKS[gain[key]].replace("**", "") for key in ("treatment", "compared_with"))
        lines.append(f"| {setting} | {ours} | {rival} | {METRICS[gain['metric']]} | {_difference(gain, scale)}{unit} |")
    return "\n".join(lines)


def _setup(record: dict[str, Any], name: str) -> str:
    counts = record["num_labelled_clips"]
    num_test = sum(count for split, count in counts.items() if split not in ("train", "validation"))
    seeds = sorted({len(cell["seeds"]) for cell in record["cells"]})
    shown = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"{seeds[0]}"
    return (
        f"{counts['train']} labelled training clips at most, {num_test} test clips, {shown} seeds a cell, 95 % "
        f"intervals over seeds; `{record['command']}`, record `docs/results/{name}`."
    )


METRICS = {
    "top1": "top-1",
    "ece": "ECE, calibrated (lower is better)",
    "ece_uncalibrated": "ECE before temperature scaling",
    "nll": "NLL (lower is better)",
    "top1_one_view": "top-1 with one view",
    "top1_one_view against top1": "top-1 with one view, against all views",
}


def augmentation_summary(record: dict[str, Any]) -> str:
    """Returns top-1 of every treatment, one column a setting, with the gain over labelled clips alone."""
    cells = {(cell["setting"], cell["treatment"]): cell["metrics"]["top1"] for cell in record["cells"]}
    gains = {(g["setting"], g["treatment"]): g for g in record["gains"] if g["compared_with"] == "ego_only"}
    settings = list(dict.fromkeys(setting for setting, _ in cells))
    lines = [
        _setup(record, "augmentation.json"),
        "",
        "| trained on | " + " | ".join(settings) + " |",
        "|---" * (1 + len(settings)) + "|",
    ]
    for treatment in dict.fromkeys(treatment for _, treatment in cells):
        shown = []
        for setting in settings:
            cell, gain = cells.get((setting, treatment)), gains.get((setting, treatment))
            text = "–" if cell is None else f"{100 * cell['mean']:.1f} %"
            shown.append(text if gain is None else f"{text} ({_difference(gain, 100)})")
        lines.append(f"| {NETWORKS[treatment]} | " + " | ".join(shown) + " |")
    return "\n".join([*lines, "", "In brackets: points over labelled ego clips only, with the 95 % interval."])


def augmentation(record: dict[str, Any]) -> str:
    """Returns the table of all cells, and gains over labelled clips alone and over raw third-person clips."""
    lines = [
        _setup(record, "augmentation.json"),
        "",
        "| setting | trained on | seeds | top-1 action | ECE |",
        "|---|---|---|---|---|",
    ]
    for cell in record["cells"]:
        row = _row(cell, {}, ("top1",), ("ece",)).split(" | ", 2)
        lines.append(f"{row[0]} | {row[1]} | {len(cell['seeds'])} | {row[2]}")
    lines += ["", "| setting | gain of | over ego only | over raw third person |", "|---|---|---|---|"]
    gains = {(gain["setting"], gain["treatment"], gain["compared_with"]): gain for gain in record["gains"]}
    for setting, treatment in dict.fromkeys((cell["setting"], cell["treatment"]) for cell in record["cells"]):
        found = [gains.get((setting, treatment, rival)) for rival in ("ego_only", "raw_exo")]
        if treatment not in ("ego_only", "raw_exo") and any(found):
            shown = [_difference(gain, 100) if gain else "–" for gain in found]
            lines.append(f"| {setting} | {NETWORKS[treatment].replace('+ ', '')} | {shown[0]} | {shown[1]} |")
    return "\n".join(lines)


def sweep(record: dict[str, Any]) -> str:
    """Returns accuracy and calibration over frames, size and views, two columns a network."""
    rows = record["rows"]
    names = list(dict.fromkeys(row["name"] for row in rows))
    # All three series pass through the protocol that was trained; it is shown once.
    cells = {(row["num_frames"], row["size_px"], row["num_views"], row["name"]): row for row in rows}
    clips = rows[0]["num_clips"]
    lines = [
        f"{clips} clips of the split {record['split']}, one seed, 95 % bootstrap intervals over clips; "
        f"`{record['command']}`, record `docs/results/sweep.json`.",
        "",
        "| frames | px | views | " + " | ".join(f"{name}: top-1 | ECE" for name in names) + " |",
        "|---" * (3 + 2 * len(names)) + "|",
    ]
    for key in dict.fromkeys(key[:-1] for key in cells):
        shown = [f"{_top1(cells[*key, name])} | {cells[*key, name]['ece']:.3f}" for name in names]
        lines.append("| " + " | ".join([*map(str, key), *shown]) + " |")
    return "\n".join(lines)


def _top1(row: dict[str, Any]) -> str:
    low, high = row["top1_ci95"]
    return f"{100 * row['top1']:.1f} % [{100 * low:.0f}, {100 * high:.0f}]"


def _row(cell: dict[str, Any], settings: dict[str, str], shares: tuple[str, ...], plain: tuple[str, ...]) -> str:
    metrics, treatment = cell["metrics"], cell["treatment"]
    shown = [_share(metrics[name]) for name in shares] + [f"{metrics[name]['mean']:.3f}" for name in plain]
    setting = settings.get(cell["setting"], cell["setting"])
    return f"| {setting} | {NETWORKS.get(treatment, treatment)} | " + " | ".join(shown) + " |"


def _share(metric: dict[str, Any]) -> str:
    mean, limits = 100 * metric["mean"], metric["ci95"]
    return f"{mean:.1f} %" if limits is None else f"{mean:.1f} % ± {50 * (limits[1] - limits[0]):.1f}"


def _difference(gain: dict[str, Any], scale: float) -> str:
    digits = 1 if scale == 100 else 3
    shown = f"{scale * gain['mean']:+.{digits}f}"
    if gain["ci95"] is None:
        return shown
    low, high = (f"{scale * value:+.{digits}f}" for value in gain["ci95"])
    return f"{shown} [{low}, {high}]"


Renderer = Callable[[dict[str, Any]], str]
BLOCKS: tuple[tuple[str, str, str, Renderer], ...] = (
    ("README.md", "demo", "demo.json", demo),
    ("README.md", "distillation", "distillation.json", distillation_summary),
    ("docs/distillation.md", "experiment", "distillation.json", distillation),
    ("README.md", "augmentation", "augmentation.json", augmentation_summary),
    ("docs/augmentation.md", "experiment", "augmentation.json", augmentation),
    ("docs/deployment.md", "sweep", "sweep.json", sweep),
    ("docs/exo2ego.md", "tiny", "tiny_egox.json", tiny_quality),
    ("docs/exo2ego.md", "ablation", "tiny_egox_ablation.json", tiny_ablation),
)
FIGURES: tuple[tuple[str, str, Renderer], ...] = (
    ("docs/images/augmentation.svg", "augmentation.json", augmentation_gains),
)

if __name__ == "__main__":
    sys.exit(main())
