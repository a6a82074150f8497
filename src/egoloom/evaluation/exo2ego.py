"""The protocol exo2ego: generated ego clips against recorded ones, clip by clip, with means and intervals."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from egoloom.errors import UserError
from egoloom.evaluation.clip_image import ClipImageSimilarity
from egoloom.evaluation.footage import Footage, find_pairs, read_pair
from egoloom.evaluation.object_masks import OBJECT_MEASURES, object_measures
from egoloom.evaluation.significance import bootstrap_interval
from egoloom.evaluation.video_quality import dynamic_degree, evaluate_video, motion_smoothness, temporal_flicker

COMPARED = ("psnr_db", "ssim", "lpips", "clip_i", *OBJECT_MEASURES)
# Flicker and motion of a generated clip mean little without those of the recording.
TEMPORAL = ("flicker", "smoothness", "dynamic_strength_px", "is_dynamic")


def evaluate_exo2ego(
    generated: Path,
    truth: Path,
    *,
    resample: bool = False,
    split: str | None = None,
    lpips_distance: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    clip_similarity: ClipImageSimilarity | None = None,
    masks: tuple[Path, Path] | None = None,
) -> dict[str, Any]:
    """Returns the measures of generated clips, as plain values for a JSON report.

    Args:
        generated: A folder of mp4 files, or a store with generated clips.
        truth: A folder of mp4 files of the same names, or the store that the clips were generated from.
        resample: Bring recorded frames to the times and the size of the generated ones.
        split: Only generated clips of this split of a store.
        lpips_distance: What :func:`egoloom.evaluation.perceptual.load_lpips` returns; left out if absent.
        clip_similarity: Measures CLIP-I; left out if absent.
        masks: Folders of object masks of generated and recorded clips (:mod:`egoloom.evaluation.object_masks`).

    Raises:
        UserError: If no clip has a partner, or two partners differ in size or length and ``resample`` is off.
    """
    pairs, unpaired = find_pairs(generated, truth, split=split)
    extras = (lpips_distance, clip_similarity, masks)
    rows = [_measure(ours, theirs, resample, *extras) for ours, theirs in pairs]
    takes = [ours.take for ours, _ in pairs]
    names = [*COMPARED, *TEMPORAL, *(f"recorded_{name}" for name in TEMPORAL)]
    return {
        "protocol": _protocol(rows, resample=resample, clip_similarity=clip_similarity),
        "num_clips": len(rows),
        "num_takes": len(set(takes)),
        "means": {name: _mean([row[name] for row in rows], takes) for name in names},
        "clips": rows,
        "unpaired": unpaired,
    }


def _measure(
    ours: Footage,
    theirs: Footage,
    resample: bool,
    lpips_distance: Any,
    clip_similarity: ClipImageSimilarity | None,
    masks: tuple[Path, Path] | None,
) -> dict[str, Any]:
    frames, truth = read_pair(ours, theirs, resample=resample)
    try:
        quality = evaluate_video(frames, truth, lpips_distance=lpips_distance).to_dict()
    except UserError as error:
        raise UserError(f"{ours.name}: {error.what}", allowed=error.allowed, fix=error.fix) from error
    count, _, height, width = frames.shape
    row: dict[str, Any] = {"clip": ours.name, "recorded": theirs.name, "num_frames": count, "size": [width, height]}
    row |= {name: quality.get(name) for name in (*COMPARED, *TEMPORAL)}
    if clip_similarity is not None:
        row["clip_i"] = clip_similarity(frames, truth)
    if masks is not None:
        row |= object_measures(masks, ours.name, (count, height, width))
    strength, is_dynamic = dynamic_degree(truth) if count >= 2 else (None, None)
    row |= {
        "recorded_flicker": temporal_flicker(truth) if count >= 2 else None,
        "recorded_smoothness": motion_smoothness(truth) if count >= 3 else None,
        "recorded_dynamic_strength_px": strength,
        "recorded_is_dynamic": is_dynamic,
    }
    # JSON knows no infinity; a clip that equals its recording has no PSNR.
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}


def _mean(values: list[float | None], takes: list[str]) -> dict[str, Any] | None:
    """Mean over the clips that have the measure; the interval needs at least two takes."""
    known = [index for index, value in enumerate(values) if value is not None]
    if not known:
        return None
    groups = [takes[index] for index in known]
    estimate = bootstrap_interval(np.array([values[index] for index in known], np.float64), groups_N=groups)
    ci95 = [estimate.low, estimate.high] if len(set(groups)) > 1 else None
    return {"mean": estimate.value, "ci95": ci95, "num_clips": len(known)}


def _protocol(rows: list[dict[str, Any]], *, resample: bool, clip_similarity: ClipImageSimilarity | None) -> str:
    sizes = " and ".join(f"{width}x{height}" for width, height in sorted({tuple(row["size"]) for row in rows}))
    counts = sorted({row["num_frames"] for row in rows})
    frames = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    matching = (
        "recorded frames taken at the times of the generated ones and area-averaged to their size"
        if resample
        else "equal sizes and lengths, nothing resampled"
    )
    return (
        f"ego crop {sizes}, {frames} frames a clip, RGB; {matching}; PSNR over all pixels of a clip; means over clips, "
        "95 % bootstrap intervals over takes" + (f"; CLIP-I by {clip_similarity.name}" if clip_similarity else "")
    )
