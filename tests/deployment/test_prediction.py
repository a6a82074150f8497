import json
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from egoloom.cli.main import main, run_verb
from egoloom.clips.media import VideoReader, write_video
from egoloom.deployment import load_student, predict_video
from egoloom.deployment.artefact import average_views
from egoloom.deployment.prediction import read_views
from egoloom.errors import UserError
from egoloom.models import Recogniser


def encode(path, frames, fps, *, codec="libx264", pix_fmt="yuv420p", source="rgb24"):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=source)))
        container.mux(stream.encode())
    return path


def test_probabilities_are_calibrated_and_views_averaged(student_onnx, checkpoint, video):
    student = load_student(student_onnx)
    prediction = predict_video(student, video, num_views=3)
    with VideoReader(video) as reader:
        views, times, _ = read_views(reader, student.card.input, 3)
    assert views.shape == (3, 4, 3, 32, 32)
    assert np.diff(times, axis=1) == pytest.approx(0.2)
    with torch.no_grad():
        logits = Recogniser.from_pretrained(checkpoint)({"rgb": torch.from_numpy(views)})["action"]
    expected = (logits.mean(0) / 1.7).softmax(-1).numpy()
    np.testing.assert_allclose(np.exp(prediction.log_probs["action"]), expected, atol=1e-5)
    top = prediction.top()
    assert [name for name, _ in top] == [f"action {index}" for index in np.argsort(-expected)[:5]]


def test_average_of_log_probs_is_the_average_of_logits():
    logits = np.random.default_rng(0).normal(size=(4, 6))
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    mean = logits.mean(0)
    expected = mean - np.log(np.exp(mean).sum())
    np.testing.assert_allclose(average_views({"a": log_probs})["a"], expected, atol=1e-12)


def test_video_shorter_than_a_clip(student_onnx, tmp_path, moving_frames):
    write_video(tmp_path / "short.mp4", moving_frames(4, 40, 40), 15)
    prediction = predict_video(load_student(student_onnx), tmp_path / "short.mp4")
    assert prediction.duration_s == pytest.approx(4 / 15)
    assert len(prediction.view_starts_s) == 1


def test_one_frame(student_onnx, tmp_path, moving_frames):
    write_video(tmp_path / "one.mp4", moving_frames(1, 40, 40), 15)
    assert len(predict_video(load_student(student_onnx), tmp_path / "one.mp4").top()) == 5


@pytest.mark.parametrize("fps", [1, 240])
def test_odd_frame_rates_say_the_same(student_onnx, tmp_path, moving_frames, fps):
    """The picture at each moment is what counts, not how often it is stored."""
    slow = moving_frames(6, 40, 40, seed=3)
    write_video(tmp_path / "slow.mp4", slow, 1, crf=1)
    write_video(tmp_path / "other.mp4", np.repeat(slow, fps, axis=0), fps, crf=1)
    student = load_student(student_onnx)
    one, other = (predict_video(student, tmp_path / name, num_views=1) for name in ("slow.mp4", "other.mp4"))
    assert np.abs(np.exp(one.log_probs["action"]) - np.exp(other.log_probs["action"])).max() < 0.15


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "source"),
    [
        ("grey.mp4", "libx264", "gray", "gray"),
        ("alpha.mov", "png", "rgba", "rgba"),
        ("bgr.avi", "ffv1", "bgr0", "bgr24"),
        ("wide.mkv", "libx264", "yuv444p", "rgb24"),
    ],
)
def test_pixel_formats_keep_the_colours(student_onnx, tmp_path, moving_frames, name, codec, pix_fmt, source):
    frames = moving_frames(20, 48, 64).transpose(0, 2, 3, 1)
    pictures = {
        "gray": frames[..., 0],
        "rgba": np.concatenate([frames, np.full_like(frames[..., :1], 255)], axis=-1),
        "bgr24": frames[..., ::-1],
        "rgb24": frames,
    }[source]
    path = encode(tmp_path / name, list(pictures), 15, codec=codec, pix_fmt=pix_fmt, source=source)
    student = load_student(student_onnx)
    predict_video(student, path)
    with VideoReader(path) as reader:
        picture = reader.frames_at([0.0])[0].transpose(1, 2, 0)
    expected = np.repeat(frames[0, ..., :1], 3, axis=-1) if source == "gray" else frames[0]
    # Grey without a range tag is played as limited range, which stretches it by 255 / 219.
    assert np.abs(picture.astype(int) - expected).mean() < (12 if source == "gray" else 6)


