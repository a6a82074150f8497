"""Writing a store: complete, valid, resumable, parallel, and polite about wrong input and a full disk."""

import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from egoloom.clips import ClipStore, Modality
from egoloom.clips.media import VideoReader, read_arrays, read_audio, read_table
from egoloom.errors import UserError
from egoloom.kitchen import KitchenSettings, make_store, render_clip
from egoloom.kitchen.settings import NoiseSettings

SETTINGS = KitchenSettings(ego_size_px=32, exo_width_px=48, exo_height_px=32, fps=4, duration_s=1.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("kitchen") / "store", num_clips=5, settings=SETTINGS, seed=2)


def test_every_take_has_an_ego_and_an_exo_clip_with_the_same_times(store):
    assert store.validate(decode=True) == []
    takes = Counter(clip.take_id for clip in store.clips)
    assert set(takes.values()) == {2}
    for take in takes:
        ego, exo = (next(c for c in store.clips if c.take_id == take and c.view == view) for view in ("ego", "exo"))
        assert (ego.start_s, ego.end_s, ego.action, ego.split) == (exo.start_s, exo.end_s, exo.action, exo.split)
        assert {
            Modality.RGB,
            Modality.FLOW,
            Modality.DEPTH,
            Modality.IDS,
            Modality.EXACT_FLOW,
            Modality.BOXES,
        } <= exo.present
        assert Modality.IMU in ego.present
        assert Modality.IMU not in exo.present


def test_clips_say_what_each_hand_holds(store):
    names = store.class_names("left_hand_object")
    assert names == store.class_names("right_hand_object")
    expected = {"pour water": ("mug", "bottle"), "cut bread": ("bread", "knife"), "open drawer": ("none", "drawer")}
    for clip in store.clips:
        left, right = clip.left_hand_object, clip.right_hand_object
        assert (left >= 0 and right >= 0) == (clip.action >= 0)
        held = (names[left], names[right])
        if clip.action >= 0:
            assert held == expected.get(clip.narration, held)
            assert held[1] != "none"  # all actions of the kitchen need the right hand


def test_stored_media_hold_what_was_rendered(store):
    clip = next(c for c in store.select(view="ego") if Modality.AUDIO in c.present)
    index = int(clip.take_id.split("_")[1])
    truth = render_clip(SETTINGS.model_copy(update={"seed": 2}), index)
    with VideoReader(store.media_path(Modality.RGB, clip.video_id)) as reader:
        frames = reader.all_frames()
    assert frames.shape == truth.ego.rgb.shape
    assert np.abs(frames.astype(int) - truth.ego.rgb).mean() < 12  # H.264 at crf 20, small and noisy pictures
    np.testing.assert_array_equal(read_arrays(store.media_path(Modality.IDS, clip.video_id))["ids"], truth.ego.ids)
    depth = read_arrays(store.media_path(Modality.DEPTH, clip.video_id))["depth_m"]
    np.testing.assert_allclose(depth, truth.ego.depth_m, rtol=1e-3)
    table = read_table(store.media_path(Modality.BOXES, clip.video_id))
    np.testing.assert_allclose(table["x1"], truth.boxes["ego"].boxes[:, 0], atol=1e-5)
    np.testing.assert_allclose(
        read_table(store.media_path(Modality.IMU, clip.video_id))["az"], truth.imu.accel[:, 2], atol=1e-6
    )
    sound = read_audio(store.media_path(Modality.AUDIO, clip.video_id), rate_hz=16000)
    np.testing.assert_allclose(sound, truth.audio, atol=1e-4)
    calibration = store.load_calibration(clip.video_id)
    np.testing.assert_allclose(calibration["T_world_camera"]["T_world_camera"], truth.ego.T_world_camera, atol=1e-12)


def test_pool_clips_hide_their_label(tmp_path):
    settings = SETTINGS.model_copy(
        update={"splits": SETTINGS.splits.model_copy(update={"train": 0.0, "unlabelled": 0.58})}
    )
    pool = make_store(tmp_path / "pool", num_clips=3, settings=settings).select(split="unlabelled", view=None)
    assert pool
    for clip in pool:
        assert (clip.verb, clip.noun, clip.action, clip.narration) == (-1, -1, -1, "")
        assert clip.extra["true_action"]


