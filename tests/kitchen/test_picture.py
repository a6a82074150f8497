"""What the pictures must show: the acting hand, the thing it acts on, the person in the exo view; no acne, no spin."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from egoloom.kitchen import KitchenSettings, render_clip
from egoloom.kitchen.camera_view import Lighting
from egoloom.kitchen.plan import plan_clip
from egoloom.kitchen.preview import first_index_of, strip
from egoloom.kitchen.scene import build_take
from egoloom.kitchen.settings import NoiseSettings
from egoloom.kitchen.vocabulary import ACTION_NAMES, ACTIONS

SETTINGS = KitchenSettings(ego_size_px=64, exo_width_px=96, exo_height_px=96, fps=4, noise=NoiseSettings.none())
THING = {"drawer": "drawer", "cupboard": "door", "tap": "lever", "mug": "mug", "plate": "plate", "bottle": "bottle",
         "water": "bottle", "carrot": "carrot", "bread": "bread", "pot": "spoon", "counter": "cloth"}  # fmt: skip


@pytest.mark.parametrize("action", range(len(ACTIONS)), ids=ACTION_NAMES)
def test_the_views_show_what_happens(action):
    clip = render_clip(SETTINGS, first_index_of(SETTINGS, action, occurrence=1))
    names = [instance.name for instance in clip.instances]

    def seen(view, name):
        return (view.ids == names.index(name)).any(axis=(1, 2)).mean()

    assert seen(clip.ego, THING[ACTIONS[action].noun]) >= 0.9
    assert seen(clip.ego, "hand_right") >= 0.5
    assert "head" not in {names[i] for i in np.unique(clip.ego.ids)}
    assert seen(clip.exo, "head") == 1.0
    assert seen(clip.exo, "torso") == 1.0
    assert max(seen(clip.exo, "hand_right"), seen(clip.exo, "hand_left")) >= 0.5


HELD = {
    "take mug": "mug", "take plate": "plate", "take bottle": "bottle", "pour water": "bottle_open",
    "cut bread": "knife", "cut carrot": "knife", "wash plate": "sponge", "wipe counter": "cloth",
}  # fmt: skip


@pytest.mark.parametrize(("name", "held"), HELD.items())
def test_held_things_stay_in_the_hand(name, held):
    """Between grasp and release the distance from the palm to what it holds does not change by more than 3 cm."""
    take = build_take(SETTINGS, plan_clip(SETTINGS, first_index_of(SETTINGS, ACTION_NAMES.index(name))))
    times = np.linspace(1.1 if name.startswith("take") else 0.2, 1.9, 40)
    rotation, wrist = take.performance.right(times)
    palm = wrist + 0.085 * rotation[:, :, 1]
    turn, position = take.performance.objects[held](times)
    local = np.einsum("tij,tj->ti", turn.transpose(0, 2, 1), palm - position)
    assert np.ptp(local, axis=0).max() < 0.03


def test_the_head_never_spins_and_stays_nearly_level():
    for action in range(0, len(ACTIONS), 3):
        take = build_take(SETTINGS, plan_clip(SETTINGS, first_index_of(SETTINGS, action)))
        times = np.linspace(0, 2, 201)
        rotation, _ = take.stance.camera(times)
        pitch = np.degrees(np.arcsin(rotation[:, 2, 2]))
        assert pitch.min() > -75
        steps = Rotation.from_matrix(rotation[:-1]).inv() * Rotation.from_matrix(rotation[1:])
        assert np.degrees(steps.magnitude()).max() / 0.01 < 200  # deg/s
        right = rotation[:, 2, 0]  # how far the camera's x axis leaves the horizontal
        assert np.degrees(np.abs(np.arcsin(right))).max() < 15


def test_open_lit_counter_has_no_shadow_acne():
    """On the flat counter shadows are regions, not speckle: lit and dark texels rarely alternate."""
    take = build_take(SETTINGS, plan_clip(SETTINGS, first_index_of(SETTINGS, 0)))
    lighting = Lighting(take)
    shadow = lighting.shadow_map(0)
    x, y = np.meshgrid(np.linspace(-0.5, 0.5, 200), np.linspace(0.02, 0.5, 100))
    points = np.stack([x + take.stage.x, y, np.full_like(x, 0.912), np.ones_like(x)], -1)
    u, v, depth = np.moveaxis(points @ lighting.matrix.T, -1, 0)
    lit = shadow[np.rint(v).astype(int), np.rint(u).astype(int)] <= depth + 0.006
    flips = (lit[:, 1:] != lit[:, :-1]).mean()
    assert 0.1 < lit.mean() < 0.98
    assert flips < 0.05


def test_a_strip_stacks_both_views_under_the_name():
    picture = strip(SETTINGS, 0, num_frames=3)
    assert picture.shape[1] == 3 * SETTINGS.ego_size_px
    assert picture.dtype == np.uint8
    assert picture[18:].std() > 10
