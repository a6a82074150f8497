"""ST-LPIPS against figures that its authors' own code gave for the same frames."""

import importlib.util

import numpy as np
import pytest
import torch

from egoloom.errors import UserError
from egoloom.evaluation import perceptual

# Names and shapes of the published file, in alphabetical order.
SHAPES = {f"lin{index}.model.1.weight": (1, width, 1, 1) for index, width in enumerate((64, 192, 384, 256, 256))} | {
    name: shape
    for stem, shape in (
        ("net.slice1.0", (64, 3, 11, 11)),
        ("net.slice2.5", (192, 64, 5, 5)),
        ("net.slice3.9", (384, 192, 3, 3)),
        ("net.slice4.11", (256, 384, 3, 3)),
        ("net.slice5.13", (256, 256, 3, 3)),
    )
    for name, shape in ((f"{stem}.bias", shape[:1]), (f"{stem}.weight", shape))
}


def made_up_weights() -> dict[str, torch.Tensor]:
    weights = {}
    for index, (name, shape) in enumerate(SHAPES.items()):
        values = np.sin(np.arange(np.prod(shape)) * 1.7 + index).reshape(shape)
        values = np.abs(values) if name.startswith("lin") else values * np.sqrt(2 / max(1, np.prod(shape[1:])))
        weights[name] = torch.from_numpy(values).float()
    return weights


def frames(phase: float) -> torch.Tensor:
    y, x = np.mgrid[:48, :56]
    waves = [[np.sin(x / (3 + colour) + y / 7 + phase + n) for colour in range(3)] for n in range(2)]
    return torch.from_numpy(np.array(waves)).float()


def test_the_network_is_the_authors_one() -> None:
    distance = perceptual.ShiftTolerantLpips(made_up_weights())
    recorded = [0.19952456653118134, 0.2003844827413559]
    assert distance(frames(0.0), frames(0.7)).tolist() == pytest.approx(recorded, rel=1e-4)
    assert distance(frames(0.0), frames(0.0)).tolist() == [0.0, 0.0]


def test_the_published_weights_give_the_published_distance() -> None:
    if importlib.util.find_spec(perceptual.PACKAGE) is None:
        pytest.skip("needs the extra lpips")
    recorded = [0.06084873154759407, 0.06279979646205902]
    assert perceptual.load_lpips()(frames(0.0), frames(0.7)).tolist() == pytest.approx(recorded, rel=1e-4)


def test_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="16x16 are too small"):
        perceptual.ShiftTolerantLpips(made_up_weights())(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="not at hand"):
        perceptual.load_lpips()
