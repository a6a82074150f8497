"""``egoloom doctor``: checks the installation, or a store."""

import importlib.metadata
import itertools
import json
import os
import platform
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from egoloom.clips import ClipStore, Modality
from egoloom.clips.schema import HEADS
from egoloom.errors import UserError

PACKAGES = ("torch", "numpy", "av", "opencv-python-headless", "pyarrow", "pydantic", "tyro", "scipy", "numba")
OPTIONAL_PACKAGES = {
    "diffusers": "exo2ego",
    "transformers": "exo2ego",
    "peft": "exo2ego",
    "onnx": "export",
    "onnxruntime": "export",
    "openvino": "openvino",
    "executorch": "executorch",
    "projectaria-tools": "aria",
    "h5py": "hdf5",
    "simplejpeg": "cache",
    "rerun-sdk": "viz",
}
DECODERS = ("h264", "hevc", "vp9", "av1", "mjpeg", "aac", "flac", "opus")
NUM_SHOWN_PROBLEMS = 20


def main(arguments: list[str]) -> None:
    """Runs the verb."""
    report, as_json = tyro.cli(examine, prog="egoloom doctor", args=arguments)
    if as_json:
        print(json.dumps(report, indent=1))
    else:
        print("\n".join(_lines(report)))
    if report.get("store", {}).get("num_problems"):
        sys.exit(1)


def examine(
    path: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="STORE")] = None,
    *,
    store: Annotated[Path | None, tyro.conf.arg(aliases=["-s"])] = None,
    decode: bool = True,
    json: bool = False,
) -> tuple[dict[str, Any], bool]:
    """Reports versions, decoders and disk; for a store its counts and faults. Exit code 1 if the store has faults.

    Args:
        path: A clip store to examine.
        store: The same, as an option.
        decode: Look into the media of the store as well.
        json: Print JSON.
    """
    if path is not None and store is not None and path != store:
        raise UserError(f"Two stores are named: {path} and {store}", allowed="one at a time")
    report: dict[str, Any] = {"installation": installation()}
    if chosen := path or store:
        report["store"] = store_report(ClipStore.open(chosen), decode=decode)
    return report, json


def installation() -> dict[str, Any]:
    """Returns versions, decoders, processors, memory and disk of this machine."""
    disk = shutil.disk_usage(Path.cwd())
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "optional_packages": {name: _version(name) for name in OPTIONAL_PACKAGES},
        "decoders": {name: _has_decoder(name) for name in DECODERS},
        "num_processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(_memory_bytes() / 1e9, 1),
        "disk_free_gb": round(disk.free / 1e9, 1),
        "threads": os.environ.get("OMP_NUM_THREADS", "not set"),
    }


def store_report(store: ClipStore, *, decode: bool) -> dict[str, Any]:
    """Returns counts a split and modality, faults, rates, durations and class balance of a store."""
    problems = store.validate(decode=decode)
    clips, videos = store.clips, store.videos.values()
    splits = sorted({clip.split for clip in clips})
    durations = np.array([clip.end_s - clip.start_s for clip in clips])
    return {
        "path": str(store.path),
        "name": store.info.name,
        "source": store.info.source,
        "licence": store.info.licence,
        "num_videos": len(videos),
        "num_clips": len(clips),
        "num_generated": sum(clip.is_generated for clip in clips),
        "hours": round(sum(video.duration_s for video in videos) / 3600, 3),
        "clips_by_split": {
            split: {
                "clips": sum(clip.split == split for clip in clips),
                **{
                    str(modality): count
                    for modality in Modality
                    if (count := sum(clip.split == split and modality in clip.present for clip in clips))
                },
            }
            for split in splits
        },
        "views": dict(Counter(clip.view for clip in clips)),
        "fps": {f"{float(fps):g}": count for fps, count in sorted(Counter(v.fps for v in videos).items())},
        "frame_sizes": dict(Counter(f"{video.width}x{video.height}" for video in videos).most_common(8)),
        "clip_duration_s": _histogram(durations),
        "classes": {head: _balance(store, head) for head in HEADS if store.class_names(head)},
        "megabytes": {
            folder.name: round(sum(f.stat().st_size for f in folder.iterdir() if f.is_file()) / 1e6, 2)
            for folder in sorted((store.path / "media").glob("*/"))
        },
        "num_problems": len(problems),
        "problems": [problem._asdict() for problem in problems],
    }


