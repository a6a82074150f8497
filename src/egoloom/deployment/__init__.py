"""Export with a parity gate, quantisation, streaming runtime and device benchmark."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from egoloom.deployment.artefact import DeployedStudent, load_student
    from egoloom.deployment.export import ExportResult, export_student
    from egoloom.deployment.parity import ParityClips, parity_clips_from_store
    from egoloom.deployment.prediction import predict_video

# Names are resolved on first use: a device that only runs an artefact must not pay for importing torch.
_HOMES = {
    "DeployedStudent": "artefact",
    "load_student": "artefact",
    "ExportResult": "export",
    "export_student": "export",
    "ParityClips": "parity",
    "parity_clips_from_store": "parity",
    "predict_video": "prediction",
}

__all__ = [
    "DeployedStudent",
    "ExportResult",
    "ParityClips",
    "export_student",
    "load_student",
    "parity_clips_from_store",
    "predict_video",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
