"""Flow and array tracks keep their values; the frame cache shows the frames of the video."""

from fractions import Fraction

import av
import numpy as np
import pytest

from egoloom.clips.media import VideoReader, read_audio, write_audio, write_flow, write_video
from egoloom.clips.media.encoding import decode_flow_grey, encode_flow_grey
from egoloom.clips.media.frame_cache import FrameCacheReader, index_path, write_frame_cache
from egoloom.errors import UserError

FPS = Fraction(30)


def read_grey(path) -> np.ndarray:
    with VideoReader(path, grey=True) as reader:
        return reader.all_frames()[:, 0]


@pytest.mark.parametrize("flow_px", [-16.0, -8.0, -1.0, 0.0, 0.126, 5.0, 16.0])
def test_constant_flow_survives_to_one_grey_step(tmp_path, flow_px):
    """Range conversions would move every value: no motion came back as a quarter of a pixel once."""
    flow = np.full((5, 2, 48, 62), flow_px, np.float32)
    flow[:, 1] *= -1
    write_flow(tmp_path / "f.mp4", flow, FPS, bound_px=16.0)
    grey = read_grey(tmp_path / "f.mp4").reshape(5, 2, 48, 62)
    decoded = decode_flow_grey(grey, 16.0)
    np.testing.assert_allclose(decoded, flow, atol=0.5 * 16 / 127 + 1e-6)


def test_smooth_flow_survives_h264(tmp_path):
    y, x = np.mgrid[:96, :128]
    flow = np.stack([4 * np.sin(x / 20), 3 * np.cos(y / 15)]).astype(np.float32)[None].repeat(6, 0)
    write_flow(tmp_path / "f.mp4", flow, FPS, bound_px=8.0)
    decoded = decode_flow_grey(read_grey(tmp_path / "f.mp4").reshape(6, 2, 96, 128), 8.0)
    assert np.abs(decoded - flow).mean() < 0.06
    np.testing.assert_allclose(decode_flow_grey(encode_flow_grey(flow, 8.0), 8.0), flow, atol=0.5 * 8 / 127 + 1e-6)


def test_other_players_see_full_range(tmp_path):
    write_flow(tmp_path / "f.mp4", np.zeros((2, 2, 48, 64), np.float32), FPS, bound_px=16.0)
    with av.open(str(tmp_path / "f.mp4")) as container:
        assert next(container.decode(video=0)).color_range == 2


def test_frames_after_reading_to_the_end(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (20, 3, 48, 64), np.uint8)
    write_video(tmp_path / "v.mp4", frames, FPS)
    with VideoReader(tmp_path / "v.mp4") as reader:
        everything = reader.all_frames()
        np.testing.assert_allclose(reader.frame_times_s(), np.arange(20) / 30, atol=1e-6)
        np.testing.assert_array_equal(reader.frames_at([19 / 30, 0.0, 7.4 / 30, 7 / 30]), everything[[19, 0, 7, 7]])


def test_the_same_frames_give_the_same_file(tmp_path):
    """With x264's AVX-512 code one file in a hundred was another one; fifty show that in two of five runs."""
    y, x = np.mgrid[:48, :64]
    frames = np.stack([[x * 3 + n * 4, y * 4, np.full_like(x, 10 * n)] for n in range(12)]).astype(np.uint8)
    files = set()
    for _ in range(50):
        write_video(tmp_path / "v.mp4", frames, FPS)
        files.add((tmp_path / "v.mp4").read_bytes())
    assert len(files) == 1


def test_sound_survives(tmp_path):
    samples = np.sin(np.arange(20_000) / 20).astype(np.float32) * 0.7
    write_audio(tmp_path / "a.flac", samples, 16_000)
    again = read_audio(tmp_path / "a.flac", rate_hz=16_000)
    assert again is not None
    np.testing.assert_allclose(again, samples, atol=2 / 32767)


@pytest.fixture
def shard(tmp_path):
    y, x = np.mgrid[:48, :64]
    frames = [np.stack([x * 3, y * 4, np.full_like(x, 10 * n)], axis=-1).astype(np.uint8) for n in range(12)]
    write_frame_cache(tmp_path / "v.jpegs", frames, np.arange(12) / 12)
    return tmp_path / "v.jpegs", np.stack(frames).transpose(0, 3, 1, 2)


def test_frame_cache_shows_the_frame_of_the_moment(shard):
    path, frames = shard
    reader = FrameCacheReader(path)
    seen = reader.frames_at([0.0, 5 / 12, 5.9 / 12, 99.0]).astype(int)
    assert np.abs(seen - frames[[0, 5, 5, 11]]).mean() < 4
    reader.close()


def test_frame_cache_with_simplejpeg_is_the_same(shard):
    pytest.importorskip("simplejpeg")
    path, _ = shard
    fast, plain = FrameCacheReader(path), FrameCacheReader(path)
    plain._decoder = None
    assert np.abs(fast.frames_at([0.5]).astype(int) - plain.frames_at([0.5])).mean() < 2


def test_damaged_frame_cache_is_refused(shard):
    path, _ = shard
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    with pytest.raises(UserError, match="do not belong together"):
        FrameCacheReader(path)
    path.write_bytes(b"\0" * len(whole))
    with pytest.raises(UserError, match="Frame 0"):
        FrameCacheReader(path).frames_at([0.0])
    index_path(path).unlink()
    with pytest.raises(UserError, match=r"v\.index\.npz"):
        FrameCacheReader(path)
