"""The imperfect sensor of a camera: exposure, vignette, motion blur, noise and tone curve."""

import numpy as np
from numpy.typing import NDArray

from egoloom.kitchen.geometry import Array
from egoloom.kitchen.jit import kernel


@kernel
def motion_blur(image_HW3, flow_HW2, shutter, out_HW3):
    """Averages each pixel along its own motion during the open shutter (five taps)."""
    rows, cols, _ = image_HW3.shape
    for row in range(rows):
        for col in range(cols):
            du, dv = flow_HW2[row, col, 0] * shutter, flow_HW2[row, col, 1] * shutter
            if du * du + dv * dv < 0.25:
                for c in range(3):
                    out_HW3[row, col, c] = image_HW3[row, col, c]
                continue
            length = np.sqrt(du * du + dv * dv)
            cap = min(1.0, 14.0 / length)
            for c in range(3):
                out_HW3[row, col, c] = 0.0
            for k in range(-2, 3):
                q = min(max(col + int(np.rint(0.25 * k * du * cap)), 0), cols - 1)
                r = min(max(row + int(np.rint(0.25 * k * dv * cap)), 0), rows - 1)
                for c in range(3):
                    out_HW3[row, col, c] += 0.2 * image_HW3[r, q, c]


@kernel
def develop(image_HW3, noise_HW3, exposure, vignette, curve, out_HW3):
    """Turns a linear image into RGB bytes: exposure, vignette, filmic shoulder, sRGB curve (a table), noise."""
    rows, cols, _ = image_HW3.shape
    size = curve.shape[0] - 1
    for row in range(rows):
        y = (row + 0.5) / rows - 0.5
        for col in range(cols):
            x = (col + 0.5) / cols - 0.5
            gain = exposure * (1.0 - vignette * (x * x + y * y))
            for c in range(3):
                value = image_HW3[row, col, c] * gain
                value = value * (1.0 + value * 0.12) / (1.0 + value * 0.75)
                at = min(max(value, 0.0), 1.0) * size
                i = min(int(at), size - 1)
                level = curve[i] + (curve[i + 1] - curve[i]) * (at - i) + noise_HW3[row, col, c]
                out_HW3[row, col, c] = np.uint8(min(max(level * 255.0 + 0.5, 0.0), 255.0))


class Film:
    """The imperfect sensor of one camera: exposure, vignette, motion blur, noise, tone curve."""

    def __init__(self, rng: np.random.Generator, *, sigma: float, shutter: float, exposure_sigma: float) -> None:
        self.rng, self.sigma, self.shutter = rng, sigma, shutter
        self.exposure = 0.74 * float(np.exp(rng.normal(0, 1) * exposure_sigma))
        x = np.linspace(0, 1, 2049)
        self.curve = np.where(x <= 0.0031308, 12.92 * x, 1.055 * np.power(np.maximum(x, 1e-9), 1 / 2.4) - 0.055)

    def develop(self, image: Array, flow_px: NDArray[np.float32], scratch: Array) -> NDArray[np.uint8]:
        """Returns RGB bytes ``[H, W, 3]`` of a linear image."""
        if self.shutter > 0:
            motion_blur(image, flow_px, self.shutter, scratch)
            image = scratch
        noise = np.zeros(image.shape, np.float32)
        if self.sigma > 0:
            noise = self.rng.standard_normal(image.shape, np.float32) * np.float32(self.sigma)
        out = np.empty(image.shape, np.uint8)
        develop(image, noise, self.exposure, 0.30, self.curve, out)
        return out
