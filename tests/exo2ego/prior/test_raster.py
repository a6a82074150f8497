"""Kernels against brute force in NumPy."""

import numpy as np
import pytest
from scipy.interpolate import LinearNDInterpolator

from egoloom.exo2ego.prior.background import connected_quads
from egoloom.exo2ego.prior.raster import composite_discs, rasterise_grid, splat_nearest


def buffers(size):
    colour, weight = np.zeros((size, size, 3), np.float32), np.zeros((size, size), np.float32)
    return colour, np.full((size, size), np.inf, np.float32), weight


@pytest.mark.parametrize("radius", [0.0, 1.6])
def test_splat_keeps_the_nearest_point(radius):
    rng = np.random.default_rng(0)
    pixels = rng.uniform(-3, 23, (400, 2)).astype(np.float32)
    depth = rng.uniform(-1, 5, 400).astype(np.float32)
    depth[:5] = np.nan
    index, buffer = np.full((20, 20), -1, np.int32), np.full((20, 20), np.inf, np.float32)
    splat_nearest(pixels, depth, np.float32(radius), index, buffer)
    for row in range(20):
        for column in range(20):
            if radius:
                hit = np.hypot(pixels[:, 0] - column, pixels[:, 1] - row) <= radius
            else:
                hit = (np.floor(pixels[:, 0] + 0.5) == column) & (np.floor(pixels[:, 1] + 0.5) == row)
            near = np.nonzero(hit & (depth > 0.05))[0]
            expected = near[depth[near].argmin()] if len(near) else -1
            assert index[row, column] == expected


def test_surface_interpolates_like_scipy():
    rng = np.random.default_rng(1)
    y, x = np.mgrid[0:6, 0:7].astype(np.float32)
    pixels = np.stack([4 * x + rng.uniform(-1, 1, x.shape), 4 * y + rng.uniform(-1, 1, y.shape)], -1).astype(np.float32)
    z = np.full((6, 7), 2.0, np.float32)
    colour = rng.integers(0, 255, (6, 7, 3), np.uint8)
    out = buffers(24)
    rasterise_grid(
        pixels, z, np.ones((5, 6), np.uint8), colour, np.ones((6, 7), np.float32), np.float32(99), True, *out
    )
    # The same triangles: each quad is split along the diagonal from top right to bottom left.
    drawn = np.isfinite(out[1])
    assert drawn.mean() > 0.6
    r, c = 2, 3
    corners = pixels[[r, r, r + 1], [c, c + 1, c]]
    inside = LinearNDInterpolator(corners, colour[[r, r, r + 1], [c, c + 1, c]].astype(float))
    rows, columns = np.nonzero(drawn)
    values = inside(np.stack([columns, rows], -1))
    known = np.isfinite(values).all(1)
    assert known.sum() >= 4
    np.testing.assert_allclose(out[0][rows[known], columns[known]], values[known], atol=0.05)


def test_backs_hide_without_colour():
    y, x = np.mgrid[0:4, 0:4].astype(np.float32)
    far = np.stack([5 * x, 5 * y], -1)
    near = far[:, ::-1].copy()  # mirrored: seen from behind
    ones, colour = np.ones((4, 4), np.float32), np.full((4, 4, 3), 200, np.uint8)
    quads = np.ones((3, 3), np.uint8)
    out = buffers(16)
    rasterise_grid(far, 3 * ones, quads, colour, ones, np.float32(99), True, *out)
    assert (out[2][np.isfinite(out[1])] > 0).all()
    rasterise_grid(near, ones, quads, colour, ones, np.float32(99), True, *out)
    assert (out[2][:15, :15] == -1).all()
    assert (out[1][:15, :15] == 1).all()


def test_discs_are_composited_front_to_back():
    rng = np.random.default_rng(2)
    pixels = rng.uniform(0, 9, (30, 2)).astype(np.float32)
    colours = rng.uniform(0, 255, (30, 3)).astype(np.float32)
    order = rng.permutation(30)
    colour, opacity = np.zeros((10, 10, 3), np.float32), np.zeros((10, 10), np.float32)
    composite_discs(pixels, order, colours, np.float32(3), 4, colour, opacity)
    for row, column in ((0, 0), (4, 5), (9, 2)):
        left, total, count = 1.0, np.zeros(3), 0
        for n in order:
            alpha = 1 - ((column - pixels[n, 0]) ** 2 + (row - pixels[n, 1]) ** 2) / 9
            if alpha > 0 and count < 4:
                total, left, count = total + left * alpha * colours[n], left * (1 - alpha), count + 1
        np.testing.assert_allclose(colour[row, column], total, rtol=1e-4)
        np.testing.assert_allclose(opacity[row, column], 1 - left, atol=1e-5)


def test_planes_are_never_cut_and_steps_always_are():
    y, x = np.mgrid[0:40, 0:60].astype(np.float32)
    grazing = 1 / (0.02 + 0.004 * y)  # a floor: depth runs from 50 to 5.5 m within 40 rows
    assert (connected_quads(grazing) == 1).all()
    step = np.where(x < 30, 2.0, 3.0).astype(np.float32)
    quads = connected_quads(step)
    assert (quads[:, 29] == 0).all()
    assert (quads[:, :26] == 1).all()
    assert (quads[:, 27:29] == 2).all()  # mixed pixels hide only
    holed = grazing.copy()
    holed[10, 10] = 0
    assert (connected_quads(holed)[9:11, 9:11] == 0).all()
