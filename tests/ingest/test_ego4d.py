"""Ego4D on a synthetic tree of the downloader's layout."""

import json

import numpy as np
import pytest

from egoloom.clips import Modality
from egoloom.clips.media import read_table
from egoloom.errors import UserError
from egoloom.ingest import ego4d

CLIP = {
    "video_uid": "vid",
    "clip_uid": "clip",
    "action_idx": 3,
    "clip_parent_start_sec": 10.0,
    "clip_parent_end_sec": 12.0,
    "action_clip_start_sec": 0.5,
    "action_clip_end_sec": 1.5,
    "verb": "wash",
    "noun": "cup",
    "verb_label": 1,
    "noun_label": 0,
}


@pytest.fixture
def source(tmp_path, make_media):
    root = tmp_path / "ego4d"
    (root / "annotations").mkdir(parents=True)
    (root / "imu").mkdir()
    make_media(root / "clips" / "clip.mp4", num_frames=60, fps=30, sound_hz=300)
    _write(root, "fho_lta_train", {"clips": [CLIP]})
    _write(root, "fho_lta_taxonomy", {"verbs": ["cut", "wash"], "nouns": ["cup"]})
    rows = ["canonical_timestamp_ms,component_idx,gyro_x,gyro_y,gyro_z,accl_x,accl_y,accl_z"]
    rows += [f"{9000 + 5 * i},0,0.1,0,{i / 1000},0,{i / 100},9.8" for i in range(800)]
    rows.append("13500,0,0.1,0,0,,,")  # the accelerometer missed this moment
    (root / "imu" / "vid.csv").write_text("\n".join(rows) + "\n")
    return root


def _write(root, name, content):
    (root / "annotations" / f"{name}.json").write_text(json.dumps(content))


def test_actions_in_published_clips(source, tmp_path, quiet):
    store = ego4d.ingest(source, tmp_path / "store", options=quiet)
    (clip,) = store.clips
    assert (clip.clip_id, clip.start_s, clip.end_s, clip.verb, clip.noun) == ("clip_3", 0.5, 1.5, 1, 0)
    assert clip.present == {Modality.RGB, Modality.AUDIO, Modality.IMU}
    table = read_table(store.media_path(Modality.IMU, "clip"))
    # The clip begins at 10 s of the recording: sample 200 lies at its second 0.
    np.testing.assert_allclose(table["ay"], (200 + table["time_s"] * 200) / 100, atol=1e-4)
    assert store.validate(decode=True) == []


def test_full_scale_videos_use_the_times_of_the_recording(source, tmp_path, quiet, make_media):
    (source / "clips" / "clip.mp4").unlink()
    make_media(source / "full_scale" / "vid.mp4", num_frames=130, fps=10)
    store = ego4d.ingest(source, tmp_path / "store", options=quiet)
    (clip,) = store.clips
    assert (clip.video_id, clip.start_s, clip.end_s) == ("vid", 10.5, 11.5)


def test_narrated_actions(source, tmp_path, quiet):
    action = {"uid": "a1", "start_sec": 10.2, "end_sec": 11.0, "clip_start_sec": 0.2, "narration_text": "#C C washes"}
    rejected = action | {"uid": "a2", "is_rejected": True}
    unnamed = action | {"uid": "a3", "structured_verb": None, "freeform_verb": None}
    interval = {
        "clip_uid": "clip",
        "narrated_actions": [action | {"structured_verb": "wash_(wash,_clean)"}, rejected, unnamed],
    }
    _write(source, "fho_main", {"videos": [{"video_uid": "vid", "annotated_intervals": [interval]}]})
    store = ego4d.ingest(source, tmp_path / "store", task="fho_main", options=quiet)
    assert [(c.clip_id, c.verb, c.narration, round(c.start_s, 6)) for c in store.clips] == [
        ("a1", 0, "#C C washes", 0.2),
        ("a3", -1, "#C C washes", 0.2),
    ]


