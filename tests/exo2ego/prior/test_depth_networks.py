"""The depth network interface on the real Depth Anything classes at tiny size with random weights."""

import numpy as np
import pytest
import torch

from egoloom.errors import UserError
from egoloom.exo2ego.prior.depth_networks import TransformersDepth

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
