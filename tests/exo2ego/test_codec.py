"""Linear patch latents: nothing is lost at full rank, laps are invertible and hide the grid, bad sizes are refused."""

import numpy as np
import pytest
import torch

from egoloom.errors import UserError
from egoloom.exo2ego.codec import PatchAutoencoder
from egoloom.exo2ego.latents import decode_video, encode_video

FULL = 3 * 4 * 4**2


def videos(seed: int = 0) -> torch.Tensor:
    generator = np.random.default_rng(seed)
    return torch.from_numpy(generator.integers(0, 256, (2, 9, 3, 16, 24), dtype=np.uint8))


def fitted(lap_px: int, z_dim: int = FULL) -> PatchAutoencoder:
    vae = PatchAutoencoder(z_dim=z_dim, lap_px=lap_px)
    vae.fit([video.float().div(127.5).sub(1).transpose(0, 1) for video in videos()])
    return vae


@pytest.mark.parametrize("lap_px", [0, 4, 8])
def test_full_rank_loses_nothing(lap_px: int) -> None:
    vae, video = fitted(lap_px), videos(1)
    latents = encode_video(vae, video)
    assert latents.shape == (2, FULL, 3, 4, 6)
    assert torch.equal(decode_video(vae, latents), video)


def test_one_colour_needs_no_lapping() -> None:
    grey = torch.full((1, 5, 3, 16, 24), 77, dtype=torch.uint8)
    plain, lapped = PatchAutoencoder(z_dim=FULL), PatchAutoencoder(z_dim=FULL, lap_px=8)
    torch.testing.assert_close(encode_video(lapped, grey), encode_video(plain, grey))


def test_a_step_between_two_blocks_becomes_a_slope() -> None:
    """What a network writes into one block fades into the next: 0 | 1 by the weights .3 + .7 (i + .5) / 4."""
    vae = PatchAutoencoder(z_dim=FULL, lap_px=8)
    latents = torch.zeros(1, FULL, 1, 4, 4)
    latents[..., 2:] = 1.0
    row = vae.decode(latents).sample[0, 0, 0, 8]
    weights = 0.3 + 0.7 * (np.arange(4) + 0.5) / 4
    expected = np.concatenate([np.zeros(4), 0.5 - weights[::-1] / 2, 0.5 + weights / 2, np.ones(4)])
    torch.testing.assert_close(row, torch.from_numpy(expected).float())


def test_bad_sizes() -> None:
    with pytest.raises(UserError, match="Blocks of 6 px"):
        PatchAutoencoder(lap_px=6)
    with pytest.raises(UserError, match="sides divisible by 8"):
        encode_video(PatchAutoencoder(lap_px=8), torch.zeros(1, 5, 3, 12, 16, dtype=torch.uint8))
    with pytest.raises(UserError, match="193 latent channels"):
        PatchAutoencoder(z_dim=FULL + 1)
