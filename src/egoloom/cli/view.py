"""``egoloom view``: a side-by-side video of one clip with everything that is known about it, and its sound."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from egoloom.clips import Clip, ClipStore, Modality
from egoloom.clips.store import INFO_FILE
from egoloom.errors import UserError

NUM_FRAMES_PER_BLOCK = 64  # what is held in memory at once, however long the clip
PANEL_PX = 256
STRIP_PX = 96
HAND_COLOR, OBJECT_COLOR = (255, 190, 60), (90, 220, 120)
IMU_COLORS = ((230, 80, 80), (80, 200, 90), (90, 130, 250))
SAMPLE_RATE_HZ = 16000


@dataclass
class ViewArguments:
    """Writes a side-by-side mp4 with sound of one clip: ego, exo, flow, depth, boxes, IMU and spectrogram."""

    clip: Annotated[Path, tyro.conf.Positional]
    """A clip store, or STORE/CLIP_ID."""
    clip_id: str = ""
    """Which clip of the store; default: the first ego clip."""
    out: Path | None = None
    """The mp4 to write; default: view/CLIP_ID.mp4."""
    max_length_s: float = 60.0
    """Only the first seconds of a longer clip."""


def main(arguments: list[str]) -> None:
    """Runs the verb."""
    options = tyro.cli(ViewArguments, prog="egoloom view", args=arguments)
    store, clip = find_clip(options.clip, options.clip_id)
    if not options.max_length_s > 0:
        raise UserError(f"max_length_s = {options.max_length_s:g} shows nothing", allowed="more than 0")
    out = options.out or Path("view") / f"{clip.clip_id}.mp4"
    length_s = clip.end_s - clip.start_s
    write_view(store, shortened(clip, options.max_length_s), out)
    cut = f"  (the first {options.max_length_s:g} of {length_s:.1f} s)" if length_s > options.max_length_s else ""
    print(f"{out}{cut}")
    print(f"next: egoloom predict --help    or: egoloom doctor {store.path}")


def find_clip(path: Path, clip_id: str) -> tuple[ClipStore, Clip]:
    """Returns the store and the clip that a user means by STORE, STORE/CLIP_ID or STORE and an id.

    Raises:
        UserError: If there is no such store or clip.
    """
    if not path.is_dir() and not clip_id and (path.parent / INFO_FILE).is_file():
        path, clip_id = path.parent, path.name
    store = ClipStore.open(path)
    if not store.clips:
        raise UserError(f"{path} holds no clips", fix="egoloom kitchen --out STORE")
    if not clip_id:
        return store, next((clip for clip in store.clips if clip.view == "ego"), store.clips[0])
    for clip in store.clips:
        if clip.clip_id == clip_id:
            return store, clip
    near = [clip.clip_id for clip in store.clips[:4]]
    raise UserError(f"{path} has no clip {clip_id!r}", allowed=f"for instance {', '.join(near)}")


def shortened(clip: Clip, max_length_s: float) -> Clip:
    """Returns the first seconds of a clip."""
    return dataclasses.replace(clip, end_s=min(clip.end_s, clip.start_s + max_length_s))


def write_view(store: ClipStore, clip: Clip, out: Path) -> None:
    """Writes the video of one clip; modalities that the clip lacks are left out."""
    fps = store.videos[clip.video_id].fps
    count = max(1, round((clip.end_s - clip.start_s) * float(fps)))
    times = clip.start_s + np.arange(count) / float(fps)
    blocks = (
        _frames(store, clip, times[first : first + NUM_FRAMES_PER_BLOCK])
        for first in range(0, count, NUM_FRAMES_PER_BLOCK)
    )
    _encode(out, blocks, fps, _sound(store, clip))


def _frames(store: ClipStore, clip: Clip, times: np.ndarray) -> np.ndarray:
    """Returns the frames ``[T, H, W, 3]`` of the view at some moments: title, panels, strips."""
    pictures = np.concatenate(picture_panels(store, clip, times), axis=2)
    width = pictures.shape[2]
    strips = [strip(store, clip, times, width) for strip in (imu_strip, sound_strip)]
    rows = [title(store, clip, len(times), width), pictures, *(strip for strip in strips if strip is not None)]
    return np.concatenate(rows, axis=1)


def picture_panels(store: ClipStore, clip: Clip, times: np.ndarray) -> list[np.ndarray]:
    """Returns panels ``[T, 256, W, 3]``: the clip, its partner view, boxes, flow colours, depth colours."""
    from egoloom.clips.tracks import TrackReader

    tracks = TrackReader(store)
    own = tracks.rgb(clip.video_id, times).transpose(0, 2, 3, 1)
    panels = [_panel(own, clip.view)]
    for other in store.clips:
        if clip.take_id and other.take_id == clip.take_id and other.view != clip.view:
            video = store.videos[other.video_id]  # may end a little earlier: its last frame stays
            until = np.minimum(times, video.duration_s - 1.0 / float(video.fps))
            panels.append(_panel(tracks.rgb(other.video_id, until).transpose(0, 2, 3, 1), other.view))
            break
    if Modality.BOXES in clip.present:
        panels.append(_boxes_panel(store, clip, own, times))
    if Modality.FLOW in clip.present:
        from egoloom.clips.media.encoding import decode_flow_grey

        flow = decode_flow_grey(tracks.flow(clip.video_id, times), store.info.flow_bound_px)
        panels.append(_panel(np.stack([flow_colors(frame) for frame in flow]), "flow"))
    if Modality.DEPTH in clip.present:
        panels.append(_panel(_depth_colors(store, clip, times), "depth"))
    return panels


def flow_colors(flow_2HW: np.ndarray, full_px: float = 8.0) -> np.ndarray:
    """Returns flow as colours ``[H, W, 3]``: hue is direction, saturation is length up to ``full_px``."""
    import cv2

    angle = np.degrees(np.arctan2(flow_2HW[1], flow_2HW[0])) % 360
    length = np.clip(np.hypot(flow_2HW[0], flow_2HW[1]) / full_px, 0, 1)
    hsv = np.stack([angle / 2, 255 * length, np.full_like(angle, 255)], -1).astype(np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _panel(frames: np.ndarray, name: str) -> np.ndarray:
    import cv2

    height, width = frames.shape[1:3]
    size = (2 * round(PANEL_PX * width / height / 2), PANEL_PX)
    shown = np.stack(
        [cv2.resize(np.ascontiguousarray(frame), size, interpolation=cv2.INTER_LINEAR) for frame in frames]
    )
    for frame in shown:
        _write_over(frame, name, (6, 16), 0.45, (255, 255, 255))
    return shown


def _write_over(frame: np.ndarray, text: str, place: tuple[int, int], size: float, color: tuple[int, int, int]) -> None:
    """Writes text with a dark rim, so that it reads on any picture."""
    import cv2

    for rim, thickness in (((0, 0, 0), 3), (color, 1)):
        cv2.putText(frame, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, rim, thickness, cv2.LINE_AA)


def _boxes_panel(store: ClipStore, clip: Clip, frames: np.ndarray, times: np.ndarray) -> np.ndarray:
    import cv2

    from egoloom.clips.media import read_table

    table = read_table(store.media_path(Modality.BOXES, clip.video_id))
    scale = PANEL_PX / frames.shape[1]
    panel = _panel(frames, "boxes")
    for frame, time_s in zip(panel, times, strict=True):
        if not len(table["time_s"]):
            break
        nearest = table["time_s"][np.abs(table["time_s"] - time_s).argmin()]
        for row in np.flatnonzero(table["time_s"] == nearest) if abs(nearest - time_s) < 0.1 else ():
            x1, y1, x2, y2 = (round(float(table[name][row]) * scale) for name in ("x1", "y1", "x2", "y2"))
            color = HAND_COLOR if table["is_hand"][row] else OBJECT_COLOR
            cv2.rectangle(frame, (x1, y1), (x2, y2), color, 1)
            _write_over(frame, str(table["category"][row]), (x1 + 2, max(y1 - 4, 10)), 0.36, color)
    return panel


def _depth_colors(store: ClipStore, clip: Clip, times: np.ndarray) -> np.ndarray:
    import cv2

    from egoloom.clips.media import read_arrays

    arrays = read_arrays(store.media_path(Modality.DEPTH, clip.video_id))
    depth_m = arrays["depth_m"].astype(np.float32)
    # One range for the whole clip, from some of its frames: colours must not jump from block to block.
    inside = np.flatnonzero((arrays["times_s"] >= clip.start_s) & (arrays["times_s"] <= clip.end_s))
    known = depth_m[inside[:: max(1, len(inside) // 16)]]
    known = known[known > 0]
    low, high = np.quantile(1 / np.maximum(known, 0.1), (0.02, 0.98)) if len(known) else (0.0, 1.0)
    depth_m = depth_m[np.abs(arrays["times_s"][None] - times[:, None]).argmin(1)]
    inverse, valid = 1 / np.maximum(depth_m, 0.1), depth_m > 0
    grey = (255 * np.clip((inverse - low) / max(high - low, 1e-6), 0, 1)).astype(np.uint8)
    colors = np.stack([cv2.cvtColor(cv2.applyColorMap(frame, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB) for frame in grey])
    colors[~valid] = 0
    return colors


def imu_strip(store: ClipStore, clip: Clip, times: np.ndarray, width: int) -> np.ndarray | None:
    """Returns a strip ``[T, 96, W, 3]`` with accelerometer and gyroscope curves and a cursor; None without IMU."""
    import cv2

    from egoloom.clips.media import read_table

    if Modality.IMU not in clip.present:
        return None
    table = read_table(store.media_path(Modality.IMU, clip.video_id))
    inside = (table["time_s"] >= clip.start_s) & (table["time_s"] <= clip.end_s)
    picture = np.full((STRIP_PX, width, 3), 24, np.uint8)
    x = (table["time_s"][inside] - clip.start_s) / (clip.end_s - clip.start_s) * (width - 1)
    for names, top in ((("ax", "ay", "az"), 0), (("gx", "gy", "gz"), STRIP_PX // 2)):
        curves = np.stack([table[name][inside] - np.median(table[name][inside]) for name in names])
        gain = (STRIP_PX / 4 - 3) / max(float(np.quantile(np.abs(curves), 0.995)), 1e-6)
        for curve, color in zip(curves, IMU_COLORS, strict=True):
            y = np.clip(top + STRIP_PX / 4 - curve * gain, top, top + STRIP_PX / 2 - 1)
            cv2.polylines(picture, [np.stack([x, y], -1).astype(np.int32)], False, color, 1, cv2.LINE_AA)
        _write_over(picture, ("accelerometer", "gyroscope")[top > 0], (6, top + 12), 0.36, (220, 220, 220))
    return _with_cursor(picture, clip, times)


def sound_strip(store: ClipStore, clip: Clip, times: np.ndarray, width: int) -> np.ndarray | None:
    """Returns a strip ``[T, 96, W, 3]`` with the log-mel spectrogram and a cursor; None without one."""
    import cv2

    from egoloom.clips.media import read_arrays

    if Modality.SPECTROGRAM not in clip.present:
        return None
    arrays = read_arrays(store.media_path(Modality.SPECTROGRAM, clip.video_id))
    hop_s, start_s = float(arrays["hop_s"]), float(arrays.get("start_s", np.zeros(())))
    first, last = (max(0, round((at - start_s) / hop_s)) for at in (clip.start_s, clip.end_s))
    part = arrays["log_mel"][first : max(last, first + 1)].astype(np.float32).T[::-1]
    low, high = np.quantile(part, (0.05, 0.995))
    grey = (255 * np.clip((part - low) / max(high - low, 1e-6), 0, 1)).astype(np.uint8)
    picture = cv2.applyColorMap(cv2.resize(grey, (width, STRIP_PX)), cv2.COLORMAP_MAGMA)
    return _with_cursor(np.ascontiguousarray(picture[..., ::-1]), clip, times)


def _with_cursor(picture: np.ndarray, clip: Clip, times: np.ndarray) -> np.ndarray:
    strip = np.tile(picture[None], (len(times), 1, 1, 1))
    share = (times - clip.start_s) / (clip.end_s - clip.start_s)
    for frame, at in zip(strip, share, strict=True):
        column = int(at * (picture.shape[1] - 2))
        frame[:, column : column + 2] = 255
    return strip


def title(store: ClipStore, clip: Clip, count: int, width: int) -> np.ndarray:
    """Returns a bar ``[T, 24, W, 3]`` with the clip's id, label, participant and split."""
    import cv2

    names = store.class_names("action")
    label = names[clip.action] if 0 <= clip.action < len(names) else clip.narration or "unlabelled"
    text = f"{label}   |   {clip.clip_id}   {clip.participant_id}   {clip.split}"
    bar = np.full((24, width, 3), 245, np.uint8)
    cv2.putText(bar, text, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (20, 20, 20), 1, cv2.LINE_AA)
    return np.tile(bar[None], (count, 1, 1, 1))


