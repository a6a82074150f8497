"""Tracks of generated clips: the synthesised IMU against the kitchen's true one, sound, boxes, and their marks."""

import dataclasses

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from egoloom.augmentation.generate import AugmentationConfig, generate_clips
from egoloom.augmentation.generators import open_generator
from egoloom.augmentation.other_modalities import add_modalities, imu_from_trajectory
from egoloom.augmentation.samples import generator_prior_config
from egoloom.cameras import PosedCamera
from egoloom.clips import Modality
from egoloom.clips.media import read_audio, read_table, write_audio
from egoloom.clips.tables import write_clips
from egoloom.errors import UserError

AXES = ("ax", "ay", "az", "gx", "gy", "gz")


def test_the_imu_of_a_trajectory_is_that_of_the_head(kitchen):
    """Rotation as it is, acceleration smoothed over 50 ms, in most clips: jolts fall between 15 poses a second."""
    made, true = [], []
    for clip in kitchen.select(view="ego"):
        camera = PosedCamera.from_dict(kitchen.load_calibration(clip.video_id))
        table = imu_from_trajectory(camera, clip.start_s, clip.end_s, up_world=np.array([0.0, 0.0, 1.0]))
        truth = read_table(kitchen.media_path(Modality.IMU, clip.video_id))
        for found, source in ((made, table), (true, truth)):
            values = np.stack([source[name] for name in AXES], axis=1).astype(float)
            values[:, :3] = gaussian_filter1d(values[:, :3], 10, axis=0)
            found.append(values[40:150])  # a spline knows less of the curvature at both ends
    for axis in range(6):
        each = [np.corrcoef(a[:, axis], b[:, axis])[0, 1] for a, b in zip(made, true, strict=True)]
        assert np.median(each) > (0.8 if axis < 3 else 0.9), AXES[axis]
    made, true = np.concatenate(made), np.concatenate(true)
    assert np.median(np.abs(made[:, :3] - true[:, :3])) < 0.3  # m/s^2
    assert np.median(np.abs(made[:, 3:] - true[:, 3:])) < 0.03  # rad/s


def test_at_rest_the_imu_reads_gravity():
    pose = np.eye(4)
    pose[:3, :3] = [[1, 0, 0], [0, 0, 1], [0, -1, 0]]  # level: camera y down is world -z
    camera = PosedCamera.from_dict(
        {
            "model": "pinhole",
            "params": [50, 50, 32, 32],
            "image_size": [64, 64],
            "T_world_camera": {"times_s": [0, 0.5, 1.0, 1.5], "T_world_camera": [pose.tolist()] * 4},
        }
    )
    table = imu_from_trajectory(camera, 0.0, 1.0, up_world=np.array([0.0, 0.0, 1.0]))
    np.testing.assert_allclose(np.stack([table[n] for n in AXES[:3]], 1), [[0, -9.81, 0]] * 200, atol=1e-5)
    np.testing.assert_allclose(np.stack([table[n] for n in AXES[3:]], 1), 0, atol=1e-6)
    with pytest.raises(UserError, match="too few"):
        imu_from_trajectory(
            dataclasses.replace(camera, trajectory=camera.trajectory.fixed(camera.trajectory.T_world_camera[0])),
            0.0,
            1.0,
            up_world=np.array([0.0, 0.0, 1.0]),
        )


def test_generated_clips_get_what_can_be_had_and_say_where_it_is_from(own_kitchen, tmp_path):
    tone = np.sin(np.arange(16000) / 16000 * 2 * np.pi * 440).astype(np.float32) * 0.5
    first = own_kitchen.select(view="exo")[0]
    write_audio(own_kitchen.media_path(Modality.AUDIO, first.video_id), tone, 16000)
    heard = [
        dataclasses.replace(clip, present=clip.present | {Modality.AUDIO}) if clip == first else clip
        for clip in own_kitchen.clips
    ]
    write_clips(own_kitchen.path / "clips.parquet", heard)
    own_kitchen.reload()
    pipeline, name = open_generator("inpainting")
    config = AugmentationConfig(num_frames=9, prior=generator_prior_config(is_metric=True))
    clips = own_kitchen.select(view="exo")[:2]
    store = generate_clips(own_kitchen, clips, pipeline, tmp_path / "out", generator=name, config=config).store
    add_modalities(store)
    loud, silent = store.clips
    expected = {Modality.RGB, Modality.FLOW, Modality.IMU, Modality.BOXES}
    assert loud.present == expected | {Modality.AUDIO, Modality.SPECTROGRAM}
    assert silent.present == expected
    assert loud.extra["modality_audio"] == "carried over from the exo recording"
    assert "simulated" in silent.extra["modality_imu"]
    assert "modality_audio" not in silent.extra
    sound = read_audio(store.media_path(Modality.AUDIO, loud.video_id), rate_hz=16000)
    assert sound is not None
    assert np.abs(sound[:16000] - tone).max() < 1e-3
    boxes = read_table(store.media_path(Modality.BOXES, loud.video_id))
    assert boxes["x2"].max() <= 64
    assert store.validate() == []
    before = store.clips
    add_modalities(store)
    assert store.clips == before
