"""An optional copy of all RGB frames as JPEG shards: faster random access than video, in more space.

One shard a video in ``media/frame_cache``, as ``egoloom.clips.media.frame_cache`` describes it. Training, evaluation
and teachers read a video from its shard where there is one; JPEG changes pixels a little, so make it before the first
run.
"""

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from egoloom._parallel import Failure, check_failures, map_unordered
from egoloom.clips import ClipStore, Modality, Video
from egoloom.clips.media import VideoReader
from egoloom.clips.media.frame_cache import JPEG_QUALITY, cache_path, is_current, write_frame_cache
from egoloom.modalities.base import ModalityReport
from egoloom.modalities.flow import frames_of


class FrameCacheConfig(BaseModel):
    """How frames are kept.

    Attributes:
        quality: JPEG quality.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    quality: int = Field(default=JPEG_QUALITY, ge=30, le=100)


DEFAULT_CONFIG = FrameCacheConfig()


def compute(
    store: ClipStore,
    config: FrameCacheConfig = DEFAULT_CONFIG,
    *,
    num_workers: int = 1,
    progress: bool = True,
    recompute: bool = False,
    max_failed_share: float = 0.1,
) -> ModalityReport:
    """Writes a shard for every video that has none, or one of an older format.

    Raises:
        UserError: If too many videos cannot be read.
    """
    task = _CacheTask(store.path, dict(store.videos), config)
    todo = [v for v in store.videos if recompute or not is_current(cache_path(store.path, v))]
    failures: list[Failure] = []
    num_skipped = len(store.videos) - len(todo)
    outcomes = map_unordered(task, todo, num_workers=num_workers, description="frame cache", progress=progress)
    for num_seen, outcome in enumerate(outcomes, start=1):
        if outcome.failure is not None:
            failures.append(outcome.failure)
            check_failures(failures, num_skipped + num_seen - len(failures), len(store.videos), max_failed_share)
    return ModalityReport(Modality.RGB, len(todo) - len(failures), num_skipped, tuple(failures))


@dataclass(frozen=True)
class _CacheTask:
    store_path: Path
    videos: dict[str, Video]
    config: FrameCacheConfig

    def __call__(self, video_id: str) -> bool:
        source = self.store_path / self.videos[video_id].path
        with VideoReader(source) as reader:
            times_s = reader.frame_times_s()
        target = cache_path(self.store_path, video_id)
        write_frame_cache(target, frames_of(source, "rgb24"), times_s, quality=self.config.quality)
        return True
