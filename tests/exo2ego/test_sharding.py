"""FSDP on two CPU processes: a LoRA as one process trains it, whole in its file, resumed exactly."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from egoloom.exo2ego.lora import lora_state

SCRIPT = Path(__file__).with_name("train_sharded.py")
CONFIGURATION = Path(__file__).parents[2] / "scripts" / "fsdp.yaml"
CHECKPOINT = Path("checkpoints") / "last"


def losses(out: Path) -> list[float]:
    return json.loads((out / CHECKPOINT / "state.json").read_text())["losses"]


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        # An empty caption is one key, which every query and key attends to alike: their gradient is rounding alone,
        # and Adam makes steps of any size from it.
        if "attn2.to_q" in name or "attn2.to_k" in name:
            continue
        torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-4, msg=lambda m, n=name: n + m)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """The runs of two processes, started with the configuration that the documentation names."""
    out = tmp_path_factory.mktemp("sharded")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGURATION)]
    launch += ["--num_processes", "2", "--main_process_port", "0", str(SCRIPT), str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(launch, env=environment, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr[-4000:]
    return out


@pytest.mark.slow
def test_two_sharded_processes_train_the_lora_that_one_trains(runs, tmp_path):
    script = runpy.run_path(str(SCRIPT))
    result, pipeline, samples = script["train"](tmp_path, 2)
    assert losses(runs / "whole") == pytest.approx(result.losses, rel=1e-4, abs=1e-4)
    # Both processes have coded their share of the latents.
    assert sorted(path.name[:6] for path in (runs / "whole" / "latents").glob("0*")) == [f"{n:06d}" for n in range(4)]
    one, two = (load_file(out / CHECKPOINT / "state.safetensors") for out in (tmp_path, runs / "whole"))
    assert_close(one, two)
    saved = load_file(runs / "lora" / "pytorch_lora_weights.safetensors")
    assert_close(lora_state(pipeline.transformer), saved)
    assert any(value.abs().max() > 1e-3 for name, value in saved.items() if "lora_B" in name)
    _, fresh = script["build"]()
    assert not fresh.load_lora(runs / "lora").missing
    expected = script["frames_of"](pipeline, samples).float()
    for rank in range(2):  # all processes generate together
        frames = torch.load(runs / f"frames_{rank}.pt", weights_only=True).float()
        assert (frames - expected).abs().max() <= 1


@pytest.mark.slow
def test_a_sharded_run_resumes_exactly(runs):
    assert losses(runs / "broken") == losses(runs / "whole")
    whole, broken = (load_file(runs / name / CHECKPOINT / "state.safetensors") for name in ("whole", "broken"))
    assert whole.keys() == broken.keys()
    assert all(torch.equal(broken[name], value) for name, value in whole.items())


@pytest.mark.slow
def test_all_weights_and_vmf_are_refused_before_anything_is_written(runs):
    for rank in range(2):
        assert "FSDP trains a LoRA only" in (runs / f"refused_{rank}.txt").read_text()
        assert "vmf has weights outside the transformer" in (runs / f"vmf_{rank}.txt").read_text()
    assert not (runs / "refused").exists()
