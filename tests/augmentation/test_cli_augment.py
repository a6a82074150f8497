"""``egoloom augment`` as a user calls it, mistakes included."""

import json

import pytest

from egoloom.augmentation.generate import generated_store
from egoloom.augmentation.generators import generator_name
from egoloom.cli.main import main
from egoloom.clips import ClipStore, Modality
from egoloom.clips.tables import write_clips

SMALL = ["--generator", "inpainting", "--num-frames", "5"]


def test_exo_clips_become_marked_ego_clips(kitchen, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["augment", str(kitchen.path), "--out", str(out), *SMALL, "--limit", "3", "--filter.worst-share", "0.3"]
    main([*command, "--json"])
    figures = json.loads(capsys.readouterr().out.strip().split("\n")[-1])
    store = ClipStore.open(out)
    assert figures["failures"] == {}
    assert len(figures["passed_over"]) + figures["num_done"] >= 6
    assert {Modality.FLOW, Modality.IMU} <= store.clips[0].present
    assert set(figures["rejected"]) == {clip.clip_id for clip in store.clips if clip.split == "rejected"}
    assert (out / "augmented.html").read_text().count("<figure>") == len(store.clips)
    main(command)
    assert "next: egoloom train" in capsys.readouterr().out


def test_two_stores_with_equal_ids_do_not_collide(kitchen, own_kitchen, tmp_path):
    out = tmp_path / "out"
    options = ["--filter.no-enabled", "--no-modalities", "--no-page", "--limit", "12"]
    main(["augment", str(kitchen.path), str(own_kitchen.path), "--out", str(out), *SMALL, *options])
    made = ClipStore.open(out).clips
    assert len({clip.clip_id for clip in made}) == len(made)
    assert {clip.extra["source_store"] for clip in made} == {str(kitchen.path), str(own_kitchen.path)}


def test_a_dry_run_says_what_it_would_take(kitchen, tmp_path, capsys):
    main(["augment", str(kitchen.path), "--out", str(tmp_path / "o"), *SMALL, "--dry-run", "--price-per-hour", "2"])
    out = capsys.readouterr().out
    assert "s a clip" in out
    assert "cost" in out
    assert not (tmp_path / "o").exists()


def test_clips_of_held_out_splits_do_not_leak_into_training(kitchen, tmp_path, capsys):
    splits = {f"{clip.clip_id}-generated": clip.split for clip in kitchen.select(view="exo")}
    assert {"train", "validation", "test"} <= set(splits.values())
    quick = [*SMALL, "--no-modalities", "--no-page", "--json"]
    main(["augment", str(kitchen.path), "--out", str(tmp_path / "all"), *quick, "--filter.worst-share", "0"])
    passed_over = json.loads(capsys.readouterr().out)["passed_over"]
    assert set(passed_over) == {clip.clip_id for clip in kitchen.select(view="exo") if clip.split != "train"}
    made = {clip.clip_id: clip.split for clip in ClipStore.open(tmp_path / "all").clips}
    # Those of the validation split set the thresholds, those of the test split are not made at all.
    assert made == {clip_id: split for clip_id, split in splits.items() if split != "test"}
    main(["augment", str(kitchen.path), "--out", str(tmp_path / "test"), *quick, "--split", "test"])
    of_test = [clip for clip in ClipStore.open(tmp_path / "test").clips if splits[clip.clip_id] == "test"]
    assert of_test
    assert {clip.split for clip in of_test} <= {"test", "rejected"}


def test_failed_clips_are_named_and_too_many_of_them_are_an_error(kitchen, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["augment", str(kitchen.path), "--out", str(out), *SMALL, "--no-modalities", "--no-page"]
    command += ["--filter.no-enabled"]
    generated_store(out, kitchen, generator_name("inpainting"))
    train = kitchen.select(view="exo", split="train")
    (out / "media" / "rgb" / f"{train[0].clip_id}-generated.mp4").mkdir(parents=True)  # where the result should go
    with pytest.raises(SystemExit) as exit_info:
        main(command)
    assert exit_info.value.code == 2
    shown = capsys.readouterr().err
    assert f"{train[0].clip_id}-generated: Cannot write" in shown
    assert "clips failed; the others are finished and kept" in shown
    assert len(ClipStore.open(out).clips) == len(train) - 1
    main([*command, "--max-failed-share", "0.5"])
    assert "clips failed; the same command tries them again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "0"], "--workers 0 is too few"),
        (["--ray", "127.0.0.1:1"], "No Ray cluster answers"),
        (["--ray", "nowhere"], "no address"),
        (["--generator", "missing"], "no generator"),
        (["--split", "nothing"], "no split"),
        (["--pick.min-coverage", "1"], "No exo clip is left"),
        (["--pick.min-coverage", "7"], "does not fit"),
        (["--filter.worst-share", "2"], "out of range"),
    ],
)
def test_mistakes_are_named(kitchen, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as exit_info:
        main(["augment", str(kitchen.path), "--out", str(tmp_path / "out"), "--limit", "1", *SMALL, *options])
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err


def test_a_store_without_exo_clips_or_labels_is_refused(square_store, own_kitchen, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["augment", str(square_store.path), "--out", str(tmp_path / "out"), *SMALL])
    assert "no exo clips" in capsys.readouterr().err
    clips = [one.without_labels() for one in own_kitchen.clips]
    write_clips(own_kitchen.path / "clips.parquet", clips)
    with pytest.raises(SystemExit):
        main(["augment", str(own_kitchen.path), "--out", str(tmp_path / "out"), *SMALL, "--pick.need-label"])
    assert "it has no label" in capsys.readouterr().err


def test_a_foreign_folder_is_left_alone(kitchen, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit):
        main(["augment", str(kitchen.path), "--out", str(tmp_path), *SMALL])
    assert "not an EgoLoom clip store" in capsys.readouterr().err
