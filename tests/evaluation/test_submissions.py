"""Submission files: equal to the official ones, and every malformed one is refused with its reason."""

import copy
import json
import zipfile

import numpy as np
import pytest

from egoloom.cli import calibrate as calibrate_verb
from egoloom.cli import evaluate as evaluate_verb
from egoloom.errors import UserError
from egoloom.evaluation.calibration_files import apply_calibration, fit_calibration
from egoloom.evaluation.score_files import ScoreTable, read_scores, write_scores
from egoloom.evaluation.submissions import (
    SupervisionLevels,
    check_epic_submission,
    check_lta_submission,
    check_ssv2_submission,
    check_sta_submission,
    epic_submission,
    read_epic_submission,
    read_json_submission,
    write_epic_submission,
    write_lta_submission,
    write_ssv2_submission,
    write_sta_submission,
)


@pytest.fixture
def example(golden) -> ScoreTable:
    return read_scores(golden("submission_example_scores.npz"))


LEVELS = SupervisionLevels(pretraining=2, training_labels=4, training_data=3)


def test_epic_content_is_the_official_scripts(golden, example):
    official = json.loads(golden("submission_example.json").read_text())
    rules = json.loads(golden("submission_rules.json").read_text())
    content = epic_submission(example, LEVELS, normalise=False)
    assert list(content) == list(official) == rules["top_level_keys"]
    assert {key: content[key] for key in content if key != "results"} == {
        key: official[key] for key in official if key != "results"
    }
    assert list(content["results"]) == list(official["results"])
    for name, segment in official["results"].items():
        for head, scores in segment.items():
            assert list(content["results"][name][head]) == list(scores)
            for k, value in scores.items():
                assert content["results"][name][head][k] == pytest.approx(value, abs=1e-6)


def test_epic_zip_round_trip_and_normalised_scores(tmp_path, example):
    path = write_epic_submission(tmp_path / "out.zip", example, LEVELS, expected_ids=example.ids)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["test.json"]
        assert archive.getinfo("test.json").compress_type == zipfile.ZIP_DEFLATED
    content = read_epic_submission(path, expected_ids=example.ids)
    verb = np.array([list(segment["verb"].values()) for segment in content["results"].values()])
    np.testing.assert_allclose(np.exp(verb).sum(axis=1), 1.0, atol=1e-4)
    np.testing.assert_array_equal(verb.argsort(axis=1), example.scores["verb"].argsort(axis=1))
    with pytest.raises(UserError, match="exists already"):
        write_epic_submission(path, example, LEVELS)
    write_epic_submission(path, example, LEVELS, force=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.zip"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda c: c.pop("sls_pt"), "lacks 'sls_pt'"),
        (lambda c: c.update(version="0.1"), "version is '0.1'"),
        (lambda c: c.update(challenge="detection"), "challenge is 'detection'"),
        (lambda c: c.update(sls_tl=6), "sls_tl is 6"),
        (lambda c: c.update(sls_tl=True), "sls_tl is True"),
        (lambda c: c.update(results={}), "no results"),
        (lambda c: c["results"]["P01_101_0"].pop("noun"), "P01_101_0: noun scores are missing"),
        (lambda c: c["results"]["P01_101_0"]["verb"].pop("96"), "P01_101_0: 96 verb classes"),
        (lambda c: c["results"]["P01_101_0"]["verb"].update({"3": float("nan")}), "verb class 3 has the score nan"),
        (lambda c: c["results"]["P01_101_0"]["verb"].update({"3": "high"}), "verb class 3 has the score 'high'"),
        (lambda c: c["results"].update(P99_01_0=c["results"]["P01_101_0"]), "not in the test split, first: P99_01_0"),
        (lambda c: c["results"].pop("P01_101_0"), "missing, first: P01_101_0"),
    ],
)
def test_malformed_epic_submissions_are_refused(example, fault, message):
    content = copy.deepcopy(epic_submission(example, LEVELS))
    check_epic_submission(content, expected_ids=example.ids)
    fault(content)
    with pytest.raises(UserError, match=message):
        check_epic_submission(content, expected_ids=example.ids)


