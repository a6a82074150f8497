"""Video Swin Transformer backbone (Liu et al., CVPR 2022, arXiv 2106.13230).

Parameter names follow the public Kinetics-400 checkpoints, so that they load one to one. One behaviour of the published
weights is kept on purpose: where the feature map is smaller than the window, the window shrinks, but its position bias
still comes from the top-left block of the full window's table (see `WindowAttention.position_bias`).

Shape letters: B batch, T/H/W axes of the feature map, C channels, S tokens in a window, G windows, A attention heads.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Size3 = tuple[int, int, int]
MASKED = -100.0


def relative_position_index(window: Size3) -> Tensor:
    """Returns the row of the bias table for each pair of positions in a window, int64 ``[S, S]``."""
    axes = torch.meshgrid(*(torch.arange(n) for n in window), indexing="ij")
    positions = torch.stack([axis.flatten() for axis in axes])
    offsets = positions[:, :, None] - positions[:, None, :]
    t, h, w = (offsets[i] + window[i] - 1 for i in range(3))
    return (t * (2 * window[1] - 1) + h) * (2 * window[2] - 1) + w


def effective_window(map_size: Size3, window: Size3, shift: Size3) -> tuple[Size3, Size3]:
    """Returns window and shift for a feature map: on an axis that the window covers, it shrinks and does not shift."""
    fits = [size <= extent for size, extent in zip(map_size, window, strict=True)]
    sizes = [size if fit else extent for size, extent, fit in zip(map_size, window, fits, strict=True)]
    shifts = [0 if fit else step for step, fit in zip(shift, fits, strict=True)]
    return (sizes[0], sizes[1], sizes[2]), (shifts[0], shifts[1], shifts[2])


def split_windows(x_BTHWC: Tensor, window: Size3) -> Tensor:
    """Returns the non-overlapping windows of a map, ``[G, S, C]``, G counting windows of all batch entries."""
    b, t, h, w, c = x_BTHWC.shape
    wt, wh, ww = window
    x = x_BTHWC.view(b, t // wt, wt, h // wh, wh, w // ww, ww, c)
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, wt * wh * ww, c)


def join_windows(windows_GSC: Tensor, window: Size3, shape: tuple[int, int, int, int]) -> Tensor:
    """Inverse of `split_windows`; ``shape`` is (B, T, H, W)."""
    b, t, h, w = shape
    wt, wh, ww = window
    x = windows_GSC.view(b, t // wt, h // wh, w // ww, wt, wh, ww, -1)
    return x.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(b, t, h, w, -1)


def shift_mask(padded: Size3, window: Size3, shift: Size3, device: torch.device) -> Tensor:
    """Returns what to add to attention scores so that tokens joined by the cyclic shift stay apart, [G, S, S]."""
    regions = torch.zeros(1, *padded, 1, device=device)
    for axis, (size, extent, step) in enumerate(zip(padded, window, shift, strict=True)):
        if step == 0:
            continue
        # Three bands an axis: untouched windows, the part before the seam, the part that came round.
        band = torch.zeros(size, device=device)
        band[size - extent : size - step] = 1
        band[size - step :] = 2
        view = [1, 1, 1, 1, 1]
        view[axis + 1] = size
        regions = regions * 3 + band.view(view)
    labels_GS = split_windows(regions, window).squeeze(-1)
    different = labels_GS[:, :, None] != labels_GS[:, None, :]
    return torch.zeros_like(different, dtype=torch.float32).masked_fill(different, MASKED)


class DropPath(nn.Module):
    """Drops a residual branch for a random sample of the batch in training (stochastic depth)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Returns the branch, scaled so that its expectation does not change."""
        if self.rate == 0.0 or not self.training:
            return x
        keep = 1.0 - self.rate
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        return x * torch.empty(shape, dtype=x.dtype, device=x.device).bernoulli_(keep) / keep


class WindowAttention(nn.Module):
    """Multi-head attention within windows, with a learned bias for each relative position."""

    def __init__(self, dim: int, window: Size3, num_heads: int, qkv_bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        rows = (2 * window[0] - 1) * (2 * window[1] - 1) * (2 * window[2] - 1)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(rows, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_position_index(window), persistent=False)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def position_bias(self, num_tokens: int) -> Tensor:
        """Returns the bias ``[A, S, S]``: the top-left block of the full window's table.

        For a window that shrank in height or width this is not the geometrically right block, but it is the one
        that the published weights were trained with.
        """
        index = self.get_buffer("relative_position_index")[:num_tokens, :num_tokens]
        bias = self.relative_position_bias_table[index.reshape(-1)]
        return bias.view(num_tokens, num_tokens, -1).permute(2, 0, 1)

    def forward(self, x_GSC: Tensor, mask_GSS: Tensor | None) -> Tensor:
        """Returns the attended windows; the mask is that of one batch entry's windows."""
        g, s, c = x_GSC.shape
        q, k, v = self.qkv(x_GSC).view(g, s, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        bias = self.position_bias(s).unsqueeze(0)
        if mask_GSS is None:
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        else:
            # Windows of one batch entry lie together, so the mask broadcasts over the batch instead of being copied.
            bias = bias + mask_GSS.unsqueeze(1).to(bias.dtype)
            q, k, v = (part.unflatten(0, (-1, mask_GSS.shape[0])) for part in (q, k, v))
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype)).flatten(0, 1)
        return self.proj(attended.transpose(1, 2).reshape(g, s, c))


