"""What every source shares: copy or reference the media of many recordings, then add their rows to the store."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from egoloom._parallel import Failure, check_failures, map_unordered
from egoloom.clips import Clip, ClipStore, Modality, Video
from egoloom.clips.files import write_text
from egoloom.errors import UserError
from egoloom.ingest.audio_copy import copy_audio
from egoloom.ingest.images import Image
from egoloom.ingest.video_copy import CopiedVideo, copy_images, copy_video, probe

NUM_VIDEOS_PER_APPEND = 64
FLOW_BOUND_SHARE = 1 / 16  # of the short side, at 30 frames a second and above


class IngestOptions(BaseModel):
    """How recordings become part of a store.

    Attributes:
        mode: ``copy`` writes short-GOP copies; ``reference`` leaves the originals where they are.
        short_side_px: Upper limit of the short side of copies.
        crf: H.264 quality of copies, lower is better.
        audio_rate_hz: Sample rate of sound in the store.
        audio: Whether sound is copied.
        num_workers: Number of processes.
        max_failed_share: Share of damaged recordings above which the work stops.
        progress: Whether to show a progress bar.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["copy", "reference"] = "copy"
    short_side_px: int = Field(default=256, ge=32)
    crf: int = Field(default=20, ge=0, le=51)
    audio_rate_hz: int = Field(default=16_000, ge=8_000, le=192_000)
    audio: bool = True
    num_workers: int = Field(default=1, ge=1)
    max_failed_share: float = Field(default=0.1, ge=0, le=1)
    progress: bool = True

    def flow_bound_px(self, fps: float = 30.0) -> float:
        """Returns the displacement that maps to the ends of the grey range.

        A sixteenth of the short side (16 px at 256) at 30 frames a second and above; more for slower cameras, whose
        frames lie further apart.
        """
        return self.short_side_px * FLOW_BOUND_SHARE * max(1.0, 30.0 / fps)


DEFAULT_OPTIONS = IngestOptions()


@dataclass(frozen=True)
class Recording:
    """One video to bring in: a file, or image files in order.

    Attributes:
        video_id: Its id in the store, also the stem of its files.
        source: The video file; for images their folder.
        images: Image files in order; empty for a video file.
        fps: Rate of the images, or the rate that a video is brought to.
        audio_source: File with the sound; default: the video itself.
        view: ``"ego"`` or ``"exo"``.
        take_id: Joins recordings of one take.
        calibration_id: Name of its calibration.
    """

    video_id: str
    source: Path
    images: tuple[Image, ...] = ()
    fps: Fraction | None = None
    audio_source: Path | None = None
    view: str = "ego"
    take_id: str = ""
    calibration_id: str = ""


@dataclass(frozen=True)
class Copied:
    """What a worker hands back: the stored video, its path in the store, and the modalities that exist."""

    video: CopiedVideo
    path: str
    present: frozenset[Modality]


@dataclass(frozen=True)
class _Copier:
    """Copies one recording; a picklable function object for the workers."""

    store_path: Path
    options: IngestOptions

    def __call__(self, recording: Recording) -> Copied:
        options = self.options
        target = self.store_path / "media" / Modality.RGB / f"{recording.video_id}{Modality.RGB.suffix}"
        present = {Modality.RGB}
        if recording.images:
            video = copy_images(
                recording.images,
                target,
                fps=recording.fps or Fraction(30),
                short_side_px=options.short_side_px,
                crf=options.crf,
            )
            path = str(target.relative_to(self.store_path))
        elif options.mode == "reference":
            video, path = referenced(recording.source), str(recording.source.resolve())
        else:
            video = copy_video(
                recording.source, target, short_side_px=options.short_side_px, fps=recording.fps, crf=options.crf
            )
            path = str(target.relative_to(self.store_path))
        sound = recording.audio_source or (None if recording.images else recording.source)
        if options.audio and sound is not None and self._copy_sound(sound, recording):
            present.add(Modality.AUDIO)
        return Copied(video, path, frozenset(present))

    def _copy_sound(self, sound: Path, recording: Recording) -> bool:
        target = self.store_path / "media" / Modality.AUDIO / f"{recording.video_id}{Modality.AUDIO.suffix}"
        start_s = 0.0 if recording.images or sound != recording.source else probe(recording.source).start_s
        return copy_audio(sound, target, rate_hz=self.options.audio_rate_hz, video_start_s=start_s)


