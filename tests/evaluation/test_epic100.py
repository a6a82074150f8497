"""The EPIC-KITCHENS-100 protocol against the official script's recorded numbers, in every file format."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from egoloom.cli import evaluate as evaluate_verb
from egoloom.errors import UserError
from egoloom.evaluation.epic100 import (
    EpicResult,
    evaluate_epic100,
    read_annotations,
    read_classes,
    read_participants,
)
from egoloom.evaluation.score_files import ScoreTable, read_scores, write_scores

REAL = Path(os.environ.get("EGOLOOM_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.fixture(scope="module")
def folder(golden) -> Path:
    return golden("epic_eval/expected.json").parent


@pytest.fixture(scope="module")
def expected(folder) -> dict:
    return json.loads((folder / "expected.json").read_text())


@pytest.fixture(scope="module")
def base(folder) -> ScoreTable:
    return read_scores(folder / "predictions_base.npz")


def evaluate(folder: Path, table: ScoreTable, **options) -> EpicResult:
    options.setdefault("unseen_participants", read_participants(folder / "unseen_participant_ids.csv"))
    return evaluate_epic100(
        table,
        read_annotations(folder / "annotations.csv"),
        tail_verbs=read_classes(folder / "tail_verbs.csv", "verb"),
        tail_nouns=read_classes(folder / "tail_nouns.csv", "noun"),
        **options,
    )


def assert_equal(result: EpicResult, official: dict[str, float]) -> None:
    assert set(result.metrics) == set(official)
    for key, value in official.items():
        assert result.metrics[key] == pytest.approx(value, abs=1e-9), key


def test_base_case_and_counts(folder, expected, base):
    result = evaluate(folder, base)
    assert_equal(result, expected["base"]["official"])
    assert result.warnings == []
    assert {k: result.counts[k] for k in ("unseen_verb", "tail_verb", "tail_noun", "tail_action")} == {
        "unseen_verb": 75,
        "tail_verb": 59,
        "tail_noun": 60,
        "tail_action": 112,
    }


def test_log_softmax_scores_give_the_same(folder, expected, base):
    from scipy.special import log_softmax

    scores = {head: log_softmax(matrix, axis=1) for head, matrix in base.scores.items()}
    assert_equal(evaluate(folder, ScoreTable(base.ids, scores)), expected["base"]["official"])


def test_benign_ties(folder, expected, base):
    annotations = read_annotations(folder / "annotations.csv")
    rows = [annotations.narration_ids.index(name) for name in base.ids]
    scores = {}
    for head, labels in (("verb", annotations.verbs[rows]), ("noun", annotations.nouns[rows])):
        matrix = base.scores[head].copy()
        threshold = np.sort(matrix, axis=1)[:, -12][:, None]
        low = matrix < threshold
        low[np.arange(len(labels)), labels] = False
        matrix[low] = -9.0
        scores[head] = matrix
    assert_equal(evaluate(folder, ScoreTable(base.ids, scores)), expected["benign_ties"]["official"])


def test_ambiguous_ties_stay_within_the_bounds_and_are_deterministic(folder, expected):
    table = read_scores(folder / "predictions_ties.npz")
    result = evaluate(folder, table)
    for key, low in expected["ambiguous_ties"]["lower_bound"].items():
        high = expected["ambiguous_ties"]["upper_bound"][key]
        assert low - 1e-9 <= result.metrics[key] <= high + 1e-9, key
    order = np.random.default_rng(0).permutation(len(table.ids))
    shuffled = ScoreTable([table.ids[i] for i in order], {h: m[order] for h, m in table.scores.items()})
    assert evaluate(folder, shuffled).metrics == result.metrics


@pytest.mark.parametrize(
    "variant",
    [
        "float32_plus200_both",
        "float32_plus200_verb_only",
        "float32_plus60_both",
        "float64_plus200_both",
        "float64_plus800_both",
    ],
)
def test_one_loud_segment_does_not_drown_the_others_and_is_warned_about(folder, expected, base, variant):
    about = expected["overflow"]["variants"][variant]
    row = base.ids.index(expected["overflow"]["narration_id"])
    scores = {head: matrix.astype(about["dtype"]) for head, matrix in base.scores.items()}
    scores["verb"][row] += about["added_to_verb"]
    scores["noun"][row] += about["added_to_noun"]
    result = evaluate(folder, ScoreTable(base.ids, scores))
    assert_equal(result, about["intended"])
    collapses = about["official"]["all_action_accuracy_at_1"] == 0.0
    assert any("one softmax over the whole file" in warning for warning in result.warnings) == collapses


def test_no_unseen_segment_leaves_the_keys_out_and_warns(folder, expected, base):
    case = expected["no_unseen_segment"]
    result = evaluate(folder, base, unseen_participants=case["unseen_participant_ids"])
    assert_equal(result, case["official"])
    assert any("no unseen segment" in warning for warning in result.warnings)


def test_subset_only_when_it_is_asked_for(folder, expected, base):
    part = ScoreTable(base.ids[:100], {head: matrix[:100] for head, matrix in base.scores.items()})
    result = evaluate(folder, part, allow_missing=True)
    assert_equal(result, expected["subset"]["official"])
    assert "200 of 300 annotated segments" in result.warnings[0]
    with pytest.raises(UserError, match="200 of 300 annotated segments have no scores"):
        evaluate(folder, part)


def test_no_tail_segment_leaves_the_keys_out(folder, base):
    annotations = read_annotations(folder / "annotations.csv")
    unused = int(np.setdiff1d(np.arange(97), annotations.verbs)[0])
    result = evaluate_epic100(base, annotations, tail_verbs=np.array([unused]), tail_nouns=np.array([299]))
    assert "tail_verb_accuracy_at_1" not in result.metrics
    assert any("no tail verb segment" in warning for warning in result.warnings)


def test_action_calibration_is_that_of_the_joint_distribution(folder, base):
    from egoloom.evaluation.calibration import expected_calibration_error, negative_log_likelihood, softmax

    annotations = read_annotations(folder / "annotations.csv")
    rows = [annotations.narration_ids.index(name) for name in base.ids]
    verbs = softmax(base.scores["verb"].astype(np.float64))
    nouns = softmax(base.scores["noun"].astype(np.float64))
    joint = (verbs[:, :, None] * nouns[:, None, :]).reshape(len(rows), -1)
    labels = annotations.verbs[rows] * 300 + annotations.nouns[rows]
    calibration = evaluate(folder, base).calibration
    assert calibration["action_ece"] == pytest.approx(100 * expected_calibration_error(joint, labels))
    assert calibration["action_nll"] == pytest.approx(negative_log_likelihood(joint, labels))


def as_records(table: ScoreTable) -> list[dict]:
    return [
        {"narration_id": name, "verb_output": table.scores["verb"][row], "noun_output": table.scores["noun"][row]}
        for row, name in enumerate(table.ids)
    ]


def as_columns(table: ScoreTable) -> dict:
    columns = {f"{head}_output": matrix for head, matrix in table.scores.items()}
    return {"narration_id": np.array(table.ids), **columns}


@pytest.mark.parametrize(
    "kind", ["npz", "safetensors", "parquet", "pkl", "pkl-records", "pt", "pt-records", "pt-tensors"]
)
def test_every_file_format_is_read_alike(tmp_path, base, kind):
    path = tmp_path / f"scores.{kind.split('-')[0]}"
    if kind == "npz":
        write_scores(path, base)
    elif kind == "safetensors":
        arrays = {f"{head}_output": matrix for head, matrix in base.scores.items()}
        save_file(arrays, path, metadata={"narration_id": json.dumps(base.ids)})
    elif kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({key: list(value) for key, value in as_columns(base).items()}), path)
    elif kind.startswith("pkl"):
        content = as_records(base) if "records" in kind else as_columns(base)
        for protocol in (2, 4, 5):
            path.write_bytes(pickle.dumps(content, protocol=protocol))
            assert read_scores(path).ids == base.ids
    else:
        content = as_records(base) if "records" in kind else as_columns(base)
        content = as_columns(base) | {"narration_id": base.ids} if kind == "pt" else content
        if kind == "pt-tensors":
            content = {k: v.tolist() if k == "narration_id" else torch.tensor(v) for k, v in as_columns(base).items()}
        torch.save(content, path)
    table = read_scores(path)
    assert table.ids == base.ids
    for head, matrix in base.scores.items():
        np.testing.assert_array_equal(table.scores[head], matrix)


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("bomb-went-off",))


@pytest.mark.parametrize("suffix", ["pkl", "pt"])
def test_code_in_a_file_of_scores_is_never_run(tmp_path, monkeypatch, suffix):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"evil.{suffix}"
    if suffix == "pkl":
        path.write_bytes(pickle.dumps({"narration_id": ["a"], "verb_output": Bomb()}))
    else:
        torch.save({"narration_id": ["a"], "verb_output": Bomb()}, path)
    with pytest.raises(UserError, match="plain data"):
        read_scores(path)
    assert not (tmp_path / "bomb-went-off").exists()


def broken(base: ScoreTable, **changes) -> dict:
    return {**as_columns(base), **changes}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nan", "1 segments have NaN or infinite verb scores, first: "),
        ("duplicate", "1 segments occur more than once"),
        ("lengths", "300 ids but 299 rows"),
        ("no_ids", "has no ids"),
        ("no_scores", "has no scores"),
        ("one_axis", r"shape \[300\]"),
    ],
)
def test_faulty_files_are_refused_with_the_reason(tmp_path, base, name, message):
    verbs = base.scores["verb"].copy()
    content = broken(base)
    if name == "nan":
        verbs[7, 3] = np.nan
        content["verb_output"] = verbs
    elif name == "duplicate":
        content["narration_id"] = np.array([base.ids[1], *base.ids[1:]])
    elif name == "lengths":
        content["verb_output"] = verbs[:-1]
    elif name == "no_ids":
        del content["narration_id"]
    elif name == "no_scores":
        content = {"narration_id": content["narration_id"]}
    elif name == "one_axis":
        content["verb_output"] = verbs[:, 0]
    np.savez(tmp_path / "scores.npz", **content)
    with pytest.raises(UserError, match=message):
        read_scores(tmp_path / "scores.npz")


def test_unknown_segments_and_wrong_class_counts_are_refused(folder, base):
    renamed = ScoreTable(["P77_01_0", *base.ids[1:]], base.scores)
    with pytest.raises(UserError, match="1 segments are not in the annotations, first: P77_01_0"):
        evaluate(folder, renamed)
    with pytest.raises(UserError, match="verb scores have 96 classes"):
        evaluate(folder, ScoreTable(base.ids, {**base.scores, "verb": base.scores["verb"][:, :96]}))
    with pytest.raises(UserError, match="has no noun_output"):
        evaluate(folder, ScoreTable(base.ids, {"verb": base.scores["verb"]}))


def test_unreadable_files_are_refused(tmp_path, folder):
    with pytest.raises(UserError, match="There is no file"):
        read_scores(tmp_path / "none.npz")
    for suffix in ("npz", "safetensors", "parquet", "pkl", "pt"):
        (tmp_path / f"junk.{suffix}").write_bytes(b"junk that is no file of this kind")
        with pytest.raises(UserError):
            read_scores(tmp_path / f"junk.{suffix}")
    (tmp_path / "scores.mat").write_text("x")
    with pytest.raises(UserError, match=r"\.npz"):
        read_scores(tmp_path / "scores.mat")
    (tmp_path / "test.csv").write_text("narration_id,participant_id\nP01_01_0,P01\n")
    with pytest.raises(UserError, match="lacks the column 'verb_class'"):
        read_annotations(tmp_path / "test.csv")
    with pytest.raises(UserError, match="lacks the column 'noun'"):
        read_classes(folder / "tail_verbs.csv", "noun")


def arguments_for(folder: Path, predictions: Path) -> list[str]:
    return [
        "--protocol",
        "epic-100",
        "--predictions",
        str(predictions),
        "--annotations",
        str(folder / "annotations.csv"),
        "--tail-verbs",
        str(folder / "tail_verbs.csv"),
        "--tail-nouns",
        str(folder / "tail_nouns.csv"),
        "--unseen-participants",
        str(folder / "unseen_participant_ids.csv"),
    ]


def test_command_prints_the_official_keys_as_json(folder, expected, capsys):
    evaluate_verb.main([*arguments_for(folder, folder / "predictions_base.npz"), "--json"])
    record = json.loads(capsys.readouterr().out)
    for key, value in expected["base"]["official"].items():
        assert record[key] == pytest.approx(value, abs=1e-9)
    assert record["num_segments"]["all_verb"] == 300
    assert record["calibration"]["action_ece"] > 0


def test_command_prints_a_table_and_warns_on_standard_error(folder, base, tmp_path, capsys):
    scores = {head: matrix.copy() for head, matrix in base.scores.items()}
    scores["verb"][0] += 200
    write_scores(tmp_path / "loud.npz", ScoreTable(base.ids, scores))
    evaluate_verb.main(arguments_for(folder, tmp_path / "loud.npz"))
    captured = capsys.readouterr()
    assert "11.33" in captured.out
    assert "21.67" in captured.out
    assert "one softmax over the whole file" in captured.err


@pytest.mark.real_data
def test_real_validation_table_equals_the_official_script(folder):
    tables = REAL / "epic_kitchens_100"
    if not (tables / "EPIC_100_validation.csv").is_file():
        pytest.skip(f"EPIC-KITCHENS-100 annotations are not in {tables} (set EGOLOOM_REAL_DATA)")
    about = json.loads((folder / "real_validation_expected.json").read_text())
    annotations = read_annotations(tables / "EPIC_100_validation.csv")
    g = np.random.Generator(np.random.PCG64(about["seed"]))
    n = len(annotations.verbs)
    verbs, nouns = g.standard_normal((n, 97), dtype=np.float32), g.standard_normal((n, 300), dtype=np.float32)
    verb_hit, noun_hit = g.random(n) < 0.6, g.random(n) < 0.5
    verb_gain, noun_gain = g.random(n, dtype=np.float32), g.random(n, dtype=np.float32)
    rows = np.flatnonzero(verb_hit)
    verbs[rows, annotations.verbs[rows]] += np.float32(2) + np.float32(2) * verb_gain[rows]
    rows = np.flatnonzero(noun_hit)
    nouns[rows, annotations.nouns[rows]] += np.float32(2) + np.float32(3) * noun_gain[rows]
    assert verbs.sum(dtype=np.float64) == pytest.approx(about["check"]["V_sum_float64"])
    result = evaluate_epic100(
        ScoreTable(annotations.narration_ids, {"verb": verbs, "noun": nouns}),
        annotations,
        tail_verbs=read_classes(tables / "EPIC_100_tail_verbs.csv", "verb"),
        tail_nouns=read_classes(tables / "EPIC_100_tail_nouns.csv", "noun"),
        unseen_participants=read_participants(tables / "EPIC_100_unseen_participant_ids_validation.csv"),
    )
    assert_equal(result, about["official"])
    assert result.counts["all_verb"] == 9668
