"""The ablation runs every variant on the same data and changes only what it says."""

import torch

from egoloom.exo2ego.ablation import VARIANTS, run_ablation, summarise, with_turned_rays, without_prior
from egoloom.exo2ego.training_config import GeneratorTraining


def test_turned_rays_are_off_by_ten_degrees(make_sample) -> None:
    clip = make_sample(5)
    turned = with_turned_rays(clip)
    before = torch.nn.functional.normalize(clip.geometry.ego_rays_FHWC, dim=-1)
    after = torch.nn.functional.normalize(turned.geometry.ego_rays_FHWC, dim=-1)
    angles = torch.rad2deg(torch.arccos((before * after).sum(-1).clamp(-1, 1)))
    assert 9.9 < float(angles.max()) < 10.1
    assert float(angles.mean()) > 8


def test_prior_is_gone(make_sample) -> None:
    clip = without_prior(make_sample(5))
    assert clip.prior_TCHW.max() == 0
    assert clip.hole_THW.all()


def test_every_variant_runs_with_every_seed(make_sample, tiny_config) -> None:
    recipe = GeneratorTraining(num_steps=2, batch_size=1, lora_rank=None, learning_rate=1e-3, caption_dropout=0.0)
    rows = run_ablation([make_sample(5)], [make_sample(5, seed=1)], tiny_config, recipe, seeds=(0, 1))
    assert len(rows) == 2 * len(VARIANTS)
    table = {row["variant"]: row for row in summarise(rows)}
    assert table["full"]["num_seeds"] == 2
    assert table["full"]["paper_psnr_db"] == 16.05
    assert table["no_prior"]["psnr_db"] < table["full"]["psnr_db"]
