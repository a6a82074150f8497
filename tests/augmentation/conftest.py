"""A few noiseless takes of the kitchen, with exo pictures large enough for ego priors."""

import shutil
from pathlib import Path

import pytest

from egoloom.clips import ClipStore
from egoloom.kitchen import KitchenSettings, make_store
from egoloom.kitchen.settings import NoiseSettings

SETTINGS = KitchenSettings(
    seed=77, ego_size_px=64, exo_width_px=224, exo_height_px=128, fps=15, duration_s=1.0, noise=NoiseSettings.none()
)


@pytest.fixture(scope="session")
def kitchen(tmp_path_factory) -> ClipStore:
    """Read-only."""
    return make_store(tmp_path_factory.mktemp("kitchen") / "store", num_clips=6, settings=SETTINGS)


@pytest.fixture
def own_kitchen(kitchen, tmp_path) -> ClipStore:
    """A copy that a test may damage."""
    path: Path = tmp_path / "kitchen"
    shutil.copytree(kitchen.path, path)
    return ClipStore.open(path)
