"""Training and distilling through the command line, as a user does it, on squares whose verb is only in the motion."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from egoloom.cli.main import main
from egoloom.clips import ClipStore, Modality
from egoloom.clips.dataset import ClipDataset, ViewKey, collate, entries_of
from egoloom.clips.schema import HAND_OBJECT_HEADS
from egoloom.clips.tables import write_clips
from egoloom.distillation.soft_labels import SoftLabelCache
from egoloom.evaluation.prediction import Predictions
from egoloom.evaluation.summary import summarise
from egoloom.recipes.recognition import build_model, build_task, training_entries
from egoloom.recipes.registry import RECIPES, get_recipe
from egoloom.recipes.run_config import load_run_config
from egoloom.training.loop import Trainer

SMALL = ["--view.num-frames", "4", "--view.size-px", "32", "--optimisation.batch-size", "8"]


def egoloom(*arguments: str) -> int:
    """Runs the command line in this process and returns its exit code."""
    try:
        main(list(arguments))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture(scope="module")
def teachers(square_store, tmp_path_factory) -> list[Path]:
    out = tmp_path_factory.mktemp("teachers")
    models = {"flow": ["--model.options", '{"input_modality": "flow"}'], "boxes": ["--model.name", "layout_tiny"]}
    for name, options in models.items():
        arguments = ["--data.store", str(square_store.path), "--out", str(out / name), "--optimisation.epochs", "1"]
        assert egoloom("train", "tiny", *arguments, *SMALL, *options) == 0
    return [out / name for name in models]


def distill(square_store, teachers, out, *options: str) -> int:
    arguments = ["--data.store", str(square_store.path), "--out", str(out), "--optimisation.epochs", "2"]
    arguments += ["--distillation.unlabelled-splits", "unlabelled", "--distillation.teachers", *map(str, teachers)]
    return egoloom("distill", "tiny", *arguments, *SMALL, *options)


def totals(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    return [row["total"] for row in rows if "total" in row]


def test_cached_and_online_teachers_give_the_same_losses(square_store, teachers, tmp_path):
    assert distill(square_store, teachers, tmp_path / "cached") == 0
    assert distill(square_store, teachers, tmp_path / "online", "--distillation.no-use-cache") == 0
    cached, online = totals(tmp_path / "cached"), totals(tmp_path / "online")
    assert len(cached) == len(online) > 2
    np.testing.assert_allclose(cached, online, atol=1e-5)


@pytest.fixture(scope="module")
def cross_fitted_teachers(square_store, tmp_path_factory) -> list[Path]:
    out = tmp_path_factory.mktemp("cross_fitted")
    for fold in ("0", "1"):
        arguments = ["--data.store", str(square_store.path), "--out", str(out / f"flow{fold}"), *SMALL]
        arguments += ["--optimisation.epochs", "1", "--model.options", '{"input_modality": "flow"}']
        assert egoloom("train", "tiny", *arguments, "--data.left-out-fold", fold, "2") == 0
    return [out / "flow0", out / "flow1"]


def test_cross_fitted_teachers_judge_only_clips_that_they_did_not_learn(square_store, cross_fitted_teachers, tmp_path):
    options = ["--distillation.cross-fitted", "--distillation.label-noise", "0.2"]
    assert distill(square_store, cross_fitted_teachers, tmp_path / "cached", *options) == 0
    cache = SoftLabelCache.open(tmp_path / "cached" / "soft_labels")
    verdicts_NMK = cache.lookup(cache.info.clip_ids, [0] * len(cache.info.clip_ids))["action"]
    learnt = [json.loads((run / "training_clips.json").read_text())["clip_ids"] for run in cross_fitted_teachers]
    labelled = {entry.clip.clip_id for entry in entries_of(square_store, split="train", labelled=True)}
    assert set(learnt[0]) | set(learnt[1]) == labelled
    assert not set(learnt[0]) & set(learnt[1])
    for clip_id, verdict_MK in zip(cache.info.clip_ids, verdicts_NMK, strict=True):
        silent = verdict_MK.isnan().all(-1).tolist()
        assert silent == [clip_id in learnt[0], clip_id in learnt[1]], clip_id  # unlabelled clips hear both
    options.append("--distillation.no-use-cache")
    assert distill(square_store, cross_fitted_teachers, tmp_path / "online", *options) == 0
    np.testing.assert_allclose(totals(tmp_path / "cached"), totals(tmp_path / "online"), atol=1e-5)


def test_teachers_that_learnt_everything_cannot_be_cross_fitted(square_store, teachers, tmp_path, capsys):
    assert distill(square_store, teachers, tmp_path / "run", "--distillation.cross-fitted") == 2
    assert "were learnt by every teacher" in capsys.readouterr().err
    assert distill(square_store, [teachers[0] / "checkpoints" / "best"], tmp_path / "run2",
                   "--distillation.cross-fitted") == 2  # fmt: skip
    assert "--data.left-out-fold" in capsys.readouterr().err


def test_a_run_leaves_what_it_promises(square_store, teachers, tmp_path):
    run = tmp_path / "student"
    assert distill(square_store, teachers, run) == 0
    names = {path.name for path in run.iterdir()}
    assert names >= {"config.yaml", "environment.json", "history.jsonl", "metrics.json", "checkpoints", "predictions"}
    weights = json.loads((run / "teacher_weights.json").read_text())
    assert weights["teachers"] == ["flow", "boxes"]
    assert sum(weights["weights"]["verb"]) == pytest.approx(1.0)
    held_out = set(json.loads((run / "weighting_split.json").read_text())["clip_ids"])
    reported = {entry.clip.clip_id for entry in entries_of(square_store, split="test")}
    assert held_out
    assert not held_out & reported
    card = json.loads((run / "checkpoints" / "best" / "card.json").read_text())
    assert card["class_names"] == square_store.info.label_spaces
    metrics = json.loads((run / "metrics.json").read_text())
    predictions = Predictions.load(run / "predictions" / "test.npz")
    again = summarise(predictions, temperatures=metrics["temperature"])
    assert again["heads"]["action"]["top1"] == metrics["splits"]["test"]["heads"]["action"]["top1"]


def test_the_written_configuration_repeats_the_run(square_store, teachers, tmp_path):
    assert distill(square_store, teachers, tmp_path / "a") == 0
    config = tmp_path / "a" / "config.yaml"
    assert egoloom("distill", "--from-config", str(config), "--out", str(tmp_path / "b")) == 0
    assert totals(tmp_path / "a") == totals(tmp_path / "b")
    assert load_run_config(config) == load_run_config(tmp_path / "b" / "config.yaml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "huge"], "Unknown recipe 'huge'"),
        (["train", "tiny", "--data.store", "nowhere"], "no clip store at nowhere"),
        (["train", "tiny", "--data.selection-split", "test"], "also reported"),
        (["train", "tiny", "--data.train-splits", "holdout"], "no split 'holdout'"),
        (["train", "tiny", "--model.name", "vgg"], "Unknown model 'vgg'"),
        (["train", "tiny", "--model.name", "imu_tiny"], "egoloom modalities imu --store"),
        (["distill", "tiny"], "needs teachers"),
        (["distill", "tiny", "--distillation.teachers", "nobody"], "No recogniser at nobody"),
        (["train", "--from-config", "nothing.yaml"], "no configuration at nothing.yaml"),
        (["juggle"], "Unknown verb: 'juggle'"),
    ],
)
def test_a_mistake_exits_with_2_and_leaves_nothing(square_store, tmp_path, capsys, arguments, message):
    out = tmp_path / "run"
    if arguments[0] in {"train", "distill"}:
        has_store = "--data.store" in arguments or "--from-config" in arguments or arguments[1] == "huge"
        store = [] if has_store else ["--data.store", str(square_store.path)]
        arguments = [*arguments, *store, "--out", str(out)]
    assert egoloom(*arguments) == 2
    shown = capsys.readouterr()
    said = " ".join((shown.err + shown.out).replace("│", " ").split())
    assert message in said
    assert "Traceback" not in said
    assert not (out / "checkpoints").exists()


def test_a_foreign_or_different_folder_is_refused(square_store, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("important")
    store = ["--data.store", str(square_store.path)]
    assert egoloom("train", "tiny", *store, "--out", str(tmp_path)) == 2
    assert "was not made by EgoLoom" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    run = tmp_path / "run"
    assert egoloom("train", "tiny", *store, *SMALL, "--optimisation.epochs", "1", "--out", str(run)) == 0
    before = (run / "metrics.json").read_bytes()
    assert egoloom("train", "tiny", *store, *SMALL, "--optimisation.epochs", "2", "--out", str(run)) == 2
    assert "another configuration" in capsys.readouterr().err
    assert (run / "metrics.json").read_bytes() == before


def test_classes_of_another_store_are_refused(teachers, new_square_store, tmp_path, capsys):
    store = new_square_store(tmp_path / "other", num_clips=16, num_unlabelled=2)
    info = json.loads((store.path / "info.json").read_text())
    info["label_spaces"]["action"].append("spin cup")
    (store.path / "info.json").write_text(json.dumps(info))
    assert (
        distill(ClipStore.open(store.path), teachers, tmp_path / "run", "--distillation.unlabelled-splits", "train")
        == 2
    )
    assert "classes for 'action'" in capsys.readouterr().err


def test_generated_clips_enter_up_to_the_stated_share(square_store, new_square_store, tmp_path):
    import dataclasses

    from egoloom.clips.tables import write_clips

    extra = new_square_store(tmp_path / "generated", num_clips=16)
    marked = [dataclasses.replace(c, is_generated=True, quality=0.5, split="train") for c in extra.clips]
    write_clips(extra.path / "clips.parquet", marked)
    base = get_recipe("tiny")
    data = base.data.model_copy(
        update={"store": square_store.path, "extra_stores": (extra.path,), "max_generated_share": 0.2}
    )
    entries = training_entries(base.model_copy(update={"data": data}), square_store)
    recorded = [entry for entry in entries if not entry.clip.is_generated]
    assert len(recorded) == len(square_store.select(split="train"))
    assert (len(entries) - len(recorded)) / len(entries) <= 0.2
    assert len(entries) > len(recorded)

    options = {"generated_epochs": 1, "generated_weight": 0.0, "generated_norm": "separate"}
    changed = base.model_copy(update={"data": data.model_copy(update=options)})
    changed = changed.model_copy(update={"optimisation": base.optimisation.model_copy(update={"epochs": 3})})
    dataset = ClipDataset(entries, [Modality.RGB], base.view, is_training=True)
    model = build_model(changed, square_store)
    task = build_task(changed, square_store, dataset, model, tmp_path)
    trainer = Trainer(model, task, dataset, changed.optimisation, tmp_path / "run", generated_epochs=1)
    shown = [{key.index for keys in trainer._batches(epoch) for key in keys} for epoch in range(3)]
    generated = {index for index, entry in enumerate(entries) if entry.clip.is_generated}
    assert shown[0] & generated
    assert not (shown[1] | shown[2]) & generated
    assert trainer.num_steps == sum(trainer.num_batches)
    batch = collate([dataset[ViewKey(index, 0)] for index in sorted(generated)])
    assert float(task.loss(model, batch)["total"].detach()) == 0  # nothing but generated clips, and those weigh nothing
    trainer.fit()
    assert trainer.progress.step == trainer.num_steps


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_is_a_whole_configuration_that_survives_yaml(name, tmp_path):
    config = get_recipe(name)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert load_run_config(path) == config


def test_importing_the_package_is_quick_and_light():
    code = "import sys, egoloom, egoloom.cli.main; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_the_documented_script_is_the_same_entry_point(tmp_path):
    script = Path(__file__).parents[2] / "scripts" / "train.py"
    done = subprocess.run([sys.executable, str(script), "huge"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Unknown recipe 'huge'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_is_evaluated_again_with_more_views(square_store, teachers, capsys):
    run = teachers[0]
    assert egoloom("evaluate", str(run), "--num-clips", "2", "--num-crops", "3", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["splits"]["test"]["num_views"] == 6
    assert record["splits"]["test"]["num_clips"] == len(square_store.select(split="test"))
    assert egoloom("evaluate", str(run), "--json") == 0
    again = json.loads(capsys.readouterr().out)["splits"]["test"]["heads"]["verb"]
    first = json.loads((run / "metrics.json").read_text())["splits"]["test"]["heads"]["verb"]
    assert again["nll"] == pytest.approx(first["nll"], rel=1e-6)
    assert egoloom("evaluate", str(run.parent)) == 2


def test_hands_are_learnt_and_stand_in_the_events_of_a_stream(new_square_store, tmp_path, capsys):
    """A red square lies in the right hand, a blue one in the left: the heads tell them apart after a few epochs."""
    store = new_square_store(tmp_path / "store", num_clips=32)
    held = [replace(clip, left_hand_object=2 * clip.noun, right_hand_object=1 - clip.noun) for clip in store.clips]
    write_clips(store.path / "clips.parquet", held)
    info = json.loads((store.path / "info.json").read_text())
    info["label_spaces"] |= {head: ["none", "red", "blue"] for head in HAND_OBJECT_HEADS}
    (store.path / "info.json").write_text(json.dumps(info))
    arguments = ["--data.store", str(store.path), "--out", str(tmp_path / "run"), "--optimisation.epochs", "8"]
    arguments += ["--model.options", '{"temporal_shift": "causal"}', "--model.heads", "action", *HAND_OBJECT_HEADS]
    assert egoloom("train", "tiny", *arguments, *SMALL) == 0
    heads = json.loads((tmp_path / "run" / "metrics.json").read_text())["splits"]["test"]["heads"]
    assert min(heads[head]["top1"] for head in HAND_OBJECT_HEADS) >= 0.9
    assert egoloom("export", str(tmp_path / "run"), "--target", "torch", "--out", str(tmp_path / "artefact")) == 0
    capsys.readouterr()
    always = ["--on-probability", "0.2", "--off-probability", "0.1"]
    for clip in store.select(split="test")[1:3]:  # one of each colour
        video = str(store.media_path(Modality.RGB, clip.video_id))
        assert egoloom("stream", str(tmp_path / "artefact"), "--input", video, *always) == 0
        events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        colour, other = ("blue", "right") if clip.noun else ("red", "left")
        hands = events[-1]["hands"]
        assert {hand["object"] for hand in hands.values()} == {colour, None}
        assert not hands[other]["in_contact"]
