"""Edge deployment: what a student costs on this machine, as ratios measured in one run.

    python benchmarks/edge.py --json                      costs (random weights, 224 px) and what int8 loses
    python benchmarks/edge.py --costs-only                without the latter, which makes takes and trains once
    python benchmarks/edge.py --run RUN --json            what int8 loses on the test split of a run of your own
    python benchmarks/edge.py --soak-minutes 30           and half an hour of stream time at full speed
    python benchmarks/edge.py --cpu-time                  on a busy machine: one thread, in processor time

``--json`` prints one line with stream_fps_one_thread, clip_ratio_to_video_swin, int8_speedup,
int8_accuracy_loss_points, int8_ece_increase and what they were measured on.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edge_int8 import int8_losses, students
from egoloom.clips.media import write_video
from egoloom.deployment import export_student, load_student
from egoloom.deployment.bench import size_mb, times_s
from egoloom.deployment.card import InputCard, read_card
from egoloom.deployment.parity import ParityLimits, synthetic_clips
from egoloom.deployment.streaming import open_stream
from egoloom.deployment.targets import installed_targets
from egoloom.models import create_model, num_parameters

Clock = Callable[[], float]
NUM_CLASSES = {"verb": 11, "noun": 11, "action": 18}
SIZE_PX, NUM_FRAMES = 224, 8
RUNTIMES = ("onnx", "openvino", "executorch")
# Random weights have no confident classes, so agreement says nothing here; trained runs use the real limits.
ANY_PARITY = ParityLimits(max_abs_diff=1e6, min_top1_agreement=0.0)


def make_checkpoint(folder: Path, name: str) -> Path:
    """Saves a causal student with random weights whose batch statistics fit its input."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=NUM_CLASSES, temporal_shift="causal")
    frames = synthetic_clips(InputCard(num_frames=NUM_FRAMES, size_px=SIZE_PX), 2).frames
    with torch.no_grad():
        model.train()({"rgb": torch.from_numpy(frames)})
    model.eval().save_pretrained(folder)
    card = {"view": {"num_frames": NUM_FRAMES, "size_px": SIZE_PX, "seconds_between_frames": 0.25}}
    (folder / "card.json").write_text(json.dumps(card))
    return folder


def export_all(checkpoint: Path, folder: Path, label: str, runtimes: Sequence[str]) -> dict[tuple[str, str], Path]:
    """Exports to every installed runtime of these in fp32 and int8; OpenVINO also in half, where bf16 is quick."""
    clips = synthetic_clips(InputCard(num_frames=NUM_FRAMES, size_px=SIZE_PX), 4)
    artefacts = {}
    for target in (name for name in runtimes if name in installed_targets()):
        for precision in ("fp32", "fp16", "int8") if target == "openvino" else ("fp32", "int8"):
            out = folder / f"{label}-{target}-{precision}"
            export_student(checkpoint, out, target=target, precision=precision, parity_clips=clips, limits=ANY_PARITY)
            artefacts[target, precision] = out
    return artefacts


def interleaved_ms(calls: dict[Any, Any], *, rounds: int, seconds: float, clock: Clock) -> dict[Any, float]:
    """Returns the best median of several rounds in which all calls take turns, so that noise hits them alike."""
    best = dict.fromkeys(calls, math.inf)
    for _ in range(rounds):
        for key, call in calls.items():
            best[key] = min(best[key], 1e3 * float(np.median(times_s(call, seconds=seconds, warm_up=2, clock=clock))))
    return best


def measure_clips(artefacts: dict, *, threads: int, **arguments: Any) -> dict[tuple[str, str], float]:
    """Returns milliseconds a clip for each runtime and precision."""
    clip = synthetic_clips(InputCard(num_frames=NUM_FRAMES, size_px=SIZE_PX), 1).frames
    students = {key: load_student(path, num_threads=threads) for key, path in artefacts.items()}
    calls = {key: (lambda student=student: student.log_probs(clip)) for key, student in students.items()}
    return interleaved_ms(calls, **arguments)


def measure_streams(artefacts: dict, **arguments: Any) -> dict[tuple[str, str], float]:
    """Returns frames a second on one thread, a prediction each."""
    frames = synthetic_clips(InputCard(num_frames=NUM_FRAMES, size_px=SIZE_PX), 1).frames[0]
    streams = {key: open_stream(path, num_threads=1) for key, path in artefacts.items()}
    calls = {key: (lambda stream=stream: stream.push(frames[0])) for key, stream in streams.items()}
    return {key: 1e3 / ms for key, ms in interleaved_ms(calls, **arguments).items()}


def measure_video_swin_ms(threads: int, clock: Clock) -> float:
    """Returns milliseconds a clip of the full-size Video Swin-T (16 x 224 x 224) in PyTorch fp32."""
    torch.set_num_threads(threads)
    model = create_model("video_swin_t", num_classes=NUM_CLASSES).eval()
    clip = torch.randint(0, 256, (1, 16, 3, 224, 224), dtype=torch.uint8)
    with torch.inference_mode():
        times = times_s(lambda: model({"rgb": clip}), seconds=1.0, warm_up=1, clock=clock)
    return 1e3 * float(np.median(times))


