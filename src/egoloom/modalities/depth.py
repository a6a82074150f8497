"""Depth of every video from a network whose weights you have."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from egoloom.clips import ClipStore, Modality, Video
from egoloom.clips.media import VideoReader, write_arrays
from egoloom.modalities.base import ModalityReport, compute_tracks
from egoloom.modalities.depth_networks import TransformersDepth, network_depth_m

NUM_FRAMES_PER_BLOCK = 16
MAX_DEPTH_M = 65000.0  # float16 ends there


class DepthConfig(BaseModel):
    """Which network looks at which frames.

    Attributes:
        network: Folder of a depth network (transformers, safetensors), for instance Depth Anything V2 Metric.
        frames_a_second: How many frames a second are looked at; all frames if absent.
        depth_range_m: Nearest and farthest distance, for networks of relative depth.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: Path
    frames_a_second: float | None = Field(default=None, gt=0)
    depth_range_m: tuple[float, float] | None = None


def compute(
    store: ClipStore,
    config: DepthConfig,
    *,
    num_workers: int = 1,
    progress: bool = True,
    recompute: bool = False,
    max_failed_share: float = 0.1,
) -> ModalityReport:
    """Computes depth for every video without it; depth that a data set shipped is kept."""
    TransformersDepth(config.network)  # missing weights are one error, not one for every video
    return compute_tracks(
        store,
        Modality.DEPTH,
        _DepthTask(store.path, dict(store.videos), config),
        num_workers=num_workers,
        progress=progress,
        recompute=recompute,
        max_failed_share=max_failed_share,
    )


@dataclass(frozen=True)
class _DepthTask:
    store_path: Path
    videos: dict[str, Video]
    config: DepthConfig

    def __call__(self, video_id: str) -> bool:
        video, config = self.videos[video_id], self.config
        rate = min(config.frames_a_second or float(video.fps), float(video.fps))
        times_s = np.arange(0.0, video.duration_s - 0.5 / float(video.fps), 1.0 / rate)
        with VideoReader(self.store_path / video.path) as reader:
            if config.depth_range_m is not None:  # the range belongs to the whole video, not to a block of it
                depth = network_depth_m(config.network, reader.frames_at(times_s), config.depth_range_m)
            else:
                blocks = np.array_split(times_s, -(-len(times_s) // NUM_FRAMES_PER_BLOCK))
                depth = np.concatenate(
                    [network_depth_m(config.network, reader.frames_at(block), None) for block in blocks]
                )
        write_arrays(
            ClipStore.open(self.store_path).media_path(Modality.DEPTH, video_id),
            {"depth_m": np.clip(depth, 0, MAX_DEPTH_M).astype(np.float16), "times_s": times_s},
        )
        return True
