"""The materials of one kitchen: fronts, tops, tiles and walls, and the things that stand in it, drawn at random."""

import numpy as np

from egoloom.kitchen import materials as looks
from egoloom.kitchen.materials import Material, srgb


def _pick(rng: np.random.Generator, colors: str) -> tuple[float, float, float]:
    names = colors.split()
    return srgb(names[int(rng.integers(len(names)))])


def _scaled(color: tuple[float, float, float], factor: float) -> tuple[float, float, float]:
    return (color[0] * factor, color[1] * factor, color[2] * factor)


def kitchen_palette(rng: np.random.Generator) -> dict[str, Material]:
    """Returns name to material of one kitchen and of the things in it."""
    front, top = (
        _pick(rng, "e8e4da 6f8a7a 394b5e c9b79c a9b8be 7d4f3a"),
        _pick(rng, "3b3b3d b9b2a6 8a6b4a d8d3ca 5e6263"),
    )
    tile, wall = _pick(rng, "e9e6df c7d6d4 dcc9a8 9fb4bd e7d9d0"), _pick(rng, "e6dfd0 cfd8d6 e8d8c0 d5cde0 dfe5da")
    stone = int(rng.choice([looks.SPECKLE, looks.SPECKLE, looks.WOOD]))
    floor = _pick(rng, "8f6b48 a98a63 6b5341 b5a48c")
    mug, plate = _pick(rng, "b8432f 2d6f8f e0b23c 4f7f52 7a4b8a 20242a"), _pick(rng, "f1eee6 dfe9ee f0e2cf")
    fixed = {
        "front": Material(front, _scaled(front, 0.86), looks.WOOD, 6.0, specular=0.12),
        "front_edge": Material(_scaled(front, 0.55), specular=0.05),
        "carcass": Material(_scaled(front, 0.45), specular=0.02),
        "inside": Material(srgb("d8c6a2"), srgb("c2ab82"), looks.WOOD, 7.0, specular=0.03),
        "counter": Material(top, _scaled(top, 0.62), stone, 55.0 if stone == looks.SPECKLE else 6.0, specular=0.22,
        gloss=40),
        "tiles": Material(tile, _scaled(tile, 0.6), looks.TILES, float(rng.choice([6.7, 10.0, 13.0])), specular=0.2,
        gloss=30),
        "wall": Material(wall, _scaled(wall, 0.9), looks.PLASTER, 3.0, specular=0.0),
        "ceiling": Material(srgb("efeeea"), specular=0.0, casts=False),
        "floor": Material(floor, _scaled(floor, 0.5), looks.BOARDS, 8.0, specular=0.12),
        "steel": Material(srgb("b9bdc0"), srgb("84898d"), looks.BRUSHED, 12.0, specular=0.7, gloss=30),
        "chrome": Material(srgb("c8ccd0"), srgb("7b8186"), looks.BRUSHED, 5.0, specular=1.2, gloss=60),
        "knob": Material(_pick(rng, "c9ccd0 2a2a2c b08d4c"), specular=0.8, gloss=40),
        "glass": Material(srgb("bcd7ee"), emission=1.1, specular=0.0, casts=False),
        "frame_wood": Material(srgb("efece4"), specular=0.05),
        "hob": Material(srgb("1b1c1f"), specular=0.5, gloss=60),
        "ring": Material(srgb("6d3a34"), specular=0.1),
        "art": Material(_pick(rng, "c5533b 3c6b86 d9a441"), _pick(rng, "efe6d2 21352f"), looks.PLASTER, 7.0,
        specular=0.0),
        "table": Material(srgb("9b7450"), srgb("6e4e33"), looks.WOOD, 5.0),
        "fridge": Material(_pick(rng, "dfe2e4 9ba1a6 c94b42"), specular=0.3),
    }  # fmt: skip
    return {**fixed, **_prop_palette(rng, mug, plate)}


def _prop_palette(rng: np.random.Generator, mug: tuple, plate: tuple) -> dict[str, Material]:
    bottle = _pick(rng, "3f7d4e 9cc3d6 7a4a25 cfd8dc")
    return {
        "mug": Material(mug, specular=0.5, gloss=40),
        "plate": Material(plate, specular=0.4, gloss=40),
        "rim": Material(_pick(rng, "2d4f8f b8432f 5f7d57 d9b44a"), specular=0.4, gloss=40),
        "bottle": Material(bottle, specular=0.7, gloss=50),
        "label": Material(_pick(rng, "f2ead2 e7e3f0"), _pick(rng, "c43b2f 2f5b8c"), looks.TILES, 26.0, specular=0.05),
        "cap": Material(_pick(rng, "b8332a 2a5fa0 e5e5e5 2c2c2c"), specular=0.3),
        "pot": Material(_pick(rng, "aeb3b7 8c2a22 3b4a52 d08a2e"), specular=0.6, gloss=30),
        "stew": Material(srgb("b4622a"), srgb("d9a04b"), looks.CRUMB, 60.0, specular=0.25),
        "handle": Material(srgb("2a2a2b"), specular=0.2),
        "blade": Material(srgb("d3d7da"), specular=1.1, gloss=40),
        "grip": Material(_pick(rng, "231f1c 5a3b22"), specular=0.2),
        "spoon": Material(srgb("b98a55"), srgb("96683a"), looks.WOOD, 20.0, specular=0.05),
        "sponge": Material(_pick(rng, "f0d14a e58fb0 f0a24a"), srgb("c9a52b"), looks.CRUMB, 120.0, specular=0.0),
        "scrub": Material(srgb("3f7a43"), specular=0.0),
        "board": Material(srgb("c89f6a"), srgb("a67c48"), looks.WOOD, 10.0, specular=0.05),
        "bowl": Material(_pick(rng, "e5e0d5 5d87a1 c96f4a"), specular=0.4),
        "apple": Material(_pick(rng, "b42c25 7fa33a d8b13e"), specular=0.3),
        "carrot": Material(srgb("e2761b"), srgb("c65d10"), looks.RINGS, 60.0, specular=0.12),
        "carrot_cut": Material(srgb("f39a3c"), specular=0.15),
        "leaf": Material(srgb("4d7a2c"), specular=0.05),
        "crust": Material(srgb("a9682f"), srgb("7c4519"), looks.CRUMB, 60.0, specular=0.04),
        "crumb": Material(srgb("f0ddb4"), srgb("dcc08b"), looks.CRUMB, 130.0, specular=0.0),
        "cloth": Material(_pick(rng, "d8dde6 e3c24e 7fb0a0 d98a8a"), _pick(rng, "4f7fb5 b5504f f5f1e6"),
        looks.CHECKS, 34.0, specular=0.0),
        "water": Material(srgb("e4f3ff"), srgb("9cc4e0"), looks.STREAM, 30.0, specular=0.8, emission=0.25,
        veil=True, casts=False),
    }  # fmt: skip
