"""Export of a trained student: convert, compare with PyTorch, and only then write."""

import dataclasses
import os
import shutil
import statistics
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from egoloom import __version__
from egoloom.clips.files import write_text
from egoloom.deployment import parity as gate
from egoloom.deployment.artefact import checkpoint_folder, is_checkpoint
from egoloom.deployment.card import CARD_NAME, Card, InputCard, Precision, StreamCard, training_card
from egoloom.deployment.graph import Graph, affine_of, clip_graph, require_rgb, step_graph, why_not_streaming
from egoloom.deployment.parity import LIMITS, Parity, ParityClips, ParityLimits
from egoloom.deployment.runner import runner_source
from egoloom.deployment.streaming import StudentStream
from egoloom.deployment.targets import Target, get_target
from egoloom.errors import UserError
from egoloom.models import Recogniser, count_gmacs, num_parameters

BATCH = 8
NUM_TIMINGS = 15
NUM_STEP_CLIPS = 4  # clips whose frames calibrate and check the step graph


@dataclass(frozen=True)
class ExportResult:
    """What an export made and measured.

    Attributes:
        path: The artefact folder or the single file.
        max_abs_diff: Largest difference of a log-probability from PyTorch.
        top1_agreement: Share of clips with PyTorch's best class.
        latency_ms: Median time of one clip, all threads, this machine.
        size_mb: Size of the clip graph's files in 10^6 bytes.
        can_stream: Whether the artefact holds a step graph.
        parity: All figures of the gate.
    """

    path: Path
    target: str
    precision: Precision
    max_abs_diff: float
    top1_agreement: float
    latency_ms: float
    size_mb: float
    can_stream: bool
    parity: Parity

    def to_dict(self) -> dict:
        """Returns the figures as plain values."""
        return {**dataclasses.asdict(self), "path": str(self.path)}


