"""The sound as the published audio network reads it (arXiv 2307.07483): one window of 1.116 s around every video frame.

Track ``media/spectrogram_frames/<video_id>.npz``: ``power_db`` float16 ``[num_columns, 128]``, the mel power of
``egoloom.modalities.spectrogram`` with 10 ms windows every 5 ms in decibels, ``hop_s``, ``start_s``. ``TrackReader``
cuts the window of a frame out of it; ``spectrogram.reference_windows`` computes the same from samples.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from egoloom.clips import ClipStore, Modality
from egoloom.clips.media import read_audio, write_arrays
from egoloom.modalities.base import ModalityReport
from egoloom.modalities.spectrogram import REFERENCE_CONFIG, compute_sound_tracks, decibels, mel_power


class SpectrogramFramesConfig(BaseModel):
    """Nothing can be chosen: the numbers are those of the published network."""

    model_config = ConfigDict(frozen=True, extra="forbid")


DEFAULT_CONFIG = SpectrogramFramesConfig()


def compute(
    store: ClipStore,
    config: SpectrogramFramesConfig = DEFAULT_CONFIG,
    *,
    num_workers: int = 1,
    progress: bool = True,
    recompute: bool = False,
    max_failed_share: float = 0.1,
) -> ModalityReport:
    """Computes the track of every video that has sound; see ``compute_tracks`` for the common behaviour."""
    return compute_sound_tracks(
        store,
        Modality.SPECTROGRAM_FRAMES,
        _Task(store.path),
        num_workers=num_workers,
        progress=progress,
        recompute=recompute,
        max_failed_share=max_failed_share,
    )


@dataclass(frozen=True)
class _Task:
    store_path: Path

    def __call__(self, video_id: str) -> bool:
        store, settings = ClipStore.open(self.store_path), REFERENCE_CONFIG
        samples = read_audio(store.media_path(Modality.AUDIO, video_id), rate_hz=settings.rate_hz)
        if samples is None or not len(samples):
            return False
        power_db = decibels(mel_power(torch.from_numpy(samples), settings)).numpy().astype(np.float16)
        arrays = {"power_db": power_db, "hop_s": np.array(settings.hop_s), "start_s": np.array(0.0)}
        write_arrays(store.media_path(Modality.SPECTROGRAM_FRAMES, video_id), arrays)
        return True
