"""Temporally stable metric depth: affine alignment of video inverse depth to metric depth (EgoX, Eq. 1).

Shape letters: T time, H, W rows and columns.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from egoloom.errors import UserError

LOW_QUANTILE, HIGH_QUANTILE = 0.1, 0.9
MIN_INVERSE_DEPTH = 1e-3  # per metre: nothing lies beyond a kilometre
MIN_PIXELS = 8


class AlignmentConfig(BaseModel):
    """How inverse depth is aligned.

    ``mode``: "static_strict" fits static pixels only; "reference" reproduces the published renderer, which loses the
    static mask after its quantile step so that moving things enter the fit; "two_pass" fits robustly per frame and
    smooths (a, b) in both time directions, so that the first frame does not freeze the clip.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["static_strict", "reference", "two_pass"] = "static_strict"
    momentum: float = Field(default=0.99, ge=0, lt=1)


@dataclass(frozen=True, eq=False)
class Alignment:
    """Result of :func:`align_inverse_depth`.

    Attributes:
        depth_THW: Aligned metric depth, float32.
        ab_per_frame_T2: Fits of single frames.
        ab_T2: The smoothed (a, b) that were applied.
        pixels_used_T: Pixels in each fit.
    """

    depth_THW: np.ndarray
    ab_per_frame_T2: np.ndarray
    ab_T2: np.ndarray
    pixels_used_T: np.ndarray


def align_inverse_depth(
    inverse_depth_THW: np.ndarray,
    metric_depth_THW: np.ndarray,
    static_THW: np.ndarray | None = None,
    *,
    config: AlignmentConfig | None = None,
) -> Alignment:
    """Aligns affine-invariant video depth to per-frame metric depth.

    Per frame ``1/m ~ a v + b`` by least squares over static pixels strictly between the 10 % and 90 % quantiles of both
    v and 1/m; (a, b) are smoothed over time; ``depth = 1 / max(a v + b, 1e-3)``.

    Args:
        inverse_depth_THW: Temporally smooth relative inverse depth v.
        metric_depth_THW: Per-frame metric depth m in metres; zero, NaN and infinity are unknown.
        static_THW: Pixels that do not move; None for all.
        config: Mode and momentum.

    Raises:
        UserError: If shapes differ, or not a single frame has enough usable pixels.
    """
    config = config or AlignmentConfig()
    if inverse_depth_THW.shape != metric_depth_THW.shape or inverse_depth_THW.ndim != 3:
        raise UserError(
            f"Inverse depth {list(inverse_depth_THW.shape)} and metric depth {list(metric_depth_THW.shape)} differ.",
            allowed="the same shape [T, H, W]",
        )
    static = np.ones(inverse_depth_THW.shape, bool) if static_THW is None else np.asarray(static_THW, bool)
    fits, counts = [], []
    for v, m, still in zip(inverse_depth_THW, metric_depth_THW, static, strict=True):
        chosen_v, target = _usable_pixels(v, m, still, strict=config.mode != "reference")
        counts.append(len(target))
        fits.append(_fit(chosen_v, target, robust=config.mode == "two_pass"))
    per_frame = np.array(fits, dtype=np.float64)
    if np.isnan(per_frame).any(1).all():
        raise UserError(
            f"No frame has {MIN_PIXELS} usable pixels to align depth with (most: {max(counts)}).",
            fix="check the static mask and the metric depth",
        )
    smoothed = (_smooth_both_ways if config.mode == "two_pass" else _momentum)(per_frame, config.momentum)
    scaled = smoothed[:, 0, None, None] * inverse_depth_THW + smoothed[:, 1, None, None]
    depth = (1.0 / np.maximum(scaled, MIN_INVERSE_DEPTH)).astype(np.float32)
    return Alignment(depth, per_frame, smoothed, np.array(counts))


def _usable_pixels(
    v_HW: np.ndarray, m_HW: np.ndarray, static_HW: np.ndarray, *, strict: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Relative and metric inverse depth of the pixels that enter a fit, in float64."""
    v, m = v_HW.astype(np.float64), m_HW.astype(np.float64)
    known = np.isfinite(m) & (m > 0) & np.isfinite(v)
    target = np.where(known, 1.0 / np.where(known, m, 1.0), np.nan)
    valid = static_HW & known & (v > MIN_INVERSE_DEPTH)
    if valid.sum() < MIN_PIXELS:
        return np.empty(0), np.empty(0)
    ranked = v[valid] if strict else v[np.isfinite(v) & (v > 0)]
    low_v, high_v = np.quantile(ranked, [LOW_QUANTILE, HIGH_QUANTILE])
    low_m, high_m = np.quantile(target[valid], [LOW_QUANTILE, HIGH_QUANTILE])
    with np.errstate(invalid="ignore"):
        inside = (v > low_v) & (v < high_v) & (target > low_m) & (target < high_m)
    chosen = inside & (valid if strict else known)
    return v[chosen], target[chosen]


def _fit(v: np.ndarray, target: np.ndarray, *, robust: bool) -> tuple[float, float]:
    """Least squares of ``target ~ a v + b``; NaN where there is too little to fit."""
    if len(target) < MIN_PIXELS or np.ptp(v) <= 0:
        return np.nan, np.nan
    weight = np.ones_like(target)
    a = b = np.nan
    for _ in range(10 if robust else 1):
        mean_v, mean_t = np.average(v, weights=weight), np.average(target, weights=weight)
        a = float((weight * (v - mean_v) * (target - mean_t)).sum() / (weight * (v - mean_v) ** 2).sum())
        b = float(mean_t - a * mean_v)
        if robust:
            error = np.abs(target - a * v - b)
            weight = 1 / (1 + (error / max(1e-9, 2 * np.median(error))) ** 2)
    return a, b


def _momentum(per_frame: np.ndarray, momentum: float) -> np.ndarray:
    """Running mean that starts with the first known fit; frames without a fit keep the state."""
    state = per_frame[~np.isnan(per_frame).any(1)][0].copy()
    smoothed = np.empty_like(per_frame)
    for index, fit in enumerate(per_frame):
        if index and not np.isnan(fit).any():
            state = momentum * state + (1 - momentum) * fit
        smoothed[index] = state
    return smoothed


def _smooth_both_ways(per_frame: np.ndarray, momentum: float) -> np.ndarray:
    """Mean of a forward and a backward pass whose windows grow from the ends, so no end frame is privileged."""
    known = ~np.isnan(per_frame).any(1)
    positions = np.arange(len(per_frame))
    lag = np.abs(positions[:, None] - positions[known][None])
    weight = momentum**lag
    return weight @ per_frame[known] / weight.sum(1, keepdims=True)
