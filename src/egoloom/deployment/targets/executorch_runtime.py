"""ExecuTorch programs for phones and small boards, with XNNPACK doing the arithmetic."""

import contextlib
import io
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from egoloom._optional import require_package
from egoloom.deployment.card import Precision, read_card
from egoloom.deployment.targets.base import Arrays, Runtime, Target
from egoloom.errors import UserError

if TYPE_CHECKING:
    from egoloom.deployment.graph import Graph

EXTRA = "executorch"


class ExecuTorchRuntime(Runtime):
    """A loaded method; programs have no names, so inputs and outputs go by position."""

    def __init__(self, method: Any, outputs: tuple[str, ...]) -> None:
        self.method = method
        self.outputs = outputs

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Returns the outputs by name; the inputs must come in the order of the graph."""
        import torch

        values = self.method.execute([torch.from_numpy(np.ascontiguousarray(value)) for value in inputs.values()])
        # Copies: the program owns its output memory and overwrites it in the next call.
        return {name: value.numpy().copy() for name, value in zip(self.outputs, values, strict=True)}


class ExecuTorchTarget(Target):
    """fp32 and int8, one clip at a time: XNNPACK plans its memory for a fixed shape."""

    name = "executorch"
    suffix = ".pte"
    modules = ("executorch", "torch")
    extra = EXTRA
    precisions = ("fp32", "int8")
    dynamic_batch = False

    def convert(self, graph: "Graph", path: Path, precision: Precision, calibration: Sequence[Arrays]) -> None:
        """Writes the graph as one ``.pte`` program."""
        import torch

        exir = require_package("executorch.exir", extra=EXTRA)
        partitioner = require_package("executorch.backends.xnnpack.partition.xnnpack_partitioner", extra=EXTRA)
        inputs = tuple(value.clone() for value in graph.inputs.values())
        with _quiet():
            module: Any = graph.module
            if precision == "int8":
                module = _quantised(module, inputs, calibration)
            program = torch.export.export(module, inputs)
            lowered = exir.to_edge_transform_and_lower(program, partitioner=[partitioner.XnnpackPartitioner()])
            path.write_bytes(lowered.to_executorch().buffer)

    def load(self, path: Path, *, num_threads: int = 0) -> ExecuTorchRuntime:
        """Returns the loaded program; the number of threads is the runtime's own choice. See `Target.load`."""
        runtime = require_package("executorch.runtime", extra=EXTRA)
        card = read_card(path.parent)
        outputs = tuple(card.class_names)
        if path.stem == "stream" and card.stream:
            outputs += tuple(f"new_{name}" for name in card.stream.state_shapes)
        try:
            method = runtime.Runtime.get().load_program(str(path)).load_method("forward")
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"{path} is not an ExecuTorch program that this machine can run: {str(error).splitlines()[0]}",
                fix="egoloom export RUN --target executorch",
            ) from error
        return ExecuTorchRuntime(method, outputs)


def _quantised(module: Any, inputs: tuple[Any, ...], calibration: Sequence[Arrays]) -> Any:
    """Static int8 with XNNPACK's rules: weights per channel, activations per tensor."""
    import torch

    if not calibration:
        raise UserError("int8 needs clips to calibrate on", fix="add --store STORE, or export from a run folder")
    pt2e = require_package("torchao.quantization.pt2e.quantize_pt2e", extra=EXTRA, package="torchao")
    rules = require_package("executorch.backends.xnnpack.quantizer.xnnpack_quantizer", extra=EXTRA)
    quantizer = rules.XNNPACKQuantizer().set_global(rules.get_symmetric_quantization_config(is_per_channel=True))
    prepared = pt2e.prepare_pt2e(torch.export.export(module, inputs).module(), quantizer)
    for values in calibration:
        prepared(*(torch.from_numpy(np.ascontiguousarray(value)) for value in values.values()))
    return pt2e.convert_pt2e(prepared)


@contextlib.contextmanager
def _quiet() -> Any:
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.root.setLevel(level)
