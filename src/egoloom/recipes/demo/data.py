"""Data of the demonstration: the built-in kitchen, or real recordings when a folder is given."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egoloom.clips import Clip, ClipStore
from egoloom.errors import UserError
from egoloom.recipes.demo.config import DemoConfig
from egoloom.recipes.networks import BOXES, FLOW, KITCHEN_SENSORS, Network

# Causal shift: the student can also run on a stream, frame by frame.
STUDENT = Network("edge_tiny", {"temporal_shift": "causal"})
REAL_LAYOUT = "a folder with something_else/ and egox/ below it (docs/datasets.md says where they come from)"


@dataclass(frozen=True)
class DemoData:
    """Stores of the demonstration.

    Attributes:
        source: What the figures are about, ``"kitchen (simulated)"`` or ``"real recordings"``.
        recognition: Labelled ego clips with their sensors.
        pairs: Takes with exo and ego video that the generator learns from.
        exo: Third-person clips that become first-person clips.
        unlabelled_splits: Splits taught by soft labels alone.
        teachers: Teacher name to its network.
        notes: Sentences that the report must show.
    """

    source: str
    recognition: Path
    pairs: Path
    exo: Path
    unlabelled_splits: tuple[str, ...]
    teachers: dict[str, Network]
    notes: tuple[str, ...]

    @property
    def is_real(self) -> bool:
        """Whether these are real recordings."""
        return self.source != "kitchen (simulated)"


def describe_data(config: DemoConfig, out: Path) -> DemoData:
    """Returns where the data of a run lies, without making it."""
    clips = out / "clips"
    rgb = {"rgb_labels": STUDENT}
    if config.data is None:
        return DemoData(
            "kitchen (simulated)",
            clips / "kitchen",
            clips / "kitchen",
            clips / "third_person",
            ("unlabelled",),
            rgb | KITCHEN_SENSORS,
            (
                "All figures are about simulated data: the built-in kitchen, not real people in real kitchens.",
                "Networks and training are tiny, so that the whole loop runs in minutes. The figures show that every "
                "stage does its work and how large its effect is here; they are not results on a public data set.",
            ),
        )
    return DemoData(
        "real recordings",
        clips / "something_else",
        clips / "egox",
        clips / "egox",
        (),
        rgb | {"flow": FLOW, "boxes": BOXES},
        (
            "Recognition is trained AND evaluated on the same nine real videos. This shows that the path works on "
            "real input, nothing more; the accuracies say nothing about unseen video.",
            "The generator adapts to two real Ego-Exo4D takes and is measured on them. Its pictures are poor: "
            "a tiny network, a small picture, an ego prior that shows only what the exo camera saw.",
        ),
    )


def make_data(config: DemoConfig, data: DemoData) -> dict[str, Any]:
    """Makes or ingests the stores; returns their sizes."""
    if config.data is None:
        _make_kitchens(config, data)
    else:
        _ingest_real(config.data, data)
    return {
        # Real clips are listed in every split; they count once.
        "num_clips": len({clip.video_id for clip in ClipStore.open(data.recognition).select()}),
        "num_exo_clips": len(ClipStore.open(data.exo).select(view="exo")),
    }


def _make_kitchens(config: DemoConfig, data: DemoData) -> None:
    from rich.progress import Progress

    from egoloom.kitchen import KitchenSettings, make_store
    from egoloom.kitchen.settings import SplitShares

    width, height = config.exo_size_px
    sizes = {"ego_size_px": config.ego_size_px, "exo_width_px": width, "exo_height_px": height}
    shares = SplitShares(
        train=0.48, validation=0.12, test=0.18, unseen_participant=0.0, unseen_kitchen=0.0, unlabelled=0.22
    )
    others = SplitShares(train=1.0, validation=0.0, test=0.0, unseen_participant=0.0, unseen_kitchen=0.0, unlabelled=0)
    plan = [
        (data.recognition, config.num_takes, config.seed, shares),
        (data.exo, config.num_exo_takes, config.seed + 1, others),
    ]
    with Progress(transient=True) as bar:
        for path, count, seed, splits in plan:
            shown = bar.add_task(path.name, total=count)
            make_store(
                path,
                num_clips=count,
                settings=KitchenSettings.model_validate({**sizes, "seed": seed, "splits": splits}),
                num_workers=config.num_workers,
                on_progress=lambda done, _, shown=shown: bar.update(shown, completed=done),
            )


def _ingest_real(folder: Path, data: DemoData) -> None:
    from egoloom.ingest import egox_store, something_else
    from egoloom.modalities import flow

    for name in ("something_else", "egox"):
        if not (folder / name).is_dir():
            raise UserError(f"{folder} has no folder {name!r}", allowed=REAL_LAYOUT)
    if not data.recognition.exists():
        partial = data.recognition.with_name(".something_else")
        store = something_else.ingest(folder / "something_else", partial)
        flow.compute(store)
        _show_every_clip_everywhere(store)
        partial.rename(data.recognition)
    egox_store.ingest(folder / "egox", data.pairs)


def _show_every_clip_everywhere(store: ClipStore) -> None:
    """Lists each of the few real clips in every split: nine videos are too few to hold any out; the report says so."""
    existing = {clip.clip_id for clip in store.clips}
    copies: list[Clip] = [
        dataclasses.replace(clip, clip_id=f"{clip.clip_id}-{split}", split=split)
        for clip in store.clips
        for split in ("train", "validation", "test")
        if split != clip.split and "-" not in clip.clip_id
    ]
    store.append(clips=[clip for clip in copies if clip.clip_id not in existing])