class Mlp(nn.Module):
    """Two linear layers with exact GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Returns a tensor of the input's shape."""
        return self.fc2(F.gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    """Pre-norm attention in (shifted) windows, then a pre-norm MLP, both residual."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window: Size3,
        shifted: bool,
        mlp_ratio: float,
        qkv_bias: bool,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.window = window
        self.shift: Size3 = (window[0] // 2, window[1] // 2, window[2] // 2) if shifted else (0, 0, 0)
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, window, num_heads, qkv_bias)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def attend(self, x_BTHWC: Tensor) -> Tensor:
        """Returns the attention branch."""
        b, t, h, w, _ = x_BTHWC.shape
        window, shift = effective_window((t, h, w), self.window, self.shift)
        pad_t, pad_h, pad_w = (-t % window[0], -h % window[1], -w % window[2])
        x = F.pad(self.norm1(x_BTHWC), (0, 0, 0, pad_w, 0, pad_h, 0, pad_t))
        padded = (t + pad_t, h + pad_h, w + pad_w)
        mask = None
        if any(shift):
            x = torch.roll(x, [-step for step in shift], dims=(1, 2, 3))
            mask = shift_mask(padded, window, shift, x.device)
        x = join_windows(self.attn(split_windows(x, window), mask), window, (b, *padded))
        if any(shift):
            x = torch.roll(x, list(shift), dims=(1, 2, 3))
        return x[:, :t, :h, :w]

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        """Returns a map of the input's shape."""
        x_BTHWC = x_BTHWC + self.drop_path(self.attend(x_BTHWC))
        return x_BTHWC + self.drop_path(self.mlp(self.norm2(x_BTHWC)))


class PatchMerging(nn.Module):
    """Joins 2 x 2 neighbours to one token of twice the width; an odd edge is padded with zeros."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(4 * dim)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        """Returns ``[B, T, H/2, W/2, 2C]``."""
        x = F.pad(x_BTHWC, (0, 0, 0, x_BTHWC.shape[3] % 2, 0, x_BTHWC.shape[2] % 2))
        corners = [x[:, :, h::2, w::2] for h, w in ((0, 0), (1, 0), (0, 1), (1, 1))]
        return self.reduction(self.norm(torch.cat(corners, dim=-1)))


class SwinStage(nn.Module):
    """Blocks with plain and shifted windows in turn, then patch merging (not after the last stage)."""

    def __init__(self, blocks: list[SwinBlock], dim: int, *, merge: bool, checkpointing: bool) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.blocks = nn.ModuleList(blocks)
        self.downsample = PatchMerging(dim) if merge else None

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        """Returns the stage's output, merged where the stage merges."""
        for block in self.blocks:
            if self.checkpointing and self.training:
                x_BTHWC = checkpoint(block, x_BTHWC, use_reentrant=False)
            else:
                x_BTHWC = block(x_BTHWC)
        return x_BTHWC if self.downsample is None else self.downsample(x_BTHWC)


class PatchEmbedding(nn.Module):
    """Strided 3-D convolution over space-time patches, then norm; T, H and W are padded to whole patches."""

    def __init__(self, patch: Size3, dim: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv3d(3, dim, kernel_size=patch, stride=patch)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Returns tokens ``[B, T', H', W', C]``."""
        t, h, w = x_BCTHW.shape[2:]
        x = F.pad(x_BCTHW, (0, -w % self.patch[2], 0, -h % self.patch[1], 0, -t % self.patch[0]))
        return self.norm(self.proj(x).permute(0, 2, 3, 4, 1))


class VideoSwin(nn.Module):
    """The backbone: ``[B, 3, T, H, W]`` in, ``[B, C, T/2, H/32, W/32]`` out."""

    def __init__(
        self,
        *,
        patch: Size3 = (2, 4, 4),
        embed_dim: int = 96,
        depths: tuple[int, ...] = (2, 2, 6, 2),
        num_heads: tuple[int, ...] = (3, 6, 12, 24),
        window: Size3 = (8, 7, 7),
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path: float = 0.2,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbedding(patch, embed_dim)
        rates = torch.linspace(0, drop_path, sum(depths)).tolist()
        starts = [0, *torch.tensor(depths).cumsum(0).tolist()]
        stages = []
        for i, (start, stop) in enumerate(pairwise(starts)):
            dim = embed_dim * 2**i
            blocks = [
                SwinBlock(dim, num_heads[i], window, j % 2 == 1, mlp_ratio, qkv_bias, rates[start + j])
                for j in range(stop - start)
            ]
            stages.append(SwinStage(blocks, dim, merge=i < len(depths) - 1, checkpointing=checkpointing))
        self.layers = nn.ModuleList(stages)
        self.num_features = embed_dim * 2 ** (len(depths) - 1)
        self.norm = nn.LayerNorm(self.num_features)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Returns the normalised features of the last stage, channels first."""
        x = self.patch_embed(x_BCTHW)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x).permute(0, 4, 1, 2, 3)
