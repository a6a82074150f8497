"""The reader of EgoX takes: sizes are stated, never guessed; real takes where they are at hand."""

import os
from pathlib import Path

import numpy as np
import pytest

from egoloom.cameras import KannalaBrandt, Pinhole
from egoloom.errors import UserError
from egoloom.ingest.egox import find_take, read_takes
from egoloom.ingest.egox_calibration import find_calibration, read_calibration

REAL = Path(os.environ.get("EGOLOOM_REAL_DATA", "../shared/data")) / "egox"


def test_centre_crop_by_the_layouts_rule(take):
    one = take()
    assert (one.exo_window.x0, one.exo_window.width) == (2, 64)
    assert one.depth().shape == (6, 48, 64)
    np.testing.assert_allclose(one.depth()[0, 0, 0], np.float16(1 + 2 / 8192))
    assert one.exo_camera.params.tolist() == [60.0, 60.0, 31.5 + 0.5, 24.0]
    assert any("columns 2..65" in note for note in one.notes)


@pytest.mark.parametrize("grid", [(68, 50), (80, 48), (60, 48)])
def test_unstated_relations_are_refused(take, grid):
    one = take(grid=grid)
    with pytest.raises(UserError, match="--exo-fit"):
        one.depth()


def test_stated_relations(take):
    assert take(grid=(32, 24), exo_fit="resize").depth().shape == (6, 48, 64)


def test_stated_crop_in_the_entry(take):
    one = take(grid=(80, 60), exo_crop=[5, 7, 64, 48])
    np.testing.assert_allclose(one.depth(), one.depth(full_grid=True)[:, 7:55, 5:69])
    assert "as stated" in one.notes[0]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_depth_types(take, dtype):
    one = take(dtype=dtype)
    assert one.depth().dtype == np.float32


def test_counts_that_differ_are_said(take):
    one = take(num_video=7, num_depth=4)
    assert one.num_frames == 4
    assert len(one.exo_frames()) == len(one.depth()) == len(one.T_world_ego()) == 4
    assert any("7 video frames, 4 depth maps, 6 ego poses" in note for note in one.notes)


def test_gap_in_depth(take):
    one = take()
    (one.folder / "depth_maps/one/00003.npy").unlink()
    assert one.num_frames == 3
    (one.folder / "depth_maps/one/00000.npy").unlink()
    with pytest.raises(UserError, match="first depth map"):
        _ = read_takes(one.folder)[0].num_frames


def test_poses_at_another_rate(take):
    one = take(num_poses=4, pose_fps=10.0)  # 0.3 s of poses for video at 20 fps
    assert one.num_frames == 6
    np.testing.assert_allclose(one.T_world_ego()[:, 0, 3], np.arange(6) * 0.05, atol=1e-9)


def test_null_and_broken_poses_are_interpolated(take):
    poses = np.repeat(np.eye(4)[None, :3], 6, 0)
    poses[:, 1, 3] = -np.arange(6)
    entries = poses.tolist()
    entries[2] = None
    entries[3][0][0] = float("nan")
    one = take(ego_extrinsics=entries)
    np.testing.assert_allclose(one.T_world_ego()[:, 1, 3], np.arange(6), atol=1e-9)
    assert any("null" in note for note in one.notes)


def test_non_orthonormal_poses_are_refused(take):
    one = take(ego_extrinsics=(np.repeat(np.eye(4)[None, :3], 6, 0) * 1.5).tolist())
    with pytest.raises(UserError, match="not orthonormal"):
        one.T_world_ego()


def test_upright_axes(take):
    one = take()
    # The sensor's x axis is the upright image's y axis (down), its y axis points left.
    R = one.T_world_ego()[0, :3, :3]
    np.testing.assert_allclose(R[:, 1], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(R[:, 0], [0, -1, 0], atol=1e-12)


def test_published_paths_with_the_repository_prefix(take):
    one = take()
    one.entry["exo_path"] = "./set/videos/one/exo.mp4"
    assert one.exo_path.exists()


def test_calibration_is_looked_for_beside_and_above(tmp_path):
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    assert find_calibration(folder, "one") is None
    (tmp_path / "calibration.json").write_text("{}")
    assert find_calibration(folder, "one") == tmp_path / "calibration.json"
    (folder / "one.calibration.json").write_text("{}")
    assert find_calibration(folder, "one") == folder / "one.calibration.json"
    with pytest.raises(UserError, match="describes no camera"):
        read_calibration(tmp_path / "calibration.json")
    (tmp_path / "calibration.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        read_calibration(tmp_path / "calibration.json")


def test_raw_fisheye_without_its_lens_is_refused(take):
    one = take(camera_intrinsics=[[1250.0, 0, 1920], [0, 1250.0, 1080], [0, 0, 1]], exo_fit="centre_crop")
    with pytest.raises(UserError, match="raw fisheye"):
        _ = one.exo_camera
    assert take is not None


def test_no_ego_lens_is_refused(take):
    one = take(calibration=False)
    with pytest.raises(UserError, match="No calibration of the ego lens"):
        one.ego_camera()


def test_names_and_missing_files(take, tmp_path):
    one = take()
    assert find_take([one], None) is one
    assert find_take([one], "on") is one
    with pytest.raises(UserError, match="0 takes match"):
        find_take([one], "two")
    with pytest.raises(UserError, match=r"no meta\.json"):
        read_takes(tmp_path)
    (one.folder / "depth_maps/one/00001.npy").write_bytes(b"x")
    with pytest.raises(UserError, match="Cannot read the depth map"):
        one.depth()
    (one.folder / "meta.json").write_text("{}")
    with pytest.raises(UserError, match="not in the EgoX layout"):
        read_takes(one.folder)


@pytest.mark.real_data
@pytest.mark.skipif(not (REAL / "egoexo4D").is_dir(), reason=f"no real takes at {REAL}")
def test_real_takes():
    takes = read_takes(REAL / "egoexo4D")
    assert len(takes) == 2
    for one in takes:
        assert one.num_frames == 49
        assert isinstance(one.exo_camera, KannalaBrandt)
        assert one.exo_camera.image_size == (784, 448)
        # The raw focal length is 1.413 to 1.426 times that of the undistorted frames.
        ratio = float(one.exo_camera.params[0]) / (one.entry["camera_intrinsics"][0][0] * 796 / 3840)
        assert 1.413 < ratio < 1.426
        f, cx, cy = one.ego_camera().params[:3].tolist()
        assert (round(f, 2), round(cx), round(cy)) == (194.19, 223, 227) or round(cy) == 228
        # The wearer's camera is seen by the exo camera in every frame.
        from egoloom.cameras import invert, transform_points

        centres = transform_points(invert(one.T_world_exo), one.T_world_ego()[:, :3, 3])
        assert bool(one.exo_camera.project(centres)[1].all())
    (wild,) = read_takes(REAL / "in_the_wild")
    assert isinstance(wild.exo_camera, Pinhole)
    assert wild.exo_window.width == 784
