"""The Kannala-Brandt camera with four coefficients: OpenCV's ``fisheye`` model, GoPro and many action cameras."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from egoloom.cameras.base import Camera, RadialLimit, RadialPolynomial, soft_norm_xy
from egoloom.cameras.pinhole import rotate_focal_pair_cw, scale_and_shift_focal_pair


@dataclass(frozen=True, eq=False, repr=False)
class KannalaBrandt(RadialLimit, Camera):
    """A fisheye lens whose image radius is an odd polynomial of the angle from the optical axis.

    ``d = theta (1 + k1 theta^2 + k2 theta^4 + k3 theta^6 + k4 theta^8)``, ``(u, v) = f d (x, y) / |(x, y)| +
    c`` (Kannala and Brandt, PAMI 2006, with the coefficients of OpenCV). Defined up to the angle where ``d``
    stops growing.
    """

    model: ClassVar[str] = "kannala_brandt"
    param_names: ClassVar[tuple[str, ...]] = ("fx", "fy", "cx", "cy", "k1", "k2", "k3", "k4")
    _radial_slice: ClassVar[slice] = slice(4, 8)

    @property
    def principal_point(self) -> Tensor:
        """Pixel ``[..., 2]`` of the optical axis."""
        return self.params[..., 2:4]

    def _project(self, points_N3: Tensor) -> tuple[Tensor, Tensor]:
        p = self._values(points_N3)
        radius = soft_norm_xy(points_N3)
        theta = torch.atan2(radius, points_N3[..., 2])
        limit = self._limit(points_N3)
        scale = RadialPolynomial(p[..., 4:8])(torch.minimum(theta, limit)) / radius
        u = p[..., 0] * scale * points_N3[..., 0] + p[..., 2]
        v = p[..., 1] * scale * points_N3[..., 1] + p[..., 3]
        return torch.stack([u, v], -1), theta <= limit

    def _unproject(self, pixels_N2: Tensor) -> tuple[Tensor, Tensor]:
        p = self._values(pixels_N2)
        u = (pixels_N2[..., 0] - p[..., 2]) / p[..., 0]
        v = (pixels_N2[..., 1] - p[..., 3]) / p[..., 1]
        return rays_from_distorted(u, v, RadialPolynomial(p[..., 4:8]), self._limit(pixels_N2))

    def _transformed(self, scale_xy: tuple[float, float], offset_xy: tuple[float, float]) -> Tensor:
        return scale_and_shift_focal_pair(self.params, scale_xy, offset_xy)

    def _rotated_cw(self) -> Tensor:
        return rotate_focal_pair_cw(self.params, self.image_size[1])


def rays_from_distorted(u: Tensor, v: Tensor, polynomial: RadialPolynomial, limit: Tensor) -> tuple[Tensor, Tensor]:
    """Unit rays whose radially distorted image is ``(u, v)`` in units of the focal length, and their validity."""
    radius = soft_norm_xy(torch.stack([u, v], -1))
    theta = polynomial.inverse(radius, limit)
    sine_over_radius = torch.sin(theta) / radius
    rays = torch.stack([u * sine_over_radius, v * sine_over_radius, torch.cos(theta)], -1)
    return rays, radius <= polynomial(limit.expand_as(radius)) * (1 + 1e-9)
