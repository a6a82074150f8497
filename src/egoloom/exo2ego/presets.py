"""Named training recipes of the generator."""

from pydantic import BaseModel, ConfigDict, Field

from egoloom.errors import UserError
from egoloom.exo2ego.pixel_loss import PixelLoss
from egoloom.exo2ego.tiny import TinyConfig
from egoloom.exo2ego.training_config import TINY_GENERATOR_TRAINING, TINY_LORA_TRAINING, GeneratorTraining


class GeneratorRecipe(BaseModel):
    """A whole training run of the generator.

    Args:
        summary: One line about it.
        tiny: Sizes of a model that starts from nothing; None continues from a base given by the user.
        training: How to train.
        size_px: Side of the ego frames and height of the exo frames.
        num_frames: Frames read of each clip, spread over its length.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    summary: str
    tiny: TinyConfig | None = None
    training: GeneratorTraining
    size_px: int = Field(default=64, ge=16)
    num_frames: int = Field(default=17, ge=1)


_ON_KITCHENS: dict[str, object] = {
    "batch_size": 2,
    "schedule": "wsd",
    "warmup_steps": 50,
    "mixed_precision": "bf16",
    "noise_bias": 6.0,
    "ema_decay": 0.995,
    "window_frames": 9,
}

RECIPES: dict[str, GeneratorRecipe] = {
    "kitchen-tiny": GeneratorRecipe(
        summary="the tiny generator that ships, all weights, on kitchen takes",
        tiny=TinyConfig(),
        training=TINY_GENERATOR_TRAINING.model_copy(update=_ON_KITCHENS | {"num_steps": 6000, "learning_rate": 1.2e-3}),
    ),
    "kitchen-sharp": GeneratorRecipe(
        summary="a second stage with losses on pixels: sharper, but with a pattern in holes; not what ships",
        training=TINY_GENERATOR_TRAINING.model_copy(
            update=_ON_KITCHENS
            | {
                "num_steps": 2700,
                "learning_rate": 6e-4,
                "pixels": PixelLoss(wearer=30.0, gradients=0.5, texture=15.0),
            }
        ),
    ),
    "tiny-lora": GeneratorRecipe(
        summary="a LoRA on the tiny generator for the takes at hand",
        training=TINY_LORA_TRAINING,
    ),
    "tiny-overfit": GeneratorRecipe(
        summary="all weights of the tiny generator on one take (--limit 1): a check that it can learn, no result",
        training=TINY_GENERATOR_TRAINING.model_copy(
            update={"num_steps": 400, "batch_size": 1, "learning_rate": 1.2e-3, "noise_bias": 6.0}
        ),
    ),
    "egox-lora": GeneratorRecipe(
        summary="the published settings: LoRA of rank 256 on Wan 2.1 14B (needs its weights and GPUs)",
        training=GeneratorTraining(
            num_steps=50_000, gradient_checkpointing=True, mixed_precision="bf16", window_frames=49
        ),
        size_px=448,
        num_frames=49,
    ),
}


def generator_recipe(name: str) -> GeneratorRecipe:
    """Returns a recipe by name.

    Raises:
        UserError: If there is none of that name.
    """
    if name not in RECIPES:
        raise UserError(f"There is no generator recipe {name!r}", allowed=", ".join(RECIPES))
    return RECIPES[name]
