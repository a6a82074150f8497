"""EgoX takes as a store: depth on the grid of the stored frame, cameras for its size."""

import shutil

import numpy as np
import pytest

from egoloom.cameras.rig import PosedCamera
from egoloom.clips import Modality
from egoloom.clips.media import read_arrays
from egoloom.errors import UserError
from egoloom.ingest import egox_store
from egoloom.ingest.egox import find_take, read_takes


def test_a_take_of_the_layout(take, tmp_path):
    """64 x 48 px of video in a 68 x 48 depth grid: the store keeps the centre, and the wearer's poses."""
    one = take()
    options = egox_store.DEFAULT_OPTIONS.model_copy(update={"progress": False})
    store = egox_store.ingest(tmp_path / "set", tmp_path / "store", options=options)
    (clip,) = store.clips  # no recorded ego view
    assert (clip.clip_id, clip.view, clip.end_s) == ("one_exo", "exo", 0.3)
    assert clip.present == {Modality.RGB, Modality.DEPTH}
    depth = read_arrays(store.media_path(Modality.DEPTH, "one_exo"))
    np.testing.assert_array_equal(depth["depth_m"], one.depth().astype(np.float16))
    np.testing.assert_allclose(depth["times_s"], np.arange(6) / 20)
    assert store.load_calibration("one_exo")["params"] == [60.0, 60.0, 32.0, 24.0]
    wearer = PosedCamera.from_dict(store.load_calibration(clip.extra["ego_calibration"]))
    np.testing.assert_allclose(wearer.trajectory.at(np.array([0.1]))[0, 0, 3], 0.2, atol=1e-6)
    assert store.validate(decode=True) == []


def test_a_take_without_depth_is_listed(take, tmp_path):
    take()
    shutil.rmtree(tmp_path / "set" / "depth_maps")
    options = egox_store.DEFAULT_OPTIONS.model_copy(update={"progress": False})
    with pytest.raises(UserError, match="no depth maps at"):
        egox_store.ingest(tmp_path / "set", tmp_path / "store", options=options)


@pytest.mark.real_data
def test_real_takes(real_data, tmp_path):
    options = egox_store.DEFAULT_OPTIONS.model_copy(update={"progress": False})
    store = egox_store.ingest(real_data / "egox", tmp_path / "store", take="sfu", options=options)
    exo, ego = "sfu_basketball014_4_1000_1048_exo", "sfu_basketball014_4_1000_1048_ego"
    assert {clip.video_id: (clip.view, clip.end_s) for clip in store.clips} == {exo: ("exo", 2.45), ego: ("ego", 2.45)}
    video = store.videos[exo]
    assert (video.width, video.height) == (784, 448)
    depth = read_arrays(store.media_path(Modality.DEPTH, exo))
    take = find_take(read_takes(real_data / "egox" / "egoexo4D"), "sfu")
    np.testing.assert_array_equal(depth["depth_m"], take.depth().astype(np.float16))
    np.testing.assert_allclose(depth["times_s"], np.arange(49) / 20)
    posed = PosedCamera.from_dict(store.load_calibration(ego))
    assert posed.camera.image_size == (448, 448)
    assert len(posed.trajectory) == 49
    assert store.validate(decode=True) == []


@pytest.mark.real_data
def test_smaller_copies_scale_depth_and_cameras(real_data, tmp_path):
    options = egox_store.DEFAULT_OPTIONS.model_copy(update={"progress": False, "short_side_px": 112})
    store = egox_store.ingest(real_data / "egox" / "in_the_wild", tmp_path / "store", options=options)
    (clip,) = store.clips
    assert read_arrays(store.media_path(Modality.DEPTH, clip.video_id))["depth_m"].shape == (49, 112, 196)
    camera = store.load_calibration(clip.video_id)
    assert camera["image_size"] == [196, 112]
    assert camera["params"][0] == pytest.approx(1436.48 / 4, rel=1e-6)