def measure_startup_s(artefact: Path, folder: Path, clock: Clock) -> float:
    """Returns the best time of three from starting Python to the end of ``run.py`` on a two-second video."""
    video = folder / "two_seconds.mp4"
    write_video(video, np.random.default_rng(0).integers(0, 256, (30, 3, 256, 256), dtype=np.uint8), 15)
    now = clock if clock is time.perf_counter else _children_cpu_s
    times = []
    for _ in range(3):
        start = now()
        subprocess.run([sys.executable, str(artefact / "run.py"), str(video)], check=True, capture_output=True)
        times.append(now() - start)
    return min(times)


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def soak(artefact: Path, minutes: float, *, fps: int = 30) -> dict[str, float]:
    """Runs a stream of simulated length at full speed: no frame lost, times rising, memory flat."""
    stream = open_stream(artefact, num_threads=1)
    frames = synthetic_clips(InputCard(num_frames=NUM_FRAMES, size_px=SIZE_PX), 1).frames[0]
    total, lost, last_s = int(minutes * 60 * fps), 0, -1.0
    early_mb = peak_mb = 0.0
    start = time.perf_counter()
    for index in range(total):
        time_s = index / fps
        scores = stream.push(frames[index % NUM_FRAMES])
        lost += int(not np.isfinite(scores["action"]).all() or time_s <= last_s)
        last_s = time_s
        if index % 500 == 499:
            memory_mb = _resident_mb()
            early_mb, peak_mb = early_mb or memory_mb, max(peak_mb, memory_mb)
    return {
        "soak_minutes": minutes,
        "soak_frames": total,
        "soak_lost": lost,
        "soak_memory_growth_mb": round(peak_mb - early_mb, 2),
        "soak_seconds": round(time.perf_counter() - start, 1),
    }


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def say(words: str) -> None:
    """Tells the terminal what is going on; standard output belongs to the figures."""
    print(f"[edge] {words}", file=sys.stderr, flush=True)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="edge_small", help="the student of the registry (at most 3 M parameters)")
    parser.add_argument("--run", type=Path, help="measure what int8 loses on this run, not on one made here")
    parser.add_argument("--work", type=Path, default=Path("runs/edge_benchmark"), help="takes and students made once")
    parser.add_argument("--costs-only", action="store_true", help="do not measure what int8 loses")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each quantity and round")
    parser.add_argument("--soak-minutes", type=float, default=0.0)
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=RUNTIMES, help="those that are installed")
    parser.add_argument("--cpu-time", action="store_true", help="one thread, in processor time: for busy machines")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        figures = measure(options, Path(name))
    if options.json:
        print(json.dumps(figures))
        return
    for key, value in figures.items():
        print(f"{key:32} {value}")


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Returns all figures."""
    checkpoint = make_checkpoint(folder / "checkpoint", options.model)
    say(f"exporting {options.model}")
    artefacts = export_all(checkpoint, folder, options.model, options.runtimes)
    say("measuring students")
    clock = time.process_time if options.cpu_time else time.perf_counter
    arguments = {"rounds": options.rounds, "seconds": options.seconds, "clock": clock}
    streams = measure_streams(artefacts, **arguments)
    one = measure_clips(artefacts, threads=1, **arguments)
    two = one if options.cpu_time else measure_clips(artefacts, threads=2, **arguments)
    say("measuring Video Swin-T")
    # Each side on the number of threads that suits it best; a busy machine can make two slower than one.
    swin_ms = min(measure_video_swin_ms(threads, clock) for threads in ((1,) if options.cpu_time else (1, 2)))
    speedups = {target: one[target, "fp32"] / one[target, "int8"] for target in {key[0] for key in artefacts}}
    # The best runtime is the one with the fastest int8, not the one whose fp32 is slowest.
    best_target = min(speedups, key=lambda target: one[target, "int8"])
    best_stream, best_clip = (
        max(streams, key=lambda key: streams[key]),
        min(two, key=lambda key: min(one[key], two[key])),
    )
    clip_ms = min(one[best_clip], two[best_clip])
    figures: dict[str, Any] = {
        "stream_fps_one_thread": round(streams[best_stream], 1),
        "clip_ratio_to_video_swin": round(swin_ms / clip_ms, 1),
        "int8_speedup": round(speedups[best_target], 2),
        "int8_accuracy_loss_points": None,
        "int8_ece_increase": None,
        "clock": "processor time, one thread" if options.cpu_time else "wall time",
        "model": options.model,
        "num_parameters": num_parameters(create_model(options.model, num_classes=NUM_CLASSES)),
        "stream_runtime": " ".join(best_stream),
        "clip_runtime": " ".join(best_clip),
        "clip_ms": round(clip_ms, 2),
        "video_swin_ms": round(swin_ms, 1),
        "int8_runtime": best_target,
        "int8_mb": round(size_mb(artefacts[best_target, "int8"], read_card(artefacts[best_target, "int8"])), 3),
        "startup_s": round(measure_startup_s(artefacts[best_target, "int8"], folder, clock), 3),
        "clip_ms_one_thread": {" ".join(key): round(value, 2) for key, value in one.items()},
        "clip_ms_two_threads": {" ".join(key): round(value, 2) for key, value in two.items()},
        "stream_fps": {" ".join(key): round(value, 1) for key, value in streams.items()},
    }
    if not options.costs_only:
        runs = {"post-training": options.run} if options.run else students(options.work)
        say(f"measuring what int8 loses: {', '.join(runs)}")
        targets = [target for target in ("onnx", "openvino") if (target, "int8") in artefacts]
        losses = {name: int8_losses(run, folder / "int8", targets) for name, run in runs.items()}
        loss = losses["post-training"].get(best_target) or next(iter(losses["post-training"].values()))
        figures["int8_accuracy_loss_points"] = loss["loss_points"]
        figures["int8_ece_increase"] = loss["ece_increase"]
        figures["int8_losses"] = losses
    if options.soak_minutes:
        say(f"streaming {options.soak_minutes:g} minutes")
        figures |= soak(artefacts[best_stream], options.soak_minutes)
    return figures


if __name__ == "__main__":
    main()
