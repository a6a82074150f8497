"""Settings refuse what is out of range; plans are balanced, stable and keep unseen people and kitchens unseen."""

from collections import Counter

import pytest
from pydantic import ValidationError

from egoloom.kitchen.plan import num_unseen, plan_clip
from egoloom.kitchen.settings import KitchenSettings, SplitShares
from egoloom.kitchen.vocabulary import ACTIONS, LABEL_SPACES, NOUNS, SPLITS, VERBS, noun_index, verb_index

SETTINGS = KitchenSettings()


def test_there_are_enough_actions_verbs_and_nouns():
    assert len(ACTIONS) >= 16
    assert len(VERBS) >= 9
    assert len(NOUNS) >= 9
    names = LABEL_SPACES["action"]
    assert len(set(names)) == len(names)
    for index, action in enumerate(ACTIONS):
        assert f"{VERBS[verb_index(index)]} {NOUNS[noun_index(index)]}" == action.name == names[index]


@pytest.mark.parametrize(
    "wrong",
    [
        {"ego_size_px": 8},
        {"ego_size_px": 113},
        {"fps": 0},
        {"fps": 500},
        {"duration_s": 0.01},
        {"label_noise": 1.5},
        {"bogus": 1},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        KitchenSettings(**wrong)


def test_split_shares_must_sum_to_one():
    with pytest.raises(ValidationError, match="sum"):
        SplitShares(train=0.9)


def test_actions_are_equally_frequent_and_splits_get_their_share():
    plans = [plan_clip(SETTINGS, index) for index in range(900)]
    assert set(Counter(plan.action for plan in plans).values()) == {50}
    by_split = Counter(plan.split for plan in plans)
    assert set(by_split) == set(SPLITS)
    for split in SPLITS:
        assert by_split[split] / 900 == pytest.approx(getattr(SETTINGS.splits, split), abs=0.02)
    per_class = Counter((plan.split, plan.action) for plan in plans)
    assert min(per_class[("train", action)] for action in range(len(ACTIONS))) >= 18
    assert min(per_class[("test", action)] for action in range(len(ACTIONS))) >= 5


def test_a_small_store_has_clips_in_train_and_test():
    splits = Counter(plan_clip(SETTINGS, index).split for index in range(36))
    assert splits["train"] >= 10
    assert splits["test"] >= 3
    assert splits["unlabelled"] >= 2


def test_unseen_participants_and_kitchens_occur_in_their_split_only():
    first_person = SETTINGS.num_participants - num_unseen(SETTINGS.num_participants)
    first_kitchen = SETTINGS.num_kitchens - num_unseen(SETTINGS.num_kitchens)
    for index in range(600):
        plan = plan_clip(SETTINGS, index)
        assert (plan.participant >= first_person) == (plan.split == "unseen_participant")
        assert (plan.kitchen >= first_kitchen) == (plan.split == "unseen_kitchen")


def test_label_noise_touches_train_labels_only_and_nothing_else():
    noisy = SETTINGS.model_copy(update={"label_noise": 0.3})
    wrong = total = 0
    for index in range(1200):
        clean_plan, noisy_plan = plan_clip(SETTINGS, index), plan_clip(noisy, index)
        assert (clean_plan.action, clean_plan.split, clean_plan.kitchen) == (
            noisy_plan.action,
            noisy_plan.split,
            noisy_plan.kitchen,
        )
        if noisy_plan.split == "train":
            total += 1
            wrong += noisy_plan.label != noisy_plan.action
        elif noisy_plan.split == "unlabelled":
            assert noisy_plan.label == -1
        else:
            assert noisy_plan.label == noisy_plan.action
    assert wrong / total == pytest.approx(0.3, abs=0.05)
