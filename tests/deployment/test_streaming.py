import http.server
import itertools
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from egoloom.cli.main import main, run_verb
from egoloom.clips.media import VideoReader, write_video
from egoloom.deployment.card import Card
from egoloom.deployment.events import EventConfig, EventDetector
from egoloom.deployment.overlay import OverlayWriter
from egoloom.deployment.prediction import read_views
from egoloom.deployment.sources import MonotoneTime, SourceCounts, latest_only, open_source
from egoloom.deployment.streaming import FrameClock, open_stream, square, stream_predictions
from egoloom.errors import UserError
from egoloom.models import Recogniser

TEMPERATURE = 1.7


@pytest.mark.parametrize("kind", ["artefact", "checkpoint"])
def test_stream_equals_clip_inference(request, checkpoint, clips, kind):
    stream = open_stream(request.getfixturevalue(kind))
    model = Recogniser.from_pretrained(checkpoint)
    frames = clips[:3].reshape(-1, *clips.shape[2:])
    with torch.no_grad():
        tokens = model.forward_tokens({"rgb": torch.from_numpy(frames[None])})
    for t, frame in enumerate(frames):
        scores = stream.push(frame)
        # All frames so far give the features; the window says which of them are averaged.
        window = tokens[:, max(0, t + 1 - 4) : t + 1].mean(dim=1)
        expected = (model.forward_head(window)["action"] / TEMPERATURE).log_softmax(-1)[0]
        np.testing.assert_allclose(scores["action"], expected.detach().numpy(), atol=1e-4)
    with torch.no_grad():
        clip = model({"rgb": torch.from_numpy(clips[:1])})["action"] / TEMPERATURE
    stream.reset()
    last = [stream.push(frame) for frame in clips[0]][-1]
    np.testing.assert_allclose(last["action"], clip.log_softmax(-1)[0].numpy(), atol=1e-4)


def test_a_frame_costs_a_frame(artefact):
    stream = open_stream(artefact)
    names = {node.name: node.shape for node in stream.runtime.session.get_inputs()}
    assert names["frame"][1:] == [3, 32, 32]
    cached = sum(np.prod(shape[1:]) for name, shape in names.items() if name.startswith("state"))
    assert cached < 3 * 32 * 32  # what is remembered is smaller than one frame


def test_bidirectional_student_cannot_stream(bidirectional, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["stream", str(bidirectional), "--input", "x.mp4"])
    assert stop.value.code == 2
    assert "looks into the future" in capsys.readouterr().err


def test_ticks_see_the_frames_that_clip_sampling_sees(artefact, video):
    """The stream's frames are those that are shown at the training spacing."""
    stream = open_stream(artefact)
    frames = open_source(str(video), SourceCounts())
    ticks = [(time_s, frame) for time_s, _, frame in stream_predictions(stream, frames)]
    times = np.array([time_s for time_s, _ in ticks])
    np.testing.assert_allclose(times, 0.2 * np.arange(len(times)), atol=1e-9)
    with VideoReader(video) as reader:
        shown = reader.frames_at(times)
    for (_, frame), expected in zip(ticks, shown, strict=True):
        np.testing.assert_array_equal(frame, expected.transpose(1, 2, 0))


def test_stream_of_a_video_equals_predict_on_its_first_window(artefact, video):
    stream = open_stream(artefact)
    frames = open_source(str(video), SourceCounts())
    scores = [scores for _, scores, _ in stream_predictions(stream, frames)]
    with VideoReader(video) as reader:
        first = reader.frames_at(0.2 * np.arange(4))
        views, _, _ = read_views(reader, stream.card.input, 1)
    assert views.shape[2:] == (3, 32, 32)
    stream.reset()
    expected = [stream.push(square(frame.transpose(1, 2, 0), 32)) for frame in first][-1]
    np.testing.assert_allclose(scores[3]["action"], expected["action"], atol=1e-6)


