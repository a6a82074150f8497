"""Small synthetic takes: a textured wall seen by a still exo camera and a moving ego camera."""

import pytest
import torch

from egoloom.cameras import Pinhole, look_at
from egoloom.exo2ego.clip_geometry import geometry_from_cameras
from egoloom.exo2ego.samples import GeneratorSample
from egoloom.exo2ego.tiny import TinyConfig, build_tiny_pipeline

DISTANCE_M = 2.0


def wall_texture(xy: torch.Tensor, seed: int) -> torch.Tensor:
    """Colours [..., 3] in 0..1 of points on the wall."""
    generator = torch.Generator().manual_seed(seed)
    frequency = torch.randn(2, 12, generator=generator) * 3
    phase = torch.rand(12, generator=generator) * 6.28
    mix = torch.rand(12, 3, generator=generator)
    return torch.sigmoid(torch.sin(xy @ frequency + phase) @ (mix - 0.5) * 2)


def wall_view(camera: Pinhole, pose: torch.Tensor, seed: int) -> torch.Tensor:
    """The frame [3, H, W] uint8 of the plane z = DISTANCE_M."""
    rays = (camera.rays(unit=False)[0] @ pose[:3, :3].T).float()
    reach = (DISTANCE_M - pose[2, 3].float()) / rays[..., 2]
    points = pose[:3, 3].float() + rays * reach[..., None]
    return (wall_texture(points[..., :2], seed) * 255).round().to(torch.uint8).permute(2, 0, 1)


