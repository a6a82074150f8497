"""What ``egoloom doctor`` says of an installation and of a store, as a user calls it."""

import json
import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from egoloom.cli.doctor import OPTIONAL_PACKAGES
from egoloom.cli.main import main
from egoloom.clips import Modality

ROOT = Path(__file__).parents[2]


def report_of(capsys, *arguments: str) -> dict:
    main(["doctor", *arguments, "--json"])
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("way", [["STORE"], ["--store", "STORE"], ["-s", "STORE"]])
def test_counts_agree_with_the_store(square_store, capsys, way):
    store = report_of(capsys, *[str(square_store.path) if word == "STORE" else word for word in way])["store"]
    assert {split: counts["clips"] for split, counts in store["clips_by_split"].items()} == Counter(
        clip.split for clip in square_store.clips
    )
    assert store["clips_by_split"]["test"]["flow"] == sum(clip.split == "test" for clip in square_store.clips)
    assert store["fps"] == {"10": len(square_store.videos)}
    assert store["clip_duration_s"]["histogram"] == {"2-4": len(square_store.clips)}
    labelled = Counter(clip.action for clip in square_store.clips if clip.action >= 0)
    assert store["classes"]["action"]["most_frequent"]["open drawer"] == labelled[0]
    assert (store["num_problems"], store["problems"]) == (0, [])


def test_the_installation_is_described_without_a_store(capsys):
    installation = report_of(capsys)["installation"]
    assert installation["decoders"]["h264"]
    assert installation["packages"]["av"]
    assert installation["disk_free_gb"] > 0


def test_missing_and_corrupt_media_are_named_and_end_with_code_1(new_square_store, tmp_path, capsys):
    store = new_square_store(tmp_path / "store", num_clips=4)
    store.media_path(Modality.FLOW, "square_001").unlink()
    store.media_path(Modality.RGB, "square_002").write_bytes(b"no video")
    arrays = store.media_path(Modality.SPECTROGRAM, "square_003")
    content = bytearray(arrays.read_bytes())
    content[len(content) // 3] ^= 16  # one bit of the packed numbers
    arrays.write_bytes(bytes(content))
    with pytest.raises(SystemExit) as stop:
        main(["doctor", str(store.path)])
    said = capsys.readouterr().out
    assert stop.value.code == 1
    assert "clip_001" in said
    assert "square_002" in said
    assert "square_003.npz" in said
    assert "problems: 3" in said


def test_two_different_stores_are_refused(square_store, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["doctor", str(square_store.path), "--store", "elsewhere"])
    assert stop.value.code == 2
    assert "elsewhere" in capsys.readouterr().err


def test_every_extra_that_a_message_names_can_be_installed():
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    named = {
        match
        for path in (ROOT / "src").rglob("*.py")
        for match in re.findall(r'(?:extra=|^EXTRA = )"(\w+)"', path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    } - {"forbid"}  # pydantic's own setting
    assert named >= {"export", "hdf5", "executorch"}
    assert named | set(OPTIONAL_PACKAGES.values()) <= extras
