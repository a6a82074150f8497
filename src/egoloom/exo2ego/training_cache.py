"""Latents first: every clip is coded once, before the first training step."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from egoloom.errors import UserError
from egoloom.exo2ego.bias import DirectionTables
from egoloom.exo2ego.latents import encode_video, latent_strides
from egoloom.exo2ego.layout import CanvasLayout
from egoloom.exo2ego.pipeline import EgoXPipeline
from egoloom.exo2ego.samples import GeneratorSample
from egoloom.exo2ego.text import embed_texts


@dataclass(frozen=True)
class CachedClip:
    """One training clip as the loss needs it (batch axis of one).

    Args:
        layout: The canvas.
        exo: Clean exo latents.
        prior: Latents of the ego prior.
        truth: Latents of the true ego video.
        given: Mask and condition channels.
        tables: Pooled directions, if there is geometry.
        text: Caption embeddings ``[1, L, D]``.
        image: Image tokens ``[1, I, D]`` for transformers with image conditioning.
        frames: True ego frames, ``uint8`` ``[1, T, 3, H, W]``, where the loss looks at pixels.
        wearer: Where they show hands and arms, bool ``[1, T, H, W]``; nowhere if unknown.
    """

    layout: CanvasLayout
    exo: torch.Tensor
    prior: torch.Tensor
    truth: torch.Tensor
    given: torch.Tensor
    tables: DirectionTables | None
    text: torch.Tensor
    image: torch.Tensor | None = None
    frames: torch.Tensor | None = None
    wearer: torch.Tensor | None = None

    @property
    def bucket(self) -> tuple[CanvasLayout, bool]:
        """Clips of one bucket can share a batch."""
        return self.layout, self.tables is not None

    def take(self, rows: slice) -> "CachedClip":
        """Returns some clips of a batch."""
        names = ("exo", "prior", "truth", "given", "text", "image", "frames", "wearer")
        parts = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        tables = self.tables
        if tables is not None:
            tables = DirectionTables(tables.rays_BFPC[rows], tables.directions_BFKC[rows])
        return replace(self, tables=tables, **{name: value[rows] for name, value in parts.items()})


def cache_clips(
    pipeline: EgoXPipeline,
    samples: Sequence[GeneratorSample],
    *,
    window_frames: int | None = None,
    keep_frames: bool = False,
    on_clip: Callable[[int, int], None] | None = None,
) -> list[CachedClip]:
    """Returns the latents, masks, tables and captions of all training clips.

    Args:
        pipeline: The pipeline that is trained.
        samples: Clips with ego truth.
        window_frames: Cuts longer clips into windows.
        keep_frames: Keeps true frames and masks of hands and arms too, for losses on pixels.
        on_clip: Called with (done, all).

    Raises:
        UserError: If there is no clip, or one has no ego truth.
    """
    if not samples:
        raise UserError("There is no clip to train on", fix="give at least one take with ego ground truth")
    cached: list[CachedClip] = []
    for number, sample in enumerate(samples):
        if sample.truth_TCHW is None:
            raise UserError(f"{sample.name} has no ego ground truth and cannot be trained on")
        for part in _windows(sample.fit_length(latent_strides(pipeline.vae)[0]), window_frames, pipeline):
            clips = pipeline.prepare([part])
            truth = encode_video(pipeline.vae, part.truth_TCHW[None])  # type: ignore[index]
            if not bool(torch.isfinite(truth).all() and torch.isfinite(clips.given).all()):
                raise UserError(f"{sample.name}: its latents hold NaN or infinite values", fix="check the autoencoder")
            text = embed_texts(
                pipeline.tokenizer,
                pipeline.text_encoder,
                [sample.caption if pipeline.text_encoder is not None else ""],
                pipeline.config["text_length"],
                pipeline.transformer.config["text_dim"],
            )
            image = pipeline.encode_images([part])
            clip = CachedClip(clips.layout, clips.exo, clips.prior, truth, clips.given, clips.tables, text, image)
            cached.append(_with_frames(clip, part) if keep_frames else clip)
        if on_clip is not None:
            on_clip(number + 1, len(samples))
    return cached


def _with_frames(clip: CachedClip, sample: GeneratorSample) -> CachedClip:
    assert sample.truth_TCHW is not None
    assert sample.hole_THW is not None
    wearer = torch.zeros_like(sample.hole_THW) if sample.wearer_THW is None else sample.wearer_THW
    return replace(clip, frames=sample.truth_TCHW[None], wearer=wearer[None])


def _windows(sample: GeneratorSample, window_frames: int | None, pipeline: EgoXPipeline) -> list[GeneratorSample]:
    stride = latent_strides(pipeline.vae)[0]
    if window_frames is None or sample.num_frames <= window_frames:
        return [sample]
    if (window_frames - 1) % stride:
        raise UserError(f"A training window of {window_frames} frames cannot be coded", allowed=f"{stride} k + 1")
    hop = window_frames - 1
    starts = range(0, sample.num_frames - window_frames + 1, hop)
    return [sample.window(start, start + window_frames, stride) for start in starts]


def stack_clips(clips: Sequence[CachedClip]) -> CachedClip:
    """Returns one batch of clips of the same bucket."""
    tables = [clip.tables for clip in clips if clip.tables is not None]
    return CachedClip(
        clips[0].layout,
        torch.cat([clip.exo for clip in clips]),
        torch.cat([clip.prior for clip in clips]),
        torch.cat([clip.truth for clip in clips]),
        torch.cat([clip.given for clip in clips]),
        DirectionTables.stack(tables) if len(tables) == len(clips) else None,
        torch.cat([clip.text for clip in clips]),
        *(_stack_optional([getattr(clip, name) for clip in clips]) for name in ("image", "frames", "wearer")),
    )


def _stack_optional(parts: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if len(present) == len(parts) else None


class ClipBatches:
    """Draws batches of one size at a time, reproducibly, from buckets of clips that fit together.

    Args:
        clips: Cached clips.
        batch_size: Clips per batch.
        generator: Source of all choices; its state is the state of the order.
    """

    def __init__(self, clips: Sequence[CachedClip], batch_size: int, generator: torch.Generator) -> None:
        buckets: dict[object, list[CachedClip]] = defaultdict(list)
        for clip in clips:
            buckets[clip.bucket].append(clip)
        self.buckets = list(buckets.values())
        self.batch_size, self.generator = batch_size, generator
        self.weights = torch.tensor([float(len(bucket)) for bucket in self.buckets])

    def draw(self) -> CachedClip:
        """Returns the next batch."""
        bucket = self.buckets[int(torch.multinomial(self.weights, 1, generator=self.generator))]
        picks = torch.randint(len(bucket), (self.batch_size,), generator=self.generator)
        if len(bucket) >= self.batch_size:
            picks = torch.randperm(len(bucket), generator=self.generator)[: self.batch_size]
        return stack_clips([bucket[int(pick)] for pick in picks])
