"""Where the wearer's hands and arms are, for the loss of the generator: against the boxes that the kitchen stores."""

import numpy as np
import torch

from egoloom.augmentation.generator_inputs import find_takes, training_samples
from egoloom.augmentation.samples import generator_prior_config, render_prior, resize_mask
from egoloom.augmentation.takes import ego_video, load_take, wearer_mask
from egoloom.clips import Modality
from egoloom.clips.media import read_arrays


def test_training_samples_know_the_wearer_and_samples_to_generate_from_do_not(kitchen) -> None:
    splits = {clip.split for clip in kitchen.select(view="exo")}
    samples = list(training_samples([kitchen.path], 64, 5, 2, splits))
    assert len(samples) == 2
    for sample in samples:
        assert sample.wearer_THW is not None
        assert sample.wearer_THW.dtype == torch.bool
        assert 0 < sample.wearer_THW.float().mean() < 0.6
        part = sample.window(0, 3, 1)
        assert part.wearer_THW is not None
        assert torch.equal(part.wearer_THW, sample.wearer_THW[:3])
    assert find_takes(kitchen.path, 64, 5)[0].sample()[0].wearer_THW is None


def test_the_mask_holds_the_wearer_and_no_one_else(kitchen) -> None:
    clip = kitchen.select(view="exo")[0]
    take = load_take(kitchen, clip, num_frames=3)
    mask, video = wearer_mask(kitchen, take), ego_video(kitchen, clip.take_id)
    assert mask is not None
    assert video is not None
    names = kitchen.load_calibration(video.calibration_id)["instances"]
    ids = read_arrays(kitchen.media_path(Modality.IDS, video.video_id))["ids"]
    shown = [names[index] for index in np.unique(ids[0][mask[0]])]
    hidden = [names[index] for index in np.unique(ids[0][~mask[0]])]
    assert all(name.startswith(("arm", "hand")) for name in shown)
    assert not any(name in ("arm_left", "arm_right", "hand_left", "hand_right") for name in hidden)


def test_a_store_without_object_ids_has_no_mask(own_kitchen) -> None:
    clip = own_kitchen.select(view="exo")[0]
    video = ego_video(own_kitchen, clip.take_id)
    assert video is not None
    own_kitchen.media_path(Modality.IDS, video.video_id).unlink()
    assert wearer_mask(own_kitchen, load_take(own_kitchen, clip, num_frames=3)) is None


def test_the_far_side_of_arms_lies_where_the_wearer_sees_it(kitchen) -> None:
    """More of the true hands and arms is drawn, and what is added lies on them rather than beside them."""
    closed = generator_prior_config(is_metric=True)
    shells = closed.model_copy(update={"far_side_radius_m": 0.0})
    covered, added, added_on_wearer = {"closed": 0, "shells": 0}, 0, 0
    wearer_pixels = 0
    for clip in kitchen.select(view="exo"):
        take = load_take(kitchen, clip, num_frames=3)
        mask = resize_mask(wearer_mask(kitchen, take), 64).numpy()  # type: ignore[arg-type]
        seen = {
            name: ~render_prior(take, size_px=64, config=config).hole_mask_THW
            for name, config in (("closed", closed), ("shells", shells))
        }
        covered = {name: covered[name] + int((seen[name] & mask).sum()) for name in covered}
        wearer_pixels += int(mask.sum())
        new = seen["closed"] & ~seen["shells"]
        added, added_on_wearer = added + int(new.sum()), added_on_wearer + int((new & mask).sum())
    assert covered["closed"] > covered["shells"] + 0.15 * wearer_pixels
    assert added_on_wearer > 0.4 * added
