"""``egoloom bench``: measures what students cost and how good they are on this machine."""

import json as json_format
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from egoloom.deployment.bench import BenchRow


NUM_GATE, NUM_CALIBRATION = 64, 64


def bench(
    models: Annotated[tuple[Path, ...], tyro.conf.Positional],
    out: Path | None = None,
    store: Path | None = None,
    split: str = "test",
    max_clips: int = 200,
    seconds: float = 2.0,
    watts_per_core: float = 5.0,
    all_targets: bool = True,
    sweep: bool = False,
    record: Path | None = None,
    json: bool = False,
) -> None:
    """Measures latency, frames a second, memory, size, arithmetic and accuracy of students and teachers.

    A checkpoint or run folder is measured as it is and exported to every installed target; artefacts are measured as
    they are. Teachers that read other sensors are measured in PyTorch.

    Args:
        models: Checkpoint or run folders, artefact folders, .onnx files.
        out: A run folder: report/bench.json (and sweep.json) are written there and its report is renewed.
        store: Measures accuracy on a split of this store; default: the store of the first run.
        split: Of the store.
        max_clips: At most this many clips.
        seconds: For how long each quantity is measured.
        watts_per_core: For the energy estimate.
        all_targets: Export checkpoints to every installed target; with --no-all-targets only PyTorch is measured.
        sweep: Also measure checkpoints with fewer frames, other sizes and more views (needs a store).
        record: Writes the sweep with its command to this JSON file.
        json: Print one JSON line instead of a table.
    """
    from egoloom.deployment.bench import bench_model
    from egoloom.deployment.bench_report import print_table, write_bench, write_sweep_record
    from egoloom.deployment.run_inputs import store_of_run
    from egoloom.errors import UserError

    if not models:
        raise UserError("There is no model to measure", fix="egoloom bench RUN")
    store = store or next((found for found in map(store_of_run, models) if found), None)
    if record is not None and not sweep:
        raise UserError(f"Only a sweep is recorded; {record} would be empty", fix="add --sweep")
    if sweep and store is None:
        raise UserError("A sweep needs labelled clips", fix="--store STORE")
    common = {"seconds": seconds, "watts_per_core": watts_per_core}
    with tempfile.TemporaryDirectory() as folder:
        students, teachers = _students_and_teachers(models)
        rows = [
            bench_model(path, name=name, clips=clips, **common)
            for name, path, clips in _candidates(students, Path(folder), store, split, max_clips, all_targets)
        ]
        rows += [_bench_teacher(path, store, split, max_clips, common) for path in teachers]
    swept = _sweep(models, store, split, max_clips) if sweep and store else []
    if record is not None:
        write_sweep_record(record, models, swept, split, max_clips)
    if json:
        print(json_format.dumps({"bench": [row.to_dict() for row in rows], "sweep": [row.to_dict() for row in swept]}))
    else:
        print_table(rows, swept)
    if out is not None:
        path = write_bench(out, rows, swept)
        if not json:
            print(f"Figures: {path}")
    if not json:
        print(
            f"Next: egoloom report {out}" if out else "Next: egoloom bench ... --out RUN puts the plot into its report"
        )


def _students_and_teachers(models: tuple[Path, ...]) -> tuple[list[Path], list[Path]]:
    """Checkpoints that read other sensors than the camera are teachers: they are measured, but never exported."""
    from egoloom.deployment.artefact import checkpoint_folder, is_checkpoint
    from egoloom.models import Recogniser

    students, teachers = [], []
    for path in models:
        folder = checkpoint_folder(path)
        reads_more = is_checkpoint(folder) and tuple(Recogniser.from_pretrained(folder).input_modalities) != ("rgb",)
        (teachers if reads_more else students).append(path)
    return students, teachers


def _bench_teacher(path: Path, store: Path | None, split: str, max_clips: int, common: dict) -> "BenchRow":
    from egoloom.deployment.bench_teacher import bench_teacher
    from egoloom.errors import UserError

    if store is None:
        raise UserError(f"{path} reads other sensors than the camera; its inputs come from clips", fix="--store STORE")
    return bench_teacher(path, store, name=f"{path.resolve().name} pytorch", split=split, max_clips=max_clips, **common)


def _candidates(models, folder: Path, store: Path | None, split: str, max_clips: int, all_targets: bool) -> list:
    """Every (name, path, labelled clips) to measure; checkpoints are exported into ``folder``."""
    from egoloom.deployment.artefact import checkpoint_folder, is_checkpoint, load_student
    from egoloom.deployment.export import export_student
    from egoloom.deployment.parity import parity_clips_from_store
    from egoloom.deployment.run_inputs import clips_of_run
    from egoloom.deployment.targets import get_target, installed_targets
    from egoloom.errors import UserError

    found = []
    for index, path in enumerate(models):
        student = load_student(path)
        clips = None
        if store is not None:
            clips = parity_clips_from_store(store, student.card.input, split=split, num_clips=max_clips)
        label = path.resolve().name
        if not path.is_dir() or not is_checkpoint(checkpoint_folder(path)):
            found.append((f"{label} {student.card.precision}", path, clips))
            continue
        found.append((f"{label} pytorch", path, clips))
        if not all_targets:
            continue
        # Neither gate nor calibration sees the clips that accuracy is measured on.
        gate, calibration = clips_of_run(path, store, None, NUM_GATE, NUM_CALIBRATION)
        for target in installed_targets():
            for precision in get_target(target).precisions:
                if target == "torch" or precision == "fp16":
                    continue
                out = folder / f"{index}-{target}-{precision}"
                try:
                    export_student(
                        path, out, target=target, precision=precision, parity_clips=gate, calibration_clips=calibration
                    )
                except UserError as error:
                    print(f"skipped {label} {target} {precision}: {str(error).splitlines()[0]}", file=sys.stderr)
                    continue
                found.append((f"{label} {target} {precision}", out, clips))
    return found


def _sweep(models, store: Path, split: str, max_clips: int) -> list:
    from egoloom.deployment.artefact import checkpoint_folder, is_checkpoint
    from egoloom.deployment.sweep import sweep

    students, _ = _students_and_teachers(models)
    folders = {path.resolve().name: path for path in students if is_checkpoint(checkpoint_folder(path))}
    return sweep(folders, store, split=split, max_clips=max_clips)


def main(arguments: list[str]) -> None:
    """Runs the verb."""
    tyro.cli(bench, prog="egoloom bench", args=arguments)