def build_sample(num_frames: int = 9, size: int = 32, exo_width: int = 48, seed: int = 0) -> GeneratorSample:
    exo_camera = Pinhole([30.0, 30.0, exo_width / 2, size / 2], (exo_width, size))
    ego_camera = Pinhole([20.0, 20.0, size / 2, size / 2], (size, size))
    exo_pose = torch.eye(4, dtype=torch.float64)
    steps = torch.linspace(-0.3, 0.3, num_frames, dtype=torch.float64)
    up = torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64)
    ego_poses = torch.stack(
        [
            look_at(
                torch.tensor([0.4 + x, 0.1, 0.8], dtype=torch.float64),
                torch.tensor([0.4 + x, 0.1, 2.0], dtype=torch.float64),
                up,
            )
            for x in steps
        ]
    )
    truth = torch.stack([wall_view(ego_camera, pose, seed) for pose in ego_poses])
    hole = torch.zeros(num_frames, size, size, dtype=torch.bool)
    hole[:, size // 3 : size // 2, size // 4 : size // 2] = True
    exo = wall_view(exo_camera, exo_pose, seed)[None].expand(num_frames, -1, -1, -1).contiguous()
    depth = torch.full((num_frames, size, exo_width), DISTANCE_M)
    return GeneratorSample(
        name=f"wall{seed}",
        exo_TCHW=exo,
        prior_TCHW=torch.where(hole[:, None], 0, (truth.float() * 0.8).to(torch.uint8)),
        truth_TCHW=truth,
        hole_THW=hole,
        geometry=geometry_from_cameras(depth, exo_camera, exo_pose, ego_camera, ego_poses, pixel_step=1),
    )


@pytest.fixture(scope="session")
def make_sample():
    """The maker of takes; test modules cannot import from here."""
    return build_sample


@pytest.fixture(scope="session")
def sample() -> GeneratorSample:
    return build_sample()


@pytest.fixture
def tiny_config() -> TinyConfig:
    return TinyConfig(z_dim=12, num_layers=2, num_heads=2, head_dim=16, ffn_dim=64)


@pytest.fixture
def pipeline(tiny_config: TinyConfig, sample: GeneratorSample):
    from egoloom.exo2ego.autoencoder_training import train_tiny_vae

    vae = train_tiny_vae([sample.truth_TCHW, sample.exo_TCHW], tiny_config, show_progress=False)
    pipe = build_tiny_pipeline(tiny_config, vae=vae)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def wall_store(tmp_path_factory):
    """A clip store of two takes of the wall: exo with depth and camera, ego with its trajectory."""
    from fractions import Fraction

    import numpy as np

    from egoloom.cameras import PosedCamera, Trajectory
    from egoloom.clips import Clip, ClipStore, Modality, Video
    from egoloom.clips.media import write_arrays, write_video

    path = tmp_path_factory.mktemp("wall") / "store"
    store = ClipStore.create(
        path, name="wall", source="test", licence="none", label_spaces={}, splits=["train", "test"]
    )
    size, frames, fps = 64, 9, Fraction(8)
    times_s = np.arange(frames) / 8
    for number in range(2):
        clip = build_sample(frames, size, size, seed=number)
        exo_camera = Pinhole([40.0, 40.0, size / 2, size / 2], (size, size))
        ego_camera = Pinhole([40.0, 40.0, size / 2, size / 2], (size, size))
        ego_poses = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
        ego_poses[:, 0, 3] = torch.linspace(0.2, 0.5, frames, dtype=torch.float64)
        ego_poses[:, 2, 3] = 0.8
        still = PosedCamera(exo_camera, Trajectory.fixed(torch.eye(4, dtype=torch.float64)))
        moving = PosedCamera(ego_camera, Trajectory(torch.from_numpy(times_s), ego_poses))
        for view, posed, picture in (("exo", still, clip.exo_TCHW), ("ego", moving, clip.truth_TCHW)):
            video_id = f"take{number}_{view}"
            store.save_calibration(video_id, posed.to_dict())
            write_video(store.media_path(Modality.RGB, video_id), picture.numpy(), fps)
            present = {Modality.RGB}
            if view == "exo":
                depth = np.full((frames, size, size), DISTANCE_M, np.float16)
                write_arrays(store.media_path(Modality.DEPTH, video_id), {"depth_m": depth, "times_s": times_s})
                present.add(Modality.DEPTH)
            video = Video(
                video_id,
                f"media/rgb/{video_id}.mp4",
                fps,
                size,
                size,
                frames,
                frames / 8,
                view,
                f"take{number}",
                video_id,
            )
            row = Clip(
                video_id, video_id, "p", view, f"take{number}", 0.0, frames / 8, "train", present=frozenset(present)
            )
            store.append(videos=[video], clips=[row])
    return path


@pytest.fixture
def egox_folder(tmp_path):
    """Writes a folder in the EgoX layout: one take ``wall`` of a wall, 64 px, with a lens for the ego view."""
    import json

    import numpy as np

    from egoloom.clips.media import write_video

    def write(num_frames: int = 9, *, with_depth: bool = True, **changes):
        folder = tmp_path / f"takes{num_frames}"
        clip = build_sample(num_frames, 64, 64)
        write_video(folder / "videos/wall/exo.mp4", clip.exo_TCHW.numpy(), 20)
        write_video(folder / "videos/wall/ego_GT.mp4", clip.truth_TCHW.numpy(), 20)
        if with_depth:
            (folder / "depth_maps/wall").mkdir(parents=True)
        for index in range(num_frames if with_depth else 0):
            np.save(folder / f"depth_maps/wall/{index:05d}.npy", np.full((64, 64), DISTANCE_M, np.float16))
        poses = np.repeat(np.eye(4)[None, :3], num_frames, 0)
        poses[:, 0, 3] = np.linspace(-0.2, -0.5, num_frames)
        entry = {
            "take_name": "wall", "exo_path": "videos/wall/exo.mp4", "ego_gt_path": "videos/wall/ego_GT.mp4",
            "camera_intrinsics": [[30.0, 0, 32.0], [0, 30.0, 32.0], [0, 0, 1]],
            "camera_extrinsics": np.eye(4)[:3].tolist(), "ego_extrinsics": poses.tolist(), **changes,
        }  # fmt: skip
        (folder / "meta.json").write_text(json.dumps({"test_datasets": [entry]}))
        lens = Pinhole(torch.tensor([40.0, 40.0, 32.0, 32.0]), (64, 64)).to_dict()
        (folder / "calibration.json").write_text(json.dumps({"ego": lens}))
        return folder

    return write


@pytest.fixture(scope="session")
def wan_folder(tmp_path_factory):
    """The 14B model's architecture at tiny size with a text encoder, in diffusers layout."""
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from transformers import BertTokenizerFast, UMT5Config, UMT5EncoderModel

    folder = tmp_path_factory.mktemp("wan")
    torch.manual_seed(0)
    AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1).save_pretrained(folder / "vae")
    WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=36, out_channels=16, text_dim=8, freq_dim=16,
        ffn_dim=32, num_layers=2, image_dim=12, added_kv_proj_dim=32, rope_max_seq_len=64,
    ).save_pretrained(folder / "transformer")  # fmt: skip
    words = (
        "[PAD] [UNK] [CLS] [SEP] [MASK] [ ] exo ego view scene overview : a person kicks the ball room red * . , action"
    )
    (folder / "words.txt").write_text("\n".join(words.split()))
    BertTokenizerFast(str(folder / "words.txt")).save_pretrained(folder / "tokenizer")
    text = UMT5Config(vocab_size=64, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    UMT5EncoderModel(text).save_pretrained(folder / "text_encoder")
    return folder
