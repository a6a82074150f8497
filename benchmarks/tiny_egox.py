r"""Quality of the tiny generator on kitchens that it never saw, and ablations of its parts. Simulated data, tiny scale.

    egoloom kitchen --num-clips 800 --seed 11 --num-kitchens 64 --num-participants 64 --size 64 --exo-size 224 128 \
        --fps 9 --out clips/takes
    egoloom exo2ego train kitchen-tiny --store clips/takes --out runs/tiny \
        --splits train unlabelled validation test unseen_participant
    python benchmarks/tiny_egox.py quality --store clips/takes --out docs/results/tiny_egox.json
    python benchmarks/tiny_egox.py latents --store clips/takes --out runs/tiny_egox_latents.json
    python benchmarks/tiny_egox.py ablation --store clips/takes --out docs/results/tiny_egox_ablation.json

The second command makes the weights that ship. ``quality`` compares them with their own input (the ego prior, holes
black or inpainted) and, with ``--unet-seconds``, with a plain regression U-Net, over all pixels and apart over those
that the prior covers, its holes, and hands and arms. ST-LPIPS needs the extra ``lpips``. ``ablation`` trains every
variant from nothing.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from egoloom.augmentation.generators import inpaint
from egoloom.augmentation.samples import generator_prior_config, generator_sample, render_prior, resize_mask
from egoloom.augmentation.takes import ExoTake, load_take, wearer_mask
from egoloom.clips import ClipStore
from egoloom.clips.files import write_text
from egoloom.errors import UserError
from egoloom.evaluation.perceptual import load_lpips
from egoloom.evaluation.video_quality import lpips, motion_smoothness, object_quality, psnr_db, ssim, temporal_flicker
from egoloom.exo2ego.ablation import run_ablation, summarise
from egoloom.exo2ego.autoencoder_training import train_tiny_vae
from egoloom.exo2ego.generation import GenerationConfig, generate
from egoloom.exo2ego.latents import decode_video, encode_video
from egoloom.exo2ego.presets import generator_recipe
from egoloom.exo2ego.prior import EgoPrior, PriorConfig
from egoloom.exo2ego.samples import GeneratorSample, fill_holes
from egoloom.exo2ego.shipped import load_generator
from egoloom.exo2ego.tiny import TinyConfig
from egoloom.recipes.demo.strips import write_strip
from regression_unet import train_unet, unet_input

Distance = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
NUM_STRIPS = 8
SIZE_PX, NUM_FRAMES = 64, 17
TRAINING_SPLITS = ("train", "unlabelled", "validation", "test", "unseen_participant")


def load_samples(store: ClipStore, splits: tuple[str, ...], limit: int) -> list[GeneratorSample]:
    """Returns the generator's samples of a store's exo clips in some splits."""
    return [sample for sample, _ in load_samples_and_takes(store, splits, limit)]


def load_samples_and_takes(
    store: ClipStore, splits: tuple[str, ...], limit: int
) -> list[tuple[GeneratorSample, ExoTake]]:
    """Returns the generator's samples of a store's exo clips in some splits, with the takes they come from."""
    prior = prior_config(store)
    clips = [clip for clip in store.select(view="exo") if clip.split in splits][:limit]
    takes = (load_take(store, clip, num_frames=NUM_FRAMES) for clip in clips)
    takes = (replace(take, wearer_THW=wearer_mask(store, take)) for take in takes)
    return [(generator_sample(take, size_px=SIZE_PX, prior_config=prior)[0], take) for take in takes]


def prior_config(store: ClipStore) -> PriorConfig:
    """Returns how the generator's priors are rendered."""
    return generator_prior_config(is_metric=store.info.is_simulated)


def shells(store: ClipStore, take: ExoTake) -> EgoPrior:
    """Returns the prior of a take without guessed far sides: what the exo camera saw and nothing else."""
    return render_prior(take, size_px=SIZE_PX, config=prior_config(store).model_copy(update={"far_side_radius_m": 0.0}))