def test_slow_source_repeats_its_frame_and_fast_one_skips():
    clock = FrameClock(0.25, max_repeats=8)
    assert [clock.ticks_before(time_s) for time_s in (0.0, 1.0, 2.0)] == [
        [],
        [0.0, 0.25, 0.5, 0.75],
        [1.0, 1.25, 1.5, 1.75],
    ]
    clock = FrameClock(0.25, max_repeats=8)
    ticks = [clock.ticks_before(index / 240) for index in range(241)]
    assert sum(map(len, ticks)) == 4
    clock = FrameClock(0.25, max_repeats=8)
    clock.ticks_before(0.0)
    assert len(clock.ticks_before(3600.0)) == 8  # an hour's gap does not cost an hour


def card_of(**heads):
    return Card(class_names=heads)


def log_probs(card, **best):
    result = {}
    for head, names in card.class_names.items():
        name, probability = best[head]
        probs = np.full(len(names), (1 - probability) / (len(names) - 1))
        probs[names.index(name)] = probability
        result[head] = np.log(probs)
    return result


def run_events(card, probabilities, config=None):
    """One prediction every 0.1 s: (action, probability)."""
    detector = EventDetector(card, config or EventConfig())
    events = []
    for index, (action, probability) in enumerate(probabilities):
        best = {"action": (action, probability), "verb": (action.split()[0], 0.9), "noun": (action.split()[1], 0.9)}
        events += detector.update(index / 10, log_probs(card, **best))
    return events + detector.finish(len(probabilities) / 10)


KITCHEN = {
    "verb": ["open", "cut", "tap"],
    "noun": ["drawer", "carrot", "water"],
    "action": ["open drawer", "cut carrot", "tap water"],
}


def test_events_do_not_flicker():
    flicker = [("open drawer", 0.55), ("open drawer", 0.45)] * 6
    events = run_events(card_of(**KITCHEN), flicker)
    assert len(events) == 1
    assert (events[0].verb, events[0].noun, events[0].action) == ("open", "drawer", "open drawer")
    assert (events[0].start_s, events[0].end_s) == (0.0, 1.2)
    assert events[0].probability == pytest.approx(0.5)


def test_events_follow_each_other():
    sequence = [("open drawer", 0.8)] * 5 + [("cut carrot", 0.8)] * 5 + [("cut carrot", 0.34)] * 5
    events = run_events(card_of(**KITCHEN), sequence)
    assert [(event.action, event.start_s, event.end_s) for event in events] == [
        ("open drawer", 0.0, 0.5),
        ("cut carrot", 0.5, 1.0),
    ]


def test_an_event_does_not_contradict_itself():
    """The verb head alone prefers another verb than the action that was recognised."""
    card = card_of(**KITCHEN)
    detector = EventDetector(card)
    for index in range(5):
        best = {"action": ("open drawer", 0.8), "verb": ("cut", 0.9), "noun": ("water", 0.6)}
        detector.update(index / 10, log_probs(card, **best))
    (event,) = detector.finish(0.5)
    assert (event.verb, event.noun, event.action) == ("open", "drawer", "open drawer")


def test_short_and_unsure_events_are_dropped():
    short = [("open drawer", 0.9), ("open drawer", 0.9), *[("open drawer", 0.34)] * 5]
    unsure = [("cut carrot", 0.49)] * 10
    assert run_events(card_of(**KITCHEN), short + unsure) == []


def test_events_carry_hands():
    card = card_of(
        action=["a", "b"], left_hand_object=["none", "mug", "knife"], right_hand_object=["none", "mug", "knife"]
    )
    detector = EventDetector(card)
    for index in range(5):
        scores = log_probs(card, action=("a", 0.9), left_hand_object=("none", 0.8), right_hand_object=("knife", 0.7))
        detector.update(index / 10, scores)
    (event,) = detector.finish(0.5)
    content = json.loads(event.to_json())
    assert content["hands"]["left"] == {"in_contact": False, "contact_probability": 0.2, "object": None}
    assert content["hands"]["right"] == {"in_contact": True, "contact_probability": 0.85, "object": "knife"}


def test_the_overlay_names_what_the_hands_hold(tmp_path):
    """The lowest line of the panel is empty without such heads, and differs with what is held."""
    plain, held = card_of(action=["a", "b"]), card_of(action=["a", "b"], right_hand_object=["none", "mug", "knife"])
    frame = np.full((90, 160, 3), 120, np.uint8)
    lines = []
    for card, best in ((plain, {}), *((held, {"right_hand_object": (name, 0.9)}) for name in ("none", "mug", "knife"))):
        picture = OverlayWriter(tmp_path / "x.mp4", card).compose(
            frame, log_probs(card, action=("a", 0.9), **best), "a", 0.5
        )
        assert picture.shape == (360, 640 + 360, 3)
        lines.append(picture[336:, 640:])
    assert len(np.unique(lines[0].reshape(-1, 3), axis=0)) == 1
    assert all((one != other).any() for one, other in itertools.combinations(lines, 2))


