"""One teacher: a network or an ONNX file that gives logits for a batch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from egoloom._optional import require_package
from egoloom.errors import UserError
from egoloom.models.pretrained import state_hash


class Teacher(Protocol):
    """Anything that judges a batch."""

    @property
    def heads(self) -> Mapping[str, int]:
        """Head name to number of classes."""
        ...

    @property
    def modalities(self) -> tuple[str, ...]:
        """The inputs that the teacher cannot do without."""
        ...

    def logits(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Returns head to logits ``[B, K]``."""
        ...

    def fingerprint(self) -> str:
        """Returns a string that changes when the teacher's verdicts would."""
        ...


class ModuleTeacher:
    """A frozen network as a teacher, in evaluation mode and without gradients.

    Args:
        module: A recogniser, or any module that maps inputs to a dictionary of logits.
        heads: Head to number of classes; the module's own ``heads`` where not given.
        modalities: The inputs it needs; the module's own ``input_modalities`` where not given.
        any_subset: Whether it copes with missing modalities (fusion models do).
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        heads: Mapping[str, int] | None = None,
        modalities: Sequence[str] | None = None,
        any_subset: bool = False,
    ) -> None:
        self.module = module.eval().requires_grad_(False)
        self.heads = dict(heads if heads is not None else getattr(module, "heads", {}))
        own = getattr(module, "input_modalities", ())
        self.modalities: tuple[str, ...] = () if any_subset else tuple(own if modalities is None else modalities)
        if not self.heads:
            raise ValueError("A teacher needs heads: pass heads={'verb': 97, ...}")

    def logits(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """See `Teacher.logits`."""
        # Somebody may have called train() on a parent module; a teacher with dropout on is not the same teacher.
        self.module.eval()
        with torch.no_grad():
            outputs = self.module(inputs)
        return {head: outputs[head].float() for head in self.heads}

    def fingerprint(self) -> str:
        """Returns a hash of the weights."""
        return state_hash(self.module)


class OnnxTeacher:
    """An ONNX file as a teacher; its inputs are named by modality and its outputs by head.

    Raises:
        UserError: If the file is missing or is no ONNX model, or onnxruntime is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        onnxruntime = require_package("onnxruntime", extra="export")
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"There is no ONNX file at {self.path}", fix="egoloom export RUN")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = onnxruntime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises its own pybind types
            raise UserError(f"{self.path} is not an ONNX model that can be run: {error}") from error
        self.heads = {output.name: int(output.shape[-1]) for output in self._session.get_outputs()}
        self.modalities = tuple(entry.name for entry in self._session.get_inputs())
        self._types = {
            entry.name: np.dtype(np.uint8 if "uint8" in entry.type else np.float32)
            for entry in self._session.get_inputs()
        }

    def logits(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """See `Teacher.logits`."""
        feed = {name: inputs[name].cpu().numpy().astype(self._types[name]) for name in self.modalities}
        outputs = self._session.run(list(self.heads), feed)
        device = inputs[self.modalities[0]].device
        return {head: torch.from_numpy(value).to(device) for head, value in zip(self.heads, outputs, strict=True)}

    def fingerprint(self) -> str:
        """Returns a hash of the file."""
        import hashlib

        return hashlib.sha256(self.path.read_bytes()).hexdigest()[:16]
