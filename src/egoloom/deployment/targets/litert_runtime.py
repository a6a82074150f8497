"""LiteRT (formerly TensorFlow Lite) files, for Android and microcontrollers."""

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

EXTRA = "litert"


class LiteRtRuntime(Runtime):
    """An interpreter; inputs and outputs go by position."""

    def __init__(self, interpreter: Any, outputs: tuple[str, ...]) -> None:
        self.call = interpreter.get_signature_runner()
        self.outputs = outputs

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Returns the outputs by name; the inputs must come in the order of the graph."""
        arguments = {f"args_{index}": np.ascontiguousarray(value) for index, value in enumerate(inputs.values())}
        results = self.call(**arguments)
        return {name: results[f"output_{index}"] for index, name in enumerate(self.outputs)}


class LiteRtTarget(Target):
    """fp32, one clip at a time. Its converter pins older libraries: it needs an environment of its own."""

    name = "litert"
    suffix = ".tflite"
    modules = ("ai_edge_litert",)
    export_modules = ("litert_torch",)
    extra = EXTRA
    install = "in an environment of its own: pip install litert-torch, and after it pip install egoloom"
    precisions = ("fp32",)
    dynamic_batch = False

    def convert(self, graph: "Graph", path: Path, precision: Precision, calibration: Sequence[Arrays]) -> None:
        """Writes the graph as one ``.tflite`` file."""
        litert_torch = require_package("litert_torch", extra=EXTRA, package="litert-torch")
        litert_torch.convert(graph.module, tuple(graph.inputs.values())).export(str(path))

    def load(self, path: Path, *, num_threads: int = 0) -> LiteRtRuntime:
        """Returns an interpreter; see `Target.load`."""
        module = require_package("ai_edge_litert.interpreter", extra=EXTRA, package="ai-edge-litert")
        card = read_card(path.parent)
        outputs = tuple(card.class_names)
        if path.stem == "stream" and card.stream:
            outputs += tuple(f"new_{name}" for name in card.stream.state_shapes)
        try:
            interpreter = module.Interpreter(str(path), num_threads=num_threads or None)
            interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"{path} is not a LiteRT model that this machine can run: {error}",
                fix="egoloom export RUN --target litert",
            ) from error
        return LiteRtRuntime(interpreter, outputs)
