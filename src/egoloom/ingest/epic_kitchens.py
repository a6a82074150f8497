"""EPIC-KITCHENS-100 (Damen et al. 2022, arXiv 2006.13256): videos or frames, flow, sound, hand and object boxes.

Traps that are settled here: 2018 videos run at 59.94 frames a second while their frame numbers are 60 x seconds, 2020
videos at 50; published flow has half the rate for 2018 videos; file numbers start at 0 or 1. All three are measured.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly

from egoloom._optional import require_package
from egoloom.clips import Clip, ClipStore, Modality
from egoloom.clips.media import read_arrays, write_audio
from egoloom.clips.schema import EMPTY_HAND, HAND_OBJECT_HEADS
from egoloom.errors import UserError
from egoloom.ingest import epic_annotations, epic_media
from egoloom.ingest.epic_annotations import EpicTables, Segment
from egoloom.ingest.epic_contacts import Contacts
from egoloom.ingest.protobuf import FrameDetections, read_hand_object_file
from egoloom.ingest.recordings import DEFAULT_OPTIONS, Copied, IngestOptions, Recording, bring_in, clip_times
from egoloom.ingest.sources import require_paths

LICENCE = "EPIC-KITCHENS-100: CC BY-NC 4.0"
FLOW_BOUND_PX = 20.0  # of the published TV-L1 pictures at 456 x 256
AUDIO_FILES = ("EPIC_audio.hdf5", "audio/EPIC_audio.hdf5", "EPIC_100_audio.hdf5")


def ingest(
    source: Path,
    out: Path,
    *,
    annotations: Path | None = None,
    videos: tuple[str, ...] = (),
    splits: tuple[str, ...] = ("train", "validation", "test"),
    audio_hdf5: Path | None = None,
    audio_hdf5_rate_hz: int = 24_000,
    object_boxes: Path | None = None,
    min_box_score: float = 0.5,
    allow_missing: bool = False,
    unannotated: bool = False,
    options: IngestOptions = DEFAULT_OPTIONS,
) -> ClipStore:
    """Brings EPIC-KITCHENS-100 into a clip store.

    Args:
        source: Folder with the media.
        out: The store.
        annotations: Folder with the official CSV files; default: looked for below the source.
        videos: Only these video ids; default: all that are annotated.
        splits: Only these splits.
        audio_hdf5: HDF5 file with one waveform a video; default: looked for below the source. Needs h5py.
        audio_hdf5_rate_hz: Sample rate of that file.
        object_boxes: ``.npz`` with ``det`` [N, 7]: frame, class, xyxy in 1920 x 1080, score; for a single video.
        min_box_score: Weaker hand and object boxes are left out.
        allow_missing: Leave out annotated videos and segments that are not there, instead of stopping.
        unannotated: Also take the given videos that have no segment, as one unlabelled clip each.
        options: How media are copied.
    """
    require_paths({source: "the media folder"}, source="epic-kitchens")
    tables = epic_annotations.read_tables(epic_annotations.find_folder(source, annotations))
    by_video: dict[str, list[Segment]] = defaultdict(list)
    for segment in tables.segments:
        if segment.split in splits and (not videos or segment.video_id in videos):
            by_video[segment.video_id].append(segment)
    if unannotated:
        for video_id in videos:
            by_video.setdefault(video_id, [])
    plans = _plans(source, by_video, tables, allow_missing=allow_missing)
    with_hands = any(_hand_object_file(source, video_id) for video_id in plans)
    store = ClipStore.create(
        out,
        name="EPIC-KITCHENS-100",
        source="epic-kitchens",
        licence=LICENCE,
        label_spaces={
            "verb": tables.verbs,
            "noun": tables.nouns,
            "action": [f"{tables.verbs[verb]} {tables.nouns[noun]}" for verb, noun in tables.action_pairs],
            **({head: [EMPTY_HAND, *tables.nouns] for head in HAND_OBJECT_HEADS} if with_hands else {}),
        },
        splits=list(splits),
        flow_bound_px=FLOW_BOUND_PX,
        extra=epic_annotations.extra_info(tables),
    )
    audio_hdf5 = audio_hdf5 or epic_annotations.optional_file(source, *AUDIO_FILES)
    actions = {pair: index for index, pair in enumerate(tables.action_pairs)}

    def clips_of(recording: Recording, copied: Copied) -> Sequence[Clip]:
        plan = plans[recording.video_id]
        present = set(copied.present)
        present |= _write_flow(store, source, plan, copied)
        detected = _hand_object_file(source, recording.video_id)
        frames = read_hand_object_file(detected) if detected else None
        present |= _write_boxes(store, frames, plan, copied, object_boxes, min_box_score)
        if audio_hdf5 and Modality.AUDIO not in present:
            present |= _write_sound(store, recording.video_id, audio_hdf5, audio_hdf5_rate_hz, options)
        if not plan.segments:
            return [_whole_video(recording, copied, frozenset(present))]
        clips = _clips(plan, copied, tables, actions, frozenset(present), allow_missing=allow_missing)
        return clips if frames is None else _with_contacts(clips, frames, plan, min_box_score)

    recordings = [plan.recording for plan in plans.values()]
    bring_in(store, recordings, clips_of, options, description="epic-kitchens")
    return store


@dataclass(frozen=True)
class VideoPlan:
    """What was found out about one video before it is copied.

    Attributes:
        recording: What to copy.
        segments: Its action segments.
        number_rate: Frame numbers of the tables a second.
        first_number: Number of the frame at second 0.
    """

    recording: Recording
    segments: tuple[Segment, ...]
    number_rate: float
    first_number: int


def _plans(
    source: Path, by_video: dict[str, list[Segment]], tables: EpicTables, *, allow_missing: bool
) -> dict[str, VideoPlan]:
    plans, missing = {}, []
    for video_id, segments in sorted(by_video.items()):
        fps = tables.fps.get(video_id, epic_annotations.nominal_fps(video_id))
        rate = epic_annotations.annotated_rate(segments, fps)
        if path := epic_media.find_video(source, video_id):
            plans[video_id] = VideoPlan(Recording(video_id, path), tuple(segments), rate, 1)
        elif frames := epic_media.find_frames(source, video_id):
            exact = Fraction(60000, 1001) if abs(rate - 60000 / 1001) < 0.01 else Fraction(round(rate))
            recording = Recording(video_id, source / video_id, images=frames.images, fps=exact)
            plans[video_id] = VideoPlan(recording, tuple(segments), rate, frames.first)
        else:
            missing.append(video_id)
    if missing and (not allow_missing or not plans):
        participant = missing[0].split("_")[0]
        raise UserError(
            f"The media of {len(missing)} of {len(by_video)} annotated videos are missing: {', '.join(missing[:8])}. "
            f"Looked for\n    {source / participant / 'videos' / missing[0]}.MP4\n"
            f"    {source / participant / 'rgb_frames' / missing[0]}/ or .tar",
            fix="add them, name those that you have with --videos, or pass --allow-missing",
        )
    if not plans:
        raise UserError("No annotated video is left to ingest", fix="check --videos and --splits")
    return plans


def _clips(
    plan: VideoPlan,
    copied: Copied,
    tables: EpicTables,
    actions: dict[tuple[int, int], int],
    present: frozenset[Modality],
    *,
    allow_missing: bool,
) -> list[Clip]:
    clips, outside = [], []
    for segment in plan.segments:
        times = clip_times(segment.start_s, segment.stop_s, copied.video)
        if times is None or segment.stop_s > copied.video.duration_s + 1.0:
            outside.append(segment.narration_id)
            continue
        extra = {"all_nouns": json.dumps(segment.all_nouns)} if len(segment.all_nouns) > 1 else {}
        if segment.participant_id in tables.unseen_participants:
            extra["unseen_participant"] = "true"
        clips.append(
            Clip(
                clip_id=segment.narration_id,
                video_id=segment.video_id,
                participant_id=segment.participant_id,
                view="ego",
                take_id="",
                start_s=times[0],
                end_s=times[1],
                split=segment.split,
                verb=segment.verb,
                noun=segment.noun,
                action=actions.get((segment.verb, segment.noun), -1),
                narration=segment.narration,
                present=present,
                extra=extra,
            )
        )
    if outside and not allow_missing:
        raise UserError(
            f"{len(outside)} segments of {plan.recording.video_id} lie beyond the {copied.video.duration_s:.2f} s of "
            f"its frames, for instance {outside[0]}",
            fix="copy all frames, or pass --allow-missing to leave these segments out",
        )
    return clips


def _whole_video(recording: Recording, copied: Copied, present: frozenset[Modality]) -> Clip:
    return Clip(
        clip_id=f"{recording.video_id}_all",
        video_id=recording.video_id,
        participant_id=recording.video_id.split("_")[0],
        view="ego",
        take_id="",
        start_s=0.0,
        end_s=copied.video.duration_s,
        split="",
        present=present,
    )


def _write_flow(store: ClipStore, source: Path, plan: VideoPlan, copied: Copied) -> set[Modality]:
    video_id = plan.recording.video_id
    planes = epic_media.find_flow(source, video_id)
    if planes is None:
        return set()
    stride = epic_media.measured_stride(
        copied.video.num_frames, max(planes[0]) - min(planes[0]) + 1, epic_annotations.flow_stride(video_id)
    )
    path = store.media_path(Modality.FLOW, video_id)
    epic_media.write_flow_pictures(
        path,
        planes,
        copied.video,
        stride=stride,
        source_bound_px=FLOW_BOUND_PX,
        bound_px=store.info.flow_bound_px,
    )
    return {Modality.FLOW}


def _hand_object_file(source: Path, video_id: str) -> Path | None:
    names = [pattern.format(p=video_id.split("_")[0], v=video_id) for pattern in epic_media.BOX_PATTERNS]
    return epic_annotations.optional_file(source, *names)


def _with_contacts(
    clips: Sequence[Clip], frames: Sequence[FrameDetections], plan: VideoPlan, min_score: float
) -> list[Clip]:
    """Returns the clips with what each hand holds; clips without labels of their own stay without."""
    contacts = Contacts(frames, first_number=plan.first_number, number_rate=plan.number_rate, min_score=min_score)
    return [replace(clip, **contacts.labels(clip.start_s, clip.end_s, clip.noun)) for clip in clips]


def _write_boxes(
    store: ClipStore,
    frames: Sequence[FrameDetections] | None,
    plan: VideoPlan,
    copied: Copied,
    object_boxes: Path | None,
    min_score: float,
) -> set[Modality]:
    target = store.media_path(Modality.BOXES, plan.recording.video_id)
    if frames is not None:
        epic_media.write_hand_object_boxes(
            target,
            frames,
            copied.video,
            first_number=plan.first_number,
            number_rate=plan.number_rate,
            min_score=min_score,
        )
        return {Modality.BOXES}
    if object_boxes is None:
        return set()
    det = read_arrays(object_boxes).get("det")
    if det is None or det.ndim != 2 or det.shape[1] != 7 or not np.isfinite(det).all():
        raise UserError(f"{object_boxes} holds no 'det' array of shape [N, 7]")
    det = det[det[:, 6] >= min_score]
    scale = np.array([copied.video.width / 1920, copied.video.height / 1080] * 2)
    epic_media.write_boxes(
        target,
        times_s=det[:, 0] / plan.number_rate,
        tracks=det[:, 1].astype(int),
        categories=[f"noun {int(index)}" for index in det[:, 1]],
        scores=det[:, 6],
        boxes=det[:, 2:6] * scale,
        is_hand=np.zeros(len(det), bool),
    )
    return {Modality.BOXES}


def _write_sound(store: ClipStore, video_id: str, path: Path, rate_hz: int, options: IngestOptions) -> set[Modality]:
    h5py = require_package("h5py", extra="hdf5")
    try:
        with h5py.File(path, "r") as file:
            if video_id not in file:
                return set()
            samples = np.asarray(file[video_id][()], np.float32).reshape(-1)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"Cannot read the sound of {video_id} in {path}: {error}") from error
    common = np.gcd(rate_hz, options.audio_rate_hz)
    resampled = resample_poly(samples, options.audio_rate_hz // common, rate_hz // common)
    write_audio(store.media_path(Modality.AUDIO, video_id), resampled, options.audio_rate_hz)
    return {Modality.AUDIO}
