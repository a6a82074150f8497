"""The network as it was trained, for machines that have PyTorch: weights in safetensors beside their configuration.

A traced program (``.pt2``) is not used: reading one may unpickle, and nothing here is ever unpickled.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from egoloom.deployment.card import Precision, read_card
from egoloom.deployment.targets.base import Arrays, Runtime, Target
from egoloom.errors import UserError

if TYPE_CHECKING:
    from egoloom.deployment.graph import Graph


class TorchRuntime(Runtime):
    """A graph run by PyTorch on the CPU."""

    def __init__(self, graph: "Graph", num_threads: int = 0) -> None:
        self.graph = graph
        self.num_threads = num_threads

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Returns the outputs by name."""
        import torch

        previous = torch.get_num_threads()
        if self.num_threads:
            torch.set_num_threads(self.num_threads)
        try:
            with torch.inference_mode():
                values = self.graph.module(
                    *(torch.from_numpy(np.ascontiguousarray(inputs[k])) for k in self.graph.inputs)
                )
        finally:
            torch.set_num_threads(previous)
        return {name: value.numpy() for name, value in zip(self.graph.outputs, values, strict=True)}


class TorchTarget(Target):
    """fp32 only; the same folder serves whole clips and streams."""

    name = "torch"
    suffix = ".safetensors"
    modules = ("torch",)
    extra = ""
    install = "pip install egoloom"
    precisions = ("fp32",)
    dynamic_batch = True

    def convert(self, graph: "Graph", path: Path, precision: Precision, calibration: Sequence[Arrays]) -> None:
        """Writes ``model.safetensors`` and ``config.json``; both graphs of a network are made of the same two files."""
        graph.source.save_pretrained(path.parent)

    def load(self, path: Path, *, num_threads: int = 0) -> TorchRuntime:
        """Returns the clip graph, or the step graph for a path whose stem is ``stream``; see `Target.load`."""
        from egoloom.deployment.graph import clip_graph, step_graph
        from egoloom.models import Recogniser

        folder = path.parent
        card = read_card(folder)
        if not (folder / "model.safetensors").is_file():
            raise UserError(f"{folder} has no model.safetensors", fix="egoloom export RUN --target torch")
        model = Recogniser.from_pretrained(folder)
        make = step_graph if path.stem == "stream" else clip_graph
        return TorchRuntime(make(model, card.temperature, card.input), num_threads)
