"""Clips as training samples: one item is one view of one clip with all the modalities asked for."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from egoloom.clips.sampling import (
    clips_at_random_timestamps,
    clips_at_regular_timestamps,
    clips_at_segment_timestamps,
)
from egoloom.clips.schema import HAND_OBJECT_HEADS, HEADS, UNLABELLED, Clip, Modality
from egoloom.clips.store import ClipStore
from egoloom.clips.tracks import TrackReader
from egoloom.clips.transforms import ColourPlan, SpatialPlan, ViewConfig, view_generator
from egoloom.errors import UserError

Sample = dict[str, Any]
TRAINABLE_MODALITIES = (
    Modality.RGB,
    Modality.FLOW,
    Modality.SPECTROGRAM,
    Modality.SPECTROGRAM_FRAMES,
    Modality.BOXES,
    Modality.IMU,
)


class ClipEntry(NamedTuple):
    """A clip and the store that holds it; lists of entries may mix stores."""

    store: ClipStore
    clip: Clip


class ViewKey(NamedTuple):
    """Which view of which entry: the dataset's index, so that a sample is a pure function of it."""

    index: int
    view_seed: int


def entries_of(store: ClipStore, **conditions: Any) -> list[ClipEntry]:
    """Returns the entries of a store that meet the conditions of ``ClipStore.select``."""
    return [ClipEntry(store, clip) for clip in store.select(**conditions)]


