"""Copies of videos: rate, rotation, size, colour, clock, damage."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from egoloom.clips.media import VideoReader, read_audio
from egoloom.errors import UserError
from egoloom.ingest.audio_copy import copy_audio
from egoloom.ingest.video_copy import copy_video, probe, target_size


def greys(path: Path) -> list[int]:
    """Mean of the lower right quarter of every frame, where the picture is grey."""
    with VideoReader(path) as reader:
        frames = reader.all_frames()
    return [round(float(frame[:, frame.shape[1] // 2 + 4 :, frame.shape[2] // 2 + 4 :].mean())) for frame in frames]


def expected_grey(frame: int) -> int:
    return 20 + frame * 5 % 210


def test_constant_rate_is_copied_frame_by_frame(tmp_path, make_media):
    source = make_media(tmp_path / "a.mp4", num_frames=30, fps=Fraction(30000, 1001))
    copied = copy_video(source, tmp_path / "copy.mp4")
    assert (copied.num_frames, copied.fps, copied.width, copied.height) == (30, Fraction(30000, 1001), 64, 48)
    np.testing.assert_allclose(greys(tmp_path / "copy.mp4"), [expected_grey(i) for i in range(30)], atol=2)


def test_gop_is_short(tmp_path, make_media):
    copy_video(make_media(tmp_path / "a.mp4", num_frames=40), tmp_path / "copy.mp4")
    with av.open(str(tmp_path / "copy.mp4")) as container:
        keys = [index for index, packet in enumerate(container.demux(video=0)) if packet.is_keyframe]
    assert keys[0] == 0
    assert max(np.diff([*keys, 40])) <= 12


def test_variable_rate_keeps_every_moment(tmp_path, make_media):
    times = np.cumsum([0.0] + [0.03, 0.05, 0.02, 0.08] * 6)[:24].tolist()
    source = make_media(tmp_path / "vfr.mp4", num_frames=24, times_s=times)
    facts = probe(source)
    assert facts.is_variable_rate
    copied = copy_video(source, tmp_path / "copy.mp4")
    shown = greys(tmp_path / "copy.mp4")
    for tick, grey in enumerate(shown):
        now = (tick + 0.25) / float(copied.fps)
        frame = int(np.searchsorted(times, now, side="right")) - 1
        assert abs(grey - expected_grey(frame)) <= 3, (tick, frame)
    assert abs(copied.duration_s - times[-1]) < 0.1


def test_webm_with_millisecond_clock_keeps_its_frames(tmp_path, make_media):
    source = make_media(tmp_path / "a.webm", num_frames=24, fps=12, codec="libvpx-vp9")
    copied = copy_video(source, tmp_path / "copy.mp4")
    assert (copied.num_frames, copied.fps) == (24, 12)
    np.testing.assert_allclose(greys(tmp_path / "copy.mp4"), [expected_grey(i) for i in range(24)], atol=4)


def rotate_in_place(path: Path, degrees_cw: int) -> None:
    """Sets the display matrix of the first track, as phones do."""
    content = bytearray(path.read_bytes())
    position = content.index(b"tkhd") + 4
    matrix = position + (52 if content[position] == 1 else 40)
    one = 0x00010000
    values = {90: (0, one, 0, -one, 0, 0), 180: (-one, 0, 0, 0, -one, 0), 270: (0, -one, 0, one, 0, 0)}[degrees_cw]
    content[matrix : matrix + 36] = struct.pack(">9i", *values, 0, 0, 0x40000000)
    path.write_bytes(content)


@pytest.mark.parametrize(("degrees", "corner"), [(90, "upper right"), (180, "lower right"), (270, "lower left")])
def test_rotation_metadata_is_applied(tmp_path, make_media, degrees, corner):
    source = make_media(tmp_path / "phone.mp4", num_frames=6)
    rotate_in_place(source, degrees)
    copied = copy_video(source, tmp_path / "copy.mp4")
    assert (copied.width, copied.height) == ((48, 64) if degrees % 180 else (64, 48))
    for path in (source, tmp_path / "copy.mp4"):  # the reader agrees with the copy
        with VideoReader(path) as reader:
            red = reader.all_frames()[2].astype(int)
        red = red[0] - red[2]
        rows = slice(0, red.shape[0] // 2 - 3) if corner.startswith("upper") else slice(red.shape[0] // 2 + 3, None)
        columns = slice(0, red.shape[1] // 2 - 3) if corner.endswith("left") else slice(red.shape[1] // 2 + 3, None)
        assert red[rows, columns].mean() > 150
        assert red.mean() < 90


def test_odd_sizes_become_even_and_small_ones_stay_small(tmp_path):
    assert target_size(427, 240, 256) == (428, 240)
    assert target_size(1920, 1080, 256) == (456, 256)
    assert target_size(1080, 1920, 256) == (256, 456)
    assert target_size(3, 1001, None) == (4, 1000)


def test_colours_survive_a_full_range_bt709_source(tmp_path):
    """Phones write full-range BT.709; read as the store's BT.601 limited range it would be off by tens of levels."""
    path = tmp_path / "full.mp4"
    colours = np.array([[200, 40, 30], [20, 180, 60], [40, 50, 220], [240, 240, 240], [10, 10, 10]], np.uint8)
    picture = np.repeat(np.repeat(colours[None], 64, axis=0), 16, axis=1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "8"})
        stream.width, stream.height, stream.pix_fmt = 80, 64, "yuv420p"
        stream.codec_context.color_range, stream.codec_context.colorspace = 2, 1
        reformatter = av.video.reformatter.VideoReformatter()
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame = reformatter.reformat(frame, format="yuv420p", dst_colorspace="ITU709", dst_color_range="JPEG")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    copy_video(path, tmp_path / "copy.mp4")
    with VideoReader(tmp_path / "copy.mp4") as reader:
        seen = reader.all_frames()[1][:, 32, 8::16].T.astype(int)
    assert np.abs(seen - colours.astype(int)).max() <= 12


