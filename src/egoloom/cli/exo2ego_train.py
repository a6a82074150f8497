"""``egoloom exo2ego train``: trains the generator, all weights or a LoRA."""

import json as json_format
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import tyro


@dataclass
class Train:
    """Trains the generator.

    Attributes:
        recipe: kitchen-tiny, kitchen-sharp, tiny-lora, tiny-overfit or egox-lora.
        store: Clip stores or EgoX folders whose takes have exo, depth, cameras and ego truth; several are mixed.
        out: Run folder; the same command continues an interrupted run there.
        base: Generator to start from, for all recipes but kitchen-tiny ("builtin", a folder, or a Wan checkpoint).
        independent_exo: Exo tokens do not look at ego tokens, so that generate --independent-exo computes them once.
        captioner: Local folder of an image-text model of transformers that describes takes without a caption.
        splits: Splits of clip stores that are trained on.
        limit: Largest number of takes of each store.
        steps: Optimiser steps in place of the recipe's.
        max_seconds: Stop after this time.
        sample_every: Steps between sample videos; 0 writes none.
        resume: Continue what is in the run folder; with --no-resume it is refused.
        json: Print one JSON line.
    """

    recipe: Annotated[str, tyro.conf.Positional]
    store: tuple[Path, ...]
    out: Path = Path("runs/exo2ego")
    base: str = "builtin"
    independent_exo: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    captioner: Path | None = None
    splits: tuple[str, ...] = ("train", "unlabelled")
    limit: int = 1000
    steps: int | None = None
    max_seconds: float | None = None
    sample_every: int = 0
    resume: bool = True
    json: bool = False


def run_train(options: Train) -> None:
    """Trains and saves the pipeline (or its LoRA) in the run folder."""
    from egoloom._distributed import is_main
    from egoloom.augmentation.generator_inputs import training_samples
    from egoloom.clips.files import write_text
    from egoloom.clips.media import write_video
    from egoloom.exo2ego.autoencoder_training import stored_tiny_vae
    from egoloom.exo2ego.captioning import with_captions
    from egoloom.exo2ego.latent_manifest import origins
    from egoloom.exo2ego.lora import save_lora
    from egoloom.exo2ego.presets import generator_recipe
    from egoloom.exo2ego.shipped import load_generator
    from egoloom.exo2ego.tiny import build_tiny_pipeline
    from egoloom.exo2ego.training import train_generator

    recipe = generator_recipe(options.recipe)
    changes = {"num_steps": options.steps, "max_seconds": options.max_seconds}
    training = recipe.training.model_copy(update={key: value for key, value in changes.items() if value is not None})
    if options.sample_every:
        training = training.model_copy(update={"checkpoint_every": options.sample_every})
    samples = training_samples(
        options.store, recipe.size_px, recipe.num_frames, limit=options.limit, splits=options.splits
    )
    if recipe.tiny is None:
        pipeline = load_generator(options.base)
    else:
        vae = stored_tiny_vae(samples.videos(), origins(samples), recipe.tiny, options.out / "latents")
        pipeline = build_tiny_pipeline(recipe.tiny, vae=vae, seed=training.seed)

    if options.independent_exo:
        pipeline.guidance.make_exo_independent()
    samples = with_captions(samples, options.captioner, pipeline)

    def write_sample(step: int) -> None:
        from egoloom.exo2ego.generation import GenerationConfig, generate

        if options.sample_every:
            frames = generate(pipeline, [samples[0]], GenerationConfig())[0]
            if is_main():
                write_video(options.out / "samples" / f"step_{step:06d}.mp4", frames.numpy(), Fraction(8))
            pipeline.transformer.train()

    options.out.mkdir(parents=True, exist_ok=True)
    result = train_generator(
        samples, training, pipeline, run_dir=options.out, resume=options.resume, on_checkpoint=write_sample
    )
    if training.lora_rank is None:
        if is_main():
            pipeline.save_pretrained(options.out / "model")
        written = options.out / "model"
    else:
        written = save_lora(pipeline.transformer, options.out / "lora")
    if not is_main():
        return
    report = {
        "recipe": options.recipe,
        "num_clips": result.num_clips,
        "num_parameters": result.num_parameters,
        "steps": len(result.losses),
        "loss": result.mean_loss(),
        "seconds": result.seconds,
        "written": str(written),
    }
    write_text(options.out / "metrics.json", json_format.dumps(report, indent=1) + "\n")
    if options.json:
        print(json_format.dumps(report))
        return
    print(f"{len(result.losses)} steps on {result.num_clips} clips, loss {result.mean_loss():.4f}")
    print(f"wrote {written}")
    model = f"--model {options.out}" if training.lora_rank is None else f"--lora {written}"
    print(f"next: egoloom exo2ego generate {options.store[0]} --out generated {model}")
