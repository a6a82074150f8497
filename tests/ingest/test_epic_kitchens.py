"""EPIC-KITCHENS-100 on a synthetic tree of the official layout, and on the real tables and sample frames."""

import io
import json
import pickle
import struct
import tarfile
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from egoloom.clips import Modality
from egoloom.clips.media import VideoReader, read_table
from egoloom.clips.media.encoding import decode_flow_grey
from egoloom.errors import UserError
from egoloom.ingest import epic_kitchens
from egoloom.ingest.epic_annotations import (
    annotated_rate,
    flow_stride,
    integers_of,
    nominal_fps,
    read_tables,
    seconds_of,
)
from egoloom.ingest.epic_contacts import Contacts
from egoloom.ingest.epic_media import find_frames, in_order, measured_stride
from egoloom.ingest.protobuf import Detection, FrameDetections, pickled_bytes, read_hand_object_file

HEADER = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame,"
    "narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n"
)


def segment(narration_id: str, video_id: str, start_s: float, stop_s: float, rate: float, verb: int, noun: int) -> str:
    def stamp(seconds: float) -> str:
        return f"00:00:{seconds:05.2f}"

    nouns = f"\"['n{noun}', 'n1']\",\"[{noun}, 1]\""
    return (
        f"{narration_id},{video_id[:3]},{video_id},{stamp(start_s)},{stamp(start_s)},{stamp(stop_s)},"
        f"{int(start_s * rate)},{int(stop_s * rate)},do it,v{verb},{verb},n{noun},{noun},{nouns}\n"
    )


