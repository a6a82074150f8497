"""Whatever lies in a file: an error that names it, no crash, no hang, no half-written store."""

import contextlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from egoloom.clips import ClipStore
from egoloom.errors import UserError
from egoloom.ingest import layout_boxes, something_else, videos
from egoloom.ingest.audio_copy import copy_audio
from egoloom.ingest.documents import read_csv, read_json
from egoloom.ingest.ego4d_annotations import read_actions
from egoloom.ingest.ego_exo4d import read_keysteps
from egoloom.ingest.egox import read_takes
from egoloom.ingest.epic_annotations import read_tables
from egoloom.ingest.gpmf import parse
from egoloom.ingest.images import images_in_archive, read_image
from egoloom.ingest.mps import read_device_poses, read_gopro_calibrations, read_online_calibration
from egoloom.ingest.protobuf import parse_frame, pickled_bytes
from egoloom.ingest.video_copy import copy_video

quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
KEYS = ["id", "template", "label", "split", "frames", "size", "labels", "box2d", "x1", "name", "clips", "videos"]
KEYS += ["clip_uid", "video_uid", "verb", "boxes", "annotations", "segments", "CameraCalibrations", "Projection"]
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats()
    | st.sampled_from(["", "hand", "train", "2/0001.jpg", "x"])
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=12,
)


def only_user_errors(function, *arguments, names: Path | None = None) -> None:
    message = names.name if names else ""
    try:
        function(*arguments)
    except UserError as error:
        message = str(error)
    assert names is None or names.name in message


@quick
@given(content=anything)
def test_json_of_any_shape(tmp_path, content):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(content))
    only_user_errors(something_else.read_annotations, tmp_path, names=path)
    only_user_errors(layout_boxes.read, [path], names=path)
    for name in ("fho_lta_train.json", "fho_main.json", "fho_oscc-pnr_val.json", "fho_hands_train.json"):
        (tmp_path / name).write_text(json.dumps(content))
    for task in ("fho_lta", "fho_main", "fho_oscc-pnr", "fho_hands"):
        only_user_errors(read_actions, tmp_path, task)
    (tmp_path / "keystep_train.json").write_text(json.dumps(content))
    only_user_errors(read_keysteps, tmp_path)
    line = tmp_path / "online_calibration.jsonl"
    line.write_text(json.dumps(content))
    only_user_errors(read_online_calibration, line, names=line)


@quick
@given(content=st.binary(max_size=300))
def test_bytes_in_place_of_text(tmp_path, content):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    only_user_errors(read_csv, path, names=path)
    only_user_errors(read_json, path, names=path)
    only_user_errors(pickled_bytes, path, names=path)
    only_user_errors(images_in_archive, path, names=path)
    only_user_errors(read_image, path, names=path)
    only_user_errors(parse_frame, content, "here")
    with contextlib.suppress(ValueError):
        parse(content)


cells = st.sampled_from(
    ["", "1", "-3", "nan", "1e400", "00:00:01.00", "P01_01", "[1]", "[", "a,b", '"', "é", "9" * 400]
)


@quick
@given(rows=st.lists(st.lists(cells, min_size=15, max_size=16), max_size=4))
def test_tables_with_any_cells(tmp_path, rows):
    header = (
        "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame,"
        "narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n"
    )
    path = tmp_path / "EPIC_100_train.csv"
    path.write_text(header + "".join(",".join(row) + "\n" for row in rows), encoding="utf-8")
    for name in ("verb", "noun"):
        (tmp_path / f"EPIC_100_{name}_classes.csv").write_text("id,key\n0,a\n1,b\n")
    only_user_errors(read_tables, tmp_path, names=path)
    pose = ",".join(f"{n}_world_device" for n in ("tx", "ty", "tz", "qx", "qy", "qz", "qw"))
    poses = tmp_path / "poses.csv"
    poses.write_text(f"tracking_timestamp_us,{pose}\n" + "".join(",".join(row[:8]) + "\n" for row in rows))
    only_user_errors(read_device_poses, poses, names=poses)
    cameras = ",".join(f"{n}_world_cam" for n in ("tx", "ty", "tz", "qx", "qy", "qz", "qw"))
    intrinsics = ",".join(f"intrinsics_{i}" for i in range(8))
    path = tmp_path / "gopro_calibs.csv"
    text = f"cam_uid,image_width,image_height,intrinsics_type,{cameras},{intrinsics}\n"
    path.write_text(text + "".join(f"c,{row[0]},{row[1]},KANNALABRANDTK3,{','.join(row)}\n" for row in rows))
    only_user_errors(read_gopro_calibrations, path)


