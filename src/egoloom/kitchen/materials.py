"""Materials: colours, texture kinds and highlights of surfaces, as rows of the table that the shading kernel reads."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

PLAIN, WOOD, TILES, SPECKLE, BRUSHED, CHECKS, SKIN, CRUMB, BOARDS, PLASTER, STREAM, RINGS = range(12)

# Columns of the table that the shading kernel reads.
SECOND, KIND, SCALE, SPECULAR, GLOSS, EMISSION, WRAP, NUM_COLUMNS = 3, 6, 7, 8, 9, 10, 11, 12


Color = tuple[float, float, float]


def color(values: ArrayLike) -> Color:
    """Returns three numbers as a linear colour."""
    red, green, blue = np.asarray(values, float)
    return (float(red), float(green), float(blue))


@dataclass(frozen=True)
class Material:
    """Linear colours in 0..1, a texture kind with its frequency in 1/m, highlight, glow and light wrap (skin)."""

    color: Color
    second: Color | None = None
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
