"""``egoloom augment STORE``: third-person clips of a store become marked first-person clips."""

import json as json_module
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from egoloom.errors import UserError


@dataclass
class Arguments:
    """Generates the first-person view of a store's exo clips into a store of its own, marked as generated.

    The clips need depth and cameras. Work that was interrupted continues; one bad clip does not stop it.

    Attributes:
        store: The store with exo clips.
        generator: Folder of a trained generator (runs/demo/exo2ego/base), with its LoRA in a folder lora beside it.
        out: The store of the generated clips.
        split: Only exo clips of this split; default: all.
        limit: At most this many clips.
        size: Side of the generated frames in pixels.
        num_frames: Frames generated a clip.
        num_steps: Denoising steps.
        seed: Seed of the noise.
        metric_depth: The depth of the store is metric; otherwise one scale is solved for each clip.
        dry_run: Only say what would be done.
        json: Print one JSON line.
    """

    store: tyro.conf.Positional[Path]
    generator: Path
    out: Path
    split: str | None = None
    limit: int | None = None
    size: int = 64
    num_frames: int = 17
    num_steps: int = 4
    seed: int = 0
    metric_depth: bool | None = None
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False


def main(arguments: list[str]) -> None:
    """Parses, generates and prints where the result lies."""
    options = tyro.cli(Arguments, prog="egoloom augment", args=arguments)
    from egoloom.clips import ClipStore

    source = ClipStore.open(options.store)
    clips = source.select(view="exo", split=options.split)[: options.limit]
    if not clips:
        raise UserError(f"{options.store} has no exo clips", allowed="a store with third-person video")
    if options.dry_run:
        print(f"{len(clips)} exo clips of {options.store} would become ego clips in {options.out}")
        return
    figures = _generate(options, source, clips)
    if options.json:
        print(json_module.dumps(figures))
        return
    print(f"generated {figures['num_done']}, kept {figures['num_kept']}, failed {len(figures['failures'])}")
    for clip_id, reason in list(figures["failures"].items())[:5]:
        print(f"  {clip_id}: {reason}")
    print(f"wrote {options.out}")
    print(f"next: egoloom train tiny --data.store {options.store} --data.extra-stores {options.out} --out runs/mixed")


def _generate(options: Arguments, source, clips) -> dict:
    from egoloom.augmentation.generate import AugmentationConfig, generate_clips
    from egoloom.augmentation.generators import load_generator
    from egoloom.augmentation.samples import generator_prior_config
    from egoloom.exo2ego.generation import GenerationConfig

    pipeline, name = load_generator(options.generator)
    is_metric = source.info.is_simulated if options.metric_depth is None else options.metric_depth
    config = AugmentationConfig(
        size_px=options.size,
        num_frames=options.num_frames,
        generation=GenerationConfig(num_steps=options.num_steps, seed=options.seed),
        prior=generator_prior_config(is_metric=is_metric),
    )
    report = generate_clips(source, clips, pipeline, options.out, generator=name, config=config)
    return {"num_done": report.num_done, "num_kept": report.num_kept, "failures": report.failures}
