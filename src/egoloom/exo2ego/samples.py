"""One clip for the generator: frames, ego prior, ego truth where known, geometry.

Legend: T pixel frames, C = 3 colours, H rows, W columns.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.nn.functional import avg_pool2d, interpolate

from egoloom.errors import UserError
from egoloom.exo2ego.geometry import ClipGeometry


@dataclass(frozen=True)
class GeneratorSample:
    """One clip, for training (with truth) or for generation.

    Args:
        name: Name for messages and files.
        exo_TCHW: Third-person frames, RGB ``uint8``; its height is that of the ego frames.
        prior_TCHW: Ego prior frames, RGB ``uint8``.
        truth_TCHW: True ego frames, RGB ``uint8``; only for training and measuring.
        hole_THW: Where the prior shows nothing (True); taken from black pixels if absent.
        geometry: Rays and points at the latent frames; without it attention stays unguided.
        caption: Text, optional.
        wearer_THW: Where the true ego view shows the wearer's hands and arms (True); only for training and measuring.
    """

    name: str
    exo_TCHW: torch.Tensor
    prior_TCHW: torch.Tensor
    truth_TCHW: torch.Tensor | None = None
    hole_THW: torch.Tensor | None = None
    geometry: ClipGeometry | None = None
    caption: str = ""
    wearer_THW: torch.Tensor | None = None

    def __post_init__(self) -> None:
        for field_name in ("exo_TCHW", "prior_TCHW", "truth_TCHW", "hole_THW", "wearer_THW"):
            value: Any = getattr(self, field_name)
            if isinstance(value, np.ndarray):
                object.__setattr__(self, field_name, torch.from_numpy(np.ascontiguousarray(value)))
        if self.hole_THW is None:
            object.__setattr__(self, "hole_THW", (self.prior_TCHW == 0).all(dim=1))
        self._check()

    def _check(self) -> None:
        for label, frames in (("exo", self.exo_TCHW), ("prior", self.prior_TCHW), ("truth", self.truth_TCHW)):
            if frames is not None and (frames.ndim != 4 or frames.shape[1] != 3 or frames.dtype != torch.uint8):
                raise UserError(
                    f"{self.name}: {label} frames are {frames.dtype} of shape {tuple(frames.shape)}",
                    allowed="uint8 [T, 3, H, W]",
                )
        lengths = {len(self.exo_TCHW), len(self.prior_TCHW)} | (
            {len(self.truth_TCHW)} if self.truth_TCHW is not None else set()
        )
        if len(lengths) != 1 or 0 in lengths:
            raise UserError(f"{self.name}: exo, prior and truth have different numbers of frames: {sorted(lengths)}")
        exo_px, ego_px = self.exo_TCHW.shape[2], self.prior_TCHW.shape[2]
        if exo_px != ego_px:
            raise UserError(
                f"{self.name}: exo frames are {exo_px} px high, the ego prior {ego_px} px",
                fix="resize the exo video to the height of the ego prior",
            )
        if self.truth_TCHW is not None and self.truth_TCHW.shape != self.prior_TCHW.shape:
            raise UserError(f"{self.name}: ego truth and ego prior have different sizes")

    @property
    def num_frames(self) -> int:
        """T."""
        return len(self.exo_TCHW)

    def fit_length(self, time_stride: int) -> "GeneratorSample":
        """Returns the clip with its last frame repeated up to ``s k + 1`` frames (what the autoencoder codes)."""
        missing = -(self.num_frames - 1) % time_stride
        if missing == 0:
            return self

        def pad(x: torch.Tensor | None) -> torch.Tensor | None:
            return None if x is None else torch.cat([x, x[-1:].expand(missing, *x.shape[1:])])

        padded = replace(
            self,
            exo_TCHW=pad(self.exo_TCHW),
            prior_TCHW=pad(self.prior_TCHW),
            truth_TCHW=pad(self.truth_TCHW),
            hole_THW=pad(self.hole_THW),
            wearer_THW=pad(self.wearer_THW),
        )
        if self.geometry is not None:
            latent_frames = (padded.num_frames - 1) // time_stride + 1
            padded = replace(padded, geometry=extend_geometry(self.geometry, latent_frames))
        return padded

    def window(self, start: int, stop: int, time_stride: int) -> "GeneratorSample":
        """Returns the pixel frames ``start .. stop - 1``; start must be a multiple of the time stride."""
        if start % time_stride:
            raise ValueError(f"A window starts at frame {start}, which is no multiple of the stride {time_stride}")
        first, last = start // time_stride, (stop - 1 - start) // time_stride + start // time_stride
        return replace(
            self,
            exo_TCHW=self.exo_TCHW[start:stop],
            prior_TCHW=self.prior_TCHW[start:stop],
            truth_TCHW=None if self.truth_TCHW is None else self.truth_TCHW[start:stop],
            hole_THW=None if self.hole_THW is None else self.hole_THW[start:stop],
            geometry=None if self.geometry is None else self.geometry.window(first, last + 1),
            wearer_THW=None if self.wearer_THW is None else self.wearer_THW[start:stop],
        )


def fill_holes(frames_TCHW: torch.Tensor, hole_THW: torch.Tensor) -> torch.Tensor:
    """Returns frames whose holes carry the colours around them, averaged up a pyramid and brought back down.

    Args:
        frames_TCHW: RGB ``uint8``.
        hole_THW: True where nothing is known; a frame without any known pixel becomes mid-grey.
    """
    weight = (~hole_THW)[:, None].float()
    filled = _push_pull(frames_TCHW.float() * weight, weight)
    return torch.where(hole_THW[:, None], filled.round().clamp(0, 255).to(torch.uint8), frames_TCHW)


def _push_pull(colour: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Colours (times weight) with gaps closed from the next coarser level."""
    if min(colour.shape[2:]) == 1:
        mean_weight = weight.mean(dim=(2, 3), keepdim=True)
        mean = colour.mean(dim=(2, 3), keepdim=True) / mean_weight.clamp_min(1e-6)
        return torch.where(mean_weight > 0, mean, 127.5).expand_as(colour)
    coarse = _push_pull(
        avg_pool2d(colour, 2, ceil_mode=True, count_include_pad=False),
        avg_pool2d(weight, 2, ceil_mode=True, count_include_pad=False),
    )
    below = interpolate(coarse, size=colour.shape[2:], mode="bilinear", align_corners=False)
    share = weight.clamp(0, 1)
    return colour + (1 - share) * below


def extend_geometry(geometry: ClipGeometry, num_frames: int) -> ClipGeometry:
    """Returns the geometry with its last latent frame repeated, or cut, to a number of latent frames."""
    index = torch.arange(num_frames).clamp(max=geometry.num_frames - 1)
    visibility = geometry.visibility_FFHW
    return ClipGeometry(
        geometry.exo_points_FHWC[index],
        geometry.ego_rays_FHWC[index],
        geometry.ego_centres_FC[index],
        None if geometry.confidence_FHW is None else geometry.confidence_FHW[index],
        None if visibility is None else visibility[index][:, index],
    )