def _balance(store: ClipStore, head: str) -> dict[str, Any]:
    counts = Counter(clip.label(head) for clip in store.clips if clip.label(head) >= 0)
    names = store.class_names(head)
    return {
        "num_classes": len(names),
        "num_seen": len(counts),
        "num_unlabelled_clips": sum(clip.label(head) < 0 for clip in store.clips),
        "most_frequent": {names[index]: count for index, count in counts.most_common(5) if index < len(names)},
        "fewest_clips_of_a_seen_class": min(counts.values(), default=0),
    }


def _histogram(values: np.ndarray) -> dict[str, Any]:
    if not len(values):
        return {}
    edges = [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 60.0, float("inf")]
    counts, _ = np.histogram(values, edges)
    labels = [f"{low:g}-{high:g}" for low, high in itertools.pairwise(edges)]
    return {
        "median": round(float(np.median(values)), 3),
        "mean": round(float(values.mean()), 3),
        "histogram": {label: int(count) for label, count in zip(labels, counts, strict=True) if count},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _has_decoder(name: str) -> bool:
    import av.codec

    try:
        return bool(av.codec.Codec(name, "r"))
    except ValueError:  # av's UnknownCodecError
        return False


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0


def _lines(report: dict[str, Any]) -> list[str]:
    machine = report["installation"]
    absent = [f"{name} (extra {OPTIONAL_PACKAGES[name]})" for name, v in machine["optional_packages"].items() if not v]
    no_decoder = [name for name, there in machine["decoders"].items() if not there]
    versions = machine["packages"] | {name: v for name, v in machine["optional_packages"].items() if v}
    lines = [
        f"python {machine['python']} on {machine['platform']}",
        f"{machine['num_processors']} processors, {machine['memory_gb']} GB memory, {machine['disk_free_gb']} GB free",
        "packages: " + ", ".join(f"{name} {version or 'MISSING'}" for name, version in versions.items()),
        "not installed: " + (", ".join(absent) or "nothing"),
        "decoders: " + ("all found" if not no_decoder else f"without {', '.join(no_decoder)}"),
    ]
    if "store" not in report:
        return [*lines, "next: egoloom demo, or egoloom doctor STORE"]
    store = report["store"]
    lines += [
        "",
        f"{store['path']} ({store['name']}, source {store['source']}): {store['num_videos']} videos, "
        f"{store['num_clips']} clips, {store['hours']} h, {store['num_generated']} generated",
    ]
    for split, counts in store["clips_by_split"].items():
        lines.append(f"  {split or 'no split'}: " + ", ".join(f"{name} {count}" for name, count in counts.items()))
    lines.append("  fps: " + ", ".join(f"{fps} ({count} videos)" for fps, count in store["fps"].items()))
    lines.append("  sizes: " + ", ".join(f"{size} ({count})" for size, count in store["frame_sizes"].items()))
    if durations := store["clip_duration_s"]:
        bins = ", ".join(f"{label} s: {count}" for label, count in durations["histogram"].items())
        lines.append(f"  clip length: median {durations['median']} s; {bins}")
    for head, balance in store["classes"].items():
        top = ", ".join(f"{name} {count}" for name, count in balance["most_frequent"].items())
        lines.append(f"  {head}: {balance['num_seen']} of {balance['num_classes']} classes seen; most frequent: {top}")
    lines.append("  megabytes: " + ", ".join(f"{name} {size}" for name, size in store["megabytes"].items()))
    lines.append(f"  problems: {store['num_problems'] or 'none'}")
    lines += [f"    {problem['where']}: {problem['what']}" for problem in store["problems"][:NUM_SHOWN_PROBLEMS]]
    view = f"egoloom view {store['path']}"
    return [*lines, f"next: {'repair or ingest again what is listed' if store['num_problems'] else view}"]
