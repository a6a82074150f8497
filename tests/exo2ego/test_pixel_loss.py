"""Terms on decoded pixels: what each one sees and what it does not, and that training uses them."""

import math

import pytest
import torch
from pydantic import ValidationError

from egoloom.exo2ego.pixel_loss import PixelLoss, texture_strength
from egoloom.exo2ego.training import generator_loss
from egoloom.exo2ego.training_cache import ClipCoding, cache_clips, stack_clips
from egoloom.exo2ego.training_config import GeneratorTraining


def stripes(shift_px: int = 0) -> torch.Tensor:
    """``[1, 1, 3, 16, 16]``: columns of -0.5 and 0.5, two pixels wide."""
    columns = torch.where((torch.arange(16) + shift_px) % 4 < 2, -0.5, 0.5)
    return columns.expand(1, 1, 3, 16, 16)


def test_texture_is_the_root_mean_square_of_differences() -> None:
    # Every second column has a step of 1 to its right; in a window of five columns two or three of them.
    inner = texture_strength(stripes())[0, 0, 8, 4:12]
    for strength in inner.tolist():
        assert min(abs(strength - math.sqrt(share + 1e-4)) for share in (0.4, 0.6)) < 1e-6
    assert torch.allclose(texture_strength(torch.zeros(1, 1, 3, 16, 16)), torch.tensor(0.01))


def test_texture_does_not_care_where_edges_lie_and_gradients_do() -> None:
    texture, gradients = PixelLoss(texture=1.0), PixelLoss(gradients=1.0)
    shifted, grey = stripes(2), torch.zeros(1, 1, 3, 16, 16)
    assert float(texture(shifted, stripes())) < 0.02
    assert float(texture(grey, stripes())) > 0.5  # softness is what it punishes
    # Shifted by half a period every edge has the opposite sign: twice the error of no edge at all.
    assert float(gradients(shifted, stripes())) == pytest.approx(2 * float(gradients(grey, stripes())))


def test_errors_outside_of_hands_and_arms_do_not_count_twice() -> None:
    wearer = torch.zeros(1, 1, 16, 16)
    wearer[..., :4] = 1
    loss, truth = PixelLoss(wearer=2.0), torch.zeros(1, 1, 3, 16, 16)
    inside, outside = truth.clone(), truth.clone()
    inside[..., :4], outside[..., 4:] = 0.5, 0.5
    assert float(loss(inside, truth, wearer)) == pytest.approx(2.0 * 0.25 * 0.25)
    assert float(loss(outside, truth, wearer)) == 0
    assert float(loss(inside, truth)) == 0  # no masks, no weight


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ValidationError):
        PixelLoss(texture=-1.0)


def test_training_adds_the_terms_to_the_loss_on_latents(pipeline, sample) -> None:
    plain = GeneratorTraining(lora_rank=None, caption_dropout=0.0)
    sharp = plain.model_copy(update={"pixels": PixelLoss(texture=3.0)})
    batch = stack_clips(cache_clips(pipeline, [sample, sample], ClipCoding(keep_frames=True)))
    assert batch.frames is not None
    assert torch.equal(batch.frames[1], sample.truth_TCHW)
    losses = [generator_loss(pipeline, batch, config, torch.Generator().manual_seed(0)) for config in (plain, sharp)]
    assert bool(losses[1] > losses[0])
