"""Golden files: the small ones lie in tests/golden, the large ones in the folder of EGOLOOM_GOLDEN."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BESIDE_THE_PROJECT = ROOT.parent / "shared" / "golden"


def find_golden(name: str) -> Path:
    folders = [ROOT / "tests" / "golden", Path(os.environ.get("EGOLOOM_GOLDEN", BESIDE_THE_PROJECT))]
    for folder in folders:
        if (folder / "distillation" / name).exists():
            return folder / "distillation" / name
    pytest.skip(f"golden file {name} is neither in tests/golden nor in EGOLOOM_GOLDEN={folders[1]}")


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Path]:
    return find_golden
