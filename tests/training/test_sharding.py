"""FSDP on two CPU processes: the same losses and weights as one process and as DDP, whole checkpoints, exact resume."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from egoloom._distributed import open_accelerator
from egoloom.errors import UserError
from egoloom.models import Recogniser

SCRIPT = Path(__file__).with_name("train_sharded.py")
CONFIGURATION = Path(__file__).parents[2] / "scripts" / "fsdp.yaml"


def rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]


def state(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoints" / "last" / "state.safetensors")


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        if name != "random_state":
            torch.testing.assert_close(other[name], value, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: n + m)


@pytest.fixture(scope="module")
def runs(square_store, tmp_path_factory) -> Path:
    """The runs of two processes, started with the configuration that the documentation names."""
    out = tmp_path_factory.mktemp("sharded")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGURATION)]
    launch += ["--num_processes", "2", "--main_process_port", "0"]
    done = subprocess.run(
        [*launch, str(SCRIPT), str(square_store.path), str(out)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return out


@pytest.mark.slow
def test_two_sharded_processes_train_like_one(runs, square_store, tmp_path):
    runpy.run_path(str(SCRIPT))["build"](square_store, tmp_path, mixed=False).fit()
    one, two = rows(tmp_path), rows(runs / "sharded")
    assert [row.get("total") is None for row in two] == [row.get("total") is None for row in one]
    for ours, theirs in zip(two, one, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-4)
    assert_close(state(tmp_path), state(runs / "sharded"), 1e-4)
    assert len(state(runs / "sharded")["random_state"]) == 2
    for name in ("last", "best"):
        alone = Recogniser.from_pretrained(tmp_path / "checkpoints" / name)
        sharded = Recogniser.from_pretrained(runs / "sharded" / "checkpoints" / name)
        assert_close(alone.state_dict(), sharded.state_dict(), 1e-4)


@pytest.mark.slow
def test_a_sharded_run_resumes_exactly(runs):
    assert rows(runs / "broken") == rows(runs / "whole")
    whole, broken = state(runs / "whole"), state(runs / "broken")
    assert whole.keys() == broken.keys()
    assert {"optimizer", "weights", "average", "random_state"} <= {name.split("/")[0] for name in whole}
    assert all(torch.equal(broken[name], value) for name, value in whole.items())


@pytest.mark.slow
def test_separate_norms_clipping_and_averages_are_the_same_with_and_without_sharding(runs):
    assert_close(state(runs / "plain"), state(runs / "whole"), 1e-4)
    assert any(name.endswith("running_var") for name in state(runs / "plain"))
    for ours, theirs in zip(rows(runs / "whole"), rows(runs / "plain"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-4)


@pytest.mark.slow
def test_compiling_a_sharded_network_is_refused_by_every_process(runs):
    for rank in range(2):
        assert "compile does not work with FSDP" in (runs / f"refused_{rank}.txt").read_text()


@pytest.mark.slow
def test_a_checkpoint_of_two_sharded_processes_continues_on_one(runs, square_store, tmp_path):
    build = runpy.run_path(str(SCRIPT))["build"]
    trainer = build(square_store, runs / "sharded", mixed=False)
    assert trainer.resume()
    assert trainer.progress.is_finished
    weights = load_file(runs / "sharded" / "checkpoints" / "last" / "state.safetensors")
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, weights[f"weights/{name}"])


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"FSDP_VERSION": "1"}, "FSDP 1 is not supported"),
        ({"FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP", "FSDP_MIN_NUM_PARAMS": "1000"}, "cannot split by size"),
    ],
)
def test_what_fsdp_cannot_do_is_refused_with_the_way_that_works(monkeypatch, settings, reason):
    for name, value in {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", **settings}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=reason) as error:
        open_accelerator()
    assert "scripts/fsdp.yaml" in str(error.value)
