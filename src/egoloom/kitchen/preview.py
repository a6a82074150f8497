"""Contact sheets: one strip per action, ego above exo, with the action's name."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from egoloom.clips.files import atomic_path
from egoloom.kitchen.clip import render_clip
from egoloom.kitchen.plan import plan_clip
from egoloom.kitchen.settings import KitchenSettings
from egoloom.kitchen.vocabulary import ACTION_NAMES

NUM_STRIP_FRAMES = 6
LABEL_HEIGHT_PX = 18


def strip(
    settings: KitchenSettings, index: int, *, num_frames: int = NUM_STRIP_FRAMES, named: bool = True
) -> NDArray[np.uint8]:
    """Returns one take as a picture ``[H, W, 3]``: frames at equal steps, ego above exo."""
    clip = render_clip(settings, index)
    picked = np.linspace(0, settings.num_frames - 1, num_frames).round().astype(int)
    ego: NDArray[np.uint8] = np.concatenate(list(clip.ego.rgb[picked].transpose(0, 2, 3, 1)), axis=1)
    exo: Any = np.concatenate(list(clip.exo.rgb[picked].transpose(0, 2, 3, 1)), axis=1)
    if exo.shape[1] != ego.shape[1]:
        size = (ego.shape[1], round(exo.shape[0] * ego.shape[1] / exo.shape[1]))
        exo = cv2.resize(exo, size, interpolation=cv2.INTER_AREA)
    label = np.full((LABEL_HEIGHT_PX, ego.shape[1], 3), 245, np.uint8)
    if named:
        cv2.putText(
            label, ACTION_NAMES[clip.plan.action], (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (20, 20, 20), 1, cv2.LINE_AA
        )
    return np.concatenate([label, ego, exo])


def first_index_of(settings: KitchenSettings, action: int, occurrence: int = 0) -> int:
    """Returns the index of the n-th take that shows an action."""
    start = occurrence * len(ACTION_NAMES)
    return next(i for i in range(start, start + len(ACTION_NAMES)) if plan_clip(settings, i).action == action)


def all_strips(
    settings: KitchenSettings, *, occurrence: int = 0, num_frames: int = NUM_STRIP_FRAMES
) -> list[NDArray[np.uint8]]:
    """Returns one strip per action, in class order."""
    actions = range(len(ACTION_NAMES))
    return [strip(settings, first_index_of(settings, a, occurrence), num_frames=num_frames) for a in actions]


def sheet(strips: list[NDArray[np.uint8]], *, num_columns: int = 3) -> NDArray[np.uint8]:
    """Returns strips of equal size as one picture ``[H, W, 3]``."""
    blank = np.full_like(strips[0], 245)
    padded = [*strips, *[blank] * (-len(strips) % num_columns)]
    rows = [np.concatenate(padded[k : k + num_columns], axis=1) for k in range(0, len(padded), num_columns)]
    return np.concatenate(rows)


def write_picture(path: Path, picture: NDArray[np.uint8]) -> Path:
    """Writes an RGB picture as PNG."""
    with atomic_path(path) as temporary:
        cv2.imwrite(str(temporary), np.ascontiguousarray(picture[..., ::-1]))
    return path


def write_previews(folder: Path, settings: KitchenSettings) -> list[Path]:
    """Writes a sheet of all actions and one strip per action; returns the paths, the sheet first."""
    strips = all_strips(settings)
    paths = [write_picture(folder / "kitchen_actions.png", sheet(strips))]
    for name, picture in zip(ACTION_NAMES, strips, strict=True):
        paths.append(write_picture(folder / f"kitchen_{name.replace(' ', '_')}.png", picture))
    return paths
