"""Video encoding: short-GOP H.264 for RGB, and optical flow as two stacked luma planes."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.video.frame import PictureType
from av.video.reformatter import ColorRange

from egoloom.clips.files import atomic_path
from egoloom.errors import UserError

GOP = 12  # a random clip then decodes at most 11 frames that it does not want
FLOW_ZERO = 128.0
FLOW_RANGE = 127.0


def write_video(
    path: Path,
    frames_TCHW: np.ndarray | torch.Tensor,
    fps: Fraction | int,
    *,
    crf: int = 20,
    preset: str = "veryfast",
) -> None:
    """Writes RGB frames as H.264 (yuv420p, GOP 12), atomically.

    Args:
        path: Target, ``.mp4``.
        frames_TCHW: uint8 RGB, ``[T, 3, H, W]`` with even H and W.
        fps: Frames a second.
        crf: Quality, 0 (lossless) to 51.
        preset: x264 preset.

    Raises:
        UserError: If the frames are not uint8 RGB of an even size, or there are none.
    """
    frames = _checked(frames_TCHW, num_channels=3)
    pictures = (np.ascontiguousarray(frame.transpose(1, 2, 0)) for frame in frames)
    _encode(path, pictures, (frames.shape[3], frames.shape[2]), "rgb24", Fraction(fps), crf, preset)


def write_flow(
    path: Path,
    flow_px_T2HW: np.ndarray,
    fps: Fraction | int,
    *,
    bound_px: float,
    crf: int = 12,
    preset: str = "veryfast",
) -> None:
    """Writes optical flow as luma-only H.264 with the u plane above the v plane.

    grey = 128 + 127 * clip(flow_px / bound_px, -1, 1). Stacking the planes keeps both at full resolution, which
    colour channels would lose to chroma subsampling.

    Args:
        path: Target, ``.mp4``.
        flow_px_T2HW: Displacement to the next frame in pixels of the stored frame, ``[T, 2, H, W]``.
        fps: Frames a second.
        bound_px: Displacement that maps to the ends of the range.
        crf: Quality.
        preset: x264 preset.
    """
    grey = encode_flow_grey(flow_px_T2HW, bound_px)
    num_frames, _, height, width = grey.shape
    planes = grey.reshape(num_frames, 2 * height, width)
    _encode(path, iter(planes), (width, 2 * height), "gray", Fraction(fps), crf, preset)


def encode_flow_grey(flow_px: np.ndarray, bound_px: float) -> np.ndarray:
    """Returns the uint8 grey value of a displacement in pixels; 128 is no motion."""
    scaled = FLOW_ZERO + FLOW_RANGE * np.clip(np.nan_to_num(flow_px) / bound_px, -1.0, 1.0)
    return np.rint(scaled).astype(np.uint8)


def decode_flow_grey(grey: np.ndarray, bound_px: float) -> np.ndarray:
    """Returns the displacement in pixels (float32) of a grey value; inverse of ``encode_flow_grey``."""
    return ((grey.astype(np.float32) - FLOW_ZERO) / FLOW_RANGE) * bound_px


def _checked(frames: np.ndarray | torch.Tensor, *, num_channels: int) -> np.ndarray:
    array = frames.numpy() if isinstance(frames, torch.Tensor) else np.asarray(frames)
    if array.ndim != 4 or array.shape[1] != num_channels or array.dtype != np.uint8 or not len(array):
        raise UserError(
            f"Cannot write frames of shape {list(array.shape)} and type {array.dtype}",
            allowed=f"uint8 of shape [T >= 1, {num_channels}, H, W]",
        )
    if array.shape[2] % 2 or array.shape[3] % 2:
        raise UserError(
            f"Cannot write frames of {array.shape[3]} x {array.shape[2]} px: 4:2:0 video needs an even size",
            fix="crop or resize to even width and height",
        )
    return array


def _encode(
    path: Path, pictures, size: tuple[int, int], pixel_format: str, fps: Fraction, crf: int, preset: str
) -> None:
    # Grey pictures travel as full-range luma so that 0..255 survives; RGB uses the usual limited range.
    frames = (av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=pixel_format) for picture in pictures)
    encode_frames(path, frames, size, "gray" if pixel_format == "gray" else "yuv420p", fps, crf=crf, preset=preset)


def encode_frames(
    path: Path,
    frames: Iterable[av.VideoFrame],
    size: tuple[int, int],
    pixel_format: str,
    fps: Fraction,
    *,
    crf: int = 20,
    preset: str = "veryfast",
) -> int:
    """Writes frames as they come, so that long videos need little memory; atomic. Returns their number.

    Args:
        path: Target, ``.mp4``.
        frames: Frames of the given size.
        size: Width and height.
        pixel_format: ``"yuv420p"`` or ``"gray"``.
        fps: Frames a second.
        crf: Quality.
        preset: x264 preset.
    """
    num_frames = 0
    with atomic_path(path) as temporary, av.open(str(temporary), "w") as container:
        # fastdecode (no CABAC, no deblocking) halves the decoding time for a tenth more space.
        options = {"crf": str(crf), "preset": preset, "tune": "fastdecode", "g": str(GOP), "bf": "0"}
        options |= _reproducible()
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = pixel_format
        if pixel_format == "gray":
            stream.codec_context.color_range = ColorRange.JPEG
        stream.codec_context.thread_count = 1
        for frame in frames:
            frame.pts, frame.time_base = num_frames, 1 / fps
            frame.pict_type = PictureType.NONE  # a copied frame must not dictate its source's key frames
            container.mux(stream.encode(frame))
            num_frames += 1
        if num_frames == 0:
            raise UserError(f"There are no frames to write to {path}")
        container.mux(stream.encode())
    return num_frames


def _reproducible() -> dict[str, str]:
    """Returns what makes x264 write the same bytes every time.

    With its AVX-512 code 24 of 1,300 encodes of the same pixels, on one thread, came out different by some bytes; with
    AVX2 and with plain C none of 1,300 each did. The three choose other motion vectors where a picture is noisy, so
    machines of different kinds write different files of like size and quality.
    """
    return {"x264-params": "asm=avx2"} if torch.backends.cpu.get_cpu_capability() == "AVX512" else {}
