"""Visibility: which triangle each sample of a view sees, by homogeneous rasterisation (no clipping needed).

Shape letters: N vertices, F triangles, H rows, W columns. With camera-space corners a, b, c the three edge functions
are the rows of the inverse of the matrix [a b c] (Olano and Greer 1997): each gives a barycentric coordinate divided by
depth, linear in the pixel, and their sum is the inverse depth. Pixel centres lie on integer coordinates.
"""

import numpy as np

from egoloom.kitchen.jit import kernel

NEAR_M = 0.03
NO_TRIANGLE = -1
EDGE = 1e-11  # closes the cracks that rounding leaves along shared edges


@kernel
def edge_functions(points_N3, triangles_F3, intrinsics, first, edges_F9, boxes_F4):
    """Fills edge functions in pixel coordinates and pixel bounds for triangles from ``first`` on.

    ``points_N3`` are camera-space; ``intrinsics`` is fx, fy, cx, cy. A culled triangle gets an empty box.
    """
    fx, fy, cx, cy = intrinsics[0], intrinsics[1], intrinsics[2], intrinsics[3]
    for f in range(first, triangles_F3.shape[0]):
        boxes_F4[f, 0] = 1.0
        boxes_F4[f, 1] = -1.0
        i, j, k = triangles_F3[f, 0], triangles_F3[f, 1], triangles_F3[f, 2]
        ax, ay, az = points_N3[i, 0], points_N3[i, 1], points_N3[i, 2]
        bx, by, bz = points_N3[j, 0], points_N3[j, 1], points_N3[j, 2]
        gx, gy, gz = points_N3[k, 0], points_N3[k, 1], points_N3[k, 2]
        if az < NEAR_M and bz < NEAR_M and gz < NEAR_M:
            continue
        ux, uy, uz = by * gz - bz * gy, bz * gx - bx * gz, bx * gy - by * gx
        det = ax * ux + ay * uy + az * uz
        if det > -1e-13:
            continue  # seen from behind, or edge-on
        _set_edge(edges_F9, f, 0, ux / det, uy / det, uz / det, fx, fy, cx, cy)
        ux, uy, uz = gy * az - gz * ay, gz * ax - gx * az, gx * ay - gy * ax
        _set_edge(edges_F9, f, 3, ux / det, uy / det, uz / det, fx, fy, cx, cy)
        ux, uy, uz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
        _set_edge(edges_F9, f, 6, ux / det, uy / det, uz / det, fx, fy, cx, cy)
        box = boxes_F4[f]
        box[0], box[1], box[2], box[3] = 1e9, -1e9, 1e9, -1e9
        _grow(box, ax, ay, az, bx, by, bz, fx, fy, cx, cy)
        _grow(box, bx, by, bz, gx, gy, gz, fx, fy, cx, cy)
        _grow(box, gx, gy, gz, ax, ay, az, fx, fy, cx, cy)


@kernel
def _set_edge(edges_F9, f, at, x, y, z, fx, fy, cx, cy):
    edges_F9[f, at] = x / fx
    edges_F9[f, at + 1] = y / fy
    edges_F9[f, at + 2] = z - x * cx / fx - y * cy / fy


@kernel
def _grow(box, ax, ay, az, bx, by, bz, fx, fy, cx, cy):
    """Grows a box by the projection of corner a and of the crossing of edge ab with the near plane."""
    if az >= NEAR_M:
        u, v = fx * ax / az + cx, fy * ay / az + cy
        box[0], box[1], box[2], box[3] = min(box[0], u), max(box[1], u), min(box[2], v), max(box[3], v)
    if (az >= NEAR_M) != (bz >= NEAR_M):
        s = (NEAR_M - az) / (bz - az)
        u = fx * (ax + s * (bx - ax)) / NEAR_M + cx
        v = fy * (ay + s * (by - ay)) / NEAR_M + cy
        box[0], box[1], box[2], box[3] = min(box[0], u), max(box[1], u), min(box[2], v), max(box[3], v)


