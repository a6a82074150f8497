"""A small training run as its own process, for tests that kill it or start two of it.

usage: train_squares.py STORE OUT [--epochs N] [--accumulation N] [--slow]
"""

import argparse
import json
import time
from pathlib import Path

import torch

from egoloom.clips import ClipStore, Modality
from egoloom.clips.dataset import ClipDataset, entries_of
from egoloom.clips.transforms import ViewConfig
from egoloom.models import create_model
from egoloom.training.config import OptimisationConfig
from egoloom.training.loop import Trainer
from egoloom.training.tasks import LabelTask

VIEW = ViewConfig(num_frames=4, size_px=32)


class SlowTask(LabelTask):
    """Gives a test time to kill the process between two batches."""

    def loss(self, model, batch):
        time.sleep(0.1)
        return super().loss(model, batch)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("store", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--slow", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    store = ClipStore.open(options.store)
    dataset = ClipDataset(entries_of(store, split="train"), [Modality.RGB], VIEW, is_training=True, cache_bytes=2**27)
    torch.manual_seed(0)
    # Group norm: with batch norm two processes see other statistics than one.
    model = create_model(
        "edge_tiny", num_classes={"verb": 2, "noun": 2}, norm="group", dropout=0.1 if options.slow else 0.0
    )
    config = OptimisationConfig(
        epochs=options.epochs,
        batch_size=4,
        learning_rate=3e-3,
        ema_decay=0.9,
        checkpoint_every_steps=1,
        gradient_accumulation=options.accumulation,
    )
    task = (SlowTask if options.slow else LabelTask)({"verb": 1.0, "noun": 1.0})
    trainer = Trainer(model, task, dataset, config, options.out)
    trainer.resume()
    trainer.fit()
    if trainer.accelerator.is_main_process:
        digest = {name: float(t.double().abs().sum()) for name, t in model.state_dict().items()}
        digest["num_processes"] = trainer.accelerator.num_processes
        (options.out / "digest.json").write_text(json.dumps(digest))


if __name__ == "__main__":
    main()