def quality_of(
    videos: list[Any], samples: list[GeneratorSample], wearer: list[torch.Tensor], perceptual: Distance | None
) -> dict[str, float]:
    """Returns mean figures over clips, with the 95 % interval of PSNR over clips."""
    clips = [torch.as_tensor(video) for video in videos]
    truths = [sample.truth_TCHW for sample in samples]
    pairs = list(zip(clips, truths, strict=True))
    psnr = np.array([psnr_db(*pair) for pair in pairs])
    half = stats.t.ppf(0.975, len(psnr) - 1) * psnr.std(ddof=1) / math.sqrt(len(psnr)) if len(psnr) > 1 else math.nan
    figures = {"psnr_db": float(psnr.mean()), "psnr_db_ci95": float(half)}
    holes = [sample.hole_THW for sample in samples if sample.hole_THW is not None]
    for name, masks in (("covered", [~hole for hole in holes]), ("holes", holes), ("hands_and_arms", wearer)):
        inside = [psnr_db(*pair, mask_THW=mask) for pair, mask in zip(pairs, masks, strict=True) if bool(mask.any())]
        figures[f"psnr_db_{name}"] = float(np.mean(inside))
    figures["ssim"] = float(np.mean([ssim(*pair) for pair in pairs]))
    if perceptual is not None:
        figures["st_lpips"] = float(np.mean([lpips(*pair, perceptual) for pair in pairs]))
    figures["flicker"] = float(np.mean([temporal_flicker(clip) for clip in clips]))
    figures["smoothness"] = float(np.mean([motion_smoothness(clip) for clip in clips]))
    return figures


def placed_wearer(store: ClipStore, take: ExoTake, config: PriorConfig) -> np.ndarray:
    """Returns where the prior draws the wearer's hands and arms: it is rendered of the exo view's mask of them."""
    mask = wearer_mask(store, take, view="exo")
    assert mask is not None
    frames = np.repeat(mask[:, None].astype(np.uint8) * 255, 3, axis=1)
    prior = render_prior(replace(take, exo_TCHW=frames), size_px=SIZE_PX, config=config)
    return (prior.frames_TCHW[:, 0] > 127) & ~prior.hole_mask_THW


def measure_wearer(store: ClipStore, takes: list[ExoTake]) -> dict[str, dict[str, float]]:
    """Returns how well hands and arms lie in priors with and without their far sides: IoU and place of the masks."""
    closed = prior_config(store)
    configs = {"shells": closed.model_copy(update={"far_side_radius_m": 0.0}), "closed": closed}
    figures = {}
    for name, config in configs.items():
        found = [placed_wearer(store, take, config) for take in takes]
        truths = [resize_mask(take.wearer_THW, SIZE_PX).numpy() for take in takes if take.wearer_THW is not None]
        pairs = list(zip(found, truths, strict=True))
        objects = [quality for pair in pairs if (quality := object_quality(*pair)).num_frames]
        figures[name] = {
            "share_drawn": sum(int((a & b).sum()) for a, b in pairs) / sum(int(b.sum()) for _, b in pairs),
            "share_right": sum(int((a & b).sum()) for a, b in pairs) / sum(int(a.sum()) for a, _ in pairs),
            "mask_iou": float(np.mean([quality.mask_iou for quality in objects])),
            "box_iou": float(np.mean([quality.box_iou for quality in objects])),
            "location_error_px": float(np.mean([quality.location_error_px for quality in objects])),
        }
    return figures


