"""``egoloom ego-prior`` end to end: what it writes, what it refuses, real takes against the real ego video."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from egoloom.cameras import PosedCamera
from egoloom.cli.ego_prior import main
from egoloom.clips import ClipStore, Modality
from egoloom.clips.media import VideoReader, read_arrays, write_video
from egoloom.errors import UserError
from egoloom.ingest.egox import read_takes

REAL = Path(os.environ.get("EGOLOOM_REAL_DATA", "../shared/data")) / "egox"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real takes at {REAL}")


def read(path):
    with VideoReader(path) as reader:
        return reader.all_frames()


def test_writes_the_layout_and_it_can_be_read_again(egox_folder, tmp_path, capsys, traced, build_room):
    folder = egox_folder()
    main([str(folder), "--out", str(tmp_path / "prior.mp4"), "--size", "64", "--depth-scale", "1", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["depth_scale"] == 1
    assert report["num_frames"] == 6
    out = tmp_path / "prior"
    names = {path.name for path in (out / "videos" / "room").iterdir()}
    assert names == {"ego_Prior.mp4", "exo.mp4", "hole_mask.mp4", "confidence.mp4", "preview.mp4"}
    prior = read(tmp_path / "prior.mp4")
    room = build_room(6)
    truth, _ = traced(room.ego_camera, room.T_world_ego[3])
    seen = read(out / "videos/room/hole_mask.mp4")[3, 0] < 128
    error = ((prior[3].astype(float) - truth) ** 2)[:, seen].mean()
    assert 10 * np.log10(255**2 / error) > 24  # after compression
    again = read_takes(out, calibration=tmp_path / "calibration.json")[0]
    torch.testing.assert_close(again.T_world_ego(), read_takes(folder)[0].T_world_ego())
    assert again.depth(full_grid=True).shape == (6, 120, 168)
    assert again.ego_prior_frames().shape == (6, 3, 64, 64)


def test_folder_stands_alone_and_keeps_its_takes(egox_folder, tmp_path, capsys):
    """Moved elsewhere it is read without the sources, by us and by the rules of the public EgoX."""
    source, out = egox_folder(), tmp_path / "priors"
    arguments = [str(source), "--size", "64", "--depth-scale", "1.25", "--out", str(out)]
    main(arguments)
    meta = source / "meta.json"
    meta.write_text(meta.read_text().replace('"take_name": "room"', '"take_name": "hall"'))
    main(arguments)
    original = read_takes(source)[0]
    repository = tmp_path / "elsewhere" / "egox"
    moved = repository / "example" / "priors"
    moved.parent.mkdir(parents=True)
    out.rename(moved)
    hall, room = read_takes(moved)
    assert (hall.name, room.name) == ("hall", "room")
    assert room.known_depth_scale == 1.0
    torch.testing.assert_close(room.exo_camera.params, original.exo_camera.params)
    torch.testing.assert_close(room.ego_camera((64, 64)).params, original.ego_camera((64, 64)).params)
    torch.testing.assert_close(room.T_world_ego(), original.T_world_ego())
    np.testing.assert_allclose(room.depth(), 1.25 * original.depth(), rtol=1e-6)
    for take in (hall, room):
        # The public reader: paths from the root of its repository, depth below their first three parts.
        exo_path = take.entry["exo_path"]
        assert (repository / exo_path).is_file()
        assert (repository / take.entry["ego_prior_path"]).is_file()
        depth_root = "/".join(exo_path.split("/")[:3])
        assert len(list((repository / depth_root / "depth_maps" / Path(exo_path).parent.name).glob("*.npy"))) == 6
        assert {"prompt", "camera_intrinsics", "camera_extrinsics", "ego_intrinsics"} <= set(take.entry)
        assert np.shape(take.entry["ego_extrinsics"]) == (6, 3, 4)
    again = tmp_path / "again.mp4"
    main([str(moved), "--take", "room", "--size", "64", "--out", str(again)])
    assert "fit each other already" in capsys.readouterr().out
    first = read(moved / "videos/room/ego_Prior.mp4")
    assert np.abs(read(again).astype(int) - first).mean() < 1.5


def test_a_folder_of_recordings_is_never_overwritten(egox_folder):
    folder = egox_folder()
    before = (folder / "meta.json").read_bytes()
    with pytest.raises(UserError, match="did not write"):
        main([str(folder), "--size", "64", "--depth-scale", "1", "--out", str(folder)])
    assert (folder / "meta.json").read_bytes() == before
    assert not (folder / "videos/room/ego_Prior.mp4").exists()


def test_moving_exo_camera_follows_its_trajectory(egox_folder, tmp_path, traced, build_room, capsys):
    room = build_room(6)
    shift = torch.zeros(6, 4, 4, dtype=torch.float64)
    shift[:, 0, 3] = torch.linspace(0, 0.5, 6)
    poses = room.T_world_exo + shift
    pictures = [traced(room.exo_camera, pose) for pose in poses]
    w2c = torch.linalg.inv(poses)[:, :3].tolist()
    w2c[3] = None  # between two poses on a line
    folder = egox_folder(camera_extrinsics=w2c)
    write_video(folder / "videos/room/exo.mp4", np.stack([colour for colour, _ in pictures]), 20, crf=4)
    for index, (_, depth) in enumerate(pictures):
        grid = np.pad(depth, ((0, 0), (4, 4)), mode="edge").astype(np.float16)
        np.save(folder / "depth_maps" / "room" / f"{index:05d}.npy", grid)
    arguments = [str(folder), "--size", "64", "--out", str(tmp_path / "p.mp4")]
    main([*arguments, "--depth-scale", "1", "--pose-editor", str(tmp_path / "editor.html")])
    assert "1 of 6 exo poses are null: interpolated" in capsys.readouterr().out
    prior, holes = read(tmp_path / "p.mp4"), read(tmp_path / "p/videos/room/hole_mask.mp4")[:, 0] > 128
    for index in (0, 3, 5):
        truth, _ = traced(room.ego_camera, room.T_world_ego[index])
        error = ((prior[index].astype(float) - truth) ** 2)[:, ~holes[index]].mean()
        assert 10 * np.log10(255**2 / error) > 24
    assert read_takes(tmp_path / "p")[0].T_world_exo.shape == (6, 4, 4)
    for wrong, said in ((["--mode", "compat"], "no moving exo camera"), (["--estimate-pose"], "--person-mask")):
        with pytest.raises(UserError, match=said):
            main([*arguments, *wrong])


def test_prior_enters_a_clip_store_marked(egox_folder, tmp_path, capsys):
    folder = egox_folder()
    arguments = [str(folder), "--out", str(tmp_path / "prior.mp4"), "--size", "64", "--depth-scale", "1"]
    main([*arguments, "--store", str(tmp_path / "store")])
    store = ClipStore.open(tmp_path / "store")
    store.validate()
    (clip,) = store.clips
    assert (clip.clip_id, clip.is_generated, clip.generator) == ("room-prior", True, "ego-prior-correct")
    holes = read(tmp_path / "prior/videos/room/hole_mask.mp4")[:, 0] > 128
    depth = read_arrays(store.media_path(Modality.DEPTH, clip.video_id))["depth_m"]
    assert (depth[holes] == 0).mean() > 0.98  # the mask went through a video codec
    camera = PosedCamera.from_dict(store.load_calibration(clip.video_id))
    torch.testing.assert_close(camera.trajectory.T_world_camera, read_takes(folder)[0].T_world_ego())
    with pytest.raises(UserError, match="already"):
        main([*arguments, "--store", str(tmp_path / "store")])


def test_solver_and_notes_are_reported(egox_folder, tmp_path, capsys):
    main([str(egox_folder()), "--out", str(tmp_path / "out"), "--size", "64"])
    said = capsys.readouterr().out
    assert "scale from floor" in said
    assert "columns 4..163" in said
    assert "next: egoloom" in said
    meta = json.loads((tmp_path / "out/meta.json").read_text())["test_datasets"][0]
    assert meta["egoloom"]["scale"]["cues"][0]["name"] == "floor"
    assert meta["egoloom"]["depth_scale"] == pytest.approx(1.0, rel=0.15)


def test_manual_poses_and_editor(egox_folder, tmp_path, capsys, build_room):
    folder = egox_folder()
    pose = build_room(6).T_world_ego[0].tolist()
    placed = {"times_s": [0.0], "T_world_camera": [pose], "depth_scale": 1.1}
    (tmp_path / "poses.json").write_text(json.dumps(placed))
    arguments = [str(folder), "--out", str(tmp_path / "p.mp4"), "--size", "64", "--json"]
    main([*arguments, "--ego-poses", str(tmp_path / "poses.json"), "--pose-editor", str(tmp_path / "editor.html")])
    assert json.loads(capsys.readouterr().out)["depth_scale"] == 1.1
    assert (tmp_path / "editor.html").stat().st_size > 10_000
    assert '"depth_scale": 1.1' in (tmp_path / "editor.html").read_text()
    prior = read(tmp_path / "p.mp4").astype(int)
    assert np.abs(prior[0] - prior[5]).mean() < 2  # one pose: nothing moves


def test_rerun_recording_holds_cameras_cloud_and_prior(egox_folder, tmp_path):
    pytest.importorskip("rerun", reason="the extra viz is not installed")
    scene = tmp_path / "scene.rrd"
    arguments = ["--out", str(tmp_path / "p.mp4"), "--size", "64", "--depth-scale", "1", "--rerun", str(scene)]
    main([str(egox_folder()), *arguments])
    printed = subprocess.run(
        [sys.executable, "-m", "rerun", "rrd", "print", str(scene)], capture_output=True, text=True, check=False
    )
    assert printed.returncode == 0, printed.stderr
    for entity in ("/world/cloud", "/world/exo/image", "/world/ego/image", "/prior/confidence", "/prior/coverage"):
        assert entity in printed.stdout
    assert "time" in printed.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--take", "nobody"], "0 takes match"),
        (["--depth-scale", "-1"], "depth scale is -1"),
        (["--far-side", "-0.1"], "--far-side -0.1 is no radius"),
        (["--calibration", "nowhere.json"], r"Cannot read nowhere\.json"),
        (["--ego-poses", "nowhere.json"], "Cannot read ego poses"),
        (["--mode", "compat"], "ego lens at sensor size"),
        (["--estimate-pose"], "seen in no frame"),
        (["--rerun", "x.rrd"], "viz"),
    ],
)
def test_refusals(egox_folder, tmp_path, arguments, said, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if said == "viz":
        if importlib.util.find_spec("rerun"):
            pytest.skip("rerun-sdk is installed")
        arguments = [*arguments, "--depth-scale", "1"]
    with pytest.raises(UserError, match=said):
        main([str(egox_folder()), "--out", str(tmp_path / "p.mp4"), "--size", "64", *arguments])


def measure(prior: Path, truth: Path) -> dict:
    """The project-independent measurement of displacement."""
    tool = REAL.parents[1] / "tools" / "measure_prior_alignment.py"
    if not tool.is_file():
        pytest.skip(f"no measuring tool at {tool}")
    spec = importlib.util.spec_from_file_location("measure_prior_alignment", tool)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    frames = list(range(0, 49, 6))  # every second frame of the published protocol: half the time
    pictures = [module.read_frames(str(path), frames) for path in (prior, truth)]
    return module.measure(*pictures, frames)


@pytest.mark.slow
@pytest.mark.real_data
@needs_real
@pytest.mark.parametrize(("take", "given"), [("cmu_soccer", 1.52), ("sfu_basketball", 1.88)])
def test_real_takes_are_aligned(tmp_path, capsys, take, given):
    truth = next((REAL / "egoexo4D" / "videos").glob(f"{take}*/ego_GT.mp4"))
    arguments = [str(REAL / "egoexo4D"), "--take", take, "--out"]
    main([*arguments, str(tmp_path / "own.mp4")])
    own = measure(tmp_path / "own.mp4", truth)
    assert own["median_px"] <= 10
    assert own["within_10px"] >= 0.60
    main([*arguments, str(tmp_path / "given.mp4"), "--depth-scale", str(given)])
    figures = measure(tmp_path / "given.mp4", truth)
    assert figures["median_px"] <= 6
    assert figures["within_10px"] >= 0.75
    capsys.readouterr()


@pytest.mark.slow
@pytest.mark.real_data
@needs_real
def test_compat_mode_resembles_the_shipped_priors(tmp_path, capsys):
    figures, overlaps = [], []
    for folder in ("egoexo4D", "in_the_wild"):
        for take in read_takes(REAL / folder):
            main([str(REAL / folder), "--take", take.name, "--mode", "compat", "--out", str(tmp_path / "c.mp4")])
            ours, shipped = read(tmp_path / "c.mp4"), take.ego_prior_frames()
            for index in (0, 12, 24, 36, 48):
                seen, published = ours[index].max(0) >= 10, shipped[index].max(0) >= 10
                both = seen & published
                overlaps.append(both.sum() / (seen | published).sum())
                error = ((ours[index].astype(float) - shipped[index]) ** 2)[:, both].mean()
                figures.append(10 * np.log10(255**2 / error))
    assert np.mean(figures) >= 22
    assert np.mean(overlaps) >= 0.88  # holes where the published priors have holes
    capsys.readouterr()
