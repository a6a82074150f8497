"""The training loop: one readable pass over batches, on one process or many, that resumes exactly.

The order of the data is a pure function of (seed, epoch, batch) and a view a pure function of (clip, view seed), so
exact resume needs no loader state: weights, optimiser, random state and a position are enough.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar
from torch import Tensor
from torch.utils.data import DataLoader

from egoloom._distributed import from_main, full_tensors, is_any, load_full_weights
from egoloom.clips.dataset import ClipDataset, Sample, ViewKey, collate
from egoloom.clips.files import write_text
from egoloom.errors import UserError
from egoloom.models import Recogniser
from egoloom.training.averaging import WeightAverage
from egoloom.training.checkpoints import (
    Progress,
    find_checkpoint,
    flatten_optimizer,
    load_state,
    restore_optimizer,
    save_checkpoint,
)
from egoloom.training.config import OptimisationConfig
from egoloom.training.history import append_history, truncate_history
from egoloom.training.interruption import deferred_interrupts
from egoloom.training.layer_decay import parameter_groups
from egoloom.training.quantisation import make_quantisation_aware
from egoloom.training.schedule import learning_rate
from egoloom.training.tasks import Task
from egoloom.training.tracking import open_accelerator

Score = Callable[[Recogniser], float]


def epoch_batches(clips: int | Sequence[int], epoch: int, config: OptimisationConfig) -> list[list[ViewKey]]:
    """Returns the global batches of one epoch; the last incomplete batch is left out unless it is the only one.

    Args:
        clips: Number of clips, or the indices of those that this epoch shows.
        epoch: Decides order and views, with the seed.
        config: Seed and sizes.
    """
    order = np.random.default_rng([config.seed, epoch]).permutation(clips)
    num_clips = len(order)
    keys = [ViewKey(int(index), epoch % config.num_view_seeds) for index in order]
    size = min(config.batch_size, num_clips)
    return [keys[start : start + size] for start in range(0, num_clips - size + 1, size)]


class Trainer:
    """Trains one network with one task.

    Args:
        model: The network.
        task: What is optimised.
        dataset: Random views of the training clips.
        config: Optimiser, schedule and size.
        out: The run folder; ``checkpoints/{last,best}`` and ``history.jsonl`` are written there.
        generated_epochs: Epochs from this one on show recorded clips alone; None shows all clips in all epochs.
        score: Called on the selection split every ``score_every_epochs``; the higher, the better.
        label: Shown beside the progress bar.
    """

    def __init__(
        self,
        model: Recogniser,
        task: Task,
        dataset: ClipDataset,
        config: OptimisationConfig,
        out: Path,
        *,
        generated_epochs: int | None = None,
        score: Score | None = None,
        label: str = "training",
    ) -> None:
        self.config, self.task, self.dataset, self.out = config, task, dataset, out
        self.score, self.label = score, label
        self.accelerator = open_accelerator(config, out)
        torch.manual_seed(config.seed)
        self.model = model
        optimizer = torch.optim.AdamW(
            parameter_groups(model, config.weight_decay, layer_decay=config.layer_decay), lr=config.learning_rate
        )
        if config.quantisation_aware:
            make_quantisation_aware(model)
        if config.compile and self.accelerator.is_fsdp2:
            raise UserError("optimisation.compile does not work with FSDP", fix="leave one of the two out")
        compiled = torch.compile(model) if config.compile else model
        self.network, self.optimizer = self.accelerator.prepare(compiled, optimizer)
        self.average = WeightAverage(model, config.ema_decay) if config.ema_decay else None
        self.progress = Progress()
        self.generated_epochs = config.epochs if generated_epochs is None else generated_epochs
        self.recorded = [index for index, entry in enumerate(dataset.entries) if not entry.clip.is_generated]
        self.num_batches = [len(self._batches(epoch)) for epoch in range(config.epochs)]
        self.num_steps = sum(max(1, count // config.gradient_accumulation) for count in self.num_batches)

    def _batches(self, epoch: int) -> list[list[ViewKey]]:
        """Returns the global batches of one epoch."""
        shown = len(self.dataset) if epoch < self.generated_epochs or not self.recorded else self.recorded
        return epoch_batches(shown, epoch, self.config)

    def _num_seen(self) -> int:
        return sum(self.num_batches[: self.progress.epoch]) + self.progress.batch

    # -- resume -----------------------------------------------------------------------------------------------

    def resume(self) -> bool:
        """Continues from ``checkpoints/last`` if there is one; returns whether there was."""
        folder = find_checkpoint(self.out / "checkpoints" / "last")
        if folder is None:
            return False
        state, self.progress = load_state(folder)
        weights = {name.removeprefix("weights/"): t for name, t in state.items() if name.startswith("weights/")}
        load_full_weights(self.model, weights)
        restore_optimizer(self.optimizer, state)
        self._set_rates(self.progress.step)  # which the history shows until the next step
        if self.average:
            self.average.restore(state)
        random_states = state["random_state"].reshape(-1, len(torch.get_rng_state()))
        own = random_states[self.accelerator.process_index % len(random_states)]
        torch.set_rng_state(own.clone())  # a view crashes it
        if self.accelerator.is_main_process:
            truncate_history(self.out / "history.jsonl", self._num_seen(), self.progress.epoch)
        return True

    def checkpoint(self, name: str = "last") -> None:
        """Writes ``checkpoints/<name>``; with a moving average its weights are the ones that others load.

        All processes must call it: each holds a part of sharded weights, and the main one writes.
        """
        own = self.model.state_dict()
        state: dict[str, Tensor] = {}
        if name == "last":
            state = {f"weights/{key}": value for key, value in own.items()} | flatten_optimizer(self.optimizer)
            state["random_state"] = self._random_states()
            if self.average:
                state |= self.average.state()
        is_main = self.accelerator.is_main_process
        state = full_tensors(state, keep=is_main)
        weights = full_tensors(self.average.tensors if self.average else own, keep=is_main)
        if is_main:
            save_checkpoint(self.out / "checkpoints" / name, self.model, weights, state, self.progress)
        self.accelerator.wait_for_everyone()

    def _random_states(self) -> Tensor:
        """Returns the state of every process's random numbers, ``[num_processes, bytes]``."""
        own = torch.get_rng_state()[None].to(self.accelerator.device)
        return self.accelerator.gather(own)  # type: ignore[return-value]  # a tensor gives a tensor

    # -- the loop ---------------------------------------------------------------------------------------------

    def fit(self) -> float:
        """Trains to the end; returns the best score on the selection split (``-inf`` without one).

        Raises:
            UserError: If the loss is not finite; the batch's clip ids are in ``nan_batch.json`` then.
        """
        bar = ProgressBar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("loss {task.fields[loss]:.3f}"),
            disable=not self.accelerator.is_main_process,
        )
        with bar, deferred_interrupts() as interruption:
            shown = bar.add_task(self.label, total=sum(self.num_batches), loss=float("nan"))
            bar.update(shown, completed=self._num_seen())
            while self.progress.epoch < self.config.epochs:
                for loss in self._epoch():
                    bar.update(shown, advance=1, loss=loss)
                    if self._is_between_steps() and is_any(self.accelerator, interruption.is_requested):
                        self.checkpoint()
                        raise KeyboardInterrupt
                self._close_epoch()
        self.progress.is_finished = True
        self.checkpoint()
        for tracker in self.accelerator.trackers:  # end_training would also part the processes for good
            tracker.finish()
        return self.progress.best_score

    def _epoch(self) -> Iterator[float]:
        progress, config = self.progress, self.config
        self.network.train()
        batches = self._batches(progress.epoch)[progress.batch :]
        for batch, global_size in self._load(batches):
            losses = self._backward(batch, global_size)
            progress.batch += 1
            if self._is_between_steps():
                self._step()
            if self.accelerator.is_main_process:
                self._log(losses)
            if self._is_between_steps() and progress.step % config.checkpoint_every_steps == 0:
                self.checkpoint()
            yield losses["total"]

    def _is_between_steps(self) -> bool:
        """Whether no gradients are half accumulated, so that a checkpoint describes the run completely."""
        return self.progress.batch % self.config.gradient_accumulation == 0

    def _load(self, batches: list[list[ViewKey]]) -> Iterator[tuple[Sample, int]]:
        """Yields this process's share of each global batch and the global size."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        loader = DataLoader(
            self.dataset,
            batch_sampler=[keys[rank::world] for keys in batches],
            collate_fn=collate,
            num_workers=self.config.num_workers,
            multiprocessing_context="spawn" if self.config.num_workers else None,
            # Its own generator: a loader draws from it when it starts, which a resumed epoch does once more.
            generator=torch.Generator(),
        )
        for batch, keys in zip(loader, batches, strict=True):
            yield _to_device(batch, self.accelerator.device), len(keys)

    def _backward(self, batch: Sample, global_size: int) -> dict[str, float]:
        with self.accelerator.autocast():
            losses = self.task.loss(self.network, batch)
        # Processes may hold unequal shares; the weighted mean over them is the mean over the global batch.
        share = len(batch["clip_id"]) * self.accelerator.num_processes / global_size
        shares = torch.stack([value.detach().float() for value in losses.values()]) * share
        means: Any = self.accelerator.reduce(shares, "mean")
        values = dict(zip(losses, means.tolist(), strict=True))
        if not np.isfinite(values["total"]):
            path = self.out / "nan_batch.json"
            clip_ids = gather_object(list(batch["clip_id"]))
            write_text(path, json.dumps({"step": self.progress.step, "clip_ids": clip_ids, "losses": values}))
            raise UserError(
                f"The loss became {values['total']} at step {self.progress.step}",
                fix=f"look at the clips in {path}, or lower optimisation.learning_rate",
            )
        self.accelerator.backward(losses["total"] * share / self.config.gradient_accumulation)
        return values

    def _step(self) -> None:
        self._set_rates(self.progress.step + 1)
        self.accelerator.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.progress.step += 1
        if self.average:
            self.average.update(self.model)

    def _set_rates(self, step: int) -> None:
        config = self.config
        rate = learning_rate(
            step,
            base=config.learning_rate,
            num_steps=self.num_steps + 1,
            num_warmup_steps=round(config.warmup_fraction * self.num_steps),
            schedule=config.schedule,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate_scale"]

    def _close_epoch(self) -> None:
        self.progress.epoch += 1
        self.progress.batch = 0
        self.optimizer.zero_grad()  # an epoch's last, incomplete accumulation is dropped
        if self.progress.epoch % self.config.score_every_epochs and self.progress.epoch < self.config.epochs:
            return
        if self.score is not None:
            self.model.eval()
            with self.average.swapped_into(self.model) if self.average else nullcontext():
                score = from_main(self.score(self.model))
            if self.accelerator.is_main_process:
                self._append({"step": self.progress.step, "epoch": self.progress.epoch, "selection_score": score})
            if score > self.progress.best_score:
                self.progress.best_score = score
                self.checkpoint("best")
        self.checkpoint()

    def _log(self, losses: dict[str, float]) -> None:
        rate = self.optimizer.param_groups[0]["lr"]
        self._append({"step": self.progress.step, "epoch": self.progress.epoch, "learning_rate": rate, **losses})
        self.accelerator.log({"learning_rate": rate, **losses}, step=self.progress.step)

    def _append(self, row: dict[str, float]) -> None:
        append_history(self.out / "history.jsonl", row)


def _to_device(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {name: _to_device(item, device) for name, item in value.items()}
    return value
