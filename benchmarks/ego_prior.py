"""Times and measures the ego prior: splat speed, a whole clip in CPU-seconds, memory, and accuracy on the kitchen.

    python benchmarks/ego_prior.py [--take-folder FOLDER] [--json]

Everything runs on one thread. Figures are CPU time (``time.process_time``), so a busy machine disturbs them little.
Without a folder of real takes (``EGOLOOM_REAL_DATA``) the clip is synthetic with the same sizes.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from egoloom.cameras import Camera, Pinhole, invert, look_at, transform_points
from egoloom.clips.media import VideoReader, write_video
from egoloom.exo2ego.prior import PriorConfig, ScaleEvidence, fuse_background, render_ego_prior
from egoloom.exo2ego.prior.artefacts import PriorSource, write_prior
from egoloom.exo2ego.prior.background import connected_quads
from egoloom.exo2ego.prior.ego_pose import estimate_ego_poses, pose_errors
from egoloom.exo2ego.prior.raster import rasterise_grid, splat_nearest

NUM_POINTS, SIZE = 351_232, 448  # 784 x 448 points
BYTES_PER_POINT = 2 * 4 + 4  # pixel and depth
BYTES_PER_PIXEL = 2 * (4 + 4)  # depth and index, read and written
BODY_PARTS = ("torso", "leg", "arm", "hand", "head")


def cpu_s(work: Callable[[], object], repeats: int = 1) -> float:
    """Least CPU time of some repeats."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def bandwidth_gb_s() -> float:
    """Bytes a second that one thread reads and writes in a large copy."""
    source = np.ones(32_000_000, np.float32)
    target = np.empty_like(source)
    return 2 * source.nbytes / cpu_s(lambda: np.copyto(target, source), 5) / 1e9


def splat_speed() -> dict[str, float]:
    """Frames a second of the z-buffered splat, the surface rasteriser and a NumPy argsort on the same points."""
    rng = np.random.default_rng(0)
    pixels = rng.uniform(0, SIZE - 1, (NUM_POINTS, 2)).astype(np.float32)
    depth = rng.uniform(1, 10, NUM_POINTS).astype(np.float32)
    index, buffer = np.empty((SIZE, SIZE), np.int32), np.empty((SIZE, SIZE), np.float32)

    def splat() -> None:
        index.fill(-1)
        buffer.fill(np.inf)
        splat_nearest(pixels, depth, np.float32(0), index, buffer)

    def argsort() -> np.ndarray:
        order = np.argsort(-depth, kind="stable")
        flat = np.floor(pixels[order, 1] + 0.5).astype(np.int64) * SIZE + np.floor(pixels[order, 0] + 0.5).astype(
            np.int64
        )
        out = np.full(SIZE * SIZE, -1, np.int64)
        out[flat] = order
        return out

    splat()
    expected = argsort().reshape(SIZE, SIZE)
    seen = expected >= 0
    if not np.array_equal(seen, index >= 0) or not np.array_equal(depth[expected[seen]], depth[index[seen]]):
        raise SystemExit("the splat and the argsort disagree about the nearest points")
    bound = (NUM_POINTS * BYTES_PER_POINT + SIZE * SIZE * BYTES_PER_PIXEL) / (bandwidth_gb_s() * 1e9)
    seconds = cpu_s(splat, 20)
    return {
        "splat_fps": 1 / seconds,
        "argsort_fps": 1 / cpu_s(argsort, 3),
        "surface_fps": 1 / cpu_s(_surface_frame(), 10),
        "bandwidth_bound_fps": 1 / bound,
        "share_of_bandwidth_bound": bound / seconds,
    }


def _surface_frame() -> Callable[[], None]:
    """Draws 351 k connected grid points once as a surface."""
    y, x = np.mgrid[0:448, 0:784].astype(np.float32)
    pixels = np.ascontiguousarray(np.stack([x * SIZE / 784, y * SIZE / 448], -1))
    depth = np.full((448, 784), 3.0, np.float32)
    quads, colour = connected_quads(depth), np.zeros((448, 784, 3), np.uint8)
    weight = np.ones((448, 784), np.float32)
    out = np.zeros((SIZE, SIZE, 3), np.float32), np.empty((SIZE, SIZE), np.float32), np.zeros((SIZE, SIZE), np.float32)

    def draw() -> None:
        out[1].fill(np.inf)
        rasterise_grid(pixels, depth, quads, colour, weight, np.float32(64), True, *out)

    draw()
    return draw