def test_times_are_monotone_whatever_the_source_says():
    clock = MonotoneTime()
    times = [clock(raw) for raw in (100.0, 100.1, 100.1, 99.0, 99.1, 0.0, 0.1)]
    assert times[0] == 0
    assert all(later > earlier for earlier, later in itertools.pairwise(times))
    assert times[-1] - times[-2] == pytest.approx(0.1)


def test_slow_consumer_drops_frames_and_gets_the_newest():
    counts = SourceCounts()

    def camera():
        for index in range(50):
            time.sleep(0.004)
            yield index / 30, np.zeros((2, 2, 3), np.uint8)

    got = []
    for time_s, _ in latest_only(camera(), counts):
        got.append(time_s)
        time.sleep(0.03)
    assert got == sorted(got)
    assert counts.num_dropped > 10
    assert len(got) + counts.num_dropped == 50
    assert got[-1] == pytest.approx(49 / 30)


def test_failure_of_the_source_reaches_the_consumer():
    def broken():
        yield 0.0, np.zeros((2, 2, 3), np.uint8)
        raise UserError("unplugged")

    with pytest.raises(UserError, match="unplugged"):
        list(latest_only(broken(), SourceCounts()))


def test_broken_frames_are_skipped(tmp_path, artefact, moving_frames):
    path = tmp_path / "stream.ts"
    with av.open(str(path), "w", format="mpegts") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame in moving_frames(75, 48, 64).transpose(0, 2, 3, 1):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : len(content) // 3 + 900] = bytes(900)
    path.write_bytes(content)
    counts = SourceCounts()
    predictions = list(stream_predictions(open_stream(artefact), open_source(str(path), counts)))
    assert counts.num_frames >= 60
    times = [time_s for time_s, _, _ in predictions]
    assert len(times) >= 13
    assert all(later > earlier for earlier, later in itertools.pairwise(times))


def test_live_source_is_opened_again(tmp_path, video):
    """A server that ends each connection after the whole file, twice, and then refuses."""
    served = []
    content = Path(video).read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if len(served) >= 2:
                self.send_error(503)
                return
            served.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        counts = SourceCounts()
        address = f"http://127.0.0.1:{server.server_port}/live.mp4"
        from egoloom.deployment.sources import _live_frames

        times = [time_s for time_s, _ in _live_frames(address, counts, reconnects=1)]
    finally:
        server.shutdown()
    assert counts.num_frames == 120
    assert counts.num_reconnects >= 2
    assert all(later > earlier for earlier, later in itertools.pairwise(times))


def test_memory_stays_flat_and_nothing_is_lost(artefact):
    """Half an hour of stream time at full speed."""
    import resource

    stream = open_stream(artefact)
    frame = np.zeros((40, 40, 3), np.uint8)
    num_ticks = 0
    after_warm_up = 0
    last_s = -1.0
    detector = EventDetector(stream.card)
    for time_s, scores, _ in stream_predictions(stream, ((index / 5, frame) for index in range(30 * 60 * 5))):
        assert time_s > last_s
        last_s = time_s
        num_ticks += 1
        detector.update(time_s, scores)
        if num_ticks == 1000:
            after_warm_up = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert num_ticks == 9000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - after_warm_up < 8 * 1024


def test_verb_writes_events_and_overlay(artefact, video, tmp_path, capsys):
    overlay, events = tmp_path / "side.mp4", tmp_path / "events.jsonl"
    arguments = ["--on-probability", "0.2", "--off-probability", "0.1", "--output", str(overlay)]
    run_verb(["stream", str(artefact), "--input", str(video), *arguments])
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in captured.out.splitlines()]
    assert lines
    for line in lines:
        assert set(line) == {"start_s", "end_s", "verb", "noun", "action", "probability"}
        assert 0 <= line["start_s"] < line["end_s"] <= 4.1
    assert "60 frames read" in captured.err
    with VideoReader(overlay) as reader:
        frames = reader.all_frames()
        assert reader.duration_s == pytest.approx(4.0, abs=0.4)
    assert frames.shape == (20, 3, 360, 960)
    run_verb(["stream", str(artefact), "--input", str(video), *arguments[:4], "--events", str(events)])
    assert [json.loads(line) for line in events.read_text().splitlines()] == lines


