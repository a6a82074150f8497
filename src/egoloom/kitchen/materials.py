"""Materials: a table of numbers per surface, and solid procedural textures evaluated in object space."""

from dataclasses import dataclass

import numpy as np

from egoloom.kitchen.jit import kernel

PLAIN, WOOD, TILES, SPECKLE, BRUSHED, CHECKS, SKIN, CRUMB, BOARDS, PLASTER, STREAM, RINGS = range(12)

# Columns of the table that the shading kernel reads.
SECOND, KIND, SCALE, SPECULAR, GLOSS, EMISSION, WRAP, NUM_COLUMNS = 3, 6, 7, 8, 9, 10, 11, 12


@dataclass(frozen=True)
class Material:
    """Linear colours in 0..1, a texture kind with its frequency in 1/m, highlight, glow and light wrap (skin)."""

    color: tuple[float, float, float]
    second: tuple[float, float, float] | None = None
    kind: int = PLAIN
    scale: float = 1.0
    specular: float = 0.08
    gloss: float = 24.0
    emission: float = 0.0
    wrap: float = 0.0
    veil: bool = False
    casts: bool = True

    def row(self) -> list[float]:
        """The material's row in the table."""
        second = self.second or self.color
        tail = [self.kind, self.scale, self.specular, self.gloss, self.emission, self.wrap]
        return [*self.color, *second, *map(float, tail)]


def srgb(text: str) -> tuple[float, float, float]:
    """Returns the linear colour of a hex colour such as ``"c0ffee"``."""
    values = np.array([int(text[i : i + 2], 16) for i in (0, 2, 4)]) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return (float(linear[0]), float(linear[1]), float(linear[2]))


@kernel
def _hash(x, y, z):
    h = np.uint32(x) * np.uint32(374761393) + np.uint32(y) * np.uint32(668265263) + np.uint32(z) * np.uint32(2246822519)
    h = (h ^ (h >> np.uint32(13))) * np.uint32(1274126177)
    return np.float64((h ^ (h >> np.uint32(16))) & np.uint32(65535)) * (1.0 / 65535.0)


@kernel
def noise(x, y, z):
    """Returns value noise in 0..1 with a period of one per axis."""
    fx, fy, fz = np.floor(x), np.floor(y), np.floor(z)
    i, j, k = np.int64(fx), np.int64(fy), np.int64(fz)
    x, y, z = x - fx, y - fy, z - fz
    x, y, z = x * x * (3 - 2 * x), y * y * (3 - 2 * y), z * z * (3 - 2 * z)
    a = _hash(i, j, k) * (1 - x) + _hash(i + 1, j, k) * x
    b = _hash(i, j + 1, k) * (1 - x) + _hash(i + 1, j + 1, k) * x
    c = _hash(i, j, k + 1) * (1 - x) + _hash(i + 1, j, k + 1) * x
    d = _hash(i, j + 1, k + 1) * (1 - x) + _hash(i + 1, j + 1, k + 1) * x
    return (a * (1 - y) + b * y) * (1 - z) + (c * (1 - y) + d * y) * z


@kernel
def _keep(footprint, frequency):
    """Returns how much of a noise of ``frequency`` cells per metre survives a pixel of ``footprint`` metres."""
    ratio = 2.2 * footprint * frequency
    return 1.0 / (1.0 + ratio * ratio * ratio * ratio)


@kernel
def _line(distance, half_width, pixel):
    """Returns the share of a pixel that a line covers; all three in the same unit."""
    width = max(pixel, 1e-6)
    cover = min(1.0, max(0.0, (half_width - distance) / width + 0.5))
    return cover * min(1.0, 2.0 * half_width / width)


@kernel
def texture_mix(kind, scale, x, y, z, footprint):
    """Returns the share of the second colour at an object-space point (metres).

    ``footprint`` is the size of a pixel on the surface in metres: detail finer than it fades to its mean.
    """
    x, y, z = x * scale, y * scale, z * scale
    pixel = footprint * scale
    if kind == 1:  # wood: rings stretched along x
        rings = noise(x * 0.35, y * 2.2, z * 2.2) * 5.0
        ring = abs(2.0 * (rings - np.floor(rings)) - 1.0) - 0.5
        grain = noise(x * 1.5, y * 22.0, z * 22.0) - 0.5
        return 0.5 + 0.65 * ring * _keep(pixel, 8.0) + 0.45 * grain * _keep(pixel, 22.0)
    if kind == 2:  # tiles with grout, every tile of a slightly other tone
        i, j = np.floor(x), np.floor(y)
        u, v = x - i, y - j
        grout = _line(min(min(u, 1 - u), min(v, 1 - v)), 0.03, pixel)
        return grout + (1 - grout) * 0.22 * _hash(np.int64(i), np.int64(j), 7)
    if kind == 3:  # speckled stone
        fine = (noise(x * 3.1, y * 3.1, z * 3.1) - 0.5) * _keep(pixel, 3.1)
        value = 0.5 + 0.6 * (noise(x, y, z) - 0.5) + 0.4 * fine
        sharp = min(1.0, max(0.0, (value - 0.42) * 5.0))
        return 0.42 + (sharp - 0.42) * _keep(pixel, 1.0)
    if kind == 4:  # brushed metal
        return 0.5 + (noise(x * 0.5, y * 14.0, z * 14.0) - 0.5) * _keep(pixel, 14.0)
    if kind == 5:  # checked cloth
        u, v = x - np.floor(x), z - np.floor(z)
        return 0.5 * (_line(abs(u - 0.5), 0.18, pixel) + _line(abs(v - 0.5), 0.18, pixel))
    return _texture_mix_soft(kind, x, y, z, pixel)


@kernel
def _texture_mix_soft(kind, x, y, z, pixel):
    if kind == 6:  # skin: soft mottling
        return 0.5 + (noise(x, y, z) - 0.5) * _keep(pixel, 1.0)
    if kind == 7:  # crumb and crust
        fine = (noise(x * 2.7, y * 2.7, z * 2.7) - 0.5) * _keep(pixel, 2.7)
        return 0.5 + 0.6 * (noise(x, y, z) - 0.5) * _keep(pixel, 1.0) + 0.4 * fine
    if kind == 8:  # floor boards along y
        i = np.floor(x)
        u = x - i
        joint = _line(min(u, 1 - u), 0.02, pixel)
        tone = 0.45 * _hash(np.int64(i), np.int64(np.floor(y * 0.12 + 0.37 * i)), 3)
        grain = (noise(x * 6.0, y * 0.7, 1.5) - 0.5) * _keep(pixel, 6.0)
        return joint + (1 - joint) * (0.12 + tone + 0.35 * grain)
    if kind == 9:  # plaster: broad stains
        return 0.7 * noise(x, y, z) + 0.3 * (0.5 + (noise(x * 4.0, y * 4.0, z * 4.0) - 0.5) * _keep(pixel, 4.0))
    if kind == 10:  # running water: streaks along z
        return noise(x * 30.0, y * 30.0, z)
    if kind == 11:  # growth rings along y
        return 0.5 + 0.5 * (noise(x * 0.3, y * 6.0, z * 0.3) - 0.5) * _keep(pixel, 6.0)
    return 0.0
