"""Quality of generated video: PSNR, SSIM, LPIPS, FVD, temporal measures, object measures.

Protocol: the ego frames only (never the side-by-side canvas), the frames both clips have, RGB or luma as stated.
EgoX (arXiv 2512.08269, section 4) names the measures; its code for them is not public, so every definition stands here.

Legend: T frames, C = 3, H rows, W columns, N videos, D feature channels.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch.nn.functional import conv2d

from egoloom.errors import UserError

Channels = Literal["rgb", "luma"]
# ITU-R BT.601, full range.
LUMA_WEIGHTS = (0.299, 0.587, 0.114)
SSIM_RADIUS_PX, SSIM_SIGMA_PX = 5, 1.5
# VBench, arXiv 2311.17982: motion counts where the strongest 5 % of flow exceed 6 px on 256 px, in 4 of 16 frames.
DYNAMIC_FLOW_PX, DYNAMIC_SIDE_PX, DYNAMIC_SHARE = 6.0, 256, 0.25


def _frames(video: torch.Tensor | np.ndarray, channels: Channels) -> torch.Tensor:
    tensor = torch.as_tensor(np.ascontiguousarray(video) if isinstance(video, np.ndarray) else video)
    if tensor.ndim != 4 or tensor.shape[1] != 3 or tensor.dtype != torch.uint8:
        raise UserError(
            f"A clip to measure is {tensor.dtype} of shape {tuple(tensor.shape)}", allowed="uint8 [T, 3, H, W]"
        )
    values = tensor.double()
    if channels == "rgb":
        return values
    return (values * values.new_tensor(LUMA_WEIGHTS).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _pair(
    prediction: torch.Tensor | np.ndarray, truth: torch.Tensor | np.ndarray, channels: Channels
) -> tuple[torch.Tensor, torch.Tensor]:
    ours, theirs = _frames(prediction, channels), _frames(truth, channels)
    if ours.shape != theirs.shape or len(ours) == 0:
        raise UserError(
            f"The clips have shapes {tuple(ours.shape)} and {tuple(theirs.shape)}",
            allowed="two clips of the same size and length, at least one frame",
        )
    return ours, theirs


def psnr_db(prediction: Any, truth: Any, channels: Channels = "rgb", mask_THW: torch.Tensor | None = None) -> float:
    """Returns the peak signal-to-noise ratio of a clip in dB: one mean squared error over all its pixels.

    Args:
        prediction: RGB ``uint8`` ``[T, 3, H, W]``.
        truth: RGB ``uint8`` of the same shape.
        channels: ``rgb``, or ``luma`` (BT.601).
        mask_THW: Where to measure; everywhere if absent.
    """
    ours, theirs = _pair(prediction, truth, channels)
    squares = (ours - theirs).square()
    if mask_THW is not None:
        squares = squares.transpose(0, 1)[:, mask_THW]
        if squares.numel() == 0:
            raise UserError("The mask of the measurement is empty")
    error = float(squares.mean())
    return float("inf") if error == 0 else float(10 * np.log10(255.0**2 / error))


def ssim(prediction: Any, truth: Any, channels: Channels = "rgb") -> float:
    """Returns the mean structural similarity (Wang et al. 2004): Gaussian window of 11 px, sigma 1.5, K 0.01 and 0.03.

    Equals ``skimage.metrics.structural_similarity(gaussian_weights=True, use_sample_covariance=False)``, the mean over
    frames and channels.
    """
    ours, theirs = _pair(prediction, truth, channels)
    if min(ours.shape[2:]) < 2 * SSIM_RADIUS_PX + 1:
        raise UserError(f"Frames of {ours.shape[3]}x{ours.shape[2]} are too small for SSIM", allowed="at least 11x11")
    ours, theirs = ours.flatten(0, 1)[:, None], theirs.flatten(0, 1)[:, None]
    offsets = torch.arange(-SSIM_RADIUS_PX, SSIM_RADIUS_PX + 1, dtype=torch.float64)
    window = torch.exp(-0.5 * (offsets / SSIM_SIGMA_PX) ** 2)
    window = window / window.sum()

    def blur(x: torch.Tensor) -> torch.Tensor:
        return conv2d(conv2d(x, window.view(1, 1, 1, -1)), window.view(1, 1, -1, 1))

    first, second = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_a, mean_b = blur(ours), blur(theirs)
    variance_a, variance_b = blur(ours**2) - mean_a**2, blur(theirs**2) - mean_b**2
    covariance = blur(ours * theirs) - mean_a * mean_b
    similarity = (2 * mean_a * mean_b + first) * (2 * covariance + second)
    return float((similarity / ((mean_a**2 + mean_b**2 + first) * (variance_a + variance_b + second))).mean())


def lpips(prediction: Any, truth: Any, distance: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> float:
    """Returns the mean perceptual distance of a clip.

    Args:
        prediction: RGB ``uint8`` ``[T, 3, H, W]``.
        truth: RGB ``uint8`` of the same shape.
        distance: What :func:`egoloom.evaluation.perceptual.load_lpips` returns, or another such network.
    """
    ours, theirs = _pair(prediction, truth, "rgb")
    return float(distance(ours.float() / 127.5 - 1, theirs.float() / 127.5 - 1).mean())


def frechet_distance(features_ND: np.ndarray, other_features_ND: np.ndarray) -> float:
    """Returns the Frechet distance of two feature sets, each summed up by a Gaussian (Heusel et al. 2017).

    ``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))`` with unbiased covariances. This is FVD when the features come
    from a video network; always state which one, since values of different backbones cannot be compared.

    Args:
        features_ND: One row per video.
        other_features_ND: One row per video of the other set.
    """
    a, b = np.asarray(features_ND, np.float64), np.asarray(other_features_ND, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise UserError(
            f"Feature sets have shapes {a.shape} and {b.shape}", allowed="[N, D] with N of at least 2 and equal D"
        )
    covariance_a, covariance_b = np.atleast_2d(np.cov(a, rowvar=False)), np.atleast_2d(np.cov(b, rowvar=False))
    values, vectors = np.linalg.eigh(covariance_a)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    # tr (S1 S2)^(1/2) = tr (S1^(1/2) S2 S1^(1/2))^(1/2), and that matrix is symmetric.
    mixed = np.clip(np.linalg.eigvalsh(root @ covariance_b @ root), 0, None)
    trace = np.trace(covariance_a) + np.trace(covariance_b) - 2 * np.sqrt(mixed).sum()
    return float(np.square(a.mean(0) - b.mean(0)).sum() + max(trace, 0.0))


# --- time ---------------------------------------------------------------------------------------------------------


def temporal_flicker(video: Any) -> float:
    """Returns VBench's temporal-flickering score, ``1 - mean |frame - next frame| / 255`` (1 is a still)."""
    frames = _frames(video, "rgb")
    _at_least(frames, 2, "temporal flicker")
    return float(1 - frames.diff(dim=0).abs().mean() / 255)


