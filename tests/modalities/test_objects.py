"""A detector of the documented signature, made here with ONNX operators, on videos where its answer is known."""

import numpy as np
import pytest

from egoloom.clips import Modality
from egoloom.clips.media import read_table
from egoloom.clips.tracks import TrackReader
from egoloom.errors import UserError
from egoloom.modalities.objects import Detector, ObjectsConfig, compute

onnx = pytest.importorskip("onnx")


def write_model(path, boxes: np.ndarray, size: tuple[int, int] = (64, 64)) -> None:
    """Returns the given boxes, the scores multiplied with the largest value of the image (1 for white)."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("ReduceMax", ["image"], ["bright"], keepdims=0),
        helper.make_node("Mul", ["score_only", "bright"], ["scaled"]),
        helper.make_node("Add", ["rest", "scaled"], ["out"]),
    ]
    mask = np.zeros_like(boxes, dtype=np.float32)
    mask[:, 4] = 1
    initializers = [
        numpy_helper.from_array(boxes.astype(np.float32) * mask, "score_only"),
        numpy_helper.from_array(boxes.astype(np.float32) * (1 - mask), "rest"),
    ]
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, size[1], size[0]])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, list(boxes.shape))],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


@pytest.fixture
def config(tmp_path) -> ObjectsConfig:
    boxes = np.array([[0, 0, 32, 24, 0.9, 1], [16, 12, 64, 48, 0.6, 0], [0, 0, 9, 9, 0.1, 0]])
    write_model(tmp_path / "d.onnx", boxes)
    (tmp_path / "names.txt").write_text("cup\nleft hand\n")
    return ObjectsConfig(model=tmp_path / "d.onnx", class_names=tmp_path / "names.txt", frames_a_second=4)


def test_boxes_are_in_pixels_of_the_stored_frame(config):
    detector = Detector(config)
    frame = np.full((3, 96, 128), 255, np.uint8)  # 128 x 96 fits into 64 x 64 at one half
    found = detector.detect(frame)
    np.testing.assert_allclose(found[0], [0, 0, 64, 48, 0.9, 1], rtol=1e-6)
    np.testing.assert_allclose(found[1, :4], [32, 24, 128, 96])


def test_store(store, config):
    report = compute(store, config, progress=False)
    assert (report.num_done, report.failures) == (3, ())
    table = read_table(store.media_path(Modality.BOXES, "v0"))
    np.testing.assert_allclose(np.unique(table["time_s"]), [0, 0.25, 0.5, 0.75])
    assert set(table["category"]) == {"cup", "left hand"}
    assert table["is_hand"].tolist() == [name == "left hand" for name in table["category"]]
    layout = TrackReader(store).boxes("v0", np.array([0.25]), 4)
    assert layout["categories"][0].tolist() == [2, 1, 0, 0]
    assert compute(store, config, progress=False).num_skipped == 3


def test_bad_models_are_one_clear_error(store, config, tmp_path):
    (tmp_path / "names.txt").write_text("cup\n")
    with pytest.raises(UserError, match="names the class 1"):
        compute(store, config, progress=False)
    (tmp_path / "d.onnx").write_bytes(b"not a model")
    with pytest.raises(UserError, match="not a model that ONNX Runtime can open"):
        compute(store, config, progress=False)
    (tmp_path / "d.onnx").unlink()
    with pytest.raises(UserError, match="There is no file"):
        compute(store, config, progress=False)


def test_a_model_with_another_output(store, config, tmp_path):
    write_model(tmp_path / "d.onnx", np.zeros((3, 5)))
    with pytest.raises(UserError, match=r"returned the shape \[3, 5\]"):
        compute(store, config, progress=False)
