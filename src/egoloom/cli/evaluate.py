"""``egoloom evaluate``: a data set's protocol on a file of scores, generated clips, or a trained run on its store."""

import json
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from egoloom.errors import UserError

USAGE = """usage: egoloom evaluate --protocol NAME --predictions FILE --annotations FILE [options]
       egoloom evaluate --protocol exo2ego --generated FOLDER_OR_STORE --truth FOLDER_OR_STORE [options]
       egoloom evaluate RUN [options]

The first form scores a file of predictions under a public protocol (epic-100, ssv2); the second compares generated ego
clips with recorded ones; the third shows a trained run its clips again. Add --help after each for its options."""


@dataclass
class ProtocolArguments:
    """Scores a file of predictions under a public protocol.

    Attributes:
        protocol: epic-100 (verb, noun, action; all, unseen, tail) or ssv2 (one head, top-1 and top-5).
        predictions: .npz, .safetensors, .parquet, or the official .pkl or .pt; narration_id and <head>_output.
        annotations: The CSV (epic-100) or JSON (ssv2) with the labels of the split.
        tail_verbs: EPIC_100_tail_verbs.csv.
        tail_nouns: EPIC_100_tail_nouns.csv.
        unseen_participants: EPIC_100_unseen_participant_ids_validation.csv.
        labels: ssv2 only: the JSON that maps templates to class ids.
        allow_missing: Score only the segments that have predictions, as the official EPIC script does.
        submission: Also write the challenge's submission file here.
        sls: Supervision levels of an EPIC submission: pre-training, training labels, training data.
        force: Replace an existing submission file.
        json: Print one JSON object and nothing else on standard output.
    """

    protocol: Literal["epic-100", "ssv2"]
    predictions: Path
    annotations: Path
    tail_verbs: Path | None = None
    tail_nouns: Path | None = None
    unseen_participants: Path | None = None
    labels: Path | None = None
    allow_missing: bool = False
    submission: Path | None = None
    sls: tuple[int, int, int] = (2, 3, 3)
    force: bool = False
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False


@dataclass
class RunArguments:
    """Shows a trained run clips again.

    Attributes:
        run: A run folder.
        split: The splits; default: the ones that the run reports.
        store: Another store with the same classes.
        num_clips: Temporal views a clip; default: the run's protocol.
        num_crops: Spatial views a clip, 1 or 3.
        average: What is averaged over views.
        json: Print one JSON object and nothing else on standard output.
    """

    run: tyro.conf.Positional[Path]
    split: tuple[str, ...] = ()
    store: Path | None = None
    num_clips: int | None = None
    num_crops: Literal[1, 3] | None = None
    average: Literal["logits", "probabilities"] | None = None
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False


def main(arguments: list[str]) -> None:
    """Parses and evaluates."""
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(USAGE)
        return
    if "--protocol=exo2ego" in arguments or ("--protocol", "exo2ego") in pairwise(arguments):
        from egoloom.cli import evaluate_exo2ego

        evaluate_exo2ego.main(arguments)
    elif any(argument.split("=")[0] == "--protocol" for argument in arguments):
        evaluate_protocol(tyro.cli(ProtocolArguments, prog="egoloom evaluate", args=arguments))
    else:
        evaluate_run(arguments)


def evaluate_run(arguments: list[str]) -> None:
    """Shows a trained run its clips again and prints accuracy and calibration."""
    options = tyro.cli(RunArguments, prog="egoloom evaluate", args=arguments)
    from egoloom.recipes.evaluation import evaluate_again
    from egoloom.training.config import EvaluationConfig

    protocol = None
    if options.num_clips is not None or options.num_crops is not None or options.average is not None:
        protocol = EvaluationConfig(
            num_clips=options.num_clips or 1, num_crops=options.num_crops or 1, average=options.average or "logits"
        )
    record = evaluate_again(options.run, splits=options.split, store=options.store, protocol=protocol)
    if options.json:
        print(json.dumps(record, indent=1))
        return
    for split, figures in record["splits"].items():
        print(f"{split}: {figures['num_clips']} clips, {figures['num_views']} views, mean of {figures['average']}")
        for head, values in figures["heads"].items():
            low, high = values["top1_ci95"]
            print(
                f"  {head:8} top-1 {values['top1']:6.1%} [{low:.1%}, {high:.1%}]   top-5 {values['top5']:6.1%}   "
                f"ECE {values['ece']:.3f} (uncalibrated {values['ece_uncalibrated']:.3f})"
            )
    print(f"wrote {options.run / 'predictions'}")
    print(f"next: egoloom export {options.run}")


