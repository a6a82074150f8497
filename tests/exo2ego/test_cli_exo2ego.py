"""The verb: train, continue, generate, keep finished clips, plan, bad input."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from egoloom.cli.augment import Arguments
from egoloom.cli.exo2ego import main
from egoloom.cli.main import run_verb
from egoloom.clips.media import VideoReader
from egoloom.errors import UserError
from egoloom.exo2ego.generation import GenerationConfig


@pytest.fixture(scope="module")
def run(wall_store: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run")
    main(["train", "kitchen-tiny", "--store", str(wall_store), "--out", str(out), "--steps", "2"])
    return out


def test_training_leaves_a_generator_that_generates(run: Path, wall_store: Path, tmp_path: Path, capsys) -> None:
    assert json.loads((run / "metrics.json").read_text())["num_clips"] == 4  # two takes in two windows
    options = ["generate", str(wall_store), "--model", str(run), "--num-frames", "9", "--out", str(tmp_path), "--json"]
    main(options)
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["clip"] for row in report["clips"]] == ["take0_exo", "take1_exo"]
    assert all(row["psnr_db"] > 5 for row in report["clips"])
    with VideoReader(tmp_path / "take0_exo.mp4") as reader:
        assert (len(reader.all_frames()), float(reader.fps)) == (9, 8.0)
    before = (tmp_path / "take0_exo.mp4").stat().st_mtime_ns
    (tmp_path / "take1_exo.mp4").unlink()
    main(options)
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["kept"] for row in report["clips"]] == [True, False]
    assert (tmp_path / "take0_exo.mp4").stat().st_mtime_ns == before


def test_lora_on_top_of_a_trained_generator(run: Path, wall_store: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "lora"
    main(["train", "tiny-lora", "--base", str(run), "--store", str(wall_store), "--out", str(out), "--steps", "1"])
    assert "next: egoloom exo2ego generate" in capsys.readouterr().out
    main(
        ["generate", str(wall_store), "--model", str(run), "--lora", str(out / "lora"), "--take", "take1", "--out",
         str(tmp_path / "videos"), "--num-frames", "5"]
    )  # fmt: skip
    assert [path.name for path in (tmp_path / "videos").glob("*.mp4")] == ["take1_exo.mp4"]


def test_the_generator_that_ships_works_in_a_process_of_its_own(wall_store: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "egoloom", "exo2ego", "generate", str(wall_store), "--limit", "1", "--json"]
    result = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True, check=True)
    assert (tmp_path / "take0_exo.mp4").is_file()
    assert json.loads(result.stdout)["clips"][0]["psnr_db"] > 5


def test_pictures_keep_the_prior_and_training_clips_do_not(wall_store: Path, tmp_path: Path, capsys) -> None:
    def psnr(name: str, *options: str) -> float:
        main(["generate", str(wall_store), "--limit", "1", "--out", str(tmp_path / name), "--json", *options])
        return json.loads(capsys.readouterr().out.splitlines()[-1])["clips"][0]["psnr_db"]

    assert psnr("default") == psnr("kept", "--steps", "4", "--keep-prior", "1")
    assert psnr("default2") != psnr("bare", "--steps", "4", "--keep-prior", "0")
    training = Arguments((), Path("out"))
    assert (training.num_steps, training.keep_prior) == (GenerationConfig().num_steps, 0.0) == (2, 0.0)


def test_training_takes_the_splits_it_is_told(wall_store: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="in the splits test"):
        main(["train", "kitchen-tiny", "--store", str(wall_store), "--splits", "test", "--out", str(tmp_path)])


def test_memory_plan_is_printed(capsys) -> None:
    main(["generate", "--plan", "--json"])
    plans = json.loads(capsys.readouterr().out)
    assert [plan["budget_gb"] for plan in plans] == [80, 48, 24, 16]
    assert all(plan["fits"] for plan in plans)
    main(["generate", "--plan", "--budget-gb", "24"])
    assert "8-bit base, LoRA unfused (fits)" in capsys.readouterr().out


def test_bad_input(tmp_path: Path, wall_store: Path) -> None:
    with pytest.raises(UserError, match="no generator recipe"):
        main(["train", "nothing", "--store", str(wall_store)])
    with pytest.raises(UserError, match="There is no folder or video"):
        main(["generate", str(tmp_path / "absent")])
    with pytest.raises(UserError, match="no exo clip with depth"):
        main(["generate", str(wall_store), "--take", "other"])
    with pytest.raises(UserError, match="Unknown action"):
        main(["dream"])
    with pytest.raises(UserError, match="There is no generator at"):
        main(["generate", str(wall_store), "--model", str(tmp_path), "--num-frames", "5"])
    with pytest.raises(UserError, match=r"fov_deg.*500"):
        run_verb(["exo2ego", "generate", str(wall_store), "--fov-deg", "500"])
    with pytest.raises(UserError, match="No source"):
        main(["generate"])
