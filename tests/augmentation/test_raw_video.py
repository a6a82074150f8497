"""A raw video becomes a take: kitchen truth for the head, and everything that can be missing or wrong."""

import json
from pathlib import Path

import numpy as np
import pytest

from egoloom.augmentation.raw_video import RawVideoConfig, refuse_two_people, take_from_video
from egoloom.clips import ClipStore, Modality
from egoloom.errors import UserError


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory) -> ClipStore:
    from egoloom.cli.kitchen import main

    out = tmp_path_factory.mktemp("kitchen") / "store"
    main(
        ["--num-clips", "2", "--seed", "3", "--size", "64", "--exo-size", "128", "96", "--no-anti-aliasing", "--out",
         str(out), "--workers", "1"]
    )  # fmt: skip
    return ClipStore.open(out)


@pytest.fixture(scope="module")
def raw(kitchen: ClipStore, tmp_path_factory) -> tuple[Path, RawVideoConfig, np.ndarray]:
    """The video, what is known about it, and the true ego poses."""
    clip = kitchen.select(view="exo")[0]
    video = kitchen.videos[clip.video_id]
    folder = tmp_path_factory.mktemp("raw")
    calibration = folder / "exo.json"
    calibration.write_text(json.dumps(kitchen.load_calibration(video.calibration_id)))
    ego = next(v for v in kitchen.videos.values() if v.take_id == video.take_id and v.view == "ego")
    truth = np.array(kitchen.load_calibration(ego.calibration_id)["T_world_camera"]["T_world_camera"])
    config = RawVideoConfig(depth=kitchen.media_path(Modality.DEPTH, clip.video_id), calibration=calibration)
    return kitchen.media_path(Modality.RGB, clip.video_id), config, truth


def test_the_wearers_head_is_found(raw) -> None:
    path, config, truth = raw
    take = take_from_video(path, config, num_frames=15)
    assert take.exo_TCHW.shape == (15, 3, 96, 128)
    assert take.depth_THW.shape == (15, 96, 128)
    true_centres = truth[np.linspace(0, len(truth) - 1, 15).round().astype(int), :3, 3]
    error_m = np.linalg.norm(take.T_world_ego[:, :3, 3].numpy() - true_centres, axis=1)
    assert np.median(error_m) < 0.2


def test_one_command_from_video_to_ego_video(raw, tmp_path: Path, capsys) -> None:
    from egoloom.cli.exo2ego import main

    path, config, _ = raw
    options = ["--depth", str(config.depth), "--calibration", str(config.calibration), "--num-frames", "9"]
    main(["generate", str(path), *options, "--out", str(tmp_path), "--json"])
    assert json.loads(capsys.readouterr().out)["clips"][0]["clip"] == path.stem
    assert (tmp_path / f"{path.stem}.mp4").stat().st_size > 500


def test_two_people_are_refused() -> None:
    one = np.zeros((4, 60, 80), bool)
    one[:, 10:50, 10:25] = True
    refuse_two_people(one)
    small = one.copy()
    small[:, 40:45, 60:66] = True
    refuse_two_people(small)
    two = one.copy()
    two[:, 8:48, 55:70] = True
    with pytest.raises(UserError, match="Two people"):
        refuse_two_people(two)


def test_bad_input(raw, tmp_path: Path) -> None:
    path, config, _ = raw
    with pytest.raises(UserError, match="no depth") as error:
        take_from_video(path, RawVideoConfig(), num_frames=5)
    assert "--depth" in str(error.value.fix)
    with pytest.raises(UserError, match="There is no video"):
        take_from_video(tmp_path / "absent.mp4", config, num_frames=5)
    with pytest.raises(UserError, match="holds no calibration"):
        take_from_video(path, config.model_copy(update={"calibration": tmp_path / "absent.json"}), num_frames=5)
    np.savez(tmp_path / "other.npz", something=np.zeros(3))
    with pytest.raises(UserError, match="depth_m"):
        take_from_video(path, config.model_copy(update={"depth": tmp_path / "other.npz"}), num_frames=5)
    keypoints = tmp_path / "keypoints.json"
    keypoints.write_text(json.dumps({"head": [[10, 10], [11, 10]]}))
    with pytest.raises(UserError, match="2 entries"):
        take_from_video(path, config.model_copy(update={"keypoints": keypoints}), num_frames=5)


