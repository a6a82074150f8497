"""Scores of a recogniser on clips: every view is shown once and kept, so that all protocols come from one run.

Shape letters: N clips, V views, K classes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from accelerate.utils import gather_object
from rich.progress import track

from egoloom.clips.dataset import ClipDataset, ViewKey, batches
from egoloom.clips.media import read_arrays, write_arrays
from egoloom.errors import UserError
from egoloom.models import Recogniser

Average = Literal["logits", "probabilities"]


@dataclass(frozen=True)
class Predictions:
    """The scores of every view of every clip.

    Attributes:
        clip_ids: N ids.
        logits: Head to ``[N, V, K]`` float32.
        labels: Head to ``[N]`` int64, -1 unlabelled.
    """

    clip_ids: list[str]
    logits: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]

    @property
    def num_views(self) -> int:
        """Views a clip."""
        return next(iter(self.logits.values())).shape[1]

    def log_probs(self, head: str, *, average: Average = "logits", temperature: float = 1.0) -> np.ndarray:
        """Returns normalised log-probabilities ``[N, K]`` after averaging the views.

        Args:
            head: The head.
            average: ``logits`` averages scores and then normalises; ``probabilities`` the other way round. Both are
                in use and differ in calibration, so tables name the one they took.
            temperature: Divides the logits.
        """
        scores_NVK = torch.from_numpy(self.logits[head]).double() / temperature
        if average == "logits":
            return scores_NVK.mean(1).log_softmax(-1).numpy()
        mean = scores_NVK.log_softmax(-1).logsumexp(1) - np.log(scores_NVK.shape[1])
        return mean.numpy()

    def save(self, path: Path) -> None:
        """Writes ``.npz`` with ``clip_id``, ``<head>/logits`` and ``<head>/labels``."""
        arrays = {"clip_id": np.array(self.clip_ids)}
        for head in self.logits:
            arrays |= {f"{head}/logits": self.logits[head], f"{head}/labels": self.labels[head]}
        write_arrays(path, arrays)

    @classmethod
    def load(cls, path: Path) -> "Predictions":
        """Reads what ``save`` wrote.

        Raises:
            UserError: If the file is missing, damaged or something else.
        """
        arrays = read_arrays(path)
        heads = [name.removesuffix("/logits") for name in arrays if name.endswith("/logits")]
        if "clip_id" not in arrays or not heads:
            raise UserError(f"{path} holds no predictions", allowed="a file written by egoloom evaluate")
        return cls(
            arrays["clip_id"].tolist(),
            {head: arrays[f"{head}/logits"] for head in heads},
            {head: arrays[f"{head}/labels"] for head in heads},
        )


@torch.no_grad()  # sharded weights gathered in inference mode could not be trained afterwards
def predict_clips(
    model: Recogniser, dataset: ClipDataset, *, batch_size: int = 32, process: tuple[int, int] = (0, 1), label: str = ""
) -> Predictions:
    """Shows every regular view of every clip to the network once.

    Args:
        model: The network; it is put into evaluation mode.
        dataset: Regular views (``is_training=False``).
        batch_size: Views a forward pass.
        process: Rank and number of processes; each predicts its share, all receive everything, no clip counts twice.
        label: Text of the progress bar; empty shows none.

    Returns:
        Predictions in the order of the dataset.
    """
    model.eval()
    device = next(model.parameters()).device
    rank, world = process
    own = range(rank, len(dataset), world)
    keys = [ViewKey(index, view) for index in own for view in range(dataset.num_views)]
    rows: list[tuple[int, int, dict[str, np.ndarray]]] = []
    steps = batches(dataset, keys, batch_size)
    for batch in track(steps, label, total=-(-len(keys) // batch_size), transient=True) if label else steps:
        inputs = {**_to(batch["inputs"], device), "present": _to(batch["present"], device)}
        logits = {head: values.float().cpu().numpy() for head, values in model(inputs).items()}
        for row, (index, view) in enumerate(zip(batch["index"], batch["view_seed"], strict=True)):
            rows.append((int(index), int(view), {head: values[row] for head, values in logits.items()}))
    if world > 1:
        rows = gather_object(rows)
    return _assemble(dataset, rows)


def _assemble(dataset: ClipDataset, rows: list[tuple[int, int, dict[str, np.ndarray]]]) -> Predictions:
    by_view = {(index, view): scores for index, view, scores in rows}
    heads = list(rows[0][2])
    num_views = dataset.num_views
    logits = {
        head: np.stack(
            [np.stack([by_view[index, view][head] for view in range(num_views)]) for index in range(len(dataset))]
        )
        for head in heads
    }
    clips = [entry.clip for entry in dataset.entries]
    labels = {head: np.array([clip.label(head) for clip in clips], dtype=np.int64) for head in heads}
    return Predictions([clip.clip_id for clip in clips], logits, labels)


def _to(value, device: torch.device):
    if isinstance(value, dict):
        return {name: _to(item, device) for name, item in value.items()}
    return value.to(device)
