"""Work shared among processes: every clip once, whatever dies; the same clips as one process makes."""

import dataclasses
import fcntl
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from egoloom.augmentation import workers
from egoloom.augmentation.claims import MAX_ATTEMPTS, claimed
from egoloom.augmentation.generate import AugmentationConfig, generated_store
from egoloom.augmentation.generators import generator_name
from egoloom.augmentation.job import plan_job
from egoloom.augmentation.pick import TRAINABLE, PickConfig, pick_clips
from egoloom.augmentation.ray_workers import refuse_unreachable
from egoloom.augmentation.run import estimate, run_job
from egoloom.augmentation.samples import generator_prior_config
from egoloom.clips import ClipStore, Modality
from egoloom.clips.media import VideoReader
from egoloom.errors import UserError

CONFIG = AugmentationConfig(num_frames=5, prior=generator_prior_config(is_metric=True))


def plan(store, out, generator="inpainting"):
    return plan_job(pick_clips([store], PickConfig()).chosen, out, generator, CONFIG)


def frames_of(store):
    found = {}
    for clip in store.clips:
        with VideoReader(store.media_path(Modality.RGB, clip.video_id)) as reader:
            found[clip.clip_id] = reader.all_frames()
    return found


@pytest.fixture(scope="module")
def alone(kitchen, tmp_path_factory) -> ClipStore:
    """What one process makes."""
    return run_job(plan(kitchen, tmp_path_factory.mktemp("alone") / "out")).store


def assert_complete(store, alone, ids=None):
    """The store holds these clips (all if None) once each, and the pictures that one process makes."""
    ids = {clip.clip_id for clip in alone.clips} if ids is None else ids
    assert sorted(clip.clip_id for clip in store.clips) == sorted(ids)
    assert store.validate(decode=True) == []
    expected = frames_of(alone)
    for clip_id, frames in frames_of(store).items():
        np.testing.assert_array_equal(frames, expected[clip_id])


def test_one_process_does_every_clip_and_a_second_run_nothing(kitchen, alone):
    assert len(alone.clips) == 6
    assert all(clip.is_generated and clip.view == "ego" for clip in alone.clips)
    assert all(clip.extra["label_confidence"] == "1.000" for clip in alone.clips)
    again = run_job(plan(kitchen, alone.path))
    assert (again.num_done, again.num_kept) == (0, 6)


def test_the_generator_that_ships_makes_clips(kitchen, tmp_path):
    job = plan(kitchen, tmp_path / "out", generator="builtin")
    report = run_job(dataclasses.replace(job, orders=job.orders[:1]))
    assert report.num_done == 1
    assert report.store.clips[0].generator.startswith("egox-builtin-")


@pytest.mark.slow
def test_two_workers_make_the_same_clips(kitchen, alone, tmp_path):
    report = run_job(plan(kitchen, tmp_path / "out"), num_workers=2)
    assert report.num_done == 6
    assert_complete(report.store, alone)


