"""Golden files: the small ones lie in tests/golden, the large ones in the folder of EGOLOOM_GOLDEN."""

import os
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

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


def formula_values(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """The deterministic pseudo-random numbers u in [0, 1) of the golden files' README."""
    index = np.arange(int(np.prod(shape)), dtype=np.uint64) + np.uint64(zlib.crc32(key.encode()))
    x = (index & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    return (x.astype(np.float64) / 2**32).reshape(shape)


def formula_parameter(name: str, shape: tuple[int, ...]) -> np.ndarray:
    v = 2 * formula_values(f"golden-a:{name}", shape) - 1
    if name.endswith("relative_position_bias_table"):
        return (0.2 * v).astype(np.float32)
    if len(shape) >= 2:
        return (np.sqrt(3 / np.prod(shape[1:])) * v).astype(np.float32)
    return (1 + 0.1 * v if name.endswith("weight") else 0.1 * v).astype(np.float32)


def fill_by_formula(model: torch.nn.Module, crc32: dict[str, int], zero_rows: dict[str, int] | None = None) -> None:
    """Fills a model whose heads are named in upper case, as in the reference, and checks the checksums first."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = formula_parameter(name, tuple(parameter.shape))
            if name in (zero_rows or {}):
                values[(zero_rows or {})[name]] = 0
            elif name in crc32:
                assert zlib.crc32(values.astype("<f4").tobytes()) == crc32[name], name
            parameter.copy_(torch.from_numpy(values))


class Formula:
    """Gives tests of several files the formula without importing one from another."""

    values = staticmethod(formula_values)
    fill = staticmethod(fill_by_formula)


@pytest.fixture(scope="session")
def formula() -> Formula:
    return Formula()
