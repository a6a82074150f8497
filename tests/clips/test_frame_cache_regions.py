"""A region of cached frames: the pixels of the whole frame, from the tiles that it touches and no others."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from egoloom.cli.main import main
from egoloom.clips import Modality
from egoloom.clips.dataset import ClipDataset, entries_of
from egoloom.clips.media import read_arrays
from egoloom.clips.media.arrays import write_arrays
from egoloom.clips.media.frame_cache import FrameCacheReader, cache_path, index_path, is_current, write_frame_cache
from egoloom.clips.media.jpeg_tiles import TileGrid, cut_tiles, encode_tiles
from egoloom.clips.tracks import TrackReader
from egoloom.clips.transforms import SpatialPlan, ViewConfig
from egoloom.errors import UserError
from egoloom.modalities import frame_cache

TIMES = [0.0, 0.5, 0.25, 0.5]


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colours under noise: neighbouring tiles differ, and so do colours over the edges of tiles."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 12 + 2, width // 12 + 2, 3), np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)


@pytest.fixture(params=["simplejpeg", "opencv"])
def read(request):
    """Opens a cache with one of the two decoders."""
    if request.param == "simplejpeg":
        pytest.importorskip("simplejpeg")

    def opened(path) -> FrameCacheReader:
        reader = FrameCacheReader(path)
        reader._decoder = None if request.param == "opencv" else reader._decoder
        return reader

    return opened


@pytest.mark.parametrize("size", [(64, 96), (75, 101), (16, 16), (9, 250), (48, 17)])
def test_a_region_is_the_slice_of_the_whole(tmp_path, read, size):
    height, width = size
    frames = [picture(height, width, seed) for seed in range(4)]
    write_frame_cache(tmp_path / "v.jpegs", frames, np.arange(4) / 4)
    reader = read(tmp_path / "v.jpegs")
    whole = reader.frames_at(TIMES)
    assert whole.shape == (4, 3, height, width)
    rng = np.random.default_rng(1)
    spans = [np.sort(rng.choice(length + 1, (12, 2), replace=True), axis=1) for length in size]
    on_tiles = [[(0, 16), (0, height)], [(0, 16), (max(0, width - 16), width)]]
    for rows, columns in [*zip(*spans, strict=True), *zip(*on_tiles, strict=True)]:
        if rows[0] == rows[1] or columns[0] == columns[1]:
            continue
        region = slice(*map(int, rows)), slice(*map(int, columns))
        np.testing.assert_array_equal(reader.frames_at(TIMES, region), whole[:, :, *region], err_msg=str(region))


@pytest.mark.parametrize("size", [(64, 96), (75, 101)])
def test_whole_frames_are_those_of_an_ordinary_jpeg(tmp_path, size):
    """Restart markers change how coefficients are coded, not the coefficients."""
    frame = picture(*size)
    write_frame_cache(tmp_path / "v.jpegs", [frame], [0.0], quality=80)
    reader = FrameCacheReader(tmp_path / "v.jpegs")
    reader._decoder = None
    ordinary = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
    expected = np.asarray(cv2.imdecode(ordinary, cv2.IMREAD_COLOR_RGB)).transpose(2, 0, 1)
    np.testing.assert_array_equal(reader.frames_at([0.0])[0], expected)


def test_cut_tiles_are_a_jpeg_for_other_decoders():
    frame, grid = picture(75, 160), TileGrid(75, 160)
    jpeg, lengths, size_at = encode_tiles(frame, 90)
    assert lengths.shape == (grid.num_tiles,) == (50,)
    cut = np.asarray(Image.open(io.BytesIO(cut_tiles(jpeg, lengths, grid, size_at, (3, 5), (0, 9)))))
    whole = np.asarray(Image.open(io.BytesIO(jpeg)))
    assert whole.shape == (75, 160, 3)
    assert cut.shape == (27, 144, 3)
    # Pillow smooths colours over one pixel at the edges of the cut.
    np.testing.assert_array_equal(cut[1:, :-1], whole[49:75, :143])


def test_damage_is_noticed_where_it_is_looked_at(tmp_path):
    pytest.importorskip("simplejpeg")
    path = tmp_path / "v.jpegs"
    write_frame_cache(path, [picture(64, 96)], [0.0])
    whole = FrameCacheReader(path).frames_at([0.0])
    content = bytearray(path.read_bytes())
    lengths = np.frombuffer(content, "<u2", 24).astype(int)
    first = len(content) - lengths.sum() + lengths[:23].sum()  # the tile at the lower right
    content[first : len(content) - 2] = b"\xff\xd5" * ((len(content) - 2 - first) // 2) + b"\0" * (lengths[23] % 2)
    path.write_bytes(content)
    reader = FrameCacheReader(path)
    upper = slice(0, 48), slice(0, 96)
    np.testing.assert_array_equal(reader.frames_at([0.0], upper), whole[:, :, *upper])
    with pytest.raises(UserError, match=r"Frame 0 of .* is damaged"):
        reader.frames_at([0.0])


def test_lengths_that_lead_out_of_the_frame_are_refused(tmp_path):
    path = tmp_path / "v.jpegs"
    write_frame_cache(path, [picture(64, 96)], [0.0])
    content = path.read_bytes()
    path.write_bytes(b"\xff" * 48 + content[48:])
    with pytest.raises(UserError, match=r"Frame 0 of .* is damaged"):
        FrameCacheReader(path).frames_at([0.0], (slice(0, 20), slice(0, 20)))


@pytest.mark.parametrize("region", [(slice(5, 5), slice(0, 9)), (slice(0, 9), slice(200, 300))])
def test_an_empty_region_is_refused(tmp_path, region):
    write_frame_cache(tmp_path / "v.jpegs", [picture(64, 96)], [0.0])
    with pytest.raises(UserError, match="There is nothing of"):
        FrameCacheReader(tmp_path / "v.jpegs").frames_at([0.0], region)


def test_frames_of_several_sizes_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"\(64, 48\) px follows frames of \(96, 64\)"):
        write_frame_cache(tmp_path / "v.jpegs", [picture(64, 96), picture(48, 64)], [0.0, 1.0])
    assert list(tmp_path.iterdir()) == []


def test_a_cache_without_tiles_is_refused_and_made_again(new_square_store, tmp_path, capsys):
    store = new_square_store(tmp_path / "store", num_clips=4)
    frame_cache.compute(store, progress=False)
    path = cache_path(store.path, "square_001")
    index = read_arrays(index_path(path))
    write_arrays(index_path(path), {name: index[name] for name in ("offsets", "times_s")})
    assert not is_current(path)
    with pytest.raises(UserError, match=r"older format") as refusal:
        TrackReader(store).rgb("square_001", np.array([0.0]))
    assert "egoloom modalities frame-cache --store" in str(refusal.value)
    main(["modalities", "frame-cache", "--store", str(store.path)])
    assert "1 computed" in capsys.readouterr().out
    TrackReader(store).rgb("square_001", np.array([0.0]))


@pytest.mark.parametrize("is_training", [True, False])
def test_views_are_the_same_with_the_cache(new_square_store, tmp_path, is_training):
    store = new_square_store(tmp_path / "store", num_clips=4)
    view = ViewConfig(num_frames=4, size_px=32, colour_jitter=0.0, hue_jitter=0.0, flip_probability=0.5)

    def views() -> np.ndarray:
        dataset = ClipDataset(entries_of(store), [Modality.RGB], view, is_training=is_training, num_test_crops=3)
        return np.stack([dataset[(index, seed)]["inputs"]["rgb"] for index in range(4) for seed in range(3)])

    without = views()
    frame_cache.compute(store, frame_cache.FrameCacheConfig(quality=95), progress=False)
    difference = np.abs(views().astype(int) - without)
    assert 0 < difference.mean() < 2.5


def test_a_view_of_the_region_is_that_of_whole_frames(new_square_store, tmp_path):
    store = new_square_store(tmp_path / "store", num_clips=4)
    video = store.videos["square_001"]
    times = np.array([0.0, 0.7, 1.1])
    plans = [SpatialPlan.random(video.height, video.width, ViewConfig(), np.random.default_rng(n)) for n in range(5)]
    for cache_bytes in (0, 10**8, -1):
        if cache_bytes < 0:
            frame_cache.compute(store, progress=False)
        reader = TrackReader(store, cache_bytes=max(0, cache_bytes))
        for plan in plans:
            whole = plan.rgb(reader.rgb("square_001", times))
            np.testing.assert_array_equal(plan.rgb_of_region(reader.rgb("square_001", times, plan.region)), whole)