def write_tables(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    train = segment("P01_01_0", "P01_01", 0.1, 0.5, 60, 0, 2) + segment("P02_101_0", "P02_101", 0.2, 0.4, 50, 1, 0)
    (folder / "EPIC_100_train.csv").write_text(HEADER + train)
    (folder / "EPIC_100_validation.csv").write_text(HEADER + segment("P18_03_0", "P18_03", 0.0, 0.3, 60, 1, 1))
    short = HEADER.split(",narration,")[0] + "\n"
    row = "P02_101_7,P02,P02_101,00:00:00.05,00:00:00.05,00:00:00.15,2,7\n"
    (folder / "EPIC_100_test_timestamps.csv").write_text(short + row)
    (folder / "EPIC_100_verb_classes.csv").write_text(
        "id,key,instances,category\n0,take,\"['a']\",c\n1,put,\"['b']\",c\n"
    )
    (folder / "EPIC_100_noun_classes.csv").write_text("id,key,instances,category\n0,tap,x,c\n1,cup,x,c\n2,pan,x,c\n")
    (folder / "EPIC_100_video_info.csv").write_text(
        "video_id,duration,fps,resolution\nP01_01,0.6,59.9400599400599,1920x1080\n"
        "P02_101,0.6,50.0,1920x1080\nP18_03,0.6,59.9400599400599,1920x1080\n"
    )
    (folder / "EPIC_100_unseen_participant_ids_validation.csv").write_text("participant_id\nP18\n")
    (folder / "EPIC_100_tail_verbs.csv").write_text("verb\n1\n")
    (folder / "EPIC_100_tail_nouns.csv").write_text("noun\n2\n")


def flow_picture(u_px: float, bound_px: float = 20.0, size=(64, 48)) -> np.ndarray:
    return np.full(size[::-1], round((u_px / bound_px + 1) / 2 * 255), np.uint8)


@pytest.fixture
def source(tmp_path, write_jpgs, make_media) -> Path:
    """One video as frames numbered from 1, one as a tar numbered from 0, one as mp4; flow as folder and as tar."""
    root = tmp_path / "epic"
    write_tables(root / "annotations")
    write_jpgs(root / "P01/rgb_frames/P01_01", 36, "frame_{:010d}.jpg")
    write_jpgs(tmp_path / "loose", 30, "frame_{:010d}.jpg")
    with tarfile.open(_parent(root / "P02/rgb_frames/P02_101.tar"), "w") as tar:
        for number, path in enumerate(sorted((tmp_path / "loose").iterdir())):
            tar.add(path, arcname=f"./frame_{number:010d}.jpg")
    make_media(root / "P18/videos/P18_03.MP4", num_frames=36, fps=60, sound_hz=440)
    for direction, value in (("u", 5.0), ("v", -2.5)):
        folder = root / "P01/flow_frames/P01_01" / direction
        folder.mkdir(parents=True)
        for number in range(1, 19):  # stride 2
            cv2.imwrite(str(folder / f"frame_{number:010d}.jpg"), flow_picture(value))
    with tarfile.open(_parent(root / "P02/flow_frames/P02_101.tar"), "w") as tar:
        for direction in "uv":
            for number in range(30):  # stride 1
                content = cv2.imencode(".jpg", flow_picture(1.0))[1].tobytes()
                member = tarfile.TarInfo(f"./{direction}/frame_{number:010d}.jpg")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return root


def _parent(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_official_layout(source, tmp_path, quiet):
    store = epic_kitchens.ingest(source, tmp_path / "store", options=quiet)
    clips = {clip.clip_id: clip for clip in store.clips}
    assert {name: float(video.fps) for name, video in store.videos.items()} == {
        "P01_01": 60,
        "P02_101": 50,
        "P18_03": 60,
    }
    assert (clips["P01_01_0"].start_s, clips["P01_01_0"].end_s) == (0.1, 0.5)
    assert store.info.label_spaces["action"] == ["take pan", "put tap", "put cup"]
    assert [clips[name].action for name in ("P01_01_0", "P02_101_0", "P18_03_0")] == [0, 1, 2]
    assert clips["P02_101_7"].split == "test"
    assert not clips["P02_101_7"].is_labelled
    assert clips["P18_03_0"].extra == {"all_nouns": "[1, 1]", "unseen_participant": "true"}
    assert Modality.AUDIO in clips["P18_03_0"].present
    assert json.loads(store.info.extra["tail_verbs"]) == [1]
    assert json.loads(store.info.extra["action_pairs"]) == [[0, 2], [1, 0], [1, 1]]
    assert store.validate(decode=True) == []


@pytest.mark.parametrize(("video_id", "rate", "flow_px"), [("P01_01", 30, (5.0, -2.5)), ("P02_101", 50, (1.0, 1.0))])
def test_published_flow_keeps_its_rate_and_values(source, tmp_path, quiet, video_id, rate, flow_px):
    store = epic_kitchens.ingest(source, tmp_path / "store", options=quiet)
    with VideoReader(store.media_path(Modality.FLOW, video_id), grey=True) as reader:
        assert float(reader.fps) == rate
        planes = reader.all_frames()[:, 0].reshape(-1, 2, 48, 64)
    values = decode_flow_grey(planes, store.info.flow_bound_px).mean(axis=(0, 2, 3))
    np.testing.assert_allclose(values, flow_px, atol=0.16)  # one grey level of the published pictures


def test_the_first_file_is_the_first_frame_whatever_its_number(source, tmp_path, quiet):
    store = epic_kitchens.ingest(source, tmp_path / "store", options=quiet)
    assert [store.videos[name].num_frames for name in ("P01_01", "P02_101")] == [36, 30]
    found = find_frames(source, "P01_01"), find_frames(source, "P02_101")
    assert [frames.first for frames in found if frames] == [1, 0]
    for name in ("P01_01", "P02_101"):
        with VideoReader(store.media_path(Modality.RGB, name)) as reader:
            frames = reader.frames_at([0.0, 10.5 / float(store.videos[name].fps)])
        greys = frames[:, :, 28:, 36:].mean(axis=(1, 2, 3))
        np.testing.assert_allclose(greys, [20, 70], atol=3)


def test_holes_in_the_numbering_repeat_the_frame_before():
    numbered = {number: Path(f"{number}.jpg") for number in range(3, 60) if number != 30}
    frames = in_order(numbered)
    assert (frames.first, frames.num_missing, len(frames.images)) == (3, 1, 57)
    assert frames.images[27] == Path("29.jpg")
    assert frames.images[28] == Path("31.jpg")
    with pytest.raises(UserError, match="frames are missing"):
        in_order({number: Path(f"{number}.jpg") for number in range(0, 60, 2)})


def test_flow_without_its_other_half_is_refused(source, tmp_path, quiet):
    (source / "P01/flow_frames/P01_01/v/frame_0000000009.jpg").unlink()
    with pytest.raises(UserError, match="lacks u or v of 1 frames, for instance number 9"):
        epic_kitchens.ingest(source, tmp_path / "store", videos=("P01_01",), options=quiet)


def test_missing_media_are_named(source, tmp_path, quiet):
    (source / "P18/videos/P18_03.MP4").unlink()
    with pytest.raises(UserError, match=r"media of 1 of 3 annotated videos are missing: P18_03"):
        epic_kitchens.ingest(source, tmp_path / "store", options=quiet)
    store = epic_kitchens.ingest(source, tmp_path / "store", allow_missing=True, options=quiet)
    assert sorted(store.videos) == ["P01_01", "P02_101"]


def test_missing_tables_are_named(tmp_path, quiet):
    with pytest.raises(UserError, match=r"annotations/EPIC_100_train\.csv"):
        epic_kitchens.ingest(tmp_path, tmp_path / "store", options=quiet)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("00:00:00.50", "0.5 s", "stop_timestamp is '0.5 s'"),
        ("00:00:00.50", "00:00:00.05", "before it starts"),
        ("v0,0,", "v0,9,", "verb_class is '9'"),
        ("[2, 1]", "__import__('os')", "all_noun_classes is"),
        ("P01_01,00", "P01-01,00", "video_id is 'P01-01'"),
    ],
)
def test_bad_rows_name_their_line(source, tmp_path, quiet, old, new, message):
    path = source / "annotations" / "EPIC_100_train.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=rf"line 2.*{message}"):
        epic_kitchens.ingest(source, tmp_path / "store", options=quiet)


