"""Takes are read when they are asked for, and what is cached of them knows what it was read from."""

from pathlib import Path

import pytest
import torch

from egoloom.augmentation.generator_inputs import find_takes, training_samples
from egoloom.clips import ClipStore, Modality
from egoloom.errors import UserError
from egoloom.exo2ego.latent_manifest import origins


def splits_of(store: ClipStore) -> set[str]:
    return {clip.split for clip in store.select(view="exo")}


def test_samples_are_read_when_they_are_asked_for(own_kitchen) -> None:
    samples = training_samples([own_kitchen.path], 64, 5, 3, splits_of(own_kitchen))
    takes = find_takes(own_kitchen.path, 64, 5)
    assert (len(samples), len(takes)) == (3, 6)
    video = own_kitchen.videos[own_kitchen.select(view="exo")[1].video_id]
    own_kitchen.media_path(Modality.DEPTH, video.video_id).unlink()
    sample, fps = takes[0].sample()
    assert samples[0].name == sample.name == takes[0].name == own_kitchen.select(view="exo")[0].clip_id
    assert fps == 5
    for read in (lambda: samples[1], takes[1].sample):
        with pytest.raises(UserError, match="depth"):
            read()
    with pytest.raises(IndexError):
        samples[3]


def test_videos_alone_are_those_of_the_samples(kitchen) -> None:
    samples = training_samples([kitchen.path], 56, 5, 2, splits_of(kitchen))
    videos = samples.videos()
    assert len(videos) == 4
    for index, sample in enumerate(samples):
        assert sample.truth_TCHW is not None
        assert torch.equal(videos[2 * index], sample.exo_TCHW)
        assert torch.equal(videos[2 * index + 1], sample.truth_TCHW)
    assert videos[0].shape == (5, 3, 56, 96)


def test_origins_know_sizes_recordings_and_nothing_of_the_place(own_kitchen, kitchen) -> None:
    splits = splits_of(kitchen)

    def read(path: Path, size_px: int = 64, num_frames: int = 5) -> list[str]:
        return origins(training_samples([path], size_px, num_frames, 3, splits))

    first = read(kitchen.path)
    assert len(set(first)) == 3
    assert read(own_kitchen.path) == first
    assert not {*read(kitchen.path, size_px=56), *read(kitchen.path, num_frames=9)} & {*first}
    video = own_kitchen.videos[own_kitchen.select(view="exo")[1].video_id]
    with own_kitchen.media_path(Modality.RGB, video.video_id).open("ab") as file:
        file.write(b"0")
    changed = read(own_kitchen.path)
    assert [one == other for one, other in zip(changed, first, strict=True)] == [True, False, True]


def test_several_stores_and_only_takes_with_a_recorded_ego_view(kitchen) -> None:
    splits = splits_of(kitchen)
    assert len(training_samples([kitchen.path, kitchen.path], 64, 5, 2, splits)) == 4
    assert all(take.has_truth for take in find_takes(kitchen.path, 64, 5, splits=splits))
    with pytest.raises(UserError, match="in the splits nowhere"):
        training_samples([kitchen.path], 64, 5, 2, ["nowhere"])
    with pytest.raises(UserError, match="--num-frames 0"):
        training_samples([kitchen.path], 64, 0, 2, splits)
