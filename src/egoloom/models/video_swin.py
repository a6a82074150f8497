"""Video Swin recognisers: the published teacher and student of arXiv 2307.07483, and a tiny one for tests.

Shape letters: B batch, T frames, C channels, H height, W width, D features.
"""

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from egoloom.models.base import Inputs, Recogniser, RecogniserConfig
from egoloom.models.frames import IMAGENET_MEAN, IMAGENET_STD, FrameNormalisation
from egoloom.models.registry import register
from egoloom.models.swin import VideoSwin

AUDIO_MEAN_DB = -28.1125
AUDIO_STD_DB = 16.5627


class VideoSwinConfig(RecogniserConfig):
    """Size of a Video Swin network.

    Attributes:
        input_modality: ``rgb`` and ``flow`` are ``[B, T, 3, H, W]`` in 0..255 and share ImageNet statistics, as in the
            published weights; ``spectrogram_frames`` is one mel spectrogram a frame in decibels, same shape.
        activation_checkpointing: Compute each block again in the backward pass: less memory, a third more time.
    """

    input_modality: Literal["rgb", "flow", "spectrogram_frames"] = "rgb"
    patch: tuple[int, int, int] = (2, 4, 4)
    embed_dim: int = Field(default=96, ge=1)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_attention_heads: tuple[int, ...] = (3, 6, 12, 24)
    window: tuple[int, int, int] = (8, 7, 7)
    mlp_ratio: float = Field(default=4.0, gt=0)
    qkv_bias: bool = True
    drop_path: float = Field(default=0.2, ge=0, lt=1)
    activation_checkpointing: bool = False


class VideoSwinRecogniser(Recogniser):
    """Video Swin backbone, mean over space and time, linear heads."""

    Config = VideoSwinConfig
    _no_split_modules = ("SwinBlock",)
    config: VideoSwinConfig

    def __init__(self, config: VideoSwinConfig) -> None:
        super().__init__(config, input_modalities=(config.input_modality,))
        if config.input_modality == "spectrogram_frames":
            # The input is in decibels; FrameNormalisation divides by 255 first.
            statistics = ((AUDIO_MEAN_DB / 255,) * 3, (AUDIO_STD_DB / 255,) * 3)
        else:
            statistics = (IMAGENET_MEAN, IMAGENET_STD)
        self.normalise = FrameNormalisation(*statistics)
        self.backbone = VideoSwin(
            patch=config.patch,
            embed_dim=config.embed_dim,
            depths=config.depths,
            num_heads=config.num_attention_heads,
            window=config.window,
            mlp_ratio=config.mlp_ratio,
            qkv_bias=config.qkv_bias,
            drop_path=config.drop_path,
            checkpointing=config.activation_checkpointing,
        )
        self.build_heads(self.backbone.num_features)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward_map(self, inputs: Inputs) -> Tensor:
        """Returns the feature map ``[B, D, T/2, H/32, W/32]``."""
        frames_BTCHW = self.normalise(self.read(inputs, self.config.input_modality))
        return self.backbone(frames_BTCHW.transpose(1, 2))

    def forward_tokens(self, inputs: Inputs) -> Tensor:
        """Returns one token a pair of frames, ``[B, T/2, D]``."""
        return self.forward_map(inputs).mean(dim=(3, 4)).transpose(1, 2)


register("video_swin_t", VideoSwinRecogniser, "28 M parameters: Video Swin-T, teacher or published student")
register(
    "video_swin_tiny_test",
    VideoSwinRecogniser,
    "0.4 M parameters: Video Swin for tests",
    embed_dim=16,
    depths=(2, 2, 2, 1),
    num_attention_heads=(1, 2, 4, 8),
    window=(2, 4, 4),
)