def synthetic_inputs(folder: Path) -> dict:
    """49 frames of a textured floor and wall at the sizes of an Ego-Exo4D take, written to disk."""
    rng = np.random.default_rng(0)
    camera = Pinhole(torch.tensor([370.0, 370.0, 391.5, 223.5]), (784, 448))
    rays = camera.rays(unit=False)[0].numpy()
    depth = np.minimum(1.5 / np.maximum(rays[..., 1], 0.05), 8.0).astype(np.float32)
    texture = rng.integers(0, 255, (3, 56, 98), np.uint8).repeat(8, 1).repeat(8, 2)
    write_video(folder / "exo.mp4", np.repeat(texture[None], 49, 0), 20)
    for index in range(49):
        np.save(folder / f"{index:05d}.npy", depth.astype(np.float16))
    up = torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64)
    eyes = torch.stack([torch.tensor([0.02 * t, 0.0, 2.0], dtype=torch.float64) for t in range(49)])
    poses = look_at(eyes, eyes + torch.tensor([0.1, 0.4, 1.0], dtype=torch.float64), up)
    ego = Pinhole(torch.tensor([220.0, 220.0, 223.5, 223.5]), (SIZE, SIZE))
    paths = [folder / f"{index:05d}.npy" for index in range(49)]
    return {"video": folder / "exo.mp4", "depth": paths, "exo_camera": camera,
            "T_world_exo": torch.eye(4, dtype=torch.float64), "ego_camera": ego, "poses": poses,
            "up": (0.0, -1.0, 0.0)}  # fmt: skip


def real_inputs(folder: Path) -> dict:
    """The first take of a folder in the EgoX layout."""
    from egoloom.ingest.egox import read_takes

    take = read_takes(folder)[0]
    return {"video": take.exo_path, "depth": take.depth_paths[:49], "take": take, "exo_camera": take.exo_camera,
            "T_world_exo": take.T_world_exo, "ego_camera": take.ego_camera(), "poses": take.T_world_ego(),
            "up": (0.0, 0.0, 1.0)}  # fmt: skip


