"""What every camera model shares: parameters, image size, validity, and the algebra of crop, resize and rotation.

Shape letters: N points or pixels, H image rows, W image columns, P parameters; any batch axes may stand
before. Pixel centres lie at integer coordinates: the image covers [-0.5, W - 0.5] x [-0.5, H - 0.5].
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from egoloom.errors import UserError

MODELS: dict[str, type["Camera"]] = {}


@dataclass(frozen=True, eq=False)
class Camera(ABC):
    """One camera model with its parameters.

    Args:
        params: The parameters in the order of ``param_names``, ``[..., P]``. With batch axes ``[B, P]`` the
            points and pixels must be ``[B, N, 3]`` and ``[B, N, 2]``.
        image_size: Width and height in pixels.
        valid_radius_px: Radius of the image circle around the principal point; None where the lens fills the
            frame.
    """

    params: Tensor
    image_size: tuple[int, int]
    valid_radius_px: float | None = None

    model: ClassVar[str]
    param_names: ClassVar[tuple[str, ...]]

    def __init_subclass__(cls) -> None:
        MODELS[cls.model] = cls

    def __post_init__(self) -> None:
        params = torch.as_tensor(self.params)
        if not params.is_floating_point():
            params = params.double()
        if params.ndim == 0 or params.shape[-1] != len(self.param_names):
            raise UserError(
                f"A {self.model} camera got {tuple(params.shape)} parameters.",
                allowed=f"{len(self.param_names)}: {', '.join(self.param_names)}",
            )
        if not bool(torch.isfinite(params).all()):
            raise UserError(f"A {self.model} camera has parameters that are not finite: {params.tolist()}")
        if bool((params[..., : self._num_focals] <= 0).any()):
            raise UserError(
                f"A {self.model} camera has a focal length of {params[..., : self._num_focals].min().item()} px.",
                allowed="positive focal lengths",
            )
        width, height = (int(side) for side in self.image_size)
        if width < 1 or height < 1:
            raise UserError(f"A camera's image size is {self.image_size}.", allowed="at least 1x1")
        object.__setattr__(self, "params", params)
        object.__setattr__(self, "image_size", (width, height))

    # What a model must bring -------------------------------------------------------------------------------

    _num_focals: ClassVar[int] = 2

    @abstractmethod
    def _project(self, points_N3: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels and whether the model is defined there; says nothing about the frame."""

    @abstractmethod
    def _unproject(self, pixels_N2: Tensor) -> tuple[Tensor, Tensor]:
        """Rays of any positive length and whether the model is defined there."""

    @abstractmethod
    def _transformed(self, scale_xy: tuple[float, float], offset_xy: tuple[float, float]) -> Tensor:
        """Parameters after ``pixel' = scale * pixel + offset``."""

    @abstractmethod
    def _rotated_cw(self) -> Tensor:
        """Parameters of the frame turned by 90 degrees clockwise."""

    @property
    @abstractmethod
    def principal_point(self) -> Tensor:
        """Pixel ``[..., 2]`` of the optical axis (without tangential terms)."""

    # What everybody uses -----------------------------------------------------------------------------------

    def _values(self, like: Tensor) -> Tensor:
        """Parameters in the type of the data, with an axis for the points when they are batched."""
        params = self.params.to(device=like.device, dtype=like.dtype)
        return params if params.ndim == 1 else params.unsqueeze(-2)

    def project(self, points_N3: Tensor) -> tuple[Tensor, Tensor]:
        """Projects points in camera coordinates.

        Args:
            points_N3: Points ``[..., N, 3]`` in metres, OpenCV axes.

        Returns:
            Pixels ``[..., N, 2]`` and a mask ``[..., N]``: in front of the lens, inside the range where the
            model is one-to-one, inside the frame and the image circle. Pixels of invalid points are finite.
        """
        pixels, defined = self._project(points_N3)
        return pixels, defined & self.contains(pixels)

    def unproject(self, pixels_N2: Tensor, *, unit: bool = True) -> tuple[Tensor, Tensor]:
        """Casts rays through pixels.

        Args:
            pixels_N2: Pixels ``[..., N, 2]``.
            unit: True for rays of length 1 (the only choice that can look sideways); False for rays with z =
                1.

        Returns:
            Rays ``[..., N, 3]`` in camera coordinates and a mask ``[..., N]`` of the pixels that see
            something.
        """
        rays, defined = self._unproject(pixels_N2)
        if unit:
            rays = rays / torch.linalg.vector_norm(rays, dim=-1, keepdim=True)
        else:
            defined = defined & (rays[..., 2] > 1e-9)
            rays = rays / rays[..., 2:].clamp_min(1e-9)
        return rays, defined & self.contains(pixels_N2)

    def contains(self, pixels_N2: Tensor) -> Tensor:
        """Whether pixels ``[..., N, 2]`` lie inside the frame and the image circle."""
        width, height = self.image_size
        x, y = pixels_N2[..., 0], pixels_N2[..., 1]
        inside = (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)
        if self.valid_radius_px is not None:
            centre = self.principal_point.to(pixels_N2)
            centre = centre if centre.ndim == 1 else centre.unsqueeze(-2)
            inside = inside & (torch.linalg.vector_norm(pixels_N2 - centre, dim=-1) <= self.valid_radius_px)
        return inside

    def pixel_grid(self, *, dtype: torch.dtype = torch.float64) -> Tensor:
        """Coordinates ``[H, W, 2]`` of all pixel centres, (x, y) last."""
        width, height = self.image_size
        y, x = torch.meshgrid(torch.arange(height, dtype=dtype), torch.arange(width, dtype=dtype), indexing="ij")
        return torch.stack([x, y], -1)

    def rays(self, *, unit: bool = True, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
        """Rays ``[..., H, W, 3]`` of all pixels and their validity ``[..., H, W]``; kept for the next call."""
        if self.params.requires_grad:
            return self._cast_rays(unit, dtype)
        if (unit, dtype) not in self._kept_rays:
            self._kept_rays[unit, dtype] = self._cast_rays(unit, dtype)
        return self._kept_rays[unit, dtype]

    @cached_property
    def _kept_rays(self) -> dict[tuple[bool, torch.dtype], tuple[Tensor, Tensor]]:
        return {}

    def _cast_rays(self, unit: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        width, height = self.image_size
        batch = self.params.shape[:-1]
        pixels = self.pixel_grid(dtype=dtype).reshape(-1, 2).expand(*batch, -1, -1)
        rays, valid = self.unproject(pixels, unit=unit)
        return rays.reshape(*batch, height, width, 3), valid.reshape(*batch, height, width)

    def valid_mask(self) -> Tensor:
        """Which pixels ``[..., H, W]`` see anything."""
        return self.rays()[1]

    # The algebra of frames ---------------------------------------------------------------------------------

    def crop(self, x0: float, y0: float, width: int, height: int) -> Self:
        """The camera of the window that starts at pixel ``(x0, y0)``; it may reach beyond the frame (padding)."""
        return replace(self, params=self._transformed((1.0, 1.0), (-x0, -y0)), image_size=(width, height))

    def resize(self, width: int, height: int) -> Self:
        """The camera of the frame scaled to ``width`` x ``height``: ``u' = (u + 0.5) s - 0.5``."""
        scale_x, scale_y = width / self.image_size[0], height / self.image_size[1]
        radius = None if self.valid_radius_px is None else self.valid_radius_px * min(scale_x, scale_y)
        offset = (0.5 * scale_x - 0.5, 0.5 * scale_y - 0.5)
        params = self._transformed((scale_x, scale_y), offset)
        return replace(self, params=params, image_size=(width, height), valid_radius_px=radius)

    def rotate90(self, turns_cw: int = 1) -> tuple[Self, Tensor]:
        """Turns the frame clockwise by multiples of 90 degrees.

        Returns:
            The camera of the turned frame and ``R_new_old`` (3x3), which takes points of the old camera axes
            to the new ones; a pose becomes ``T_world_new = T_world_old @ inverse(R_new_old)``.
        """
        camera = self
        step = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
        R_new_old = torch.eye(3, dtype=torch.float64)
        for _ in range(turns_cw % 4):
            width, height = camera.image_size
            camera = replace(camera, params=camera._rotated_cw(), image_size=(height, width))
            R_new_old = step @ R_new_old
        return camera, R_new_old

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """The same camera with its parameters moved or cast like ``Tensor.to``."""
        return replace(self, params=self.params.to(*args, **kwargs))

    # Files -------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The calibration entry of the clip store: model, params, image_size."""
        entry: dict[str, Any] = {
            "model": self.model,
            "params": self.params.detach().double().tolist(),
            "image_size": list(self.image_size),
        }
        if self.valid_radius_px is not None:
            entry["valid_radius_px"] = self.valid_radius_px
        return entry

    def __repr__(self) -> str:
        shown = self.params if self.params.ndim == 1 else self.params.reshape(-1, len(self.param_names))[0]
        values = ", ".join(f"{n}={v:.5g}" for n, v in zip(self.param_names, shown.tolist(), strict=True))
        batch = "" if self.params.ndim == 1 else f", batch={list(self.params.shape[:-1])}"
        return f"{type(self).__name__}({self.image_size[0]}x{self.image_size[1]}, {values}{batch})"


def camera_from_dict(entry: dict[str, Any]) -> Camera:
    """Reads what :meth:`Camera.to_dict` wrote; other keys (poses) are left to the caller."""
    model = entry.get("model")
    if model not in MODELS:
        raise UserError(f"Unknown camera model: {model!r}", allowed=", ".join(sorted(MODELS)))
    missing = [key for key in ("params", "image_size") if key not in entry]
    if missing:
        raise UserError(f"A camera entry lacks {', '.join(missing)}.", allowed="model, params, image_size")
    params = torch.tensor(entry["params"], dtype=torch.float64)
    width, height = entry["image_size"]
    return MODELS[model](params, (int(width), int(height)), entry.get("valid_radius_px"))


class RadialPolynomial:
    """The odd polynomial ``d(theta) = theta (1 + k0 theta^2 + k1 theta^4 + ...)`` and its inverse.

    Args:
        coefficients: ``[..., K]``, already broadcastable against the angles when indexed ``[..., i]``.
    """

    def __init__(self, coefficients: Tensor) -> None:
        self.coefficients = coefficients

    def __call__(self, theta: Tensor) -> Tensor:
        """Distorted radius in units of the focal length."""
        return theta * self._factor(theta)

    def _factor(self, theta: Tensor) -> Tensor:
        square = theta * theta
        total = torch.zeros_like(theta)
        for index in reversed(range(self.coefficients.shape[-1])):
            total = (total + self.coefficients[..., index]) * square
        return 1 + total

    def derivative(self, theta: Tensor) -> Tensor:
        """d'(theta)."""
        square = theta * theta
        total = torch.zeros_like(theta)
        for index in reversed(range(self.coefficients.shape[-1])):
            total = (total + (2 * index + 3) * self.coefficients[..., index]) * square
        return 1 + total

    def inverse(self, radius: Tensor, theta_max: Tensor) -> Tensor:
        """The angle whose distorted radius is ``radius``; safeguarded Newton, differentiable by the last step.

        The last step ``theta - (d(theta) - radius) / d'(theta)`` with the solved theta held fixed has exactly
        the gradient of the implicit function theorem, so nothing has to be unrolled.
        """
        with torch.no_grad():
            low, high = torch.zeros_like(radius), theta_max.expand_as(radius).clone()
            theta = torch.minimum(radius.detach(), high)
            settled = 8 * torch.finfo(radius.dtype).eps
            reach = self(high)
            for _ in range(40):
                error = self(theta) - radius
                if bool(((error.abs() <= settled * (1 + radius)) | (radius > reach)).all()):
                    break
                high, low = torch.where(error > 0, theta, high), torch.where(error > 0, low, theta)
                newton = theta - error / self.derivative(theta).clamp_min(1e-12)
                inside = (newton > low) & (newton < high)
                theta = torch.where(inside, newton, 0.5 * (low + high))
            slope = self.derivative(theta).clamp_min(1e-6)
        correction = (self(theta) - radius) / slope
        # Beyond the last angle of the model there is nothing to correct: stay at the limit.
        return theta - torch.where(correction.abs() < 1e-2, correction, torch.zeros_like(correction))


def last_monotonic_angle(coefficients: Tensor) -> Tensor:
    """The largest angle up to 180 degrees below which the radial polynomial grows strictly, ``[...]``."""
    grid = torch.linspace(0, torch.pi, 4097, dtype=torch.float64)
    falling = (
        RadialPolynomial(coefficients.detach().double().cpu().unsqueeze(-2)).derivative(
            grid.expand(*coefficients.shape[:-1], -1)
        )
        <= 1e-3
    )
    first = torch.where(falling.any(-1), falling.to(torch.int8).argmax(-1), torch.tensor(grid.numel()))
    return grid[(first - 1).clamp_min(0)]


class RadialLimit:
    """Mixin for lenses with a radial polynomial: caches where the polynomial stops to grow."""

    params: Tensor
    _radial_slice: ClassVar[slice]

    @cached_property
    def max_angle(self) -> Tensor:
        """The largest angle from the optical axis, in radians, at which the model is one-to-one, ``[...]``."""
        return last_monotonic_angle(self.params[..., self._radial_slice])

    def _limit(self, like: Tensor) -> Tensor:
        limit = self.max_angle.to(like)
        return limit if limit.ndim == 0 else limit.unsqueeze(-1)


def soft_norm_xy(points_N3: Tensor) -> Tensor:
    """Distance from the optical axis with a gradient that stays finite on it."""
    tiny = 1e-30 if points_N3.dtype == torch.float64 else 1e-18
    return torch.sqrt(points_N3[..., 0] ** 2 + points_N3[..., 1] ** 2 + tiny)
