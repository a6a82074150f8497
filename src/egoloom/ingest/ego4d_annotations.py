"""The FHO annotation files of Ego4D (Grauman et al. 2022, arXiv 2110.07058), brought to one form.

``fho_lta`` actions with verb and noun; ``fho_main`` narrated actions; ``fho_oscc-pnr`` state changes; ``fho_hands``
boxes of both hands around the contact.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from egoloom.errors import UserError
from egoloom.ingest.documents import entry_value, number, objects, read_json
from egoloom.ingest.sources import first_existing

Task = Literal["fho_lta", "fho_main", "fho_oscc-pnr", "fho_hands"]
SPLITS = ("train", "val", "test_unannotated")
FOLDERS = ("", "annotations/", "v2/annotations/", "v1/annotations/")
FPS = 30.0  # of all canonical Ego4D videos; frame numbers of the annotations refer to it
HAND_FRAMES = ("pre_45", "pre_30", "pre_15", "contact_frame", "pre_frame", "pnr_frame", "post_frame")


@dataclass(frozen=True)
class HandBox:
    """One annotated hand: seconds of the full video, side 0 left or 1 right, xyxy in pixels of the source."""

    time_s: float
    side: int
    xyxy: tuple[float, float, float, float]


@dataclass(frozen=True)
class Action:
    """One annotated stretch.

    Attributes:
        action_id: Unique in its file.
        video_uid: The full video.
        clip_uid: The published clip it lies in; empty if none.
        split: ``train``, ``val`` or ``test``.
        start_s: Seconds of the full video.
        end_s: Seconds of the full video.
        clip_start_s: Where the published clip begins in the full video.
        labels: Class names by head.
        narration: Text.
        extra: Whatever else is kept, as text.
        hands: Hand boxes.
    """

    action_id: str
    video_uid: str
    clip_uid: str
    split: str
    start_s: float
    end_s: float
    clip_start_s: float = 0.0
    labels: dict[str, str] = field(default_factory=dict)
    narration: str = ""
    extra: dict[str, str] = field(default_factory=dict)
    hands: tuple[HandBox, ...] = ()


def read_actions(source: Path, task: Task) -> tuple[list[Action], dict[str, list[str]]]:
    """Reads all splits of a task and the class names in index order.

    Raises:
        UserError: If no file of the task is there, or one is malformed.
    """
    readers = {"fho_lta": _lta, "fho_main": _main, "fho_oscc-pnr": _oscc_pnr, "fho_hands": _hands}
    actions: list[Action] = []
    looked_for = []
    for split in ("", *SPLITS):
        name = f"{task}_{split}.json" if split else f"{task}.json"
        looked_for.append(str(source / "annotations" / name))
        if path := first_existing(source, tuple(folder + name for folder in FOLDERS)):
            actions += readers[task](path, split.removesuffix("_unannotated") or "train")
    if not actions:
        listed = "\n    ".join(looked_for)
        raise UserError(f"Missing input: at least one of\n    {listed}", fix="egoloom ingest ego4d --help")
    return actions, _label_spaces(source, task, actions)


def _label_spaces(source: Path, task: Task, actions: list[Action]) -> dict[str, list[str]]:
    used = {head: sorted({a.labels[head] for a in actions if head in a.labels}) for head in ("verb", "noun", "action")}
    if task == "fho_oscc-pnr":
        return {"action": ["no state change", "state change"]}
    path = first_existing(source, tuple(f"{folder}fho_lta_taxonomy.json" for folder in FOLDERS))
    if task != "fho_lta" or path is None:
        return {head: names for head, names in used.items() if names}
    taxonomy = read_json(path, dict)
    spaces = {head: list(map(str, entry_value(taxonomy, f"{head}s", list, str(path)))) for head in ("verb", "noun")}
    for head, names in spaces.items():
        if unknown := set(used[head]) - set(names):
            raise UserError(f"{path} lacks the {head} {min(unknown)!r}", fix="use the taxonomy of the same release")
    return spaces


def _lta(path: Path, split: str) -> list[Action]:
    actions = []
    for index, clip in enumerate(_list(path, "clips")):
        where = f"{path}: clip {index}"
        begin_s = _seconds(clip, "clip_parent_start_sec", where)
        names = {head: str(clip[head]) for head in ("verb", "noun") if clip.get(head) not in (None, "")}
        actions.append(
            Action(
                f"{_text(clip, 'clip_uid', where)}_{clip.get('action_idx', index)}",
                _text(clip, "video_uid", where),
                _text(clip, "clip_uid", where),
                split,
                begin_s + _seconds(clip, "action_clip_start_sec", where),
                begin_s + _seconds(clip, "action_clip_end_sec", where),
                begin_s,
                names,
            )
        )
    return actions


def _main(path: Path, split: str) -> list[Action]:
    actions = []
    for video in _list(path, "videos"):
        video_uid = _text(video, "video_uid", f"{path}: a video")
        where = f"{path}: video {video_uid}"
        for interval in objects(video.get("annotated_intervals"), f"{where}: annotated_intervals"):
            clip_uid = str(interval.get("clip_uid") or "")
            for action in objects(interval.get("narrated_actions"), f"{where}: narrated_actions"):
                if action.get("is_rejected") or not action.get("is_valid_action", True):
                    continue
                verb = action.get("structured_verb") or action.get("freeform_verb")
                start_s = _seconds(action, "start_sec", where)
                clip_start_s = start_s - _optional_seconds(action, "clip_start_sec", start_s, where)
                actions.append(
                    Action(
                        str(action.get("uid") or f"{video_uid}_{len(actions)}"),
                        video_uid,
                        clip_uid,
                        str(video.get("split") or split),
                        start_s,
                        _seconds(action, "end_sec", where),
                        clip_start_s,
                        {"verb": str(verb)} if verb else {},
                        str(action.get("narration_text") or ""),
                        {"state_transition": str(action["state_transition"])} if action.get("state_transition") else {},
                    )
                )
    return actions


def _oscc_pnr(path: Path, split: str) -> list[Action]:
    actions = []
    for index, clip in enumerate(_list(path, "clips")):
        where = f"{path}: clip {index}"
        start_s = _seconds(clip, "parent_start_sec", where)
        change = clip.get("state_change")
        labels = {} if change is None else {"action": "state change" if change else "no state change"}
        pnr = clip.get("parent_pnr_frame")
        actions.append(
            Action(
                _text(clip, "unique_id", where),
                _text(clip, "video_uid", where),
                str(clip.get("clip_uid") or ""),
                split,
                start_s,
                _seconds(clip, "parent_end_sec", where),
                start_s - _optional_seconds(clip, "clip_start_sec", 0.0, where),
                labels,
                extra={} if pnr is None else {"pnr_s": f"{number(pnr, where) / FPS:.4f}"},
            )
        )
    return actions


def _hands(path: Path, split: str) -> list[Action]:
    actions = []
    for clip in _list(path, "clips"):
        clip_uid = _text(clip, "clip_uid", f"{path}: a clip")
        where = f"{path}: clip {clip_uid}"
        for index, frame in enumerate(objects(clip.get("frames"), f"{where}: frames")):
            start_s = _seconds(frame, "action_start_sec", where)
            actions.append(
                Action(
                    f"{clip_uid}_{index}",
                    _text(clip, "video_uid", where),
                    clip_uid,
                    split,
                    start_s,
                    _seconds(frame, "action_end_sec", where),
                    start_s - _optional_seconds(frame, "action_clip_start_sec", 0.0, where),
                    hands=tuple(_hand_boxes(frame, where)),
                )
            )
    return actions


def _hand_boxes(frame: dict[str, Any], where: str) -> Iterator[HandBox]:
    for name in HAND_FRAMES:
        moment = frame.get(name)
        if not isinstance(moment, dict) or moment.get("frame") is None:
            continue
        time_s = number(moment["frame"], f"{where}: {name}") / FPS
        for boxes in objects(moment.get("boxes"), f"{where}: boxes"):
            for side, key in enumerate(("left_hand", "right_hand")):
                corners = boxes.get(key)
                if isinstance(corners, list) and len(corners) == 4:
                    x1, y1, x2, y2 = (number(value, f"{where}: {key}") for value in corners)
                    yield HandBox(time_s, side, (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)))


def _optional_seconds(entry: dict[str, Any], key: str, default: float, where: str) -> float:
    return default if entry.get(key) is None else number(entry[key], f"{where}: {key}")


def _list(path: Path, key: str) -> list[Any]:
    return objects(entry_value(read_json(path, dict), key, list, str(path)), f"{path}: {key}")


def _text(entry: dict[str, Any], key: str, where: str) -> str:
    return str(entry_value(entry, key, (str, int), where))


def _seconds(entry: dict[str, Any], key: str, where: str) -> float:
    return number(entry.get(key), f"{where}: {key}")
