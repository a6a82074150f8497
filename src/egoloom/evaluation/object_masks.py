"""Object measures and FVD from files: masks of objects in both clips, features of both sets of clips.

Legend: T frames, H rows, W columns, N videos, D feature channels.
"""

import zipfile
from pathlib import Path

import numpy as np

from egoloom.errors import UserError
from egoloom.evaluation.video_quality import frechet_distance, object_quality

OBJECT_MEASURES = ("location_error_px", "box_iou", "mask_iou")


def object_measures(folders: tuple[Path, Path], name: str, size_THW: tuple[int, int, int]) -> dict[str, float | None]:
    """Returns the object measures of a clip, each the mean over objects that both clips show in some frame.

    Args:
        folders: Masks of generated and of recorded clips: ``NAME.npz`` with ``ids [T, H, W]`` (0 is no object, equal
            numbers are the same object) or, for a single object, ``mask [T, H, W]``.
        name: The generated clip's name.
        size_THW: Frames and size of the generated clip.

    Returns:
        Measures by name (None where no object is in both) and ``num_objects``.

    Raises:
        UserError: If a file is missing, cannot be read or has another size.
    """
    ours, theirs = (_read_ids(folder / f"{name}.npz", size_THW) for folder in folders)
    shared = np.intersect1d(ours[ours > 0], theirs[theirs > 0])
    found = [quality for key in shared if (quality := object_quality(ours == key, theirs == key)).num_frames]
    measures: dict[str, float | None] = {
        key: float(np.mean([getattr(quality, key) for quality in found])) if found else None for key in OBJECT_MEASURES
    }
    return measures | {"num_objects": len(found)}


def _read_ids(path: Path, size_THW: tuple[int, int, int]) -> np.ndarray:
    allowed = "NAME.npz with ids [T, H, W] of whole numbers, 0 for no object, or mask [T, H, W]"
    if not path.is_file():
        raise UserError(f"There are no masks at {path}", allowed=allowed)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            ids = arrays["ids" if "ids" in arrays else "mask"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"Cannot read masks from {path}: {error!r}", allowed=allowed) from error
    if ids.dtype.kind not in "biu" or ids.shape != size_THW:
        raise UserError(
            f"Masks in {path} are {ids.dtype} of shape {ids.shape}", allowed=f"whole numbers of shape {size_THW}"
        )
    return ids.astype(np.int64)


def video_distance(files: tuple[Path, Path], backbone: str) -> dict[str, object]:
    """Returns the Frechet video distance of given features with the backbone that they come from.

    Args:
        files: ``.npy`` files ``[N, D]`` of generated and of recorded clips; the two may hold different numbers.
        backbone: What made the features; distances of different backbones cannot be compared.

    Raises:
        UserError: If the backbone is not named, or a file cannot be read or holds no such features.
    """
    if not backbone:
        raise UserError(
            "The features come from a network that is not named", fix="--backbone 'I3D, Kinetics-400, 16 frames'"
        )
    ours, theirs = (_read_features(path) for path in files)
    distance = frechet_distance(ours, theirs)
    return {"fvd": distance, "backbone": backbone, "num_generated": len(ours), "num_recorded": len(theirs)}


def _read_features(path: Path) -> np.ndarray:
    try:
        features = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"Cannot read features from {path}: {error!r}", allowed="an .npy file [N, D]") from error
    if not isinstance(features, np.ndarray) or features.ndim != 2 or features.dtype.kind != "f":
        raise UserError(f"{path} holds no features", allowed="an .npy file of real numbers [N, D]")
    if not np.isfinite(features).all():
        raise UserError(f"Features in {path} hold NaN or infinite values")
    return features