def test_numbers_of_the_tables():
    assert (nominal_fps("P01_01"), nominal_fps("P01_101")) == (pytest.approx(59.94, abs=1e-3), 50)
    assert (flow_stride("P01_01"), flow_stride("P01_101")) == (2, 1)
    assert (measured_stride(100, 100, 2), measured_stride(100, 50, 1)) == (1, 2)
    assert seconds_of("01:02:03.45", "") == pytest.approx(3723.45)
    assert integers_of("[3, 10]", "") == (3, 10)
    for bad in ("[1.5]", "[True]", "{1}", "1", "[x]", "[" * 400):
        with pytest.raises(UserError):
            integers_of(bad, "cell")


# -- hand-object boxes ------------------------------------------------------------------------------------------------


def _field(number: int, kind: int, payload: bytes) -> bytes:
    length = bytes([len(payload)]) if kind == 2 else b""
    return bytes([number << 3 | kind]) + length + payload


def _float(number: int, value: float) -> bytes:
    return _field(number, 5, struct.pack("<f", value))


def _box(*ltrb: float) -> bytes:
    return b"".join(_float(number, value) for number, value in enumerate(ltrb, start=1))


def detections(frame: int) -> bytes:
    """One ``Detections`` message, written by hand from the published .proto."""
    hand = _field(1, 2, _box(0.25, 0.5, 0.5, 1.0)) + _float(2, 0.9) + _field(3, 0, b"\x03") + _field(5, 0, b"\x01")
    thing = _field(1, 2, _box(0.0, 0.25, 0.125, 0.5)) + _float(2, 0.2)
    number = _field(
        2, 0, bytes([frame & 0x7F | (0x80 if frame > 127 else 0)]) + (bytes([frame >> 7]) if frame > 127 else b"")
    )
    return _field(1, 2, b"P01_01") + number + _field(3, 2, hand) + _field(4, 2, thing)


