"""What a student costs on this machine: latency, throughput, memory, size, arithmetic, and an estimate of energy."""

import dataclasses
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from egoloom.deployment.card import CARD_NAME, Card
from egoloom.errors import UserError

DEFAULT_WATTS_PER_CORE = 5.0
NUM_STREAM_FRAMES = 60


@dataclass(frozen=True)
class BenchRow:
    """The figures of one model on this machine.

    Attributes:
        latency_ms: Median of one clip on all threads.
        latency_p95_ms: 95th percentile of the same.
        clips_per_s_one_thread: Clips a second on one thread.
        clips_per_s_two_threads: The same on two.
        stream_fps_one_thread: Frames with a prediction each, a second, on one thread; None if it cannot stream.
        startup_s: From starting the interpreter to the first prediction, in a process of its own; None for teachers
            that read other sensors, which do not ship.
        peak_memory_mb: Of that process, libraries included; None as ``startup_s``.
        model_memory_mb: How much of it came with loading the model and the first clips; None as ``startup_s``.
        energy_mj_estimate: An estimate, not a measurement: processor seconds a clip times the watts a core is said to
            draw.
        top1: On ``num_clips`` labelled clips, None without a store.
        ece: As ``top1``.
    """

    name: str
    target: str
    precision: str
    num_frames: int
    size_px: int
    latency_ms: float
    latency_p95_ms: float
    clips_per_s_one_thread: float
    clips_per_s_two_threads: float
    stream_fps_one_thread: float | None
    startup_s: float | None
    peak_memory_mb: float | None
    model_memory_mb: float | None
    size_mb: float
    num_parameters: int
    gmacs_per_clip: float | None
    energy_mj_estimate: float
    watts_per_core: float
    top1: float | None = None
    ece: float | None = None
    num_clips: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values."""
        return dataclasses.asdict(self)


def times_s(
    call: Callable[[], Any],
    *,
    seconds: float,
    warm_up: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> np.ndarray:
    """Returns the times of repeated calls, at least five and for about the given time.

    ``clock`` is wall time; ``time.process_time`` counts what this process used, which a busy machine disturbs little.
    """
    for _ in range(warm_up):
        call()
    times: list[float] = []
    stop = clock() + seconds
    while len(times) < 5 or clock() < stop:
        start = clock()
        call()
        times.append(clock() - start)
    return np.array(times)


def bench_model(
    path: Path,
    *,
    name: str = "",
    seconds: float = 2.0,
    watts_per_core: float = DEFAULT_WATTS_PER_CORE,
    clips: Any = None,
) -> BenchRow:
    """Measures an artefact, a single ONNX file or a checkpoint.

    Args:
        path: The model.
        name: For tables; default: its file name and precision.
        seconds: For how long each quantity is measured.
        watts_per_core: For the energy estimate.
        clips: Labelled `ParityClips` to measure accuracy on, or None.

    Raises:
        UserError: If the model cannot be opened.
    """
    own = _in_own_process(path)
    from egoloom.deployment.artefact import load_student

    student = load_student(path, num_threads=2)
    card = student.card
    generator = np.random.default_rng(0)
    shape = (1, card.input.num_frames, 3, card.input.size_px, card.input.size_px)
    clip = generator.integers(0, 256, shape, dtype=np.uint8)
    cpu_start = time.process_time()
    two = times_s(lambda: student.log_probs(clip), seconds=seconds)
    cpu_s = (time.process_time() - cpu_start) / (len(two) + 3)
    single = load_student(path, num_threads=1)
    one = times_s(lambda: single.log_probs(clip), seconds=seconds)
    gmacs = card.gmacs_per_clip or _gmacs_of_checkpoint(path, clip)
    accuracy = accuracy_of(student.log_probs, card, clips) if clips is not None else {}
    return BenchRow(
        name=name or f"{path.resolve().name} {card.precision}",
        target=card.target,
        precision=card.precision,
        num_frames=card.input.num_frames,
        size_px=card.input.size_px,
        latency_ms=1e3 * float(np.median(two)),
        latency_p95_ms=1e3 * float(np.percentile(two, 95)),
        clips_per_s_one_thread=1 / float(np.median(one)),
        clips_per_s_two_threads=1 / float(np.median(two)),
        stream_fps_one_thread=stream_fps(path, seconds=seconds) if _can_stream(path, card) else None,
        startup_s=own["startup_s"],
        peak_memory_mb=own["peak_memory_mb"],
        model_memory_mb=own["model_memory_mb"],
        size_mb=size_mb(path, card),
        num_parameters=card.num_parameters,
        gmacs_per_clip=gmacs,
        energy_mj_estimate=1e3 * cpu_s * watts_per_core,
        watts_per_core=watts_per_core,
        **accuracy,
    )


def _gmacs_of_checkpoint(path: Path, clip: np.ndarray) -> float | None:
    from egoloom.deployment.artefact import checkpoint_folder, is_checkpoint

    if not path.is_dir() or not is_checkpoint(checkpoint_folder(path)):
        return None
    import torch

    from egoloom.models import Recogniser, count_gmacs

    model = Recogniser.from_pretrained(checkpoint_folder(path))
    return count_gmacs(model, {"rgb": torch.from_numpy(clip)})


def stream_fps(path: Path, *, seconds: float = 2.0) -> float:
    """Returns frames a second on one thread, each with a prediction, from ready RGB frames of the network's size."""
    from egoloom.deployment.streaming import open_stream

    stream = open_stream(path, num_threads=1)
    side = stream.card.input.size_px
    frames = np.random.default_rng(0).integers(0, 256, (NUM_STREAM_FRAMES, 3, side, side), dtype=np.uint8)
    position = iter(range(10**9))
    times = times_s(lambda: stream.push(frames[next(position) % NUM_STREAM_FRAMES]), seconds=seconds)
    return 1 / float(np.median(times))