@pytest.mark.slow
def test_killed_workers_and_a_killed_driver_lose_nothing(kitchen, alone, tmp_path):
    """Holders of claims are killed as they work, then the driver; the same command finishes the rest."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "egoloom", "augment", str(kitchen.path), "--out", str(out), "--workers", "2"]
    command += ["--generator", "inpainting", "--num-frames", "5", "--no-modalities", "--no-page"]
    command += ["--filter.no-enabled"]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    killed = set()
    deadline = time.monotonic() + 400
    while len(killed) < 2 and driver.poll() is None and time.monotonic() < deadline:
        for path in out.glob(".job/claims/*"):
            lines = path.read_text().split("\n")[:-1]
            pid = int(lines[-1].split()[1]) if lines else 0
            if pid and pid not in killed and is_held(path):
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        time.sleep(0.005)
    assert killed
    driver.kill()
    driver.wait()
    again = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["failures"] == {}
    # Clips of held-out splits are not generated.
    expected = {f"{one.clip_id}-generated" for one in kitchen.select(view="exo") if one.split in TRAINABLE}
    assert len(expected) > 2
    assert_complete(ClipStore.open(out), alone, expected)


def is_held(path) -> bool:
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_a_claim_is_exclusive_and_ends_with_its_holder(kitchen, tmp_path):
    job = plan(kitchen, tmp_path / "out")
    generated_store(job.out, kitchen, generator_name(job.generator))
    (job.state / "claims").mkdir(parents=True)
    order = job.orders[0]
    with claimed(job, order) as is_mine:
        assert is_mine
        with claimed(job, order) as is_second:
            assert not is_second
    with claimed(job, order) as is_mine:
        assert is_mine


def test_a_clip_that_kills_its_workers_is_given_up(kitchen, tmp_path):
    job = plan(kitchen, tmp_path / "out")
    generated_store(job.out, kitchen, generator_name(job.generator))
    (job.state / "claims").mkdir(parents=True)
    order = job.orders[0]
    for _ in range(MAX_ATTEMPTS):
        with claimed(job, order) as is_mine:
            assert is_mine
    report = run_job(job)
    assert report.num_done == 5
    assert "workers died" in report.failures[order.made_id]
    # Another run tries again.
    assert run_job(plan(kitchen, tmp_path / "out")).num_done == 1


def test_a_bad_clip_does_not_stop_the_others(own_kitchen, tmp_path):
    job = plan(own_kitchen, tmp_path / "out")
    broken, missing = job.orders[:2]
    own_kitchen.media_path(Modality.DEPTH, broken.clip.video_id).write_bytes(b"no archive")
    own_kitchen.media_path(Modality.RGB, missing.clip.video_id).unlink()
    report = run_job(job)
    assert report.num_done == 4
    assert set(report.failures) == {broken.made_id, missing.made_id}
    assert all(report.failures.values())


def test_equal_ids_of_several_stores_stay_apart_whatever_is_picked(kitchen, own_kitchen, tmp_path):
    both = pick_clips([kitchen, own_kitchen], PickConfig()).chosen
    job = plan_job(both[:3], tmp_path / "out", "inpainting", CONFIG, held_out=both[2:])
    assert len({order.made_id for order in job.orders}) == len(job.orders) == 12
    assert [order.split for order in job.orders] == ["train"] * 3 + ["validation"] * 9


def test_nothing_but_bad_clips_is_an_error(own_kitchen, tmp_path):
    job = plan(own_kitchen, tmp_path / "out")
    for order in job.orders:
        own_kitchen.media_path(Modality.RGB, order.clip.video_id).unlink()
    with pytest.raises(UserError, match="None of 6 clips"):
        run_job(job)


def test_a_full_disk_stops_the_work_and_keeps_what_is_done(kitchen, tmp_path, monkeypatch):
    job = plan(kitchen, tmp_path / "out")
    run_job(dataclasses.replace(job, orders=job.orders[:2]))
    usage = workers.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(workers.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"disk of .* is full"):
        run_job(job)
    assert len(ClipStore.open(tmp_path / "out").clips) == 2
    monkeypatch.undo()
    assert run_job(job).num_kept == 2


def test_an_estimate_writes_nothing(kitchen, tmp_path):
    job = plan(kitchen, tmp_path / "out")
    found = estimate(job, num_workers=2, price_per_hour=3.0, num_measured=1)
    assert found.num_clips == 6
    assert found.hours == pytest.approx(found.seconds_a_clip * 6 / 2 / 3600)
    assert found.cost == pytest.approx(3 * found.hours)
    assert found.megabytes > 0
    assert not job.out.exists()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "host:port", "ray://127.0.0.1:2"])
def test_an_unreachable_cluster_is_refused_at_once(address):
    with pytest.raises(UserError):
        refuse_unreachable(address)


@pytest.mark.slow
def test_a_local_ray_cluster_makes_the_same_clips(kitchen, alone, tmp_path):
    pytest.importorskip("ray")
    report = run_job(plan(kitchen, tmp_path / "out"), num_workers=2, ray_address="local")
    assert report.num_done == 6
    assert_complete(report.store, alone)
