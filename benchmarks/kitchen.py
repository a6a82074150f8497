"""CPU seconds per take of the kitchen with everything saved, peak memory, and how it scales over processes.

python benchmarks/kitchen.py --num-clips 12
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from egoloom.kitchen import KitchenSettings, make_store

SETTINGS = {
    "112 px, 2x2 samples": KitchenSettings(),
    "96 px, no anti-aliasing": KitchenSettings(ego_size_px=96, exo_width_px=96, exo_height_px=96, anti_aliasing=False),
    "128 px, 2x2 samples": KitchenSettings(ego_size_px=128, exo_width_px=128, exo_height_px=128),
}


def one_process(name: str, num_clips: int) -> dict[str, float]:
    """Runs in a fresh process: warm-up of three takes, then the measured ones."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        make_store(store, num_clips=3, settings=SETTINGS[name])
        start, wall = time.process_time(), time.perf_counter()
        make_store(store, num_clips=3 + num_clips, settings=SETTINGS[name])
        cpu_s, wall_s = time.process_time() - start, time.perf_counter() - wall
        size = sum(path.stat().st_size for path in store.rglob("*") if path.is_file()) / (3 + num_clips)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"cpu_s": cpu_s / num_clips, "wall_s": wall_s / num_clips, "peak_mb": peak_mb, "mb_a_take": size / 1e6}


def scaling(num_clips: int, num_workers: int) -> dict[str, float]:
    """Wall and CPU seconds a take with ``num_workers`` processes, their start-up included.

    On idle processors the wall time falls with the processes; the CPU time should hardly grow, whatever else runs.
    """
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.perf_counter(), _cpu_s()
        make_store(Path(folder) / "store", num_clips=num_clips, num_workers=num_workers)
        return {"wall_s": (time.perf_counter() - wall) / num_clips, "cpu_s": (_cpu_s() - cpu) / num_clips}


def _cpu_s() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--num-clips", type=int, default=12)
    parser.add_argument("--num-scaling-clips", type=int, default=48)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    result: dict[str, object] = {}
    print("| setting | CPU s a take | wall s | peak MB | MB a take on disk |\n|---|---|---|---|---|")
    for name in SETTINGS:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            row = pool.submit(one_process, name, arguments.num_clips).result()
        result[name] = row
        cells = (f"{row['cpu_s']:.2f}", f"{row['wall_s']:.2f}", f"{row['peak_mb']:.0f}", f"{row['mb_a_take']:.1f}")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    scaled = {}
    for workers in (1, 2):
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            scaled[workers] = pool.submit(scaling, arguments.num_scaling_clips, workers).result()
    result["scaling"] = scaled
    rows = (f"{workers}: {row['wall_s']:.2f} s wall, {row['cpu_s']:.2f} s CPU" for workers, row in scaled.items())
    print(f"{arguments.num_scaling_clips} takes by processes, start-up included, each take: " + "; ".join(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
