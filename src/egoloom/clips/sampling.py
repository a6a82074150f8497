"""Which moments of a clip a network sees: sampling in seconds, so that every video may keep its own frame rate.

Shapes: ``[num_clips, num_frames]`` of seconds. The ``*_frame_indices`` functions are the frame-number forms that
reference code uses (arXiv 2307.07483); they exist for comparison and for sources that know no times.
"""

import numpy as np

END_MARGIN_S = 1e-3  # a clip's end is exclusive: its last moment lies this much before it


def clips_at_random_timestamps(
    start_s: float,
    end_s: float,
    *,
    num_clips: int,
    num_frames: int,
    seconds_between_frames: float,
    generator: np.random.Generator,
) -> np.ndarray:
    """Samples clips of regularly spaced frames at uniformly random positions between ``start_s`` and ``end_s``.

    Where the interval is shorter than a clip, the last moment repeats.

    Args:
        start_s: Start of the interval in seconds.
        end_s: End of the interval, exclusive.
        num_clips: Number of clips, at least 1.
        num_frames: Frames a clip, at least 1.
        seconds_between_frames: Distance of neighbouring frames, positive.
        generator: Source of randomness; the same state gives the same times.

    Returns:
        Seconds, float64 ``[num_clips, num_frames]``.
    """
    slack_s = _slack(start_s, end_s, num_clips, num_frames, seconds_between_frames)
    starts = start_s + generator.uniform(0.0, slack_s, size=num_clips)
    return _spread(starts, end_s, num_frames, seconds_between_frames)


def clips_at_regular_timestamps(
    start_s: float, end_s: float, *, num_clips: int, num_frames: int, seconds_between_frames: float
) -> np.ndarray:
    """Samples clips of regularly spaced frames whose positions divide the interval evenly; one clip lies in the middle.

    Arguments and result are those of ``clips_at_random_timestamps`` without the randomness.
    """
    slack_s = _slack(start_s, end_s, num_clips, num_frames, seconds_between_frames)
    starts = start_s + (np.arange(num_clips) + 0.5) * slack_s / num_clips
    return _spread(starts, end_s, num_frames, seconds_between_frames)


def clips_at_segment_timestamps(
    start_s: float, end_s: float, *, num_clips: int, num_frames: int, generator: np.random.Generator | None = None
) -> np.ndarray:
    """Samples one moment from each of ``num_frames`` equal segments, so that every clip spans the whole interval.

    Several clips interleave: clip ``k`` of ``n`` takes the moment at ``(k + 0.5) / n`` of each segment (the reference
    instead cuts the list of indices, so that each of its test clips covers another part than in training).

    Args:
        start_s: Start of the interval in seconds.
        end_s: End of the interval, exclusive.
        num_clips: Number of clips.
        num_frames: Segments, and frames a clip.
        generator: Draws the moment within each segment; None takes regular positions.

    Returns:
        Seconds, float64 ``[num_clips, num_frames]``.
    """
    _check(start_s, end_s, num_clips, num_frames)
    if generator is None:
        offsets = np.repeat(((np.arange(num_clips) + 0.5) / num_clips)[:, None], num_frames, axis=1)
    else:
        offsets = generator.uniform(0.0, 1.0, size=(num_clips, num_frames))
    times = start_s + (np.arange(num_frames)[None] + offsets) * (end_s - start_s) / num_frames
    return np.minimum(times, end_s - END_MARGIN_S)


def strided_frame_indices(length: int, *, num_frames: int, stride: int, num_clips: int = 1) -> np.ndarray:
    """Returns the frame numbers of evenly placed strided clips; past the end the last valid one repeats.

    Args:
        length: Number of frames of the video.
        num_frames: Frames a clip.
        stride: Distance of neighbouring frames in frames.
        num_clips: Number of clips.

    Returns:
        int64 ``[num_clips, num_frames]``.
    """
    span = num_frames * stride
    average = (length - span + 1) / num_clips
    positions = np.arange(num_clips)
    starts = (positions * average + average / 2).astype(np.int64) if length >= span else np.zeros(num_clips, np.int64)
    indices = starts[:, None] + np.arange(num_frames)[None] * stride
    last_valid = np.where(indices < length, indices, -1).max(axis=1, keepdims=True)
    return np.where(indices < length, indices, np.maximum(last_valid, 0))


def segment_frame_indices(length: int, *, num_frames: int) -> np.ndarray:
    """Returns the middle frame number of each of ``num_frames`` equal segments of ``[0, length - 1]``.

    Rounds half to even at the segment borders, as the reference does.

    Returns:
        int64 ``[num_frames]``.
    """
    borders = np.rint(np.arange(num_frames + 1) * ((length - 1) / num_frames)).astype(np.int64)
    return (borders[:-1] + borders[1:]) // 2


def _check(start_s: float, end_s: float, num_clips: int, num_frames: int) -> None:
    if not (np.isfinite(start_s) and np.isfinite(end_s)) or end_s <= start_s:
        raise ValueError(f"the interval {start_s}-{end_s} s is empty; its end must lie after its start")
    if num_clips < 1 or num_frames < 1:
        raise ValueError(f"num_clips {num_clips} and num_frames {num_frames} must be at least 1")


def _slack(start_s: float, end_s: float, num_clips: int, num_frames: int, spacing_s: float) -> float:
    _check(start_s, end_s, num_clips, num_frames)
    if spacing_s <= 0:
        raise ValueError(f"seconds_between_frames is {spacing_s}; it must be positive")
    return max(0.0, end_s - END_MARGIN_S - start_s - (num_frames - 1) * spacing_s)


def _spread(starts: np.ndarray, end_s: float, num_frames: int, spacing_s: float) -> np.ndarray:
    return np.minimum(starts[:, None] + np.arange(num_frames)[None] * spacing_s, end_s - END_MARGIN_S)
