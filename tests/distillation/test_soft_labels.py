"""The soft-label cache against teachers run online, held-out splits, and what is refused."""

import pytest
import torch
from pydantic import BaseModel

from egoloom.distillation.holdout import choose_weighting_split, read_weighting_split, write_weighting_split
from egoloom.distillation.losses import DistillationLossConfig
from egoloom.distillation.soft_labels import (
    SoftLabelCache,
    SoftLabelInfo,
    build_view,
    view_fingerprint,
)
from egoloom.distillation.task import DistillationTask, cached_verdicts, online_verdicts
from egoloom.distillation.teachers import ModuleTeacher, TeacherEnsemble, TeacherEnsembleConfig
from egoloom.errors import UserError
from egoloom.models import create_model

HEADS = {"verb": 4, "noun": 6}
CLIPS = [f"clip{i}" for i in range(5)]


def view_of(clip: int, view_seed: int) -> dict:
    g = torch.Generator().manual_seed(100 * clip + view_seed)
    return {name: torch.randint(0, 256, (2, 3, 16, 16), generator=g, dtype=torch.uint8) for name in ("rgb", "flow")}


def batch_of(clips: list[int], view_seed: int) -> dict:
    views = [view_of(clip, view_seed) for clip in clips]
    return {
        "inputs": {name: torch.stack([view[name] for view in views]) for name in ("rgb", "flow")},
        # The clip with number 3 has no flow.
        "present": {
            "rgb": torch.ones(len(clips), dtype=torch.bool),
            "flow": torch.tensor([clip != 3 for clip in clips]),
        },
        "labels": {"verb": torch.tensor([c % 4 for c in clips]), "noun": torch.tensor([c % 6 for c in clips])},
        "clip_id": [CLIPS[clip] for clip in clips],
        "view_seed": torch.full((len(clips),), view_seed),
        "is_generated": torch.zeros(len(clips), dtype=torch.bool),
    }


@pytest.fixture
def ensemble() -> TeacherEnsemble:
    torch.manual_seed(0)
    networks = {name: create_model("edge_tiny", num_classes=HEADS, input_modality=name) for name in ("rgb", "flow")}
    teachers = {name: ModuleTeacher(network) for name, network in networks.items()}
    return TeacherEnsemble(teachers, TeacherEnsembleConfig(weights="per_sample", mixing="probabilities"))


def info_for(ensemble: TeacherEnsemble, **changes) -> SoftLabelInfo:
    values = {
        "teachers": ensemble.names,
        "heads": ensemble.heads,
        "clip_ids": CLIPS,
        "teachers_fingerprint": ensemble.fingerprint(),
        "view_fingerprint": "v1",
    }
    return SoftLabelInfo(**{**values, **changes})


def test_cached_and_online_teaching_give_the_same_losses(ensemble, tmp_path):
    cache = SoftLabelCache(tmp_path / "soft", info_for(ensemble))
    for view_seed in (0, 1):
        assert build_view(cache, ensemble, view_seed, [batch_of([4, 2], view_seed), batch_of([0, 1, 3], view_seed)]) > 0
    reopened = SoftLabelCache.open(tmp_path / "soft")
    torch.manual_seed(1)
    student = create_model("edge_tiny", num_classes=HEADS).eval()
    config = DistillationLossConfig(temperature=3.0, lambda_ground_truth=0.5)
    for view_seed in (0, 1):
        # Other batches than those that the cache was built with.
        batch = batch_of([3, 0, 2], view_seed)
        assert torch.isnan(reopened.lookup(["clip3"], [view_seed])["verb"][0, 1]).all()
        tasks = [
            DistillationTask(ensemble, verdicts, config)
            for verdicts in (online_verdicts(ensemble), cached_verdicts(reopened))
        ]
        online, cached = (task.loss(student, batch) for task in tasks)
        for term in ("kd", "gt", "total"):
            assert cached[term].item() == pytest.approx(online[term].item(), abs=1e-5), term
        assert online["kd"].item() > 1e-3


def test_views_differ_and_only_complete_ones_appear(ensemble, tmp_path):
    cache = SoftLabelCache(tmp_path, info_for(ensemble))
    build_view(cache, ensemble, 0, [batch_of([0, 1, 2, 3, 4], 0)])
    build_view(cache, ensemble, 1, [batch_of([0, 1, 2, 3, 4], 1)])
    both = cache.lookup(["clip0", "clip0"], [0, 1])["verb"]
    assert float((both[0] - both[1]).abs().max()) > 1e-4
    with pytest.raises(ValueError, match="1 clips got no soft labels, first: clip4"):
        build_view(cache, ensemble, 2, [batch_of([0, 1, 2, 3], 2)])
    assert not cache.has(2)
    assert cache.has(1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["info.json", "view_00000", "view_00001"]
    with pytest.raises(ValueError, match="no view seed 2"):
        cache.lookup(["clip0"], [2])
    with pytest.raises(ValueError, match="no clip 'clip9'"):
        cache.lookup(["clip9"], [0])
    assert cache.num_bytes > 2 * 5 * 2 * (4 + 6) * 4


def test_a_cache_of_other_teachers_views_or_clips_is_refused(ensemble, tmp_path):
    SoftLabelCache(tmp_path, info_for(ensemble))
    SoftLabelCache(tmp_path, info_for(ensemble))
    with torch.no_grad():
        next(ensemble.teachers["rgb"].module.parameters()).mul_(2.0)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="another teachers fingerprint"):
        SoftLabelCache(tmp_path, info_for(ensemble))
    (tmp_path / "info.json").unlink()
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        SoftLabelCache(tmp_path, info_for(ensemble))
    with pytest.raises(UserError, match="holds no soft labels"):
        SoftLabelCache.open(tmp_path / "nowhere")


def test_view_fingerprint_follows_the_configuration():
    class View(BaseModel):
        size_px: int = 224

    assert view_fingerprint(View()) == view_fingerprint(View(size_px=224)) != view_fingerprint(View(size_px=112))


def test_weighting_split_takes_whole_videos_and_is_reproducible():
    clips = [f"c{i}" for i in range(100)]
    videos = [f"v{i // 10}" for i in range(100)]
    chosen = choose_weighting_split(clips, videos, fraction=0.25, seed=3)
    assert chosen == choose_weighting_split(clips, videos, fraction=0.25, seed=3)
    assert len(chosen) == 30
    assert len({videos[clips.index(clip)] for clip in chosen}) == 3
    with pytest.raises(UserError, match="one video"):
        choose_weighting_split(clips, ["v"] * 100, fraction=0.25)
    with pytest.raises(UserError, match="fraction"):
        choose_weighting_split(clips, videos, fraction=1.5)


def test_weighting_split_never_overlaps_the_reported_one(tmp_path):
    path = tmp_path / "weighting.json"
    write_weighting_split(path, ["a", "b"], reported={"c"})
    assert read_weighting_split(path, reported={"c"}) == ["a", "b"]
    with pytest.raises(UserError, match="also reported on, first: b"):
        read_weighting_split(path, reported={"b"})
    with pytest.raises(UserError, match="also reported"):
        write_weighting_split(path, ["a", "c"], reported={"c"})
    with pytest.raises(UserError, match="empty"):
        write_weighting_split(path, [], reported=set())
    path.write_text("[]")
    with pytest.raises(UserError, match="not a weighting split"):
        read_weighting_split(path, reported=set())
