"""Numba kernels: surface rasteriser, z-buffered splat, and the alpha discs of the reference renderer.

Shape letters: H, W size of the target image, R, C rows and columns of the source grid, N points. All kernels run on one
thread and are deterministic: the result does not depend on the order of equal depths beyond the order of the points.
"""

import numpy as np
from numba import njit

NEAR_M = 0.05
# What a quad between four neighbouring pixels is.
QUAD_NONE, QUAD_SURFACE, QUAD_ONLY_HIDES, QUAD_TWO_SIDED = 0, 1, 2, 3


@njit(cache=True, nogil=True)
def _draw_triangle(x, y, z, colour, weight, culled, known, out_colour, out_depth, out_weight):
    """One triangle with linear interpolation in the image (its three corners are neighbours in the source grid)."""
    area = (x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0])
    if abs(area) < 1e-9:
        return
    hidden = not known or (culled and area < 0)
    height, width = out_depth.shape
    x0 = max(0, int(np.ceil(min(x[0], x[1], x[2]))))
    x1 = min(width - 1, int(np.floor(max(x[0], x[1], x[2]))))
    y0 = max(0, int(np.ceil(min(y[0], y[1], y[2]))))
    y1 = min(height - 1, int(np.floor(max(y[0], y[1], y[2]))))
    inverse = 1.0 / area
    for row in range(y0, y1 + 1):
        for column in range(x0, x1 + 1):
            b = ((column - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (row - y[0])) * inverse
            c = ((x[1] - x[0]) * (row - y[0]) - (column - x[0]) * (y[1] - y[0])) * inverse
            a = 1.0 - b - c
            if a < -1e-6 or b < -1e-6 or c < -1e-6:
                continue
            depth = a * z[0] + b * z[1] + c * z[2]
            if depth < out_depth[row, column]:
                out_depth[row, column] = depth
                out_weight[row, column] = -1.0 if hidden else a * weight[0] + b * weight[1] + c * weight[2]
                for channel in range(3):
                    out_colour[row, column, channel] = (
                        a * colour[0, channel] + b * colour[1, channel] + c * colour[2, channel]
                    )


@njit(cache=True, nogil=True)
def rasterise_grid(
    pixels_RC2, depth_RC, quad_RC, colour_RC3, weight_RC, max_edge_px, culled, out_colour, out_depth, out_weight
):
    """Draws the surface that a depth map spans between neighbouring pixels.

    Args:
        pixels_RC2: Where the grid points fall in the target, float32.
        depth_RC: Their depth in the target camera; not positive where undefined.
        quad_RC: What the quad with its top left corner here is, uint8 ``[R-1, C-1]``: 0 no surface, 1 a surface, 2 a
            surface of unknown colour, which only hides (weight -1), 3 a surface with the same colour on both sides.
        colour_RC3: uint8 colours.
        weight_RC: Confidence of the grid points, float32.
        max_edge_px: Longest side of a quad that is drawn; longer ones are stretched beyond use.
        culled: Surfaces seen from behind hide what lies behind them but have no colour: the source camera never saw
            that side. They get the weight -1.
        out_colour: float32 ``[H, W, 3]``, changed in place.
        out_depth: float32 ``[H, W]``, infinity where empty, changed in place.
        out_weight: float32 ``[H, W]``, changed in place.
    """
    rows, columns = depth_RC.shape
    height, width = out_depth.shape
    x, y, z = np.empty(3, np.float32), np.empty(3, np.float32), np.empty(3, np.float32)
    colour, weight = np.empty((3, 3), np.float32), np.empty(3, np.float32)
    corner_row = np.array([[0, 0, 1], [0, 1, 1]])
    corner_column = np.array([[0, 1, 0], [1, 1, 0]])
    for r in range(rows - 1):
        for c in range(columns - 1):
            if quad_RC[r, c] == 0:
                continue
            low_x = high_x = pixels_RC2[r, c, 0]
            low_y = high_y = pixels_RC2[r, c, 1]
            front = True
            for k in range(4):
                i, j = r + k // 2, c + k % 2
                front = front and depth_RC[i, j] > NEAR_M
                low_x, high_x = min(low_x, pixels_RC2[i, j, 0]), max(high_x, pixels_RC2[i, j, 0])
                low_y, high_y = min(low_y, pixels_RC2[i, j, 1]), max(high_y, pixels_RC2[i, j, 1])
            if not front or high_x < 0 or high_y < 0 or low_x > width - 1 or low_y > height - 1:
                continue
            if high_x - low_x > max_edge_px or high_y - low_y > max_edge_px:
                continue
            # A stretched quad shows few source pixels over many target pixels: trust it accordingly.
            stretch = max(high_x - low_x, high_y - low_y)
            trust = 1.0 / max(1.0, stretch)
            for half in range(2):
                for k in range(3):
                    i, j = r + corner_row[half, k], c + corner_column[half, k]
                    x[k], y[k], z[k] = pixels_RC2[i, j, 0], pixels_RC2[i, j, 1], depth_RC[i, j]
                    weight[k] = weight_RC[i, j] * trust
                    for channel in range(3):
                        colour[k, channel] = colour_RC3[i, j, channel]
                one_sided = culled and quad_RC[r, c] != QUAD_TWO_SIDED
                known = quad_RC[r, c] != QUAD_ONLY_HIDES
                _draw_triangle(x, y, z, colour, weight, one_sided, known, out_colour, out_depth, out_weight)


@njit(cache=True, nogil=True)
def splat_nearest(pixels_N2, depth_N, radius_px, out_index, out_depth):
    """Z-buffered splat of points as discs: keeps the nearest point per pixel.

    Args:
        pixels_N2: Pixels, float32.
        depth_N: Depths; not positive or not finite ones are skipped.
        radius_px: Disc radius; 0 draws the nearest pixel only.
        out_index: int32 ``[H, W]``, -1 where empty, changed in place.
        out_depth: float32 ``[H, W]``, infinity where empty, changed in place.
    """
    height, width = out_depth.shape
    limit = radius_px * radius_px
    for n in range(depth_N.shape[0]):
        depth = depth_N[n]
        if not depth > NEAR_M:
            continue
        u, v = pixels_N2[n, 0], pixels_N2[n, 1]
        if radius_px <= 0:
            if not (u > -0.5 and v > -0.5 and u < width - 0.5 and v < height - 0.5):
                continue
            column, row = int(u + 0.5), int(v + 0.5)
            if depth < out_depth[row, column]:
                out_depth[row, column] = depth
                out_index[row, column] = n
            continue
        if not (u > -radius_px and v > -radius_px and u < width - 1 + radius_px and v < height - 1 + radius_px):
            continue
        for row in range(max(0, int(np.ceil(v - radius_px))), min(height - 1, int(np.floor(v + radius_px))) + 1):
            first, last = int(np.ceil(u - radius_px)), int(np.floor(u + radius_px))
            for column in range(max(0, first), min(width - 1, last) + 1):
                inside = (column - u) ** 2 + (row - v) ** 2 <= limit
                if inside and depth < out_depth[row, column]:
                    out_depth[row, column] = depth
                    out_index[row, column] = n


@njit(cache=True, nogil=True)
def composite_discs(pixels_N2, order_N, colour_N3, radius_px, max_per_pixel, out_colour, out_opacity):
    """Blends discs from front to back with alpha ``1 - d^2 / radius^2`` (alpha compositing of points).

    Args:
        pixels_N2: Pixels.
        order_N: Indices of the points from near to far.
        colour_N3: Colours, float32.
        radius_px: Disc radius.
        max_per_pixel: Points per pixel that are blended; farther ones are ignored.
        out_colour: float32 ``[H, W, 3]`` of zeros, changed in place.
        out_opacity: float32 ``[H, W]`` of zeros, changed in place.
    """
    height, width = out_opacity.shape
    count = np.zeros((height, width), np.int32)
    for n in order_N:
        u, v = pixels_N2[n, 0], pixels_N2[n, 1]
        if not (u > -radius_px and v > -radius_px and u < width - 1 + radius_px and v < height - 1 + radius_px):
            continue
        for row in range(max(0, int(np.ceil(v - radius_px))), min(height - 1, int(np.floor(v + radius_px))) + 1):
            first, last = int(np.ceil(u - radius_px)), int(np.floor(u + radius_px))
            for column in range(max(0, first), min(width - 1, last) + 1):
                alpha = 1.0 - ((column - u) ** 2 + (row - v) ** 2) / (radius_px * radius_px)
                if alpha <= 0 or count[row, column] >= max_per_pixel:
                    continue
                count[row, column] += 1
                share = (1.0 - out_opacity[row, column]) * alpha
                out_opacity[row, column] += share
                for channel in range(3):
                    out_colour[row, column, channel] += share * colour_N3[n, channel]
