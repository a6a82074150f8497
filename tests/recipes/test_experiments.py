"""Records against closed forms, relabelled stores, and the whole experiment at the smallest size, resumed."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from egoloom.cli.main import run_verb
from egoloom.clips import ClipStore
from egoloom.errors import UserError
from egoloom.recipes.experiments.distillation import SETTINGS, DistillationExperiment, plan
from egoloom.recipes.experiments.records import ExperimentRecord, markdown_tables
from egoloom.recipes.experiments.relabelled import relabelled_store, with_fewer_labels, with_wrong_labels


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory) -> ClipStore:
    out = tmp_path_factory.mktemp("experiments") / "kitchen"
    run_verb(
        ["kitchen", "--num-clips", "40", "--size", "48", "--no-anti-aliasing", "--workers", "1", "--out", str(out)]
    )
    return ClipStore.open(out)


def test_intervals_and_paired_gains_are_those_of_scipy(tmp_path: Path) -> None:
    ours, theirs = [0.5, 0.6, 0.58], [0.4, 0.55, 0.5]
    record = ExperimentRecord("distillation", {"data": "made up"})
    for seed in range(3):
        record.add("clean", "student", seed, {"top1": ours[seed], "ece": 0.1})
        record.add("clean", "rgb_labels", seed, {"top1": theirs[seed], "ece": 0.2})
    gain = record.gain("clean", "student", "rgb_labels")
    expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    np.testing.assert_allclose(gain["ci95"], [expected.low, expected.high])
    record.save(tmp_path / "record.json", [gain])
    content = json.loads((tmp_path / "record.json").read_text())
    cell = next(cell for cell in content["cells"] if cell["treatment"] == "student")
    spread = stats.t.interval(0.95, 2, loc=np.mean(ours), scale=stats.sem(ours))
    np.testing.assert_allclose(cell["ci95"], spread)
    assert cell["mean"] == pytest.approx(np.mean(ours))
    assert cell["seeds"] == [0, 1, 2]
    again = ExperimentRecord.load(tmp_path / "record.json")
    assert again.to_dict([gain]) == content
    assert "+7.7 [+1.4" in markdown_tables(content)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(UserError, match="no record"):
        ExperimentRecord.load(tmp_path / "other.json")


def test_a_single_seed_has_no_interval() -> None:
    record = ExperimentRecord("distillation", {})
    record.add("clean", "student", 0, {"top1": 0.5})
    assert record.to_dict()["cells"][0]["ci95"] is None


def test_wrong_labels(kitchen: ClipStore, tmp_path: Path) -> None:
    noisy = relabelled_store(kitchen, tmp_path / "noisy", with_wrong_labels(kitchen, 0.3, seed=4))
    before, after = ({clip.clip_id: clip for clip in store.clips} for store in (kitchen, noisy))
    training = [clip for clip in before.values() if clip.split == "train"]
    changed = [name for name, clip in before.items() if after[name].action != clip.action]
    assert len(changed) == round(0.3 * len(training))
    assert {before[name].split for name in changed} == {"train"}
    parts = {clip.action: (clip.verb, clip.noun) for clip in before.values()}
    assert all((after[name].verb, after[name].noun) == parts[after[name].action] for name in changed)
    noisy.validate()
    again = with_wrong_labels(kitchen, 0.3, seed=4)
    assert [again(clip).action for clip in kitchen.clips] == [clip.action for clip in noisy.clips]
    assert relabelled_store(kitchen, tmp_path / "noisy", again).clips == noisy.clips


def test_fewer_labels(kitchen: ClipStore, tmp_path: Path) -> None:
    few = relabelled_store(kitchen, tmp_path / "few", with_fewer_labels(kitchen, 1, seed=0))
    kept = few.select(split="train", labelled=True)
    assert sorted(clip.action for clip in kept) == sorted(
        {clip.action for clip in kitchen.select(split="train", labelled=True)}
    )
    dropped = len(kitchen.select(split="train")) - len(kept)
    assert len(few.select(split="unlabelled")) == len(kitchen.select(split="unlabelled")) + dropped
    assert all(clip.verb == clip.noun == clip.action == -1 for clip in few.select(split="unlabelled"))
    assert few.select(split="test") == kitchen.select(split="test")


@pytest.mark.slow
def test_distillation_experiment_end_to_end(kitchen: ClipStore, tmp_path: Path, capsys) -> None:
    arguments = ["experiment", "distillation", "--store", str(kitchen.path), "--out", str(tmp_path / "runs"), "--json"]
    arguments += [
        "--num-seeds",
        "1",
        "--steps",
        "1",
        "--teacher-steps",
        "1",
        "--num-workers",
        "1",
        "--labels-per-action",
        "1",
    ]
    arguments += ["--settings", "pool"]
    run_verb([*arguments, "--record", str(tmp_path / "record.json")])
    content = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert json.loads((tmp_path / "record.json").read_text()) == content
    cells = {(cell["setting"], cell["treatment"]) for cell in content["cells"]}
    treatments = ("rgb_labels", "flow", "boxes", "audio", "imu", "ensemble", "omnivorous", "student")
    assert cells == {("pool", name) for name in treatments}
    assert {gain["compared_with"] for gain in content["gains"]} == {"rgb_labels", "omnivorous", "ensemble"}
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("figures.json")}
    assert len(times) == 7
    run_verb([*arguments, "--record", str(tmp_path / "record.json")])  # everything is there: nothing is trained again
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_wrong_labels_are_taught_by_cross_fitted_teachers(kitchen: ClipStore, tmp_path: Path) -> None:
    config = DistillationExperiment(settings=("noisy",), noise_share=0.2, num_folds=3)
    noisy = next(setting for setting in SETTINGS if setting.name == "noisy")
    _, _, teachers, (student,), _ = plan(config, kitchen, tmp_path, noisy, seed=4)
    assert sorted(job.config.data.left_out_fold for job in teachers) == sorted([(k, 3) for k in range(3)] * 5)
    teaching = student.config.distillation
    assert teaching is not None
    assert teaching.teachers == tuple(job.out for job in teachers)
    assert (teaching.cross_fitted, teaching.label_noise) == (True, 0.2)


def test_unknown_experiments_and_foreign_stores_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no experiment 'alchemy'"):
        run_verb(["experiment", "alchemy"])
    ClipStore.create(tmp_path / "empty", name="empty", source="videos")
    with pytest.raises(UserError, match="no action labels"):
        run_verb(["experiment", "distillation", "--store", str(tmp_path / "empty"), "--out", str(tmp_path / "runs")])
