"""Which exo clips are worth a generation: scarce labels first, hands in view, and enough of the ego view seen.

Every clip gets marks in [0, 1]; clips are then taken greedily, and each one taken makes its class and its participant
less scarce. Of several exo cameras of one take the best one is taken.
"""

import heapq
import itertools
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from egoloom.augmentation.takes import ego_video, load_take
from egoloom.cameras import transform_points
from egoloom.cameras.poses import invert
from egoloom.clips import Clip, ClipStore, Modality
from egoloom.clips.media import read_table
from egoloom.errors import UserError

GRID = 24  # cells a side, into which the expected coverage is counted
TRAINABLE = ("train", "unlabelled")  # splits whose exo clips become training data; all others are kept for judging


class PickConfig(BaseModel):
    """What makes an exo clip worth generating.

    Attributes:
        max_clips: At most this many; None takes all that pass.
        by_need: Scarce classes and participants come first (exponent of the need; 0 ignores it).
        by_visibility: Exponent of the visibility of hands and objects.
        by_coverage: Exponent of the expected coverage of the ego view.
        min_visibility: Clips that show less of hands and objects are passed over, where boxes are known.
        min_coverage: Clips whose prior is expected to cover less are passed over.
        min_label_confidence: Clips whose label is less certain to hold for the ego view are passed over.
        need_label: Pass over clips without a label.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_clips: int | None = Field(default=None, ge=1)
    by_need: float = Field(default=1.0, ge=0)
    by_visibility: float = Field(default=1.0, ge=0)
    by_coverage: float = Field(default=1.0, ge=0)
    min_visibility: float = Field(default=0.0, ge=0, le=1)
    min_coverage: float = Field(default=0.05, ge=0, le=1)
    min_label_confidence: float = Field(default=0.5, ge=0, le=1)
    need_label: bool = False


@dataclass(frozen=True)
class Candidate:
    """An exo clip and its marks.

    Attributes:
        store: The store that holds it.
        clip: The exo clip.
        visibility: Mean over frames of (hands seen + object seen) / 2; None where no boxes are known.
        coverage: Expected share of the ego view that the prior shows.
        label_confidence: How certain the exo label holds for the ego view, see `label_confidence`.
        reason: Why it is passed over; empty if it is not.
    """

    store: ClipStore
    clip: Clip
    visibility: float | None
    coverage: float
    label_confidence: float
    reason: str = ""

    def worth(self, config: PickConfig) -> float:
        """Returns the product of the marks, without the need."""
        seen = 1.0 if self.visibility is None else self.visibility
        return max(seen, 1e-6) ** config.by_visibility * max(self.coverage, 1e-6) ** config.by_coverage


@dataclass
class Picked:
    """What `pick_clips` chose, in the order of worth, and why the others were passed over."""

    chosen: list[Candidate]
    passed_over: list[Candidate] = field(default_factory=list)


def pick_clips(
    sources: Sequence[ClipStore],
    config: PickConfig | None = None,
    *,
    recorded: Sequence[Clip] = (),
    split: str | None = None,
    held_out: Container[str] = (),
) -> Picked:
    """Chooses exo clips of one or many stores.

    Args:
        sources: Stores with exo clips and equal classes.
        config: What counts.
        recorded: Labelled ego clips at hand; their classes and participants are less needed.
        split: Only exo clips of this split.
        held_out: Clips of these splits are passed over: what they become would leak into training.

    Raises:
        UserError: If no store has an exo clip.
    """
    config = config or PickConfig()
    candidates = [
        Candidate(store, clip, None, 0.0, 0.0, f"its split {clip.split!r} is held out from training")
        if clip.split in held_out
        else mark(store, clip, config)
        for store in sources
        for clip in store.select(view="exo", split=split)
    ]
    if not candidates:
        where = ", ".join(str(store.path) for store in sources)
        raise UserError(
            f"{where} has no exo clips" + (f" in the split {split!r}" if split else ""),
            allowed="a store with third-person video",
            fix="egoloom ingest, or egoloom kitchen, make such stores",
        )
    good, passed_over = best_cameras([c for c in candidates if not c.reason], config)
    chosen = by_scarcity(good, config, recorded)
    left = {id(c) for c in good} - {id(c) for c in chosen}
    passed_over += [c for c in candidates if c.reason]
    passed_over += [replace(c, reason="enough clips were more needed") for c in good if id(c) in left]
    return Picked(chosen, passed_over)


def held_out_splits(sources: Sequence[ClipStore]) -> set[str]:
    """Returns the splits of exo clips that no training may see, not even as generated clips."""
    return {clip.split for store in sources for clip in store.select(view="exo")} - set(TRAINABLE)


def judging_clips(
    sources: Sequence[ClipStore], config: PickConfig, split: str, max_clips: int | None = None
) -> list[Candidate]:
    """Returns exo clips of a held-out split that pass the same marks; what they become sets the filter's thresholds."""
    clips = ((store, clip) for store in sources for clip in store.select(view="exo") if clip.split == split)
    passed = (one for one in (mark(store, clip, config) for store, clip in clips) if not one.reason)
    return list(itertools.islice(passed, max_clips))