@quick
@given(table=st.text(alphabet="path,start_s\n\"'0123456789.-videomp4 \r", max_size=120))
def test_any_table_of_clips(tmp_path, table):
    (tmp_path / "video.mp4").touch()
    path = tmp_path / "clips.csv"
    path.write_text(table, encoding="utf-8", newline="")
    only_user_errors(videos.read_rows, path, tmp_path, names=path)


ENTRY_KEYS = [
    "take_name",
    "exo_path",
    "camera_intrinsics",
    "camera_extrinsics",
    "ego_extrinsics",
    "exo_crop",
    "depth_dir",
]
odd_values = anything | st.lists(st.lists(scalars, min_size=3, max_size=4), min_size=3, max_size=3) | st.just("9" * 300)


@quick
@given(changes=st.dictionaries(st.sampled_from(ENTRY_KEYS), odd_values, min_size=1, max_size=2), calibration=anything)
def test_takes_with_any_values(take, tmp_path, changes, calibration):
    meta = tmp_path / "set" / "meta.json"
    if not meta.exists():
        take(grid=(64, 48), num_video=2, num_depth=2, num_poses=2)
        (tmp_path / "whole.json").write_text(meta.read_text())
    entry = json.loads((tmp_path / "whole.json").read_text())["test_datasets"][0]
    meta.write_text(json.dumps({"test_datasets": [entry | changes]}))
    (tmp_path / "lens.json").write_text(json.dumps(calibration))

    def use(**options):
        for one in read_takes(meta.parent, **options):
            assert one.exo_camera.image_size == one.exo_size
            assert one.T_world_exo.shape == (4, 4)
            assert len(one.ego_trajectory) == one.num_frames

    only_user_errors(use)
    only_user_errors(lambda: use(calibration=tmp_path / "lens.json"))


def damaged_cases(content: bytes, num_cases: int):
    rng = np.random.default_rng(5)
    for case in range(num_cases):
        if case % 3 == 0:
            yield content[: rng.integers(0, len(content))]
            continue
        array = np.frombuffer(content, np.uint8).copy()
        for position in rng.integers(0, len(array), 1 + case % 12):
            array[position] ^= 1 << rng.integers(8)
        yield array.tobytes()


@pytest.mark.slow
def test_damaged_recordings(tmp_path, make_media):
    """Video and sound with flipped bits: copied, or refused by name; no temporary files stay."""
    content = make_media(tmp_path / "whole.mp4", num_frames=12, size=(48, 32), sound_hz=400).read_bytes()
    source, target, sound = tmp_path / "case.mp4", tmp_path / "out" / "copy.mp4", tmp_path / "out" / "copy.flac"
    for damaged in damaged_cases(content, 200):
        source.write_bytes(damaged)
        for function, path in ((copy_video, target), (copy_audio, sound)):
            path.unlink(missing_ok=True)
            only_user_errors(function, source, path, names=source)
            left = [p.name for p in path.parent.iterdir()] if path.parent.exists() else []
            assert [name for name in left if name.startswith(".")] == []


def test_a_folder_of_damaged_recordings_makes_a_valid_store(tmp_path, make_media, quiet):
    content = make_media(tmp_path / "films" / "good.mp4", num_frames=12, size=(48, 32)).read_bytes()
    for number, damaged in enumerate(damaged_cases(content, 12)):
        (tmp_path / "films" / f"case{number:02d}.mp4").write_bytes(damaged)
    options = quiet.model_copy(update={"max_failed_share": 1.0})
    only_user_errors(lambda: videos.ingest(tmp_path / "films", tmp_path / "store", options=options))
    store = ClipStore.open(tmp_path / "store")
    assert store.validate(decode=True) == []
    media = {path.stem for path in (store.path / "media" / "rgb").glob("*")}
    assert set(store.videos) <= media


def test_archives_cannot_write_anywhere(tmp_path):
    """A tar whose members climb out of the folder is only read, in place."""
    archive = tmp_path / "in" / "evil.tar"
    archive.parent.mkdir()
    with tarfile.open(archive, "w") as tar:
        for name in ("../../escaped.jpg", "/tmp/egoloom_absolute.jpg", "frame_0001.jpg"):
            member = tarfile.TarInfo(name)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"jpeg"))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    images = images_in_archive(archive)
    assert [image.num_bytes for image in images] == [4, 4, 4]  # the link is not followed
    for image in images:
        with pytest.raises(UserError, match=r"evil\.tar"):
            read_image(image)
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before
    assert not Path("/tmp/egoloom_absolute.jpg").exists()
