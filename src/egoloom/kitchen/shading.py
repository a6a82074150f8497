"""Light on visible surfaces: solid textures, key lamp with shadow map, sky light with ambient occlusion, highlights.

Numba's cache knows a kernel by its own file only, so a kernel and all helpers that it compiles in live in one file.

Shape letters: N vertices, F triangles, H rows, W columns.
"""

import numpy as np

from egoloom.kitchen.jit import inline_kernel, kernel

# Entries of the light array.
LAMP, KEY, SKY, GROUND, FILL_DIRECTION, FILL, NUM_LIGHT = 0, 3, 6, 9, 12, 15, 18


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
