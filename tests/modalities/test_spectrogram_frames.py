"""Windows of sound around frames: cut from the track as the reference computes them from samples, and as samples."""

import numpy as np
import pytest
import torch

from egoloom.cli.main import main
from egoloom.clips import ClipStore, Modality
from egoloom.clips.dataset import ClipDataset, collate, entries_of
from egoloom.clips.media import write_audio
from egoloom.clips.tracks import TrackReader
from egoloom.clips.transforms import ViewConfig
from egoloom.modalities.spectrogram import reference_windows
from egoloom.models import create_model

TIMES = np.array([0.003, 0.603, 0.903, 3.003])  # the windows begin on the grid of the track's columns


@pytest.fixture
def noisy_store(store) -> tuple[ClipStore, np.ndarray]:
    samples = (np.random.default_rng(2).normal(size=16_000) * np.linspace(0.01, 0.3, 16_000)).astype(np.float32)
    write_audio(store.media_path(Modality.AUDIO, "v0"), samples, 16_000)
    main(["modalities", "spectrogram-frames", "--store", str(store.path)])
    assert [Modality.SPECTROGRAM_FRAMES in clip.present for clip in ClipStore.open(store.path).clips] == [1, 1, 0]
    return ClipStore.open(store.path), samples


def test_windows_are_those_of_the_reference(noisy_store):
    store, samples = noisy_store
    ours = TrackReader(store).spectrogram_frames("v0", TIMES, 224)
    assert ours.shape == (4, 3, 224, 224)
    assert (ours[:, 0] == ours[:, 2]).all()
    rows = np.minimum(np.arange(224) * 128 // 224, 127)  # nearest neighbour
    theirs = reference_windows(samples, TIMES).numpy()[:, rows]
    assert (ours[3] == -100).all()  # beyond the recording
    for time_s, picture, window in zip(TIMES[:3], ours[:3, 0], theirs, strict=False):
        seconds = time_s - 0.558 + 0.005 * np.arange(224)
        inside = (seconds > 0.02) & (seconds < 0.98)  # at its ends a recording is reflected, a window is silent
        inside[:8] = inside[-8:] = False
        loud = window[:, inside] > -60  # float16, and 16 bit of sound
        assert loud.mean() > 0.9
        np.testing.assert_allclose(picture[:, inside][loud], window[:, inside][loud], atol=0.6)


def test_the_published_network_reads_them(noisy_store):
    store, _ = noisy_store
    view = ViewConfig(num_frames=4, size_px=64)
    dataset = ClipDataset(entries_of(store), [Modality.SPECTROGRAM_FRAMES], view, is_training=True)
    batch = collate([dataset[(index, 0)] for index in range(3)])
    assert batch["present"]["spectrogram_frames"].tolist() == [True, True, False]
    small = {"embed_dim": 12, "depths": (1, 1), "num_attention_heads": (1, 2), "window": (2, 4, 4)}
    network = create_model("video_swin_t", num_classes={"action": 3}, input_modality="spectrogram_frames", **small)
    logits = network.eval()(batch["inputs"])["action"]
    assert logits.shape == (3, 3)
    assert bool(torch.isfinite(logits).all())
    assert (logits[0] != logits[1]).any()
