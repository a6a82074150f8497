"""``egoloom kitchen``: makes the built-in ego and exo data set, or a contact sheet of its actions."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import ValidationError

from egoloom.errors import UserError


@dataclass
class KitchenArguments:
    """Makes the built-in kitchen: synchronised ego and exo video with every modality and its ground truth."""

    out: Path = Path("clips/kitchen")
    """Folder of the clip store, or of the sheets with --preview."""
    num_clips: int = 300
    """Takes in the finished store; each gives one ego and one exo clip."""
    seed: int = 0
    """The same seed and settings always give the same clips."""
    size: int = 112
    """Side of the square ego frame in pixels."""
    exo_size: Annotated[tuple[int, int] | None, tyro.conf.arg(metavar="WIDTH HEIGHT")] = None
    """Width and height of the exo frame; default: the ego frame's."""
    fps: int = 15
    """Frames a second."""
    duration_s: float = 2.0
    """Length of a clip in seconds."""
    anti_aliasing: bool = True
    """2 x 2 samples at edges."""
    label_noise: float = 0.0
    """Share of training labels that are replaced by a wrong one."""
    num_kitchens: int = 6
    """Kitchens, each with its own layout and colours; the last quarter occurs in the split unseen_kitchen alone."""
    num_participants: int = 8
    """People; the last quarter occurs in the split unseen_participant alone."""
    clean_sensors: bool = False
    """Perfect sensors: no noise, blur, misses or background."""
    monocular_depth: bool = False
    """Store depth as a monocular network gives it (the true depth stays beside it)."""
    workers: int = 0
    """Processes; 0 takes one per processor."""
    preview: bool = False
    """Write contact sheets, one strip per action, instead of a store."""


def settings_of(arguments: KitchenArguments):
    """Returns the kitchen's settings.

    Raises:
        UserError: If a value is out of range.
    """
    from egoloom.kitchen.settings import KitchenSettings, NoiseSettings

    exo = arguments.exo_size or (arguments.size, arguments.size)
    noise = NoiseSettings.none() if arguments.clean_sensors else NoiseSettings()
    try:
        return KitchenSettings(
            seed=arguments.seed,
            ego_size_px=arguments.size,
            exo_width_px=exo[0],
            exo_height_px=exo[1],
            fps=arguments.fps,
            duration_s=arguments.duration_s,
            anti_aliasing=arguments.anti_aliasing,
            label_noise=arguments.label_noise,
            num_kitchens=arguments.num_kitchens,
            num_participants=arguments.num_participants,
            monocular_depth=arguments.monocular_depth,
            noise=noise,
        )
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{name} = {first.get('input')!r} is not possible: {first['msg']}", fix="egoloom kitchen --help"
        ) from error


def main(arguments: list[str]) -> None:
    """Runs the verb."""
    options = tyro.cli(KitchenArguments, prog="egoloom kitchen", args=arguments)
    settings = settings_of(options)
    if options.preview:
        from egoloom.kitchen.preview import write_previews

        paths = write_previews(options.out, settings)
        print("\n".join(map(str, paths)))
        print("next: egoloom kitchen --num-clips 300 --out clips/kitchen")
        return
    _make(options, settings)


def _make(options: KitchenArguments, settings) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from egoloom.kitchen.store import make_store

    workers = options.workers or min(os.cpu_count() or 1, 16)
    with Progress(
        TextColumn("kitchen"), BarColumn(), MofNCompleteColumn(), TextColumn("takes"), TimeRemainingColumn()
    ) as progress:
        task = progress.add_task("takes", total=options.num_clips)
        store = make_store(
            options.out,
            num_clips=options.num_clips,
            settings=settings,
            num_workers=workers,
            on_progress=lambda done, total: progress.update(task, completed=done),
        )
    print(f"{store.path}: {len(store.clips)} clips ({len(store.clips) // 2} takes, ego and exo)")
    print(f"next: egoloom view {store.path}    or: egoloom train kitchen --data.store {store.path}")
