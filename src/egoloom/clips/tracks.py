"""Reads what a clip's modalities hold at given seconds, with a memory of decoded frames for small stores."""

from collections import OrderedDict
from typing import Any

import cv2
import numpy as np

from egoloom.clips.media import VideoReader, read_arrays, read_table
from egoloom.clips.media.frame_cache import FrameCacheReader, Region, cache_path, index_path
from egoloom.clips.schema import Modality
from egoloom.clips.store import ClipStore

BOX_COLUMNS = ("x1", "y1", "x2", "y2")
IMU_COLUMNS = ("ax", "ay", "az", "gx", "gy", "gz")
WINDOW_S, NUM_WINDOW_COLUMNS, SILENCE_DB = 1.116, 224, -100.0  # of the sound around a frame (arXiv 2307.07483)
MAX_OPEN_SHARDS = 64
SILENCE_LOG = float(np.log(1e-6))  # the log-mel value of digital silence


class TrackReader:
    """Reads the tracks of one store.

    Args:
        store: The store.
        cache_bytes: How much memory decoded videos may take. A video that fits is decoded once and kept, the least
            recently used ones are dropped; longer videos are decoded at the wanted times only.
    """

    def __init__(self, store: ClipStore, *, cache_bytes: int = 0) -> None:
        self.store = store
        self._cache_bytes = cache_bytes
        self._cached: OrderedDict[tuple[Modality, str], tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self._held_bytes = 0
        self._class_ids = {name: 1 + index for index, name in enumerate(store.info.box_categories)}
        self._shards: OrderedDict[str, FrameCacheReader] = OrderedDict()
        store.videos  # noqa: B018 - media paths of originals need the table

    def __getstate__(self) -> dict[str, Any]:
        """Leaves open shards behind: a worker process opens its own."""
        return {**self.__dict__, "_shards": OrderedDict()}

    def rgb(self, video_id: str, times_s: np.ndarray, region: Region | None = None) -> np.ndarray:
        """Returns the RGB frames shown at these seconds, or a region of them, uint8 ``[T, 3, H, W]``.

        A video of which the store has JPEG shards (``egoloom modalities frame-cache``) is read from them, and only
        what the region touches is decoded.
        """
        if shard := self._shard(video_id):
            return shard.frames_at(times_s, region)
        rows, columns = region or (slice(None), slice(None))
        return self._frames(Modality.RGB, video_id, times_s)[:, :, rows, columns]

    def flow(self, video_id: str, times_s: np.ndarray) -> np.ndarray:
        """Returns the stored grey flow at these seconds, uint8 ``[T, 2, H, W]``: planes u and v, 128 is no motion."""
        stacked = self._frames(Modality.FLOW, video_id, times_s)
        num_frames, _, double_height, width = stacked.shape
        return stacked.reshape(num_frames, 2, double_height // 2, width)

    def spectrogram(self, video_id: str, start_s: float, end_s: float, num_columns: int) -> np.ndarray:
        """Returns the log-mel columns between two seconds, float32 ``[1, num_mels, num_columns]``.

        A shorter stretch is padded with silence at the end, a longer one is resampled linearly.
        """
        arrays = self._small(Modality.SPECTROGRAM, video_id)
        hop_s, offset_s = float(arrays["hop_s"]), float(arrays.get("start_s", np.zeros(())))
        log_mel = arrays["log_mel"].astype(np.float32)
        first = max(0, round((start_s - offset_s) / hop_s))
        last = max(first + 1, round((end_s - offset_s) / hop_s))
        part = log_mel[first:last]
        if len(part) > num_columns:
            position = np.linspace(0, len(part) - 1, num_columns)
            low = np.floor(position).astype(int)
            high = np.minimum(low + 1, len(part) - 1)
            weight = (position - low)[:, None].astype(np.float32)
            part = part[low] * (1 - weight) + part[high] * weight
        padded = np.full((num_columns, log_mel.shape[1]), SILENCE_LOG, dtype=np.float32)
        padded[: len(part)] = part
        return np.ascontiguousarray(padded.T[None])

    def spectrogram_frames(self, video_id: str, times_s: np.ndarray, size_px: int) -> np.ndarray:
        """Returns the sound around each second as a square picture in decibels, float32 ``[T, 3, size_px, size_px]``.

        Rows are mel bands, columns 1.116 s of time centred on the moment, both resized to the nearest; the three
        channels are equal. What lies outside of the recording is silent.
        """
        arrays = self._small(Modality.SPECTROGRAM_FRAMES, video_id)
        power_db, hop_s = arrays["power_db"].astype(np.float32), float(arrays["hop_s"])
        silence = np.full((NUM_WINDOW_COLUMNS, power_db.shape[1]), SILENCE_DB, np.float32)
        padded = np.concatenate([silence, power_db, silence])
        firsts = np.rint((np.asarray(times_s) - WINDOW_S / 2) / hop_s).astype(int) + NUM_WINDOW_COLUMNS
        firsts = np.clip(firsts, 0, len(padded) - NUM_WINDOW_COLUMNS)
        size = (size_px, size_px)
        pictures = [
            cv2.resize(padded[first : first + NUM_WINDOW_COLUMNS].T, size, interpolation=cv2.INTER_NEAREST)
            for first in firsts
        ]
        return np.repeat(np.stack(pictures)[:, None], 3, axis=1)

    def imu(self, video_id: str, start_s: float, end_s: float, num_samples: int) -> np.ndarray:
        """Returns accelerometer (m/s²) and gyroscope (rad/s) on a regular clock, float32 ``[6, num_samples]``."""
        table = self._table(Modality.IMU, video_id)
        clock = np.linspace(start_s, end_s, num_samples, endpoint=False)
        return np.stack([np.interp(clock, table["time_s"], table[name]) for name in IMU_COLUMNS]).astype(np.float32)

    def boxes(self, video_id: str, times_s: np.ndarray, max_boxes: int) -> dict[str, np.ndarray]:
        """Returns the boxes of the annotated frame nearest to each second, best scores first.

        Returns:
            ``boxes`` float32 ``[T, N, 4]`` xyxy in pixels of the stored frame, ``categories`` int64 ``[T, N]``
            (0 pad, 1 object, 2 hand), ``classes`` int64 ``[T, N]`` (0 unknown, else 1 + index in the store's
            ``box_categories``), ``scores`` float32 ``[T, N]``, ``pad_mask`` bool ``[T, N]`` (true = no box).
        """
        table = self._table(Modality.BOXES, video_id)
        num_frames = len(times_s)
        result = {
            "boxes": np.zeros((num_frames, max_boxes, 4), np.float32),
            "categories": np.zeros((num_frames, max_boxes), np.int64),
            "classes": np.zeros((num_frames, max_boxes), np.int64),
            "scores": np.zeros((num_frames, max_boxes), np.float32),
            "pad_mask": np.ones((num_frames, max_boxes), bool),
        }
        frame_times = np.unique(table["time_s"])
        if not len(frame_times):
            return result
        tolerance_s = 0.75 / float(self.store.videos[video_id].fps)
        for frame, time_s in enumerate(times_s):
            nearest = frame_times[np.abs(frame_times - time_s).argmin()]
            if abs(nearest - time_s) > tolerance_s:
                continue
            rows = np.flatnonzero(table["time_s"] == nearest)
            rows = rows[np.argsort(-table["score"][rows], kind="stable")][:max_boxes]
            count = len(rows)
            result["boxes"][frame, :count] = np.stack([table[name][rows] for name in BOX_COLUMNS], axis=1)
            result["categories"][frame, :count] = np.where(table["is_hand"][rows], 2, 1)
            result["classes"][frame, :count] = [self._class_ids.get(name, 0) for name in table["category"][rows]]
            result["scores"][frame, :count] = table["score"][rows]
            result["pad_mask"][frame, :count] = False
        return result

    def _frames(self, modality: Modality, video_id: str, times_s: np.ndarray) -> np.ndarray:
        video = self.store.videos[video_id]
        num_bytes = video.num_frames * video.width * video.height * (3 if modality is Modality.RGB else 2)
        path = self.store.media_path(modality, video_id)
        if num_bytes > self._cache_bytes // 4:
            with VideoReader(path, grey=modality is Modality.FLOW) as reader:
                return reader.frames_at(times_s)
        frames, frame_times = self._decoded(modality, video_id, path)
        shown = np.searchsorted(frame_times, np.asarray(times_s) + 1e-4, side="right") - 1
        return frames[np.clip(shown, 0, len(frames) - 1)]

    def _decoded(self, modality: Modality, video_id: str, path) -> tuple[np.ndarray, np.ndarray]:
        key = (modality, video_id)
        if key in self._cached:
            self._cached.move_to_end(key)
            return self._cached[key]
        with VideoReader(path, grey=modality is Modality.FLOW) as reader:
            frame_times = reader.frame_times_s()
            frames = reader.all_frames()
        self._cached[key] = (frames, frame_times[: len(frames)])
        self._held_bytes += frames.nbytes
        while self._held_bytes > self._cache_bytes and len(self._cached) > 1:
            _, (dropped, _) = self._cached.popitem(last=False)
            self._held_bytes -= dropped.nbytes
        return self._cached[key]

    def _shard(self, video_id: str) -> FrameCacheReader | None:
        if video_id not in self._shards:
            path = cache_path(self.store.path, video_id)
            if not index_path(path).is_file():
                return None
            self._shards[video_id] = FrameCacheReader(path)
            if len(self._shards) > MAX_OPEN_SHARDS:
                self._shards.popitem(last=False)[1].close()
        return self._shards[video_id]

    def _small(self, modality: Modality, video_id: str) -> dict[str, np.ndarray]:
        return read_arrays(self.store.media_path(modality, video_id))

    def _table(self, modality: Modality, video_id: str) -> dict[str, np.ndarray]:
        return read_table(self.store.media_path(modality, video_id))
