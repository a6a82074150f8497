"""Stores with the same recordings and other labels: wrong ones, or fewer of them."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from egoloom.clips import Clip, ClipStore
from egoloom.clips.tables import write_clips

Relabel = Callable[[Clip], Clip]


def relabelled_store(source: ClipStore, out: Path, relabel: Relabel) -> ClipStore:
    """Returns a store that links the media of another and has its clips changed; an existing one is opened.

    Args:
        source: Where the recordings are.
        out: The new store.
        relabel: From a clip to the clip as it shall be.
    """
    if (out / "info.json").is_file():
        return ClipStore.open(out)
    out.mkdir(parents=True, exist_ok=True)
    for folder in ("media", "calibration"):
        link = out / folder
        if not link.is_symlink() and (source.path / folder).exists():
            os.symlink((source.path / folder).resolve(), link)
    shutil.copyfile(source.path / "videos.parquet", out / "videos.parquet")
    write_clips(out / "clips.parquet", [relabel(clip) for clip in source.clips])
    shutil.copyfile(source.path / "info.json", out / "info.json")  # last: a folder with it is a complete store
    return ClipStore.open(out)


def with_wrong_labels(store: ClipStore, share: float, seed: int) -> Relabel:
    """Returns a change that gives a share of the training clips the labels of another action, drawn uniformly.

    Args:
        store: Its labelled clips say which verb and noun belong to an action.
        share: Share of training clips, 0..1.
        seed: Decides which.
    """
    parts = {clip.action: (clip.verb, clip.noun) for clip in store.clips if clip.action >= 0}
    actions = sorted(parts)
    chosen = _choose(store, share, seed)
    generator = np.random.default_rng([seed, 1])
    wrong = {clip_id: int(generator.integers(1, len(actions))) for clip_id in sorted(chosen)}

    def relabel(clip: Clip) -> Clip:
        if clip.clip_id not in wrong:
            return clip
        action = actions[(actions.index(clip.action) + wrong[clip.clip_id]) % len(actions)]
        verb, noun = parts[action]
        return replace(clip, verb=verb, noun=noun, action=action)

    return relabel


def with_fewer_labels(store: ClipStore, num_per_action: int, seed: int) -> Relabel:
    """Returns a change that keeps so many labelled training clips of an action; the others join ``unlabelled``."""
    generator = np.random.default_rng([seed, 2])
    kept: set[str] = set()
    training = [clip for clip in store.clips if clip.split == "train" and clip.view == "ego" and clip.action >= 0]
    for action in sorted({clip.action for clip in training}):
        ids = sorted(clip.clip_id for clip in training if clip.action == action)
        kept |= set(generator.permutation(ids)[:num_per_action].tolist())

    def relabel(clip: Clip) -> Clip:
        if clip.split != "train" or clip.view != "ego" or clip.clip_id in kept:
            return clip
        return replace(clip.without_labels(), split="unlabelled")

    return relabel


def _choose(store: ClipStore, share: float, seed: int) -> set[str]:
    ids = sorted(clip.clip_id for clip in store.clips if clip.split == "train" and clip.action >= 0)
    picked = np.random.default_rng([seed, 0]).permutation(len(ids))[: round(share * len(ids))]
    return {ids[index] for index in picked}
