"""The parity gate: an export that does not say what PyTorch says is not written.

Shape letters: N clips, T frames, H height, W width, K classes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from egoloom.deployment.card import InputCard, Precision
from egoloom.errors import UserError
from egoloom.evaluation.calibration import expected_calibration_error

if TYPE_CHECKING:
    from egoloom.clips import ClipStore
    from egoloom.clips.dataset import ClipEntry

LogProbs = Mapping[str, np.ndarray]


@dataclass
class ParityClips:
    """Clips to compare on.

    Attributes:
        frames: uint8 RGB ``[N, T, 3, H, W]``.
        labels: Head to class index ``[N]``, -1 unlabelled; empty where there are none.
        source: Where they came from, for the card.
    """

    frames: np.ndarray
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    source: str = "given"

    def __len__(self) -> int:
        return len(self.frames)


class ParityLimits(BaseModel):
    """What an export may differ by.

    Attributes:
        max_abs_diff: Largest difference of a log-probability. Loose for int8: unlikely classes move far on a log scale.
        min_top1_agreement: Share of clips with the same best class; one clip is always allowed.
        max_accuracy_loss: Loss of top-1 on labelled clips, as a fraction; one clip is always allowed.
        max_ece_increase: Increase of the calibration error on labelled clips; judged from 200 clips on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_abs_diff: float = Field(gt=0)
    min_top1_agreement: float = Field(ge=0, le=1)
    max_accuracy_loss: float = Field(default=0.005, ge=0)
    max_ece_increase: float = Field(default=0.01, ge=0)


LIMITS: dict[Precision, ParityLimits] = {
    "fp32": ParityLimits(max_abs_diff=1e-3, min_top1_agreement=0.99),
    "fp16": ParityLimits(max_abs_diff=0.1, min_top1_agreement=0.97),
    "int8": ParityLimits(max_abs_diff=4.0, min_top1_agreement=0.9),
}
MIN_CLIPS_FOR_ECE = 200


@dataclass
class Parity:
    """What the gate measured, over all heads."""

    num_clips: int
    source: str
    max_abs_diff: float
    top1_agreement: float
    max_probability_diff: float
    accuracy: float | None = None
    accuracy_torch: float | None = None
    ece: float | None = None
    ece_torch: float | None = None
    stream_max_abs_diff: float | None = None

    @property
    def accuracy_loss(self) -> float | None:
        """Top-1 of PyTorch minus that of the export."""
        if self.accuracy is None or self.accuracy_torch is None:
            return None
        return self.accuracy_torch - self.accuracy


def compare(expected: LogProbs, actual: LogProbs, clips: ParityClips) -> Parity:
    """Compares log-probabilities ``[N, K]`` of two programs, head by head; the worst head counts."""
    diffs, probability_diffs, agreements = [], [], []
    for head, reference_NK in expected.items():
        diffs.append(float(np.abs(reference_NK - actual[head]).max()))
        probability_diffs.append(float(np.abs(np.exp(reference_NK) - np.exp(actual[head])).max()))
        agreements.append(float(_agrees(reference_NK, actual[head]).mean()))
    worst = float("nan") if any(map(math.isnan, diffs)) else max(diffs)
    parity = Parity(len(clips), clips.source, worst, min(agreements), max(probability_diffs))
    head = "action" if "action" in expected else next(iter(expected))
    labels = clips.labels.get(head)
    if labels is not None and (labels >= 0).any():
        known = labels >= 0
        for suffix, scores in (("", actual[head]), ("_torch", expected[head])):
            setattr(parity, f"accuracy{suffix}", float((scores[known].argmax(1) == labels[known]).mean()))
            setattr(parity, f"ece{suffix}", float(expected_calibration_error(np.exp(scores[known]), labels[known])))
    return parity


def _agrees(reference_NK: np.ndarray, actual_NK: np.ndarray, tie: float = 1e-4) -> np.ndarray:
    """Same best class; classes that PyTorch itself scores alike within ``tie`` count as the same."""
    chosen = np.take_along_axis(reference_NK, actual_NK.argmax(1)[:, None], axis=1)[:, 0]
    return chosen >= reference_NK.max(axis=1) - tie


def check(parity: Parity, limits: ParityLimits) -> None:
    """Refuses an export beyond the limits.

    Raises:
        UserError: Names every limit that is exceeded.
    """
    broken = []
    if not parity.max_abs_diff <= limits.max_abs_diff:  # also catches NaN
        broken.append(f"log-probabilities differ by {parity.max_abs_diff:.3g} (limit {limits.max_abs_diff:g})")
    streamed = parity.stream_max_abs_diff
    if streamed is not None and not streamed <= limits.max_abs_diff:
        broken.append(f"streamed log-probabilities differ by {streamed:.3g} (limit {limits.max_abs_diff:g})")
    if 1.0 - parity.top1_agreement > max(1.0 - limits.min_top1_agreement, 1.0 / parity.num_clips) + 1e-9:
        broken.append(f"top-1 agrees on {parity.top1_agreement:.1%} (limit {limits.min_top1_agreement:.1%})")
    loss = parity.accuracy_loss
    if loss is not None and loss > max(limits.max_accuracy_loss, 1.0 / parity.num_clips) + 1e-9:
        broken.append(f"top-1 falls by {100 * loss:.2f} points (limit {100 * limits.max_accuracy_loss:g})")
    if parity.ece is not None and parity.ece_torch is not None and parity.num_clips >= MIN_CLIPS_FOR_ECE:
        rise = parity.ece - parity.ece_torch
        if rise > limits.max_ece_increase:
            broken.append(f"ECE rises by {rise:.4f} (limit {limits.max_ece_increase:g})")
    if broken:
        raise UserError(
            f"The export failed the parity gate on {parity.num_clips} clips: {'; '.join(broken)}. Nothing was written",
            fix="use --precision fp16 or fp32, or calibrate on more clips (--num-calibration-clips)",
        )


