"""``egoloom exo2ego``: generates ego video from exo takes, trains the generator, and plans memory."""

import json as json_format
import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from egoloom.errors import UserError

if TYPE_CHECKING:
    from egoloom.exo2ego.samples import GeneratorSample

USAGE = """usage: egoloom exo2ego generate SOURCE --out FOLDER [options]
       egoloom exo2ego generate --plan [--budget-gb 24]
       egoloom exo2ego train RECIPE --store STORE [STORE ...] --out RUN [options]

egoloom exo2ego generate --help and egoloom exo2ego train --help show the options."""


@dataclass
class Generate:
    """Generates the ego view of exo takes.

    Attributes:
        source: A clip store, or a folder in the EgoX layout (with meta.json).
        out: Folder of the generated videos; finished ones are kept, so the same command continues.
        model: "builtin", a folder of a trained generator, or a Wan checkpoint in diffusers layout.
        lora: LoRA weights to add.
        take: Only the take or clip of this name (a unique beginning is enough).
        limit: Largest number of clips.
        num_frames: Frames read of each clip, spread over its length.
        size_px: Side of the ego frames.
        steps: Denoising steps.
        guidance: Classifier-free guidance; 1 switches it off.
        window_frames: Frames generated at once; the whole clip if absent.
        seed: Seed of the noise.
        plan: Print what will be resident when for the 14B model, and stop.
        budget_gb: Memory of the device in the plan; several plans (80, 48, 24, 16) if absent.
        json: Print one JSON line.
    """

    source: Annotated[Path | None, tyro.conf.Positional] = None
    out: Path = Path("runs/generated")
    model: str = "builtin"
    lora: Path | None = None
    take: str | None = None
    limit: int = 16
    num_frames: int = 17
    size_px: int = 64
    steps: int = 2
    guidance: float = 1.0
    window_frames: int | None = None
    seed: int = 0
    plan: bool = False
    budget_gb: float | None = None
    json: bool = False


