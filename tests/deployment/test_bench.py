import json
from pathlib import Path

import numpy as np
import pytest
import torch

from egoloom.cli.main import main, run_verb
from egoloom.clips import Clip, ClipStore, Modality, Video
from egoloom.clips.dataset import ClipDataset, entries_of
from egoloom.clips.media import write_flow, write_video
from egoloom.deployment.bench import bench_model
from egoloom.deployment.bench_report import write_sweep_record
from egoloom.deployment.bench_teacher import training_view
from egoloom.deployment.parity import parity_clips_from_store
from egoloom.deployment.sweep import protocols, sweep
from egoloom.errors import UserError
from egoloom.models import Recogniser


@pytest.fixture(scope="module")
def store(tmp_path_factory, moving_frames):
    path = tmp_path_factory.mktemp("store") / "clips"
    spaces = {
        "verb": [f"v{i}" for i in range(5)],
        "noun": [f"n{i}" for i in range(6)],
        "action": [f"a{i}" for i in range(8)],
    }
    store = ClipStore.create(
        path, name="square", source="test", licence="MIT", label_spaces=spaces, splits=["train", "validation", "test"]
    )
    videos, clips = [], []
    for index in range(12):
        name = f"video-{index}"
        relative = f"media/rgb/{name}.mp4"
        write_video(path / relative, moving_frames(15, 48, 64, seed=index), 15)
        videos.append(Video(name, relative, 15, 64, 48, 15, 1.0))  # type: ignore[arg-type]
        split = ("train", "validation", "test")[index % 3]
        labels = {"verb": index % 5, "noun": index % 6, "action": index % 8}
        clips.append(Clip(f"clip-{index}", name, "p", "ego", "", 0.0, 1.0, split, **labels))
    store.append(videos=videos, clips=clips)
    return path


def test_parity_clips_are_what_the_network_sees(store, artefact):
    from egoloom.deployment.card import read_card

    clips = parity_clips_from_store(store, read_card(artefact).input, num_clips=3)
    assert clips.frames.shape == (3, 4, 3, 32, 32)
    assert clips.source == "square, split validation"
    everything = parity_clips_from_store(store, read_card(artefact).input, split="test")
    assert len(everything) == 4
    assert set(everything.labels) >= {"verb", "noun", "action"}
    assert everything.labels["action"].tolist() == [2, 5, 0, 3]
    with pytest.raises(UserError, match="no split"):
        parity_clips_from_store(store, read_card(artefact).input, split="holiday")


def test_bench_figures_are_plausible(artefact, store):
    from egoloom.deployment.card import read_card

    clips = parity_clips_from_store(store, read_card(artefact).input, split="test")
    row = bench_model(artefact, seconds=0.05, clips=clips)
    assert 0 < row.latency_ms <= row.latency_p95_ms
    assert row.clips_per_s_one_thread > 5
    assert row.stream_fps_one_thread is not None
    assert row.stream_fps_one_thread > 5
    assert 0 < row.startup_s < 60
    assert 20 < row.peak_memory_mb < 2000
    assert row.size_mb == pytest.approx((artefact / "model.onnx").stat().st_size / 1e6)
    assert row.num_clips == 4
    assert row.top1 is not None
    assert 0 <= row.top1 <= 1
    assert row.energy_mj_estimate > 0


def test_single_file_does_not_stream(student_onnx):
    assert bench_model(student_onnx, seconds=0.02).stream_fps_one_thread is None


def test_sweep_varies_one_thing_at_a_time(checkpoint, store, tmp_path):
    rows = sweep({"student": checkpoint}, store, split="test")
    assert {(row.axis, row.num_frames, row.size_px, row.num_views) for row in rows} == set(protocols(4, 32))
    assert {row.num_frames for row in rows if row.axis == "num_frames"} == {1, 2, 4}
    own = {row.top1 for row in rows if (row.num_frames, row.size_px, row.num_views) == (4, 32, 1)}
    assert len(own) == 1
    assert all(row.num_clips == 4 for row in rows)
    write_sweep_record(tmp_path / "sweep.json", [Path("runs/student")], rows, "test", 808)
    record = json.loads((tmp_path / "sweep.json").read_text())
    assert record["rows"] == json.loads(json.dumps([row.to_dict() for row in rows]))
    assert "bench runs/student --sweep" in record["command"]


def test_only_a_sweep_is_recorded(artefact, tmp_path):
    with pytest.raises(UserError, match="--sweep"):
        run_verb(["bench", str(artefact), "--record", str(tmp_path / "sweep.json")])
    assert not (tmp_path / "sweep.json").exists()


def test_verb_writes_figures_into_the_report(artefact, store, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.json").write_text('{"source": "test"}')
    arguments = ["--store", str(store), "--seconds", "0.02", "--out", str(run)]
    run_verb(["bench", str(artefact), str(artefact), *arguments])
    rows = json.loads((run / "report" / "bench.json").read_text())
    assert len(rows) == 2
    assert np.isfinite(rows[0]["latency_ms"])
    assert "Accuracy against latency" in (run / "report.html").read_text()
    assert "estimate" in capsys.readouterr().out


def test_teachers_of_other_sensors_are_measured_too(store, artefact, save_checkpoint, tmp_path, capsys):
    """The teacher's accuracy is what PyTorch says of the same clips, and the table holds both."""
    teacher = save_checkpoint(tmp_path / "flow", input_modality="flow")
    with pytest.raises(UserError, match="--store STORE"):
        run_verb(["bench", str(teacher)])
    clips = ClipStore.open(store)
    for video_id in clips.videos:
        flow = np.random.default_rng(int(video_id[6:])).normal(size=(15, 2, 48, 64)).astype(np.float32)
        write_flow(clips.media_path(Modality.FLOW, video_id), flow, 15, bound_px=clips.info.flow_bound_px)
    clips.mark_present(Modality.FLOW, clips.videos)
    run_verb(["bench", str(artefact), str(teacher), "--store", str(store), "--seconds", "0.02", "--json"])
    student, flow_row = json.loads(capsys.readouterr().out)["bench"]
    assert (student["num_clips"], flow_row["num_clips"]) == (4, 4)
    assert flow_row["startup_s"] is flow_row["stream_fps_one_thread"] is None
    assert 0 < flow_row["latency_ms"] <= flow_row["latency_p95_ms"]
    assert flow_row["size_mb"] == pytest.approx((teacher / "model.safetensors").stat().st_size / 1e6)
    dataset = ClipDataset(entries_of(clips, split="test"), [Modality.FLOW], training_view(teacher), is_training=False)
    model = Recogniser.from_pretrained(teacher)
    hits = []
    for index in range(4):
        sample = dataset[index, 0]
        with torch.no_grad():
            logits = model({"flow": torch.from_numpy(sample["inputs"]["flow"][None])})["action"]
        hits.append(int(logits.argmax()) == sample["labels"]["action"])
    assert flow_row["top1"] == pytest.approx(np.mean(hits))


def test_bench_of_nothing(tmp_path, capsys):
    for arguments, message in ((["bench"], "no model"), (["bench", str(tmp_path / "x")], "There is no model at")):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
