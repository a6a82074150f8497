"""Video measures against skimage, scipy, closed forms and clips of known motion."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from egoloom.errors import UserError
from egoloom.evaluation.video_quality import (
    dynamic_degree,
    evaluate_video,
    frechet_distance,
    lpips,
    motion_smoothness,
    object_quality,
    psnr_db,
    ssim,
    temporal_flicker,
)


def clips(seed: int = 0, frames: int = 4, height: int = 33, width: int = 41) -> tuple[torch.Tensor, torch.Tensor]:
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 256, (frames, 3, height, width))
    noisy = np.clip(truth + generator.normal(0, 20, truth.shape), 0, 255)
    return torch.from_numpy(noisy.astype(np.uint8)), torch.from_numpy(truth.astype(np.uint8))


def moving_texture(shift_px: float, frames: int = 6, size: int = 128) -> torch.Tensor:
    y, x = np.mgrid[:size, :size]
    video = []
    for index in range(frames):
        at = x - shift_px * index
        waves = np.sin(at / 5.0) + np.sin(y / 7.0 + at / 11.0) + np.sin(at / 2.3 + y / 3.1)
        video.append(np.repeat((127 + 40 * waves)[None], 3, 0))
    return torch.from_numpy(np.clip(np.stack(video), 0, 255).astype(np.uint8))


def test_psnr_and_ssim_equal_skimage() -> None:
    ours, truth = clips()
    expected = peak_signal_noise_ratio(truth.numpy(), ours.numpy(), data_range=255)
    assert psnr_db(ours, truth) == pytest.approx(expected, abs=1e-9)
    per_frame = [
        structural_similarity(
            a.permute(1, 2, 0).numpy(), b.permute(1, 2, 0).numpy(), data_range=255, channel_axis=2,
            gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        )
        for a, b in zip(ours, truth, strict=True)
    ]  # fmt: skip
    assert ssim(ours, truth) == pytest.approx(float(np.mean(per_frame)), abs=1e-9)
    assert psnr_db(truth, truth) == float("inf")
    assert ssim(truth, truth) == pytest.approx(1.0)


def test_psnr_of_a_mask_and_of_luma() -> None:
    _, truth = clips()
    ours = truth.clone()
    mask = torch.zeros(truth.shape[0], *truth.shape[2:], dtype=torch.bool)
    mask[:, :5] = True
    ours[:, :, :5] = (truth[:, :, :5].int() ^ 1).to(torch.uint8)  # an error of exactly one level
    assert psnr_db(ours, truth, mask_THW=mask) == pytest.approx(20 * np.log10(255))
    assert psnr_db(ours, truth, mask_THW=~mask) == float("inf")
    grey = torch.full((1, 3, 12, 12), 100, dtype=torch.uint8)
    red = grey.clone()
    red[:, 0] += 10
    assert psnr_db(red, grey, "luma") == pytest.approx(20 * np.log10(255 / 2.99))


def test_frechet_distance_equals_the_closed_form_and_scipy() -> None:
    generator = np.random.default_rng(1)
    a, b = generator.normal(size=(200, 6)), generator.normal(1.5, 2.0, size=(150, 6)) @ generator.normal(size=(6, 6))
    covariance_a, covariance_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.real(sqrtm(covariance_a @ covariance_b))
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(covariance_a + covariance_b - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(a, a + 3.0) == pytest.approx(6 * 9.0)
    # One-dimensional Gaussians: (m1 - m2)^2 + (s1 - s2)^2.
    line = generator.normal(size=(500, 1))
    assert frechet_distance(line, 3 * line + 1) == pytest.approx(
        (2 * line.mean() + 1) ** 2 + (2 * line.std(ddof=1)) ** 2
    )
    with pytest.raises(UserError, match="shapes"):
        frechet_distance(a, b[:, :4])


def test_still_and_flickering_clips() -> None:
    still = moving_texture(0.0)
    assert temporal_flicker(still) == 1.0
    assert motion_smoothness(still) == pytest.approx(1.0, abs=1e-4)
    assert dynamic_degree(still) == (pytest.approx(0.0, abs=1e-3), False)
    flashing = still.clone()
    flashing[::2] = 0
    level = float(still.double().mean()) / 255
    assert temporal_flicker(flashing) == pytest.approx(1 - level, abs=1e-6)


def test_smooth_motion_scores_above_jitter_and_flow_has_the_right_length() -> None:
    smooth = moving_texture(3.0)
    jitter = smooth[[0, 3, 1, 4, 2, 5]]
    assert motion_smoothness(smooth) > motion_smoothness(jitter)
    assert motion_smoothness(smooth) > 0.97
    strength, dynamic = dynamic_degree(moving_texture(4.0))
    assert strength == pytest.approx(8.0, rel=0.3)  # 4 px on 128 px are 8 px on 256
    assert dynamic


def test_object_measures_of_a_known_shift() -> None:
    truth = torch.zeros(2, 40, 40, dtype=torch.bool)
    truth[:, 10:20, 10:20] = True
    shifted = torch.roll(truth, (3, 4), (1, 2))
    result = object_quality(shifted, truth)
    assert result.location_error_px == pytest.approx(5.0)
    assert result.box_iou == pytest.approx(42 / 158)
    assert result.mask_iou == pytest.approx(42 / 158)
    assert result.num_frames == 2
    truth[1] = False
    assert object_quality(shifted, truth).num_frames == 1
    assert np.isnan(object_quality(shifted, torch.zeros_like(truth)).box_iou)


def test_everything_at_once_names_its_protocol() -> None:
    ours, truth = clips()
    result = evaluate_video(ours, truth, lpips_distance=lambda a, b: (a - b).abs().mean(dim=(1, 2, 3)))
    assert result.lpips == pytest.approx(float((ours.float() - truth.float()).abs().mean()) / 127.5, rel=1e-5)
    assert "ego crop 41x33, 4 frames, rgb" in result.protocol
    assert evaluate_video(ours[:1], truth[:1]).flicker is None


def test_clips_that_cannot_be_compared_are_refused() -> None:
    ours, truth = clips()
    with pytest.raises(UserError, match="same size"):
        psnr_db(ours[:2], truth)
    with pytest.raises(UserError, match="uint8"):
        ssim(ours.float(), truth.float())
    with pytest.raises(UserError, match="too small"):
        ssim(ours[..., :8], truth[..., :8])
    with pytest.raises(UserError, match="no temporal flicker"):
        temporal_flicker(ours[:1])
    with pytest.raises(UserError, match="empty"):
        psnr_db(ours, truth, mask_THW=torch.zeros(4, 33, 41, dtype=torch.bool))
    with pytest.raises(UserError, match="uint8"):
        lpips(ours[:, :2], truth[:, :2], lambda a, b: a)
