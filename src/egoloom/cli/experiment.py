"""``egoloom experiment``: a controlled comparison over several seeds, with its record and table."""

import importlib
import json as json_module
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from egoloom.errors import UserError

EXPERIMENTS = {"distillation": "DistillationExperiment", "augmentation": "AugmentationExperiment"}
USAGE = """usage: egoloom experiment distillation [--out FOLDER] [--record FILE] [options]
       egoloom experiment augmentation [--out FOLDER] [--record FILE] [options]

An interrupted experiment continues with the same command. egoloom experiment NAME --help shows the options."""


@dataclass
class Common:
    """Runs an experiment on the built-in kitchen and writes its record.

    Attributes:
        out: Folder of all runs; default: runs/experiments/NAME.
        record: The record; default: record.json in that folder.
        json: Print the record as one JSON line.
    """

    out: Path | None = None
    record: Path | None = None
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False


def main(arguments: list[str]) -> None:
    """Parses, runs and prints the tables."""
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(USAGE)
        return
    name, *rest = arguments
    if name not in EXPERIMENTS:
        raise UserError(f"There is no experiment {name!r}", allowed=", ".join(EXPERIMENTS), fix="egoloom experiment")
    module = importlib.import_module(f"egoloom.recipes.experiments.{name}")
    common, config = parse(name, getattr(module, EXPERIMENTS[name]), rest)
    out = common.out or Path("runs/experiments") / name
    path = common.record or out / "record.json"
    content = module.run(config, out, path)
    if common.json:
        print(json_module.dumps(content))
        return
    from egoloom.recipes.experiments.records import markdown_tables

    print(markdown_tables(content))
    print(f"wrote {path}")


def parse(name: str, config_class: Any, arguments: list[str]) -> tuple[Common, Any]:
    """Returns the common options and the experiment's own."""

    def both(common: Any, config: Any) -> tuple[Common, Any]:
        return common, config

    unnamed = tyro.conf.arg(name="")
    both.__annotations__ = {"common": Annotated[Common, unnamed], "config": Annotated[config_class, unnamed]}
    return tyro.cli(both, prog=f"egoloom experiment {name}", args=arguments, description="Runs the experiment.")
