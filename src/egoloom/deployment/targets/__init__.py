"""The targets by name; each lives in a module of its own that is imported when asked for."""

import importlib

from egoloom.deployment.targets.base import Arrays, Runtime, Target
from egoloom.errors import UserError

_HOMES = {
    "onnx": ("onnx_runtime", "OnnxTarget"),
    "openvino": ("openvino_runtime", "OpenVinoTarget"),
    "executorch": ("executorch_runtime", "ExecuTorchTarget"),
    "litert": ("litert_runtime", "LiteRtTarget"),
    "torch": ("torch_runtime", "TorchTarget"),
}
TARGET_NAMES = tuple(_HOMES)

__all__ = ["TARGET_NAMES", "Arrays", "Runtime", "Target", "get_target", "installed_targets"]


def get_target(name: str) -> Target:
    """Returns a target by name; its libraries may be missing.

    Raises:
        UserError: If the name is unknown.
    """
    if name not in _HOMES:
        raise UserError(f"Unknown target {name!r}", allowed=", ".join(TARGET_NAMES))
    module, class_name = _HOMES[name]
    return getattr(importlib.import_module(f"{__name__}.{module}"), class_name)()


def installed_targets() -> list[str]:
    """Returns the names of all targets whose libraries are installed for running."""
    names = []
    for name in TARGET_NAMES:
        try:
            get_target(name).require()
        except UserError:
            continue
        names.append(name)
    return names