def accuracy_of(run: Callable[[np.ndarray], dict[str, np.ndarray]], card: Card, clips: Any) -> dict[str, Any]:
    """Returns ``top1``, ``ece`` and ``num_clips`` of the main head on labelled clips."""
    from egoloom.deployment.parity import run_in_batches
    from egoloom.evaluation.calibration import expected_calibration_error

    labels = clips.labels.get(card.main_head)
    if labels is None or not (labels >= 0).any():
        return {}
    scores = run_in_batches(run, clips.frames, 8)[card.main_head]
    known = labels >= 0
    hits = scores[known].argmax(axis=1) == labels[known]
    return {
        "top1": float(hits.mean()),
        "ece": float(expected_calibration_error(np.exp(scores[known]), labels[known])),
        "num_clips": int(known.sum()),
    }


def size_mb(path: Path, card: Card) -> float:
    """Returns the size of the clip model's files in 10^6 bytes."""
    from egoloom.deployment.artefact import checkpoint_folder

    if path.is_file():
        return path.stat().st_size / 1e6
    folder = checkpoint_folder(path)
    files = [file for file in folder.iterdir() if file.stem == "model"]
    return sum(file.stat().st_size for file in files) / 1e6


def _can_stream(path: Path, card: Card) -> bool:
    if path.is_file():
        return False
    if (path / CARD_NAME).is_file() and card.stream is not None:
        return True
    from egoloom.deployment.artefact import load_step

    try:
        load_step(path, num_threads=1)
    except UserError:
        return False
    return card.target == "torch"


def _in_own_process(path: Path) -> dict[str, float]:
    """Start-up and memory are only honest in a fresh interpreter."""
    start = time.time()
    result = subprocess.run(
        [sys.executable, "-m", "egoloom.deployment.bench", str(path), repr(start)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ},
    )
    if result.returncode == 3:
        raise UserError(result.stderr.strip())
    if result.returncode != 0:
        raise UserError(f"{path} failed in a process of its own: {result.stderr.strip()[-300:]}")
    return json.loads(result.stdout.splitlines()[-1])


def _measure_this_process(path: Path, start: float) -> dict[str, float]:
    from egoloom.deployment.artefact import load_student

    before = _peak_mb()
    student = load_student(path)
    size = student.card.input
    clip = np.zeros((1, size.num_frames, 3, size.size_px, size.size_px), np.uint8)
    student.log_probs(clip)
    startup_s = time.time() - start
    for _ in range(3):
        student.log_probs(clip)
    return {"startup_s": startup_s, "peak_memory_mb": _peak_mb(), "model_memory_mb": _peak_mb() - before}


def _peak_mb() -> float:
    # On Linux ru_maxrss outlives exec and would show the parent's memory; VmHWM starts anew.
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return float(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def main(arguments: Sequence[str]) -> None:
    """Entry point of the fresh process."""
    try:
        print(json.dumps(_measure_this_process(Path(arguments[0]), float(arguments[1]))))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(3)


if __name__ == "__main__":
    main(sys.argv[1:])