def export_student(
    checkpoint: Path,
    out: Path,
    *,
    target: str = "onnx",
    precision: Precision = "fp32",
    parity_clips: ParityClips | np.ndarray | None = None,
    calibration_clips: ParityClips | np.ndarray | None = None,
    limits: ParityLimits | None = None,
    dynamic_batch: bool | None = None,
) -> ExportResult:
    """Writes a trained student for a device, if it says there what it says here.

    Args:
        checkpoint: A checkpoint folder, or a run folder (its best checkpoint is taken).
        out: An artefact folder to make; with the suffix ``.onnx`` a single file that carries its card.
        target: See `egoloom.deployment.targets.TARGET_NAMES`.
        precision: Of weights and arithmetic.
        parity_clips: Clips to compare on, uint8 ``[N, T, 3, H, W]``, with labels where known; None uses synthetic
            patterns, and the card says so.
        calibration_clips: Clips for int8; None takes the parity clips.
        limits: Of the gate; None takes those of the precision.
        dynamic_batch: True insists on any batch size and fails where the target cannot; None takes what it can.

    Raises:
        UserError: If the checkpoint is none, the target cannot do this or is not installed, ``out`` holds something
            else, or the gate fails. Nothing is written then.
    """
    out, runtime_target = Path(out), get_target(target)
    runtime_target.require(to_export=True)
    runtime_target.check_precision(precision)
    if dynamic_batch and not runtime_target.dynamic_batch:
        raise UserError(
            f"The target {target!r} runs one clip at a time; it cannot take any batch size",
            allowed="dynamic batch: onnx, openvino, torch",
            fix="leave out --dynamic-batch",
        )
    _check_out(out, runtime_target)
    model, card = _open_checkpoint(Path(checkpoint), target, precision)
    clips = gate.as_parity_clips(parity_clips, card.input)
    calibration = clips if calibration_clips is None else gate.as_parity_clips(calibration_clips, card.input)
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        card, result = _build(model, card, folder, runtime_target, clips, calibration, limits or LIMITS[precision], out)
        if out.suffix == ".onnx":
            os.replace(folder / card.files["clip"], out)
        else:
            _replace_folder(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return result


def _build(
    model: Recogniser,
    card: Card,
    folder: Path,
    target: Target,
    clips: ParityClips,
    calibration: ParityClips,
    limits: ParityLimits,
    out: Path,
) -> tuple[Card, ExportResult]:
    batch = 2 if target.dynamic_batch else 1
    graph = clip_graph(model, card.temperature, card.input, batch=batch)
    path = folder / f"model{target.suffix}"
    inputs = [{"rgb": calibration.frames[i : i + 1]} for i in range(len(calibration))]
    target.convert(graph, path, card.precision, inputs)
    card = card.model_copy(update={"files": {"clip": path.name}})
    wants_stream = out.suffix != ".onnx" and target.can_stream and why_not_streaming(model) is None
    if wants_stream:
        card = _add_stream(model, card, folder, target, calibration)
    write_text(folder / CARD_NAME, card.to_json())  # the torch target reads it when it loads
    runtime = target.load(path)
    expected = gate.run_in_batches(lambda frames: reference_log_probs(model, card, frames), clips.frames, BATCH)
    actual = gate.run_in_batches(lambda frames: runtime.run({"rgb": frames}), clips.frames, BATCH if batch > 1 else 1)
    parity = gate.compare(expected, actual, clips)
    if wants_stream:
        parity.stream_max_abs_diff = _stream_difference(card, target, folder, clips, expected)
    gate.check(parity, limits)
    latency_ms = median_ms(lambda: runtime.run({"rgb": clips.frames[:1]}))
    size_mb = sum(file.stat().st_size for file in folder.iterdir() if file.stem == "model") / 1e6
    figures = {name: value for name, value in dataclasses.asdict(parity).items() if value is not None}
    card = card.model_copy(update={"parity": figures, "latency_ms": round(latency_ms, 3)})
    _finish(folder, card, path)
    result = ExportResult(
        out,
        target.name,
        card.precision,
        parity.max_abs_diff,
        parity.top1_agreement,
        latency_ms,
        size_mb,
        wants_stream,
        parity,
    )
    return card, result


def _finish(folder: Path, card: Card, path: Path) -> None:
    if path.suffix == ".onnx":
        from egoloom.deployment.targets.onnx_runtime import add_metadata

        add_metadata(path, card.to_json())
    write_text(folder / CARD_NAME, card.to_json())
    write_text(folder / "run.py", runner_source(card))


def _add_stream(model: Recogniser, card: Card, folder: Path, target: Target, calibration: ParityClips) -> Card:
    graph = step_graph(model, card.temperature, card.input, batch=2 if target.dynamic_batch else 1)
    inputs = _step_inputs(graph, calibration.frames[:NUM_STEP_CLIPS])
    path = folder / f"stream{target.suffix}"
    target.convert(graph, path, card.precision, inputs)
    shapes = {name: tuple(value.shape[1:]) for name, value in graph.inputs.items() if name != "frame"}
    files = {**card.files, "stream": path.name}
    return card.model_copy(update={"files": files, "stream": StreamCard(file=path.name, state_shapes=shapes)})


def _stream_difference(
    card: Card, target: Target, folder: Path, clips: ParityClips, expected: dict[str, np.ndarray]
) -> float:
    """Streams a few clips frame by frame from a cold start, which must end where PyTorch's whole clips end."""
    stream = StudentStream(card, target.load(folder / card.files["stream"], num_threads=1))
    worst = 0.0
    for index in range(min(NUM_STEP_CLIPS, len(clips))):
        stream.reset()
        scores = [stream.push(frame_CHW) for frame_CHW in clips.frames[index]][-1]
        differences = [np.abs(scores[head] - expected[head][index]).max() for head in expected]
        worst = float(np.maximum(worst, np.max(differences)))  # NaN stays NaN
    return worst


@torch.inference_mode()
def _step_inputs(graph: Graph, frames_NTCHW: np.ndarray) -> list[dict[str, np.ndarray]]:
    """Runs clips frame by frame through PyTorch and keeps each step's inputs: what int8 calibrates on."""
    num_outputs = len(graph.outputs) - (len(graph.inputs) - 1)
    collected = []
    for clip_TCHW in frames_NTCHW:
        states = [torch.zeros_like(value[:1]) for name, value in graph.inputs.items() if name != "frame"]
        for frame_CHW in clip_TCHW:
            values = [torch.from_numpy(frame_CHW[None].copy()), *states]
            collected.append({name: value.numpy() for name, value in zip(graph.inputs, values, strict=True)})
            states = list(graph.module(*values)[num_outputs:])
    return collected


@torch.inference_mode()
def reference_log_probs(model: Recogniser, card: Card, frames_NTCHW: np.ndarray) -> dict[str, np.ndarray]:
    """Returns what the untouched PyTorch network says: calibrated log-probabilities ``[N, K]`` a head."""
    logits = model.eval()({"rgb": torch.from_numpy(np.ascontiguousarray(frames_NTCHW))})
    return {
        head: torch.log_softmax(value / card.temperature.get(head, 1.0), dim=-1).numpy()
        for head, value in logits.items()
    }


def median_ms(call, *, num_timings: int = NUM_TIMINGS, warm_up: int = 3) -> float:
    """Returns the median wall time of a call in milliseconds."""
    for _ in range(warm_up):
        call()
    times = []
    for _ in range(num_timings):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def _open_checkpoint(path: Path, target: str, precision: Precision) -> tuple[Recogniser, Card]:
    folder = checkpoint_folder(path)
    if not path.is_dir():
        raise UserError(f"There is no checkpoint at {path}", allowed="a run or checkpoint folder", fix="egoloom train")
    if not is_checkpoint(folder):
        raise UserError(
            f"{path} holds no checkpoint", allowed="a run folder, or one with model.safetensors, config.json"
        )
    from egoloom.models.pretrained import weights_hash

    model = Recogniser.from_pretrained(folder).eval()
    require_rgb(model)
    fields = training_card(folder, model.heads)
    card = Card.model_validate(
        {
            **fields,
            "input": {**fields["input"], **_statistics(model)},
            "architecture": model.architecture,
            "num_parameters": num_parameters(model),
            "gmacs_per_clip": _gmacs(model, fields["input"]),
            "target": target,
            "precision": precision,
            "dynamic_batch": get_target(target).dynamic_batch,
            "weights_hash": weights_hash(folder),
            "written_by": f"egoloom {__version__}",
        }
    )
    return model, card


def _gmacs(model: Recogniser, fields: dict) -> float:
    size = InputCard.model_validate(fields)
    frames = torch.zeros(1, size.num_frames, 3, size.size_px, size.size_px, dtype=torch.uint8)
    return round(count_gmacs(model, {"rgb": frames}), 4)


def _statistics(model: Recogniser) -> dict[str, list[float]]:
    normalise = getattr(model, "normalise", None)
    if normalise is None:
        return {}
    scale, offset = affine_of(normalise)
    return {"mean": (-offset / (255 * scale)).tolist(), "std": (1 / (255 * scale)).tolist()}


def _check_out(out: Path, target: Target) -> None:
    if out.suffix == ".onnx":
        if target.name != "onnx":
            raise UserError(f"A single file {out.name} is only possible for the target onnx", fix="--out FOLDER")
        if out.is_dir():
            raise UserError(f"{out} is a folder", fix="choose another --out")
        return
    if out.is_file():
        raise UserError(f"{out} is a file", allowed="a folder, or a name that ends in .onnx")
    if out.is_dir() and any(out.iterdir()):
        card = out / CARD_NAME
        if not card.is_file() or '"egoloom-artefact"' not in card.read_text(encoding="utf-8", errors="replace"):
            raise UserError(
                f"{out} is not empty and is no artefact; nothing was written",
                allowed="a new or empty folder, or an earlier artefact",
                fix="choose another --out",
            )


def _replace_folder(fresh: Path, out: Path) -> None:
    fresh.chmod(0o755)  # mkdtemp makes it private
    old = out.with_name(f".{out.name}-{uuid.uuid4().hex[:8]}-old")
    if out.exists():
        os.rename(out, old)
    os.rename(fresh, out)
    shutil.rmtree(old, ignore_errors=True)
