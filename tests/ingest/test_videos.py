"""A folder of videos with and without a table, copied and referenced."""

import json
import shutil

import numpy as np
import pytest

from egoloom.clips import ClipStore, Modality
from egoloom.clips.media import VideoReader
from egoloom.errors import UserError
from egoloom.ingest import videos


@pytest.fixture
def source(tmp_path, make_media):
    root = tmp_path / "films"
    make_media(root / "open" / "a b.mp4", num_frames=24, sound_hz=300)
    make_media(root / "close" / "c.mp4", num_frames=48)
    return root


def test_a_table_makes_labelled_clips(source, tmp_path, quiet):
    (source / "clips.csv").write_text(
        "path,start_s,end_s,verb,noun,split,participant_id,narration\n"
        'open/a b.mp4,0.0,0.5,open,drawer,train,P1,"opens, slowly"\n'
        "open/a b.mp4,0.5,,close,drawer,test,P1,\n"
        "close/c.mp4,0.25,1.75,close,cup,train,P2,\n"
    )
    store = videos.ingest(source, tmp_path / "store", options=quiet)
    assert store.info.label_spaces == {"verb": ["close", "open"], "noun": ["cup", "drawer"]}
    rows = [(c.video_id, c.start_s, c.end_s, c.verb, c.noun, c.split, c.narration) for c in store.clips]
    assert rows == [
        ("close__c", 0.25, 1.75, 0, 0, "train", ""),
        ("open__a_b", 0.0, 0.5, 1, 1, "train", "opens, slowly"),
        ("open__a_b", 0.5, 1.0, 0, 1, "test", ""),
    ]
    assert Modality.AUDIO in store.clips[1].present
    assert Modality.AUDIO not in store.clips[0].present
    assert store.validate(decode=True) == []


def test_a_table_tells_what_the_hands_hold(source, tmp_path, quiet):
    (source / "clips.csv").write_text(
        "path,action,left_hand_object,right_hand_object\nopen/a b.mp4,open,none,knife\nclose/c.mp4,close,cup,\n"
    )
    store = videos.ingest(source, tmp_path / "store", options=quiet)
    spaces = store.info.label_spaces
    assert spaces["left_hand_object"] == spaces["right_hand_object"] == ["none", "cup", "knife"]
    assert [(c.left_hand_object, c.right_hand_object) for c in store.clips] == [(1, -1), (0, 2)]
    (tmp_path / "spaces.json").write_text(json.dumps({"action": ["open", "close"], "left_hand_object": ["cup"]}))
    with pytest.raises(UserError, match="first class of left_hand_object"):
        videos.ingest(source, tmp_path / "other", label_spaces=tmp_path / "spaces.json", options=quiet)


def test_reference_mode_leaves_the_originals(source, tmp_path, quiet):
    store = videos.ingest(source, tmp_path / "store", options=quiet.model_copy(update={"mode": "reference"}))
    video = store.videos["close__c"]
    assert (store.path / video.path).samefile(source / "close" / "c.mp4")
    assert not (store.path / "media" / "rgb").exists()
    assert store.validate(decode=True) == []
    with VideoReader(store.media_path(Modality.RGB, "close__c")) as reader:
        assert reader.frames_at([1.5]).shape == (1, 3, 48, 64)


def test_folders_name_the_actions_and_long_videos_are_cut(source, tmp_path, quiet):
    store = videos.ingest(source, tmp_path / "store", labels_from_folders=True, clip_length_s=0.9, options=quiet)
    assert store.class_names("action") == ["close", "open"]
    times = [(clip.video_id, round(clip.start_s, 3), round(clip.end_s, 3), clip.action) for clip in store.clips]
    assert times == [("close__c", 0, 0.9, 0), ("close__c", 0.9, 2.0, 0), ("open__a_b", 0, 1.0, 1)]


