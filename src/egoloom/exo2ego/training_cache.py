"""Latents first: every clip is coded once, before the first training step."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
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


@dataclass(frozen=True)
class ClipCoding:
    """What of the samples is coded.

    Args:
        window_frames: Cuts longer clips into windows.
        keep_frames: Keeps true frames and masks of hands and arms too, for losses on pixels.
        seed: Seed of latents that are drawn from the autoencoder's posterior.
    """

    window_frames: int | None = None
    keep_frames: bool = False
    seed: int = 0

    def generator(self, sample: int, window: int) -> torch.Generator:
        """Returns the randomness of one window, which does not depend on what was coded before it."""
        seed = np.random.SeedSequence([self.seed, sample, window]).generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(seed))


def cache_clips(
    pipeline: EgoXPipeline,
    samples: Sequence[GeneratorSample],
    coding: ClipCoding | None = None,
    on_sample: Callable[[int, int], None] | None = None,
) -> list[CachedClip]:
    """Returns the latents, masks, tables and captions of all training clips, in memory.

    Args:
        pipeline: The pipeline that is trained.
        samples: Clips with ego truth.
        coding: What is coded; whole clips without their frames by default.
        on_sample: Called with (done, all).

    Raises:
        UserError: If there is no clip, or one has no ego truth.
    """
    coding = coding or ClipCoding()
    refuse_nothing(samples)
    cached: list[CachedClip] = []
    embed = lru_cache(maxsize=None)(partial(embed_caption, pipeline))
    for number, sample in enumerate(samples):
        for window, part in enumerate(cut_windows(pipeline, sample, coding)):
            cached.append(code_window(pipeline, part, coding, coding.generator(number, window), embed(part.caption)))
        if on_sample is not None:
            on_sample(number + 1, len(samples))
    return cached


def refuse_nothing(samples: Sequence[GeneratorSample]) -> None:
    """Raises a UserError where there is no clip."""
    if not samples:
        raise UserError("There is no clip to train on", fix="give at least one take with ego ground truth")


def embed_caption(pipeline: EgoXPipeline, caption: str) -> torch.Tensor:
    """Returns the embeddings ``[1, L, D]`` of a caption; those of no caption where there is no text encoder."""
    return embed_texts(
        pipeline.tokenizer,
        pipeline.text_encoder,
        [caption if pipeline.text_encoder is not None else ""],
        pipeline.config["text_length"],
        pipeline.transformer.config["text_dim"],
    )


def code_window(
    pipeline: EgoXPipeline, part: GeneratorSample, coding: ClipCoding, generator: torch.Generator, text: torch.Tensor
) -> CachedClip:
    """Returns one coded window.

    Args:
        pipeline: The pipeline that is trained.
        part: The window.
        coding: What is coded.
        generator: Randomness of drawn latents.
        text: Embeddings of its caption.

    Raises:
        UserError: If the latents are not finite.
    """
    assert part.truth_TCHW is not None
    assert part.hole_THW is not None
    clips = pipeline.prepare([part], generator)
    truth = encode_video(pipeline.vae, part.truth_TCHW[None])
    if not bool(torch.isfinite(truth).all() and torch.isfinite(clips.given).all()):
        raise UserError(f"{part.name}: its latents hold NaN or infinite values", fix="check the autoencoder")
    image = pipeline.encode_images([part])
    clip = CachedClip(clips.layout, clips.exo, clips.prior, truth, clips.given, clips.tables, text, image)
    if not coding.keep_frames:
        return clip
    wearer = torch.zeros_like(part.hole_THW) if part.wearer_THW is None else part.wearer_THW
    return replace(clip, frames=part.truth_TCHW[None], wearer=wearer[None])


def cut_windows(pipeline: EgoXPipeline, sample: GeneratorSample, coding: ClipCoding) -> list[GeneratorSample]:
    """Returns the windows of a sample, which is made to fit the autoencoder's stride first.

    Raises:
        UserError: If it has no ego truth, or windows of this length cannot be coded.
    """
    if sample.truth_TCHW is None:
        raise UserError(f"{sample.name} has no ego ground truth and cannot be trained on")
    stride, window_frames = latent_strides(pipeline.vae)[0], coding.window_frames
    sample = sample.fit_length(stride)
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
        clips: Cached clips, in memory or on disk.
        batch_size: Clips per batch.
        generator: Source of all choices; its state is the state of the order.
        bucket_of: Bucket of each clip, where that is known without reading it.
    """

    def __init__(
        self,
        clips: Sequence[CachedClip],
        batch_size: int,
        generator: torch.Generator,
        bucket_of: Sequence[Hashable] | None = None,
    ) -> None:
        buckets: dict[Hashable, list[int]] = defaultdict(list)
        for index, bucket in enumerate([clip.bucket for clip in clips] if bucket_of is None else bucket_of):
            buckets[bucket].append(index)
        self.clips, self.buckets = clips, list(buckets.values())
        self.batch_size, self.generator = batch_size, generator
        self.weights = torch.tensor([float(len(bucket)) for bucket in self.buckets])

    def draw(self) -> CachedClip:
        """Returns the next batch."""
        bucket = self.buckets[int(torch.multinomial(self.weights, 1, generator=self.generator))]
        picks = torch.randint(len(bucket), (self.batch_size,), generator=self.generator)
        if len(bucket) >= self.batch_size:
            picks = torch.randperm(len(bucket), generator=self.generator)[: self.batch_size]
        return stack_clips([self.clips[bucket[int(pick)]] for pick in picks])
