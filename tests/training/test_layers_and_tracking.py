"""Learning rates by layer against the closed form, and what a tracker receives."""

import pytest
import torch

from egoloom.errors import UserError
from egoloom.models import create_model
from egoloom.training.config import OptimisationConfig
from egoloom.training.layer_decay import parameter_groups, rate_scales
from egoloom.training.tracking import open_accelerator


def test_early_layers_move_least() -> None:
    model = create_model("video_swin_tiny_test", num_classes={"action": 3})
    names = [name for name, _ in model.named_parameters()]
    scales = rate_scales(names, 0.5)
    blocks = [name.rsplit(".mlp", 1)[0] for name in names if name.endswith("mlp.fc1.weight")]
    assert scales["classifiers.action.weight"] == 1
    assert scales["backbone.norm.weight"] == 0.5
    by_block = [scales[f"{block}.mlp.fc1.weight"] for block in blocks]
    assert by_block == sorted(by_block)
    assert len(set(by_block)) == len(blocks)
    assert scales["backbone.patch_embed.proj.weight"] == min(scales.values())
    for block in blocks:  # all of a block moves alike
        assert len({scales[name] for name in names if name.startswith(block + ".")}) == 1


@pytest.mark.parametrize("layer_decay", [None, 0.7])
def test_groups_hold_every_parameter_once(layer_decay) -> None:
    model = create_model("edge_tiny", num_classes={"action": 3})
    groups = parameter_groups(model, 0.1, layer_decay=layer_decay)
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in model.parameters())
    assert {group["weight_decay"] for group in groups} == {0.0, 0.1}
    assert {group["rate_scale"] for group in groups} == {1.0} if layer_decay is None else len(groups) > 4
    for group in groups:
        assert all((parameter.ndim >= 2) == (group["weight_decay"] > 0) for parameter in group["params"])
    torch.optim.AdamW(groups, lr=1e-3)


def test_tensorboard_receives_the_losses(tmp_path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accelerator = open_accelerator(OptimisationConfig(trackers=("tensorboard",)), tmp_path)
    accelerator.log({"total": 1.5}, step=3)
    accelerator.end_training()
    events = EventAccumulator(str(tmp_path / "tracking")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("total")] == [(3, 1.5)]


def test_unknown_trackers_are_told(tmp_path) -> None:
    with pytest.raises(UserError, match="crystal_ball"):
        open_accelerator(OptimisationConfig(trackers=("crystal_ball",)), tmp_path)
