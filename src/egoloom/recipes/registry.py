"""Named recipes of recognition: functions that return the whole configuration of a run.

``tiny`` and ``kitchen`` run anywhere. The others are at the published size (arXiv 2307.07483 where it says) and need
the data set and a GPU; the command line overrides any field.
"""

from collections.abc import Callable
from pathlib import Path

from egoloom.clips.transforms import ViewConfig
from egoloom.errors import UserError
from egoloom.recipes.run_config import RunConfig
from egoloom.training.config import DataConfig, EvaluationConfig, ModelConfig, OptimisationConfig

VERB_NOUN = ("verb", "noun")
FULL_VIEW = ViewConfig(num_frames=16, size_px=224, max_boxes=14, num_spectrogram_columns=224)
FULL_OPTIMISATION = OptimisationConfig(
    epochs=30,
    batch_size=16,
    learning_rate=1e-4,
    weight_decay=0.02,
    schedule="linear",
    warmup_fraction=0.1,
    mixed_precision="bf16",
    num_view_seeds=30,
    num_workers=8,
    cache_mb=0,
)


def tiny() -> RunConfig:
    """A minute on two cores: 80 k parameters, 64 px."""
    return RunConfig(
        recipe="tiny",
        data=DataConfig(store=Path("clips/kitchen")),
        model=ModelConfig(name="edge_tiny"),
        view=ViewConfig(num_frames=8, size_px=64),
        optimisation=OptimisationConfig(epochs=16, batch_size=16, learning_rate=4e-3),
    )


def kitchen() -> RunConfig:
    """The built-in kitchen with a student of about a million parameters."""
    return RunConfig(
        recipe="kitchen",
        data=DataConfig(store=Path("clips/kitchen"), report_splits=("test", "unseen_participant", "unseen_kitchen")),
        model=ModelConfig(name="edge_small"),
        view=ViewConfig(num_frames=8, size_px=96),
        optimisation=OptimisationConfig(epochs=40, batch_size=16, learning_rate=2e-3, ema_decay=0.99),
        evaluation=EvaluationConfig(num_clips=2),
    )


def something_else() -> RunConfig:
    """Something-Else, compositional split: Swin-T on 16 uniform frames, action head."""
    return _full("something_else", "clips/something_else", ("action",))


def ssv2() -> RunConfig:
    """Something-Something V2: Swin-T on 16 uniform frames, action head."""
    return _full("ssv2", "clips/ssv2", ("action",))


def epic100() -> RunConfig:
    """EPIC-KITCHENS-100: Swin-T, verb and noun heads. Frames and stride of the paper are unknown; these are ours."""
    config = _full("epic100", "clips/epic100", VERB_NOUN)
    view = config.view.model_copy(update={"sampling": "strided", "seconds_between_frames": 8 / 60})
    return config.model_copy(update={"view": view})


def ego4d_fho() -> RunConfig:
    """Ego4D forecasting clips, recognised: Swin-T, verb and noun heads."""
    return _full("ego4d_fho", "clips/ego4d", VERB_NOUN)


def ego_exo4d_keystep() -> RunConfig:
    """Ego-Exo4D keysteps: RGB ego only at test time, Swin-T, one head."""
    return _full("ego_exo4d_keystep", "clips/ego_exo4d", ("action",))


def aria() -> RunConfig:
    """Recordings of Project Aria glasses (camera, IMU, microphone) with labels of one's own: an edge student."""
    config = _full("aria", "clips/aria", ("verb", "noun", "action"))
    model = config.model.model_copy(update={"name": "edge_base"})
    return config.model_copy(update={"model": model})


RECIPES: dict[str, Callable[[], RunConfig]] = {
    recipe.__name__: recipe
    for recipe in (tiny, kitchen, something_else, ssv2, epic100, ego4d_fho, ego_exo4d_keystep, aria)
}


def get_recipe(name: str) -> RunConfig:
    """Returns the configuration of a recipe.

    Raises:
        UserError: If there is none of this name.
    """
    if name not in RECIPES:
        raise UserError(f"Unknown recipe {name!r}", allowed=", ".join(RECIPES))
    return RECIPES[name]()


def _full(recipe: str, store: str, heads: tuple) -> RunConfig:
    return RunConfig(
        recipe=recipe,
        data=DataConfig(store=Path(store)),
        model=ModelConfig(name="video_swin_t", heads=heads),
        view=FULL_VIEW,
        optimisation=FULL_OPTIMISATION,
        evaluation=EvaluationConfig(num_clips=1, num_crops=3, batch_size=8),
    )
