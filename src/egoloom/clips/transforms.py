"""One random view of a clip, applied to RGB, flow and boxes alike so that their geometry stays the same.

A *view* is what a network sees once: moments in time, a crop, a flip, a colour change. It follows from the clip's id
and a view seed alone, so that teacher and student can be shown the same view today or from a cache (Beyer et al. 2022,
"a good teacher is patient and consistent").
"""

import zlib
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from egoloom.clips.media.encoding import FLOW_ZERO
from egoloom.clips.media.frame_cache import Region


class ViewConfig(BaseModel):
    """How views are drawn. Sizes follow arXiv 2307.07483: short side 224 x U(1.15, 1.43), crop 224, colour jitter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_frames: int = Field(default=8, ge=1)
    size_px: int = Field(default=64, ge=8)
    sampling: Literal["segments", "strided"] = "segments"
    seconds_between_frames: float = Field(default=0.13, gt=0)
    zoom: tuple[float, float] = (1.15, 1.43)
    colour_jitter: float = Field(default=0.25, ge=0, lt=1)
    hue_jitter: float = Field(default=0.1, ge=0, le=0.5)
    flip_probability: float = Field(default=0.0, ge=0, le=1)
    max_boxes: int = Field(default=8, ge=1)
    num_spectrogram_columns: int = Field(default=96, ge=8)
    num_imu_samples: int = Field(default=128, ge=8)


def view_generator(clip_id: str, view_seed: int) -> np.random.Generator:
    """Returns the source of randomness of one view; it depends on the clip and the view seed only."""
    return np.random.default_rng([zlib.crc32(clip_id.encode()), view_seed])


@dataclass(frozen=True)
class SpatialPlan:
    """A square crop of the stored frame, resized to ``size_px``, optionally mirrored.

    Attributes:
        left: Left edge of the crop in pixels of the stored frame.
        top: Top edge.
        side: Side of the crop in pixels of the stored frame.
        size_px: Side of the result.
        zoom: How much larger things appear than in a crop of the frame's full short side.
        flip: Whether the result is mirrored left to right.
    """

    left: int
    top: int
    side: int
    size_px: int
    zoom: float = 1.0
    flip: bool = False

    @classmethod
    def random(cls, height: int, width: int, config: ViewConfig, generator: np.random.Generator) -> "SpatialPlan":
        """Draws a training crop."""
        short = min(height, width)
        side = max(8, round(short / generator.uniform(*config.zoom)))
        left = int(generator.integers(0, width - side + 1))
        top = int(generator.integers(0, height - side + 1))
        flip = bool(generator.uniform() < config.flip_probability)
        return cls(left, top, side, config.size_px, short / side, flip)

    @classmethod
    def regular(cls, height: int, width: int, config: ViewConfig, crop: int = 0, num_crops: int = 1) -> "SpatialPlan":
        """Returns evaluation crop ``crop`` of ``num_crops`` along the longer side; one crop is the centre."""
        short = min(height, width)
        position = 0.5 if num_crops == 1 else crop / (num_crops - 1)
        left, top = round((width - short) * position), round((height - short) * position)
        return cls(left, top, short, config.size_px)

    @property
    def region(self) -> Region:
        """Rows and columns of the stored frame that the view looks at."""
        return slice(self.top, self.top + self.side), slice(self.left, self.left + self.side)

    def rgb(self, frames_TCHW: np.ndarray) -> np.ndarray:
        """Crops and resizes RGB frames: uint8 ``[T, 3, H, W]`` to ``[T, 3, size, size]``."""
        return self.rgb_of_region(frames_TCHW[:, :, *self.region])

    def rgb_of_region(self, cropped_TCHW: np.ndarray) -> np.ndarray:
        """Resizes RGB frames of which only the region was read: uint8 ``[T, 3, side, side]``, then as ``rgb``."""
        return self._resize(cropped_TCHW)

    def flow(self, grey_T2HW: np.ndarray) -> np.ndarray:
        """Crops and resizes flow and keeps it true: a zoom lengthens the vectors, a flip negates u.

        Args:
            grey_T2HW: Stored grey values (128 is no motion), uint8.

        Returns:
            uint8 ``[T, 3, size, size]`` with the planes (u, v, 0), the layout that flow networks expect.
        """
        planes = self._resize(grey_T2HW[:, :, *self.region]).astype(np.float32) - FLOW_ZERO
        planes *= self.zoom
        if self.flip:
            planes[:, 0] *= -1.0
        grey = np.clip(np.rint(planes + FLOW_ZERO), 0, 255).astype(np.uint8)
        return np.concatenate([grey, np.zeros_like(grey[:, :1])], axis=1)

    def boxes(self, xyxy: np.ndarray) -> np.ndarray:
        """Moves boxes ``[..., 4]`` from pixels of the stored frame to 0..1 of the result, clipped to it."""
        origin = np.array([self.left, self.top, self.left, self.top], dtype=np.float32)
        moved = (xyxy - origin) / self.side
        if self.flip:
            moved = np.stack([1 - moved[..., 2], moved[..., 1], 1 - moved[..., 0], moved[..., 3]], axis=-1)
        return np.clip(moved, 0.0, 1.0).astype(np.float32)

    def _resize(self, cropped: np.ndarray) -> np.ndarray:
        size = (self.size_px, self.size_px)
        # Area averaging avoids aliasing when shrinking; it degenerates to nearest neighbour when enlarging.
        how = cv2.INTER_AREA if self.side >= self.size_px else cv2.INTER_LINEAR
        resized = [cv2.resize(np.ascontiguousarray(f.transpose(1, 2, 0)), size, interpolation=how) for f in cropped]
        result = np.stack(resized).transpose(0, 3, 1, 2)
        return np.ascontiguousarray(result[..., ::-1] if self.flip else result)


@dataclass(frozen=True)
class ColourPlan:
    """Brightness, contrast, saturation and hue of one view, the same for all its frames."""

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0

    @classmethod
    def random(cls, config: ViewConfig, generator: np.random.Generator) -> "ColourPlan":
        """Draws the factors from U(1 - j, 1 + j) and the hue shift from U(-h, h) of a full turn."""
        low, high = 1 - config.colour_jitter, 1 + config.colour_jitter
        # Python floats: a NumPy scalar would promote the pixels to float64.
        brightness, contrast, saturation = map(float, generator.uniform(low, high, size=3))
        return cls(brightness, contrast, saturation, float(generator.uniform(-config.hue_jitter, config.hue_jitter)))

    def rgb(self, frames_TCHW: np.ndarray) -> np.ndarray:
        """Applies the change to uint8 RGB frames."""
        pixels = frames_TCHW.astype(np.float32).transpose(0, 2, 3, 1) * (self.brightness / 255.0)
        grey = pixels @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
        pixels = (pixels - grey.mean()) * self.contrast + grey.mean()
        pixels = (pixels - grey[..., None]) * self.saturation + grey[..., None]
        pixels = np.clip(pixels, 0.0, 1.0)
        if self.hue:
            shape = pixels.shape
            hsv = cv2.cvtColor(pixels.reshape(-1, shape[2], 3), cv2.COLOR_RGB2HSV)
            hsv[..., 0] = (hsv[..., 0] + 360.0 * self.hue) % 360.0
            pixels = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).reshape(shape)
        return np.rint(pixels * 255.0).astype(np.uint8).transpose(0, 3, 1, 2)