def referenced(path: Path) -> CopiedVideo:
    """Returns the facts of an original that stays where it is.

    Raises:
        UserError: If it is damaged, or states neither its number of frames nor its duration.
    """
    facts = probe(path)
    duration_s = facts.duration_s or facts.num_frames / float(facts.fps)
    if duration_s <= 0:
        raise UserError(f"{path} states no duration", fix="ingest it with --mode copy")
    num_frames = facts.num_frames or round(duration_s * float(facts.fps))
    return CopiedVideo(facts.fps, facts.width, facts.height, num_frames, duration_s, facts.width, facts.height)


ClipMaker = Callable[[Recording, Copied], Sequence[Clip]]


def bring_in(
    store: ClipStore,
    recordings: Sequence[Recording],
    clips_of: ClipMaker,
    options: IngestOptions,
    *,
    description: str = "ingest",
) -> list[Failure]:
    """Copies recordings in parallel and adds their rows; what the store holds already is left alone.

    Args:
        store: The store to fill.
        recordings: What to bring in.
        clips_of: Writes the further tracks of a copied recording (boxes, sensors) and returns its clips. It runs in
            this process.
        options: How.
        description: Label of the progress bar.

    Returns:
        The recordings that failed, also written to ``ingest_failures.json`` in the store.

    Raises:
        UserError: If there are no recordings, ids repeat, or too many failed.
    """
    _check_ids(recordings)
    todo = [recording for recording in recordings if recording.video_id not in store.videos]
    copier = _Copier(store.path, options)
    failures: list[Failure] = []
    videos: list[Video] = []
    clips: list[Clip] = []
    num_done = len(recordings) - len(todo)

    def flush() -> None:
        if videos:
            store.append(videos=videos, clips=clips)
            videos.clear()
            clips.clear()

    try:
        for outcome in map_unordered(
            copier,
            todo,
            num_workers=options.num_workers,
            name_of=lambda recording: str(recording.source),
            description=description,
            progress=options.progress,
        ):
            failure = outcome.failure
            if outcome.result is not None:
                try:
                    new_clips = list(clips_of(outcome.item, outcome.result))
                except UserError as error:
                    failure = Failure(str(outcome.item.source), error.what)
                else:
                    videos.append(_video_row(outcome.item, outcome.result))
                    clips += new_clips
                    num_done += 1
            if failure is not None:
                failures.append(failure)
                check_failures(failures, num_done, len(recordings), options.max_failed_share)
            if len(videos) >= NUM_VIDEOS_PER_APPEND:
                flush()
    finally:
        flush()
        write_failures(store, failures)
    check_failures(failures, num_done, len(recordings), options.max_failed_share)
    return failures


def clip_times(start_s: float, end_s: float, video: CopiedVideo) -> tuple[float, float] | None:
    """Returns the part of a segment that lies in the video, or None if less than half a frame does."""
    start_s, end_s = max(0.0, start_s), min(end_s, video.duration_s)
    return (start_s, end_s) if end_s - start_s > 0.5 / float(video.fps) else None


def _video_row(recording: Recording, copied: Copied) -> Video:
    video = copied.video
    return Video(
        video_id=recording.video_id,
        path=copied.path,
        fps=video.fps,
        width=video.width,
        height=video.height,
        num_frames=video.num_frames,
        duration_s=video.duration_s,
        view=recording.view,
        take_id=recording.take_id,
        calibration_id=recording.calibration_id,
    )


def _check_ids(recordings: Sequence[Recording]) -> None:
    if not recordings:
        raise UserError("There is nothing to ingest: no recordings were found")
    seen: dict[str, Path] = {}
    for recording in recordings:
        other = seen.setdefault(recording.video_id, recording.source)
        if other != recording.source:
            raise UserError(
                f"Two recordings would get the id {recording.video_id!r}: {other} and {recording.source}",
                fix="rename one of them",
            )
        if "/" in recording.video_id or recording.video_id in {"", ".", ".."} or "\0" in recording.video_id:
            raise UserError(f"{recording.video_id!r} cannot be the id of a video", allowed="a plain file name")


def write_failures(store: ClipStore, failures: Sequence[Failure]) -> None:
    """Writes the recordings that were left out to ``ingest_failures.json``; removes the file where there are none."""
    path = store.path / "ingest_failures.json"
    if failures:
        write_text(path, json.dumps([vars(failure) for failure in failures], indent=1) + "\n")
    else:
        path.unlink(missing_ok=True)
