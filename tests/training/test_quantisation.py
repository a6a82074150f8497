"""Rounding against NumPy, straight-through gradients, unchanged names, and a network that loses less in int8."""

import numpy as np
import pytest
import torch
from torch import nn

from egoloom.models import create_model
from egoloom.training.quantisation import make_quantisation_aware, round_activation, round_weight


def test_rounding_is_that_of_int8() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 3, 3, 3, generator=generator)
    values = weight.numpy()
    scale = np.abs(values).max(axis=(1, 2, 3), keepdims=True) / 127
    np.testing.assert_allclose(round_weight(weight).numpy(), np.round(values / scale) * scale, atol=1e-6)
    x = torch.randn(2, 4, 6, 6, generator=generator) + 0.7
    low, high = min(0, x.min().item()), x.max().item()
    step = (high - low) / 255
    zero = round(-low / step)
    expected = (np.clip(np.round(x.numpy() / step) + zero, 0, 255) - zero) * step
    np.testing.assert_allclose(round_activation(x).numpy(), expected, atol=step * 0.01 + 1e-6)
    assert len(np.unique(round_activation(x).numpy())) <= 256


def test_gradients_pass_straight_through() -> None:
    weight = torch.randn(2, 2, 3, 3, requires_grad=True)
    round_weight(weight).sum().backward()
    torch.testing.assert_close(weight.grad, torch.ones_like(weight))


def test_names_and_evaluation_stay() -> None:
    model = create_model("edge_tiny", num_classes={"action": 3}).eval()
    frames = {"rgb": torch.randint(0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8)}
    before, names = model(frames)["action"], list(model.state_dict())
    assert make_quantisation_aware(model) > 3
    assert list(model.state_dict()) == names
    torch.testing.assert_close(model(frames)["action"], before, rtol=0, atol=0)
    model.train()
    model.apply(lambda part: part.eval() if isinstance(part, nn.BatchNorm2d) else None)
    difference = (model(frames)["action"] - before).abs().max()
    assert 0 < difference < 0.5


def test_training_with_rounding_loses_less_in_int8() -> None:
    torch.manual_seed(0)
    x = torch.randn(256, 4, 1, 1) * torch.tensor([8.0, 1.0, 0.3, 0.3]).view(1, 4, 1, 1)
    y = torch.sin(x[:, 1:2] + x[:, 2:3]).flatten(1)

    def error_in_int8(seed: int, *, aware: bool) -> float:
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Conv2d(4, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.ReLU(), nn.Conv2d(16, 1, 1))
        if aware:
            make_quantisation_aware(net)
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
        for step in range(400):
            optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / 400)
            optimizer.zero_grad()
            (net(x).flatten(1) - y).square().mean().backward()
            optimizer.step()
        if not aware:
            make_quantisation_aware(net)
        with torch.no_grad():
            return float((net.train()(x).flatten(1) - y).square().mean())

    ratios = [error_in_int8(seed, aware=True) / error_in_int8(seed, aware=False) for seed in range(4)]
    assert np.exp(np.mean(np.log(ratios))) < 1, ratios


def test_a_network_without_convolutions_is_told() -> None:
    with pytest.raises(ValueError, match="no 2-D convolutions"):
        make_quantisation_aware(nn.Linear(2, 2))
