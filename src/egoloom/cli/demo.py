"""``egoloom demo``: the whole loop once, on the built-in kitchen or on real recordings."""

import json as json_module
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from egoloom.errors import UserError
from egoloom.recipes.demo.config import DemoConfig


@dataclass
class Arguments:
    """Runs the whole loop once and writes a report.

    Attributes:
        out: The run folder; the same command continues an interrupted run there.
        json: Print the metrics as one JSON line.
    """

    out: Path = Path("runs/demo")
    json: bool = False
    config: Annotated[DemoConfig, tyro.conf.arg(name="")] = field(default_factory=DemoConfig)


def main(arguments: list[str]) -> None:
    """Parses, runs and shows the figures."""
    try:
        parsed = tyro.cli(Arguments, args=arguments, prog="egoloom demo")
    except ValidationError as error:
        from egoloom.recipes.run_config import describe

        raise UserError(describe(error), fix="egoloom demo --help") from error
    if parsed.config.data is not None and not parsed.config.data.is_dir():
        raise UserError(f"There is no folder {parsed.config.data}", fix="make demo DATA=FOLDER, or leave DATA out")
    from egoloom.recipes.demo.run import run_demo

    metrics = run_demo(parsed.config, parsed.out)
    if parsed.json:
        print(json_module.dumps(metrics))
        return
    show(metrics)
    print(f"wrote {parsed.out / 'metrics.json'}")
    print(f"open {parsed.out / 'report.html'}")
    print(f"next: egoloom predict {parsed.out / 'student.onnx'} VIDEO.mp4")


def show(metrics: dict) -> None:
    """Prints the figures as a table."""
    table = Table("network", "sees", "top-1", "ECE", title=f"{metrics['source']}, {metrics['num_clips']} ego clips")
    sees = {"rgb_labels": "RGB", "teacher": "all sensors", "student": "RGB", "student_with_generated": "RGB"}
    for name, figures in metrics["recognition"].items():
        if isinstance(figures, dict):
            table.add_row(name, sees.get(name, name), f"{figures['top1']:.1%}", f"{figures['ece']:.3f}")
    Console().print(table)
    pictures = metrics["exo2ego"]
    print(
        f"ego prior {pictures['prior_psnr_db']:.1f} dB, holes inpainted {pictures['inpainted_prior_psnr_db']:.1f} dB, "
        f"generated {pictures['generated_psnr_db']:.1f} dB against the recorded ego view ({pictures['measured_on']})"
    )
    if "augmentation" in metrics:
        show_mixtures(metrics["augmentation"])
    print(f"ONNX against PyTorch: {metrics['export']['max_abs_diff']:.1e} at most")


def show_mixtures(record: dict) -> None:
    """Prints the small augmentation experiment as a table."""
    from egoloom.report.mixtures import mixture_rows

    table = Table("trained on", "added", "top-1", "gain (points)", title=f"small experiment: {record['about']}")
    for row in mixture_rows(record):
        gain = f"{row.gain} [{row.gain_interval}]" if row.gain_interval else row.gain or "–"
        table.add_row(row.name, row.num_added, row.top1, gain)
    Console().print(table)