@dataclass
class Train:
    """Trains the generator.

    Attributes:
        recipe: kitchen-tiny, tiny-lora or egox-lora.
        store: Clip stores or EgoX folders whose takes have exo, depth, cameras and ego truth; several are mixed.
        out: Run folder; the same command continues an interrupted run there.
        base: Generator to start from, for the LoRA recipes ("builtin", a folder, or a Wan checkpoint).
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
    limit: int = 1000
    steps: int | None = None
    max_seconds: float | None = None
    sample_every: int = 0
    resume: bool = True
    json: bool = False


def main(arguments: list[str]) -> None:
    """Runs ``generate`` or ``train``."""
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(USAGE)
        return
    action, *rest = arguments
    if action == "generate":
        run_generate(tyro.cli(Generate, prog="egoloom exo2ego generate", args=rest))
    elif action == "train":
        run_train(tyro.cli(Train, prog="egoloom exo2ego train", args=rest))
    else:
        raise UserError(f"Unknown action: {action!r}", allowed="generate, train", fix="egoloom exo2ego --help")


# --- generate -----------------------------------------------------------------------------------------------------


def run_generate(options: Generate) -> None:
    """Generates clip by clip; each video is complete or absent."""
    if options.plan:
        print_plan(options)
        return
    if options.source is None:
        raise UserError("No source was given", allowed="a clip store or an EgoX folder", fix=USAGE.splitlines()[0])
    from egoloom.exo2ego.generation import GenerationConfig, generate
    from egoloom.exo2ego.shipped import load_generator

    samples = read_samples(options.source, options.size_px, options.num_frames, options.take, options.limit)
    pipeline = load_generator(options.model, options.lora)
    options.out.mkdir(parents=True, exist_ok=True)
    config = GenerationConfig(
        num_steps=options.steps,
        guidance_scale=options.guidance,
        window_frames=options.window_frames,
        seed=options.seed,
    )
    rows = []
    for sample, fps in samples:
        path = options.out / f"{sample.name}.mp4"
        if path.exists():
            rows.append({"clip": sample.name, "video": str(path), "kept": True})
            continue
        frames = generate(pipeline, [sample], config)[0]
        rows.append({"clip": sample.name, "video": str(path), "kept": False, **_measure(sample, frames)})
        _write(path, frames, fps)
        if not options.json:
            print("  ".join(f"{key} {_short(value)}" for key, value in rows[-1].items()))
    if options.json:
        print(json_format.dumps({"out": str(options.out), "clips": rows}))
        return
    print(
        f"wrote {sum(not row['kept'] for row in rows)} videos to {options.out}, kept {sum(row['kept'] for row in rows)}"
    )
    print("next: egoloom augment STORE --out GENERATED (writes marked clips into a store)")


def _measure(sample: "GeneratorSample", frames: Any) -> dict[str, float]:
    if sample.truth_TCHW is None:
        return {}
    from egoloom.evaluation.video_quality import psnr_db, ssim

    return {
        "prior_psnr_db": psnr_db(sample.prior_TCHW, sample.truth_TCHW),
        "psnr_db": psnr_db(frames, sample.truth_TCHW),
        "ssim": ssim(frames, sample.truth_TCHW),
    }


def _short(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _write(path: Path, frames: Any, fps: Fraction) -> None:
    from egoloom.clips.media import write_video

    write_video(path, frames.numpy(), fps)


def print_plan(options: Generate) -> None:
    """Prints the memory plan of the 14B model."""
    from egoloom.exo2ego.memory_plan import PlanConfig, format_plan, make_plan

    budgets = (options.budget_gb,) if options.budget_gb else (80.0, 48.0, 24.0, 16.0)
    plans = [make_plan(PlanConfig(budget_gb=budget)) for budget in budgets]
    if options.json:
        print(json_format.dumps([plan.to_dict() for plan in plans]))
        return
    print("\n\n".join(format_plan(plan) for plan in plans))


# --- reading ------------------------------------------------------------------------------------------------------


def read_samples(
    source: Path, size_px: int, num_frames: int, take: str | None, limit: int, *, need_truth: bool = False
) -> list[tuple["GeneratorSample", Fraction]]:
    """Returns the generator's samples of a clip store or an EgoX folder, with the rate of each result.

    Raises:
        UserError: If nothing there can be generated from.
    """
    if not source.exists():
        raise UserError(f"There is no folder {source}", allowed="a clip store or a folder with meta.json")
    from egoloom.clips import ClipStore

    if num_frames < 1:
        raise UserError(f"--num-frames {num_frames} is too few", allowed="1 or more")
    takes = _egox_takes(source, num_frames, take) if (source / "meta.json").is_file() else None
    is_metric = takes is None and ClipStore.open(source).info.is_simulated
    takes = takes if takes is not None else _store_takes(source, num_frames, take, limit, need_truth)
    if not takes:
        raise UserError(
            f"{source} has no exo clip with depth and cameras" + (f" that matches {take!r}" if take else ""),
            fix="egoloom ingest egox, or egoloom kitchen, make such stores",
        )
    from egoloom.augmentation.samples import generator_prior_config, generator_sample

    samples = []
    for exo_take in takes[:limit]:
        sample, _ = generator_sample(
            exo_take, size_px=size_px, prior_config=generator_prior_config(is_metric=is_metric)
        )
        length_s = exo_take.clip.end_s - exo_take.clip.start_s
        samples.append((sample, Fraction(num_frames / length_s).limit_denominator(1001)))
    return samples


def _store_takes(source: Path, num_frames: int, take: str | None, limit: int, need_truth: bool) -> list[Any]:
    from egoloom.augmentation.takes import load_take
    from egoloom.clips import ClipStore, Modality

    store = ClipStore.open(source)
    with_ego = {video.take_id for video in store.videos.values() if video.view == "ego"}
    clips = [clip for clip in store.select(view="exo") if Modality.DEPTH in clip.present]
    if take is not None:
        clips = [clip for clip in clips if clip.clip_id.startswith(take) or clip.take_id.startswith(take)]
    if need_truth:
        clips = [clip for clip in clips if clip.take_id in with_ego and clip.split in {"train", "unlabelled"}]
    return [load_take(store, clip, num_frames=num_frames) for clip in clips[:limit]]


def _egox_takes(source: Path, num_frames: int, name: str | None) -> list[Any]:
    import numpy as np
    import torch

    from egoloom.augmentation.takes import ExoTake
    from egoloom.clips import Clip
    from egoloom.ingest.egox import read_takes

    takes = [take for take in read_takes(source) if name is None or take.name.startswith(name)]
    result = []
    for take in takes:
        index = np.linspace(0, take.num_frames - 1, min(num_frames, take.num_frames)).round().astype(int)
        has_truth = take.ego_gt_path is not None
        truth = take.ego_gt_frames()[index] if has_truth else None
        size = (448, 448) if truth is None else (truth.shape[3], truth.shape[2])
        length_s = take.num_frames / float(take.fps)
        result.append(
            ExoTake(
                clip=Clip(take.name, take.name, "", "exo", take.name, 0.0, length_s, "test"),
                times_s=take.times_s[index],
                exo_TCHW=take.exo_frames()[index],
                depth_THW=take.depth()[index],
                exo_camera=take.exo_camera,
                T_world_exo=take.T_world_exo.expand(len(index), 4, 4),
                ego_camera=take.ego_camera(size),
                T_world_ego=take.T_world_ego()[torch.from_numpy(index)],
                truth_TCHW=truth,
            )
        )
    return result


# --- train --------------------------------------------------------------------------------------------------------


def run_train(options: Train) -> None:
    """Trains and saves the pipeline (or its LoRA) in the run folder."""
    from egoloom.exo2ego.lora import save_lora
    from egoloom.exo2ego.presets import generator_recipe
    from egoloom.exo2ego.shipped import load_generator
    from egoloom.exo2ego.tiny import build_tiny_pipeline
    from egoloom.exo2ego.training import train_generator, train_tiny_vae

    recipe = generator_recipe(options.recipe)
    changes = {"num_steps": options.steps, "max_seconds": options.max_seconds}
    training = recipe.training.model_copy(update={key: value for key, value in changes.items() if value is not None})
    if options.sample_every:
        training = training.model_copy(update={"checkpoint_every": options.sample_every})
    samples = [
        sample
        for store in options.store
        for sample, _ in read_samples(store, recipe.size_px, recipe.num_frames, None, options.limit, need_truth=True)
        if sample.truth_TCHW is not None
    ]
    if recipe.tiny is None:
        pipeline = load_generator(options.base)
    else:
        videos = [video for sample in samples for video in (sample.exo_TCHW, sample.truth_TCHW) if video is not None]
        vae = train_tiny_vae(videos, recipe.tiny)
        pipeline = build_tiny_pipeline(recipe.tiny, vae=vae, seed=training.seed)

    def write_sample(step: int) -> None:
        from egoloom.exo2ego.generation import GenerationConfig, generate

        if options.sample_every:
            frames = generate(pipeline, samples[:1], GenerationConfig(num_steps=2))[0]
            _write(options.out / "samples" / f"step_{step:06d}.mp4", frames, Fraction(8))
            pipeline.transformer.train()

    options.out.mkdir(parents=True, exist_ok=True)
    result = train_generator(
        samples, training, pipeline, run_dir=options.out, resume=options.resume, on_checkpoint=write_sample
    )
    if training.lora_rank is None:
        pipeline.save_pretrained(options.out / "model")
        written = options.out / "model"
    else:
        written = save_lora(pipeline.transformer, options.out / "lora")
    report = {
        "recipe": options.recipe,
        "num_clips": result.num_clips,
        "num_parameters": result.num_parameters,
        "steps": len(result.losses),
        "loss": result.mean_loss(),
        "seconds": result.seconds,
        "written": str(written),
    }
    part = options.out / "metrics.json.part"
    part.write_text(json_format.dumps(report, indent=1))
    os.replace(part, options.out / "metrics.json")
    if options.json:
        print(json_format.dumps(report))
        return
    print(f"{len(result.losses)} steps on {result.num_clips} clips, loss {result.mean_loss():.4f}")
    print(f"wrote {written}")
    model = f"--model {options.out}" if training.lora_rank is None else f"--lora {written}"
    print(f"next: egoloom exo2ego generate {options.store[0]} --out generated {model}")