def test_a_stopped_stream_keeps_what_it_saw(artefact, tmp_path, moving_frames):
    """A camera never ends by itself: the usual end is a signal."""
    write_video(tmp_path / "minute.mp4", moving_frames(600, 48, 64), 10)
    overlay, events = tmp_path / "side.mp4", tmp_path / "events.jsonl"
    arguments = [
        "--input",
        str(tmp_path / "minute.mp4"),
        "--realtime",
        "--events",
        str(events),
        "--output",
        str(overlay),
    ]
    lines: list[dict] = []
    for patience_s in (2, 6, 20):  # a busy machine needs longer until the first event
        process = subprocess.Popen(
            [sys.executable, "-m", "egoloom", "stream", str(artefact), *arguments, "--on-probability", "0.2",
             "--off-probability", "0.1"], stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob(".events*")) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(patience_s)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
        lines = [json.loads(line) for line in events.read_text().splitlines()]
        if lines:
            break
    assert lines
    assert lines[-1]["end_s"] < 59
    with VideoReader(overlay) as reader:
        assert 0 < len(reader.all_frames()) < 300
    assert not list(tmp_path.glob(".*"))


def test_bad_sources_exit_with_two(artefact, student_onnx, video, tmp_path, capsys):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video")
    unknown = tmp_path / "unknown_codec.mp4"
    unknown.write_bytes(video.read_bytes().replace(b"avc1", b"zz9z"))
    for model, source, message in (
        (artefact, tmp_path / "missing.mp4", "There is no video"),
        (artefact, broken, "Cannot open"),
        (artefact, unknown, "cannot be decoded"),
        (student_onnx, broken, "single file for whole clips"),
        (tmp_path / "nothing", broken, "There is no model"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["stream", str(model), "--input", str(source), "--output", str(tmp_path / "side.mp4")])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "side.mp4").exists()


def test_rotated_video_comes_upright(tmp_path, moving_frames):
    """A phone held upright stores lying frames and a turn; both readers apply it alike."""
    path = tmp_path / "turned.mp4"
    write_video(path, moving_frames(10, 48, 64), 10)
    content = path.read_bytes()
    # The track header's matrix of a quarter turn: [[0, 1], [-1, 0]] in 16.16 fixed point.
    one, zero, minus, last = (value.to_bytes(4, "big") for value in (0x10000, 0, 0xFFFF0000, 0x40000000))
    upright = one + zero * 3 + one + zero * 3 + last
    turned = zero + one + zero + minus + zero * 4 + last
    track = content.index(b"tkhd")
    position = content.index(upright, track)
    path.write_bytes(content[:position] + turned + content[position + len(turned) :])
    frames = [frame for _, frame in open_source(str(path), SourceCounts())]
    with VideoReader(path) as reader:
        expected = reader.all_frames()
    assert frames[0].shape == (64, 48, 3)
    np.testing.assert_array_equal(frames[0], expected[0].transpose(1, 2, 0))


@pytest.mark.real_data
def test_real_recordings_stream(artefact, real_data):
    for path in [*sorted((real_data / "ego4d_clips").glob("*.mp4"))[:2], real_data / "gopro" / "max-heromode.mp4"]:
        counts = SourceCounts()
        times = [item[0] for item in stream_predictions(open_stream(artefact), open_source(str(path), counts))]
        assert counts.num_broken == 0
        assert len(times) > 25


@pytest.mark.real_data
def test_aria_recordings_stream(artefact, real_data):
    pytest.importorskip("projectaria_tools", reason="the extra aria is not installed")
    for name in ("gen1_everyday_activities.vrs", "gen2_multi_stream.vrs"):
        counts = SourceCounts()
        source = open_source(str(real_data / "aria" / name), counts)
        assert list(stream_predictions(open_stream(artefact), source))
        assert counts.num_frames > 0