def _flow(first_HW: np.ndarray, second_HW: np.ndarray) -> np.ndarray:
    solver = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)  # type: ignore[attr-defined]
    return solver.calc(first_HW, second_HW, None)


def _grey(video: Any) -> np.ndarray:
    return _frames(video, "luma")[:, 0].round().to(torch.uint8).numpy()


def motion_smoothness(video: Any) -> float:
    """Returns how well every frame is the motion-compensated middle of its neighbours, 1 at best.

    VBench asks a learnt interpolator; this asks DIS optical flow: the two neighbours are warped half way to the
    middle frame, and the score is ``1 - mean absolute difference / 255`` of their mean to it.
    """
    frames = _frames(video, "rgb")
    _at_least(frames, 3, "motion smoothness")
    grey, scores = _grey(video), []
    rows, columns = np.mgrid[: grey.shape[1], : grey.shape[2]].astype(np.float32)
    images = frames.permute(0, 2, 3, 1).float().numpy()
    for index in range(1, len(grey) - 1):
        warped = []
        for neighbour in (index - 1, index + 1):
            flow = _flow(grey[index], grey[neighbour])
            warped.append(
                cv2.remap(
                    images[neighbour],
                    columns + flow[..., 0],
                    rows + flow[..., 1],
                    cv2.INTER_LINEAR,
                    borderMode=cv2.BORDER_REPLICATE,
                )
            )
        scores.append(1 - np.abs((warped[0] + warped[1]) / 2 - images[index]).mean() / 255)
    return float(np.mean(scores))


