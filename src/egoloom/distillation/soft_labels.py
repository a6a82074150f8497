"""The soft-label cache: teachers' logits by (clip, view seed), so that teachers run once and stay consistent.

Consistent teaching (Beyer et al., CVPR 2022, arXiv 2106.05237) needs teacher and student to see the same augmented
view. A view is a pure function of clip id and view seed, so its teachers' logits can be kept.

On disk: ``info.json`` and one folder a view seed with one plain array a head, ``[num_clips, M, K]``, memory-mapped when
read; NaN rows where a teacher cannot judge a clip. A view's folder appears when it is complete.

Shape letters: B batch, M teachers, K classes.
"""

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from egoloom.clips.files import write_text
from egoloom.distillation.teachers import TeacherEnsemble
from egoloom.errors import UserError

FORMAT_VERSION = 1


class SoftLabelInfo(BaseModel):
    """What a cache was computed from; ``info.json``.

    Attributes:
        teachers: Names in the order of the axis M.
        heads: Head to number of classes.
        clip_ids: The clips in the order of the rows.
        teachers_fingerprint: Changes with any teacher's weights.
        view_fingerprint: Changes with the views' configuration.
        dtype: ``float32`` gives the same losses as running the teachers; ``float16`` halves the size.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    teachers: list[str]
    heads: dict[str, int]
    clip_ids: list[str]
    teachers_fingerprint: str
    view_fingerprint: str
    dtype: Literal["float32", "float16"] = "float32"


def view_fingerprint(view: BaseModel) -> str:
    """Returns a hash of the configuration that decides a view."""
    return hashlib.sha256(view.model_dump_json().encode()).hexdigest()[:16]


class SoftLabelCache:
    """Teachers' logits on disk.

    Args:
        folder: Where it lies; made where absent.
        info: What it is to hold.

    Raises:
        UserError: If the folder holds something else, or a cache of other teachers, views or clips.
    """

    def __init__(self, folder: str | Path, info: SoftLabelInfo) -> None:
        self.folder = Path(folder)
        self.info = info
        path = self.folder / "info.json"
        if path.is_file():
            self._check_same(SoftLabelInfo.model_validate(read_info(self.folder)))
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise UserError(f"{self.folder} is not empty and holds no soft labels", fix="choose another folder")
        else:
            write_text(path, info.model_dump_json(indent=1) + "\n")
        self._rows = {clip_id: row for row, clip_id in enumerate(info.clip_ids)}
        self._open: dict[tuple[int, str], np.ndarray] = {}

    @classmethod
    def open(cls, folder: str | Path) -> "SoftLabelCache":
        """Opens an existing cache.

        Raises:
            UserError: If there is none.
        """
        return cls(folder, SoftLabelInfo.model_validate(read_info(Path(folder))))

    def _check_same(self, found: SoftLabelInfo) -> None:
        for name in SoftLabelInfo.model_fields:
            if getattr(found, name) != getattr(self.info, name):
                raise UserError(
                    f"The soft labels in {self.folder} were computed for another {name.replace('_', ' ')}",
                    fix=f"remove {self.folder}, or give another cache folder",
                )

    def _view_folder(self, view_seed: int) -> Path:
        return self.folder / f"view_{view_seed:05d}"

    def has(self, view_seed: int) -> bool:
        """Returns whether a view seed is complete."""
        return self._view_folder(view_seed).is_dir()

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def write_view(self, view_seed: int, batches: Iterable[tuple[Sequence[str], Mapping[str, Tensor]]]) -> None:
        """Stores the logits of all clips for one view seed; nothing appears unless every clip came.

        Args:
            view_seed: The seed.
            batches: Clip ids and head to logits ``[B, M, K]``, in any order.

        Raises:
            ValueError: If a clip is unknown or missing.
        """
        temporary = self.folder / f".view_{view_seed:05d}.{uuid.uuid4().hex[:8]}"
        temporary.mkdir()
        try:
            shape = (len(self.info.clip_ids), len(self.info.teachers))
            arrays = {
                head: np.full((*shape, count), np.nan, dtype=self.info.dtype) for head, count in self.info.heads.items()
            }
            missing = set(self.info.clip_ids)
            for clip_ids, logits in batches:
                rows = [self._row(clip_id) for clip_id in clip_ids]
                missing.difference_update(clip_ids)
                for head, array in arrays.items():
                    array[rows] = logits[head].detach().cpu().numpy()
            if missing:
                raise ValueError(f"{len(missing)} clips got no soft labels, first: {min(missing)}")
            for head, array in arrays.items():
                np.save(temporary / f"{head}.npy", array, allow_pickle=False)
            if self.has(view_seed):
                shutil.rmtree(self._view_folder(view_seed))
            os.replace(temporary, self._view_folder(view_seed))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _row(self, clip_id: str) -> int:
        try:
            return self._rows[clip_id]
        except KeyError:
            raise ValueError(f"The cache has no clip {clip_id!r}") from None

    def lookup(self, clip_ids: Sequence[str], view_seeds: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """Returns head to logits ``[B, M, K]`` float32 for the given views.

        Raises:
            ValueError: If a clip or a view seed is not there.
        """
        seeds = [int(seed) for seed in view_seeds]
        rows = [self._row(clip_id) for clip_id in clip_ids]
        found = {}
        for head in self.info.heads:
            picked = [self._array(seed, head)[row] for seed, row in zip(seeds, rows, strict=True)]
            found[head] = torch.from_numpy(np.stack(picked).astype(np.float32))
        return found

    def _array(self, view_seed: int, head: str) -> np.ndarray:
        key = (view_seed, head)
        if key not in self._open:
            if not self.has(view_seed):
                raise ValueError(f"The cache {self.folder} has no view seed {view_seed}")
            path = self._view_folder(view_seed) / f"{head}.npy"
            self._open[key] = np.load(path, mmap_mode="r", allow_pickle=False)
        return self._open[key]


def read_info(folder: Path) -> dict[str, Any]:
    """Returns the content of a cache's ``info.json``.

    Raises:
        UserError: If it is missing or unreadable.
    """
    try:
        return json.loads((folder / "info.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} holds no soft labels: {error}") from error


def build_view(
    cache: SoftLabelCache, ensemble: TeacherEnsemble, view_seed: int, batches: Iterable[Mapping[str, Any]]
) -> float:
    """Runs the teachers over the batches of one view seed and stores their logits; returns the seconds it took.

    Args:
        cache: Where to.
        ensemble: The teachers.
        view_seed: The seed of all samples in the batches.
        batches: Collated samples with ``inputs``, ``present`` and ``clip_id``, together every clip of the cache.
    """
    start_s = time.perf_counter()

    def judged() -> Iterable[tuple[Sequence[str], Mapping[str, Tensor]]]:
        for batch in batches:
            inputs = {**batch["inputs"], "present": batch.get("present", {})}
            yield batch["clip_id"], ensemble.logits(inputs, batch["clip_id"])

    cache.write_view(view_seed, judged())
    return time.perf_counter() - start_s
