"""Stores of the experiment: labelled ego takes, third-person takes of others, and what those become."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from egoloom.augmentation.generate import AugmentationConfig, generate_clips, generated_store
from egoloom.augmentation.generators import open_generator
from egoloom.augmentation.other_modalities import add_modalities
from egoloom.augmentation.samples import generator_prior_config
from egoloom.clips import ClipStore, Modality
from egoloom.clips.media import VideoReader, read_table, write_video
from egoloom.exo2ego.generation import GenerationConfig
from egoloom.kitchen.settings import KitchenSettings, SplitShares
from egoloom.kitchen.store import make_store
from egoloom.recipes.experiments.augmentation.config import AugmentationExperiment

STORES = ("ego", "third_person", "raw_exo", "prior_inpainted", "generated")
SIDE_PX = 64  # of all stored clips that are trained on
EXO_CROP_SHARE = 0.75  # of the exo frame's height: about what a person at work fills


def make_stores(config: AugmentationExperiment, folder: Path) -> dict[str, ClipStore]:
    """Returns the stores by name, made where they are not there yet."""
    sizes: dict[str, Any] = {"ego_size_px": SIDE_PX, "exo_width_px": 224, "exo_height_px": 128, "fps": 9}
    few = SplitShares(
        train=0.42, validation=0.09, test=0.0, unseen_participant=0.245, unseen_kitchen=0.245, unlabelled=0.0
    )
    all_train = SplitShares(train=1, validation=0, test=0, unseen_participant=0, unseen_kitchen=0, unlabelled=0)
    ego = KitchenSettings(seed=1009, num_kitchens=8, num_participants=8, splits=few, **sizes)
    exo = KitchenSettings(seed=2003, num_kitchens=16, num_participants=16, splits=all_train, **sizes)
    plan = (("ego", config.num_ego_takes, ego), ("third_person", config.num_exo_takes, exo))
    stores = {
        name: make_store(folder / name, num_clips=count, settings=settings, num_workers=config.num_workers)
        for name, count, settings in plan
    }
    # Teachers judge flow, boxes, sound and IMU too, where there are teachers.
    stores["raw_exo"] = crop_exo(stores["third_person"], folder / "raw_exo", with_flow=bool(config.distilled))
    for name, generator in (("prior_inpainted", "inpainting"), ("generated", "builtin")):
        stores[name] = _generate(stores, folder / name, generator)
    if config.distilled:
        add_modalities(stores["generated"])
    return open_stores(folder)


def open_stores(folder: Path) -> dict[str, ClipStore]:
    """Returns the stores that `make_stores` made."""
    return {name: ClipStore.open(folder / name) for name in STORES}


def _generate(stores: Mapping[str, ClipStore], path: Path, generator: str) -> ClipStore:
    pipeline, name = open_generator(generator)
    target = generated_store(path, stores["ego"], name)
    for source, split in (("third_person", "train"), ("ego", "validation")):
        augmentation = AugmentationConfig(
            size_px=SIDE_PX,
            num_frames=17,
            generation=GenerationConfig(),
            prior=generator_prior_config(is_metric=True),
            split=split,
        )
        clips = stores[source].select(view="exo", split=split)
        # Takes of the two kitchens have the same numbers.
        prefix = "" if split == "train" else f"{split}-"
        generate_clips(
            stores[source],
            clips,
            pipeline,
            path,
            generator=name,
            config=augmentation,
            target=target,
            prefix=prefix,
        )
    return ClipStore.open(path)


def crop_exo(source: ClipStore, path: Path, *, with_flow: bool = True) -> ClipStore:
    """Returns a store of the exo clips cut to a square around the hands, as a person who trains on them would do.

    Args:
        source: The store with the exo clips.
        path: The new store; an interrupted one is continued.
        with_flow: Also compute flow, which teachers of flow need.
    """
    store = ClipStore.create(
        path,
        name="raw exo",
        source="kitchen",
        is_simulated=True,
        label_spaces=source.info.label_spaces,
        splits=["train"],
    )
    done = {clip.clip_id for clip in store.clips}
    for clip in source.select(view="exo"):
        if clip.clip_id in done:
            continue
        video = source.videos[clip.video_id]
        with VideoReader(source.media_path(Modality.RGB, clip.video_id)) as reader:
            frames = reader.all_frames()
        left, top, side = _hands_square(source, clip.video_id, video.width, video.height)
        cut = torch.from_numpy(frames[:, :, top : top + side, left : left + side]).float()
        small = torch.nn.functional.interpolate(cut, size=(SIDE_PX, SIDE_PX), mode="area")
        write_video(store.media_path(Modality.RGB, clip.video_id), small.round().byte().numpy(), video.fps)
        own = replace(video, width=SIDE_PX, height=SIDE_PX, path=f"media/rgb/{clip.video_id}.mp4")
        store.append(videos=[own], clips=[replace(clip, present=frozenset({Modality.RGB}))])
    if with_flow and any(Modality.FLOW not in clip.present for clip in store.clips):
        from egoloom.modalities import flow

        flow.compute(store, progress=False)
    return ClipStore.open(path)


def _hands_square(source: ClipStore, video_id: str, width: int, height: int) -> tuple[int, int, int]:
    """Left, top and side of a square around the median place of the hands, within the frame."""
    table = read_table(source.media_path(Modality.BOXES, video_id))
    hands = np.asarray(table["is_hand"], bool)
    x, y = width / 2, height / 2
    if hands.any():
        x = float(np.median((table["x1"][hands] + table["x2"][hands]) / 2))
        y = float(np.median((table["y1"][hands] + table["y2"][hands]) / 2))
    side = min(round(EXO_CROP_SHARE * height), width)
    corner = np.clip([x - side / 2, y - side / 2], 0, [width - side, height - side])
    return int(corner[0]), int(corner[1]), side
