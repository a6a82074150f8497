"""Depth networks on the real Depth Anything classes at tiny size with random weights, and the track they fill."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from egoloom.cli.main import run_verb
from egoloom.clips import Clip, ClipStore, Modality, Video
from egoloom.clips.media import VideoReader, read_arrays, write_video
from egoloom.errors import UserError
from egoloom.modalities.depth_networks import TransformersDepth, metric_from_relative

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("depth_anything")
    backbone = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=28, patch_size=14,
        out_features=["stage1", "stage2", "stage3", "stage4"], reshape_hidden_states=False, apply_layernorm=True,
    )  # fmt: skip
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=16, neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8,
        head_hidden_size=8, patch_size=14, depth_estimation_type="metric", max_depth=20,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.DepthAnythingForDepthEstimation(config).save_pretrained(path)
    size = {"height": 28, "width": 28}
    transformers.DPTImageProcessor(size=size, ensure_multiple_of=14, keep_aspect_ratio=False).save_pretrained(path)
    return path


def test_depth_has_the_size_of_the_frames(folder):
    network = TransformersDepth(folder)
    assert network.kind == "metric"
    frames = np.random.default_rng(0).integers(0, 255, (5, 3, 40, 60), np.uint8)
    depth = network.depth(frames, batch=2)
    assert depth.shape == (5, 40, 60)
    assert depth.dtype == np.float32
    assert np.isfinite(depth).all()
    np.testing.assert_allclose(network.depth(frames[3:4])[0], depth[3], atol=1e-4)
    assert TransformersDepth(folder, kind="relative_inverse").kind == "relative_inverse"


def test_missing_weights_are_told(tmp_path):
    with pytest.raises(UserError, match="no depth network"):
        TransformersDepth(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="transformers can read"):
        TransformersDepth(tmp_path)


def test_relative_depth_needs_a_range() -> None:
    inverse = np.linspace(0, 1, 1000, dtype=np.float32).reshape(1, 10, 100)
    metres = metric_from_relative(inverse, (1.0, 5.0))
    assert metres.min() == pytest.approx(1.0)
    assert metres.max() == pytest.approx(5.0)
    middle = float(1 / (1 / 5 + 0.5 * (1 - 1 / 5)))  # halfway in inverse depth
    assert metres.ravel()[500] == pytest.approx(middle, rel=0.01)
    for wrong in (None, (5.0, 1.0), (0.0, 3.0)):
        with pytest.raises(UserError, match="range"):
            metric_from_relative(inverse, wrong)


@pytest.fixture
def store(tmp_path):
    rng = np.random.default_rng(0)
    store = ClipStore.create(tmp_path / "store", name="walk", source="test", splits=["train"])
    for name in ("one", "two"):
        write_video(store.media_path(Modality.RGB, name), rng.integers(0, 255, (6, 3, 40, 60), np.uint8), 10)
        video = Video(name, f"media/rgb/{name}.mp4", Fraction(10), 60, 40, 6, 0.6)
        store.append(videos=[video], clips=[Clip(name, name, "", "ego", "", 0.0, 0.6, "train")])
    return store


def test_depth_fills_a_track_and_continues(folder, store, capsys):
    arguments = ["modalities", "depth", "--store", str(store.path), "--network", str(folder)]
    run_verb(arguments)
    assert "depth: 2 computed" in capsys.readouterr().out
    again = ClipStore.open(store.path)
    assert all(Modality.DEPTH in clip.present for clip in again.clips)
    arrays = read_arrays(again.media_path(Modality.DEPTH, "one"))
    assert arrays["depth_m"].shape == (6, 40, 60)
    assert arrays["depth_m"].dtype == np.float16
    np.testing.assert_allclose(arrays["times_s"], np.arange(6) / 10)
    with VideoReader(again.media_path(Modality.RGB, "one")) as reader:
        expected = TransformersDepth(folder).depth(reader.all_frames())
    np.testing.assert_allclose(arrays["depth_m"], expected, rtol=2e-3)
    run_verb(arguments)
    assert "depth: 0 computed, 2 skipped" in capsys.readouterr().out
    again.validate()


def test_depth_needs_weights(store, tmp_path):
    with pytest.raises(UserError, match="no depth network"):
        run_verb(["modalities", "depth", "--store", str(store.path), "--network", str(tmp_path / "absent")])
    assert all(Modality.DEPTH not in clip.present for clip in ClipStore.open(store.path).clips)
