"""The Project Aria camera "Fisheye624": 6 radial, 2 tangential and 4 thin-prism coefficients."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from egoloom.cameras.base import Camera, RadialLimit, RadialPolynomial, soft_norm_xy
from egoloom.cameras.kannala_brandt import rays_from_distorted
from egoloom.errors import UserError


@dataclass(frozen=True, eq=False, repr=False)
class Fisheye624(RadialLimit, Camera):
    """Aria's lens model (FisheyeRadTanThinPrism) with one focal length.

    ``(a, b) = theta (1 + k0 theta^2 + ... + k5 theta^12) (x, y) / |(x, y)|``, ``q = a^2 + b^2``,
    ``u = f (a + p0 (2 a^2 + q) + 2 p1 a b + s0 q + s1 q^2) + cx``,
    ``v = f (b + p1 (2 b^2 + q) + 2 p0 a b + s2 q + s3 q^2) + cy``.
    The parameter order is the one of projectaria-tools.
    """

    model: ClassVar[str] = "fisheye624"
    param_names: ClassVar[tuple[str, ...]] = (
        *("f", "cx", "cy", "k0", "k1", "k2", "k3", "k4", "k5"),
        *("p0", "p1", "s0", "s1", "s2", "s3"),
    )
    _num_focals: ClassVar[int] = 1
    _radial_slice: ClassVar[slice] = slice(3, 9)

    @property
    def principal_point(self) -> Tensor:
        """Pixel ``[..., 2]`` of the optical axis."""
        return self.params[..., 1:3]

    def _project(self, points_N3: Tensor) -> tuple[Tensor, Tensor]:
        p = self._values(points_N3)
        radius = soft_norm_xy(points_N3)
        theta = torch.atan2(radius, points_N3[..., 2])
        limit = self._limit(points_N3)
        scale = RadialPolynomial(p[..., 3:9])(torch.minimum(theta, limit)) / radius
        a, b = scale * points_N3[..., 0], scale * points_N3[..., 1]
        a, b = _add_tangential_and_prism(a, b, p)
        return torch.stack([p[..., 0] * a + p[..., 1], p[..., 0] * b + p[..., 2]], -1), theta <= limit

    def _unproject(self, pixels_N2: Tensor) -> tuple[Tensor, Tensor]:
        p = self._values(pixels_N2)
        u = (pixels_N2[..., 0] - p[..., 1]) / p[..., 0]
        v = (pixels_N2[..., 1] - p[..., 2]) / p[..., 0]
        a, b = _remove_tangential_and_prism(u, v, p)
        return rays_from_distorted(a, b, RadialPolynomial(p[..., 3:9]), self._limit(pixels_N2))

    def _transformed(self, scale_xy: tuple[float, float], offset_xy: tuple[float, float]) -> Tensor:
        # Rounding of the size to whole pixels moves the two scales apart by up to half a pixel per side.
        if abs(scale_xy[0] / scale_xy[1] - 1) > 2e-3:
            raise UserError(
                f"A fisheye624 camera has one focal length and cannot be resized by {scale_xy[0]:.4f} in x and "
                f"{scale_xy[1]:.4f} in y.",
                fix="crop to the target's aspect ratio first, then resize",
            )
        scale = (scale_xy[0] * scale_xy[1]) ** 0.5
        cx = self.params[..., 1] * scale_xy[0] + offset_xy[0]
        cy = self.params[..., 2] * scale_xy[1] + offset_xy[1]
        return torch.cat([torch.stack([self.params[..., 0] * scale, cx, cy], -1), self.params[..., 3:]], -1)

    def _rotated_cw(self) -> Tensor:
        f, cx, cy = self.params[..., :3].unbind(-1)
        p0, p1, s0, s1, s2, s3 = self.params[..., 9:].unbind(-1)
        head = torch.stack([f, self.image_size[1] - 1 - cy, cx], -1)
        tail = torch.stack([-p1, p0, -s2, -s3, s0, s1], -1)
        return torch.cat([head, self.params[..., 3:9], tail], -1)


def _add_tangential_and_prism(a: Tensor, b: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    p0, p1, s0, s1, s2, s3 = (p[..., index] for index in range(9, 15))
    q = a * a + b * b
    u = a + p0 * (2 * a * a + q) + 2 * p1 * a * b + (s0 + s1 * q) * q
    v = b + p1 * (2 * b * b + q) + 2 * p0 * a * b + (s2 + s3 * q) * q
    return u, v


def _jacobian(a: Tensor, b: Tensor, p: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Derivatives ``du/da, du/db, dv/da, dv/db`` of the tangential and thin-prism step."""
    p0, p1, s0, s1, s2, s3 = (p[..., index] for index in range(9, 15))
    q = a * a + b * b
    prism_u, prism_v = 2 * (s0 + 2 * s1 * q), 2 * (s2 + 2 * s3 * q)
    du_da = 1 + 6 * p0 * a + 2 * p1 * b + prism_u * a
    du_db = 2 * p0 * b + 2 * p1 * a + prism_u * b
    dv_da = 2 * p1 * a + 2 * p0 * b + prism_v * a
    dv_db = 1 + 6 * p1 * b + 2 * p0 * a + prism_v * b
    return du_da, du_db, dv_da, dv_db


def _newton_step(
    a: Tensor, b: Tensor, u: Tensor, v: Tensor, p: Tensor, jacobian: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    du_da, du_db, dv_da, dv_db = jacobian
    guess_u, guess_v = _add_tangential_and_prism(a, b, p)
    error_u, error_v = guess_u - u, guess_v - v
    determinant = du_da * dv_db - du_db * dv_da
    determinant = torch.where(determinant.abs() > 1e-3, determinant, torch.ones_like(determinant))
    return (
        a - (dv_db * error_u - du_db * error_v) / determinant,
        b - (du_da * error_v - dv_da * error_u) / determinant,
    )


def _remove_tangential_and_prism(u: Tensor, v: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """Solves the tangential and thin-prism step; the last step carries the implicit gradient."""
    with torch.no_grad():
        a, b = u.detach().clone(), v.detach().clone()
        for _ in range(8):
            a, b = _newton_step(a, b, u, v, p, _jacobian(a, b, p))
        jacobian = _jacobian(a, b, p)
    return _newton_step(a, b, u, v, p, jacobian)