def mark(store: ClipStore, clip: Clip, config: PickConfig) -> Candidate:
    """Returns a clip with its marks, and a reason to pass it over if there is one."""
    visible = visibility(store, clip)
    confidence = label_confidence(store, clip)
    try:
        coverage = expected_coverage(store, clip)
    except UserError as error:
        return Candidate(store, clip, visible, 0.0, confidence, error.what)
    reason = ""
    if config.need_label and not clip.is_labelled:
        reason = "it has no label"
    elif clip.is_labelled and confidence < config.min_label_confidence:
        reason = f"its label holds for the ego view with confidence {confidence:.2f} only"
    elif visible is not None and visible < config.min_visibility:
        reason = f"hands and objects are hardly seen ({visible:.2f})"
    elif coverage < config.min_coverage:
        reason = f"the exo camera sees {coverage:.0%} of the ego view only"
    return Candidate(store, clip, visible, coverage, confidence, reason)


def visibility(store: ClipStore, clip: Clip) -> float | None:
    """Returns the mean over annotated frames of (a hand is seen + an object is seen) / 2; None without boxes."""
    if Modality.BOXES not in clip.present:
        return None
    table = read_table(store.media_path(Modality.BOXES, clip.video_id))
    inside = (table["time_s"] >= clip.start_s) & (table["time_s"] < clip.end_s) & (table["score"] >= 0.3)
    num_frames = max(1, round((clip.end_s - clip.start_s) * float(store.videos[clip.video_id].fps)))
    is_hand = np.asarray(table["is_hand"], bool)
    with_hands, with_objects = (len(np.unique(table["time_s"][inside & who])) for who in (is_hand, ~is_hand))
    return float(min(1.0, (with_hands + with_objects) / (2 * num_frames)))


def expected_coverage(store: ClipStore, clip: Clip, *, num_frames: int = 3, pixel_step: int = 2) -> float:
    """Returns the share of the ego view that points of the exo depth fall into, without rendering anything.

    Args:
        store: The store.
        clip: An exo clip with depth and cameras.
        num_frames: Moments looked at.
        pixel_step: Uses every n-th exo pixel.

    Raises:
        UserError: If depth or cameras are missing.
    """
    take = load_take(store, clip, num_frames=num_frames)
    step = slice(None, None, pixel_step)
    rays = take.exo_camera.rays(unit=False)[0][step, step].reshape(-1, 3)
    ego = take.ego_camera.resize(GRID, GRID)
    poses = take.T_world_exo.expand(num_frames, 4, 4).double()
    shares = []
    for depth, T_world_exo, T_world_ego in zip(take.depth_THW, poses, take.T_world_ego.double(), strict=True):
        depth_N = torch.from_numpy(np.ascontiguousarray(depth[step, step])).double().reshape(-1)
        known = torch.isfinite(depth_N) & (depth_N > 0)
        points = transform_points(invert(T_world_ego) @ T_world_exo, rays[known] * depth_N[known, None])
        pixels, is_inside = ego.project(points)
        cells = pixels[is_inside].round().long().clamp(0, GRID - 1)
        shares.append(len(torch.unique(cells[:, 1] * GRID + cells[:, 0])) / GRID**2)
    return float(np.mean(shares))


