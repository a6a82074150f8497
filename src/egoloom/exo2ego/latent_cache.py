"""Coded training clips on disk: one file a clip, written once, read when a batch wants it.

What can be derived is not stored: the condition channels repeat the latents, the exo half of the mask follows from the
canvas, and captions are zero behind their last token. What is read equals what was coded, bit for bit.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.nn.functional import pad

from egoloom.clips.files import atomic_path
from egoloom.errors import UserError
from egoloom.exo2ego.bias import DirectionTables
from egoloom.exo2ego.conditioning import canvas_mask, condition
from egoloom.exo2ego.latent_manifest import MANIFEST, is_made_with, latents_made_with, write_manifest
from egoloom.exo2ego.latents import latent_strides
from egoloom.exo2ego.layout import CanvasLayout
from egoloom.exo2ego.lazy_samples import LazySamples
from egoloom.exo2ego.pipeline import EgoXPipeline
from egoloom.exo2ego.progress import coding_progress
from egoloom.exo2ego.samples import GeneratorSample
from egoloom.exo2ego.training_cache import (
    CachedClip,
    ClipCoding,
    cache_clips,
    code_window,
    cut_windows,
    embed_caption,
    refuse_nothing,
)
from egoloom.exo2ego.training_config import GeneratorTraining

LATENTS = ("exo", "prior", "truth")
CLIP_FILE = re.compile(r"(\d{6})-(\d+)-of-(\d+)\.safetensors")


def coded_clips(
    pipeline: EgoXPipeline,
    samples: Sequence[GeneratorSample] | Sequence[CachedClip],
    config: GeneratorTraining,
    run_dir: str | Path | None,
    accelerator: Accelerator,
    show_progress: bool,
) -> Sequence[CachedClip]:
    """Returns the clips of a training run: coded in its folder, or in memory where it has none."""
    if isinstance(samples, LatentCache):
        return samples
    if not isinstance(samples, LazySamples) and samples and isinstance(samples[0], CachedClip):
        return cast(Sequence[CachedClip], samples)
    samples = cast(Sequence[GeneratorSample], samples)
    coding = ClipCoding(config.window_frames, keep_frames=config.pixels is not None, seed=config.seed)
    if run_dir is None:
        return cache_clips(pipeline, samples, coding)
    process = (accelerator.process_index, accelerator.num_processes)
    with coding_progress(show_progress and accelerator.is_main_process) as progress:
        bar = progress.add_task("latents", total=None)
        return cache_latents(
            pipeline,
            samples,
            coding,
            Path(run_dir) / "latents",
            process=process,
            wait=accelerator.wait_for_everyone,
            on_sample=lambda done, total: progress.update(bar, completed=done, total=total),
        )


def cache_latents(
    pipeline: EgoXPipeline,
    samples: Sequence[GeneratorSample],
    coding: ClipCoding,
    folder: Path,
    *,
    process: tuple[int, int] = (0, 1),
    wait: Callable[[], object] = lambda: None,
    on_sample: Callable[[int, int], None] | None = None,
) -> "LatentCache":
    """Codes the samples that the folder lacks, one at a time, and returns all of them; a whole folder is only opened.

    Args:
        pipeline: The pipeline that is trained.
        samples: Clips with ego truth; lazy ones are read one at a time, and only if they are to be coded.
        coding: What is coded.
        folder: The cache's.
        process: Number of this process and of all that share the work; all must call this alike.
        wait: Returns when all processes have called it.
        on_sample: Called with (done, all) of this process's share.

    Raises:
        UserError: If the folder was made with something else, a file cannot be read, or a clip cannot be used.
    """
    refuse_nothing(samples)
    made_with = latents_made_with(pipeline, samples, coding)
    is_there = is_made_with(folder / MANIFEST, made_with, folder)
    if not is_there and any(_clip_paths(folder)):
        raise UserError(f"{folder} holds clips, but nothing says what of", fix=f"rm -r {folder}")
    whole = _whole_samples(folder)
    missing = [number for number in range(len(samples)) if number not in whole]
    wait()  # or a slow process would see what a quick one has written, and take another share
    if process[0] == 0:
        _begin(folder, made_with)
    wait()
    writer, own = _ClipWriter(pipeline, coding, folder), missing[process[0] :: process[1]]
    for done, number in enumerate(own):
        writer.write(number, samples[number])
        if on_sample is not None:
            on_sample(done + 1, len(own))
    wait()
    return LatentCache(folder, pipeline)


def _begin(folder: Path, made_with: dict[str, Any]) -> None:
    """Says what the clips are made with before there is one, and clears what a killed run left half written."""
    if not (folder / MANIFEST).exists():
        write_manifest(folder / MANIFEST, made_with)
    for path in folder.glob(".*.safetensors"):
        path.unlink()


def _clip_paths(folder: Path) -> list[Path]:
    """Files of clips in the order of the samples and their windows."""
    found = [(CLIP_FILE.fullmatch(path.name), path) for path in folder.glob("*.safetensors")]
    order = {path: (int(match[1]), int(match[2])) for match, path in found if match}
    return sorted(order, key=lambda path: order[path])


def _whole_samples(folder: Path) -> set[int]:
    """Numbers of the samples all of whose windows are there."""
    windows: dict[tuple[int, int], int] = {}
    for path in _clip_paths(folder):
        match = CLIP_FILE.fullmatch(path.name)
        assert match is not None
        key = int(match[1]), int(match[3])
        windows[key] = windows.get(key, 0) + 1
    return {number for (number, count), there in windows.items() if there == count}


@dataclass(frozen=True)
class _ClipWriter:
    pipeline: EgoXPipeline
    coding: ClipCoding
    folder: Path

    @cached_property
    def embed(self) -> Callable[[str], torch.Tensor]:
        """Embeds captions; windows of a sample share theirs, and many samples have none."""
        return lru_cache(maxsize=8)(partial(embed_caption, self.pipeline))

    def write(self, number: int, sample: GeneratorSample) -> None:
        """Codes a sample and writes its windows; each file is whole or absent."""
        parts = cut_windows(self.pipeline, sample, self.coding)
        for window, part in enumerate(parts):
            generator = self.coding.generator(number, window)
            clip = code_window(self.pipeline, part, self.coding, generator, self.embed(part.caption))
            path = self.folder / f"{number:06d}-{window}-of-{len(parts)}.safetensors"
            save_clip(clip, path)


def save_clip(clip: CachedClip, path: Path) -> None:
    """Writes what cannot be derived of a clip; the file is whole or absent."""
    tensors, metadata = _underived(clip), None
    if all(tensors[name].is_contiguous(memory_format=torch.channels_last_3d) for name in LATENTS):
        # Linear codecs write channels last. Read in another order, sums would round differently in their last digit.
        tensors |= {name: tensors[name].movedim(1, -1) for name in LATENTS}
        metadata = {"memory_format": "channels_last"}
    with atomic_path(path) as temporary:
        save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, temporary, metadata)


def _underived(clip: CachedClip) -> dict[str, torch.Tensor]:
    """What of a clip does not follow from the rest."""
    used_tokens = clip.text[0].ne(0).any(dim=1).nonzero()
    text = clip.text[:, : int(used_tokens.max()) + 1 if len(used_tokens) else 0]
    tensors = {"exo": clip.exo, "prior": clip.prior, "truth": clip.truth, "text": text}
    coverage = clip.given[:, : -clip.exo.shape[1], ..., clip.layout.exo_width :]
    optional = {"coverage": coverage if coverage.any() else None, "image": clip.image, "frames": clip.frames}
    if clip.tables is not None:
        optional |= {"rays": clip.tables.rays_BFPC, "directions": clip.tables.directions_BFKC}
    if clip.wearer is not None and clip.wearer.any():
        optional["wearer"] = clip.wearer
    return tensors | {name: value for name, value in optional.items() if value is not None}


class LatentCache(Sequence[CachedClip]):
    """The clips of a folder; each is read, memory-mapped, when it is asked for, and not kept.

    Args:
        folder: Where :func:`cache_latents` wrote them.
        pipeline: The pipeline that they were coded for.

    Attributes:
        bucket_of: Bucket of each clip, from the heads of the files.
    """

    def __init__(self, folder: Path, pipeline: EgoXPipeline) -> None:
        self.paths = _clip_paths(folder)
        self.exo_mask, self.text_length = pipeline.config["exo_mask"], pipeline.config["text_length"]
        self.time_stride = latent_strides(pipeline.vae)[0]
        self.patch_size = tuple(pipeline.transformer.config["patch_size"])
        known: dict[tuple[CanvasLayout, bool], tuple[CanvasLayout, bool]] = {}
        self.bucket_of = [known.setdefault(bucket, bucket) for bucket in map(self._read_bucket, self.paths)]

    def _read_bucket(self, path: Path) -> tuple[CanvasLayout, bool]:
        with _opened(path) as file:
            axes = slice(1, 4) if file.metadata() else slice(2, 5)
            frames, height, exo_width = file.get_slice("exo").get_shape()[axes]
            ego_width = file.get_slice("prior").get_shape()[axes][2]
            has_tables = "directions" in file.keys()  # noqa: SIM118
            return CanvasLayout(frames, height, exo_width, ego_width, self.patch_size), has_tables

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> CachedClip:  # type: ignore[override]
        with _opened(self.paths[index]) as file:
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if file.metadata():
                stored |= {name: stored[name].movedim(-1, 1) for name in LATENTS}
        exo, prior, text = (stored.pop(name) for name in ("exo", "prior", "text"))
        layout, has_tables = self.bucket_of[index]
        mask = canvas_mask(layout, time_stride=self.time_stride, exo_mask=self.exo_mask)
        if "coverage" in stored:
            mask[..., layout.exo_width :] = stored.pop("coverage")
        if "frames" in stored and "wearer" not in stored:
            frames = stored["frames"]
            stored["wearer"] = torch.zeros(*frames.shape[:2], *frames.shape[3:], dtype=torch.bool)
        return CachedClip(
            layout,
            exo,
            prior,
            given=condition(exo, prior, mask),
            tables=DirectionTables(stored.pop("rays"), stored.pop("directions")) if has_tables else None,
            text=pad(text, (0, 0, 0, self.text_length - text.shape[1])),
            **stored,
        )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Opens a clip's file."""
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (OSError, SafetensorError, KeyError) as error:
        raise UserError(
            f"Cannot read the latents in {path}: {error}",
            fix=f"rm {path}; the same command then codes this clip again",
        ) from error
