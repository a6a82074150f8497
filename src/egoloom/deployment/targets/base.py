"""One interface for every runtime: convert a graph to a file, load the file, run it on NumPy arrays."""

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from egoloom.deployment.card import Precision
from egoloom.errors import UserError

if TYPE_CHECKING:
    from egoloom.deployment.graph import Graph

Arrays = Mapping[str, np.ndarray]


class Runtime(ABC):
    """A loaded file."""

    @abstractmethod
    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Returns the outputs by name."""


class Target(ABC):
    """A runtime that EgoLoom exports to.

    Attributes:
        name: As on the command line.
        suffix: Of the model file, with the dot.
        modules: What must be importable to run an artefact.
        export_modules: What must be importable to write one.
        extra: The extra of ``egoloom`` that brings them; empty where they need an environment of their own.
        precisions: What the target can write.
        dynamic_batch: Whether a file takes any batch size; if not, it takes one clip at a time.
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    modules: ClassVar[tuple[str, ...]]
    export_modules: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str]
    install: ClassVar[str] = ""
    precisions: ClassVar[tuple[Precision, ...]]
    dynamic_batch: ClassVar[bool]
    can_stream: ClassVar[bool] = True

    def require(self, *, to_export: bool = False) -> None:
        """Checks that the libraries are there.

        Raises:
            UserError: If one is missing; says what to install.
        """
        wanted = (*self.modules, *(self.export_modules if to_export else ()))
        missing = [module for module in wanted if not is_importable(module)]
        if missing:
            raise UserError(
                f"The target {self.name!r} needs {', '.join(missing)}, which is not installed",
                fix=self.install or f'pip install "egoloom[{self.extra}]"',
            )

    def check_precision(self, precision: str) -> None:
        """Raises UserError if the target cannot write a precision."""
        if precision not in self.precisions:
            raise UserError(f"The target {self.name!r} cannot write {precision}", allowed=", ".join(self.precisions))

    @abstractmethod
    def convert(self, graph: "Graph", path: Path, precision: Precision, calibration: Sequence[Arrays]) -> None:
        """Writes the graph to ``path`` (and files that share its stem).

        Args:
            graph: What to convert.
            path: Target file in a folder that only this call writes to.
            precision: Of weights and arithmetic.
            calibration: Inputs by name for int8; ignored otherwise.
        """

    @abstractmethod
    def load(self, path: Path, *, num_threads: int = 0) -> Runtime:
        """Returns the file ready to run; ``num_threads`` 0 uses all cores.

        Raises:
            UserError: If the file is damaged or not one of this target.
        """


def is_importable(module: str) -> bool:
    """Whether a module is installed, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
