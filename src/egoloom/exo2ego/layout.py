"""Where exo and ego live on the joint canvas, in latent cells and in transformer tokens.

Legend: F latent frames, H rows, W columns, N tokens, K exo tokens, Q ego tokens.
"""

from dataclasses import dataclass

import torch

from egoloom.errors import UserError


@dataclass(frozen=True)
class CanvasLayout:
    """The canvas ``[exo | ego]`` in latent cells, and how the transformer cuts it into tokens.

    Args:
        num_frames: Latent frames F.
        height: Latent rows H, shared by both halves.
        exo_width: Latent columns of the exo half (left).
        ego_width: Latent columns of the ego half (right).
        patch_size: The transformer's patch ``(t, h, w)``.
    """

    num_frames: int
    height: int
    exo_width: int
    ego_width: int
    patch_size: tuple[int, int, int] = (1, 2, 2)

    def __post_init__(self) -> None:
        patch_t, patch_h, patch_w = self.patch_size
        for name, value, patch in (
            ("num_frames", self.num_frames, patch_t),
            ("height", self.height, patch_h),
            ("exo_width", self.exo_width, patch_w),
            ("ego_width", self.ego_width, patch_w),
        ):
            if value <= 0 or value % patch:
                raise UserError(
                    f"The latent canvas has {name} = {value}, which the patch size {patch} does not divide",
                    allowed=f"positive multiples of {patch}",
                    fix="resize the views so that each side is a multiple of VAE stride x patch size",
                )

    @property
    def width(self) -> int:
        """Latent columns of both halves together."""
        return self.exo_width + self.ego_width

    @property
    def token_frames(self) -> int:
        """Token frames."""
        return self.num_frames // self.patch_size[0]

    @property
    def token_rows(self) -> int:
        """Token rows."""
        return self.height // self.patch_size[1]

    @property
    def exo_token_columns(self) -> int:
        """Token columns of the exo half."""
        return self.exo_width // self.patch_size[2]

    @property
    def ego_token_columns(self) -> int:
        """Token columns of the ego half."""
        return self.ego_width // self.patch_size[2]

    @property
    def ego_tokens_per_frame(self) -> int:
        """Ego tokens of one token frame."""
        return self.token_rows * self.ego_token_columns

    @property
    def num_exo_tokens(self) -> int:
        """K, all exo tokens."""
        return self.token_frames * self.token_rows * self.exo_token_columns

    @property
    def num_ego_tokens(self) -> int:
        """Q, all ego tokens."""
        return self.token_frames * self.ego_tokens_per_frame

    @property
    def num_tokens(self) -> int:
        """N = K + Q."""
        return self.num_exo_tokens + self.num_ego_tokens

    def token_index_FHW(self) -> torch.Tensor:
        """Returns the flat position ``[F, H, W]`` of every token in the transformer's order f, h, w."""
        columns = self.exo_token_columns + self.ego_token_columns
        count = self.token_frames * self.token_rows * columns
        return torch.arange(count).view(self.token_frames, self.token_rows, columns)

    def exo_token_index(self) -> torch.Tensor:
        """Returns the flat positions ``[K]`` of the exo tokens."""
        return self.token_index_FHW()[:, :, : self.exo_token_columns].flatten()

    def ego_token_index(self) -> torch.Tensor:
        """Returns the flat positions ``[Q]`` of the ego tokens."""
        return self.token_index_FHW()[:, :, self.exo_token_columns :].flatten()

    def exo_first_order(self) -> torch.Tensor:
        """Returns the permutation ``[N]`` that puts all exo tokens before all ego tokens."""
        return torch.cat([self.exo_token_index(), self.ego_token_index()])
