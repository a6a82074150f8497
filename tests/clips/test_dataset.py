"""Views: the same for the same seed, geometry shared between RGB, flow and boxes, missing modalities marked."""

import dataclasses
import json

import numpy as np
import pytest

from egoloom.clips import Clip, ClipStore, Modality
from egoloom.clips.dataset import ClipDataset, ClipEntry, batches, entries_of
from egoloom.clips.tracks import TrackReader
from egoloom.clips.transforms import ColourPlan, SpatialPlan, ViewConfig
from egoloom.errors import UserError

VIEW = ViewConfig(num_frames=4, size_px=32, max_boxes=3, num_spectrogram_columns=20)
ALL = (Modality.RGB, Modality.FLOW, Modality.SPECTROGRAM, Modality.BOXES)


def test_a_view_depends_on_clip_and_seed_only(square_store):
    entries = entries_of(square_store, split="train")
    one = ClipDataset(entries, ALL, VIEW, is_training=True)
    other = ClipDataset(entries[::-1], ALL, VIEW, is_training=True, cache_bytes=10**8)
    a, b = one[(0, 5)], other[(len(entries) - 1, 5)]
    assert a["clip_id"] == b["clip_id"]
    np.testing.assert_array_equal(a["inputs"]["rgb"], b["inputs"]["rgb"])
    np.testing.assert_array_equal(a["inputs"]["flow"], b["inputs"]["flow"])
    assert (a["inputs"]["rgb"] != one[(0, 6)]["inputs"]["rgb"]).any()


def test_rgb_flow_and_boxes_move_together():
    rng = np.random.default_rng(0)
    view = ViewConfig(size_px=64, flip_probability=0.5, colour_jitter=0.0, hue_jitter=0.0)
    for _ in range(20):
        plan = SpatialPlan.random(100, 140, view, rng)
        x, y = (
            rng.integers(plan.left + 8, plan.left + plan.side - 20),
            rng.integers(plan.top + 8, plan.top + plan.side - 20),
        )
        frames = np.zeros((1, 3, 100, 140), np.uint8)
        grey = np.full((1, 2, 100, 140), 128, np.uint8)
        frames[0, :, y : y + 12, x : x + 12] = 255
        grey[0, 0, y : y + 12, x : x + 12] = 148
        box = plan.boxes(np.array([x, y, x + 12, y + 12], np.float32)) * 64
        lit_y, lit_x = np.nonzero(plan.rgb(frames)[0, 0] > 127)
        np.testing.assert_allclose([lit_x.min(), lit_y.min(), lit_x.max() + 1, lit_y.max() + 1], box, atol=1.01)
        moved = plan.flow(grey)[0]
        centre = moved[0, int(box[1::2].mean()), int(box[::2].mean())]
        expected = 128 + 20 * plan.zoom * (-1 if plan.flip else 1)
        assert abs(float(centre) - expected) <= 1
        assert (moved[2] == 0).all()


def test_colours_of_the_identity_plan_do_not_change():
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8), dtype=np.uint8)
    np.testing.assert_array_equal(ColourPlan().rgb(frames), frames)
    brighter = ColourPlan(brightness=1.25).rgb(frames)
    np.testing.assert_allclose(brighter, np.clip(frames * 1.25, 0, 255), atol=1)


@pytest.mark.parametrize("mirrored", [[1, 0, 3, 2], [-1, 0, 3, 2], []])
def test_a_mirrored_view_shows_what_its_label_says(square_store, mirrored):
    """Even classes move right, odd ones left: a mirrored clip changes class, and stays as it is where no class fits."""
    info = square_store.info.model_copy(update={"extra": {"mirrored_action": json.dumps(mirrored)}})
    view = VIEW.model_copy(update={"flip_probability": 1.0})
    entries = entries_of(ClipStore(square_store.path, info), split="train")
    dataset = ClipDataset(entries, [Modality.FLOW], view, is_training=True)
    for index, (_, clip) in enumerate(entries):
        sample = dataset[(index, 3)]
        is_mirrored = not mirrored or mirrored[clip.action] >= 0
        assert sample["labels"]["action"] == (mirrored[clip.action] if mirrored and is_mirrored else clip.action)
        moves_right = sample["inputs"]["flow"][:, 0].mean() > 128
        assert moves_right == ((clip.action % 2 == 0) != is_mirrored)


def test_a_mirrored_view_swaps_the_hands(square_store):
    held = dataclasses.replace(square_store.clips[0], left_hand_object=1, right_hand_object=2)
    for probability, expected in ((1.0, (2, 1)), (0.0, (1, 2))):
        view = VIEW.model_copy(update={"flip_probability": probability})
        dataset = ClipDataset([ClipEntry(square_store, held)], [Modality.RGB], view, is_training=True)
        labels = dataset[(0, 3)]["labels"]
        assert (labels["left_hand_object"], labels["right_hand_object"]) == expected


