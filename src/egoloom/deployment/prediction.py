"""Names the action in a video file with a deployed student.

Shape letters: V views, T frames, H height, W width, K classes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from egoloom.clips.media import VideoReader
from egoloom.clips.sampling import clips_at_regular_timestamps, clips_at_segment_timestamps
from egoloom.clips.transforms import SpatialPlan, ViewConfig
from egoloom.deployment.artefact import DeployedStudent, average_views
from egoloom.deployment.card import InputCard
from egoloom.errors import UserError


@dataclass(frozen=True)
class VideoPrediction:
    """What a student says of a video.

    Attributes:
        video: The file.
        duration_s: Its length.
        view_starts_s: First moment of each view that was averaged.
        log_probs: Head to calibrated log-probabilities ``[K]``.
        class_names: Head to names.
        main_head: The head that names an action.
    """

    video: Path
    duration_s: float
    view_starts_s: tuple[float, ...]
    log_probs: dict[str, np.ndarray]
    class_names: dict[str, list[str]]
    main_head: str

    def top(self, head: str | None = None, *, k: int = 5) -> list[tuple[str, float]]:
        """Returns the ``k`` most likely classes of a head with their probabilities, best first."""
        head = head or self.main_head
        probs_K = np.exp(self.log_probs[head])
        return [(self.class_names[head][index], float(probs_K[index])) for index in np.argsort(-probs_K)[:k]]

    def to_dict(self, *, k: int = 5) -> dict:
        """Returns plain values for JSON."""
        heads = {
            head: [{"name": name, "probability": round(p, 6)} for name, p in self.top(head, k=k)]
            for head in self.log_probs
        }
        return {
            "video": str(self.video),
            "duration_s": round(self.duration_s, 4),
            "view_starts_s": [round(start, 4) for start in self.view_starts_s],
            "main_head": self.main_head,
            "top": heads,
        }


def predict_video(student: DeployedStudent, video: Path | str, *, num_views: int = 3) -> VideoPrediction:
    """Predicts one video from several regular views whose logits are averaged.

    Args:
        student: See `load_student`.
        video: A video file of any size, frame rate and pixel format.
        num_views: Views spread evenly over the video.

    Raises:
        UserError: If the video is missing, damaged or has no frames.
    """
    video = Path(video)
    with VideoReader(video) as reader:
        frames_VTCHW, times_VT, duration_s = read_views(reader, student.card.input, num_views)
    scores = average_views(student.log_probs(frames_VTCHW))
    starts = tuple(float(start) for start in times_VT[:, 0])
    return VideoPrediction(video, duration_s, starts, scores, student.card.class_names, student.card.main_head)


def read_views(reader: VideoReader, card: InputCard, num_views: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns frames uint8 ``[V, T, 3, size, size]``, their times ``[V, T]`` and the video's length in seconds.

    A video shorter than one clip is sampled evenly over its whole length.

    Raises:
        UserError: If the video has no frames or is damaged.
    """
    frame_times_s = reader.frame_times_s()
    if not len(frame_times_s):
        raise UserError(f"{reader.path} has no frames", fix="check or replace the file")
    # The last frame's own length is not in the file: one frame interval is the usual assumption.
    duration_s = float(frame_times_s[-1]) + 1.0 / max(1e-3, float(reader.fps))
    # Views end at the start of the last frame, so that no time asks for a frame beyond it.
    end_s = float(frame_times_s[-1]) + 2e-3
    if card.window_s > end_s:
        times_VT = clips_at_segment_timestamps(0.0, end_s, num_clips=1, num_frames=card.num_frames)
    else:
        # More views than there is room for would only repeat one another.
        room = 1 + int((end_s - card.window_s) / card.seconds_between_frames)
        times_VT = clips_at_regular_timestamps(
            0.0,
            end_s,
            num_clips=min(num_views, room),
            num_frames=card.num_frames,
            seconds_between_frames=card.seconds_between_frames,
        )
    # A video may pause for longer than the reader's default tolerance (1 fps, variable rates); the shown frame counts.
    gap_s = float(np.diff(frame_times_s).max(initial=0.0))
    frames = reader.frames_at(times_VT.ravel(), tolerance_s=max(0.1, 1.01 * gap_s + 1e-3))
    plan = SpatialPlan.regular(frames.shape[2], frames.shape[3], ViewConfig(size_px=card.size_px))
    return plan.rgb(frames).reshape(*times_VT.shape, 3, card.size_px, card.size_px), times_VT, duration_s
