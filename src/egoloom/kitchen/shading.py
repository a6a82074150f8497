"""Light on visible surfaces: key lamp with shadow map, sky light with ambient occlusion, highlights; and the camera.

Shape letters: N vertices, F triangles, H rows, W columns.
"""

import numpy as np

from egoloom.kitchen.jit import inline_kernel, kernel
from egoloom.kitchen.materials import texture_mix

# Entries of the light array.
LAMP, KEY, SKY, GROUND, FILL_DIRECTION, FILL, NUM_LIGHT = 0, 3, 6, 9, 12, 15, 18


@kernel
def surface_buffers(
    edges_F9, triangles_F3, instance_F, triangle_HW, inverse_depth_HW, next_camera_N3, intrinsics,
    depth_HW, ids_HW, flow_HW2,
):  # fmt: skip
    """Fills depth along the optical axis (m), instance ids and exact flow (px to the next frame) at pixel centres."""
    fx, fy, cx, cy = intrinsics[0], intrinsics[1], intrinsics[2], intrinsics[3]
    for row in range(triangle_HW.shape[0]):
        for col in range(triangle_HW.shape[1]):
            f = triangle_HW[row, col]
            if f < 0:
                depth_HW[row, col] = 0.0
                ids_HW[row, col] = 0
                flow_HW2[row, col, 0] = 0.0
                flow_HW2[row, col, 1] = 0.0
                continue
            w = inverse_depth_HW[row, col]
            depth_HW[row, col] = 1.0 / w
            ids_HW[row, col] = instance_F[f]
            x, y, z = 0.0, 0.0, 0.0
            for corner in range(3):
                e = 3 * corner
                b = (edges_F9[f, e] * col + edges_F9[f, e + 1] * row + edges_F9[f, e + 2]) / w
                n = triangles_F3[f, corner]
                x += b * next_camera_N3[n, 0]
                y += b * next_camera_N3[n, 1]
                z += b * next_camera_N3[n, 2]
            z = max(z, 0.02)
            flow_HW2[row, col, 0] = fx * x / z + cx - col
            flow_HW2[row, col, 1] = fy * y / z + cy - row


@inline_kernel
def _shadow(shadow_HW, to_light, px, py, pz):
    """Returns the lit share at a world point: four bilinear-weighted depth comparisons, twice for a soft edge."""
    u = to_light[0, 0] * px + to_light[0, 1] * py + to_light[0, 2] * pz + to_light[0, 3]
    v = to_light[1, 0] * px + to_light[1, 1] * py + to_light[1, 2] * pz + to_light[1, 3]
    d = to_light[2, 0] * px + to_light[2, 1] * py + to_light[2, 2] * pz + to_light[2, 3] + 0.006
    rows, cols = shadow_HW.shape
    iu, iv = int(np.floor(u)), int(np.floor(v))
    if iu < 1 or iv < 1 or iu > cols - 3 or iv > rows - 3:
        return 1.0
    a, b = u - iu, v - iv
    lit = 0.0
    for j in range(-1, 3):
        wy = (1 - b) if j == -1 else (b if j == 2 else 1.0)
        for i in range(-1, 3):
            wx = (1 - a) if i == -1 else (a if i == 2 else 1.0)
            if shadow_HW[iv + j, iu + i] <= d:
                lit += wx * wy
    return lit / 9.0