def test_nobody_in_view(raw, tmp_path: Path) -> None:
    from egoloom.clips.media import write_video

    empty = tmp_path / "empty.mp4"
    write_video(empty, np.full((10, 3, 96, 128), 90, np.uint8), 10)
    np.savez(tmp_path / "flat.npz", depth_m=np.full((10, 96, 128), 3.0, np.float16), times_s=np.arange(10) / 10)
    with pytest.raises(UserError, match="head") as error:
        take_from_video(empty, RawVideoConfig(depth=tmp_path / "flat.npz"), num_frames=5)
    assert "--ego-poses" in str(error.value.fix)  # an option that generate has, see the next test


def test_placed_poses_serve_where_no_head_is_seen(raw, tmp_path: Path, capsys) -> None:
    from egoloom.cli.exo2ego import main
    from egoloom.clips.media import write_video

    empty, poses = tmp_path / "empty.mp4", tmp_path / "poses.json"
    write_video(empty, np.full((10, 3, 96, 128), 90, np.uint8), 10)
    np.savez(tmp_path / "flat.npz", depth_m=np.full((10, 96, 128), 3.0, np.float16), times_s=np.arange(10) / 10)
    first, last = np.eye(4), np.eye(4)
    last[:3, 3] = (0.9, 0.0, 0.0)
    content = {"times_s": [0.0, 0.9], "T_world_camera": [first.tolist(), last.tolist()], "depth_scale": 1.5}
    poses.write_text(json.dumps(content))
    take = take_from_video(empty, RawVideoConfig(depth=tmp_path / "flat.npz", ego_poses=poses), num_frames=5)
    np.testing.assert_allclose(take.T_world_ego[:, 0, 3], take.times_s, atol=1e-6)
    assert take.depth_scale == 1.5
    out = tmp_path / "out"
    options = ["--depth", str(tmp_path / "flat.npz"), "--ego-poses", str(poses), "--num-frames", "5"]
    main(["generate", str(empty), *options, "--out", str(out), "--json"])
    assert (out / "empty.mp4").is_file()
    with pytest.raises(UserError, match="Cannot read ego poses"):
        main(["generate", str(empty), *options[:3], str(tmp_path / "absent.json"), "--out", str(tmp_path / "other")])


def test_a_person_who_leaves_the_frame(raw, tmp_path: Path) -> None:
    path, config, _ = raw
    mask = np.zeros((20, 96, 128), bool)
    mask[:7, 20:70, 50:75] = True  # in view for a third of the two seconds
    np.savez(tmp_path / "leaves.npz", mask=mask)
    with pytest.raises(UserError, match=r"from 0\.6 to 2\.0 s"):
        take_from_video(path, config.model_copy(update={"person_mask": tmp_path / "leaves.npz"}), num_frames=20)
    mask[:15] = mask[0]
    np.savez(tmp_path / "returns.npz", mask=mask)
    take = take_from_video(path, config.model_copy(update={"person_mask": tmp_path / "returns.npz"}), num_frames=20)
    assert np.isfinite(take.T_world_ego.numpy()).all()


def test_a_moving_camera_needs_a_mask(raw, tmp_path: Path) -> None:
    path, config, _ = raw
    assert config.calibration is not None
    camera = json.loads(config.calibration.read_text())
    pose = camera["T_world_camera"]
    matrix = pose if isinstance(pose, list) else pose["T_world_camera"][0]
    camera["T_world_camera"] = {"times_s": [0.0, 10.0], "T_world_camera": [matrix, matrix]}
    moving = tmp_path / "moving.json"
    moving.write_text(json.dumps(camera))
    with pytest.raises(UserError, match="moving camera"):
        take_from_video(path, config.model_copy(update={"calibration": moving}), num_frames=5)