def evaluate_protocol(options: ProtocolArguments) -> None:
    """Scores a file of predictions and prints the metrics."""
    record = _epic100(options) if options.protocol == "epic-100" else _ssv2(options)
    for warning in record["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    if options.submission is not None:
        _write_submission(options)
    if options.json:
        print(json.dumps(record, indent=1))
        return
    _print_table(record)
    if options.submission is not None:
        print(f"wrote {options.submission}")
    print(f"next: egoloom calibrate --predictions {options.predictions} --annotations {options.annotations} --out FILE")


def _epic100(options: ProtocolArguments) -> dict[str, Any]:
    from egoloom.evaluation import epic100
    from egoloom.evaluation.score_files import read_scores

    result = epic100.evaluate_epic100(
        read_scores(options.predictions),
        epic100.read_annotations(options.annotations),
        tail_verbs=options.tail_verbs and epic100.read_classes(options.tail_verbs, "verb"),
        tail_nouns=options.tail_nouns and epic100.read_classes(options.tail_nouns, "noun"),
        unseen_participants=options.unseen_participants and epic100.read_participants(options.unseen_participants),
        allow_missing=options.allow_missing,
    )
    return epic100.as_record(result)


def _ssv2(options: ProtocolArguments) -> dict[str, Any]:
    from egoloom.evaluation import ssv2
    from egoloom.evaluation.score_files import read_scores

    if options.labels is None:
        raise UserError("The protocol ssv2 needs the class ids", fix="add --labels something-something-v2-labels.json")
    return ssv2.evaluate_ssv2(
        read_scores(options.predictions),
        ssv2.read_annotations(options.annotations, options.labels),
        allow_missing=options.allow_missing,
    )


def _write_submission(options: ProtocolArguments) -> None:
    from egoloom.evaluation.score_files import read_scores
    from egoloom.evaluation.submissions import SupervisionLevels, write_epic_submission, write_ssv2_submission

    assert options.submission is not None
    scores = read_scores(options.predictions)
    if options.protocol == "ssv2":
        matrix = scores.head("action")
        write_ssv2_submission(options.submission, scores.ids, matrix, num_classes=matrix.shape[1])
        return
    if not all(0 <= level <= 5 for level in options.sls):
        raise UserError(f"--sls {' '.join(map(str, options.sls))}", allowed="three whole numbers 0..5")
    levels = SupervisionLevels(pretraining=options.sls[0], training_labels=options.sls[1], training_data=options.sls[2])
    write_epic_submission(options.submission, scores, levels, force=options.force)


def _print_table(record: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="percent", title_style="", box=None, pad_edge=False)
    for column in ("group", "head", "top-1", "top-5", "segments"):
        table.add_column(column, justify="left" if column in ("group", "head") else "right")
    metrics = {key: value for key, value in record.items() if key.endswith(("_at_1", "_at_5"))}
    for key, value in metrics.items():
        if not key.endswith("_at_1"):
            continue
        group, head = key.split("_")[:2]
        top5 = metrics.get(key[:-1] + "5", np.nan)
        count = record["num_segments"][f"{group}_{head}"]
        table.add_row(group, head, f"{value:.2f}", "" if np.isnan(top5) else f"{top5:.2f}", str(count))
    Console().print(table)
    for head in ("verb", "noun", "action"):
        if f"{head}_ece" in record["calibration"]:
            ece, nll = record["calibration"][f"{head}_ece"], record["calibration"][f"{head}_nll"]
            print(f"{head:7} ECE {ece:5.2f} % (15 bins)   NLL {nll:.3f}")
