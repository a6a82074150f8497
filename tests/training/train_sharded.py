"""Trainings that a test starts with ``accelerate launch`` and FSDP: whole, interrupted and resumed, and without FSDP.

usage: train_sharded.py STORE OUT
"""

import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from accelerate.state import AcceleratorState
from torch.distributed.tensor import DTensor

from egoloom.clips import ClipStore, Modality
from egoloom.clips.dataset import ClipDataset, entries_of
from egoloom.clips.transforms import ViewConfig
from egoloom.errors import UserError
from egoloom.models import create_model
from egoloom.training.config import OptimisationConfig
from egoloom.training.domains import separate_norms
from egoloom.training.loop import Trainer
from egoloom.training.tasks import LabelTask

HEADS = {"verb": 1.0, "noun": 1.0}


class Crash(Exception):
    """What interrupts a run."""


class CrashingTask(LabelTask):
    """Dies in the sixth batch: in mid-epoch, with one batch accumulated and logged since the last checkpoint."""

    num_batches = 0

    def loss(self, model, batch):
        self.num_batches += 1
        if self.num_batches == 6:
            raise Crash
        return super().loss(model, batch)


def build(store: ClipStore, out: Path, *, mixed: bool, task: type[LabelTask] = LabelTask, **options) -> Trainer:
    """Returns a trainer that uses all that sharding could break.

    Args:
        store: The squares.
        out: Run folder.
        mixed: Batch norms that keep every second clip apart as generated, and dropout; else group norm, with which the
            number of processes cannot matter.
        task: What is optimised.
        **options: Further optimisation settings.
    """
    entries = entries_of(store, split="train")
    if mixed:
        entries = [e._replace(clip=replace(e.clip, is_generated=i % 2 == 1)) for i, e in enumerate(entries)]
    view = ViewConfig(num_frames=4, size_px=32)
    dataset = ClipDataset(entries, [Modality.RGB], view, is_training=True, cache_bytes=2**27)
    torch.manual_seed(0)
    norm = {"norm": "batch", "dropout": 0.1} if mixed else {"norm": "group"}
    model = create_model("edge_tiny", num_classes={"verb": 2, "noun": 2}, **norm)
    if mixed:
        separate_norms(model)
    settings = {"epochs": 2, "batch_size": 4, "gradient_accumulation": 2, "clip_norm": 0.5, "layer_decay": 0.8}
    config = OptimisationConfig(
        **settings, learning_rate=3e-3, ema_decay=0.9, checkpoint_every_steps=1, score_every_epochs=2, **options
    )
    # Each process would give its own score; the main one's decides.
    return Trainer(model, task(HEADS), dataset, config, out, score=lambda _: float(os.environ.get("RANK", "0")))


def main(store: ClipStore, out: Path) -> None:
    """Trains with FSDP what the test compares with one process, with itself resumed, and with DDP."""
    trainer = build(store, out / "sharded", mixed=False)
    sharded = [isinstance(parameter, DTensor) for parameter in trainer.model.parameters()]
    assert all(sharded), f"{sharded.count(False)} parameters are not sharded"
    trainer.fit()
    build(store, out / "whole", mixed=True).fit()
    try:
        build(store, out / "broken", mixed=True, task=CrashingTask).fit()
    except Crash:
        trainer = build(store, out / "broken", mixed=True)
        assert trainer.resume()
        assert trainer.progress.step == 2
        trainer.fit()
    try:
        build(store, out / "compiled", mixed=False, compile=True)
    except UserError as error:
        (out / f"refused_{trainer.accelerator.process_index}.txt").write_text(str(error))
    os.environ["ACCELERATE_USE_FSDP"] = "false"
    AcceleratorState._reset_state()
    plain = build(store, out / "plain", mixed=True)
    assert not any(isinstance(parameter, DTensor) for parameter in plain.model.parameters())
    plain.fit()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(ClipStore.open(Path(sys.argv[1])), Path(sys.argv[2]))
