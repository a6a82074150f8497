"""Samples that are read and rendered when they are asked for, so that memory does not grow with their number."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import torch

from egoloom.exo2ego.samples import GeneratorSample

Item = TypeVar("Item")


class LazySequence(Sequence[Item]):
    """Items that are made anew each time they are asked for.

    Args:
        length: How many there are.
        make: Makes the item of an index in ``0 .. length - 1``.
    """

    def __init__(self, length: int, make: Callable[[int], Item]) -> None:
        self.length, self.make = length, make

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Item:  # type: ignore[override]
        if not -self.length <= index < self.length:
            raise IndexError(f"{index} of {self.length} items")
        return self.make(index % self.length)


@dataclass(frozen=True)
class SampleSource:
    """Where one training sample comes from.

    Args:
        name: Its name.
        origin: All that it is made from, as JSON: where one value differs, what was coded from it is stale.
        read: Reads it and renders its prior.
        read_videos: Reads only its exo and its true ego frames, as the sample holds them.
    """

    name: str
    origin: Mapping[str, object]
    read: Callable[[], GeneratorSample]
    read_videos: Callable[[], tuple[torch.Tensor, torch.Tensor]]


class LazySamples(LazySequence[GeneratorSample]):
    """Training samples of many takes, one of which is in memory at a time.

    Args:
        sources: Where they come from.
    """

    def __init__(self, sources: Iterable[SampleSource]) -> None:
        self.sources = list(sources)
        super().__init__(len(self.sources), lambda index: self.sources[index].read())

    def videos(self) -> LazySequence[torch.Tensor]:
        """Returns the exo and the true ego frames of every sample in turn, ``uint8`` ``[T, 3, H, W]``."""
        pair = lru_cache(maxsize=1)(lambda index: self.sources[index].read_videos())
        return LazySequence(2 * len(self.sources), lambda index: pair(index // 2)[index % 2])