def test_zip_faults_are_refused(tmp_path, example):
    text = json.dumps(epic_submission(example, LEVELS))
    first = example.ids[0]
    for name, members, message in [
        ("two.zip", {"test.json": text, "readme.txt": "hi"}, "exactly one file"),
        ("name.zip", {"val.json": text}, "exactly one file"),
        ("nan.zip", {"test.json": text.replace('"0": ', '"0": NaN, "x": ', 1)}, "NaN"),
        ("twice.zip", {"test.json": text.replace(f'"{first}": ', f'"{first}": {{}}, "{first}": ', 1)}, "occurs twice"),
        ("text.zip", {"test.json": "hello"}, "not JSON"),
    ]:
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for member, content in members.items():
                archive.writestr(member, content)
        with pytest.raises(UserError, match=message):
            read_epic_submission(tmp_path / name)
    (tmp_path / "no.zip").write_text("no zip")
    with pytest.raises(UserError, match="not a submission zip"):
        read_epic_submission(tmp_path / "no.zip")


def test_ssv2_lines_hold_the_five_best(tmp_path):
    scores = np.zeros((2, 174))
    scores[0, [9, 8, 7, 6, 5]] = [5, 4, 3, 2, 1]
    scores[1, [173, 0, 3, 2, 1]] = [5, 4, 3, 2, 1]
    path = write_ssv2_submission(tmp_path / "out.csv", ["41775", "7"], scores, expected_ids=["7", "41775"])
    assert path.read_text() == "41775;9;8;7;6;5\n7;173;0;3;2;1\n"
    assert check_ssv2_submission(path.read_text()) == ["41775", "7"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1;2;3;4;5\n", "Line 1 has 5 fields"),
        ("1;2;3;4;5;174\n", "Line 1 has the classes 2;3;4;5;174"),
        ("1;2;3;4;5;-6\n", "Line 1 has the classes"),
        ("1;2;3;4;5;5\n", "names a class twice"),
        ("1;2;3;4;5;6\n1;2;3;4;5;6\n", "Line 2 repeats the video 1 of line 1"),
        (";2;3;4;5;6\n", "Line 1 has no id"),
        ("", "empty"),
        ("2;2;3;4;5;6\n", "not in the test split, first: 2"),
    ],
)
def test_malformed_ssv2_files_are_refused(text, message):
    with pytest.raises(UserError, match=message):
        check_ssv2_submission(text, expected_ids=["1"])


def test_ssv2_scores_are_checked(tmp_path):
    with pytest.raises(UserError, match="shape"):
        write_ssv2_submission(tmp_path / "x", ["1"], np.zeros((1, 10)))
    with pytest.raises(UserError, match="not finite"):
        write_ssv2_submission(tmp_path / "x", ["1"], np.full((1, 174), np.nan))
    assert not (tmp_path / "x").exists()


def lta() -> dict:
    return {"uid-1_7": {"verb": np.zeros((5, 20), int), "noun": np.ones((5, 20), int)}}


def test_lta_round_trip(tmp_path):
    path = write_lta_submission(tmp_path / "lta.json", lta(), num_verbs=115, num_nouns=478, expected_ids=["uid-1_7"])
    content = read_json_submission(path)
    check_lta_submission(content, num_verbs=115, num_nouns=478)
    assert np.shape(content["uid-1_7"]["noun"]) == (5, 20)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda c: c["uid-1_7"].pop("noun"), "allowed: verb and noun"),
        (lambda c: c["uid-1_7"].update(verb=[[0] * 20] * 4), "verb has another shape"),
        (lambda c: c["uid-1_7"].update(verb=[[0] * 19] * 5), "verb has another shape"),
        (lambda c: c["uid-1_7"].update(verb=[[115] * 20] * 5), "verb holds something other"),
        (lambda c: c["uid-1_7"].update(verb=[[0.5] * 20] * 5), "verb holds something other"),
        (lambda c: c.update(uid=c.pop("uid-1_7")), "key 'uid' is malformed"),
        (lambda c: c.pop("uid-1_7"), "not a JSON object with predictions"),
        (lambda c: c.update({"uid-2_0": c["uid-1_7"]}), "not in the test split, first: uid-2_0"),
    ],
)
def test_malformed_lta_files_are_refused(fault, message):
    content = {name: {k: v.tolist() for k, v in heads.items()} for name, heads in lta().items()}
    fault(content)
    with pytest.raises(UserError, match=message):
        check_lta_submission(content, num_verbs=115, num_nouns=478, expected_ids=["uid-1_7"])


