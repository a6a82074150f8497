"""Sampling against recorded indices, and the properties that times must have."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egoloom.clips.sampling import (
    clips_at_random_timestamps,
    clips_at_regular_timestamps,
    clips_at_segment_timestamps,
    segment_frame_indices,
    strided_frame_indices,
)


@pytest.fixture(scope="module")
def recorded(golden):
    return np.load(golden / "distillation" / "samplers.npz", allow_pickle=False)


def recorded_cases(recorded, table):
    offsets, indices = recorded[f"{table}/offsets"], recorded[f"{table}/eval_indices"]
    for row, case in enumerate(recorded[f"{table}/cases"]):
        yield tuple(map(int, case)), indices[offsets[row] : offsets[row + 1]]


def test_strided_indices_equal_the_recorded_ones(recorded):
    for (length, num_frames, stride, num_clips), expected in recorded_cases(recorded, "strided"):
        ours = strided_frame_indices(length, num_frames=num_frames, stride=stride, num_clips=num_clips)
        np.testing.assert_array_equal(ours.ravel(), expected)


@pytest.mark.parametrize("table", ["uniform", "layout"])
def test_segment_indices_equal_the_recorded_ones(recorded, table):
    for (length, num_frames, _, num_clips), expected in recorded_cases(recorded, table):
        total = num_frames * (num_clips if table == "uniform" else 1)
        np.testing.assert_array_equal(segment_frame_indices(length, num_frames=total), expected)


intervals = st.tuples(st.floats(0, 100), st.floats(0.05, 60)).map(lambda pair: (pair[0], pair[0] + pair[1]))
counts = {"num_clips": st.integers(1, 4), "num_frames": st.integers(1, 20)}


@settings(max_examples=150, deadline=None)
@given(interval=intervals, spacing=st.floats(0.01, 2), seed=st.integers(0, 99), **counts)
def test_times_stay_inside_in_order_and_evenly_spaced(interval, spacing, seed, num_clips, num_frames):
    start, end = interval
    arguments = {"num_clips": num_clips, "num_frames": num_frames, "seconds_between_frames": spacing}
    regular = clips_at_regular_timestamps(start, end, **arguments)
    generator = np.random.default_rng(seed)
    for times in (regular, clips_at_random_timestamps(start, end, generator=generator, **arguments)):
        assert times.shape == (num_clips, num_frames)
        assert (times >= start - 1e-9).all()
        assert (times < end).all()
        gaps = np.diff(times, axis=1)
        inside = times[:, 1:] < end - 0.0011
        np.testing.assert_allclose(gaps[inside], spacing, atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(interval=intervals, seed=st.one_of(st.none(), st.integers(0, 99)), **counts)
def test_each_segment_gives_one_moment(interval, seed, num_clips, num_frames):
    start, end = interval
    generator = None if seed is None else np.random.default_rng(seed)
    times = clips_at_segment_timestamps(start, end, num_clips=num_clips, num_frames=num_frames, generator=generator)
    segment = np.floor((times - start) / (end - start) * num_frames + 1e-9)
    expected = np.tile(np.arange(num_frames), (num_clips, 1))
    assert (np.abs(segment - expected) <= (times >= end - 0.0011)).all()


def test_one_regular_clip_lies_in_the_middle():
    times = clips_at_regular_timestamps(10.0, 20.0, num_clips=1, num_frames=3, seconds_between_frames=1.0)
    np.testing.assert_allclose(times, [[14.0, 15.0, 16.0]], atol=1e-3)


def test_random_clips_reach_both_ends():
    generator = np.random.default_rng(0)
    times = clips_at_random_timestamps(
        0.0, 10.0, num_clips=4000, num_frames=2, seconds_between_frames=1.0, generator=generator
    )
    assert times[:, 0].min() < 0.05
    assert times[:, 1].max() > 9.95
    # Uniform starts on [0, 9): the mean of 4000 draws lies within 5 standard errors of 4.5.
    assert abs(times[:, 0].mean() - 4.5) < 5 * (9 / 12**0.5) / 4000**0.5


@pytest.mark.parametrize(
    "bad", [{"end_s": 1.0}, {"end_s": float("nan")}, {"num_clips": 0}, {"num_frames": 0}, {"seconds_between_frames": 0}]
)
def test_bad_arguments_are_refused(bad):
    arguments = {"start_s": 1.0, "end_s": 2.0, "num_clips": 1, "num_frames": 2, "seconds_between_frames": 0.1} | bad
    start_s, end_s = arguments.pop("start_s"), arguments.pop("end_s")
    with pytest.raises(ValueError, match=r"interval|at least|positive"):
        clips_at_regular_timestamps(start_s, end_s, **arguments)