def run_in_batches(run: Callable[[np.ndarray], LogProbs], frames: np.ndarray, batch: int) -> dict[str, np.ndarray]:
    """Returns the stacked outputs of ``run`` over ``frames`` in batches."""
    parts = [run(frames[start : start + batch]) for start in range(0, len(frames), batch)]
    return {head: np.concatenate([part[head] for part in parts]) for head in parts[0]}


def synthetic_clips(card: InputCard, num_clips: int = 8, seed: int = 0) -> ParityClips:
    """Returns smooth moving patterns, for exports without any data: better than noise, no substitute for real clips."""
    generator = np.random.default_rng(seed)
    grid = np.linspace(0, 1, card.size_px, dtype=np.float32)
    y, x = np.meshgrid(grid, grid, indexing="ij")
    clips = np.empty((num_clips, card.num_frames, 3, card.size_px, card.size_px), np.uint8)
    for index in range(num_clips):
        waves = generator.uniform(1, 9, size=(3, 4, 2))
        phases = generator.uniform(0, 6.28, size=(3, 4))
        drift = generator.uniform(-0.05, 0.05, size=2)
        base, contrast = generator.uniform(60, 190), generator.uniform(15, 60)
        for t in range(card.num_frames):
            for c in range(3):
                angle = waves[c, :, 0, None, None] * 6.28 * (x + drift[0] * t) + phases[c, :, None, None]
                angle = angle + waves[c, :, 1, None, None] * 6.28 * (y + drift[1] * t)
                clips[index, t, c] = np.clip(base + contrast * np.sin(angle).mean(axis=0) * 2, 0, 255)
    return ParityClips(clips, source="synthetic patterns")


def parity_clips_from_store(
    store_path: Path, card: InputCard, *, split: str | None = None, num_clips: int = 64, seed: int = 0
) -> ParityClips:
    """Reads labelled ego clips of a store as the network sees them in evaluation: regular times, centre crop.

    Args:
        store_path: A clip store.
        card: Frames, spacing and size.
        split: Which split; default: ``validation`` if it exists, else any.
        num_clips: At most this many, drawn at random.
        seed: Of the draw.

    Raises:
        UserError: If there is no store, or the split has no labelled ego clips.
    """
    from egoloom.clips import ClipStore, Modality
    from egoloom.clips.dataset import ClipDataset
    from egoloom.clips.transforms import ViewConfig

    store = ClipStore.open(store_path)
    chosen = split or ("validation" if "validation" in store.info.splits else None)
    view = ViewConfig(
        num_frames=card.num_frames,
        size_px=card.size_px,
        seconds_between_frames=card.seconds_between_frames,
        sampling="segments" if card.sampling == "segments" else "strided",
    )
    entries = labelled_entries(store, chosen, num_clips=num_clips, seed=seed)
    dataset = ClipDataset(entries, [Modality.RGB], view, is_training=False)
    samples = [dataset[(index, 0)] for index in range(len(dataset))]
    return ParityClips(
        np.stack([sample["inputs"]["rgb"] for sample in samples]),
        {head: np.array([sample["labels"][head] for sample in samples]) for head in samples[0]["labels"]},
        source=f"{store.info.name}, split {chosen or 'all'}",
    )


def labelled_entries(store: "ClipStore", split: str | None, *, num_clips: int, seed: int = 0) -> "list[ClipEntry]":
    """Draws at most ``num_clips`` labelled ego clips with RGB of a split (None: of all), in the store's order.

    Raises:
        UserError: If there are none.
    """
    from egoloom.clips import Modality
    from egoloom.clips.dataset import entries_of

    entries = entries_of(store, labelled=True, **({"split": split} if split else {}))
    entries = [entry for entry in entries if Modality.RGB in entry.clip.present]
    if not entries:
        raise UserError(
            f"{store.path} has no labelled ego clips in the split {split!r}", allowed=", ".join(store.info.splits)
        )
    order = np.random.default_rng(seed).permutation(len(entries))[:num_clips]
    return [entries[i] for i in sorted(order)]


def as_parity_clips(value: "ParityClips | np.ndarray | Sequence[np.ndarray] | None", card: InputCard) -> ParityClips:
    """Returns clips from what a caller gave: clips, an array ``[N, T, 3, H, W]``, or None for synthetic patterns.

    Raises:
        ValueError: If the shape does not fit the card.
    """
    if value is None:
        return synthetic_clips(card)
    clips = value if isinstance(value, ParityClips) else ParityClips(np.asarray(value))
    wanted = (card.num_frames, 3, card.size_px, card.size_px)
    if clips.frames.ndim != 5 or clips.frames.shape[1:] != wanted or clips.frames.dtype != np.uint8 or not len(clips):
        raise ValueError(
            f"Parity clips must be uint8 [N >= 1, {', '.join(map(str, wanted))}], got {clips.frames.dtype} "
            f"{list(clips.frames.shape)}"
        )
    return clips
