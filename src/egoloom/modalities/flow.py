"""Dense optical flow of every video: DIS (Kroeger et al. 2016, arXiv 1603.03590) as OpenCV implements it.

Track ``media/flow/<video_id>.mp4``: one grey frame for every RGB frame, the u plane above the v plane,
``grey = 128 + 127 * clip(flow_px / bound_px, -1, 1)``. Frame t holds the displacement from RGB frame t to
t + 1; the last frame, which has no successor, repeats the one before it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import av.error
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter
from pydantic import BaseModel, ConfigDict

from egoloom._optional import require_package
from egoloom.clips import ClipStore, Modality, Video
from egoloom.clips.media.encoding import encode_flow_grey, encode_frames
from egoloom.errors import UserError
from egoloom.modalities.base import ModalityReport, compute_tracks

PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}


class FlowConfig(BaseModel):
    """How flow is computed.

    Attributes:
        method: ``dis``, or ``raft`` (torchvision's RAFT-small with the weights in ``weights``).
        preset: Speed of DIS.
        weights: State dict of RAFT-small, ``.safetensors``.
        crf: H.264 quality of the track.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["dis", "raft"] = "dis"
    preset: Literal["ultrafast", "fast", "medium"] = "fast"
    weights: Path | None = None
    crf: int = 12


DEFAULT_CONFIG = FlowConfig()


def compute(
    store: ClipStore,
    config: FlowConfig = DEFAULT_CONFIG,
    *,
    num_workers: int = 1,
    progress: bool = True,
    recompute: bool = False,
    max_failed_share: float = 0.1,
) -> ModalityReport:
    """Computes the flow of every video of the store; see ``compute_tracks`` for the common behaviour."""
    if config.method == "raft" and config.weights is None:
        raise UserError("RAFT needs weights", fix="--weights FILE.safetensors, or --method dis")
    task = _FlowTask(store.path, dict(store.videos), store.info.flow_bound_px, config)
    return compute_tracks(
        store,
        Modality.FLOW,
        task,
        num_workers=num_workers,
        progress=progress,
        recompute=recompute,
        max_failed_share=max_failed_share,
    )


def flow_between(
    grey_HW: np.ndarray, next_grey_HW: np.ndarray, preset: Literal["ultrafast", "fast", "medium"] = "fast"
) -> np.ndarray:
    """Returns the displacement in pixels from one grey frame to the next, float32 ``[2, H, W]`` (u right, v down)."""
    return np.moveaxis(cv2.DISOpticalFlow.create(PRESETS[preset]).calc(grey_HW, next_grey_HW, _no_flow()), -1, 0)


def _no_flow() -> np.ndarray:
    return None  # type: ignore[return-value]  # OpenCV's stub does not know that the initial flow is optional


@dataclass(frozen=True)
class _FlowTask:
    store_path: Path
    videos: dict[str, Video]
    bound_px: float
    config: FlowConfig

    def __call__(self, video_id: str) -> bool:
        video = self.videos[video_id]
        store = ClipStore.open(self.store_path)
        frames = _stacked_planes(self._flows(self.store_path / video.path), self.bound_px)
        height, width = video.height, video.width
        encode_frames(
            store.media_path(Modality.FLOW, video_id),
            frames,
            (width, 2 * height),
            "gray",
            Fraction(video.fps),
            crf=self.config.crf,
        )
        return True

    def _flows(self, path: Path) -> Iterator[np.ndarray]:
        if self.config.method == "raft":
            assert self.config.weights is not None
            yield from _raft_flows(path, self.config.weights)
            return
        solver = cv2.DISOpticalFlow.create(PRESETS[self.config.preset])
        previous = None
        for grey in frames_of(path, "gray"):
            if previous is not None:
                yield np.moveaxis(solver.calc(previous, grey, _no_flow()), -1, 0)
            previous = grey


def frames_of(path: Path, pixel_format: str) -> Iterator[np.ndarray]:
    """Yields every frame of a video, upright, with flat memory.

    Raises:
        UserError: If the file is missing, damaged or has no frames.
    """
    num_frames = 0
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise UserError(f"{path} holds no video stream")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise UserError(f"{path} holds a video that cannot be decoded")
            stream.codec_context.thread_count = 1
            stream.codec_context.thread_type = "NONE"
            reformatter = VideoReformatter()
            for frame in container.decode(stream):
                picture = reformatter.reformat(frame, format=pixel_format, threads=1).to_ndarray()
                quarter_turns = round((frame.rotation or 0) / 90) % 4
                num_frames += 1
                yield np.ascontiguousarray(np.rot90(picture, quarter_turns))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise UserError(f"{path} is damaged after {num_frames} frames: {error}", fix="replace the file") from error
    if num_frames == 0:
        raise UserError(f"{path} has no frames")


def _stacked_planes(flows: Iterator[np.ndarray], bound_px: float) -> Iterator[av.VideoFrame]:
    planes = None
    for flow in flows:
        planes = encode_flow_grey(flow, bound_px).reshape(-1, flow.shape[-1])
        yield av.VideoFrame.from_ndarray(np.ascontiguousarray(planes), format="gray")
    if planes is None:
        raise UserError("Flow needs a video of at least two frames")
    yield av.VideoFrame.from_ndarray(np.ascontiguousarray(planes), format="gray")


def _raft_flows(path: Path, weights: Path) -> Iterator[np.ndarray]:
    """Yields the flow of RAFT (Teed and Deng 2020, arXiv 2003.12039); sides are padded to multiples of 8."""
    import torch
    from safetensors.torch import load_file

    optical_flow = require_package("torchvision.models.optical_flow", extra="raft", package="torchvision")
    network = optical_flow.raft_small(weights=None).eval()
    network.load_state_dict(load_file(weights))
    previous = None
    for picture in frames_of(path, "rgb24"):
        height, width = picture.shape[:2]
        image = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1.0
        image = torch.nn.functional.pad(image, (0, -width % 8, 0, -height % 8), mode="replicate")
        if previous is not None:
            with torch.no_grad():
                yield network(previous, image)[-1][0, :, :height, :width].numpy()
        previous = image
