"""The pinhole camera: fx, fy, cx, cy."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from egoloom.cameras.base import Camera


@dataclass(frozen=True, eq=False, repr=False)
class Pinhole(Camera):
    """A pinhole camera: ``u = fx x / z + cx``, ``v = fy y / z + cy``; points behind it are invalid."""

    model: ClassVar[str] = "pinhole"
    param_names: ClassVar[tuple[str, ...]] = ("fx", "fy", "cx", "cy")

    @property
    def principal_point(self) -> Tensor:
        """Pixel ``[..., 2]`` of the optical axis."""
        return self.params[..., 2:4]

    @classmethod
    def from_matrix(cls, K: Tensor, image_size: tuple[int, int]) -> "Pinhole":
        """Reads a 3x3 intrinsic matrix."""
        K = torch.as_tensor(K)
        return cls(torch.stack([K[..., 0, 0], K[..., 1, 1], K[..., 0, 2], K[..., 1, 2]], -1), image_size)

    def _project(self, points_N3: Tensor) -> tuple[Tensor, Tensor]:
        p = self._values(points_N3)
        z = points_N3[..., 2]
        front = z > 1e-9
        inverse_z = 1 / torch.where(front, z, torch.ones_like(z))
        u = p[..., 0] * points_N3[..., 0] * inverse_z + p[..., 2]
        v = p[..., 1] * points_N3[..., 1] * inverse_z + p[..., 3]
        return torch.stack([u, v], -1), front

    def _unproject(self, pixels_N2: Tensor) -> tuple[Tensor, Tensor]:
        p = self._values(pixels_N2)
        x = (pixels_N2[..., 0] - p[..., 2]) / p[..., 0]
        y = (pixels_N2[..., 1] - p[..., 3]) / p[..., 1]
        return torch.stack([x, y, torch.ones_like(x)], -1), torch.ones_like(x, dtype=torch.bool)

    def _transformed(self, scale_xy: tuple[float, float], offset_xy: tuple[float, float]) -> Tensor:
        return scale_and_shift_focal_pair(self.params, scale_xy, offset_xy)

    def _rotated_cw(self) -> Tensor:
        return rotate_focal_pair_cw(self.params, self.image_size[1])


def scale_and_shift_focal_pair(params: Tensor, scale_xy: tuple[float, float], offset_xy: tuple[float, float]) -> Tensor:
    """``fx, fy, cx, cy`` (and untouched coefficients behind them) after ``pixel' = scale * pixel + offset``."""
    scale = params.new_tensor([*scale_xy, *scale_xy])
    offset = params.new_tensor([0.0, 0.0, *offset_xy])
    return torch.cat([params[..., :4] * scale + offset, params[..., 4:]], -1)


def rotate_focal_pair_cw(params: Tensor, height: int) -> Tensor:
    """``fx, fy, cx, cy`` of the frame turned clockwise, where ``pixel' = (H - 1 - v, u)``."""
    fx, fy, cx, cy = params[..., :4].unbind(-1)
    return torch.cat([torch.stack([fy, fx, height - 1 - cy, cx], -1), params[..., 4:]], -1)
