"""What training is fed with: stores of several kinds, buckets, sample videos, the average of the weights."""

import json
from collections import Counter
from pathlib import Path

import torch

from egoloom.cli.exo2ego import main
from egoloom.clips.media import VideoReader
from egoloom.exo2ego.training_cache import ClipBatches, cache_clips
from egoloom.exo2ego.training_state import MovingAverage


def test_stores_are_mixed_and_sample_videos_appear_at_intervals(
    wall_store: Path, egox_folder, tmp_path: Path, capsys
) -> None:
    """A clip store with 17 frames a clip and a folder in the EgoX layout with 5: buckets of two lengths."""
    run = tmp_path / "run"
    words = ["train", "tiny-lora", "--store", str(wall_store), str(egox_folder(5)), "--out", str(run), "--json"]
    main([*words, "--steps", "4", "--sample-every", "2"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["num_clips"] == 2 + 1
    assert sorted(path.name for path in (run / "samples").iterdir()) == ["step_000002.mp4", "step_000004.mp4"]
    for path in (run / "samples").iterdir():
        with VideoReader(path) as reader:
            assert reader.all_frames().shape == (17, 3, 64, 64)


def test_batches_hold_one_aspect_and_length_and_reach_every_clip(pipeline, make_sample) -> None:
    kinds = [(5, 48), (5, 48), (9, 48), (9, 64), (9, 64), (9, 64)]
    clips = [make_sample(frames, exo_width=width, seed=seed) for seed, (frames, width) in enumerate(kinds)]
    batches = ClipBatches(cache_clips(pipeline, clips), 2, torch.Generator().manual_seed(0))
    drawn = [batches.draw() for _ in range(300)]
    assert all(len(batch.truth) == 2 for batch in drawn)
    shapes = Counter((batch.layout.num_frames, batch.layout.exo_width / batch.layout.ego_width) for batch in drawn)
    # A bucket is drawn as often as it has clips: 2, 1 and 3 of 6.
    expected = Counter((1 + (frames - 1) // 4, width / 32) for frames, width in kinds)
    assert shapes.keys() == expected.keys()
    assert all(abs(count / 300 - expected[kind] / 6) < 0.1 for kind, count in shapes.items())
    assert len({float(batch.truth[row].sum()) for batch in drawn for row in range(2)}) == len(clips)


def test_the_average_of_the_weights_by_hand() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    average, expected = MovingAverage({"w": weight}, 0.9), 0.0
    for step in range(1, 40):
        weight.data.fill_(float(step))
        average.update({"w": weight})
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    torch.testing.assert_close(average.values["w"], torch.tensor([expected]))
    average.copy_to({"w": weight})
    torch.testing.assert_close(weight.data, torch.tensor([expected]))