def whole_clip(inputs: dict, folder: Path) -> dict[str, float]:
    """CPU-seconds of 49 frames from files to files: decoding, fusion, filters, scale, rendering, encoding."""
    start = time.process_time()
    if "take" in inputs:
        frames, depth = inputs["take"].exo_frames(), inputs["take"].depth()
        with VideoReader(inputs["video"]) as reader:  # the take was decoded while it was inspected: decode again
            reader.all_frames()
    else:
        with VideoReader(inputs["video"]) as reader:
            frames = reader.all_frames()
        depth = np.stack([np.load(path).astype(np.float32) for path in inputs["depth"]])
    loaded = time.process_time()
    prior = render_ego_prior(
        frames[:49], depth[:49], inputs["exo_camera"], inputs["T_world_exo"], inputs["ego_camera"], inputs["poses"],
        evidence=ScaleEvidence(up_world=inputs["up"]),
    )  # fmt: skip
    rendered = time.process_time()
    source = PriorSource(
        "clip", inputs["video"], inputs["depth"], frames[:49], inputs["exo_camera"], inputs["T_world_exo"],
        inputs["ego_camera"], inputs["poses"], Fraction(20),
    )  # fmt: skip
    write_prior(folder, prior, source, mode="correct", notes=[])
    end = time.process_time()
    return {
        "load_s": loaded - start,
        "fuse_scale_render_s": rendered - loaded,
        "encode_s": end - rendered,
        "whole_s": end - start,
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def kitchen_accuracy(num_clips: int) -> dict[str, float]:
    """Against the kitchen's truth: PSNR of the prior on visible static pixels, depth scale, ego pose estimation."""
    from egoloom.kitchen import KitchenSettings, render_clip
    from egoloom.kitchen.settings import NoiseSettings

    settings = KitchenSettings(
        seed=3, ego_size_px=112, exo_width_px=448, exo_height_px=448, duration_s=1.0, noise=NoiseSettings.none()
    )
    rows = [_kitchen_clip(render_clip(settings, index), settings, index) for index in range(num_clips)]
    return {key: float(np.nanmean([row[key] for row in rows])) for key in rows[0]}


def _kitchen_clip(clip, settings, index: int) -> dict[str, float]:
    from egoloom.exo2ego.prior.alignment import AlignmentConfig, align_inverse_depth
    from egoloom.kitchen.tracks import monocular_depth

    exo, ego = clip.exo, clip.ego
    cameras = [Pinhole(torch.tensor(v.intrinsics), (v.rgb.shape[3], v.rgb.shape[2])) for v in (exo, ego)]
    T_world_exo, poses = torch.tensor(exo.T_world_camera[0]), torch.tensor(ego.T_world_camera)
    arguments = (exo.rgb, exo.depth_m, cameras[0], T_world_exo, cameras[1])
    prior = render_ego_prior(*arguments, poses, config=PriorConfig(depth_scale=1.0))
    seen = static_and_visible(exo, ego, *cameras) & ~prior.hole_mask_THW
    solved = render_ego_prior(*arguments, poses, evidence=ScaleEvidence(up_world=(0.0, 0.0, 1.0)))
    names = [instance.name for instance in clip.instances]
    body = np.isin(exo.ids, [k for k, name in enumerate(names) if name.split("_")[0] in BODY_PARTS])
    estimate = estimate_ego_poses(
        exo.depth_m, body, cameras[0], T_world_exo, up_world=(0.0, 0.0, 1.0), fps=settings.fps
    )
    position, _, gaze = pose_errors(estimate.T_world_ego_T, poses)
    guessed = render_ego_prior(*arguments, estimate.T_world_ego_T, config=PriorConfig(depth_scale=1.0))
    both = seen & ~guessed.hole_mask_THW
    mono = monocular_depth(exo.depth_m, np.random.default_rng(index))
    relative = np.where(mono > 0, 1 / np.maximum(mono, 1e-3), 0).astype(np.float32)
    aligned = align_inverse_depth(relative, exo.depth_m, ~body, config=AlignmentConfig(mode="two_pass", momentum=0.5))
    good = (mono > 0) & ~body
    return {
        "kitchen_psnr_static_db": psnr(prior.frames_TCHW, ego.rgb, seen),
        "kitchen_share_static_visible": float(seen.mean()),
        "kitchen_psnr_estimated_pose_db": psnr(guessed.frames_TCHW, ego.rgb, both),
        "kitchen_psnr_true_pose_same_pixels_db": psnr(prior.frames_TCHW, ego.rgb, both),
        "kitchen_head_error_m": float(np.median(position)),
        "kitchen_gaze_error_deg": float(np.median(gaze)),
        "kitchen_scale_error_solver": abs(np.log(solved.depth_scale)),
        "kitchen_scale_error_aligned": abs(float(np.median((aligned.depth_THW / exo.depth_m)[good])) - 1),
    }


def static_and_visible(exo, ego, exo_camera: Camera, ego_camera: Camera) -> np.ndarray:
    """Ego pixels whose true surface point stands still and is seen by the exo camera, bool ``[T, H, W]``."""
    rays = ego_camera.rays(unit=False)[0]
    still = np.linalg.norm(exo.flow_px, axis=-1).max(0) < 0.3
    masks = []
    for index in range(len(ego.rgb)):
        depth = torch.tensor(ego.depth_m[index], dtype=torch.float64)
        world = transform_points(torch.tensor(ego.T_world_camera[index]), (rays * depth[..., None]).reshape(-1, 3))
        local = transform_points(invert(torch.tensor(exo.T_world_camera[0])), world)
        pixels, valid = exo_camera.project(local)
        width, height = exo_camera.image_size
        column = pixels[:, 0].round().long().clamp(0, width - 1).numpy()
        row = pixels[:, 1].round().long().clamp(0, height - 1).numpy()
        z = local[:, 2].numpy()
        same = np.abs(exo.depth_m[index][row, column] - z) < 0.02 * z + 0.01
        masks.append((valid.numpy() & same & still[row, column]).reshape(depth.shape))
    return np.stack(masks)


def psnr(a_TCHW: np.ndarray, b_TCHW: np.ndarray, mask_THW: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB over masked pixels."""
    if not mask_THW.any():
        return float("nan")
    squared = ((a_TCHW.astype(np.float64) - b_TCHW) ** 2).mean(1)
    return float(10 * np.log10(255**2 / squared[mask_THW].mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    real = Path(os.environ.get("EGOLOOM_REAL_DATA", "../shared/data")) / "egox" / "egoexo4D"
    parser.add_argument("--take-folder", type=Path, default=real if (real / "meta.json").is_file() else None)
    parser.add_argument("--kitchen-clips", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    report: dict[str, float] = splat_speed()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = real_inputs(options.take_folder) if options.take_folder else synthetic_inputs(folder)
        fuse_background(np.zeros((2, 3, 8, 8), np.uint8), np.ones((2, 8, 8), np.float32))  # compile outside the clock
        report |= whole_clip(inputs, folder / "out")
    if options.kitchen_clips:
        report |= kitchen_accuracy(options.kitchen_clips)
    if options.json:
        print(json.dumps({key: round(value, 4) for key, value in report.items()}))
        return
    for key, value in report.items():
        print(f"{key:40s} {value:10.3f}")


if __name__ == "__main__":
    main()
