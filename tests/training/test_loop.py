"""The loop: exact resume after a crash and after Ctrl-C, two processes like one, and a loss that is not finite."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from egoloom.clips import Modality
from egoloom.clips.dataset import ClipDataset, entries_of
from egoloom.clips.transforms import ViewConfig
from egoloom.errors import UserError
from egoloom.models import create_model
from egoloom.training.checkpoints import find_checkpoint
from egoloom.training.config import OptimisationConfig
from egoloom.training.loop import Trainer, epoch_batches
from egoloom.training.tasks import LabelTask

SCRIPT = Path(__file__).with_name("train_squares.py")


def start(store, out, *options: str) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), str(store.path), str(out), *options]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors


def history(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]


def wait_for_steps(out: Path, count: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 400  # a loaded machine takes a minute to import torch
    while time.monotonic() < deadline and process.poll() is None:
        if (out / "history.jsonl").exists() and len(history_safely(out)) >= count:
            return
        time.sleep(0.02)
    raise AssertionError(f"the run did not reach {count} steps: {process.poll()}")


def history_safely(out: Path) -> list[str]:
    return (out / "history.jsonl").read_text().splitlines()


@pytest.fixture(scope="module")
def whole(square_store, tmp_path_factory) -> Path:
    """A run that nobody interrupts."""
    out = tmp_path_factory.mktemp("whole")
    finish(start(square_store, out, "--slow"))
    return out


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_an_interrupted_run_ends_with_the_same_weights(square_store, whole, tmp_path, how):
    broken = tmp_path / "broken"
    process = start(square_store, broken, "--slow")
    wait_for_steps(broken, 6, process)
    process.send_signal(how)
    process.communicate(timeout=300)
    assert process.returncode != 0
    assert len(history(broken)) < len(history(whole))
    finish(start(square_store, broken, "--slow"))
    assert history(broken) == history(whole)
    a = load_file(whole / "checkpoints" / "last" / "state.safetensors")
    b = load_file(broken / "checkpoints" / "last" / "state.safetensors")
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_two_processes_train_like_one(square_store, tmp_path):
    finish(start(square_store, tmp_path / "one"))
    # Not `accelerate launch --cpu --num_processes 2`: without MPI that starts one process alone.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, str(SCRIPT), str(square_store.path), str(tmp_path / "two")]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one = json.loads((tmp_path / "one" / "digest.json").read_text())
    two = json.loads((tmp_path / "two" / "digest.json").read_text())
    assert (one.pop("num_processes"), two.pop("num_processes")) == (1, 2)
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert two[name] == pytest.approx(value, rel=1e-4), name
    for ours, theirs in zip(history(tmp_path / "two"), history(tmp_path / "one"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-4)


def make_trainer(store, out, **options) -> Trainer:
    dataset = ClipDataset(
        entries_of(store, split="train"), [Modality.RGB], ViewConfig(num_frames=4, size_px=32), is_training=True
    )
    torch.manual_seed(0)
    model = create_model("edge_tiny", num_classes={"verb": 2, "noun": 2})
    config = OptimisationConfig(**({"epochs": 1, "batch_size": 4} | options))
    return Trainer(model, LabelTask({"verb": 1.0, "noun": 1.0}), dataset, config, out)


def test_a_loss_that_is_not_finite_stops_and_names_the_clips(square_store, tmp_path):
    trainer = make_trainer(square_store, tmp_path)
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match="loss became nan at step 0"):
        trainer.fit()
    saved = json.loads((tmp_path / "nan_batch.json").read_text())
    assert len(saved["clip_ids"]) == 4
    assert set(saved["clip_ids"]) <= {clip.clip_id for clip in square_store.clips}


def test_each_epoch_shows_every_clip_once_in_another_order():
    config = OptimisationConfig(batch_size=4, num_view_seeds=2)
    epochs = [epoch_batches(12, epoch, config) for epoch in range(3)]
    for batches in epochs:
        assert sorted(key.index for keys in batches for key in keys) == list(range(12))
    assert epochs[0] != epochs[1]
    assert [batches[0][0].view_seed for batches in epochs] == [0, 1, 0]
    assert len(epoch_batches(3, 0, config)) == 1


def test_the_selection_split_is_judged_as_often_as_asked(square_store, tmp_path):
    entries = entries_of(square_store, split="train", labelled=True)
    dataset = ClipDataset(entries, [Modality.RGB], ViewConfig(num_frames=2, size_px=16), is_training=True)
    model = create_model("edge_tiny", num_classes={"action": 4})
    config = OptimisationConfig(epochs=5, batch_size=8, score_every_epochs=2)
    Trainer(model, LabelTask({"action": 1.0}), dataset, config, tmp_path, score=lambda network: 0.0).fit()
    assert [row["epoch"] for row in history(tmp_path) if "selection_score" in row] == [2, 4, 5]


def test_gradient_accumulation_equals_the_larger_batch(square_store, tmp_path):
    one = make_trainer(square_store, tmp_path / "a", batch_size=8, weight_decay=0.0)
    two = make_trainer(square_store, tmp_path / "b", batch_size=4, gradient_accumulation=2, weight_decay=0.0)
    for trainer in (one, two):
        trainer.model.eval()  # batch statistics would differ between the two
        trainer.network.train = lambda *_: None
    one.fit()
    two.fit()
    for name, tensor in one.model.state_dict().items():
        torch.testing.assert_close(two.model.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)


def test_a_half_written_checkpoint_is_never_taken(square_store, tmp_path):
    trainer = make_trainer(square_store, tmp_path)
    trainer.fit()
    last = tmp_path / "checkpoints" / "last"
    last.rename(last.with_name(".last-old"))  # a crash between the two renames
    (tmp_path / "checkpoints" / ".last-12345678").mkdir()
    assert find_checkpoint(last) == last
    assert sorted(p.name for p in last.parent.iterdir()) == ["last"]
    (last / "state.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match="damaged"):
        make_trainer(square_store, tmp_path).resume()