def test_state_changes(source, tmp_path, quiet):
    base = {
        "video_uid": "vid",
        "clip_uid": "clip",
        "parent_start_sec": 10.0,
        "parent_end_sec": 11.9,
        "clip_start_sec": 0.0,
    }
    clips = [
        base | {"unique_id": "u1", "state_change": True, "parent_pnr_frame": 330},
        base | {"unique_id": "u2", "state_change": False, "parent_pnr_frame": None},
    ]
    _write(source, "fho_oscc-pnr_val", {"clips": clips})
    store = ego4d.ingest(source, tmp_path / "store", task="fho_oscc-pnr", options=quiet)
    assert [(c.clip_id, c.action, c.split, c.extra) for c in store.clips] == [
        ("u1", 1, "val", {"pnr_s": "11.0000"}),
        ("u2", 0, "val", {}),
    ]


def test_hand_boxes(source, tmp_path, quiet):
    moment = {"frame": 315, "boxes": [{"left_hand": [8, 6, 24, 18]}, {"right_hand": [40, 30, 60, 45]}]}
    frame = {"action_start_sec": 10.0, "action_end_sec": 11.0, "action_clip_start_sec": 0.0, "pre_45": moment}
    _write(source, "fho_hands_train", {"clips": [{"clip_uid": "clip", "video_uid": "vid", "frames": [frame]}]})
    store = ego4d.ingest(source, tmp_path / "store", task="fho_hands", options=quiet)
    table = read_table(store.media_path(Modality.BOXES, "clip"))
    np.testing.assert_allclose(table["time_s"], [0.5, 0.5])
    assert table["category"].tolist() == ["left hand", "right hand"]
    assert table["x2"].tolist() == [24, 60]


def test_missing_files_are_named(source, tmp_path, quiet):
    (source / "clips" / "clip.mp4").unlink()
    with pytest.raises(
        UserError, match=r"videos of 1 of 1 annotated actions are missing.*\n.*clips/clip\.mp4\n.*full_scale/vid\.mp4"
    ):
        ego4d.ingest(source, tmp_path / "store", options=quiet)
    with pytest.raises(UserError, match=r"fho_main\.json"):
        ego4d.ingest(source, tmp_path / "store", task="fho_main", options=quiet)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "holds a list"),
        ({"clips": {}}, "clips is"),
        ({"clips": [3]}, "clips: an entry is 3"),
        ({"clips": [CLIP | {"clip_parent_start_sec": "soon"}]}, "clip 0: clip_parent_start_sec is 'soon'"),
        ({"clips": [{k: v for k, v in CLIP.items() if k != "video_uid"}]}, "clip 0 has no 'video_uid'"),
        ({"clips": [CLIP | {"noun": "spaceship"}]}, "lacks the noun 'spaceship'"),
    ],
)
def test_malformed_annotations_name_the_place(source, tmp_path, quiet, content, message):
    _write(source, "fho_lta_train", content)
    with pytest.raises(UserError, match=message):
        ego4d.ingest(source, tmp_path / "store", options=quiet)


def test_a_wrong_imu_header_is_one_listed_failure(source, tmp_path, quiet):
    (source / "imu" / "vid.csv").write_text("time,ax\n0,1\n")
    with pytest.raises(UserError, match="lacks the columns canonical_timestamp_ms"):
        ego4d.ingest(source, tmp_path / "store", options=quiet)


@pytest.mark.real_data
def test_real_clips_under_synthetic_annotations(real_data, tmp_path, quiet):
    """The real videos are published without annotations: the tree around them is made up."""
    root = tmp_path / "tree"
    (root / "annotations").mkdir(parents=True)
    (root / "clips").symlink_to(real_data / "ego4d_clips")
    clips = [CLIP | {"clip_uid": name, "video_uid": f"v_{name}"} for name in ("cmu", "tokyo")]
    _write(root, "fho_lta_val", {"clips": clips})
    store = ego4d.ingest(root, tmp_path / "store", options=quiet)
    assert {name: float(video.fps) for name, video in store.videos.items()} == {"cmu": 30, "tokyo": 25}
    assert store.validate(decode=True) == []