@inline_kernel
def _shade(
    f, u, v, edges_F9, triangles_F3, world_N3, normal_N3, texture_N3, material_F, materials, light, shadow_HW,
    to_light, eye, occlusion, focal, out,
):  # fmt: skip
    """Writes the linear colour of triangle ``f`` at pixel (u, v) into ``out``."""
    e0 = edges_F9[f, 0] * u + edges_F9[f, 1] * v + edges_F9[f, 2]
    e1 = edges_F9[f, 3] * u + edges_F9[f, 4] * v + edges_F9[f, 5]
    e2 = edges_F9[f, 6] * u + edges_F9[f, 7] * v + edges_F9[f, 8]
    # A sample beside the triangle (its pixel is only partly covered) is shaded at the nearest inside point.
    e0, e1, e2 = max(e0, 0.0), max(e1, 0.0), max(e2, 0.0)
    w = e0 + e1 + e2
    b0, b1, b2 = e0 / w, e1 / w, e2 / w
    i, j, k = triangles_F3[f, 0], triangles_F3[f, 1], triangles_F3[f, 2]
    px = b0 * world_N3[i, 0] + b1 * world_N3[j, 0] + b2 * world_N3[k, 0]
    py = b0 * world_N3[i, 1] + b1 * world_N3[j, 1] + b2 * world_N3[k, 1]
    pz = b0 * world_N3[i, 2] + b1 * world_N3[j, 2] + b2 * world_N3[k, 2]
    nx = b0 * normal_N3[i, 0] + b1 * normal_N3[j, 0] + b2 * normal_N3[k, 0]
    ny = b0 * normal_N3[i, 1] + b1 * normal_N3[j, 1] + b2 * normal_N3[k, 1]
    nz = b0 * normal_N3[i, 2] + b1 * normal_N3[j, 2] + b2 * normal_N3[k, 2]
    length = max(np.sqrt(nx * nx + ny * ny + nz * nz), 1e-12)
    nx, ny, nz = nx / length, ny / length, nz / length
    m = material_F[f]
    row = materials[m]
    mix = 0.0
    kind = int(row[6])
    if kind > 0:
        tx = b0 * texture_N3[i, 0] + b1 * texture_N3[j, 0] + b2 * texture_N3[k, 0]
        ty = b0 * texture_N3[i, 1] + b1 * texture_N3[j, 1] + b2 * texture_N3[k, 1]
        tz = b0 * texture_N3[i, 2] + b1 * texture_N3[j, 2] + b2 * texture_N3[k, 2]
        mix = texture_mix(kind, row[7], tx, ty, tz, 1.0 / (w * focal))
    # lamp
    lx, ly, lz = light[0] - px, light[1] - py, light[2] - pz
    distance2 = lx * lx + ly * ly + lz * lz
    distance = np.sqrt(distance2)
    lx, ly, lz = lx / distance, ly / distance, lz / distance
    facing = nx * lx + ny * ly + nz * lz
    wrap = row[11]
    diffuse = max(0.0, (facing + wrap) / (1.0 + wrap))
    lit = 0.0
    if diffuse > 0.0:
        lit = _shadow(shadow_HW, to_light, px + 0.012 * nx, py + 0.012 * ny, pz + 0.012 * nz)
    falloff = 2.6 / (1.2 + distance2)
    key = diffuse * lit * falloff
    sky = (0.5 + 0.5 * nz) * occlusion
    ground = (0.5 - 0.5 * nz) * occlusion
    fill = max(0.0, nx * light[12] + ny * light[13] + nz * light[14]) * (0.4 + 0.6 * occlusion)
    # highlight of the lamp
    vx, vy, vz = eye[0] - px, eye[1] - py, eye[2] - pz
    view = max(np.sqrt(vx * vx + vy * vy + vz * vz), 1e-9)
    hx, hy, hz = lx + vx / view, ly + vy / view, lz + vz / view
    half = max(np.sqrt(hx * hx + hy * hy + hz * hz), 1e-9)
    specular = 0.0
    if facing > 0.0 and row[8] > 0.0:
        cosine = (nx * hx + ny * hy + nz * hz) / half
        if cosine > 0.55:
            specular = row[8] * cosine ** row[9] * lit * falloff
    for c in range(3):
        color = row[c] * (1 - mix) + row[3 + c] * mix
        incoming = key * light[3 + c] + sky * light[6 + c] + ground * light[9 + c] + fill * light[15 + c]
        out[c] = color * (incoming + row[10]) + specular * light[3 + c]