def test_given_label_order_is_kept(source, tmp_path, quiet):
    (source / "clips.csv").write_text("path,action\nopen/a b.mp4,stir\n")
    (tmp_path / "spaces.json").write_text(json.dumps({"action": ["wash", "stir"]}))
    store = videos.ingest(source, tmp_path / "store", label_spaces=tmp_path / "spaces.json", options=quiet)
    assert [clip.action for clip in store.clips] == [1]
    (tmp_path / "spaces.json").write_text(json.dumps({"action": ["wash"]}))
    with pytest.raises(UserError, match="'stir' is not in"):
        videos.ingest(source, tmp_path / "other", label_spaces=tmp_path / "spaces.json", options=quiet)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("path\nnothing.mp4\n", r"names 1 videos that do not exist:\n.*nothing\.mp4  \(line 2\)"),
        ("file\nclose/c.mp4\n", "lacks the columns path"),
        ("path,verbs\nclose/c.mp4,x\n", "unknown columns verbs"),
        ("path,start_s,end_s\nclose/c.mp4,1.0,0.5\n", "from 1.0 to 0.5"),
        ("path,start_s\nclose/c.mp4,soon\n", "line 2: start_s is 'soon'"),
        ("path,start_s\nclose/c.mp4,nan\n", "start_s is 'nan'"),
        ("path,view\nclose/c.mp4,side\n", "the view is 'side'"),
        ("path,verb\nclose/c.mp4\n", "has not 2 cells"),
        ("path\n", "has no rows"),
    ],
)
def test_bad_tables_name_their_line(source, tmp_path, quiet, table, message):
    (source / "clips.csv").write_text(table)
    with pytest.raises(UserError, match=message):
        videos.ingest(source, tmp_path / "store", options=quiet)
    assert not (tmp_path / "store").exists()


def test_a_clip_beyond_its_video_is_refused(source, tmp_path, quiet):
    (source / "clips.csv").write_text("path,start_s,end_s\nclose/c.mp4,0,30\n")
    with pytest.raises(UserError, match=r"ends at 30\.000 s, the video at 2\.000 s"):
        videos.ingest(source, tmp_path / "store", options=quiet)
    assert ClipStore.open(tmp_path / "store").videos == {}


def test_damaged_videos_are_left_out_and_listed(source, tmp_path, quiet, make_media):
    for index in range(12):
        shutil.copy(source / "close" / "c.mp4", source / "close" / f"d{index}.mp4")
    (source / "close" / "broken.mp4").write_bytes((source / "close" / "c.mp4").read_bytes()[:700])
    store = videos.ingest(source, tmp_path / "store", options=quiet)
    assert len(store.videos) == 14
    failures = json.loads((store.path / "ingest_failures.json").read_text())
    assert [failure["name"].rsplit("/")[-1] for failure in failures] == ["broken.mp4"]
    assert store.validate(decode=True) == []


def test_too_many_damaged_videos_stop_the_work(tmp_path, quiet, make_media):
    root = tmp_path / "films"
    make_media(root / "z.mp4")
    for index in range(8):
        (root / f"a{index}.mp4").write_bytes(b"junk" * 100)
    with pytest.raises(UserError, match=r"5 of 9 recordings failed; stopped"):
        videos.ingest(root, tmp_path / "store", options=quiet)


def test_same_ids_are_refused(tmp_path, quiet, make_media):
    make_media(tmp_path / "films" / "a.mp4")
    shutil.copy(tmp_path / "films" / "a.mp4", tmp_path / "films" / "a.mov")
    with pytest.raises(UserError, match="Two recordings would get the id 'a'"):
        videos.ingest(tmp_path / "films", tmp_path / "store", options=quiet)


def test_ids_cannot_leave_the_store(tmp_path, quiet, make_media):
    make_media(tmp_path / "films" / ".." / "films" / "x..y.mp4")
    store = videos.ingest(tmp_path / "films", tmp_path / "store", options=quiet)
    for video in store.videos.values():
        assert (store.path / video.path).resolve().is_relative_to(store.path.resolve())


def test_no_videos(tmp_path, quiet):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no videos"):
        videos.ingest(tmp_path / "empty", tmp_path / "store", options=quiet)
    with pytest.raises(UserError, match=r"Missing input:\n.*nowhere"):
        videos.ingest(tmp_path / "nowhere", tmp_path / "store", options=quiet)


def test_times_of_the_store_are_those_of_the_source(source, tmp_path, quiet):
    """The frame shown at a second is the same in copy and original: the sum of all the steps above."""
    store = videos.ingest(source, tmp_path / "store", options=quiet)
    times = np.array([0.0, 0.43, 1.0, 1.99])
    with (
        VideoReader(store.media_path(Modality.RGB, "close__c")) as copy,
        VideoReader(source / "close/c.mp4") as original,
    ):
        difference = copy.frames_at(times).astype(int) - original.frames_at(times)
    assert np.abs(difference).mean() < 2
