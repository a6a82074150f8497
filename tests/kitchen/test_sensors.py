"""Sound, detector and inertial sensor: statistics of their noise, and derived tracks against independent formulas."""

import numpy as np
import pytest
import scipy.signal

from egoloom.kitchen import KitchenSettings, render_clip
from egoloom.kitchen.boxes import detect, true_extents
from egoloom.kitchen.plan import clip_rng
from egoloom.kitchen.scene import Instance
from egoloom.kitchen.settings import NoiseSettings
from egoloom.kitchen.tracks import log_mel, mel_filters
from egoloom.kitchen.vocabulary import DETECTOR_CATEGORIES

SMALL = KitchenSettings(ego_size_px=48, exo_width_px=48, exo_height_px=48, fps=4)
CLEAN = SMALL.model_copy(update={"noise": NoiseSettings.none()})


def test_a_perfect_detector_reports_the_visible_extent():
    clip = render_clip(CLEAN, 1)
    table = clip.boxes["ego"]
    for row in range(0, len(table.track), 7):
        frame = int(np.argmin(np.abs(clip.times_s - table.time_s[row])))
        rows, cols = np.nonzero(clip.ego.ids[frame] == table.track[row])
        np.testing.assert_allclose(table.boxes[row], [cols.min(), rows.min(), cols.max() + 1, rows.max() + 1])
        assert table.category[row] == clip.instances[table.track[row]].category


def test_the_detector_misses_jitters_and_confuses_as_often_as_said():
    ids = np.zeros((30, 40, 40), np.uint8)
    ids[:, 10:30, 12:28] = 1
    instances = [Instance("nothing", ""), Instance("mug", "mug")]
    times = np.arange(30) / 15
    noise = NoiseSettings.none().model_copy(update={"box_miss": 0.25, "box_jitter": 0.05, "box_confusion": 0.2})
    settings = SMALL.model_copy(update={"noise": noise})
    seen, wrong, shift = [], [], []
    for index in range(300):
        table = detect(settings, ids, times, instances, clip_rng(settings, index, "boxes"))
        mine = table.track == 1
        seen.append(mine.sum() / 30)
        if mine.any():
            wrong.append(np.array(table.category)[mine][0] != "mug")
            shift.append((table.boxes[mine][:, 0] - 12) / 16)
    assert np.mean(seen) == pytest.approx(0.75, abs=0.03)
    assert np.mean(wrong) == pytest.approx(0.2, abs=0.06)
    assert np.std(np.concatenate(shift)) == pytest.approx(0.05, rel=0.1)


def test_the_detector_has_no_word_that_gives_a_class_away():
    assert not {"water", "slice", "stream", "steam"} & set(DETECTOR_CATEGORIES)
    clip = render_clip(SMALL, 0)
    for table in clip.boxes.values():
        assert set(table.category) <= set(DETECTOR_CATEGORIES)
        assert (table.boxes[:, 2:] > table.boxes[:, :2]).all()
        assert table.boxes.min() >= 0
        assert table.boxes.max() <= 48


def test_extents_of_an_absent_id_are_empty():
    assert true_extents(np.zeros((1, 4, 4), np.uint8), 2)[0, 1].tolist() == [4, 4, 0, 0, 0]


def test_log_mel_agrees_with_scipy():
    rng = np.random.default_rng(0)
    audio = rng.standard_normal(16000).astype(np.float32) * 0.1
    ours = log_mel(audio, 16000)
    assert ours.shape == (100, 64)
    window = np.hanning(400)
    _, _, spectrum = scipy.signal.stft(
        audio, 16000, window=window, nperseg=400, noverlap=240, nfft=512, boundary="zeros", padded=True
    )
    power = (np.abs(spectrum) * window.sum()) ** 2 / 512
    theirs = np.log(mel_filters(16000, 257) @ power + 1e-6).T
    np.testing.assert_allclose(ours[2:98], theirs[2:98], atol=0.03)


def test_mel_filters_cover_the_band_without_holes():
    bank = mel_filters(16000, 2049)
    assert bank.shape == (64, 2049)
    assert (bank[:, 30:-80].sum(0) > 0.4).all()


def test_silent_clips_have_no_sound_and_their_share_is_as_said():
    silent = SMALL.model_copy(update={"noise": SMALL.noise.model_copy(update={"silent_share": 1.0})})
    assert render_clip(silent, 0).audio is None
    loud = render_clip(CLEAN, 0).audio
    assert loud is not None
    assert len(loud) == 32000
    assert np.abs(loud).max() <= 1


def test_imu_noise_and_bias_have_the_stated_size():
    noisy = CLEAN.model_copy(
        update={"noise": CLEAN.noise.model_copy(update={"imu_gyro_sigma": 0.05, "imu_gyro_bias": 0.1})}
    )
    difference = render_clip(noisy, 3).imu.gyro - render_clip(CLEAN, 3).imu.gyro
    assert difference.std(0) == pytest.approx(0.05, rel=0.15)
    assert 0.01 < np.abs(difference.mean(0)).max() < 0.4
