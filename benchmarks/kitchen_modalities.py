"""How much each modality of the kitchen tells about the action: linear probes, five folds, one table.

    python benchmarks/kitchen_modalities.py --store clips/probe --num-clips 612 --workers 2

Features are simple on purpose and fixed here; the probe is ridge regression on standardised principal components, its
strength chosen on the training folds' own held-out fifth. "any" counts a clip as right if any single modality is.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from egoloom.clips import Clip, ClipStore, Modality
from egoloom.clips.media import read_arrays, read_table
from egoloom.clips.tracks import TrackReader
from egoloom.kitchen.vocabulary import ACTION_NAMES, DETECTOR_CATEGORIES

PAIRS = (
    ("open drawer", "close drawer"), ("open cupboard", "close cupboard"), ("turn on tap", "turn off tap"),
    ("take mug", "put mug"), ("take plate", "put plate"), ("take bottle", "put bottle"), ("cut carrot", "cut bread"),
)  # fmt: skip
NUM_FRAMES, NUM_FOLDS, SEED = 8, 5, 0
Features = NDArray


def frame_times(clip: Clip, count: int) -> NDArray[np.float64]:
    return clip.start_s + (np.arange(count) + 0.5) / count * (clip.end_s - clip.start_s)


def rgb_features(tracks: TrackReader, clip: Clip, count: int) -> Features:
    """Colour thumbnails and gradient-orientation histograms of ``count`` frames, in order."""
    frames = tracks.rgb(clip.video_id, frame_times(clip, count)).transpose(0, 2, 3, 1)
    return np.concatenate([np.concatenate([thumbnail(frame), orientations(frame)]) for frame in frames])


def thumbnail(frame: NDArray[np.uint8]) -> Features:
    small = cv2.resize(frame, (14, 14), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32).ravel() / 255 - 0.5


def orientations(frame: NDArray[np.uint8], cells: int = 8, bins: int = 8) -> Features:
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
    dx, dy = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    size, angle = np.hypot(dx, dy), np.arctan2(dy, dx) % np.pi
    height, width = grey.shape
    row = np.arange(height)[:, None] * cells // height
    col = np.arange(width)[None] * cells // width
    index = (row * cells + col) * bins + np.minimum((angle / np.pi * bins).astype(int), bins - 1)
    histogram = np.bincount(index.ravel(), size.ravel(), cells * cells * bins).reshape(cells * cells, bins)
    return np.sqrt(histogram / (histogram.sum(1, keepdims=True) + 200)).ravel().astype(np.float32)


def flow_features(tracks: TrackReader, clip: Clip) -> Features:
    """Mean flow and mean speed on an 8 x 8 grid in eight periods."""
    count = round((clip.end_s - clip.start_s) * float(tracks.store.videos[clip.video_id].fps))
    grey = tracks.flow(clip.video_id, frame_times(clip, count)).astype(np.float32) - 128
    speed = np.hypot(grey[:, 0], grey[:, 1])[:, None]
    planes = np.concatenate([grey, speed], 1)
    periods = np.array_split(planes, NUM_FRAMES)
    return np.concatenate([
        np.sign(cell) * np.sqrt(np.abs(cell)) for period in periods for plane in period.mean(0)
        for cell in [cv2.resize(plane, (8, 8), interpolation=cv2.INTER_AREA).ravel()]
    ])  # fmt: skip


def audio_features(tracks: TrackReader, clip: Clip) -> Features:
    """Log-mel energies in 16 bands and 24 periods, and their spread; zeros for a clip without sound."""
    if Modality.SPECTROGRAM not in clip.present:
        return np.zeros(16 * 24 + 64, np.float32)
    log_mel = tracks.spectrogram(clip.video_id, clip.start_s, clip.end_s, 200)[0]
    small = cv2.resize(log_mel, (24, 16), interpolation=cv2.INTER_AREA)
    return np.concatenate([small.ravel() + 8, log_mel.std(1)])


def imu_features(tracks: TrackReader, clip: Clip) -> Features:
    """The six curves in 24 periods, and the power of each in 12 bands."""
    curves = tracks.imu(clip.video_id, clip.start_s, clip.end_s, 240)
    slow = curves.reshape(6, 24, 10).mean(2)
    spectrum = np.log(np.abs(np.fft.rfft(curves - curves.mean(1, keepdims=True), axis=1))[:, 1:49] + 1e-2)
    return np.concatenate([slow.ravel(), spectrum.reshape(6, 12, 4).mean(2).ravel()])


def box_features(tracks: TrackReader, clip: Clip) -> Features:
    """Per category: how often it is seen, where, how large and how fast, in four periods."""
    table = read_table(tracks.store.media_path(Modality.BOXES, clip.video_id))
    size = tracks.store.videos[clip.video_id].width
    period = np.clip(((table["time_s"] - clip.start_s) / (clip.end_s - clip.start_s) * 4).astype(int), 0, 3)
    out = np.zeros((len(DETECTOR_CATEGORIES), 4, 5), np.float32)
    for k, name in enumerate(DETECTOR_CATEGORIES):
        for p in range(4):
            rows = (table["category"] == name) & (period == p)
            if rows.any():
                x1, y1, x2, y2 = (table[c][rows] / size - 0.5 for c in ("x1", "y1", "x2", "y2"))
                out[k, p] = [min(rows.sum() / 8, 2), ((x1 + x2) / 2).mean(), ((y1 + y2) / 2).mean(),
                (x2 - x1).mean(), (y2 - y1).mean()]  # fmt: skip
    centers = out[:, :, 1:3]
    return np.concatenate([out.ravel(), np.diff(centers, axis=1).ravel()])


def true_box_features(tracks: TrackReader, clip: Clip) -> Features:
    """The same from the id images: a perfect detector, as an upper bound."""
    ids = read_arrays(tracks.store.media_path(Modality.IDS, clip.video_id))["ids"]
    names = tracks.store.load_calibration(clip.video_id)["instances"]
    wanted = ("hand_right", "hand_left", "drawer", "door", "lever", "mug", "plate", "bottle", "carrot", "bread", "pot",
              "knife", "spoon", "sponge", "cloth")  # fmt: skip
    out = np.zeros((len(wanted), 4, 3), np.float32)
    for p, part in enumerate(np.array_split(ids[::2], 4)):
        for k, name in enumerate(wanted):
            if name in names and (part == names.index(name)).any():
                _, rows, cols = np.nonzero(part == names.index(name))
                out[k, p] = [
                    np.sqrt(len(rows)) / 40,
                    cols.mean() / ids.shape[2] - 0.5,
                    rows.mean() / ids.shape[1] - 0.5,
                ]
    return np.concatenate([out.ravel(), np.diff(out[:, :, 1:], axis=1).ravel()])


def ridge_predictions(features: NDArray, labels: NDArray, fold: NDArray) -> NDArray[np.int64]:
    """Returns held-out predictions of every clip."""
    num_classes = labels.max() + 1
    predicted = np.zeros(len(labels), np.int64)
    for k in range(NUM_FOLDS):
        train, test = fold != k, fold == k
        inner = train & (fold != (k + 1) % NUM_FOLDS)
        check = train & (fold == (k + 1) % NUM_FOLDS)
        scores = [
            ((solve(features[inner], labels[inner], features[check], strength,
            num_classes)).argmax(1) == labels[check]).mean()
            for strength in STRENGTHS
        ]  # fmt: skip
        best = STRENGTHS[int(np.argmax(scores))]
        predicted[test] = solve(features[train], labels[train], features[test], best, num_classes).argmax(1)
    return predicted


STRENGTHS = (3.0, 30.0, 300.0, 3000.0, 30000.0)


def solve(x: NDArray, y: NDArray, x_test: NDArray, strength: float, num_classes: int) -> NDArray:
    """Ridge regression to one-hot targets in the dual form."""
    mean, scale = x.mean(0), x.std(0) + 1e-6
    x, x_test = (x - mean) / scale, (x_test - mean) / scale
    targets = np.eye(num_classes)[y] - 1 / num_classes
    gram = x @ x.T
    return x_test @ (x.T @ np.linalg.solve(gram + strength * np.eye(len(x)), targets))


def probe(store: ClipStore) -> dict:
    clips = sorted(store.select(view="ego"), key=lambda clip: clip.clip_id)
    labels = np.array([ACTION_NAMES.index(clip.extra["true_action"]) for clip in clips])
    tracks = TrackReader(store)
    extractors: dict[str, Callable[[Clip], Features]] = {
        "rgb, 1 frame": lambda clip: rgb_features(tracks, clip, 1),
        "rgb, 8 frames": lambda clip: rgb_features(tracks, clip, NUM_FRAMES),
        "flow": lambda clip: flow_features(tracks, clip),
        "audio": lambda clip: audio_features(tracks, clip),
        "imu": lambda clip: imu_features(tracks, clip),
        "boxes": lambda clip: box_features(tracks, clip),
        "true boxes (bound)": lambda clip: true_box_features(tracks, clip),
    }
    fold = np.random.default_rng(SEED).permutation(len(clips)) % NUM_FOLDS
    table: dict[str, dict[str, float]] = {}
    right = {}
    for name, extract in extractors.items():
        features = np.stack([extract(clip) for clip in clips]).astype(np.float64)
        right[name] = ridge_predictions(features, labels, fold) == labels
        row = {"action": float(right[name].mean())}
        for first, second in PAIRS:
            both = np.isin(labels, [ACTION_NAMES.index(first), ACTION_NAMES.index(second)])
            pair_labels = (labels[both] == ACTION_NAMES.index(second)).astype(np.int64)
            row[f"{first.split()[0]}/{second}"] = float(
                (ridge_predictions(features[both], pair_labels, fold[both]) == pair_labels).mean()
            )
        table[name] = row
    stored = ("rgb, 8 frames", "flow", "audio", "imu", "boxes")
    any_right = np.stack([right[name] for name in stored]).any(0)
    return {"num_clips": len(clips), "table": table, "any_modality_right": float(any_right.mean())}


def show(result: dict) -> None:
    columns = list(next(iter(result["table"].values())))
    print(f"{result['num_clips']} clips, {len(ACTION_NAMES)} actions, {NUM_FOLDS} folds")
    print("| features | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name, row in result["table"].items():
        cells = [f"{row[column]:.2f}" for column in columns]
        print(f"| {name} | " + " | ".join(cells) + " |")
    print(f"any of rgb (8 frames), flow, audio, imu, boxes right: {result['any_modality_right']:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--store", type=Path, default=Path("clips/probe"), help="made if it is not there")
    parser.add_argument("--num-clips", type=int, default=612)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    from egoloom.kitchen import make_store

    if (arguments.store / "info.json").is_file():
        store = ClipStore.open(arguments.store)  # as it is, whatever its settings
    else:
        store = make_store(
            arguments.store, num_clips=arguments.num_clips, seed=arguments.seed, num_workers=arguments.workers
        )
    result = probe(store)
    show(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
