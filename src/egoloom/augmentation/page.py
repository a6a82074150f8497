"""One page with strips of accepted and rejected clips: what the generator saw, and what it made of it."""

import base64
import html
import io
import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from egoloom.augmentation.generate import REJECTED
from egoloom.clips import Clip, ClipStore, Modality
from egoloom.clips.files import write_text
from egoloom.clips.media import VideoReader

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem;color:#222}
.strips{display:grid;grid-template-columns:repeat(auto-fill,minmax(330px,1fr));gap:1rem}
figure{margin:0}img{width:100%;image-rendering:pixelated}figcaption{font-size:13px;color:#555}
.reason{color:#a3261b}@media(prefers-color-scheme:dark){body{background:#16181b;color:#ddd}figcaption{color:#aaa}}"""
SIDE_PX = 96


def write_page(store: ClipStore, path: Path, *, num_each: int = 24, num_moments: int = 4) -> Path:
    """Writes a self-contained page and returns its path.

    Args:
        store: A store of generated clips.
        path: Target, ``.html``.
        num_each: Strips of accepted and of rejected clips, spread evenly.
        num_moments: Moments of a strip.
    """
    made = [clip for clip in store.clips if clip.is_generated]
    rejected = [clip for clip in made if clip.split == REJECTED]
    accepted = [clip for clip in made if clip.split != REJECTED]
    parts = [
        f"<!doctype html><meta charset=utf-8><title>Generated clips</title><style>{STYLE}</style>",
        f"<h1>Generated clips of {html.escape(store.info.name)}</h1>",
        f"<p>{len(accepted)} accepted, {len(rejected)} rejected. Upper row: the ego prior that the generator saw, "
        "black where the exo camera saw nothing. Lower row: what it generated. "
        f"{'Simulated recordings.' if store.info.is_simulated else ''}</p>",
    ]
    for title, clips in (("Rejected", rejected), ("Accepted", accepted)):
        figures = "".join(_figure(store, clip, num_moments) for clip in _spread(clips, num_each))
        parts.append(f"<h2>{title} ({len(clips)})</h2><div class=strips>{figures}</div>")
    write_text(path, "\n".join(parts) + "\n")
    return path


def _spread(clips: Sequence[Clip], count: int) -> list[Clip]:
    if len(clips) <= count:
        return list(clips)
    return [clips[index] for index in np.linspace(0, len(clips) - 1, count).round().astype(int)]


def _figure(store: ClipStore, clip: Clip, num_moments: int) -> str:
    prior = store.path / "media" / "prior" / f"{clip.video_id}.mp4"
    paths = [path for path in (prior, store.media_path(Modality.RGB, clip.video_id)) if path.is_file()]
    rows = [np.hstack([_picture(frame) for frame in _moments(path, num_moments)]) for path in paths]
    buffer = io.BytesIO()
    Image.fromarray(np.vstack(rows)).save(buffer, "JPEG", quality=85)
    shown = base64.b64encode(buffer.getvalue()).decode()
    scores = ", ".join(f"{k} {v:.2f}" for k, v in json.loads(clip.extra.get("scores", "{}")).items())
    reason = clip.extra.get("rejected", "")
    caption = html.escape(f"{clip.narration or clip.clip_id}: {scores}")
    if reason:
        caption += f"<br><span class=reason>{html.escape(reason)}</span>"
    return f'<figure><img alt="" src="data:image/jpeg;base64,{shown}"><figcaption>{caption}</figcaption></figure>'


def _moments(path: Path, count: int) -> np.ndarray:
    with VideoReader(path) as reader:
        return reader.frames_at(np.linspace(0, reader.duration_s * 0.95, count))


def _picture(frame_CHW: np.ndarray) -> np.ndarray:
    picture = np.ascontiguousarray(frame_CHW.transpose(1, 2, 0))
    return cv2.resize(picture, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_NEAREST)
