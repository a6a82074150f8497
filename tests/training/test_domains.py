"""Norms that keep domains apart, against two plain norms; the domain token; both in a whole training."""

import copy

import pytest
import torch
from torch import nn

from egoloom.models import create_model
from egoloom.training.domains import separate_norms

CLASSES = {"action": 3}


def edge(**options):
    torch.manual_seed(0)
    return create_model("edge_tiny", num_classes=CLASSES, **options)


def inputs(is_generated):
    pictures = torch.randint(0, 256, (len(is_generated), 4, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    return {"rgb": pictures.float(), "is_generated": torch.tensor(is_generated)}


def norms_of(model):
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def test_each_domain_is_normalised_as_if_alone():
    alone, together = edge(), edge()
    assert separate_norms(together) == len(norms_of(together)) > 0
    is_generated = [False, True, False, True, True]
    batch = inputs(is_generated)
    rows = torch.tensor(is_generated)
    mixed = together.train()(batch)["action"]
    for domain, chosen in ((False, ~rows), (True, rows)):
        single = copy.deepcopy(alone).train()
        expected = single({"rgb": batch["rgb"][chosen]})["action"]
        torch.testing.assert_close(mixed[chosen], expected)
        if not domain:  # running statistics are those of recorded clips alone
            for ours, theirs in zip(norms_of(together), norms_of(single), strict=True):
                torch.testing.assert_close(ours.running_mean, theirs.running_mean)
                torch.testing.assert_close(ours.running_var, theirs.running_var)


def test_nothing_but_generated_clips_leaves_the_running_statistics_alone():
    model = edge()
    before = copy.deepcopy(model.state_dict())
    separate_norms(model)
    model.train()(inputs([True, True]))
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name])


def test_evaluation_and_weights_are_those_of_a_plain_network():
    plain, apart = edge().eval(), edge().eval()
    separate_norms(apart)
    batch = inputs([True, False])
    torch.testing.assert_close(apart(batch)["action"], plain({"rgb": batch["rgb"]})["action"])
    assert list(apart.state_dict()) == list(plain.state_dict())


def test_networks_without_such_norms_are_refused():
    with pytest.raises(ValueError, match="no batch norms"):
        separate_norms(edge(norm="group"))


def test_the_domain_token_moves_generated_clips_alone_and_is_learnt(tmp_path):
    model = edge(domain_token=True).train()
    batch = inputs([False, True])
    with torch.no_grad():
        model.eval()
        before = model(batch)["action"]
        model.domain_token += 1.0
        after = model(batch)["action"]
    torch.testing.assert_close(after[0], before[0])
    assert (after[1] - before[1]).abs().min() > 0
    torch.testing.assert_close(model({"rgb": batch["rgb"]})["action"][1], before[1])
    model(batch)["action"].sum().backward()
    assert model.domain_token.grad.abs().sum() > 0
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(type(model).from_pretrained(tmp_path).domain_token, model.domain_token)
