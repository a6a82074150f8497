"""The store: what goes in comes out, what is wrong is refused, and nothing is half-written."""

import dataclasses
import json
from fractions import Fraction

import numpy as np
import pyarrow.parquet as pq
import pytest

from egoloom.clips import Clip, ClipStore, Modality, Video
from egoloom.clips.files import atomic_path
from egoloom.clips.media import write_video
from egoloom.errors import UserError

LABELS = {"verb": ["open"], "noun": ["drawer"], "action": ["open drawer"]}


@pytest.fixture
def store(tmp_path) -> ClipStore:
    return ClipStore.create(tmp_path / "store", name="s", source="test", label_spaces=LABELS, splits=["train"])


def add_video(store: ClipStore, video_id: str = "v", num_frames: int = 10) -> Video:
    write_video(
        store.media_path(Modality.RGB, video_id), np.zeros((num_frames, 3, 16, 16), np.uint8), Fraction(30000, 1001)
    )
    duration = num_frames * 1001 / 30000
    return Video(video_id, f"media/rgb/{video_id}.mp4", Fraction(30000, 1001), 16, 16, num_frames, duration)


def clip(**changes) -> Clip:
    plain = Clip("c", "v", "p", "ego", "", 0.0, 0.3, "train", 0, 0, 0, extra={"note": "ü"}, quality=0.5)
    return dataclasses.replace(plain, **changes)


def test_rows_survive_a_round_trip(store):
    video = add_video(store)
    store.append(videos=[video], clips=[clip()])
    again = ClipStore.open(store.path)
    assert again.clips == [clip()]
    assert again.videos == {"v": video}
    assert again.info == store.info
    assert again.validate(decode=True) == []


def test_what_the_hands_hold_is_a_label_like_others_and_older_tables_lack_it(store):
    held = {"left_hand_object": ["none", "cup"], "right_hand_object": ["none", "cup"]}
    store.info = store.info.model_copy(update={"label_spaces": LABELS | held})
    store.append(videos=[add_video(store)], clips=[clip(left_hand_object=1, right_hand_object=0)])
    table = pq.read_table(store.path / "clips.parquet")
    assert table.select(list(held)).to_pylist() == [{"left_hand_object": 1, "right_hand_object": 0}]
    with pytest.raises(UserError, match="left_hand_object 2 is outside of the 2 classes"):
        store.append(clips=[clip(clip_id="d", left_hand_object=2)])
    bare = store.clips[0].without_labels()
    assert not bare.is_labelled
    assert (bare.clip_id, bare.right_hand_object, bare.narration) == ("c", -1, "")
    pq.write_table(table.drop_columns(list(held)), store.path / "clips.parquet")
    assert ClipStore.open(store.path).clips == [clip()]


def test_tables_are_plain_parquet_with_the_documented_columns(store):
    store.append(videos=[add_video(store)], clips=[clip()])
    row = pq.read_table(store.path / "clips.parquet").to_pylist()[0]
    assert row["clip_id"] == "c"
    assert row["present_rgb"] is True
    assert row["present_flow"] is False
    assert (row["start_s"], row["end_s"]) == (0.0, 0.3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"video_id": "nobody"}, "does not hold"),
        ({"end_s": 9.0}, "outside of the video"),
        ({"start_s": 0.3, "end_s": 0.1}, "outside of the video"),
        ({"start_s": float("nan")}, "outside of the video"),
        ({"verb": 1}, "outside of the 1 classes"),
        ({"action": -2}, "outside of the 1 classes"),
        ({"present": frozenset({Modality.RGB, Modality.IMU})}, "missing"),
    ],
)
def test_a_wrong_clip_is_refused_and_nothing_is_written(store, changes, message):
    store.append(videos=[add_video(store)], clips=[clip()])
    before = (store.path / "clips.parquet").read_bytes()
    with pytest.raises(UserError, match=message):
        store.append(clips=[clip(clip_id="d"), clip(clip_id="e", **changes)])
    assert (store.path / "clips.parquet").read_bytes() == before


def test_duplicates_are_refused_but_the_same_video_may_come_again(store):
    video = add_video(store)
    store.append(videos=[video], clips=[clip()])
    store.append(videos=[video])
    with pytest.raises(UserError, match="already"):
        store.append(clips=[clip()])
    with pytest.raises(UserError, match="another video"):
        store.append(videos=[dataclasses.replace(video, width=32)])


def test_two_writers_lose_nothing(store):
    store.append(videos=[add_video(store)])
    other = ClipStore.open(store.path)
    assert other.clips == []
    store.append(clips=[clip(clip_id="a")])
    other.append(clips=[clip(clip_id="b")])
    assert [c.clip_id for c in ClipStore.open(store.path).clips] == ["a", "b"]


def test_create_refuses_a_foreign_folder_and_other_settings(tmp_path, store):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match="not an EgoLoom clip store"):
        ClipStore.create(tmp_path / "photos", name="s", source="test")
    assert [p.name for p in (tmp_path / "photos").iterdir()] == ["cat.jpg"]
    with pytest.raises(UserError, match="other settings: splits"):
        ClipStore.create(store.path, name="s", source="test", label_spaces=LABELS, splits=["test"])
    assert ClipStore.create(store.path, name="s", source="test", label_spaces=LABELS, splits=["train"]).clips == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"name": 3}', "damaged"),
        (json.dumps({"format_version": 99}), "store format 99"),
    ],
)
def test_a_damaged_or_newer_info_is_named(store, content, message):
    (store.path / "info.json").write_text(content)
    with pytest.raises(UserError, match=message):
        ClipStore.open(store.path)


def test_a_damaged_table_is_named(store):
    (store.path / "clips.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(UserError, match=r"clips\.parquet"):
        _ = ClipStore.open(store.path).clips


def test_validate_finds_missing_and_broken_media(store):
    store.append(videos=[add_video(store, "v"), add_video(store, "w")], clips=[clip(), clip(clip_id="d", video_id="w")])
    store.media_path(Modality.RGB, "v").unlink()
    path = store.media_path(Modality.RGB, "w")
    path.write_bytes(path.read_bytes()[:200])
    found = {problem.where: problem.what for problem in store.validate(decode=True)}
    assert "missing" in found["c"]
    assert "w" in found


def test_mark_present_touches_only_the_named_videos(store):
    store.append(videos=[add_video(store), add_video(store, "w")], clips=[clip(), clip(clip_id="d", video_id="w")])
    store.mark_present(Modality.FLOW, ["w"])
    assert [Modality.FLOW in c.present for c in store.clips] == [False, True]


def test_select_filters_and_names_unknown_splits(square_store):
    assert {c.split for c in square_store.select(split=["train", "test"])} == {"train", "test"}
    assert len(square_store.select(labelled=False)) == 8
    assert square_store.select(view="exo") == []
    with pytest.raises(UserError, match="no split 'holdout'"):
        square_store.select(split="holdout")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail():
        with atomic_path(path) as temporary:
            temporary.write_text("new")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
