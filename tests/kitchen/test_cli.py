"""The two verbs, run as a user runs them."""

import av
import numpy as np
import pytest

from egoloom.cli.kitchen import KitchenArguments, settings_of
from egoloom.cli.main import main
from egoloom.clips import ClipStore
from egoloom.kitchen.plan import plan_clip

SMALL = ["--size", "32", "--fps", "4", "--duration-s", "1", "--workers", "1"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "store"
    main(["kitchen", "--num-clips", "2", "--seed", "4", "--out", str(path), *SMALL])
    return path


def test_kitchen_makes_a_valid_store_and_says_what_next(store, capsys):
    main(["kitchen", "--num-clips", "2", "--seed", "4", "--out", str(store), *SMALL])
    said = capsys.readouterr().out
    assert str(store) in said
    assert "next:" in said
    assert ClipStore.open(store).validate(decode=True) == []
    assert len(ClipStore.open(store).clips) == 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--size", "9000"], "ego_size_px = 9000"),
        (["--size", "33"], "ego_size_px = 33"),
        (["--fps", "0"], "fps = 0"),
        (["--num-clips", "0"], "number of clips"),
        (["--label-noise", "2"], "label_noise"),
        (["--num-kitchens", "1"], "num_kitchens = 1"),
        (["--num-participants", "1"], "num_participants = 1"),
    ],
)
def test_values_out_of_range_end_with_code_2_and_no_traceback(tmp_path, capsys, options, said):
    with pytest.raises(SystemExit) as stop:
        main(["kitchen", "--out", str(tmp_path / "store"), *options])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "store" / "clips.parquet").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path, capsys):
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(SystemExit) as stop:
        main(["kitchen", "--num-clips", "1", "--out", str(tmp_path / "letter.txt" / "store"), *SMALL])
    assert stop.value.code == 2
    assert "letter.txt/store" in capsys.readouterr().err


def test_numbers_of_kitchens_and_people_reach_the_settings():
    arguments = KitchenArguments(num_kitchens=12, num_participants=20)
    settings = settings_of(arguments)
    plans = [plan_clip(settings, index) for index in range(400)]
    assert {plan.kitchen for plan in plans if plan.split != "unseen_kitchen"} == set(range(9))
    assert {plan.kitchen for plan in plans if plan.split == "unseen_kitchen"} == {9, 10, 11}
    assert {plan.participant for plan in plans if plan.split == "unseen_participant"} == set(range(15, 20))


def test_another_seed_on_the_same_folder_is_refused(store, capsys):
    with pytest.raises(SystemExit):
        main(["kitchen", "--num-clips", "2", "--seed", "5", "--out", str(store), *SMALL])
    assert "other settings" in capsys.readouterr().err


def test_view_writes_a_video_with_sound_as_long_as_the_clip(store, tmp_path):
    clip = next(c for c in ClipStore.open(store).clips if "audio" in c.present)
    main(["view", f"{store}/{clip.clip_id}", "--out", str(tmp_path / "view.mp4")])
    with av.open(str(tmp_path / "view.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 4
    assert frames[0].shape[1] >= 5 * 256  # ego, exo, boxes, flow, depth
    assert np.std(frames[2]) > 20
    with av.open(str(tmp_path / "view.mp4")) as container:
        samples = sum(frame.samples for frame in container.decode(audio=0))
    assert samples == pytest.approx(16000, abs=3000)


def frames_of(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]


def test_view_of_a_long_clip_is_written_in_blocks_and_cut(store, tmp_path, monkeypatch, capsys):
    main(["view", str(store), "--out", str(tmp_path / "whole.mp4")])
    monkeypatch.setattr("egoloom.cli.view.NUM_FRAMES_PER_BLOCK", 3)
    main(["view", str(store), "--out", str(tmp_path / "blocks.mp4")])
    whole, blocks = frames_of(tmp_path / "whole.mp4"), frames_of(tmp_path / "blocks.mp4")
    assert len(whole) == len(blocks) == 4
    np.testing.assert_array_equal(whole, blocks)
    main(["view", str(store), "--out", str(tmp_path / "cut.mp4"), "--max-length-s", "0.5"])
    assert "the first 0.5 of 1.0 s" in capsys.readouterr().out
    assert len(frames_of(tmp_path / "cut.mp4")) == 2
    with pytest.raises(SystemExit):
        main(["view", str(store), "--max-length-s", "0"])


def test_view_shows_an_exo_clip_and_takes_the_first_ego_clip_by_default(store, tmp_path):
    main(["view", str(store), "--clip-id", "take_000001_exo", "--out", str(tmp_path / "exo.mp4")])
    main(["view", str(store), "--out", str(tmp_path / "first.mp4")])
    assert (tmp_path / "exo.mp4").stat().st_size > 1000
    assert (tmp_path / "first.mp4").stat().st_size > 1000


@pytest.mark.parametrize("wrong", ["nowhere", "STORE/no_such_clip"])
def test_view_of_something_missing_says_so(store, capsys, wrong):
    with pytest.raises(SystemExit) as stop:
        main(["view", wrong.replace("STORE", str(store))])
    assert stop.value.code == 2
    assert "egoloom:" in capsys.readouterr().err


@pytest.mark.slow
def test_preview_writes_a_sheet_and_a_strip_per_action(tmp_path):
    main(["kitchen", "--preview", "--out", str(tmp_path), "--size", "32", "--fps", "4"])
    assert len(list(tmp_path.glob("kitchen_*.png"))) == 19