def exit_code_and_message(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return stop.value.code, error


def test_bad_videos_exit_with_two(student_onnx, video, tmp_path, capsys):
    truncated = tmp_path / "truncated.mp4"
    truncated.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    sound = tmp_path / "sound.wav"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
    empty = tmp_path / "empty.mp4"
    empty.write_bytes(b"")
    for path, message in (
        (tmp_path / "missing.mp4", "There is no video"),
        (truncated, "Cannot open"),
        (sound, "no video stream"),
        (empty, "Cannot open"),
    ):
        code, error = exit_code_and_message(["predict", student_onnx, path], capsys)
        assert code == 2
        assert message in error
        assert str(path) in error


def test_no_frames(student_onnx, tmp_path, capsys):
    path = tmp_path / "frameless.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=15)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        container.start_encoding()
    code, error = exit_code_and_message(["predict", student_onnx, path], capsys)
    assert code == 2
    assert "no frames" in error or "Cannot open" in error


def test_models_that_are_none(student_onnx, artefact, video, tmp_path, capsys):
    import onnx

    garbage = tmp_path / "garbage.onnx"
    garbage.write_bytes(b"\x08\x07hello")
    half = tmp_path / "half.onnx"
    half.write_bytes(student_onnx.read_bytes()[:20_000])
    foreign = tmp_path / "foreign.onnx"
    model = onnx.load(student_onnx)
    del model.metadata_props[:]
    onnx.save(model, foreign)
    newer = tmp_path / "newer.onnx"
    model = onnx.load(student_onnx)
    card = json.loads(model.metadata_props[0].value) | {"format_version": 99}
    model.metadata_props[0].value = json.dumps(card)
    onnx.save(model, newer)
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    corrupt = tmp_path / "corrupt"
    corrupt.mkdir()
    (corrupt / "card.json").write_text((artefact / "card.json").read_text())
    unreadable = tmp_path / "unreadable"
    unreadable.mkdir()
    (unreadable / "card.json").write_text('{"format": "egoloom-artefact", "format_version": 1, "class')
    (tmp_path / "nothing").mkdir()
    for path, message in (
        (tmp_path / "missing.onnx", "There is no model"),
        (garbage, "not an ONNX model"),
        (half, "not an ONNX model"),
        (foreign, "carries no card"),
        (newer, "a newer EgoLoom wrote it"),
        (text, "is not a model"),
        (corrupt, "is damaged"),
        (unreadable, "not readable JSON"),
        (tmp_path / "nothing", "holds no model"),
    ):
        code, error = exit_code_and_message(["predict", path, video], capsys)
        assert code == 2, path
        assert message in error, (path, error)


def test_card_cannot_point_outside_its_folder(artefact, tmp_path):
    card = json.loads((artefact / "card.json").read_text())
    card["files"]["clip"] = "../elsewhere.onnx"
    (tmp_path / "card.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match="damaged"):
        load_student(tmp_path)


def test_verb_prints_five_and_json(student_onnx, video, capsys):
    run_verb(["predict", str(student_onnx), str(video)])
    text = capsys.readouterr().out
    assert sum("%" in line and "action" in line for line in text.splitlines()) == 5
    run_verb(["predict", str(student_onnx), str(video), "--json"])
    content = json.loads(capsys.readouterr().out)
    probabilities = [item["probability"] for item in content["top"]["action"]]
    assert len(probabilities) == 5
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) <= 1


@pytest.mark.real_data
def test_real_clips(student_onnx, real_data):
    student = load_student(student_onnx)
    for path in (real_data / "ego4d_clips" / "cmu.mp4", real_data / "gopro" / "max-heromode.mp4"):
        prediction = predict_video(student, path)
        assert prediction.duration_s > 5
        assert np.exp(prediction.log_probs["action"]).sum() == pytest.approx(1)
