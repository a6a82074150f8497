"""ONNX files for ONNX Runtime: the default target."""

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from egoloom._optional import require_package
from egoloom.deployment.card import Precision
from egoloom.deployment.targets.base import Arrays, Runtime, Target
from egoloom.errors import UserError

if TYPE_CHECKING:
    from egoloom.deployment.graph import Graph

METADATA_KEY = "egoloom_card"
FLOAT_OPERATIONS = {"Gemm", "MatMul", "LogSoftmax", "Div", "ReduceMean"}
NUM_JUDGED = 16  # calibration inputs on which the bits of the weights are chosen


class OnnxRuntime(Runtime):
    """An ONNX Runtime session."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.outputs = [output.name for output in session.get_outputs()]

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Returns the outputs by name."""
        return dict(zip(self.outputs, self.session.run(None, dict(inputs)), strict=True))

    @property
    def metadata(self) -> dict[str, str]:
        """The file's free key-value pairs."""
        return self.session.get_modelmeta().custom_metadata_map


class OnnxTarget(Target):
    """fp32, fp16 (stored and computed as half, inputs and outputs unchanged) and int8 (static, per channel)."""

    name = "onnx"
    suffix = ".onnx"
    modules = ("onnxruntime",)
    export_modules = ("onnx", "onnxscript")
    extra = "export"
    precisions = ("fp32", "fp16", "int8")
    dynamic_batch = True

    def convert(self, graph: "Graph", path: Path, precision: Precision, calibration: Sequence[Arrays]) -> None:
        """Writes the graph as one self-contained ONNX file with a dynamic batch."""
        write_onnx(graph, path)
        if precision == "fp16":
            _to_half(path)
        elif precision == "int8":
            quantise(path, calibration)

    def load(self, path: Path, *, num_threads: int = 0) -> OnnxRuntime:
        """Returns a session; see `Target.load`."""
        return load_session(path, num_threads=num_threads)


def load_session(path: Path, *, num_threads: int = 0) -> OnnxRuntime:
    """Opens an ONNX file.

    Raises:
        UserError: If onnxruntime is missing, or the file is not an ONNX model.
    """
    onnxruntime = require_package("onnxruntime", extra="export")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 4  # what matters arrives as an exception
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime raises many types of its own
        reason = str(error).strip().splitlines()[-1][:160]
        raise UserError(
            f"{path} is not an ONNX model that this machine can run: {reason}",
            fix="export the checkpoint again: egoloom export RUN",
        ) from error
    return OnnxRuntime(session)


def write_onnx(graph: "Graph", path: Path) -> None:
    """Traces a graph with a dynamic batch and writes it as one ONNX file."""
    import torch

    batch = torch.export.Dim("batch", min=1, max=4096)
    shapes = [{0: batch} for _ in graph.inputs]
    first, *rest = shapes
    # A module with *states takes them as one tuple, and so do its dynamic shapes.
    dynamic = (first, tuple(rest)) if rest else (first,)
    with _quiet():
        torch.onnx.export(
            graph.module,
            tuple(graph.inputs.values()),
            str(path),
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_shapes=dynamic,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's remarks about absent libraries off the terminal; its errors are exceptions."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def add_metadata(path: Path, text: str) -> None:
    """Puts the card into an ONNX file's metadata."""
    onnx = require_package("onnx", extra="export")
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, {METADATA_KEY: text})
    onnx.save(model, str(path))


def _to_half(path: Path) -> None:
    onnx = require_package("onnx", extra="export")
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = convert_float_to_float16(onnx.load(str(path)), keep_io_types=True, op_block_list=["LogSoftmax"])
    onnx.save(model, str(path))


class _Reader:
    """Feeds calibration inputs to onnxruntime."""

    def __init__(self, inputs: Sequence[Arrays]) -> None:
        self.inputs = iter(inputs)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Returns the next inputs, None at the end."""
        value = next(self.inputs, None)
        return None if value is None else dict(value)


def quantise(path: Path, calibration: Sequence[Arrays]) -> int:
    """Quantises an ONNX file in place: activations uint8 per tensor, weights int8 per channel.

    The stem and the classifiers stay in fp32: a few per cent of the arithmetic, most of the error. Eight bits
    of weight are more exact than seven, but x86 processors without VNNI add pairs of products in 16 bits and may
    saturate; both are tried on the calibration inputs and the one closer to fp32 on this machine is kept.

    Returns:
        The bits of the weights.

    Raises:
        UserError: If there are no calibration inputs.
    """
    if not calibration:
        raise UserError("int8 needs clips to calibrate on", fix="add --store STORE, or export from a run folder")
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory() as folder:
            candidates = {bits: Path(folder) / f"{bits}.onnx" for bits in (8, 7)}
            prepared = Path(folder) / "prepared.onnx"
            shape_inference = require_package("onnxruntime.quantization.shape_inference", extra="export")
            shape_inference.quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
            for bits, candidate in candidates.items():
                _quantise_static(prepared, candidate, calibration, reduce_range=bits == 7)
            judged = calibration[:NUM_JUDGED]
            bits = min(candidates, key=lambda bits: _distance(path, candidates[bits], judged))
            path.write_bytes(candidates[bits].read_bytes())
            return bits
    finally:
        logger.setLevel(level)


def _quantise_static(prepared: Path, result: Path, calibration: Sequence[Arrays], *, reduce_range: bool) -> None:
    onnx = require_package("onnx", extra="export")
    quantization = require_package("onnxruntime.quantization", extra="export")
    nodes = onnx.load(str(prepared)).graph.node
    stem = next(node.name for node in nodes if node.op_type == "Conv")
    kept = [stem, *(node.name for node in nodes if node.op_type in FLOAT_OPERATIONS)]
    quantization.quantize_static(
        str(prepared),
        str(result),
        _Reader(calibration),
        quant_format=quantization.QuantFormat.QDQ,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
        reduce_range=reduce_range,
        nodes_to_exclude=kept,
    )


def _distance(reference: Path, candidate: Path, inputs: Sequence[Arrays]) -> float:
    """Mean absolute difference over all outputs and inputs; infinite for a file that gives no numbers."""
    expected, actual = load_session(reference), load_session(candidate)
    total = 0.0
    for values in inputs:
        wanted, given = expected.run(values), actual.run(values)
        total += sum(float(np.abs(wanted[name] - given[name]).mean()) for name in wanted)
    return total if np.isfinite(total) else float("inf")