def _sound(store: ClipStore, clip: Clip) -> np.ndarray | None:
    from egoloom.clips.media import read_audio

    if Modality.AUDIO not in clip.present:
        return None
    samples = read_audio(store.media_path(Modality.AUDIO, clip.video_id), rate_hz=SAMPLE_RATE_HZ)
    first, last = (round(at * SAMPLE_RATE_HZ) for at in (clip.start_s, clip.end_s))
    return None if samples is None else samples[first:last]


def _encode(out: Path, blocks: Iterable[np.ndarray], fps: Fraction, sound: np.ndarray | None) -> None:
    import av

    from egoloom.clips.files import atomic_path

    with atomic_path(out) as temporary, av.open(str(temporary), "w") as container:
        video = container.add_stream("libx264", rate=fps, options={"crf": "18", "preset": "veryfast"})
        audio = container.add_stream("aac", rate=SAMPLE_RATE_HZ) if sound is not None else None
        if audio is not None:
            audio.codec_context.layout = "mono"
        for number, block in enumerate(blocks):
            frames = block[:, : block.shape[1] // 2 * 2, : block.shape[2] // 2 * 2]
            if number == 0:
                video.width, video.height, video.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
            for picture in frames:
                container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(video.encode())
        if audio is not None and sound is not None:
            for start in range(0, len(sound), 1024):
                block = av.AudioFrame.from_ndarray(
                    np.ascontiguousarray(sound[None, start : start + 1024]), format="fltp", layout="mono"
                )
                block.sample_rate, block.pts, block.time_base = SAMPLE_RATE_HZ, start, Fraction(1, SAMPLE_RATE_HZ)
                container.mux(audio.encode(block))
            container.mux(audio.encode())
