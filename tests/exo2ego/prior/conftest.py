"""A textured room whose every pixel is known in closed form: floor, wall, a box; exo and ego cameras inside."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from egoloom.cameras import Camera, Pinhole, look_at

FLOOR_M, WALL_M = 0.0, 5.0  # z of the floor, y of the wall


@dataclass
class Room:
    """Exo frames with depth, cameras, ego poses."""

    frames: np.ndarray
    depth: np.ndarray
    exo_camera: Camera
    T_world_exo: torch.Tensor
    ego_camera: Camera
    T_world_ego: torch.Tensor

    @property
    def arguments(self):
        return (self.frames, self.depth, self.exo_camera, self.T_world_exo, self.ego_camera, self.T_world_ego)


def ray_trace(camera: Camera, T_world_camera: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """True colours ``[3, H, W]`` and z-depth of floor and wall, by intersecting rays."""
    rays, valid = camera.rays(unit=False)
    direction = (rays @ T_world_camera[:3, :3].T).numpy()
    origin = T_world_camera[:3, 3].numpy()
    with np.errstate(divide="ignore"):
        floor = np.where(direction[..., 2] < -1e-9, (FLOOR_M - origin[2]) / direction[..., 2], np.inf)
        wall = np.where(direction[..., 1] > 1e-9, (WALL_M - origin[1]) / direction[..., 1], np.inf)
    depth = np.minimum(floor, wall)
    point = origin + direction * np.where(np.isfinite(depth), depth, 0)[..., None]
    on_floor = floor < wall
    a = point[..., 0]
    b = np.where(on_floor, point[..., 1], point[..., 2])
    # Smooth patterns: their reconstruction error is small, so a wrong pixel shows.
    red = 128 + 60 * np.sin(2.1 * a) + 40 * np.cos(3.0 * b)
    green = np.where(on_floor, 90, 180) + 50 * np.sin(1.3 * a + 1.7 * b)
    blue = 128 + 70 * np.cos(1.1 * a - 2.3 * b)
    colour = np.clip(np.stack([red, green, blue]), 0, 255).round().astype(np.uint8)
    unseen = ~np.isfinite(depth) | ~valid.numpy()
    colour[:, unseen] = 0
    return colour, np.where(unseen, 0, depth).astype(np.float32)


UP = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)


def make_room(num_frames: int = 5, ego_camera: Camera | None = None, exo_camera: Camera | None = None) -> Room:
    def vector(*values: float) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64)

    exo = exo_camera or Pinhole(torch.tensor([130.0, 130.0, 79.5, 59.5], dtype=torch.float64), (160, 120))
    ego = ego_camera or Pinhole(torch.tensor([40.0, 40.0, 31.5, 31.5], dtype=torch.float64), (64, 64))
    T_world_exo = look_at(vector(0.3, -1.0, 1.5), vector(0.0, 3.0, 0.4), UP)
    shift = torch.linspace(0, 0.4, num_frames, dtype=torch.float64)
    eyes = torch.stack([vector(0.5, 1.0, 1.6) + s * vector(1, 0.5, 0) for s in shift])
    T_world_ego = look_at(eyes, eyes + vector(-0.2, 2.0, -0.8), UP)
    colour, depth = ray_trace(exo, T_world_exo)
    frames = np.repeat(colour[None], num_frames, 0)
    return Room(frames, np.repeat(depth[None], num_frames, 0), exo, T_world_exo, ego, T_world_ego)


@pytest.fixture
def room() -> Room:
    return make_room()


@pytest.fixture
def traced():
    return ray_trace


@pytest.fixture
def build_room():
    return make_room


@pytest.fixture
def egox_folder(tmp_path: Path):
    """Writes a room as a take in the EgoX layout, with a calibration of our own form."""

    def write(num_frames: int = 6, pad: int = 4, **changes) -> Path:
        from egoloom.clips.media import write_video

        room = make_room(num_frames)
        folder = tmp_path / "set"
        (folder / "depth_maps" / "room").mkdir(parents=True)
        write_video(folder / "videos" / "room" / "exo.mp4", room.frames, 20, crf=4)
        grid = np.pad(room.depth, ((0, 0), (0, 0), (pad, pad)), mode="edge")
        for index, one in enumerate(grid[: changes.pop("num_depth", num_frames)]):
            np.save(folder / "depth_maps" / "room" / f"{index:05d}.npy", one.astype(np.float16))
        w2c = torch.linalg.inv(room.T_world_exo)[:3].tolist()
        R = torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
        ego = (R @ torch.linalg.inv(room.T_world_ego)[:, :3]).tolist()
        K = [[130.0, 0, (160 + 2 * pad) / 2], [0, 130.0, 60.0], [0, 0, 1]]
        entry = {
            "take_name": "room", "exo_path": "videos/room/exo.mp4", "prompt": "a room", "camera_intrinsics": K,
            "camera_extrinsics": w2c, "ego_intrinsics": [[150, 0, 255.5], [0, 150, 255.5], [0, 0, 1]],
            "ego_extrinsics": ego, "depth_dir": "depth_maps/room", **changes,
        }  # fmt: skip
        (folder / "meta.json").write_text(json.dumps({"test_datasets": [entry]}))
        exo = room.exo_camera.crop(-pad, 0, 160 + 2 * pad, 120)
        calibration = {"exo": exo.to_dict(), "ego": room.ego_camera.to_dict()}
        (tmp_path / "calibration.json").write_text(json.dumps(calibration))
        return folder

    return write
