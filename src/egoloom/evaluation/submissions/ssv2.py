"""The Something-Something V2 submission: one line a video, ``id;c1;c2;c3;c4;c5``, best class first.

Shape letters: N videos, K classes.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from egoloom.evaluation.submissions.checks import check_complete, demand

SSV2_NUM_CLASSES = 174


def write_ssv2_submission(
    path: str | Path,
    video_ids: Sequence[str],
    scores_NK: np.ndarray,
    *,
    num_classes: int = SSV2_NUM_CLASSES,
    expected_ids: Collection[str] | None = None,
) -> Path:
    """Writes a Something-Something V2 file: ``id;c1;c2;c3;c4;c5`` a line, best class first, no header.

    Raises:
        UserError: If the number of classes is wrong, scores are not finite, or ids repeat, are unknown or missing.
    """
    from egoloom.clips.files import write_text

    scores = np.asarray(scores_NK)
    demand(
        scores.ndim == 2 and scores.shape == (len(video_ids), num_classes),
        f"Scores have the shape {list(scores.shape)}",
        allowed=f"[{len(video_ids)}, {num_classes}]",
    )
    demand(bool(np.isfinite(scores).all()), "Some scores are not finite")
    best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    lines = [";".join([str(name), *map(str, row)]) for name, row in zip(video_ids, best.tolist(), strict=True)]
    text = "\n".join(lines) + "\n"
    check_ssv2_submission(text, num_classes=num_classes, expected_ids=expected_ids)
    write_text(Path(path), text)
    return Path(path)


def check_ssv2_submission(
    text: str, *, num_classes: int = SSV2_NUM_CLASSES, expected_ids: Collection[str] | None = None
) -> list[str]:
    """Returns the video ids of a valid file's text.

    Raises:
        UserError: With the line and what is wrong in it.
    """
    ids: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split(";")
        demand(len(fields) == 6, f"Line {number} has {len(fields)} fields: {line!r}", allowed="id;c1;c2;c3;c4;c5")
        name, classes = fields[0], fields[1:]
        demand(bool(name.strip()), f"Line {number} has no id")
        demand(name not in ids, f"Line {number} repeats the video {name} of line {ids.get(name)}")
        ids[name] = number
        valid = all(field.isdecimal() and int(field) < num_classes for field in classes)
        demand(
            valid, f"Line {number} has the classes {';'.join(classes)}", allowed=f"whole numbers 0..{num_classes - 1}"
        )
        demand(len(set(classes)) == 5, f"Line {number} names a class twice: {';'.join(classes)}")
    demand(bool(ids), "The file is empty")
    check_complete(ids, expected_ids)
    return list(ids)