def test_an_interrupted_run_continues_without_gap_or_duplicate(tmp_path):
    def stop_after_two(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_store(tmp_path / "store", num_clips=4, settings=SETTINGS, on_progress=stop_after_two)
    assert len(ClipStore.open(tmp_path / "store").clips) == 4
    full = make_store(tmp_path / "store", num_clips=4, settings=SETTINGS)
    assert sorted({clip.take_id for clip in full.clips}) == [f"take_{k:06d}" for k in range(4)]
    assert len(full.clips) == 8


@pytest.mark.slow
def test_two_processes_write_what_one_writes(store, tmp_path):
    both = make_store(tmp_path / "store", num_clips=5, settings=SETTINGS, seed=2, num_workers=2)
    assert sorted(map(repr, both.clips)) == sorted(map(repr, store.clips))
    for clip in both.clips:
        for modality, name in ((Modality.IDS, "ids"), (Modality.DEPTH, "depth_m"), (Modality.EXACT_FLOW, "flow_px")):
            one, two = (read_arrays(s.media_path(modality, clip.video_id))[name] for s in (store, both))
            np.testing.assert_array_equal(one, two)


def test_a_store_grows_with_the_same_settings_and_refuses_others(store, tmp_path):
    make_store(tmp_path / "grown", num_clips=1, settings=SETTINGS)
    assert len(make_store(tmp_path / "grown", num_clips=2, settings=SETTINGS).clips) == 4
    with pytest.raises(UserError, match="other settings"):
        make_store(tmp_path / "grown", num_clips=2, settings=SETTINGS, seed=9)


@pytest.mark.parametrize(
    ("wrong", "said"), [({"num_clips": 0}, "number of clips"), ({"num_clips": 3, "num_workers": 0}, "processes")]
)
def test_counts_out_of_range_are_refused(tmp_path, wrong, said):
    with pytest.raises(UserError, match=said):
        make_store(tmp_path / "store", settings=SETTINGS, **wrong)


def test_a_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(UserError, match="not an EgoLoom clip store"):
        make_store(tmp_path, num_clips=1, settings=SETTINGS)
    assert (tmp_path / "letter.txt").read_text() == "mine"


def test_a_disk_that_fills_up_gives_a_clear_error_and_a_valid_store(tmp_path):
    """Files may not grow beyond 3 kB in the child process: every write of media then fails as on a full disk."""
    make_store(tmp_path / "store", num_clips=1, settings=SETTINGS)
    code = (
        "import resource, sys\n"
        "from egoloom.kitchen import KitchenSettings, make_store, render_clip\n"
        "from egoloom.errors import UserError\n"
        f"settings = KitchenSettings.model_validate_json({SETTINGS.model_dump_json()!r})\n"
        "render_clip(settings, 0)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        "try:\n"
        "    make_store(sys.argv[1], num_clips=3, settings=settings)\n"
        "except UserError as error:\n"
        "    print('refused:', error)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "store")]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "NUMBA_DEBUG_CACHE": "0"}
    )
    assert "refused: Cannot write" in done.stdout, done.stderr[-500:]
    store = ClipStore.open(tmp_path / "store")
    assert store.validate(decode=True) == []
    assert len(store.clips) == 2
    assert len(make_store(tmp_path / "store", num_clips=3, settings=SETTINGS).clips) == 6


def test_monocular_depth_is_affine_in_inverse_depth_and_has_holes(tmp_path):
    settings = SETTINGS.model_copy(update={"monocular_depth": True, "noise": NoiseSettings.none()})
    store = make_store(tmp_path / "mono", num_clips=1, settings=settings)
    arrays = read_arrays(store.media_path(Modality.DEPTH, "take_000000_exo"))
    guess, true = arrays["depth_m"].astype(float), arrays["true_depth_m"].astype(float)
    assert 0.002 < (guess == 0).mean() < 0.4
    fits = []
    for t in range(len(guess)):
        valid = (guess[t] > 0) & (true[t] > 0)
        slope, offset = np.polyfit(1 / true[t][valid], 1 / guess[t][valid], 1)
        fits.append((slope, offset))
        assert np.corrcoef(1 / true[t][valid], 1 / guess[t][valid])[0, 1] > 0.95
    assert np.std([fit[0] for fit in fits]) > 1e-3  # every frame has its own error