def test_hand_object_boxes(source, tmp_path, quiet):
    path = _parent(source / "hand-objects/P01/P01_01.pkl")
    path.write_bytes(pickle.dumps([detections(1), detections(13)]))
    store = epic_kitchens.ingest(source, tmp_path / "store", videos=("P01_01",), min_box_score=0.1, options=quiet)
    table = read_table(store.media_path(Modality.BOXES, "P01_01"))
    np.testing.assert_allclose(table["time_s"], [0, 0, 0.2, 0.2])
    assert table["category"].tolist() == ["right hand", "object"] * 2
    assert table["is_hand"].tolist() == [True, False] * 2
    np.testing.assert_allclose([table[name][0] for name in ("x1", "y1", "x2", "y2")], [16, 24, 32, 48])
    strict = epic_kitchens.ingest(source, tmp_path / "strict", videos=("P01_01",), options=quiet)
    assert set(read_table(strict.media_path(Modality.BOXES, "P01_01"))["category"]) == {"right hand"}


def test_contact_states_say_which_hand_holds_the_narrated_thing(source, tmp_path, quiet):
    """The right hand of every frame above touches something; the left one is never seen."""
    path = _parent(source / "hand-objects/P01/P01_01.pkl")
    path.write_bytes(pickle.dumps([detections(number) for number in (13, 19, 25)]))
    store = epic_kitchens.ingest(source, tmp_path / "store", options=quiet)
    clips = {clip.clip_id: clip for clip in store.clips}
    assert store.class_names("right_hand_object") == ["none", *store.class_names("noun")]
    seen, unseen = clips["P01_01_0"], clips["P02_101_0"]
    assert (seen.left_hand_object, seen.right_hand_object) == (-1, 1 + seen.noun)
    assert (unseen.left_hand_object, unseen.right_hand_object) == (-1, -1)
    assert store.validate() == []


def test_half_of_the_frames_decide_about_contact():
    def hand(number: int, side: int, state: int, score: float = 0.9) -> FrameDetections:
        return FrameDetections("v", number, (Detection(True, score, (0, 0, 1, 1), side, state),))

    frames = [hand(n, 0, 3 if n < 12 else 1) for n in range(20)] + [hand(n, 1, 4, 0.2) for n in range(20)]
    contacts = Contacts(frames, first_number=0, number_rate=10, min_score=0.5)
    assert contacts.labels(0.0, 1.9, noun=6) == {"left_hand_object": 7, "right_hand_object": -1}
    assert contacts.labels(1.0, 1.9, noun=6)["left_hand_object"] == 0
    assert contacts.labels(0.0, 1.9, noun=-1)["left_hand_object"] == -1


def test_messages_agree_with_googles_parser():
    """The same bytes, parsed by the protobuf library with a descriptor built here."""
    descriptor_pb2 = pytest.importorskip("google.protobuf.descriptor_pb2")
    from google.protobuf import descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="d.proto", package="d", syntax="proto3")
    for name, fields in {
        "Box": [("left", 1, 2, 1), ("top", 2, 2, 1), ("right", 3, 2, 1), ("bottom", 4, 2, 1)],
        "Hand": [("bbox", 1, 11, 1), ("score", 2, 2, 1), ("state", 3, 5, 1), ("side", 5, 5, 1)],
        "Thing": [("bbox", 1, 11, 1), ("score", 2, 2, 1)],
        "Frame": [("video_id", 1, 9, 1), ("frame_number", 2, 5, 1), ("hands", 3, 11, 3), ("objects", 4, 11, 3)],
    }.items():
        message = file.message_type.add(name=name)
        for field, number, kind, label in fields:
            target = {"bbox": ".d.Box", "hands": ".d.Hand", "objects": ".d.Thing"}.get(field)
            message.field.add(name=field, number=number, type=kind, label=label, type_name=target)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    frame_class = message_factory.GetMessageClass(pool.FindMessageTypeByName("d.Frame"))
    frame = frame_class(video_id="P01_01", frame_number=70_000)
    frame.hands.add(score=0.75, state=4, side=0).bbox.left = 0.5
    frame.objects.add(score=0.5).bbox.bottom = 0.25
    from egoloom.ingest.protobuf import parse_frame

    ours = parse_frame(frame.SerializeToString(), "here")
    assert (ours.video_id, ours.frame_number) == ("P01_01", 70_000)
    hand, thing = ours.detections
    assert (hand.is_hand, hand.score, hand.state, hand.side, hand.ltrb) == (True, 0.75, 4, 0, (0.5, 0, 0, 0))
    assert (thing.is_hand, thing.score, thing.ltrb) == (False, 0.5, (0, 0, 0, 0.25))


