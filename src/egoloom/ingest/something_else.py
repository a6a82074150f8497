"""Something-Something V2 and Something-Else: videos or jpg folders, template labels, hand and object boxes.

Sources: Goyal et al. 2017 (arXiv 1706.04261); Materzynska et al. 2020, "Something-Else" (arXiv 1912.09930). The class
index of a template is its place in the list of templates sorted without their brackets.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from egoloom.clips import Clip, ClipStore, Modality
from egoloom.errors import UserError
from egoloom.ingest import layout_boxes
from egoloom.ingest.documents import entry_value, objects, read_json
from egoloom.ingest.recordings import DEFAULT_OPTIONS, Copied, IngestOptions, Recording, bring_in
from egoloom.ingest.sources import first_existing, require_paths

FPS = Fraction(12)
SPLITS = ("train", "validation", "test")
SIDE = re.compile(r"\b(?:left|right(?! (?:out|away|after|before|next)\b))\b")
VIDEO_FOLDERS = ("videos", "20bn-something-something-v2", "frames")
VIDEO_SUFFIXES = (".webm", ".mp4")
INDEX_FILES = (
    "labels/labels.json",
    "something-something-v2-labels.json",
    "annotations/something-something-v2-labels.json",
    "ssv2_174_labels_in_index_order.json",
)
SPLIT_FILES = ("labels/{}.json", "something-something-v2-{}.json", "annotations/something-something-v2-{}.json")
LICENCE = "Something-Something V2: research use under its own terms, no redistribution. Boxes: MIT (Something-Else)."


@dataclass(frozen=True)
class Annotation:
    """One labelled video: ``template`` has no brackets and is None in the test split."""

    video_id: str
    split: str
    template: str | None
    narration: str = ""
    placeholders: tuple[str, ...] = ()


def ingest(
    source: Path,
    out: Path,
    *,
    split_name: str = "",
    boxes: tuple[Path, ...] = (),
    allow_missing: bool = False,
    options: IngestOptions = DEFAULT_OPTIONS,
) -> ClipStore:
    """Brings Something-Something V2 or Something-Else into a clip store.

    Args:
        source: Folder with the videos and labels.
        out: The store.
        split_name: A folder below ``dataset_splits``, for instance ``compositional``; default: the standard split.
        boxes: Box files; default: every ``bounding_box_annotations*.json`` below the source.
        allow_missing: Leave out annotated videos that are not there, instead of stopping.
        options: How media are copied.
    """
    require_paths({source: "the data set folder"}, source="something-else")
    annotations, classes = read_annotations(source, split_name)
    tracks = layout_boxes.read(boxes or tuple(sorted(source.glob("bounding_box_*.json"))))
    recordings = _recordings(source, annotations, allow_missing=allow_missing)
    store = ClipStore.create(
        out,
        name=f"Something-Else {split_name}" if split_name else "Something-Something V2",
        source="something-else",
        licence=LICENCE,
        label_spaces={"action": classes},
        splits=[split for split in SPLITS if any(a.split == split for a in annotations)],
        flow_bound_px=options.flow_bound_px(float(FPS)),
        extra={"mirrored_action": json.dumps(mirrored_classes(classes))},
    )
    by_id = {annotation.video_id: annotation for annotation in annotations}

    def clips_of(recording: Recording, copied: Copied) -> Sequence[Clip]:
        annotation = by_id[recording.video_id]
        present = set(copied.present)
        if rows := tracks.get(recording.video_id):
            names = {Path(str(image)).stem: number for number, image in enumerate(recording.images)}
            path = store.media_path(Modality.BOXES, recording.video_id)
            layout_boxes.write(path, rows, copied.video, frame_numbers=names or None)
            present.add(Modality.BOXES)
        return [_clip(annotation, copied, classes, frozenset(present))]

    bring_in(store, recordings, clips_of, options, description="something-else")
    return store


def read_annotations(source: Path, split_name: str = "") -> tuple[list[Annotation], list[str]]:
    """Reads who does what, and the class names in index order.

    Raises:
        UserError: If the files are missing, disagree, or an item is malformed.
    """
    if split_name:
        folder = source / "dataset_splits" / split_name
        files = {split: folder / f"{split}.json" for split in ("train", "validation")}
        require_paths(
            {path: f"the {split} list of {split_name}" for split, path in files.items()}, source="something-else"
        )
        annotations = [item for split, path in files.items() for item in _split_list(path, split)]
        classes = read_classes(folder / "labels.json")
    elif (source / "labels.json").is_file():
        annotations = _by_video_id(source / "labels.json")
        index_file = first_existing(source, INDEX_FILES)
        classes = read_classes(index_file) if index_file else class_order(annotations)
        _check_indices(source / "labels.json", classes)
    else:
        annotations = _standard_lists(source)
        index_file = first_existing(source, INDEX_FILES)
        classes = read_classes(index_file) if index_file else class_order(annotations)
    unknown = {a.template for a in annotations if a.template is not None} - set(classes)
    if unknown:
        raise UserError(
            f"{len(unknown)} templates in {source} are not among the {len(classes)} classes, "
            f"for instance {min(unknown)!r}",
            fix="give the labels file that belongs to these lists",
        )
    return annotations, classes


def class_order(annotations: Iterable[Annotation]) -> list[str]:
    """Returns the templates in index order: sorted without their brackets."""
    return sorted({annotation.template for annotation in annotations if annotation.template is not None})


def read_classes(path: Path) -> list[str]:
    """Reads the class names in index order, from a list or from a mapping of template to index.

    Raises:
        UserError: If an index is missing, repeated, or not a number.
    """
    content = read_json(path)
    if isinstance(content, list):
        return [without_brackets(str(name)) for name in content]
    by_index: dict[int, str] = {}
    for template, index in content.items():
        if not str(index).isdecimal():
            raise UserError(f"{path}: the index of {template!r} is {index!r}", allowed="a number")
        if int(index) in by_index:
            raise UserError(f"{path}: the index {index} occurs twice")
        by_index[int(index)] = without_brackets(template)
    if sorted(by_index) != list(range(len(by_index))):
        raise UserError(f"{path}: the {len(by_index)} indices are not 0 ... {len(by_index) - 1}")
    return [by_index[index] for index in range(len(by_index))]


def without_brackets(template: str) -> str:
    """Returns ``Moving something up`` for ``Moving [something] up``."""
    return template.replace("[", "").replace("]", "")


def mirrored_classes(classes: Sequence[str]) -> list[int]:
    """Returns for every class the class of the mirrored video: left and right change places.

    ``Pushing something from left to right`` becomes ``... from right to left``; classes without a side stay. A class
    whose counterpart is not in the list gets -1: its clips must not be flipped. "Right" that is no side (``pulling it
    right out``) does not count.
    """
    index = {name.lower(): number for number, name in enumerate(classes)}
    other = {"left": "right", "right": "left"}
    return [index.get(SIDE.sub(lambda match: other[match.group()], name.lower()), -1) for name in classes]


def _by_video_id(path: Path) -> list[Annotation]:
    annotations = []
    for video_id, entry in read_json(path, dict).items():
        where = f"{path}: video {video_id}"
        label = entry_value(entry, "label", str, where)
        split = entry_value(entry, "split", str, where)
        if split not in SPLITS:
            raise UserError(f"{where}: the split is {split!r}", allowed=", ".join(SPLITS))
        placeholders = _placeholders(entry)
        annotations.append(Annotation(video_id, split, without_brackets(label), without_brackets(label), placeholders))
    return annotations


def _placeholders(entry: dict[str, Any]) -> tuple[str, ...]:
    given = entry.get("placeholders")
    return tuple(map(str, given)) if isinstance(given, list) else ()


def _check_indices(path: Path, classes: Sequence[str]) -> None:
    """Wrong label order is the costliest silent fault, so given indices must agree with the order of the names."""
    for video_id, entry in read_json(path, dict).items():
        given = entry.get("label_id")
        label = without_brackets(entry["label"])
        if given is not None and (not isinstance(given, int) or classes[given : given + 1] != [label]):
            raise UserError(
                f"{path}: video {video_id} has label_id {given}, but {label!r} has the index "
                f"{classes.index(label) if label in classes else 'of no class'}",
                fix="give the class list in index order (templates sorted without brackets)",
            )


def _standard_lists(source: Path) -> list[Annotation]:
    annotations, looked_for = [], []
    for split in SPLITS:
        candidates = tuple(pattern.format(split) for pattern in SPLIT_FILES)
        looked_for += [str(source / name) for name in candidates]
        if path := first_existing(source, candidates):
            annotations += _split_list(path, split)
    if not annotations:
        raise UserError(
            "Missing input: no list of labelled videos was found. Looked for\n    "
            + "\n    ".join([str(source / "labels.json"), *looked_for]),
            fix="egoloom ingest something-else --help says where to get it",
        )
    return annotations


def _split_list(path: Path, split: str) -> list[Annotation]:
    annotations = []
    for number, entry in enumerate(objects(read_json(path, list), str(path))):
        where = f"{path}: item {number}"
        video_id = str(entry_value(entry, "id", (str, int), where))
        template: Any = entry.get("template")
        if template is not None and not isinstance(template, str):
            raise UserError(f"{where}: template is {template!r:.80}")
        placeholders = _placeholders(entry)
        clean = None if template is None else without_brackets(template)
        annotations.append(Annotation(video_id, split, clean, str(entry.get("label", "")), placeholders))
    return annotations


def _recordings(source: Path, annotations: Sequence[Annotation], *, allow_missing: bool) -> list[Recording]:
    folder = first_existing(source, VIDEO_FOLDERS) or source / VIDEO_FOLDERS[0]
    recordings, missing = [], []
    for annotation in annotations:
        images = folder / annotation.video_id
        video = next((p for s in VIDEO_SUFFIXES if (p := folder / f"{annotation.video_id}{s}").is_file()), None)
        if images.is_dir():
            frames = tuple(sorted(images.glob("*.jpg"), key=_frame_key))
            recordings.append(Recording(annotation.video_id, images, images=frames, fps=FPS))
        elif video is not None:
            recordings.append(Recording(annotation.video_id, video))
        else:
            missing.append(images)
    if missing and (not allow_missing or not recordings):
        shown = "\n".join(f"    {path}/ or .webm" for path in missing[:10])
        raise UserError(
            f"{len(missing)} of {len(annotations)} annotated videos are missing:\n{shown}",
            fix="add the videos, or pass --allow-missing to leave these out",
        )
    return recordings


def _frame_key(path: Path) -> tuple[int, str]:
    return (int(path.stem) if path.stem.isdecimal() else -1, path.name)


def _clip(annotation: Annotation, copied: Copied, classes: Sequence[str], present: frozenset[Modality]) -> Clip:
    return Clip(
        clip_id=annotation.video_id,
        video_id=annotation.video_id,
        participant_id="",
        view="ego",
        take_id="",
        start_s=0.0,
        end_s=copied.video.duration_s,
        split=annotation.split,
        action=-1 if annotation.template is None else classes.index(annotation.template),
        narration=annotation.narration,
        present=present,
        extra={"placeholders": json.dumps(annotation.placeholders)} if annotation.placeholders else {},
    )
