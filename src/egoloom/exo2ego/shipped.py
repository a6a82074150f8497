"""The tiny generator that comes with the package, and how any generator is found by name or folder."""

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers.utils.logging import disable_progress_bar, enable_progress_bar

from egoloom.errors import UserError
from egoloom.exo2ego.lora import load_loras
from egoloom.exo2ego.pipeline import EgoXPipeline

ASSETS = Path(__file__).parent / "assets"
SHIPPED = ASSETS / "tiny-egox"


def load_generator(
    model: str | Path = "builtin", lora: str | Path | Sequence[str | Path] | None = None
) -> EgoXPipeline:
    """Returns a generator.

    Args:
        model: ``builtin`` for the one that ships, a folder that ``save_pretrained`` wrote, a run folder of
            ``egoloom exo2ego train``, or a local Wan image-to-video checkpoint.
        lora: A LoRA file or folder to add, or several, e.g. that of EgoX and a step-distilled one.

    Raises:
        UserError: If there is no generator there.
    """
    folder = SHIPPED if str(model) == "builtin" else Path(model)
    folder = folder / "model" if (folder / "model" / "model_index.json").is_file() else folder
    if not (folder / "model_index.json").is_file():
        if (folder / "transformer" / "config.json").is_file():
            pipeline = EgoXPipeline.from_wan(folder)
        else:
            raise UserError(
                f"There is no generator at {folder}",
                allowed="'builtin', a folder of EgoXPipeline.save_pretrained, or a Wan checkpoint in diffusers layout",
                fix="egoloom exo2ego train kitchen-tiny --store STORE --out RUN",
            )
    elif '"EgoXPipeline"' not in (folder / "model_index.json").read_text():
        pipeline = EgoXPipeline.from_wan(folder)
    else:
        disable_progress_bar()
        try:
            pipeline = EgoXPipeline.from_pretrained(folder, dtype=torch.float32)
        finally:
            enable_progress_bar()
    pipeline.set_progress_bar_config(disable=True)
    paths = [] if lora is None else [lora] if isinstance(lora, (str, Path)) else list(lora)
    if len(paths) == 1:
        pipeline.load_lora(paths[0])
    elif paths:
        load_loras(pipeline.transformer, paths)
    return pipeline
