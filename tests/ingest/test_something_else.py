"""Something-Something and Something-Else: both layouts, both box formats, label order, mirrored classes."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from egoloom.clips import ClipStore, Modality
from egoloom.clips.media import read_table
from egoloom.errors import UserError
from egoloom.ingest import something_else

TEMPLATES = [
    "Pushing [something] from left to right",
    "Pushing [something] from right to left",
    "Poking [something] so it moves",
]


def write_source(root: Path, write_jpgs, make_media) -> Path:
    """The public layout: two jpg folders, one webm, a test video without label; boxes in the public format."""
    write_jpgs(root / "videos" / "7", 12)
    write_jpgs(root / "videos" / "12", 12)
    make_media(root / "videos" / "30.webm", num_frames=12, fps=12, codec="libvpx-vp9")
    write_jpgs(root / "videos" / "99", 6)
    lists = {
        "train": [
            {
                "id": "7",
                "label": "pushing a cup from left to right",
                "template": TEMPLATES[0],
                "placeholders": ["a cup"],
            },
            {"id": "30", "label": "poking a box", "template": TEMPLATES[2], "placeholders": ["a box"]},
        ],
        "validation": [{"id": "12", "label": "pushing", "template": TEMPLATES[1], "placeholders": ["it"]}],
        "test": [{"id": "99"}],
    }
    for split, entries in lists.items():
        (root / f"something-something-v2-{split}.json").write_text(json.dumps(entries))
    box = {"x1": 8, "x2": 24.5, "y1": 4, "y2": 20}
    boxes = {
        "7": [
            {
                "name": "7/0003.jpg",
                "labels": [
                    {"box2d": box, "category": "a cup", "standard_category": "0000", "gt_annotation": "object 0"},
                    {"box2d": box, "category": "hand", "standard_category": "hand", "gt_annotation": "object hand"},
                ],
            },
            {"name": "7/0099.jpg", "labels": [{"box2d": box, "category": "a cup"}]},
        ]
    }
    (root / "bounding_box_annotations.json").write_text(json.dumps(boxes))
    return root


@pytest.fixture
def source(tmp_path, write_jpgs, make_media) -> Path:
    return write_source(tmp_path / "ssv2", write_jpgs, make_media)


def test_public_layout(source, tmp_path, quiet):
    store = something_else.ingest(source, tmp_path / "store", options=quiet)
    clips = {clip.clip_id: clip for clip in store.clips}
    names = store.class_names("action")
    assert names == sorted(name.replace("[", "").replace("]", "") for name in TEMPLATES)
    assert names[clips["7"].action] == "Pushing something from left to right"
    assert {clip.clip_id: clip.split for clip in store.clips} == {
        "7": "train",
        "30": "train",
        "12": "validation",
        "99": "test",
    }
    assert clips["99"].action == -1
    assert clips["30"].end_s == pytest.approx(1.0)
    assert store.validate(decode=True) == []
    assert Modality.BOXES in clips["7"].present
    assert Modality.BOXES not in clips["12"].present


def test_boxes_lie_at_the_time_of_their_frame(source, tmp_path, quiet):
    store = something_else.ingest(source, tmp_path / "store", options=quiet.model_copy(update={"short_side_px": 32}))
    table = read_table(store.media_path(Modality.BOXES, "7"))
    np.testing.assert_allclose(
        table["time_s"], [2 / 12, 2 / 12]
    )  # the box of the frame 99, which is not there, is left out
    assert table["is_hand"].tolist() == [False, True]
    video = store.videos["7"]
    assert (video.width, video.height) == (42, 32)
    np.testing.assert_allclose(table["x2"], 24.5 * 42 / 64, rtol=1e-6)
    np.testing.assert_allclose(table["y2"], 20 * 32 / 48, rtol=1e-6)


def test_flat_list_of_the_reference_repository(source, tmp_path, quiet):
    (source / "bounding_box_annotations.json").unlink()
    frame = [{"x1": 1, "y1": 2, "x2": 33, "y2": 40, "category": "hand", "score": 0.75}]
    items = [{"id": "12", "template": TEMPLATES[1], "size": [128, 96], "frames": [[], frame, {"frame_objects": frame}]}]
    path = source / "detections.json"
    path.write_text(json.dumps(items))
    store = something_else.ingest(source, tmp_path / "store", boxes=(path,), options=quiet)
    table = read_table(store.media_path(Modality.BOXES, "12"))
    np.testing.assert_allclose(table["time_s"], [1 / 12, 2 / 12])
    np.testing.assert_allclose([table[name][0] for name in ("x1", "y1", "x2", "y2")], [0.5, 1, 16.5, 20])
    assert table["score"].tolist() == [0.75, 0.75]


def test_index_file_wins_over_sorting(source, tmp_path, quiet):
    order = {template: str(index) for index, template in enumerate(reversed(TEMPLATES))}
    (source / "something-something-v2-labels.json").write_text(json.dumps(order))
    store = something_else.ingest(source, tmp_path / "store", options=quiet)
    assert store.class_names("action")[0] == "Poking something so it moves"


def test_wrong_label_order_is_noticed(tmp_path, write_jpgs):
    write_jpgs(tmp_path / "videos" / "1", 3)
    labels = {"1": {"split": "train", "label": "B something", "label_id": 0}}
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    (tmp_path / "ssv2_174_labels_in_index_order.json").write_text(json.dumps(["A something", "B something"]))
    with pytest.raises(UserError, match="label_id 0, but 'B something' has the index 1"):
        something_else.read_annotations(tmp_path)


def test_mirrored_classes_swap_sides():
    names = ["Pulling it from left to right", "Pulling it from right to left", "Pulling it right out", "Turning right"]
    assert something_else.mirrored_classes(names) == [1, 0, 2, -1]


def test_missing_videos_are_named_and_nothing_is_written(source, tmp_path, quiet):
    (source / "videos" / "30.webm").unlink()
    with pytest.raises(UserError, match=r"1 of 4 annotated videos are missing:\n.*videos/30"):
        something_else.ingest(source, tmp_path / "store", options=quiet)
    assert not (tmp_path / "store").exists()
    store = something_else.ingest(source, tmp_path / "store", allow_missing=True, options=quiet)
    assert len(store.clips) == 3


def test_interrupted_ingest_continues(source, tmp_path, quiet, monkeypatch):
    from egoloom.ingest import recordings

    monkeypatch.setattr(recordings, "NUM_VIDEOS_PER_APPEND", 1)
    copy, calls = recordings._Copier.__call__, []

    def interrupted(self, recording):
        calls.append(recording.video_id)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return copy(self, recording)

    monkeypatch.setattr(recordings._Copier, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        something_else.ingest(source, tmp_path / "store", options=quiet)
    half = ClipStore.open(tmp_path / "store")
    assert len(half.clips) == 2
    assert half.validate(decode=True) == []
    store = something_else.ingest(source, tmp_path / "store", options=quiet)
    assert sorted(clip.clip_id for clip in store.clips) == ["12", "30", "7", "99"]
    assert len(calls) == 5  # two, the interrupted one, and the two that were left


def test_a_foreign_folder_is_not_touched(source, tmp_path, quiet):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="not an EgoLoom clip store"):
        something_else.ingest(source, tmp_path / "mine", options=quiet)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_compositional_split(source, tmp_path, quiet):
    folder = source / "dataset_splits" / "compositional"
    folder.mkdir(parents=True)
    (folder / "train.json").write_text(json.dumps([{"id": "12", "template": TEMPLATES[1]}]))
    (folder / "validation.json").write_text(json.dumps([{"id": "7", "template": TEMPLATES[0]}]))
    (folder / "labels.json").write_text(json.dumps({TEMPLATES[1]: 0, TEMPLATES[0]: 1}))
    store = something_else.ingest(source, tmp_path / "store", split_name="compositional", options=quiet)
    assert [(clip.clip_id, clip.split, clip.action) for clip in store.clips] == [
        ("12", "train", 0),
        ("7", "validation", 1),
    ]


@pytest.mark.slow
def test_workers_give_the_same_store(source, tmp_path, quiet):
    one = something_else.ingest(source, tmp_path / "one", options=quiet)
    two = something_else.ingest(source, tmp_path / "two", options=quiet.model_copy(update={"num_workers": 2}))
    key = dataclasses.asdict
    assert sorted(map(str, map(key, one.clips))) == sorted(map(str, map(key, two.clips)))
    assert (one.path / "media/rgb/7.mp4").read_bytes() == (two.path / "media/rgb/7.mp4").read_bytes()


@pytest.mark.real_data
def test_real_videos(real_data, tmp_path, quiet):
    store = something_else.ingest(real_data / "something_else", tmp_path / "store", options=quiet)
    assert (len(store.clips), len(store.class_names("action"))) == (9, 174)
    published = json.loads((real_data / "something_else" / "labels.json").read_text())
    assert {clip.clip_id: clip.action for clip in store.clips} == {k: v["label_id"] for k, v in published.items()}
    assert all(Modality.BOXES in clip.present for clip in store.clips)
    assert store.validate(decode=True) == []
    mirrored = json.loads(store.info.extra["mirrored_action"])
    assert all(mirrored[mirrored[index]] == index for index in range(174))
    assert [index for index, other in enumerate(mirrored) if index != other] == [86, 87, 93, 94, 166, 167]
