"""``egoloom exo2ego``: generates ego video from exo takes and plans memory; training is in ``exo2ego_train``."""

import json as json_format
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from egoloom.errors import UserError

if TYPE_CHECKING:
    from egoloom.augmentation.raw_video import RawVideoConfig
    from egoloom.exo2ego.samples import GeneratorSample

USAGE = """usage: egoloom exo2ego generate SOURCE --out FOLDER [options]
       egoloom exo2ego generate --plan [--budget-gb 24]
       egoloom exo2ego train RECIPE --store STORE [STORE ...] --out RUN [options]

egoloom exo2ego generate --help and egoloom exo2ego train --help show the options."""

PICTURE_STEPS = 4  # of the generator that ships: sharper than 2, which are nearer in pixels


@dataclass
class Generate:
    """Generates the ego view of exo takes.

    A raw third-person video works too, if it comes with --depth: the person is found by what moves, the head's pose is
    estimated, and what cannot be known is asked for.

    Attributes:
        source: A clip store, a folder in the EgoX layout (with meta.json), or a third-person video.
        out: Folder of the generated videos; finished ones are kept, so the same command continues.
        model: "builtin", a folder of a trained generator, or a Wan checkpoint in diffusers layout.
        lora: LoRA weights to add; several add up, e.g. EgoX and a step-distilled one for few --steps.
        independent_exo: Compute exo tokens once a clip and branch; for weights that were trained so.
        captioner: Local folder of an image-text model of transformers that describes clips without a caption.
        take: Only the take or clip of this name (a unique beginning is enough).
        limit: Largest number of clips.
        num_frames: Frames read of each clip, spread over its length.
        size_px: Side of the ego frames.
        steps: Denoising steps, 50 for the published weights. Absent, 4 for "builtin" and 2 for others.
        solver: unipc or euler, in place of the model's own.
        guidance: Classifier-free guidance; 1 switches it off.
        window_frames: Frames generated at once; the whole clip if absent.
        seed: Seed of the noise.
        keep_prior: Share of the ego prior, 0 to 1, in what it shows; 0 leaves everything to the generator. Absent, it
            is 1 for "builtin", whose own pictures are softer than the prior, and 0 for others.
        plan: Print what will be resident when for the 14B model, and stop.
        budget_gb: Memory of the device in the plan; several plans (80, 48, 24, 16) if absent.
        depth: For a raw video: a folder of a depth network, or an .npz with depth_m [T, H, W] and times_s [T].
        depth_range: For a raw video and a network of relative depth: nearest and farthest distance in metres.
        fov_deg: For a raw video: horizontal field of view of its camera.
        calibration: For a raw video: its camera with pose or trajectory, as in a clip store's calibration folder.
        keypoints: For a raw video: JSON with pixels of head and hands.
        person_mask: For a raw video: .npz with mask [T, H, W] of the wearer.
        ego_poses: For a raw video: JSON with placed poses of the wearer's camera, which are then not estimated.
        json: Print one JSON line.
    """

    source: Annotated[Path | None, tyro.conf.Positional] = None
    out: Path = Path("runs/generated")
    model: str = "builtin"
    lora: tuple[Path, ...] = ()
    independent_exo: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    captioner: Path | None = None
    take: str | None = None
    limit: int = 16
    num_frames: int = 17
    size_px: int = 64
    steps: int | None = None
    solver: str | None = None
    guidance: float = 1.0
    window_frames: int | None = None
    seed: int = 0
    keep_prior: float | None = None
    plan: bool = False
    budget_gb: float | None = None
    depth: Path | None = None
    depth_range: tuple[float, float] | None = None
    fov_deg: float = 60.0
    calibration: Path | None = None
    keypoints: Path | None = None
    person_mask: Path | None = None
    ego_poses: Path | None = None
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
        from egoloom.cli.exo2ego_train import Train, run_train

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
        raise UserError(
            "No source was given", allowed="a clip store, an EgoX folder or a video", fix=USAGE.splitlines()[0]
        )
    is_builtin = options.model == "builtin"
    keep_prior = float(is_builtin) if options.keep_prior is None else options.keep_prior
    if not 0 <= keep_prior <= 1:
        raise UserError(f"--keep-prior {keep_prior} is out of range", allowed="0 to 1")
    from egoloom.augmentation.generator_inputs import find_takes
    from egoloom.clips.files import write_text
    from egoloom.exo2ego.captioning import captions_of
    from egoloom.exo2ego.generation import GenerationConfig, generate
    from egoloom.exo2ego.schedule import build_scheduler, flow_shift
    from egoloom.exo2ego.shipped import load_generator

    takes = find_takes(options.source, options.size_px, options.num_frames, take=options.take, raw=_raw_video(options))
    pipeline = load_generator(options.model, options.lora)
    if options.solver is not None:
        pipeline.scheduler = build_scheduler(options.solver, flow_shift(pipeline.scheduler))
    if options.independent_exo:
        pipeline.guidance.make_exo_independent()
    options.out.mkdir(parents=True, exist_ok=True)
    default_steps = PICTURE_STEPS if is_builtin else GenerationConfig().num_steps
    config = GenerationConfig(
        num_steps=default_steps if options.steps is None else options.steps,
        guidance_scale=options.guidance,
        window_frames=options.window_frames,
        seed=options.seed,
        keep_prior=keep_prior,
    )
    rows = []
    takes = takes[: options.limit]
    waiting = [take for take in takes if not (options.out / f"{take.name}.mp4").exists()]
    # All captions first, so that the captioner is gone from memory before the generator works.
    captions = captions_of((take.sample()[0] for take in waiting), options.captioner, pipeline)
    for take in takes:
        path = options.out / f"{take.name}.mp4"
        if path.exists():
            rows.append({"clip": take.name, "video": str(path), "kept": True})
            continue
        sample, fps = take.sample()
        sample = replace(sample, caption=captions.get(sample.name, sample.caption))
        frames = generate(pipeline, [sample], config)[0]
        rows.append({"clip": sample.name, "video": str(path), "kept": False, **_measure(sample, frames)})
        if options.captioner is not None:
            write_text(path.with_suffix(".caption.txt"), sample.caption + "\n")
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


def _raw_video(options: Generate) -> "RawVideoConfig":
    from egoloom.augmentation.raw_video import RawVideoConfig

    names = ("depth", "fov_deg", "calibration", "keypoints", "person_mask", "ego_poses")
    return RawVideoConfig(depth_range_m=options.depth_range, **{name: getattr(options, name) for name in names})


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
    plans = [make_plan(PlanConfig(budget_gb=budget, keep_exo=options.independent_exo)) for budget in budgets]
    if options.json:
        print(json_format.dumps([plan.to_dict() for plan in plans]))
        return
    print("\n\n".join(format_plan(plan) for plan in plans))
