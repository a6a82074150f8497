"""Image, camera and pose that are cropped, resized and turned together."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from egoloom.cameras.base import Camera
from egoloom.cameras.poses import rigid
from egoloom.errors import UserError


@dataclass(frozen=True, eq=False)
class CameraView:
    """Frames with the camera that took them; every operation changes all parts consistently.

    Args:
        image: ``[..., H, W]`` of any dtype (``[T, C, H, W]`` video, ``[T, H, W]`` depth).
        camera: Its image size must be that of the image.
        T_world_camera: Pose ``[4, 4]`` or ``[T, 4, 4]``.
    """

    image: Tensor
    camera: Camera
    T_world_camera: Tensor

    def __post_init__(self) -> None:
        height, width = self.image.shape[-2:]
        if (width, height) != self.camera.image_size:
            raise UserError(
                f"The image is {width}x{height}, its camera describes {self.camera.image_size[0]}x"
                f"{self.camera.image_size[1]}.",
                fix="state the crop or the resize that lies between them: camera.crop(...) or camera.resize(...)",
            )

    def crop(self, x0: int, y0: int, width: int, height: int) -> "CameraView":
        """A window that lies inside the frame."""
        full_width, full_height = self.camera.image_size
        if x0 < 0 or y0 < 0 or width < 1 or height < 1 or x0 + width > full_width or y0 + height > full_height:
            raise UserError(
                f"The crop ({x0}, {y0}, {width}, {height}) leaves the frame.",
                allowed=f"inside {full_width}x{full_height}",
            )
        image = self.image[..., y0 : y0 + height, x0 : x0 + width]
        return replace(self, image=image, camera=self.camera.crop(x0, y0, width, height))

    def resize(self, width: int, height: int, *, mode: str = "area") -> "CameraView":
        """The frame in another size.

        Args:
            width: New width.
            height: New height.
            mode: "area" (means of the covered pixels, for shrinking pictures), "bilinear", or "nearest" (for
                depth and ids, which must never be mixed across edges).
        """
        lead = self.image.shape[:-2]
        flat = self.image.reshape(-1, 1, *self.image.shape[-2:])
        floating = flat if flat.is_floating_point() else flat.double()
        if mode == "nearest":
            resized = F.interpolate(floating, (height, width), mode="nearest-exact")
        elif mode == "area":
            resized = F.interpolate(floating, (height, width), mode="area")
        else:
            resized = F.interpolate(floating, (height, width), mode="bilinear", align_corners=False, antialias=False)
        if not self.image.is_floating_point():
            resized = resized.round()
        image = resized.to(self.image.dtype).reshape(*lead, height, width)
        return replace(self, image=image, camera=self.camera.resize(width, height))

    def rotate90(self, turns_cw: int = 1) -> "CameraView":
        """The frame turned clockwise; the pose turns the other way, so that world points keep their pixels' content."""
        camera, R_new_old = self.camera.rotate90(turns_cw)
        T_old_new = rigid(R_new_old.T, torch.zeros(3, dtype=torch.float64)).to(self.T_world_camera)
        image = torch.rot90(self.image, -turns_cw, dims=(-2, -1))
        return CameraView(image, camera, self.T_world_camera @ T_old_new)