def detection(**changes) -> dict:
    values = {
        "box": [1.0, 2.0, 30.0, 40.0],
        "noun_category_id": 3,
        "verb_category_id": 4,
        "time_to_contact": 0.7,
        "score": 0.5,
    }
    return {**values, **changes}


def test_sta_round_trip(tmp_path):
    path = write_sta_submission(tmp_path / "sta.json", {"a": [detection()], "b": []}, expected_ids=["a", "b"])
    content = read_json_submission(path)
    check_sta_submission(content)
    assert content["results"]["a"][0]["time_to_contact"] == 0.7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"box": [30.0, 2.0, 1.0, 40.0]}, "box"),
        ({"box": [1.0, 2.0, 3.0]}, "box"),
        ({"noun_category_id": 3.0}, "noun_category_id 3.0"),
        ({"time_to_contact": 0}, "time_to_contact 0"),
        ({"score": float("inf")}, "score inf"),
    ],
)
def test_malformed_sta_detections_are_refused(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        write_sta_submission(tmp_path / "sta.json", {"a": [detection(**change)]})
    assert not (tmp_path / "sta.json").exists()
    with pytest.raises(UserError, match="challenge is None"):
        check_sta_submission({"version": "1.0"})


def ssv2_files(tmp_path, seed: int = 0):
    g = np.random.default_rng(seed)
    templates = {f"Doing something {i}": str(i) for i in range(8)}
    labels = g.integers(0, 8, 60)
    items = [{"id": str(i), "template": f"Doing [something] {k}"} for i, k in enumerate(labels)]
    (tmp_path / "labels.json").write_text(json.dumps(templates))
    (tmp_path / "validation.json").write_text(json.dumps(items))
    scores = 2.0 * np.eye(8)[labels] + g.normal(size=(60, 8))
    write_scores(tmp_path / "scores.npz", ScoreTable([str(i) for i in range(60)], {"action": scores}))
    return labels, scores


def test_ssv2_protocol_and_its_submission_from_the_command(tmp_path, capsys):
    labels, scores = ssv2_files(tmp_path)
    evaluate_verb.main(
        [
            "--protocol",
            "ssv2",
            "--predictions",
            str(tmp_path / "scores.npz"),
            "--annotations",
            str(tmp_path / "validation.json"),
            "--labels",
            str(tmp_path / "labels.json"),
            "--submission",
            str(tmp_path / "submission.csv"),
            "--json",
        ]
    )
    record = json.loads(capsys.readouterr().out)
    assert record["all_action_accuracy_at_1"] == pytest.approx(100 * (scores.argmax(1) == labels).mean())
    assert len(check_ssv2_submission((tmp_path / "submission.csv").read_text(), num_classes=8)) == 60


def test_epic_submission_from_the_command(tmp_path, golden, capsys):
    folder = golden("epic_eval/expected.json").parent
    arguments = ["--protocol", "epic-100", "--predictions", str(folder / "predictions_base.npz")]
    arguments += ["--annotations", str(folder / "annotations.csv"), "--submission", str(tmp_path / "out.zip")]
    evaluate_verb.main([*arguments, "--sls", "1", "4", "3"])
    content = read_epic_submission(tmp_path / "out.zip")
    assert (content["sls_pt"], content["sls_tl"], content["sls_td"]) == (1, 4, 3)
    with pytest.raises(UserError, match="allowed: three whole numbers"):
        evaluate_verb.main([*arguments, "--force", "--sls", "9", "4", "3"])


@pytest.mark.parametrize("method", ["temperature", "vector"])
def test_calibrate_command_fits_on_one_file_and_improves_another(tmp_path, capsys, method):
    g = np.random.default_rng(0)
    tables = {}
    for name in ("fit", "test"):
        true_logits = 2 * g.normal(size=(3000, 5))
        probs = np.exp(true_logits) / np.exp(true_logits).sum(1, keepdims=True)
        labels = np.array([g.choice(5, p=p) for p in probs])
        table = ScoreTable([f"{name}{i}" for i in range(3000)], {"verb": (3 * true_logits).astype(np.float32)})
        write_scores(tmp_path / f"{name}.npz", table)
        rows = "\n".join(f"{i},{label}" for i, label in zip(table.ids, labels, strict=True))
        (tmp_path / f"{name}.csv").write_text("narration_id,verb_class\n" + rows + "\n")
        tables[name] = (table, labels)
    calibrate_verb.main(
        [
            "--predictions",
            str(tmp_path / "fit.npz"),
            "--annotations",
            str(tmp_path / "fit.csv"),
            "--method",
            method,
            "--out",
            str(tmp_path / "calibration.json"),
            "--apply-to",
            str(tmp_path / "test.npz"),
            "--apply-out",
            str(tmp_path / "calibrated.npz"),
            "--reliability",
            str(tmp_path / "reliability.png"),
        ]
    )
    assert "ECE" in capsys.readouterr().out
    record = json.loads((tmp_path / "calibration.json").read_text())
    if method == "temperature":
        assert record["heads"]["verb"]["temperature"] == pytest.approx(3.0, rel=0.06)
    table, labels = tables["test"]
    before = fit_calibration(table, {"verb": labels})["heads"]["verb"]["before"]
    calibrated = read_scores(tmp_path / "calibrated.npz")
    after = fit_calibration(calibrated, {"verb": labels})["heads"]["verb"]["before"]
    assert before["ece"] > 0.1
    assert after["ece"] < 0.03
    np.testing.assert_allclose(np.exp(calibrated.scores["verb"]).sum(axis=1), 1.0, atol=1e-4)
    np.testing.assert_allclose(calibrated.scores["verb"], apply_calibration(record, table).scores["verb"], atol=1e-6)
    assert (tmp_path / "reliability.png").read_bytes()[:4] == b"\x89PNG"


def test_calibrate_refuses_what_it_cannot_use(tmp_path):
    table = ScoreTable(["a", "b"], {"verb": np.zeros((2, 3), np.float32)})
    write_scores(tmp_path / "scores.npz", table)
    arguments = ["--predictions", str(tmp_path / "scores.npz"), "--out", str(tmp_path / "c.json")]
    with pytest.raises(UserError, match="holds no labels"):
        calibrate_verb.main(arguments)
    (tmp_path / "labels.csv").write_text("narration_id,verb_class\na,1\n")
    with pytest.raises(UserError, match="1 segments are not in"):
        calibrate_verb.main([*arguments, "--annotations", str(tmp_path / "labels.csv")])
    (tmp_path / "labels.csv").write_text("narration_id,verb_class\na,-1\nb,-1\n")
    with pytest.raises(UserError, match="No segment is labelled"):
        calibrate_verb.main([*arguments, "--annotations", str(tmp_path / "labels.csv")])
    with pytest.raises(UserError, match="belong together"):
        calibrate_verb.main([*arguments, "--apply-to", str(tmp_path / "scores.npz")])
    assert not (tmp_path / "c.json").exists()


def test_a_runs_own_predictions_are_read_and_calibrated(tmp_path, capsys):
    from egoloom.evaluation.prediction import Predictions

    g = np.random.default_rng(0)
    labels = g.integers(0, 4, 300)
    logits = 4 * (np.eye(4)[labels][:, None, :] + g.normal(size=(300, 3, 4))).astype(np.float32)
    path = tmp_path / "test.npz"
    predictions = Predictions([f"c{i}" for i in range(300)], {"verb": logits}, {"verb": labels})
    predictions.save(path)
    table = read_scores(path)
    assert table.ids == predictions.clip_ids
    np.testing.assert_allclose(table.scores["verb"], predictions.log_probs("verb"), atol=1e-5)
    calibrate_verb.main(["--predictions", str(path), "--out", str(tmp_path / "c.json"), "--json"])
    fitted = json.loads(capsys.readouterr().out)["heads"]["verb"]
    assert fitted["after"]["nll"] < fitted["before"]["nll"]
