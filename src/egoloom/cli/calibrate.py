"""``egoloom calibrate``: fit temperature or vector scaling on held-out scores, and apply it to others."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from egoloom.errors import UserError


@dataclass
class Arguments:
    """Fits calibration on one file of scores and, if asked, writes another file calibrated.

    Attributes:
        predictions: Held-out scores: narration_id (or clip_id) and <head>_output, or predictions.npz of a run.
        annotations: CSV with narration_id (or clip_id) and <head>_class; not needed for predictions.npz of a run.
        out: Where the fitted parameters are written (JSON).
        method: temperature keeps the order of classes; vector also removes a bias to some classes.
        apply_to: Scores of other segments to calibrate with the result.
        apply_out: Where those are written (.npz).
        reliability: Also write a reliability diagram (.png or .svg) of before and after.
        json: Print one JSON object.
    """

    predictions: Path
    out: Path
    annotations: Path | None = None
    method: Literal["temperature", "vector"] = "temperature"
    apply_to: Path | None = None
    apply_out: Path | None = None
    reliability: Path | None = None
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False


def main(arguments: list[str]) -> None:
    """Parses, fits and writes."""
    options = tyro.cli(Arguments, prog="egoloom calibrate", args=arguments)
    if (options.apply_to is None) != (options.apply_out is None):
        raise UserError("--apply-to and --apply-out belong together")
    from egoloom.clips.files import write_text
    from egoloom.evaluation.calibration_files import apply_calibration, fit_calibration, read_labels
    from egoloom.evaluation.score_files import read_scores, write_scores

    scores = read_scores(options.predictions)
    labels = read_labels(options.predictions, options.annotations, scores)
    record = fit_calibration(scores, labels, method=options.method)
    write_text(options.out, json.dumps(record, indent=1) + "\n")
    if options.apply_to is not None and options.apply_out is not None:
        write_scores(options.apply_out, apply_calibration(record, read_scores(options.apply_to)))
    if options.reliability is not None:
        _draw(options.reliability, scores, labels, record)
    if options.json:
        print(json.dumps(record))
        return
    for head, fitted in record["heads"].items():
        before, after = fitted["before"], fitted["after"]
        print(
            f"{head:8} ECE {100 * before['ece']:5.2f} -> {100 * after['ece']:5.2f} %   "
            f"NLL {before['nll']:.4f} -> {after['nll']:.4f}   ({fitted['num_samples']} held-out samples)"
        )
    print(f"wrote {options.out}" + (f" and {options.apply_out}" if options.apply_out else ""))
    print("These figures are of the samples that were fitted; measure the calibrated scores on others.")
    print(
        "next: repeat with --apply-to FILE --apply-out FILE, then egoloom evaluate --protocol NAME --predictions FILE"
    )


def _draw(path: Path, scores: Any, labels: dict[str, np.ndarray], record: dict[str, Any]) -> None:
    from egoloom.evaluation.calibration_files import apply_calibration, labelled
    from egoloom.evaluation.reliability_diagram import draw_reliability

    after = apply_calibration(record, scores)
    panels = {}
    for head in record["heads"]:
        panels[f"{head}, before"] = labelled(scores.scores[head], labels[head])
        panels[f"{head}, after"] = labelled(after.scores[head], labels[head])
    draw_reliability(path, panels)
