"""The parts of the augmentation experiment that decide what is compared: labels, clips, crops, the order of runs."""

import numpy as np
import pytest
import torch

from egoloom.clips import ClipStore
from egoloom.clips.dataset import ViewKey, batches, entries_of
from egoloom.clips.media import VideoReader, read_table
from egoloom.clips.schema import Modality
from egoloom.distillation.task import DistillationTask
from egoloom.errors import UserError
from egoloom.kitchen import KitchenSettings, make_store
from egoloom.recipes.experiments.augmentation import AugmentationExperiment
from egoloom.recipes.experiments.augmentation.cells import Group, draw_labelled
from egoloom.recipes.experiments.augmentation.config import CELLS
from egoloom.recipes.experiments.augmentation.run import GroupTask, plan, run_group
from egoloom.recipes.experiments.augmentation.stores import STORES, crop_exo


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory) -> ClipStore:
    settings = KitchenSettings(
        seed=5, ego_size_px=32, exo_width_px=112, exo_height_px=64, fps=5, duration_s=1.0, anti_aliasing=False
    )
    return make_store(tmp_path_factory.mktemp("experiment") / "store", num_clips=24, settings=settings)


def test_fewer_labels_are_part_of_more_and_every_action_has_as_many(kitchen):
    few, many = (draw_labelled(kitchen, number, seed=3) for number in (1, 2))
    assert {entry.clip.clip_id for entry in few} < {entry.clip.clip_id for entry in many}
    actions = [entry.clip.action for entry in few]
    assert len(actions) == len(set(actions))
    assert {entry.clip.split for entry in many} == {"train"}
    assert [e.clip.clip_id for e in draw_labelled(kitchen, 1, seed=4)] != [e.clip.clip_id for e in few]


def test_raw_exo_clips_are_squares_that_hold_the_hands(kitchen, tmp_path):
    store = crop_exo(kitchen, tmp_path / "raw", with_flow=False)
    assert len(store.clips) == len(kitchen.select(view="exo"))
    num_inside = num_hands = 0
    for clip in store.clips:
        with VideoReader(store.media_path(Modality.RGB, clip.video_id)) as reader:
            assert reader.all_frames().shape[2:] == (64, 64)
        table = read_table(kitchen.media_path(Modality.BOXES, clip.video_id))
        hands = np.asarray(table["is_hand"], bool)
        if not hands.any():
            continue
        centres = np.stack([(table[a][hands] + table[b][hands]) / 2 for a, b in (("x1", "x2"), ("y1", "y2"))], 1)
        side = 48  # three quarters of 64 rows
        corner = np.clip(np.median(centres, 0) - side / 2, 0, [112 - side, 64 - side])
        num_inside += int(((centres >= corner) & (centres <= corner + side)).all(1).sum())
        num_hands += len(centres)
    assert num_inside > 0.8 * num_hands


def test_each_cell_adds_its_own_clips(kitchen, tmp_path):
    others = dict.fromkeys(("third_person", "raw_exo", "prior_inpainted", "generated"), kitchen)
    group = Group(AugmentationExperiment(), {"ego": kitchen, **others}, {}, tmp_path, 1, seed=0)
    assert group.added("ego_only") == []
    assert {entry.clip.view for entry in group.added("raw_exo")} == {"exo"}
    assert {entry.clip.view for entry in group.added("true_ego")} == {"ego"}
    assert {entry.clip.split for entry in group.added("generated")} == {"train"}
    assert len(group.added("prior_inpainted")) == len(entries_of(kitchen, split="train"))


def test_teachers_keep_silent_about_clips_without_their_sensor(kitchen, tmp_path):
    """Added clips may have pictures alone; the student learns from the teachers that can judge them."""
    raw = crop_exo(kitchen, tmp_path / "raw", with_flow=False)
    config = AugmentationExperiment(steps=2)
    stores = {"ego": kitchen, **dict.fromkeys(("third_person", "raw_exo", "prior_inpainted", "generated"), raw)}
    group = Group(config, stores, {}, tmp_path, 1, seed=0)
    task = group.distillation(group.added("raw_exo"))
    assert isinstance(task, DistillationTask)
    again = group.distillation(entries_of(raw, view="exo")[:2])  # all judged before
    batch = next(batches(group.views(entries_of(raw, view="exo")[:2], "rgb"), [ViewKey(0, 0), ViewKey(1, 3)], 2))
    assert isinstance(again, DistillationTask)
    assert all(torch.isfinite(scores[:, 0]).all() for scores in task.verdicts(batch).values())  # RGB speaks
    assert all(torch.isnan(scores[:, 1:]).all() for scores in task.verdicts(batch).values())  # nobody else does


def test_an_early_end_leaves_whole_comparisons(kitchen):
    config = AugmentationExperiment(
        labels_per_action=(5, 10), num_seeds=(3, 2), distilled=(10,), num_distilled_seeds=1, first_seed=7
    )
    assert plan(config) == [
        (5, 7, False), (10, 7, False), (5, 8, False), (10, 8, False), (5, 9, False), (10, 7, True),
    ]  # fmt: skip
    with pytest.raises(UserError, match="numbers of seeds"):
        plan(AugmentationExperiment(num_seeds=(3,)))


def test_finished_cells_are_read_and_those_of_another_size_trained_again(kitchen, tmp_path, monkeypatch):
    for name in STORES:
        (tmp_path / "clips").mkdir(exist_ok=True)
        (tmp_path / "clips" / name).symlink_to(kitchen.path)
    trained = []
    monkeypatch.setattr(Group, "figures", lambda self, cell, *, is_distilled: trained.append(cell) or {"top1": 0.5})
    config = AugmentationExperiment(labels_per_action=(1,), num_seeds=(1,), distilled=())
    assert run_group(GroupTask(config, tmp_path, 1, 0, False)) == {cell: {"top1": 0.5} for cell in CELLS}
    assert trained == list(CELLS)
    more_seeds = config.model_copy(update={"num_seeds": (4,), "num_workers": 1})
    run_group(GroupTask(more_seeds, tmp_path, 1, 0, False))
    assert trained == list(CELLS)
    longer = config.model_copy(update={"steps": config.steps + 1})
    run_group(GroupTask(longer, tmp_path, 1, 0, False))
    assert trained == [*CELLS, *CELLS]
