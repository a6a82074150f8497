"""What a teacher costs: networks that read other sensors do not ship, but belong into the comparison."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from egoloom.clips import ClipStore, Modality
from egoloom.clips.dataset import ClipDataset, collate
from egoloom.clips.transforms import ViewConfig
from egoloom.deployment.artefact import checkpoint_card, checkpoint_folder
from egoloom.deployment.bench import DEFAULT_WATTS_PER_CORE, BenchRow, size_mb, times_s
from egoloom.deployment.card import CARD_NAME
from egoloom.deployment.parity import labelled_entries
from egoloom.evaluation.prediction import predict_clips
from egoloom.evaluation.summary import summarise
from egoloom.models import Recogniser, count_gmacs


def bench_teacher(
    path: Path,
    store_path: Path,
    *,
    name: str = "",
    split: str = "test",
    max_clips: int = 200,
    seconds: float = 2.0,
    watts_per_core: float = DEFAULT_WATTS_PER_CORE,
) -> BenchRow:
    """Measures a checkpoint of any modalities in PyTorch, on clips of a store.

    Args:
        path: A checkpoint or run folder.
        store_path: Where its inputs come from.
        name: For tables.
        split: Labelled split; the clips are those that students are measured on.
        max_clips: At most this many.
        seconds: For how long each quantity is measured.
        watts_per_core: For the energy estimate.

    Raises:
        UserError: If the checkpoint or the store is none, or the split has no labelled clips with these modalities.
    """
    folder = checkpoint_folder(path)
    model = Recogniser.from_pretrained(folder).eval()
    card = checkpoint_card(folder, model)
    entries = labelled_entries(ClipStore.open(store_path), split, num_clips=max_clips)
    modalities = [Modality(modality) for modality in model.input_modalities]
    dataset = ClipDataset(entries, modalities, training_view(folder), is_training=False)
    inputs = collate([dataset[0, 0]])["inputs"]
    two, cpu_s = _forward_times(model, inputs, 2, seconds)
    one, _ = _forward_times(model, inputs, 1, seconds)
    summary = summarise(predict_clips(model, dataset, batch_size=16), temperatures=dict(card.temperature))
    figures = summary["heads"][card.main_head]
    return BenchRow(
        name=name or path.resolve().name,
        target="torch",
        precision="fp32",
        num_frames=card.input.num_frames,
        size_px=card.input.size_px,
        latency_ms=1e3 * float(np.median(two)),
        latency_p95_ms=1e3 * float(np.percentile(two, 95)),
        clips_per_s_one_thread=1 / float(np.median(one)),
        clips_per_s_two_threads=1 / float(np.median(two)),
        stream_fps_one_thread=None,
        startup_s=None,
        peak_memory_mb=None,
        model_memory_mb=None,
        size_mb=size_mb(path, card),
        num_parameters=card.num_parameters,
        gmacs_per_clip=count_gmacs(model, inputs),
        energy_mj_estimate=1e3 * cpu_s * watts_per_core,
        watts_per_core=watts_per_core,
        top1=figures["top1"],
        ece=figures["ece"],
        num_clips=summary["num_clips"],
    )


def training_view(folder: Path) -> ViewConfig:
    """Returns how a checkpoint was shown its clips; plain defaults where it does not say."""
    path = folder / CARD_NAME
    view = json.loads(path.read_text(encoding="utf-8")).get("view", {}) if path.is_file() else {}
    return ViewConfig.model_validate({key: value for key, value in view.items() if key in ViewConfig.model_fields})


def _forward_times(model: Recogniser, inputs: Any, num_threads: int, seconds: float) -> tuple[np.ndarray, float]:
    """Returns wall times of single clips, and processor seconds a clip."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        with torch.inference_mode():
            start = time.process_time()
            times = times_s(lambda: model(inputs), seconds=seconds)
            return times, (time.process_time() - start) / (len(times) + 3)
    finally:
        torch.set_num_threads(before)
