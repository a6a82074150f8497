"""The protocol exo2ego on small mp4 files and stores, against skimage on frames that PyAV decodes."""

import json
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from egoloom.cli.evaluate import main
from egoloom.clips import Clip, ClipStore, Video
from egoloom.clips.media import write_video
from egoloom.errors import UserError


def film(seed: int, frames: int = 8, size: int = 48) -> np.ndarray:
    """A smooth random texture that moves by a pixel a frame, uint8 ``[T, 3, H, W]``."""
    noise = np.random.default_rng(seed).uniform(0, 255, (size, size + frames, 3)).astype(np.float32)
    wide = cv2.GaussianBlur(noise, (0, 0), 1.5)
    wide = (wide - wide.mean()) * 3 + 128
    windows = [wide[:, t : t + size].transpose(2, 0, 1) for t in range(frames)]
    return np.clip(np.stack(windows), 0, 255).astype(np.uint8)


def decoded(path: Path) -> np.ndarray:
    """All frames ``[T, H, W, 3]``, without our reader."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def skimage_ssim(ours: np.ndarray, truth: np.ndarray) -> float:
    options = {"gaussian_weights": True, "use_sample_covariance": False, "data_range": 255, "channel_axis": 2}
    values = []
    for a, b in zip(ours, truth, strict=True):
        similarity = structural_similarity(a, b, full=True, **options)[1]
        values.append(similarity[5:-5, 5:-5].mean())
    return float(np.mean(values))


def report(capsys, *arguments: object) -> dict:
    capsys.readouterr()
    main(["--protocol", "exo2ego", *map(str, arguments), "--json"])
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    ours, truth = tmp_path / "generated", tmp_path / "truth"
    for index in range(2):
        clean = film(index)
        noisy = np.clip(clean + np.random.default_rng(9).normal(0, 12 + 20 * index, clean.shape), 0, 255)
        write_video(truth / f"take{index}.mp4", clean, 8)
        write_video(ours / f"take{index}.mp4", noisy.astype(np.uint8), 8)
    return ours, truth


def test_folders_equal_skimage(folders: tuple[Path, Path], capsys) -> None:
    ours, truth = folders
    record = report(capsys, "--generated", ours, "--truth", truth)
    assert [row["clip"] for row in record["clips"]] == ["take0", "take1"]
    for row in record["clips"]:
        a, b = decoded(ours / f"{row['clip']}.mp4"), decoded(truth / f"{row['clip']}.mp4")
        assert row["psnr_db"] == pytest.approx(peak_signal_noise_ratio(b, a), abs=1e-6)
        assert row["ssim"] == pytest.approx(skimage_ssim(a, b), abs=1e-6)
        changes = np.abs(np.diff(b.astype(float), axis=0)).mean() / 255
        assert row["recorded_flicker"] == pytest.approx(1 - changes, abs=1e-9)
    values = [row["psnr_db"] for row in record["clips"]]
    assert record["means"]["psnr_db"]["mean"] == pytest.approx(np.mean(values))
    assert record["means"]["psnr_db"]["ci95"] == pytest.approx(sorted(values))  # two clips: all that resampling gives
    assert "ego crop 48x48, 8 frames a clip" in record["protocol"]
    main(["--protocol=exo2ego", "--generated", str(ours), "--truth", str(truth)])
    printed = capsys.readouterr().out
    assert "2 clips of 2 takes: ego crop 48x48" in printed
    assert f"{np.mean(values):.2f} dB" in printed


def test_clips_without_a_partner_are_named(folders: tuple[Path, Path], capsys) -> None:
    ours, truth = folders
    (ours / "take1.mp4").rename(ours / "other.mp4")
    main(["--protocol", "exo2ego", "--generated", str(ours), "--truth", str(truth), "--json"])
    captured = capsys.readouterr()
    record = json.loads(captured.out)
    assert set(record["unpaired"]) == {"other", "take1"}
    assert record["means"]["psnr_db"]["ci95"] is None  # one take has no interval
    assert "warning: other has no partner" in captured.err
    (ours / "take0.mp4").unlink()
    with pytest.raises(UserError, match="None of 1 generated clips has a recorded partner; the first, other"):
        report(capsys, "--generated", ours, "--truth", truth)


def test_a_copy_has_no_psnr_and_is_valid_json(folders: tuple[Path, Path], capsys) -> None:
    _, truth = folders
    record = report(capsys, "--generated", truth, "--truth", truth)
    assert record["means"]["psnr_db"] is None
    assert record["means"]["ssim"]["mean"] == pytest.approx(1.0)


def make_stores(folder: Path) -> tuple[ClipStore, ClipStore]:
    """A take of 2.5 s at 8 fps whose exo clip begins at 0.5 s, and a generated clip of it: 4 fps, half the size."""
    source = ClipStore.create(folder / "source", name="source", source="test", splits=["train"])
    made = ClipStore.create(folder / "made", name="made", source="augment", splits=["train", "rejected"])
    frames = film(3, frames=20)
    for view in ("exo", "ego"):
        write_video(source.path / "media" / "rgb" / f"t_{view}.mp4", frames if view == "ego" else 255 - frames, 8)
    source.append(
        videos=[
            Video(f"t_{view}", f"media/rgb/t_{view}.mp4", Fraction(8), 48, 48, 20, 2.5, view, "t")
            for view in ("exo", "ego")
        ],
        clips=[Clip("t_exo", "t_exo", "p", "exo", "t", 0.5, 2.5, "train")],
    )
    small = np.stack([cv2.resize(f.transpose(1, 2, 0), (24, 24), interpolation=cv2.INTER_AREA) for f in frames[4::2]])
    write_video(made.path / "media" / "rgb" / "g.mp4", small.transpose(0, 3, 1, 2), 4)
    extra = {"source_clip": "t_exo", "source_store": "moved/elsewhere"}
    made.append(
        videos=[Video("g", "media/rgb/g.mp4", Fraction(4), 24, 24, 8, 2.0, "ego", "t")],
        clips=[Clip("g", "g", "p", "ego", "t", 0.0, 2.0, "train", is_generated=True, generator="x", extra=extra)],
    )
    return source, made


@pytest.mark.parametrize("kind", ["store", "folder"])
def test_stores_are_compared_at_the_times_of_the_source_clip(tmp_path: Path, capsys, kind: str) -> None:
    source, made = make_stores(tmp_path)
    generated = made.path
    if kind == "folder":  # as ``egoloom exo2ego generate`` names its files
        generated = tmp_path / "videos"
        generated.mkdir()
        (made.path / "media" / "rgb" / "g.mp4").rename(generated / "t_exo.mp4")
    arguments = ("--generated", generated, "--truth", source.path, "--no-lpips")
    with pytest.raises(UserError, match=r"8 frames of 24x24, the recorded one 16 frames of 48x48") as error:
        report(capsys, *arguments)
    assert "--resample" in str(error.value)
    record = report(capsys, *arguments, "--resample")
    ours = decoded(generated / ("t_exo.mp4" if kind == "folder" else "media/rgb/g.mp4"))
    shown = decoded(source.path / "media" / "rgb" / "t_ego.mp4")[4::2]
    truth = np.stack([cv2.resize(frame, (24, 24), interpolation=cv2.INTER_AREA) for frame in shown])
    assert record["clips"][0]["psnr_db"] == pytest.approx(peak_signal_noise_ratio(truth, ours), abs=0.02)
    assert record["clips"][0]["num_frames"] == 8
    assert "area-averaged" in record["protocol"]


def test_clips_that_cannot_be_compared_are_refused(folders: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    ours, truth = folders
    write_video(ours / "take0.mp4", film(0, frames=4), 8)
    arguments = ("--generated", ours, "--truth", truth)
    with pytest.raises(UserError, match="take0: the generated clip has 4 frames of 48x48, the recorded one 8 frames"):
        report(capsys, *arguments)
    with pytest.raises(UserError, match=r"lasts 0.500 s, the recorded one 1.000 s"):
        report(capsys, *arguments, "--resample")
    write_video(ours / "take0.mp4", film(0)[..., :24], 8)
    with pytest.raises(UserError, match="of 24x48, the recorded one 8 frames of 48x48"):
        report(capsys, *arguments, "--resample")
    write_video(ours / "take0.mp4", film(0, size=64), 8)
    with pytest.raises(UserError, match="of 64x64, the recorded one 8 frames of 48x48"):
        report(capsys, *arguments, "--resample")
    with pytest.raises(UserError, match="needs a clip store"):
        report(capsys, *arguments, "--split", "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no mp4 file"):
        report(capsys, "--generated", tmp_path / "empty", "--truth", truth)
    with pytest.raises(UserError, match="There is no folder"):
        report(capsys, "--generated", ours, "--truth", tmp_path / "absent")
    source, _ = make_stores(tmp_path)
    with pytest.raises(UserError, match="holds no generated clip"):
        report(capsys, "--generated", source.path, "--truth", truth)


def test_clips_of_equal_source_ids_are_told_apart_by_their_store(tmp_path: Path, capsys) -> None:
    source, made = make_stores(tmp_path)
    extra = {"source_clip": "t_exo", "source_store": str(source.path)}
    twin = Clip("h", "g", "p", "ego", "t", 0.0, 2.0, "train", is_generated=True, generator="x", extra=extra)
    made.append(clips=[twin])
    record = report(capsys, "--generated", made.path, "--truth", source.path, "--no-lpips", "--resample")
    assert [row["clip"] for row in record["clips"]] == ["h"]
    assert "generated from moved/elsewhere" in record["unpaired"]["g"]
