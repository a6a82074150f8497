"""What the protocol exo2ego measures on request: CLIP-I, objects, FVD, each against an independent computation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm

from egoloom.cli.evaluate import main
from egoloom.clips.media import VideoReader, write_video
from egoloom.errors import UserError


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    for name in ("ours", "truth"):
        for index in range(2):
            coarse = rng.integers(0, 255, (6, 3, 6, 6), dtype=np.uint8)
            write_video(tmp_path / name / f"take{index}.mp4", coarse.repeat(8, axis=2).repeat(8, axis=3), 8)
    return tmp_path / "ours", tmp_path / "truth"


def run(folders: tuple[Path, Path], *options: object) -> None:
    paths = ["--generated", str(folders[0]), "--truth", str(folders[1]), "--no-lpips"]
    main(["--protocol", "exo2ego", *paths, *map(str, options)])


def report(capsys, folders: tuple[Path, Path], *options: object) -> dict:
    capsys.readouterr()
    run(folders, *options, "--json")
    return json.loads(capsys.readouterr().out)


# --- objects ------------------------------------------------------------------------------------------------------


def write_masks(folder: Path, name: str, ids_THW: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    np.savez(folder / f"{name}.npz", ids=ids_THW)


def test_objects_by_hand(folders: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    ours, truth = (np.zeros((6, 48, 48), np.uint8) for _ in range(2))
    truth[:, 10:20, 10:20] = 1
    ours[:, 10:20, 13:23] = 1  # 3 px to the right: centres 3 px apart, 70 of 130 px shared
    ours[:3, 30:40, 30:34] = 2  # object 2 is in both clips in its second frame only, there alike
    truth[1:2, 30:40, 30:34] = 2
    ours[:, 0:4, 0:4] = 7  # nobody else knows object 7
    for index in range(2):
        write_masks(tmp_path / "a", f"take{index}", ours)
        write_masks(tmp_path / "b", f"take{index}", truth)
    record = report(capsys, folders, "--masks", tmp_path / "a", tmp_path / "b")
    row = record["clips"][0]
    assert row["num_objects"] == 2
    assert row["location_error_px"] == pytest.approx((3 + 0) / 2)
    assert row["box_iou"] == pytest.approx((70 / 130 + 1) / 2)
    assert row["mask_iou"] == pytest.approx((70 / 130 + 1) / 2)
    assert record["means"]["mask_iou"]["mean"] == pytest.approx((70 / 130 + 1) / 2)
    run(folders, "--masks", tmp_path / "a", tmp_path / "b")
    assert "object location error" in capsys.readouterr().out


def test_masks_that_do_not_fit_are_named(folders: tuple[Path, Path], tmp_path: Path) -> None:
    masks = ("--masks", tmp_path / "a", tmp_path / "a")
    write_masks(tmp_path / "a", "take0", np.zeros((6, 48, 48), np.uint8))
    with pytest.raises(UserError, match=r"take1\.npz"):
        run(folders, *masks)
    write_masks(tmp_path / "a", "take1", np.zeros((5, 48, 48), np.uint8))
    with pytest.raises(UserError, match=r"\(5, 48, 48\)"):
        run(folders, *masks)
    (tmp_path / "a" / "take1.npz").write_bytes(b"no archive")
    with pytest.raises(UserError, match="Cannot read masks"):
        run(folders, *masks)


# --- FVD ----------------------------------------------------------------------------------------------------------


def test_fvd_of_given_features_equals_scipy(folders: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(40, 5)), rng.normal(0.3, 1.5, size=(50, 5))
    np.save(tmp_path / "a.npy", a)
    np.save(tmp_path / "b.npy", b.astype(np.float32))
    features = ("--features", tmp_path / "a.npy", tmp_path / "b.npy")
    record = report(capsys, folders, *features, "--backbone", "I3D")["video_distance"]
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = sqrtm(first @ second)
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(first + second - 2 * np.real(root))
    assert record["fvd"] == pytest.approx(expected, rel=1e-4)
    assert (record["backbone"], record["num_generated"], record["num_recorded"]) == ("I3D", 40, 50)
    run(folders, *features, "--backbone", "I3D")
    assert f"FVD {expected:.2f}" in capsys.readouterr().out


def test_features_that_mean_nothing_are_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 3)))
    with pytest.raises(UserError, match="not named"):
        run(folders, "--features", tmp_path / "a.npy", tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.full((4, 3), np.nan))
    np.save(tmp_path / "c.npy", np.array([{"no": "features"}]), allow_pickle=True)
    for name, message in (("b", "NaN"), ("c", "Cannot read"), ("absent", "Cannot read")):
        with pytest.raises(UserError, match=message):
            run(folders, "--features", tmp_path / "a.npy", tmp_path / f"{name}.npy", "--backbone", "I3D")


# --- CLIP-I -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory) -> Path:
    """A CLIP image encoder with random weights."""
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

    folder = tmp_path_factory.mktemp("clip") / "tiny-clip"
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        projection_dim=8,
    )
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
    return folder


def test_clip_i_equals_the_network_on_pictures_that_pil_resizes(
    folders: tuple[Path, Path], clip_folder: Path, capsys
) -> None:
    from transformers import CLIPVisionModelWithProjection

    record = report(capsys, folders, "--clip", clip_folder)
    model = CLIPVisionModelWithProjection.from_pretrained(clip_folder).eval()
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    embeddings = []
    for folder in folders:
        with VideoReader(folder / "take0.mp4") as reader:
            frames = reader.all_frames().transpose(0, 2, 3, 1)
        small = [np.asarray(Image.fromarray(frame).resize((32, 32), Image.Resampling.BICUBIC)) for frame in frames]
        pixels = torch.tensor((np.stack(small) / 255 - mean) / std, dtype=torch.float32).permute(0, 3, 1, 2)
        with torch.no_grad():
            embeddings.append(torch.nn.functional.normalize(model(pixel_values=pixels).image_embeds, dim=1))
    expected = float((embeddings[0] * embeddings[1]).sum(1).mean())
    assert record["clips"][0]["clip_i"] == pytest.approx(expected, abs=1e-4)
    assert record["clips"][0]["clip_i"] < 0.999
    assert "CLIP-I by tiny-clip" in record["protocol"]
    same = report(capsys, (folders[1], folders[1]), "--clip", clip_folder)
    assert same["means"]["clip_i"]["mean"] == pytest.approx(1.0, abs=1e-5)


def test_without_weights_there_is_no_clip_i(folders: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    with pytest.raises(UserError, match="no weights of CLIP"):
        run(folders, "--clip", tmp_path / "absent")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="holds no CLIP"):
        run(folders, "--clip", tmp_path)
    assert report(capsys, folders)["clips"][0]["clip_i"] is None
