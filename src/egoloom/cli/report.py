"""``egoloom report``: writes the HTML report of a run again."""

from pathlib import Path
from typing import Annotated

import tyro

from egoloom.report import write_report


def report(run: Annotated[Path, tyro.conf.Positional]) -> None:
    """Writes report.html into a run folder, from the numbers and pictures that the run left there.

    Args:
        run: The run folder, for instance runs/demo.
    """
    path = write_report(run)
    print(f"Report: {path}")
    print(f"Next: open {path} in a browser")


def main(arguments: list[str]) -> None:
    """Runs the verb."""
    tyro.cli(report, prog="egoloom report", args=arguments)
