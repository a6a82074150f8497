"""Figures and the self-contained HTML report."""

from pathlib import Path


def write_report(run_folder: Path) -> Path:
    """Writes ``report.html`` into a run folder and returns its path; see `egoloom.report.html.write_report`."""
    from egoloom.report.html import write_report as write

    return write(run_folder)


__all__ = ["write_report"]
