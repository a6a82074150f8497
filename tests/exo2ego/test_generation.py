"""The prior kept in what it shows: exact inside, holes and their rims as generated, off unless asked for."""

import pytest
import torch
from pydantic import ValidationError
from scipy.ndimage import binary_erosion

from egoloom.cli.augment import Arguments
from egoloom.cli.augment import main as augment
from egoloom.cli.exo2ego import Generate
from egoloom.cli.exo2ego import main as exo2ego
from egoloom.errors import UserError
from egoloom.exo2ego.generation import GenerationConfig, blend_prior, generate


def within(visible_THW: torch.Tensor, rim_px: int) -> torch.Tensor:
    """Visible pixels that lie farther than a rim from every hole; the picture's border is none."""
    masks = [
        binary_erosion(frame, structure=[[1] * 3] * 3, iterations=rim_px, border_value=1)
        for frame in visible_THW.numpy()
    ]
    return torch.stack([torch.from_numpy(mask) for mask in masks])


def test_visible_pixels_become_the_prior_and_holes_stay(sample) -> None:
    generated = torch.randint(0, 256, sample.prior_TCHW.shape, generator=torch.Generator().manual_seed(0)).byte()
    inner, flat = within(~sample.hole_THW, 1), within(~sample.hole_THW, 2)
    assert 0 < int(flat.sum()) < int(inner.sum())
    kept = blend_prior(generated, sample, 1.0).transpose(0, 1)
    ours, prior = generated.transpose(0, 1), sample.prior_TCHW.transpose(0, 1)
    assert torch.equal(kept[:, flat], prior[:, flat])
    assert torch.equal(kept[:, ~inner], ours[:, ~inner])
    seam = inner & ~flat
    low, high = torch.minimum(ours, prior)[:, seam], torch.maximum(ours, prior)[:, seam]
    assert ((kept[:, seam] >= low) & (kept[:, seam] <= high)).all()
    assert not torch.equal(kept[:, seam], ours[:, seam])
    assert not torch.equal(kept[:, seam], prior[:, seam])
    half = blend_prior(generated, sample, 0.5).transpose(0, 1)
    assert torch.equal(half[:, flat], ((ours.float() + prior.float()) / 2).round().byte()[:, flat])


def test_generation_keeps_the_prior_only_when_told(pipeline, sample) -> None:
    plain = generate(pipeline, [sample], GenerationConfig(num_steps=1))[0]
    kept = generate(pipeline, [sample], GenerationConfig(num_steps=1, keep_prior=1.0))[0]
    assert torch.equal(kept, blend_prior(plain, sample, 1.0))
    assert not torch.equal(kept, plain)
    assert GenerationConfig().keep_prior == Arguments((), out=Generate().out).keep_prior == 0


def test_shares_beyond_one_are_refused(tmp_path) -> None:
    with pytest.raises(ValidationError, match="keep_prior"):
        GenerationConfig(keep_prior=1.5)
    with pytest.raises(UserError, match=r"--keep-prior 1.5 is out of range"):
        exo2ego(["generate", str(tmp_path), "--keep-prior", "1.5"])
    with pytest.raises(UserError, match=r"--keep-prior -0.1 is out of range"):
        augment([str(tmp_path), "--out", str(tmp_path / "out"), "--keep-prior=-0.1"])
