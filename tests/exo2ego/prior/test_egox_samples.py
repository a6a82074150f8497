"""Samples of EgoX takes: read when they are asked for, and not kept."""

import torch

from egoloom.augmentation.generator_inputs import find_takes, training_samples
from egoloom.clips.media import write_video
from egoloom.exo2ego.latent_manifest import origins


def test_a_take_is_read_anew_each_time_and_kept_by_no_one(egox_folder, room) -> None:
    folder = egox_folder()
    assert len(training_samples([folder], 64, 5, 3, [])) == 0  # no recorded ego view
    (take,) = find_takes(folder, 64, 5)
    first, fps = take.sample()
    assert (take.name, first.name, first.truth_TCHW) == ("room", "room", None)
    assert first.exo_TCHW.shape == (5, 3, 64, 88)
    assert abs(fps - 20 * 5 / 6) < 0.01
    write_video(folder / "videos" / "room" / "exo.mp4", 255 - room.frames[[0, 0, 1, 2, 3, 4]], 20, crf=4)
    second = take.sample()[0]
    error = (second.exo_TCHW.float() - (255 - first.exo_TCHW.float())).abs().mean()
    assert error < 6


def test_recordings_and_poses_make_the_origin(egox_folder) -> None:
    folder = egox_folder(ego_gt_path="videos/room/exo.mp4")
    samples = training_samples([folder], 64, 5, 3, [])
    before = origins(samples)
    exo, truth = samples.sources[0].read_videos()
    assert torch.equal(exo, samples[0].exo_TCHW)
    assert torch.equal(truth, samples[0].truth_TCHW)
    meta = folder / "meta.json"
    meta.write_text(meta.read_text().replace('"a room"', '"another room"'))
    assert origins(training_samples([folder], 64, 5, 3, [])) != before
