"""``egoloom export``: writes a trained student for a device, after checking it against PyTorch."""

import json as json_format
from pathlib import Path
from typing import Annotated, Literal

import tyro


def export(
    run: Annotated[Path, tyro.conf.Positional],
    out: Path | None = None,
    target: Literal["onnx", "openvino", "executorch", "litert", "torch"] = "onnx",
    precision: Literal["fp32", "fp16", "int8"] = "fp32",
    store: Path | None = None,
    split: str | None = None,
    num_parity_clips: int = 64,
    num_calibration_clips: int = 64,
    dynamic_batch: bool | None = None,
    json: bool = False,
) -> None:
    """Exports a checkpoint and compares it with PyTorch on real clips; beyond the limits nothing is written.

    Args:
        run: A run folder or a checkpoint folder.
        out: The artefact folder to make, or a name ending in .onnx for a single file; default RUN/export/...
        target: The runtime of the device.
        precision: fp32, fp16 or int8 (calibrated on clips of the store).
        store: Clips for parity and calibration; default: the store that the run was trained on.
        split: Split of the parity clips; default validation. int8 calibrates on the training split.
        num_parity_clips: At most this many clips are compared.
        num_calibration_clips: At most this many clips calibrate int8.
        dynamic_batch: Insist on any batch size; refused where the target cannot.
        json: Print one JSON line instead.
    """
    from egoloom.deployment.export import export_student
    from egoloom.deployment.run_inputs import clips_of_run

    out = out or run / "export" / f"{target}-{precision}"
    parity, calibration = clips_of_run(
        run, store, split, num_parity_clips, num_calibration_clips if precision == "int8" else 0
    )
    result = export_student(
        run,
        out,
        target=target,
        precision=precision,
        parity_clips=parity,
        calibration_clips=calibration,
        dynamic_batch=dynamic_batch,
    )
    if json:
        print(json_format.dumps(result.to_dict()))
        return
    figures = result.parity
    print(f"Parity on {figures.num_clips} clips ({figures.source}):")
    print(
        f"  log-probabilities differ by at most {result.max_abs_diff:.2e}; top-1 agrees on {result.top1_agreement:.1%}"
    )
    if figures.accuracy is not None and figures.accuracy_torch is not None:
        print(
            f"  top-1 {figures.accuracy:.1%} (PyTorch {figures.accuracy_torch:.1%}), "
            f"ECE {figures.ece:.3f} (PyTorch {figures.ece_torch:.3f})"
        )
    print(
        f"  {result.latency_ms:.1f} ms a clip, {result.size_mb:.2f} MB, streams: {'yes' if result.can_stream else 'no'}"
    )
    print(f"Artefact: {result.path}")
    print(f"Next: egoloom predict {result.path} VIDEO")


def main(arguments: list[str]) -> None:
    """Runs the verb."""
    tyro.cli(export, prog="egoloom export", args=arguments)
