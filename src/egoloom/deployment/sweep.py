"""Fewer frames, smaller pictures, fewer views: accuracy and calibration of networks in one run."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from egoloom.deployment.artefact import checkpoint_card, checkpoint_folder
from egoloom.errors import UserError
from egoloom.models import Recogniser


@dataclass(frozen=True)
class SweepRow:
    """One network under one protocol; ``axis`` names what differs from the network's own."""

    axis: str
    name: str
    num_frames: int
    size_px: int
    num_views: int
    top1: float
    ece: float
    top1_ci95: tuple[float, float] | None
    num_clips: int

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values."""
        return asdict(self)


def protocols(num_frames: int, size_px: int) -> list[tuple[str, int, int, int]]:
    """Returns ``(axis, num_frames, size_px, num_views)`` of a sweep around a network's own protocol."""
    frames = [count for count in (1, 2, 4, 8, 16, 32) if count <= num_frames]
    sizes = sorted({max(16, round(size_px * share / 8) * 8) for share in (0.5, 0.625, 0.75, 1.0, 1.25)})
    return [
        *(("num_frames", count, size_px, 1) for count in frames),
        *(("size_px", num_frames, side, 1) for side in sizes),
        *(("num_views", num_frames, size_px, views) for views in (1, 2, 4)),
    ]


def sweep(
    checkpoints: dict[str, Path], store_path: Path, *, split: str = "test", max_clips: int = 200, batch_size: int = 16
) -> list[SweepRow]:
    """Evaluates networks with fewer frames, other sizes and more views on the same clips.

    Frames span the same stretch of time: fewer of them lie further apart.

    Args:
        checkpoints: Name to checkpoint or run folder, for instance the student and the same network on labels.
        store_path: Clip store.
        split: Labelled split.
        max_clips: At most this many clips, evenly spaced through the split.
        batch_size: Views a forward pass.

    Raises:
        UserError: If a checkpoint or the store is none, or the split has no labelled clips.
    """
    from egoloom.clips import ClipStore, Modality
    from egoloom.clips.dataset import ClipDataset, entries_of
    from egoloom.clips.transforms import ViewConfig
    from egoloom.evaluation.prediction import predict_clips
    from egoloom.evaluation.summary import summarise

    store = ClipStore.open(store_path)
    entries = entries_of(store, split=split, labelled=True)
    if not entries:
        raise UserError(f"The split {split!r} of {store_path} has no labelled ego clips")
    entries = entries[:: max(1, len(entries) // max_clips)][:max_clips]
    rows = []
    for name, path in checkpoints.items():
        folder = checkpoint_folder(path)
        model = Recogniser.from_pretrained(folder)
        card = checkpoint_card(folder, model)
        own = card.input
        for axis, num_frames, size_px, num_views in protocols(own.num_frames, own.size_px):
            spacing_s = own.seconds_between_frames * own.num_frames / num_frames
            view = ViewConfig(
                num_frames=num_frames,
                size_px=size_px,
                seconds_between_frames=spacing_s,
                sampling="segments" if own.sampling == "segments" else "strided",
            )
            dataset = ClipDataset(
                entries, [Modality.RGB], view, is_training=False, num_test_clips=num_views, cache_bytes=300 * 2**20
            )
            summary = summarise(
                predict_clips(model, dataset, batch_size=batch_size), temperatures=dict(card.temperature)
            )
            figures = summary["heads"][card.main_head]
            interval = figures.get("top1_ci95")
            rows.append(
                SweepRow(
                    axis,
                    name,
                    num_frames,
                    size_px,
                    num_views,
                    figures["top1"],
                    figures["ece"],
                    tuple(interval) if interval else None,
                    summary["num_clips"],
                )
            )
    return rows