def measure_quality(store: ClipStore, options: argparse.Namespace) -> dict[str, Any]:
    """Returns the quality table."""
    loaded = load_samples_and_takes(store, ("unseen_kitchen",), options.limit)
    test = [sample for sample, _ in loaded]
    wearer = [sample.wearer_THW for sample in test if sample.wearer_THW is not None]
    perceptual = perceptual_distance()
    pipeline = load_generator(options.model)
    figures: dict[str, Any] = {
        "num_parameters": sum(p.numel() for p in pipeline.transformer.parameters()),
        "num_test_clips": len(test),
        "num_test_kitchens": len({take.clip.extra["kitchen"] for _, take in loaded}),
        "coverage": float(np.mean([1 - sample.hole_THW.float().mean() for sample in test])),  # type: ignore[union-attr]
        "truth_flicker": float(np.mean([temporal_flicker(sample.truth_TCHW) for sample in test])),
    }
    table: dict[str, dict[str, float]] = {}

    def measure(name: str, videos: list[Any], **more: float) -> None:
        table[name] = quality_of(videos, test, wearer, perceptual) | more
        write(options.out, figures | {"table": table}, options)

    thin = [shells(store, take) for _, take in loaded]
    figures["hands_and_arms_in_prior"] = measure_wearer(store, [take for _, take in loaded])
    measure("shells alone, inpainted (OpenCV Telea)", [inpaint(p.frames_TCHW, p.hole_mask_THW) for p in thin])
    measure("prior, holes black", [sample.prior_TCHW for sample in test])
    inpainted = [inpaint(s.prior_TCHW.numpy(), s.hole_THW.numpy()) for s in test if s.hole_THW is not None]
    measure("prior, inpainted (OpenCV Telea)", inpainted)
    filled = [fill_holes(s.prior_TCHW, s.hole_THW) for s in test if s.hole_THW is not None]
    measure("prior, filled as the generator sees it", filled)
    for steps in (1, 2, 4):
        start = time.process_time()
        videos = generate(pipeline, test, GenerationConfig(num_steps=steps))
        measure(f"tiny EgoX, steps: {steps}", videos, cpu_s_a_clip=(time.process_time() - start) / len(test))
    # What `egoloom exo2ego generate` writes; the settings were chosen on takes of the training kitchens.
    start = time.process_time()
    kept = generate(pipeline, test, GenerationConfig(num_steps=4, keep_prior=1.0))
    measure("tiny EgoX, steps: 4, prior kept", kept, cpu_s_a_clip=(time.process_time() - start) / len(test))
    if options.strips:
        write_strips(
            options.strips, test, generate(pipeline, test[:NUM_STRIPS], GenerationConfig(num_steps=4, keep_prior=1.0))
        )
    if options.unet_seconds:
        train = load_samples(store, TRAINING_SPLITS, 100_000)
        unet = train_unet(train, options.unet_seconds)
        figures["unet_num_parameters"] = sum(p.numel() for p in unet.parameters())
        with torch.no_grad():
            videos = [((unet(unet_input(s)) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8) for s in test]
        measure("regression U-Net", videos, training_cpu_s=options.unet_seconds)
    return figures | {"table": table}


def perceptual_distance() -> Distance | None:
    """Returns ST-LPIPS where its weights are installed."""
    try:
        return load_lpips()
    except UserError as error:
        print(f"without ST-LPIPS: {error}")
        return None


def write_strips(folder: Path, samples: list[GeneratorSample], videos: list[torch.Tensor]) -> None:
    """Writes exo, prior, generated and true frames of a few clips side by side."""
    for number, (sample, video) in enumerate(zip(samples, videos, strict=False)):
        assert sample.truth_TCHW is not None
        panels = {"exo": sample.exo_TCHW, "prior": sample.prior_TCHW, "generated": video, "truth": sample.truth_TCHW}
        write_strip(folder / f"{number}.png", {name: frames.numpy() for name, frames in panels.items()})


def measure_latents(store: ClipStore, options: argparse.Namespace) -> dict[str, Any]:
    """Returns what each kind of latents costs to fit and how well it gives back true ego views."""
    train = load_samples(store, TRAINING_SPLITS, options.train_limit)
    truths = [s.truth_TCHW for s in load_samples(store, ("unseen_kitchen",), options.limit) if s.truth_TCHW is not None]
    videos = [video for s in train for video in (s.exo_TCHW, s.truth_TCHW) if video is not None]
    kinds = {
        "small Wan autoencoder, 16 channels": {"latent": "wan", "z_dim": 16},
        "principal components, 16 channels": {"z_dim": 16, "lap_px": 0},
        "principal components, 48 channels": {"z_dim": 48, "lap_px": 0},
        "principal components, 48 channels, lapped": {"z_dim": 48, "lap_px": 8},
        "principal components, 96 channels, lapped": {"z_dim": 96, "lap_px": 8},
        "pixels, lapped": {"latent": "pixels", "lap_px": 8},
    }
    table: dict[str, dict[str, float]] = {}
    for name, changes in kinds.items():
        start = time.process_time()
        vae = train_tiny_vae(videos, TinyConfig.model_validate(changes), show_progress=False)
        seconds = time.process_time() - start
        decoded = [decode_video(vae, encode_video(vae, truth[None]))[0] for truth in truths]
        # One clip without error is infinitely good; pictures are bytes, so the mean is over errors of all clips.
        error = np.mean([(a.double() - b.double()).square().mean() for a, b in zip(decoded, truths, strict=True)])
        similarity = float(np.mean([ssim(a, b) for a, b in zip(decoded, truths, strict=True)]))
        psnr = None if error == 0 else float(10 * np.log10(255.0**2 / error))
        table[name] = {"fit_cpu_s": seconds, "psnr_db": psnr, "ssim": similarity}  # type: ignore[dict-item]
        print(name, table[name], flush=True)
    return {"num_train_clips": len(train), "num_test_clips": len(truths), "table": table}


def measure_ablation(store: ClipStore, options: argparse.Namespace) -> dict[str, Any]:
    """Returns all rows of the ablation and their summary."""
    recipe = generator_recipe("kitchen-tiny")
    assert recipe.tiny is not None
    training = recipe.training.model_copy(update={"num_steps": options.steps, "warmup_steps": 20, "ema_decay": 0.95})
    train = load_samples(store, TRAINING_SPLITS, options.train_limit)
    test = load_samples(store, ("unseen_kitchen",), options.limit)
    rows: list[dict[str, object]] = []

    def keep(row: dict[str, object]) -> None:
        rows.append(row)
        print(json.dumps(row), flush=True)
        write(options.out, {"steps": options.steps, "rows": rows, "summary": summarise(rows)}, options)

    run_ablation(train, test, recipe.tiny, training, seeds=range(options.seeds), on_result=keep)
    return {
        "steps": options.steps,
        "num_train_clips": len(train),
        "num_test_clips": len(test),
        "rows": rows,
        "summary": summarise(rows),
    }


def write(path: Path, figures: dict[str, Any], options: argparse.Namespace) -> None:
    """Writes the record with the command that made it."""
    settings = {key: str(value) for key, value in vars(options).items() if key not in {"store", "out", "strips"}}
    record = {"data": "kitchen (simulated), kitchens that training never saw", "settings": settings, **figures}
    write_text(path, json.dumps(record, indent=1) + "\n")


def main() -> None:
    """Parses, measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("quality", "latents", "ablation"))
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/tiny_egox.json"))
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--limit", type=int, default=40, help="test clips")
    parser.add_argument("--unet-seconds", type=float, default=0.0, help="CPU seconds for the baseline; 0 leaves it out")
    parser.add_argument("--strips", type=Path, help="folder for pictures of a few clips")
    parser.add_argument("--steps", type=int, default=250, help="training steps of each variant of the ablation")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train-limit", type=int, default=160, help="training clips of the ablation")
    options = parser.parse_args()
    measures: dict[str, Callable[[ClipStore, argparse.Namespace], dict[str, Any]]] = {
        "quality": measure_quality,
        "latents": measure_latents,
        "ablation": measure_ablation,
    }
    figures = measures[options.what](ClipStore.open(options.store), options)
    write(options.out, figures, options)
    print(json.dumps(figures.get("table") or figures["summary"], indent=1))


if __name__ == "__main__":
    main()