@kernel
def draw(edges_F9, boxes_F4, veil_F, first, scale, opaque_only, inverse_depth_HW, triangle_HW):
    """Draws triangles from ``first`` on into a grid of ``scale`` x ``scale`` samples a pixel.

    ``veil_F`` marks translucent triangles: they cover every second sample, or none where ``opaque_only``.
    """
    rows, cols = inverse_depth_HW.shape
    step = 1.0 / scale
    for f in range(first, edges_F9.shape[0]):
        if boxes_F4[f, 0] > boxes_F4[f, 1] or (opaque_only and veil_F[f]):
            continue
        veil = veil_F[f]
        top = max(0, int(np.ceil((boxes_F4[f, 2] + 0.5) * scale - 0.5)))
        bottom = min(rows - 1, int(np.floor((boxes_F4[f, 3] + 0.5) * scale - 0.5)))
        left = max(0, int(np.ceil((boxes_F4[f, 0] + 0.5) * scale - 0.5)))
        right = min(cols - 1, int(np.floor((boxes_F4[f, 1] + 0.5) * scale - 0.5)))
        if left > right or top > bottom:
            continue
        a0, b0, c0 = edges_F9[f, 0], edges_F9[f, 1], edges_F9[f, 2]
        a1, b1, c1 = edges_F9[f, 3], edges_F9[f, 4], edges_F9[f, 5]
        a2, b2, c2 = edges_F9[f, 6], edges_F9[f, 7], edges_F9[f, 8]
        aw = a0 + a1 + a2
        for row in range(top, bottom + 1):
            v = (row + 0.5) * step - 0.5
            k0, k1, k2 = b0 * v + c0, b1 * v + c1, b2 * v + c2
            kw = k0 + k1 + k2
            for col in range(left, right + 1):
                u = (col + 0.5) * step - 0.5
                if a0 * u + k0 < -EDGE or a1 * u + k1 < -EDGE or a2 * u + k2 < -EDGE:
                    continue
                w = aw * u + kw
                if w > inverse_depth_HW[row, col] and w < 1.0 / NEAR_M:
                    if veil and (row + col) % 2 == 0:
                        continue
                    inverse_depth_HW[row, col] = w
                    triangle_HW[row, col] = f


@kernel
def draw_shadow(points_N3, triangles_F3, first, casts_F, depth_HW):
    """Draws an orthographic depth map; points are in texels (x, y) and metres towards the light (z)."""
    rows, cols = depth_HW.shape
    for f in range(first, triangles_F3.shape[0]):
        if not casts_F[f]:
            continue
        i, j, k = triangles_F3[f, 0], triangles_F3[f, 1], triangles_F3[f, 2]
        ax, ay, az = points_N3[i, 0], points_N3[i, 1], points_N3[i, 2]
        bx, by, bz = points_N3[j, 0], points_N3[j, 1], points_N3[j, 2]
        gx, gy, gz = points_N3[k, 0], points_N3[k, 1], points_N3[k, 2]
        area = (bx - ax) * (gy - ay) - (by - ay) * (gx - ax)
        if abs(area) < 1e-9:
            continue
        left = max(0, int(np.ceil(min(ax, bx, gx))))
        right = min(cols - 1, int(np.floor(max(ax, bx, gx))))
        top = max(0, int(np.ceil(min(ay, by, gy))))
        bottom = min(rows - 1, int(np.floor(max(ay, by, gy))))
        # Barycentric coordinates and depth are linear in the texel: slopes once a triangle, no division inside.
        inverse = 1.0 / area
        s0, s1 = (by - gy) * inverse, (gy - ay) * inverse
        sz = s0 * (az - gz) + s1 * (bz - gz)
        for y in range(top, bottom + 1):
            w0 = ((bx - left) * (gy - y) - (by - y) * (gx - left)) * inverse
            w1 = ((gx - left) * (ay - y) - (gy - y) * (ax - left)) * inverse
            z = w0 * (az - gz) + w1 * (bz - gz) + gz
            for x in range(right - left + 1):
                a, b = w0 + s0 * x, w1 + s1 * x
                if a >= 0.0 and b >= 0.0 and a + b <= 1.0:
                    depth = z + sz * x
                    if depth > depth_HW[y, left + x]:
                        depth_HW[y, left + x] = depth


@kernel
def vertex_normals(points_TN3, triangles_F3, normals_TN3):
    """Fills area-weighted vertex normals of a mesh whose points move over T times."""
    for t in range(points_TN3.shape[0]):
        normals_TN3[t] = 0.0
        for f in range(triangles_F3.shape[0]):
            i, j, k = triangles_F3[f, 0], triangles_F3[f, 1], triangles_F3[f, 2]
            a, b, c = points_TN3[t, i], points_TN3[t, j], points_TN3[t, k]
            ux, uy, uz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
            wx, wy, wz = c[0] - a[0], c[1] - a[1], c[2] - a[2]
            nx, ny, nz = uy * wz - uz * wy, uz * wx - ux * wz, ux * wy - uy * wx
            for n in (i, j, k):
                normals_TN3[t, n, 0] += nx
                normals_TN3[t, n, 1] += ny
                normals_TN3[t, n, 2] += nz
        for n in range(points_TN3.shape[1]):
            x, y, z = normals_TN3[t, n, 0], normals_TN3[t, n, 1], normals_TN3[t, n, 2]
            length = max(np.sqrt(x * x + y * y + z * z), 1e-15)
            normals_TN3[t, n, 0] = x / length
            normals_TN3[t, n, 1] = y / length
            normals_TN3[t, n, 2] = z / length