@inline_kernel
def _occlusion(row, col, triangle_HW, inverse_depth_HW, edges_F9, camera_normal, intrinsics, taps):
    """Returns how open the surface is at a pixel (1 = open): eight neighbours' depths against its tangent plane."""
    fx, fy, cx, cy = intrinsics[0], intrinsics[1], intrinsics[2], intrinsics[3]
    rows, cols = triangle_HW.shape
    z = 1.0 / inverse_depth_HW[row, col]
    x, y = (col - cx) / fx * z, (row - cy) / fy * z
    radius = min(max(0.055 * fx / z, 1.5), 14.0)
    blocked = 0.0
    for k in range(taps.shape[0]):
        r, c = row + int(np.rint(taps[k, 0] * radius)), col + int(np.rint(taps[k, 1] * radius))
        if r < 0 or c < 0 or r >= rows or c >= cols or triangle_HW[r, c] < 0:
            continue
        oz = 1.0 / inverse_depth_HW[r, c]
        dx, dy, dz = (c - cx) / fx * oz - x, (r - cy) / fy * oz - y, oz - z
        distance = np.sqrt(dx * dx + dy * dy + dz * dz) + 1e-9
        rise = (dx * camera_normal[0] + dy * camera_normal[1] + dz * camera_normal[2]) / distance
        if rise > 0.12:
            blocked += (rise - 0.12) * max(0.0, 1.0 - distance / 0.16)
    return max(0.25, 1.0 - 1.5 * blocked / taps.shape[0] * 2.0)


@kernel
def shade_view(
    edges_F9, triangles_F3, group_F, material_F, materials, world_N3, normal_N3, texture_N3, light, shadow_HW,
    to_light, eye, camera_from_world, intrinsics, taps, triangle_HW, inverse_depth_HW, fine_HW, scale, image_HW3,
):  # fmt: skip
    """Fills the linear image of a view.

    A pixel whose samples all see one surface group is shaded once at its centre; any other pixel is shaded once per
    distinct group and averaged over its ``scale`` x ``scale`` samples.
    """
    rows, cols = triangle_HW.shape
    color = np.zeros(3)
    normal = np.zeros(3)
    triangle_S, u_S, v_S, weight_S = np.zeros(16, np.int64), np.zeros(16), np.zeros(16), np.zeros(16)
    focal = intrinsics[0]
    for row in range(rows):
        for col in range(cols):
            f = triangle_HW[row, col]
            occlusion = 1.0
            if f >= 0:
                n = triangles_F3[f, 0]
                for c in range(3):
                    normal[c] = (
                        camera_from_world[c, 0] * normal_N3[n, 0]
                        + camera_from_world[c, 1] * normal_N3[n, 1]
                        + camera_from_world[c, 2] * normal_N3[n, 2]
                    )
                occlusion = _occlusion(row, col, triangle_HW, inverse_depth_HW, edges_F9, normal, intrinsics, taps)
            uniform = f >= 0
            for s in range(scale * scale):
                g = fine_HW[row * scale + s // scale, col * scale + s % scale]
                if g < 0 or f < 0 or group_F[g] != group_F[f]:
                    uniform = False
                    break
            count = 0
            if uniform:
                triangle_S[0], u_S[0], v_S[0], weight_S[0] = f, col, row, 1.0
                count = 1
            else:
                for s in range(scale * scale):
                    r, q = row * scale + s // scale, col * scale + s % scale
                    g = fine_HW[r, q]
                    if g < 0:
                        continue
                    if count > 0 and group_F[g] == group_F[triangle_S[count - 1]]:
                        weight_S[count - 1] += 1.0 / (scale * scale)
                        continue
                    triangle_S[count], u_S[count], v_S[count] = g, (q + 0.5) / scale - 0.5, (r + 0.5) / scale - 0.5
                    weight_S[count] = 1.0 / (scale * scale)
                    count += 1
            for c in range(3):
                image_HW3[row, col, c] = 0.0
            for s in range(count):
                _shade(
                    triangle_S[s], u_S[s], v_S[s], edges_F9, triangles_F3, world_N3, normal_N3, texture_N3, material_F,
                    materials, light, shadow_HW, to_light, eye, occlusion, focal, color,
                )  # fmt: skip
                for c in range(3):
                    image_HW3[row, col, c] += weight_S[s] * color[c]


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