def test_a_truncated_file_leaves_no_copy(tmp_path, make_media):
    source = make_media(tmp_path / "a.mp4", num_frames=60)
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    with pytest.raises(UserError, match=r"a\.mp4"):
        copy_video(source, tmp_path / "copy.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_a_file_that_lost_its_end_is_named_truncated(tmp_path, make_media):
    """With the index in front the start of a truncated file still decodes: that must not pass for a short video."""
    source = make_media(tmp_path / "a.mkv", num_frames=5)
    whole = make_media(tmp_path / "b.mp4", num_frames=90, size=(128, 96))
    front = tmp_path / "front.mp4"
    with av.open(str(whole)) as reading, av.open(str(front), "w", options={"movflags": "faststart"}) as writing:
        stream = writing.add_stream_from_template(reading.streams.video[0])
        for packet in reading.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                writing.mux(packet)
    front.write_bytes(front.read_bytes()[: int(front.stat().st_size * 0.7)])
    with pytest.raises(UserError, match=r"truncated|damaged"):
        copy_video(front, tmp_path / "copy.mp4")
    assert copy_video(source, tmp_path / "ok.mp4").num_frames == 5


@pytest.mark.parametrize("content", [b"", b"not a video", b"\x00" * 4096])
def test_what_is_no_video_is_refused(tmp_path, content):
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.mp4"):
        probe(path)


def test_sound_only_is_refused(tmp_path, make_media):
    from egoloom.clips.media import write_audio

    write_audio(tmp_path / "sound.flac", np.zeros(16000, np.float32), 16000)
    with pytest.raises(UserError, match="no video stream"):
        probe(tmp_path / "sound.flac")


@pytest.mark.parametrize("delay_s", [0.0, 0.5])
def test_sound_lies_on_the_clock_of_the_video(tmp_path, make_media, delay_s):
    source = make_media(tmp_path / "a.mp4", num_frames=48, sound_hz=440, sound_delay_s=delay_s)
    assert copy_audio(source, tmp_path / "a.flac", video_start_s=probe(source).start_s)
    samples = read_audio(tmp_path / "a.flac", rate_hz=16000)
    assert samples is not None
    onset_s = np.flatnonzero(np.abs(samples) > 0.1)[0] / 16000
    assert onset_s == pytest.approx(delay_s, abs=0.07)
    spectrum = np.abs(np.fft.rfft(samples[12000:28000]))
    assert np.argmax(spectrum) == pytest.approx(440, abs=2)


def test_no_sound_writes_nothing(tmp_path, make_media):
    assert not copy_audio(make_media(tmp_path / "a.mp4"), tmp_path / "a.flac")
    assert not (tmp_path / "a.flac").exists()


@pytest.mark.real_data
def test_copies_of_real_files_look_like_opencv_reads_them(tmp_path, real_data):
    for name in ("ego4d_clips/tokyo.mp4", "gopro/max-heromode.mp4"):
        copied = copy_video(real_data / name, tmp_path / "copy.mp4")
        capture = cv2.VideoCapture(str(real_data / name))
        assert copied.num_frames == int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        capture.set(cv2.CAP_PROP_POS_FRAMES, 30)
        theirs = cv2.resize(capture.read()[1], (copied.width, copied.height), interpolation=cv2.INTER_AREA)
        with VideoReader(tmp_path / "copy.mp4") as reader:
            ours = reader.frames_at([30 / float(copied.fps)])[0].transpose(1, 2, 0)[..., ::-1]
        assert np.abs(ours.astype(int) - theirs).mean() < 6.5, name


@pytest.mark.real_data
def test_a_real_file_that_refuses_to_seek_is_read(tmp_path, real_data):
    source = real_data / "epic_audio" / "epic_sounds.mp4"
    assert probe(source).fps == Fraction(30000, 1001)  # it states 31000000/1035151
    with VideoReader(source) as reader:
        assert reader.frames_at([0.0, 0.5]).shape == (2, 3, 1080, 1920)