class ClipDataset(Dataset[Sample]):
    """Random views for training or regular views for evaluation.

    Args:
        entries: The clips, possibly of several stores with equal label spaces.
        modalities: What every sample holds; a modality that a clip lacks is zeros with ``present`` False.
        view: How views are drawn.
        is_training: Random views (by view seed) or regular ones.
        num_test_clips: Temporal positions of the regular views.
        num_test_crops: Spatial positions of the regular views, 1 or 3.
        cache_bytes: Memory for decoded videos, see ``TrackReader``.

    Raises:
        UserError: If there are no entries, or no entry has one of the modalities.
    """

    def __init__(
        self,
        entries: Sequence[ClipEntry],
        modalities: Sequence[Modality],
        view: ViewConfig,
        *,
        is_training: bool,
        num_test_clips: int = 1,
        num_test_crops: int = 1,
        cache_bytes: int = 0,
    ) -> None:
        if not entries:
            raise UserError("There are no clips to read: the split is empty", fix="choose another split or store")
        for modality in modalities:
            if modality not in TRAINABLE_MODALITIES:
                raise UserError(f"Networks cannot read '{modality}'", allowed=", ".join(TRAINABLE_MODALITIES))
            if not any(modality in entry.clip.present for entry in entries):
                raise UserError(
                    f"No clip of {entries[0].store.path} has the modality '{modality}'",
                    fix=f"egoloom modalities {modality.replace('_', '-')} --store {entries[0].store.path}",
                )
        self.entries = list(entries)
        self.modalities = tuple(Modality(modality) for modality in modalities)
        self.view = view
        self.is_training = is_training
        self.num_test_clips, self.num_test_crops = num_test_clips, num_test_crops
        stores = {str(entry.store.path): entry.store for entry in entries}
        self._readers = {
            path: TrackReader(store, cache_bytes=cache_bytes // len(stores)) for path, store in stores.items()
        }

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        kind = "training" if self.is_training else f"{self.num_views} regular views"
        return f"ClipDataset({len(self)} clips, {', '.join(self.modalities)}, {kind})"

    @property
    def num_views(self) -> int:
        """Number of regular views of a clip."""
        return self.num_test_clips * self.num_test_crops

    def __getitem__(self, key: ViewKey | tuple[int, int]) -> Sample:
        """Returns one view.

        Args:
            key: Index of the entry and view seed (training) or view number (evaluation).

        Returns:
            ``inputs`` (modality to array), ``present`` (modality to bool), ``labels`` (head to class, -1 unlabelled),
            ``clip_id``, ``view_seed``, ``index``, ``is_generated``.
        """
        index, view_seed = key
        entry = self.entries[index]
        generator = view_generator(entry.clip.clip_id, view_seed)
        times_s, plan, colours = self._plan(entry, view_seed, generator)
        labels = {head: entry.clip.label(head) for head in HEADS}
        if plan.flip:
            plan, labels = _mirrored(entry, plan, labels)
        inputs, present = {}, {}
        for modality in self.modalities:
            present[str(modality)] = modality in entry.clip.present
            inputs[str(modality)] = (
                self._read(modality, entry, times_s, plan, colours)
                if modality in entry.clip.present
                else self._absent(modality)
            )
        return {
            "inputs": inputs,
            "present": present,
            "labels": labels,
            "clip_id": entry.clip.clip_id,
            "view_seed": view_seed,
            "index": index,
            "is_generated": entry.clip.is_generated,
        }

    def _plan(
        self, entry: ClipEntry, view_seed: int, generator: np.random.Generator
    ) -> tuple[np.ndarray, SpatialPlan, ColourPlan]:
        clip, video, view = entry.clip, entry.store.videos[entry.clip.video_id], self.view
        # Times beyond the last frame's start would ask for a frame that does not exist.
        end_s = min(clip.end_s, video.duration_s)
        if self.is_training:
            if view.sampling == "segments":
                times = clips_at_segment_timestamps(
                    clip.start_s, end_s, num_clips=1, num_frames=view.num_frames, generator=generator
                )
            else:
                times = clips_at_random_timestamps(
                    clip.start_s,
                    end_s,
                    num_clips=1,
                    num_frames=view.num_frames,
                    seconds_between_frames=view.seconds_between_frames,
                    generator=generator,
                )
            return (
                times[0],
                SpatialPlan.random(video.height, video.width, view, generator),
                ColourPlan.random(view, generator),
            )
        position, crop = divmod(view_seed, self.num_test_crops)
        times = regular_times(clip.start_s, end_s, view, self.num_test_clips)
        plan = SpatialPlan.regular(video.height, video.width, view, crop, self.num_test_crops)
        return times[position], plan, ColourPlan()

    def _read(
        self, modality: Modality, entry: ClipEntry, times_s: np.ndarray, plan: SpatialPlan, colours: ColourPlan
    ) -> Any:
        reader, clip, view = self._readers[str(entry.store.path)], entry.clip, self.view
        if modality is Modality.RGB:
            frames = plan.rgb_of_region(reader.rgb(clip.video_id, times_s, plan.region))
            return colours.rgb(frames) if colours != ColourPlan() else frames
        if modality is Modality.FLOW:
            return plan.flow(reader.flow(clip.video_id, times_s))
        if modality is Modality.SPECTROGRAM:
            return reader.spectrogram(clip.video_id, clip.start_s, clip.end_s, view.num_spectrogram_columns)
        if modality is Modality.SPECTROGRAM_FRAMES:
            return reader.spectrogram_frames(clip.video_id, times_s, view.size_px)
        if modality is Modality.IMU:
            return reader.imu(clip.video_id, clip.start_s, clip.end_s, view.num_imu_samples)
        boxes = reader.boxes(clip.video_id, times_s, view.max_boxes)
        return boxes | {"boxes": plan.boxes(boxes["boxes"])}

    def _absent(self, modality: Modality) -> Any:
        """Returns the placeholder of a missing modality; ``present`` says that it is one."""
        view = self.view
        if modality in (Modality.RGB, Modality.FLOW):
            return np.zeros((view.num_frames, 3, view.size_px, view.size_px), np.uint8)
        if modality is Modality.SPECTROGRAM_FRAMES:
            return np.zeros((view.num_frames, 3, view.size_px, view.size_px), np.float32)
        if modality is Modality.SPECTROGRAM:
            return np.zeros((1, self._num_mels(), view.num_spectrogram_columns), np.float32)
        if modality is Modality.IMU:
            return np.zeros((6, view.num_imu_samples), np.float32)
        shape = (view.num_frames, view.max_boxes)
        return {
            "boxes": np.zeros((*shape, 4), np.float32),
            "categories": np.zeros(shape, np.int64),
            "classes": np.zeros(shape, np.int64),
            "scores": np.zeros(shape, np.float32),
            "pad_mask": np.ones(shape, bool),
        }

    def _num_mels(self) -> int:
        settings = self.entries[0].store.info.modalities.get(Modality.SPECTROGRAM, {})
        return int(settings.get("num_mels", 64))


def _mirrored(entry: ClipEntry, plan: SpatialPlan, labels: dict[str, int]) -> tuple[SpatialPlan, dict[str, int]]:
    """Returns plan and labels of a mirrored view: left and right swap in classes and hands, or it is not mirrored."""
    left, right = HAND_OBJECT_HEADS
    swapped = labels | {left: labels[right], right: labels[left]}
    classes, action = entry.store.mirrored_actions, labels["action"]
    if not classes or action == UNLABELLED:
        return plan, swapped
    if classes[action] == UNLABELLED:  # no class describes the mirrored clip
        return dataclasses.replace(plan, flip=False), labels
    return plan, swapped | {"action": classes[action]}


def regular_times(start_s: float, end_s: float, view: ViewConfig, num_clips: int) -> np.ndarray:
    """Returns the seconds of the regular views of an interval, ``[num_clips, num_frames]``."""
    if view.sampling == "segments":
        return clips_at_segment_timestamps(start_s, end_s, num_clips=num_clips, num_frames=view.num_frames)
    return clips_at_regular_timestamps(
        start_s,
        end_s,
        num_clips=num_clips,
        num_frames=view.num_frames,
        seconds_between_frames=view.seconds_between_frames,
    )


def collate(samples: Sequence[Sample]) -> Sample:
    """Stacks samples into a batch: arrays become tensors with a leading batch axis, ids stay a list."""

    def stack(values: list[Any]) -> Any:
        if isinstance(values[0], dict):
            return {name: stack([value[name] for value in values]) for name in values[0]}
        return torch.as_tensor(np.stack([np.asarray(value) for value in values]))

    batch = {name: stack([sample[name] for sample in samples]) for name in samples[0] if name != "clip_id"}
    return batch | {"clip_id": [sample["clip_id"] for sample in samples]}


def batches(dataset: ClipDataset, keys: Sequence[ViewKey], batch_size: int) -> Iterator[Sample]:
    """Yields collated batches of the given views in order, in this process."""
    for start in range(0, len(keys), batch_size):
        yield collate([dataset[key] for key in keys[start : start + batch_size]])