def test_a_list_of_mirrored_classes_that_does_not_fit_is_refused(square_store):
    for text in ("[1, 0]", "[9, 0, 1, 2]", '["a", 0, 1, 2]', "{"):
        info = square_store.info.model_copy(update={"extra": {"mirrored_action": text}})
        with pytest.raises(UserError, match="mirrored_action"):
            _ = ClipStore(square_store.path, info).mirrored_actions


def test_regular_crops_divide_the_longer_side():
    view = ViewConfig(size_px=32)
    lefts = [SpatialPlan.regular(48, 96, view, crop, 3).left for crop in range(3)]
    assert lefts == [0, 24, 48]
    assert SpatialPlan.regular(48, 96, view).left == 24


def test_regular_views_enumerate_clips_and_crops(square_store):
    entries = entries_of(square_store, split="test")
    dataset = ClipDataset(entries, [Modality.RGB], VIEW, is_training=False, num_test_clips=2, num_test_crops=3)
    assert dataset.num_views == 6
    pictures = [dataset[(0, view)]["inputs"]["rgb"] for view in range(6)]
    assert (pictures[0] != pictures[3]).any()  # another moment


def test_a_missing_modality_is_marked(square_store):
    bare = dataclasses.replace(square_store.clips[0], present=frozenset({Modality.RGB}))
    dataset = ClipDataset(
        [ClipEntry(square_store, bare), ClipEntry(square_store, square_store.clips[1])], ALL, VIEW, is_training=True
    )
    batch = next(batches(dataset, [(0, 0), (1, 0)], 2))
    assert batch["present"]["flow"].tolist() == [False, True]
    assert batch["present"]["rgb"].tolist() == [True, True]
    assert batch["inputs"]["boxes"]["pad_mask"][0].all()
    assert batch["inputs"]["rgb"].shape == (2, 4, 3, 32, 32)
    assert batch["inputs"]["spectrogram"].shape == (2, 1, 16, 20)


def test_unknown_or_absent_modalities_and_empty_splits_are_refused(square_store):
    entries = entries_of(square_store, split="test")
    with pytest.raises(UserError, match="egoloom modalities imu"):
        ClipDataset(entries, [Modality.IMU], VIEW, is_training=True)
    with pytest.raises(UserError, match="cannot read"):
        ClipDataset(entries, [Modality.DEPTH], VIEW, is_training=True)
    with pytest.raises(UserError, match="split is empty"):
        ClipDataset([], [Modality.RGB], VIEW, is_training=True)


def test_cached_and_direct_reading_agree(square_store):
    times = np.array([0.0, 0.55, 1.9, 1.999])
    direct, cached = TrackReader(square_store), TrackReader(square_store, cache_bytes=10**8)
    video_id = square_store.clips[0].video_id
    np.testing.assert_array_equal(direct.rgb(video_id, times), cached.rgb(video_id, times))
    np.testing.assert_array_equal(direct.flow(video_id, times), cached.flow(video_id, times))


def test_the_cache_stays_within_its_budget(square_store):
    reader = TrackReader(square_store, cache_bytes=5 * 20 * 48 * 48 * 3)
    for clip in square_store.clips[:12]:
        reader.rgb(clip.video_id, np.array([0.0]))
    assert reader._held_bytes <= 5 * 20 * 48 * 48 * 3


def test_spectrogram_windows_are_cut_padded_and_resampled(square_store):
    reader, video_id = TrackReader(square_store), square_store.clips[0].video_id
    whole = reader.spectrogram(video_id, 0.0, 2.0, 40)
    assert whole.shape == (1, 16, 40)
    np.testing.assert_array_equal(reader.spectrogram(video_id, 0.5, 1.0, 10), whole[:, :, 10:20])
    padded = reader.spectrogram(video_id, 1.5, 2.0, 30)
    np.testing.assert_allclose(padded[:, :, 10:], np.log(1e-6), rtol=1e-6)
    halved = reader.spectrogram(video_id, 0.0, 2.0, 20)
    np.testing.assert_array_equal(halved[:, :, [0, -1]], whole[:, :, [0, -1]])


def test_boxes_come_at_the_nearest_annotated_time(square_store):
    reader = TrackReader(square_store)
    clip: Clip = square_store.clips[2]
    found = reader.boxes(clip.video_id, np.array([0.52, 50.0]), 2)
    np.testing.assert_allclose(found["boxes"][0, 0], [12.0, 18.0, 24.0, 30.0])
    assert found["pad_mask"].tolist() == [[False, True], [True, True]]
    assert found["classes"].tolist() == [[2, 0], [0, 0]]  # the second class that the store names
