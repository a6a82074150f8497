"""The clip store: two parquet tables, an ``info.json`` and media that PyAV and pyarrow alone can read."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import ValidationError

from egoloom.clips import tables
from egoloom.clips.files import exclusive_lock, make_folder, write_text
from egoloom.clips.schema import FORMAT_VERSION, HEADS, UNLABELLED, Clip, Modality, StoreInfo, Video
from egoloom.errors import UserError

INFO_FILE = "info.json"
TIME_TOLERANCE_S = 0.05


class Problem(NamedTuple):
    """One fault that ``validate`` found: where, and what."""

    where: str
    what: str


class ClipStore:
    """A folder of clips; see ``docs/clip_store.md`` for the layout.

    Args:
        path: The folder.
        info: What its ``info.json`` holds.
    """

    def __init__(self, path: Path, info: StoreInfo) -> None:
        self.path = path
        self.info = info

    def __repr__(self) -> str:
        return f"ClipStore({str(self.path)!r}, name={self.info.name!r}, num_clips={len(self.clips)})"

    # -- creation ---------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, path: Path | str, *, name: str, source: str, **info: Any) -> Self:
        """Creates an empty store, or opens the one that is there with the same settings.

        Args:
            path: A folder that does not exist, is empty, or holds a store with equal ``info``.
            name: A name for people.
            source: The adapter that fills it, for instance ``"kitchen"``.
            **info: Further fields of ``StoreInfo`` (licence, label_spaces, splits, flow_bound_px, ...).

        Raises:
            UserError: If the folder holds something else.
        """
        path = Path(path)
        wanted = StoreInfo(name=name, source=source, **info)
        if (path / INFO_FILE).exists():
            store = cls.open(path)
            if store.info != wanted:
                raise UserError(
                    f"{path} holds a store with other settings: {_differences(store.info, wanted)}",
                    fix="choose another --out, or give the settings of the existing store",
                )
            return store
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(
                f"{path} exists and is not an EgoLoom clip store; nothing was written",
                allowed="a new folder, an empty one, or a store made by EgoLoom",
                fix="choose another --out",
            )
        make_folder(path)
        tables.write_videos(path / "videos.parquet", [])
        tables.write_clips(path / "clips.parquet", [])
        # info.json comes last: a folder with it is a complete store.
        write_text(path / INFO_FILE, wanted.model_dump_json(indent=1) + "\n")
        return cls(path, wanted)

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Opens an existing store.

        Raises:
            UserError: If the folder is missing, is not a store, or was written by a newer version.
        """
        path = Path(path)
        if not path.is_dir():
            raise UserError(f"There is no clip store at {path}", fix="egoloom kitchen --out STORE, or egoloom ingest")
        try:
            content = json.loads((path / INFO_FILE).read_text(encoding="utf-8"))
            version = content.get("format_version")
            if isinstance(version, int) and version > FORMAT_VERSION:
                raise UserError(
                    f"{path} has store format {version}",
                    allowed=f"up to {FORMAT_VERSION}",
                    fix="install a newer EgoLoom",
                )
            return cls(path, StoreInfo.model_validate(content))
        except FileNotFoundError as error:
            raise UserError(f"{path} is not a clip store: it has no {INFO_FILE}", fix="egoloom ingest") from error
        except (ValueError, AttributeError, ValidationError) as error:
            raise UserError(f"{path / INFO_FILE} is damaged: {error}", fix="ingest the source again") from error

    # -- reading ----------------------------------------------------------------------------------------------

    @cached_property
    def clips(self) -> list[Clip]:
        """All clips, in the order in which they were appended."""
        return tables.read_clips(self.path / "clips.parquet")

    @cached_property
    def videos(self) -> dict[str, Video]:
        """All videos by id."""
        return {video.video_id: video for video in tables.read_videos(self.path / "videos.parquet")}

    def select(
        self,
        *,
        split: str | Sequence[str] | None = None,
        view: str | None = "ego",
        labelled: bool | None = None,
        generated: bool | None = None,
    ) -> list[Clip]:
        """Returns the clips that meet every condition given.

        Args:
            split: One split or several; None for all.
            view: ``"ego"``, ``"exo"`` or None for both.
            labelled: Only clips with (True) or without (False) labels.
            generated: Only generated (True) or recorded (False) clips.

        Raises:
            UserError: If the split is unknown to the store.
        """
        splits = None if split is None else {split} if isinstance(split, str) else set(split)
        if splits and (unknown := splits - set(self.info.splits) - {clip.split for clip in self.clips}):
            known = ", ".join(self.info.splits) or "none"
            raise UserError(f"{self.path} has no split {', '.join(sorted(unknown))!r}", allowed=known)
        return [
            clip
            for clip in self.clips
            if (splits is None or clip.split in splits)
            and (view is None or clip.view == view)
            and (labelled is None or clip.is_labelled == labelled)
            and (generated is None or clip.is_generated == generated)
        ]

    def class_names(self, head: str) -> list[str]:
        """Returns the class names of a head in index order; empty if the store has no such head."""
        return self.info.label_spaces.get(head, [])

    @cached_property
    def mirrored_actions(self) -> list[int]:
        """The action class of every class's mirrored clip, -1 where there is none; empty if mirroring changes none.

        Raises:
            UserError: If the list in ``info.json`` does not fit the action classes.
        """
        num_classes, text = len(self.class_names("action")), self.info.extra.get("mirrored_action", "[]")
        try:
            classes = json.loads(text)
        except ValueError:
            classes = None
        if not isinstance(classes, list) or any(index not in range(-1, num_classes) for index in classes):
            classes = None
        if classes is None or len(classes) not in (0, num_classes):
            allowed = f"{num_classes} class indices, -1 for none"
            raise UserError(f"{self.path / INFO_FILE}: mirrored_action is {text!r:.60}", allowed=allowed)
        return classes

    def num_classes(self) -> dict[str, int]:
        """Returns the number of classes of every head that has any."""
        return {head: len(names) for head, names in self.info.label_spaces.items() if names}

    def media_path(self, modality: Modality, video_id: str) -> Path:
        """Returns where a track lives; in reference mode the RGB path is the user's original."""
        if modality is Modality.RGB and (video := self.__dict__.get("videos", {}).get(video_id)):
            return self.path / video.path
        return self.path / "media" / modality / f"{video_id}{modality.suffix}"

    # -- writing ----------------------------------------------------------------------------------------------

    def append(self, *, videos: Iterable[Video] = (), clips: Iterable[Clip] = ()) -> None:
        """Adds rows; their media must exist already, so that the store is valid at every moment.

        A video that is there with equal values may be given again, which makes interrupted work repeatable.

        Raises:
            UserError: On a duplicate clip, a changed video, a missing video or missing media; nothing is written then.
        """
        videos, clips = list(videos), list(clips)
        with exclusive_lock(self.path / ".lock"):
            self.reload()
            all_videos = dict(self.videos)
            for video in videos:
                if all_videos.setdefault(video.video_id, video) != video:
                    raise UserError(f"{self.path} holds another video {video.video_id!r}", fix="use another video id")
            known = {clip.clip_id for clip in self.clips}
            for clip in clips:
                if clip.clip_id in known:
                    raise UserError(f"{self.path} holds clip {clip.clip_id!r} already", fix="use another clip id")
                known.add(clip.clip_id)
                if problem := self._clip_problem(clip, all_videos):
                    raise UserError(f"Clip {clip.clip_id!r} is not accepted: {problem}")
            # Videos first: a video without clips is harmless, a clip without its video is not.
            if videos:
                tables.write_videos(self.path / "videos.parquet", list(all_videos.values()))
            if clips:
                tables.write_clips(self.path / "clips.parquet", [*self.clips, *clips])
            self.reload()

    def mark_present(self, modality: Modality, video_ids: Iterable[str]) -> None:
        """Records that a modality was computed for all clips of these videos."""
        done = set(video_ids)
        with exclusive_lock(self.path / ".lock"):
            self.reload()
            clips = [
                dataclasses.replace(clip, present=clip.present | {modality}) if clip.video_id in done else clip
                for clip in self.clips
            ]
            tables.write_clips(self.path / "clips.parquet", clips)
            self.reload()

    def reload(self) -> None:
        """Forgets what was read, so that the next access sees what other processes wrote."""
        self.__dict__.pop("clips", None)
        self.__dict__.pop("videos", None)

    def save_calibration(self, calibration_id: str, content: dict[str, Any]) -> None:
        """Writes ``calibration/<calibration_id>.json``."""
        write_text(self.path / "calibration" / f"{calibration_id}.json", json.dumps(content) + "\n")

    def load_calibration(self, calibration_id: str) -> dict[str, Any]:
        """Reads ``calibration/<calibration_id>.json``."""
        path = self.path / "calibration" / f"{calibration_id}.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"Cannot read the calibration {path}: {error}") from error

    # -- checking ---------------------------------------------------------------------------------------------

    def validate(self, *, decode: bool = False) -> list[Problem]:
        """Returns every fault of the store: dangling ids, bad times, labels out of range, missing or broken media.

        Args:
            decode: Also look into the media: tables and arrays whole, video and sound at both ends.
        """
        problems = []
        seen: set[str] = set()
        for clip in self.clips:
            if clip.clip_id in seen:
                problems.append(Problem(clip.clip_id, "its id occurs twice"))
            seen.add(clip.clip_id)
            if what := self._clip_problem(clip, self.videos):
                problems.append(Problem(clip.clip_id, what))
        return problems + (self._damaged_media() if decode else [])

    def _damaged_media(self) -> list[Problem]:
        from egoloom.clips.media.checking import check_media

        tracks = dict.fromkeys((clip.video_id, modality) for clip in self.clips for modality in sorted(clip.present))
        tracks |= dict.fromkeys((video_id, Modality.RGB) for video_id in self.videos)
        problems = []
        for video_id, modality in tracks:
            video, path = self.videos.get(video_id), self.media_path(modality, video_id)
            if video is None or (modality is not Modality.RGB and not path.exists()):
                continue  # a fault of the clip
            try:
                check_media(path, duration_s=video.duration_s, fps=float(video.fps))
            except UserError as error:
                problems.append(Problem(video_id, error.what))
        return problems

    def _clip_problem(self, clip: Clip, videos: dict[str, Video]) -> str | None:
        video = videos.get(clip.video_id)
        if video is None:
            return f"it names the video {clip.video_id!r}, which the store does not hold"
        if not 0 <= clip.start_s < clip.end_s <= video.duration_s + TIME_TOLERANCE_S:
            return (
                f"its times {clip.start_s:.3f}-{clip.end_s:.3f} s lie outside of the video's {video.duration_s:.3f} s"
            )
        for head in HEADS:
            num_classes = len(self.class_names(head))
            if not UNLABELLED <= clip.label(head) < max(num_classes, 0) and clip.label(head) != UNLABELLED:
                return f"its {head} {clip.label(head)} is outside of the {num_classes} classes"
        for modality in clip.present:
            path = self.path / video.path if modality is Modality.RGB else self.media_path(modality, clip.video_id)
            if not path.exists():
                return f"its {modality} file {path} is missing"
        return None


def _differences(existing: StoreInfo, wanted: StoreInfo) -> str:
    old, new = existing.model_dump(), wanted.model_dump()
    return "; ".join(
        f"{key}: {str(old[key])[:80]} there, {str(new[key])[:80]} asked" for key in old if old[key] != new[key]
    )
