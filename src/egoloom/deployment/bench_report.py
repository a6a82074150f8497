"""Shows and stores the figures of ``egoloom bench``."""

import json
from collections.abc import Sequence
from pathlib import Path

from egoloom.clips.files import write_text
from egoloom.deployment.bench import BenchRow
from egoloom.deployment.sweep import SweepRow

MIN_WIDTH = 132


def print_table(rows: Sequence[BenchRow], swept: Sequence[SweepRow]) -> None:
    """Prints the figures as tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.width = max(console.width, MIN_WIDTH)  # a table of numbers broken into syllables helps nobody
    table = Table(
        "model", title="On this machine", caption="energy is an estimate: processor time x stated watts a core"
    )
    for name in (
        "p50 ms",
        "p95 ms",
        "clips/s 1 / 2 thr",
        "stream fps",
        "start s",
        "peak MB",
        "MB",
        "GMAC",
        "mJ est.",
        "top-1",
        "ECE",
    ):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row.name,
            f"{row.latency_ms:.1f}",
            f"{row.latency_p95_ms:.1f}",
            f"{row.clips_per_s_one_thread:.0f} / {row.clips_per_s_two_threads:.0f}",
            _shown(row.stream_fps_one_thread, ".0f"),
            _shown(row.startup_s, ".2f"),
            _shown(row.peak_memory_mb, ".0f"),
            f"{row.size_mb:.2f}",
            _shown(row.gmacs_per_clip, ".2f"),
            f"{row.energy_mj_estimate:.0f}",
            _shown(row.top1, ".1%"),
            _shown(row.ece, ".3f"),
        )
    console.print(table)
    if not swept:
        return
    table = Table(
        "network",
        "differs in",
        "frames",
        "px",
        "views",
        "top-1",
        "ECE",
        "clips",
        title="Fewer frames, smaller pictures",
    )
    for row in swept:
        figures = (row.num_frames, row.size_px, row.num_views, f"{row.top1:.1%}", f"{row.ece:.3f}", row.num_clips)
        table.add_row(row.name, row.axis, *map(str, figures))
    console.print(table)


def _shown(value: float | None, pattern: str) -> str:
    return "-" if value is None else format(value, pattern)


def write_bench(out: Path, rows: Sequence[BenchRow], swept: Sequence[SweepRow]) -> Path:
    """Writes ``report/bench.json`` (and ``report/sweep.json``) into a run folder and renews its report.

    Returns:
        The path of ``bench.json``.
    """
    path = out / "report" / "bench.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps([row.to_dict() for row in rows], indent=1) + "\n")
    if swept:
        write_text(path.with_name("sweep.json"), json.dumps([row.to_dict() for row in swept], indent=1) + "\n")
    if (out / "metrics.json").is_file() or (out / "config.yaml").is_file():
        from egoloom.report import write_report

        write_report(out)
    return path


def write_sweep_record(
    path: Path, models: Sequence[Path], swept: Sequence[SweepRow], split: str, max_clips: int
) -> None:
    """Writes a sweep with the command that made it, as ``docs/results`` keeps it."""
    runs = " ".join(map(str, models))
    command = f"egoloom bench {runs} --sweep --no-all-targets --max-clips {max_clips} --record {path}"
    content = {"command": command, "split": split, "rows": [row.to_dict() for row in swept]}
    write_text(path, json.dumps(content, indent=1) + "\n")
