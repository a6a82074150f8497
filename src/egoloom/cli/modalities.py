"""``egoloom modalities``: computes what a store lacks."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from egoloom.clips import ClipStore
from egoloom.errors import UserError
from egoloom.modalities.registry import MODALITIES, find_modality


@dataclass(frozen=True)
class Common:
    """What all modalities share.

    Attributes:
        store: The clip store.
        num_workers: Number of processes.
        recompute: Compute existing tracks again.
        max_failed_share: Share of unreadable videos above which the work stops.
        json: Print the result as JSON.
    """

    store: Path
    num_workers: int = 1
    recompute: bool = False
    max_failed_share: float = 0.1
    json: bool = False


def overview() -> str:
    """The help page of ``egoloom modalities``."""
    width = max(map(len, MODALITIES))
    lines = ["usage: egoloom modalities NAME [NAME ...] --store STORE [options]", "", "modalities:"]
    lines += [f"  {name.ljust(width)}  {entry.summary}" for name, entry in MODALITIES.items()]
    lines += [
        "",
        "egoloom modalities NAME --help shows the options; options of one modality need it to be the only name.",
    ]
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Runs the verb."""
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(overview())
        sys.exit(0)
    names = []
    while arguments and not arguments[0].startswith("-"):
        names.append(arguments.pop(0))
    if not names:
        raise UserError("No modality is named", allowed=", ".join(MODALITIES), fix="egoloom modalities --help")
    if names == ["hands"] and "--setup" in arguments:
        _setup_hands([argument for argument in arguments if argument != "--setup"])
        return
    entries = {name: find_modality(name) for name in names}
    common, configs = _parse(names, arguments)
    store = ClipStore.open(common.store)
    reports = []
    for name, entry in entries.items():
        arguments_of_one = (configs[name],) if name in configs else ()
        report = entry.load().compute(
            store,
            *arguments_of_one,
            num_workers=common.num_workers,
            progress=not common.json,
            recompute=common.recompute,
            max_failed_share=common.max_failed_share,
        )
        reports.append(report)
        if not common.json:
            print(f"{name}: {report.num_done} computed, {report.num_skipped} skipped, {len(report.failures)} failed")
            for failure in report.failures:
                print(f"    {failure.name}: {failure.reason}")
    if common.json:
        print(json.dumps([vars(r) | {"failures": [vars(f) for f in r.failures]} for r in reports]))
    else:
        print(f"{store.path / 'media'}\nnext: egoloom doctor --store {store.path}")


def _setup_hands(arguments: list[str]) -> None:
    from egoloom.modalities import hands

    def folder(environment: Path | None = None) -> Path | None:
        """Makes the environment that MediaPipe needs for itself, about 1 GB.

        Args:
            environment: Where; default: $EGOLOOM_HOME/hands, or ~/.cache/egoloom/hands.
        """
        return environment

    made = hands.setup(tyro.cli(folder, prog="egoloom modalities hands --setup", args=arguments))
    print(f"{made}\nnext: egoloom modalities hands --store STORE")


def _parse(names: list[str], arguments: list[str]) -> tuple[Common, dict[str, object]]:
    """Several modalities take the common options; a single one takes its own config as well."""
    prog = f"egoloom modalities {' '.join(names)}"
    if len(names) > 1:
        if alone := {"objects", "depth"} & set(names):
            name = min(alone)
            raise UserError(f"{name} needs a model of yours, so it runs alone", fix=f"egoloom modalities {name} --help")
        return tyro.cli(Common, prog=prog, args=arguments, config=(tyro.conf.OmitArgPrefixes,)), {}
    entry = find_modality(names[0])
    config_class = getattr(entry.load(), entry.config)

    def both(common: Common, config: Any) -> tuple[Common, dict[str, object]]:
        return common, {names[0]: config}

    # Without prefixes the options of the two read as one list; the config's class is known only now.
    both.__annotations__["config"] = Annotated[config_class, tyro.conf.arg(name="")]
    both.__annotations__["common"] = Annotated[Common, tyro.conf.arg(name="")]
    return tyro.cli(both, prog=prog, description=entry.summary, args=arguments)