class _Evil:
    def __reduce__(self):
        return (print, ("this would have run",))


@pytest.mark.parametrize("content", [[_Evil()], {"a": 1}, [np.zeros(3)], ["text"], [1.5]])
def test_other_pickles_are_refused_unopened(tmp_path, capsys, content):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match="could run code") as caught:
        pickled_bytes(path)
    assert "convert it" in str(caught.value)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_all_pickle_protocols_with_bytes_are_read(tmp_path, protocol):
    path = tmp_path / "x.pkl"
    messages = [detections(n) for n in range(300)]
    path.write_bytes(pickle.dumps(messages, protocol=protocol))
    assert pickled_bytes(path) == messages
    assert [frame.frame_number for frame in read_hand_object_file(path)][::100] == [0, 100, 200]


# -- real files -------------------------------------------------------------------------------------------------------


@pytest.mark.real_data
def test_real_tables(real_data):
    tables = read_tables(real_data / "epic_kitchens_100")
    assert (len(tables.segments), len(tables.verbs), len(tables.nouns)) == (9668, 97, 300)
    assert (len(tables.action_pairs), len(tables.tail_verbs), len(tables.tail_nouns)) == (1352, 86, 228)
    unseen = Counter(s.participant_id for s in tables.segments if s.participant_id in tables.unseen_participants)
    assert unseen == {"P18": 739, "P32": 326}
    tail = [(s.verb in tables.tail_verbs, s.noun in tables.tail_nouns) for s in tables.segments]
    assert [sum(v for v, _ in tail), sum(n for _, n in tail), sum(v or n for v, n in tail)] == [1760, 1900, 3105]


@pytest.mark.real_data
def test_real_frame_numbers_are_sixty_times_seconds(real_data):
    tables = read_tables(real_data / "epic_kitchens_100")
    by_video: dict[str, list] = {}
    for one in tables.segments:
        by_video.setdefault(one.video_id, []).append(one)
    rates = Counter(annotated_rate(of_video, tables.fps[video]) for video, of_video in by_video.items())
    assert rates[60.0] == 131
    assert sum(rates.values()) == 138


@pytest.mark.real_data
def test_real_sample(real_data, tmp_path, quiet):
    sample = real_data / "epic_sample"
    store = epic_kitchens.ingest(
        sample,
        tmp_path / "store",
        annotations=real_data / "epic_kitchens_100",
        videos=("P01_01",),
        unannotated=True,
        object_boxes=sample / "sample_obj_nopickle.npz",
        min_box_score=0.3,
        options=quiet,
    )
    video = store.videos["P01_01"]
    assert (video.width, video.height, video.num_frames, float(video.fps)) == (456, 256, 100, 60)
    assert store.clips[0].present == {Modality.RGB, Modality.FLOW, Modality.BOXES}
    assert store.validate(decode=True) == []
    with VideoReader(store.media_path(Modality.FLOW, "P01_01"), grey=True) as reader:
        planes = reader.all_frames()[:, 0].reshape(100, 2, 256, 456)
    theirs = cv2.imread(str(sample / "sample_flow" / "P01_01_flow_u_0000000040.jpg"), cv2.IMREAD_GRAYSCALE)
    ours_px = decode_flow_grey(planes[39, 0], 20.0)
    theirs_px = (theirs.astype(np.float32) / 255 * 2 - 1) * 20
    assert np.abs(ours_px - theirs_px).mean() < 0.2
