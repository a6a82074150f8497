"""Optical flow: known motion, OpenCV's own result, resuming, damaged videos."""

import cv2
import numpy as np
import pytest

from egoloom.clips import ClipStore, Modality
from egoloom.clips.media import VideoReader
from egoloom.clips.media.encoding import decode_flow_grey
from egoloom.errors import UserError
from egoloom.modalities import flow


def read_flow(store: ClipStore, video_id: str) -> np.ndarray:
    with VideoReader(store.media_path(Modality.FLOW, video_id), grey=True) as reader:
        frames = reader.all_frames()
    return decode_flow_grey(frames[:, 0].reshape(len(frames), 2, -1, frames.shape[-1]), store.info.flow_bound_px)


def test_known_motion_is_found_in_pixels(store):
    report = flow.compute(store, progress=False)
    assert (report.num_done, report.num_skipped, report.failures) == (3, 0, ())
    values = read_flow(store, "v0")
    assert values.shape == (8, 2, 96, 128)
    np.testing.assert_allclose(np.median(values[:, :, 16:-16, 16:-16], axis=(0, 2, 3)), (3, -2), atol=0.15)
    np.testing.assert_allclose(values[-1], values[-2], atol=0.2)  # the last frame has no successor
    assert all(Modality.FLOW in clip.present for clip in store.clips)
    assert store.validate() == []


def test_the_track_holds_what_opencv_computes(store):
    flow.compute(store, progress=False)
    with VideoReader(store.media_path(Modality.RGB, "v0"), grey=True) as reader:
        grey = reader.all_frames()[:, 0]
    solver = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    theirs = solver.calc(np.ascontiguousarray(grey[0]), np.ascontiguousarray(grey[1]), None).transpose(2, 0, 1)
    ours = read_flow(store, "v0")[0]
    assert np.abs(ours - theirs).mean() < 0.12  # range of luma, H.264 and steps of 8 / 127 px


def test_a_second_run_does_nothing_and_recompute_does_all(store):
    flow.compute(store, progress=False)
    path = store.media_path(Modality.FLOW, "v1")
    before = path.stat().st_mtime_ns
    assert flow.compute(store, progress=False).num_skipped == 3
    assert path.stat().st_mtime_ns == before
    assert flow.compute(store, progress=False, recompute=True).num_done == 3
    assert path.stat().st_mtime_ns > before


def test_an_interrupted_run_continues(store, monkeypatch):
    real, done = flow._FlowTask.__call__, []

    def interrupted(self, video_id):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(video_id)
        return real(self, video_id)

    monkeypatch.setattr(flow._FlowTask, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        flow.compute(store, progress=False)
    monkeypatch.undo()
    half = ClipStore.open(store.path)
    assert [clip.video_id for clip in half.clips if Modality.FLOW in clip.present] == done
    assert half.validate() == []
    report = flow.compute(half, progress=False)
    assert (report.num_done, report.num_skipped) == (2, 1)


def test_damaged_videos_are_listed_and_leave_nothing_behind(store):
    path = store.media_path(Modality.RGB, "v1")
    path.write_bytes(path.read_bytes()[:400])
    report = flow.compute(store, progress=False)
    assert report.num_done == 2
    (failure,) = report.failures
    assert failure.name == "v1"
    assert "v1.mp4" in failure.reason
    assert sorted(p.name for p in (store.path / "media" / "flow").iterdir()) == ["v0.mp4", "v2.mp4"]
    assert [Modality.FLOW in clip.present for clip in store.clips] == [True, False, True]


def test_a_hopeless_store_stops(store):
    for video_id in store.videos:
        store.media_path(Modality.RGB, video_id).write_bytes(b"junk")
    with pytest.raises(UserError, match="3 of 3 recordings failed; stopped"):
        flow.compute(store, progress=False)


@pytest.mark.slow
def test_workers_give_the_same_bytes(store):
    flow.compute(store, progress=False)
    one = [store.media_path(Modality.FLOW, v).read_bytes() for v in store.videos]
    flow.compute(store, progress=False, recompute=True, num_workers=2)
    assert [store.media_path(Modality.FLOW, v).read_bytes() for v in store.videos] == one


def test_raft_asks_for_weights(store):
    with pytest.raises(UserError, match="RAFT needs weights"):
        flow.compute(store, flow.FlowConfig(method="raft"), progress=False)
