"""The omnivorous baseline: one network, one set of heads, trained on every modality by itself.

After Omnivore (Girdhar et al., CVPR 2022, arXiv 2201.08377): modalities share all weights but the stem, and each is
classified alone. It is the baseline that a distilled student is to beat at the same test-time input (RGB).

Shape letters: B batch, T frames, C channels, H height, W width, N boxes, D features.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from egoloom.models.base import Inputs, Recogniser, RecogniserConfig, presence, take_rows
from egoloom.models.edge import ConvNormAct, EdgeTrunk, ShiftDirection, initialise_convolutions
from egoloom.models.frames import FrameNormalisation, default_statistics
from egoloom.models.fusion import drop_modalities
from egoloom.models.imu import STANDARD_GRAVITY
from egoloom.models.registry import register

OmnivorousModality = Literal["rgb", "flow", "spectrogram", "imu", "boxes"]
LAYOUT_GRID = 64


class OmnivorousConfig(RecogniserConfig):
    """Size of the shared trunk and the modalities that it is trained on.

    Group norm throughout: the statistics of a batch of spectrograms and of one of frames have nothing in common.

    Attributes:
        modalities: What the network is trained on; any subset will do at test time.
        training_view: In training, ``one`` draws a modality for each sample, so that any training loop trains the
            network as Omnivore is; ``mean`` averages over all of them, which is late fusion.
    """

    modalities: tuple[OmnivorousModality, ...] = Field(default=("rgb", "flow"), min_length=1)
    training_view: Literal["one", "mean"] = "one"
    widths: tuple[int, ...] = Field(default=(16, 32, 48), min_length=1)
    depths: tuple[int, ...] = Field(default=(1, 1, 1), min_length=1)
    patch_px: int = Field(default=4, ge=1)
    temporal_shift: ShiftDirection = "bidirectional"
    shift_fraction: float = Field(default=0.125, gt=0, le=0.5)


class FrameStem(nn.Module):
    """Patches of RGB or flow frames."""

    def __init__(self, modality: str, width: int, patch_px: int) -> None:
        super().__init__()
        self.normalise = FrameNormalisation(*default_statistics(modality))
        self.conv = ConvNormAct(3, width, kernel=patch_px, stride=patch_px, norm="group")

    def forward(self, frames_BTCHW: Tensor) -> tuple[Tensor, int]:
        """Returns features of all frames and the number of frames in a clip."""
        return self.conv(self.normalise(frames_BTCHW).flatten(0, 1)), frames_BTCHW.shape[1]


class SpectrogramStem(nn.Module):
    """Patches of a log-mel spectrogram, taken as one picture."""

    def __init__(self, width: int, patch_px: int) -> None:
        super().__init__()
        self.conv = ConvNormAct(1, width, kernel=patch_px, stride=patch_px, norm="group")

    def forward(self, log_mel_BCFL: Tensor) -> tuple[Tensor, int]:
        """Returns features of the picture, and 1."""
        return self.conv((log_mel_BCFL.float() + 6.0) / 4.0), 1


class ImuStem(nn.Module):
    """Patches of the inertial signals, taken as one picture of height 1."""

    def __init__(self, width: int, patch_px: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, width, (1, patch_px), stride=(1, patch_px), bias=False)
        scale = torch.tensor([STANDARD_GRAVITY] * 3 + [1.0] * 3).view(1, 6, 1)
        self.register_buffer("scale", scale, persistent=False)

    def forward(self, imu_BCL: Tensor) -> tuple[Tensor, int]:
        """Returns features of the picture, and 1."""
        return self.conv((imu_BCL.float() / self.get_buffer("scale")).unsqueeze(2)).relu(), 1


class LayoutStem(nn.Module):
    """Draws boxes into a picture of object, hand and count planes, then takes patches."""

    def __init__(self, width: int, patch_px: int) -> None:
        super().__init__()
        self.conv = ConvNormAct(3, width, kernel=patch_px, stride=patch_px, norm="group")

    def forward(self, layout: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        """Returns features of all frames and the number of frames in a clip."""
        planes_BTCHW = draw_layout(layout, LAYOUT_GRID)
        return self.conv(planes_BTCHW.flatten(0, 1)), planes_BTCHW.shape[1]


def draw_layout(layout: Mapping[str, Tensor], grid: int) -> Tensor:
    """Returns ``[B, T, 3, grid, grid]``: best object score, best hand score and a third of the number of boxes."""
    centres = (torch.arange(grid, device=layout["boxes"].device) + 0.5) / grid
    x1, y1, x2, y2 = layout["boxes"].float().unsqueeze(-1).unbind(dim=-2)
    inside_x, inside_y = (centres >= x1) & (centres < x2), (centres >= y1) & (centres < y2)
    shown = ~layout["pad_mask"].bool()
    area_BTNHW = (inside_y.unsqueeze(-1) & inside_x.unsqueeze(-2) & shown[..., None, None]).float()
    is_hand = layout["is_hand"].bool() if "is_hand" in layout else layout["categories"] == 2
    scored = area_BTNHW * layout["scores"].float()[..., None, None]
    objects = (scored * ~is_hand[..., None, None]).amax(dim=2)
    hands = (scored * is_hand[..., None, None]).amax(dim=2)
    return torch.stack([objects, hands, area_BTNHW.sum(dim=2) / 3.0], dim=2)


class OmnivorousRecogniser(Recogniser):
    """Shared trunk and heads.

    In evaluation, ``forward`` averages the logits of the modalities that a sample has; ``forward_each`` keeps them
    apart.
    """

    Config = OmnivorousConfig
    config: OmnivorousConfig

    def __init__(self, config: OmnivorousConfig) -> None:
        super().__init__(config, input_modalities=tuple(config.modalities))
        width, patch_px = config.widths[0], config.patch_px
        makers = {
            "rgb": lambda: FrameStem("rgb", width, patch_px),
            "flow": lambda: FrameStem("flow", width, patch_px),
            "spectrogram": lambda: SpectrogramStem(width, patch_px),
            "imu": lambda: ImuStem(width, patch_px),
            "boxes": lambda: LayoutStem(width, patch_px),
        }
        self.stems = nn.ModuleDict({name: makers[name]() for name in config.modalities})
        self.trunk = EdgeTrunk(
            config.widths,
            config.depths,
            fraction=config.shift_fraction,
            direction=config.temporal_shift,
            norm="group",
        )
        initialise_convolutions(self)
        self.build_heads(config.widths[-1])

    def features_of(self, inputs: Inputs, modality: str) -> Tensor:
        """Returns the features ``[B, D]`` that one modality gives alone."""
        x_NCHW, num_frames = self.stems[modality](self.read(inputs, modality))
        return self.trunk(x_NCHW, num_frames).mean(dim=(2, 3)).unflatten(0, (-1, num_frames)).mean(dim=1)

    def forward_features(self, inputs: Inputs) -> Tensor:
        """Returns the mean of the present modalities' features, ``[B, D]``; linear heads then average logits too.

        In training with ``training_view="one"`` it is the features of one random present modality a sample.
        """
        present_BM = presence(inputs, self.input_modalities)
        if self.training and self.config.training_view == "one":
            # drop_modalities at rate 1 leaves exactly one of those that are present.
            present_BM = drop_modalities(present_BM, 1.0)
        total = torch.zeros(present_BM.shape[0], self.num_features, device=present_BM.device)
        for column, modality in enumerate(self.input_modalities):
            rows_B = present_BM[:, column].nonzero().squeeze(1)
            if len(rows_B):
                features = self.features_of({modality: take_rows(inputs[modality], rows_B)}, modality)
                total = total.index_add(0, rows_B, features.to(total.dtype))
            elif self.training:
                # Distributed training wants a gradient for every parameter in every step.
                total = total + 0.0 * sum(parameter.sum() for parameter in self.stems[modality].parameters())
        return total / present_BM.sum(dim=1, keepdim=True).clamp_min(1)

    def forward_each(self, inputs: Inputs) -> dict[str, dict[str, Tensor]]:
        """Returns modality to head to logits: every given modality classified by itself."""
        given = [name for name in self.input_modalities if name in inputs]
        return {name: self.forward_head(self.features_of(inputs, name)) for name in given}


register("omnivorous", OmnivorousRecogniser, "one network for all modalities, each seen alone (baseline)")
