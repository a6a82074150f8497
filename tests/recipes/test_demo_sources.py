"""Folders are recognised by what is in them, whatever they are called; what cannot be read stops nothing."""

import json
from pathlib import Path

import numpy as np

from egoloom.clips import ClipStore
from egoloom.clips.media import write_video
from egoloom.recipes.demo.sources import ingest_every_source, recognise


def video(path: Path) -> None:
    write_video(path, np.random.default_rng(0).integers(0, 256, (6, 3, 48, 64), dtype=np.uint8), 30)


def test_every_folder_becomes_a_store_or_is_listed_with_its_reason(tmp_path: Path) -> None:
    data = tmp_path / "data"
    video(data / "phone" / "walk.mp4")
    video(data / "takes" / "cooking" / "aria.mp4")
    video(data / "takes" / "cooking" / "cam01.mp4")
    (data / "tables").mkdir()
    (data / "tables" / "EPIC_100_validation.csv").write_text("narration_id\n")
    (data / "letters").mkdir()
    (data / "letters" / "note.txt").write_text("nothing to see")
    (data / "broken").mkdir()
    (data / "broken" / "cut.mp4").write_bytes(b"\0" * 100)
    found = ingest_every_source(data, tmp_path / "out")
    assert {name: entry["source"] for name, entry in found.items()} == {
        "broken": "videos", "letters": None, "phone": "videos", "tables": None, "takes": "ego-exo4d",
    }  # fmt: skip
    assert found["phone"]["modalities"] == {"rgb": 1}
    assert found["takes"]["num_videos"] == 2
    assert "cut" in found["broken"]["left_out"]
    assert "without the recordings" in found["tables"]["left_out"]
    assert json.loads((tmp_path / "out" / "sources.json").read_text()) == found
    assert ClipStore.open(found["takes"]["store"]).validate(decode=True) == []


def test_the_folders_name_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "anything" / "videos").mkdir(parents=True)
    (tmp_path / "anything" / "labels.json").write_text("[]")
    assert recognise(tmp_path / "anything").source == "something-else"
    (tmp_path / "else" / "set").mkdir(parents=True)
    (tmp_path / "else" / "set" / "meta.json").write_text("{}")
    assert recognise(tmp_path / "else").source == "egox"
    (tmp_path / "glasses").mkdir()
    (tmp_path / "glasses" / "walk.vrs").write_bytes(b"")
    assert recognise(tmp_path / "glasses").source == "aria"