def label_confidence(store: ClipStore, clip: Clip) -> float:
    """Returns how certain the label of an exo clip holds for the wearer's view of the same moment.

    It is the annotation's own confidence (``extra["label_confidence"]``, 1 if unknown) times the share of the clip
    during which the wearer's pose is known; 0 if a recorded ego clip of the same moment bears another label.
    """
    confidence = float(clip.extra.get("label_confidence", 1.0)) * _pose_share(store, clip)
    for other in store.clips:
        overlap = min(clip.end_s, other.end_s) - max(clip.start_s, other.start_s)
        is_same_moment = other.view == "ego" and clip.take_id and other.take_id == clip.take_id and overlap > 0
        if is_same_moment and other.is_labelled and clip.is_labelled and other.action != clip.action:
            return 0.0
    return confidence


def _pose_share(store: ClipStore, clip: Clip) -> float:
    ego = ego_video(store, clip.take_id)
    calibration = ego.calibration_id if ego else clip.extra.get("ego_calibration", "")
    if not calibration:
        return 0.0
    poses = store.load_calibration(calibration).get("T_world_camera")
    if not isinstance(poses, dict):
        return 1.0
    first, last = poses["times_s"][0], poses["times_s"][-1]
    step_s = (last - first) / max(1, len(poses["times_s"]) - 1)
    known_s = min(clip.end_s, last + step_s) - max(clip.start_s, first)
    return float(np.clip(known_s / (clip.end_s - clip.start_s), 0, 1))


def best_cameras(candidates: Sequence[Candidate], config: PickConfig) -> tuple[list[Candidate], list[Candidate]]:
    """Returns the best exo camera of each moment of a take, and the others with the reason."""
    best: dict[tuple[Path, str, float, float], Candidate] = {}
    others = []
    for candidate in candidates:
        clip = candidate.clip
        moment = round(clip.start_s, 2), round(clip.end_s, 2)
        key = (candidate.store.path, clip.take_id or clip.clip_id, *moment)
        rival = best.get(key)
        if rival is None or candidate.worth(config) > rival.worth(config):
            best[key] = candidate
            candidate, rival = rival, candidate
        if candidate is not None and rival is not None:
            others.append(replace(candidate, reason=f"the camera of {rival.clip.clip_id} sees this moment better"))
    return list(best.values()), others


def by_scarcity(candidates: Sequence[Candidate], config: PickConfig, recorded: Sequence[Clip] = ()) -> list[Candidate]:
    """Returns the candidates greedily by worth times need, up to ``max_clips``.

    The need of a clip is ``1 / (1 + clips of its class) / sqrt(1 + clips of its participant)`` with what was recorded
    and taken so far. Needs only fall, so a heap with stale values finds the next best without looking at all.
    """
    classes = Counter(clip.action for clip in recorded if clip.is_labelled)
    people = Counter(clip.participant_id for clip in recorded)

    def value(candidate: Candidate) -> float:
        clip = candidate.clip
        need = 1 / (1 + classes[clip.action]) / np.sqrt(1 + people[clip.participant_id])
        return candidate.worth(config) * need**config.by_need

    heap = [(-value(candidate), index) for index, candidate in enumerate(candidates)]
    heapq.heapify(heap)
    chosen: list[Candidate] = []
    while heap and (config.max_clips is None or len(chosen) < config.max_clips):
        _, index = heapq.heappop(heap)
        now = -value(candidates[index])
        if heap and now > heap[0][0]:
            heapq.heappush(heap, (now, index))
            continue
        chosen.append(candidates[index])
        classes[candidates[index].clip.action] += 1
        people[candidates[index].clip.participant_id] += 1
    return chosen