def dynamic_degree(video: Any) -> tuple[float, bool]:
    """Returns the strength of motion and whether the clip counts as dynamic by VBench's rule.

    Strength: mean over frame pairs of the mean of the largest 5 % of flow lengths, in px at a shorter side of 256.
    Dynamic: at least a quarter of the pairs exceed 6 px there. Flow is DIS, not RAFT as in VBench.
    """
    grey = _grey(video)
    _at_least(grey, 2, "dynamic degree")
    scale = DYNAMIC_SIDE_PX / min(grey.shape[1:])
    strengths = []
    for first, second in pairwise(grey):
        lengths = np.sort(np.linalg.norm(_flow(first, second), axis=-1).ravel())
        strengths.append(lengths[-max(1, len(lengths) // 20) :].mean() * scale)
    share = float(np.mean(np.asarray(strengths) > DYNAMIC_FLOW_PX))
    return float(np.mean(strengths)), share >= DYNAMIC_SHARE


def _at_least(frames: Any, count: int, measure: str) -> None:
    if len(frames) < count:
        raise UserError(f"A clip of {len(frames)} frames has no {measure}", allowed=f"at least {count} frames")


# --- objects ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ObjectQuality:
    """Agreement of one object in two clips, over the frames where both show it.

    Args:
        location_error_px: Distance of the boxes' centres.
        box_iou: Intersection over union of the boxes.
        mask_iou: Intersection over union of the masks ("contour accuracy", EgoX eq. 11).
        num_frames: Frames that count.
    """

    location_error_px: float
    box_iou: float
    mask_iou: float
    num_frames: int


def object_quality(prediction_THW: Any, truth_THW: Any) -> ObjectQuality:
    """Returns the object measures of two boolean masks ``[T, H, W]``; NaN where no frame shows both."""
    ours, theirs = (torch.as_tensor(mask).bool() for mask in (prediction_THW, truth_THW))
    if ours.shape != theirs.shape or ours.ndim != 3:
        raise UserError(f"Masks have shapes {tuple(ours.shape)} and {tuple(theirs.shape)}", allowed="two [T, H, W]")
    both = ours.flatten(1).any(1) & theirs.flatten(1).any(1)
    if not bool(both.any()):
        return ObjectQuality(float("nan"), float("nan"), float("nan"), 0)
    errors, boxes, masks = [], [], []
    for a, b in zip(ours[both], theirs[both], strict=True):
        box_a, box_b = _box(a), _box(b)
        errors.append(float(((box_a[:2] + box_a[2:] - box_b[:2] - box_b[2:]) / 2).norm()))
        inner = (torch.minimum(box_a[2:], box_b[2:]) - torch.maximum(box_a[:2], box_b[:2])).clamp_min(0).prod()
        union = (box_a[2:] - box_a[:2]).prod() + (box_b[2:] - box_b[:2]).prod() - inner
        boxes.append(float(inner / union))
        masks.append(float((a & b).sum() / (a | b).sum()))
    return ObjectQuality(float(np.mean(errors)), float(np.mean(boxes)), float(np.mean(masks)), int(both.sum()))


def _box(mask_HW: torch.Tensor) -> torch.Tensor:
    """Box xyxy around a mask, its right and lower edges behind the last pixel."""
    rows, columns = torch.nonzero(mask_HW, as_tuple=True)
    return torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).double()


# --- all of it ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VideoQuality:
    """Measures of one generated clip, with the protocol they follow."""

    psnr_db: float
    ssim: float
    lpips: float | None
    flicker: float | None
    smoothness: float | None
    dynamic_strength_px: float | None
    is_dynamic: bool | None
    num_frames: int
    protocol: str

    def to_dict(self) -> dict[str, object]:
        """Returns plain values for a JSON report."""
        return asdict(self)


def evaluate_video(
    prediction: Any,
    truth: Any,
    *,
    channels: Channels = "rgb",
    lpips_distance: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
) -> VideoQuality:
    """Returns the measures of a generated clip against the true one.

    Args:
        prediction: RGB ``uint8`` ``[T, 3, H, W]``.
        truth: RGB ``uint8`` of the same shape.
        channels: Channels of PSNR and SSIM.
        lpips_distance: What :func:`egoloom.evaluation.perceptual.load_lpips` returns; left out if absent.
    """
    frames, _ = _pair(prediction, truth, "rgb")
    count, _, height, width = frames.shape
    strength_px, is_dynamic = dynamic_degree(prediction) if count >= 2 else (None, None)
    return VideoQuality(
        psnr_db=psnr_db(prediction, truth, channels),
        ssim=ssim(prediction, truth, channels),
        lpips=None if lpips_distance is None else lpips(prediction, truth, lpips_distance),
        flicker=temporal_flicker(prediction) if count >= 2 else None,
        smoothness=motion_smoothness(prediction) if count >= 3 else None,
        dynamic_strength_px=strength_px,
        is_dynamic=is_dynamic,
        num_frames=count,
        protocol=f"ego crop {width}x{height}, {count} frames, {channels}, PSNR over the whole clip",
    )
