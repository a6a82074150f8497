"""The modalities that can be computed, by name; each module has ``compute`` and a config of its own."""

import importlib
from dataclasses import dataclass
from types import ModuleType

from egoloom.errors import UserError


@dataclass(frozen=True)
class Computable:
    """One computable modality: its module below ``egoloom.modalities``, its config class, one line about it."""

    module: str
    config: str
    summary: str

    def load(self) -> ModuleType:
        """Imports the module."""
        return importlib.import_module(f"egoloom.modalities.{self.module}")


MODALITIES: dict[str, Computable] = {
    "flow": Computable("flow", "FlowConfig", "dense optical flow (DIS; RAFT with weights of yours)"),
    "spectrogram": Computable("spectrogram", "SpectrogramConfig", "log-mel spectrogram of the sound"),
    "spectrogram-frames": Computable(
        "spectrogram_frames",
        "SpectrogramFramesConfig",
        "1.116 s of sound around each frame, for the published network",
    ),
    "imu": Computable("imu", "ImuConfig", "direction of gravity for the IMU track, for aligned windows"),
    "hands": Computable("hands", "HandsConfig", "hand boxes and points with MediaPipe (--setup makes its environment)"),
    "depth": Computable("depth", "DepthConfig", "depth from a network of yours (--network FOLDER)"),
    "frame-cache": Computable("frame_cache", "FrameCacheConfig", "all RGB frames as JPEG: faster reading, more space"),
    "objects": Computable("objects", "ObjectsConfig", "boxes from an ONNX detector of yours (--model, --class-names)"),
}


def find_modality(name: str) -> Computable:
    """Returns a modality by its name.

    Raises:
        UserError: If there is none.
    """
    if name not in MODALITIES:
        raise UserError(
            f"{name!r} cannot be computed", allowed=", ".join(MODALITIES), fix="egoloom modalities --help lists them"
        )
    return MODALITIES[name]
