"""Golden tables of the camera models."""

from pathlib import Path

import numpy as np
import pytest
import torch

from egoloom.cameras import Camera, Fisheye624, KannalaBrandt, Pinhole

GOLDEN = Path(__file__).parents[1] / "golden" / "cameras"


@pytest.fixture(scope="session")
def golden():
    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}

    return load


def golden_camera(name: str, table: dict[str, np.ndarray]) -> Camera:
    """The camera of a golden table."""
    if name.startswith("fisheye624"):
        width, height = table["image_size"].tolist()
        return Fisheye624(torch.from_numpy(table["params"]), (width, height))
    K = table["K"]
    four = torch.tensor([K[0, 0], K[1, 1], K[0, 2], K[1, 2]])
    if name == "pinhole":
        return Pinhole(four, (4096, 4096))
    return KannalaBrandt(torch.cat([four, torch.from_numpy(table["D"])]), (4096, 4096))
