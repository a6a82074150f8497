"""The frame cache of a store: frames as from the video, resumable, used by the reader, also after pickling."""

import pickle
import shutil

import numpy as np
import pytest

from egoloom.cli.main import main
from egoloom.clips import Modality
from egoloom.clips.media.frame_cache import cache_path, index_path
from egoloom.clips.tracks import TrackReader
from egoloom.modalities import frame_cache

TIMES = np.array([0.0, 0.55, 1.3, 1.9])


def test_the_reader_takes_frames_from_the_cache(new_square_store, tmp_path, capsys):
    store = new_square_store(tmp_path / "store", num_clips=4)
    from_video = TrackReader(store).rgb("square_001", TIMES)
    main(["modalities", "frame-cache", "--store", str(store.path), "--quality", "95"])
    assert "4 computed" in capsys.readouterr().out
    reader = TrackReader(store)
    from_cache = reader.rgb("square_001", TIMES)
    assert 0 < np.abs(from_cache.astype(int) - from_video).mean() < 3
    store.media_path(Modality.RGB, "square_001").unlink()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(reader)).rgb("square_001", TIMES), from_cache)


def test_what_is_there_stays_and_damage_is_listed(new_square_store, tmp_path):
    store = new_square_store(tmp_path / "store", num_clips=8)
    store.media_path(Modality.RGB, "square_003").write_bytes(b"no video")
    report = frame_cache.compute(store, progress=False, max_failed_share=0.5)
    assert (report.num_done, report.num_skipped) == (7, 0)
    assert [failure.name for failure in report.failures] == ["square_003"]
    assert not cache_path(store.path, "square_003").exists()
    index_path(cache_path(store.path, "square_005")).unlink()  # as an interruption leaves it
    shutil.copy(store.media_path(Modality.RGB, "square_001"), store.media_path(Modality.RGB, "square_003"))
    again = frame_cache.compute(store, progress=False)
    assert (again.num_done, again.num_skipped) == (2, 6)


def test_too_many_reading_positions_do_not_keep_all_files_open(new_square_store, tmp_path, monkeypatch):
    monkeypatch.setattr("egoloom.clips.tracks.MAX_OPEN_SHARDS", 2)
    store = new_square_store(tmp_path / "store", num_clips=4)
    frame_cache.compute(store, progress=False)
    reader = TrackReader(store)
    first = reader.rgb("square_000", TIMES)
    for video_id in store.videos:
        reader.rgb(video_id, TIMES)
    assert len(reader._shards) == 2
    np.testing.assert_array_equal(reader.rgb("square_000", TIMES), first)


def test_an_impossible_quality_is_refused(square_store, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["modalities", "frame-cache", "--store", str(square_store.path), "--quality", "500"])
    assert stop.value.code == 2
    assert "quality" in capsys.readouterr().err
