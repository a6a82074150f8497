"""Quality of the tiny generator on kitchens that it never saw, and ablations of its parts. Simulated data, tiny scale.

    egoloom kitchen --num-clips 520 --seed 11 --size 64 --exo-size 224 128 --out clips/takes
    python benchmarks/tiny_egox.py quality --store clips/takes --out docs/results/tiny_egox.json
    python benchmarks/tiny_egox.py ablation --store clips/takes --out docs/results/tiny_egox_ablation.json

``quality`` compares the generator that ships with its own input (the ego prior, holes black or inpainted) and,
with ``--unet-seconds``, with a plain regression U-Net of the same size. ``ablation`` trains every variant from nothing.
"""

import argparse
import copy
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import nn

from egoloom.augmentation.samples import generator_prior_config, generator_sample
from egoloom.augmentation.takes import load_take
from egoloom.clips import ClipStore
from egoloom.clips.files import write_text
from egoloom.evaluation.video_quality import motion_smoothness, psnr_db, ssim, temporal_flicker
from egoloom.exo2ego.ablation import run_ablation, summarise
from egoloom.exo2ego.generation import GenerationConfig, generate
from egoloom.exo2ego.presets import generator_recipe
from egoloom.exo2ego.samples import GeneratorSample, fill_holes
from egoloom.exo2ego.shipped import load_generator
from egoloom.recipes.demo.exo2ego import inpaint

SIZE_PX, NUM_FRAMES = 64, 17


def load_samples(store: ClipStore, splits: tuple[str, ...], limit: int) -> list[GeneratorSample]:
    """Returns the generator's samples of a store's exo clips in some splits."""
    prior = generator_prior_config(is_metric=store.info.is_simulated)
    clips = [clip for clip in store.select(view="exo") if clip.split in splits][:limit]
    takes = (load_take(store, clip, num_frames=NUM_FRAMES) for clip in clips)
    return [generator_sample(take, size_px=SIZE_PX, prior_config=prior)[0] for take in takes]


def quality_of(videos: list[Any], samples: list[GeneratorSample]) -> dict[str, float]:
    """Returns mean figures over clips, with the 95 % interval of PSNR over clips."""
    psnr = np.array([psnr_db(video, sample.truth_TCHW) for video, sample in zip(videos, samples, strict=True)])
    half = stats.t.ppf(0.975, len(psnr) - 1) * psnr.std(ddof=1) / math.sqrt(len(psnr)) if len(psnr) > 1 else math.nan
    return {
        "psnr_db": float(psnr.mean()),
        "psnr_db_ci95": float(half),
        "ssim": float(np.mean([ssim(v, s.truth_TCHW) for v, s in zip(videos, samples, strict=True)])),
        "flicker": float(np.mean([temporal_flicker(video) for video in videos])),
        "smoothness": float(np.mean([motion_smoothness(video) for video in videos])),
    }


class Block(nn.Module):
    """Two convolutions."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm = nn.GroupNorm(8, outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns features of the same height and width."""
        return F.silu(self.second(F.silu(self.norm(self.first(x)))))


class RegressionUNet(nn.Module):
    """The honest baseline: frame by frame, filled prior + coverage + exo in, ego out, mean squared error."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        widths = [width * factor for factor in (1, 2, 3, 4, 4)]
        self.down = nn.ModuleList(Block(i, o) for i, o in zip([7, *widths[:-1]], widths, strict=True))
        pairs = zip(widths[:0:-1], widths[-2::-1], strict=True)
        self.up = nn.ModuleList(Block(low + skip, skip) for low, skip in pairs)
        self.out = nn.Conv2d(width, 3, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns ego frames in [-1, 1] for ``[N, 7, H, W]``."""
        prior, skips = x[:, :3], []
        for index, block in enumerate(self.down):
            x = block(F.avg_pool2d(x, 2) if index else x)
            skips.append(x)
        x = skips.pop()
        for block in self.up:
            x = block(torch.cat([F.interpolate(x, scale_factor=2), skips.pop()], 1))
        return prior + self.out(x)


def unet_input(sample: GeneratorSample) -> torch.Tensor:
    """Returns ``[T, 7, H, W]``: filled prior, coverage, exo."""
    assert sample.hole_THW is not None
    prior = fill_holes(sample.prior_TCHW, sample.hole_THW).float() / 127.5 - 1
    exo = F.interpolate(sample.exo_TCHW.float(), size=prior.shape[2:], mode="area") / 127.5 - 1
    return torch.cat([prior, (~sample.hole_THW)[:, None].float(), exo], 1)


def train_unet(train: list[GeneratorSample], seconds: float) -> RegressionUNet:
    """Returns the averaged weights of a U-Net trained for so many CPU seconds."""
    torch.manual_seed(0)
    x = torch.cat([unet_input(sample).half() for sample in train])
    truths = [sample.truth_TCHW for sample in train if sample.truth_TCHW is not None]
    y = torch.cat([(truth.float() / 127.5 - 1).half() for truth in truths])
    model = RegressionUNet()
    average = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.5e-3, weight_decay=0.01)
    start, step = time.process_time(), 0
    while (done := (time.process_time() - start) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 1.5e-3 * min(1, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * done))
        index = torch.randint(len(x), (12,))
        loss = (model(x[index].float()) - y[index].float()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        with torch.no_grad():
            for kept, now in zip(average.parameters(), model.parameters(), strict=True):
                kept.lerp_(now, 1 - min(0.995, (1 + step) / (10 + step)))
    return average.eval()


def measure_quality(store: ClipStore, options: argparse.Namespace) -> dict[str, Any]:
    """Returns the quality table."""
    test = load_samples(store, ("unseen_kitchen",), options.limit)
    filled = [inpaint(s.prior_TCHW.numpy(), s.hole_THW.numpy()) for s in test if s.hole_THW is not None]
    table = {
        "prior, holes black": quality_of([s.prior_TCHW for s in test], test),
        "prior, inpainted (OpenCV Telea)": quality_of(filled, test),
    }
    pipeline = load_generator(options.model)
    for steps in (1, 2, 4):
        start = time.process_time()
        videos = generate(pipeline, test, GenerationConfig(num_steps=steps))
        seconds = (time.process_time() - start) / len(test)
        table[f"tiny EgoX, {steps} steps"] = quality_of(videos, test) | {"cpu_s_a_clip": seconds}
    figures: dict[str, Any] = {
        "num_parameters": sum(p.numel() for p in pipeline.transformer.parameters()),
        "num_test_clips": len(test),
    }
    if options.unet_seconds:
        train = load_samples(store, ("train", "unlabelled"), 100_000)
        unet = train_unet(train, options.unet_seconds)
        with torch.no_grad():
            videos = [((unet(unet_input(s)) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8) for s in test]
        table["regression U-Net"] = quality_of(videos, test) | {"training_cpu_s": options.unet_seconds}
        figures["unet_num_parameters"] = sum(p.numel() for p in unet.parameters())
    return figures | {"table": table}


def measure_ablation(store: ClipStore, options: argparse.Namespace) -> dict[str, Any]:
    """Returns all rows of the ablation and their summary."""
    recipe = generator_recipe("kitchen-tiny")
    assert recipe.tiny is not None
    training = recipe.training.model_copy(update={"num_steps": options.steps, "warmup_steps": 20, "ema_decay": 0.95})
    train = load_samples(store, ("train", "unlabelled"), options.train_limit)
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
    settings = {key: str(value) for key, value in vars(options).items() if key not in {"store", "out"}}
    record = {"data": "kitchen (simulated), kitchens that training never saw", "settings": settings, **figures}
    write_text(path, json.dumps(record, indent=1) + "\n")


def main() -> None:
    """Parses, measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("quality", "ablation"))
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/tiny_egox.json"))
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--limit", type=int, default=40, help="test clips")
    parser.add_argument("--unet-seconds", type=float, default=0.0, help="CPU seconds for the baseline; 0 leaves it out")
    parser.add_argument("--steps", type=int, default=250, help="training steps of each variant of the ablation")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train-limit", type=int, default=160, help="training clips of the ablation")
    options = parser.parse_args()
    measures: dict[str, Callable[[ClipStore, argparse.Namespace], dict[str, Any]]] = {
        "quality": measure_quality,
        "ablation": measure_ablation,
    }
    figures = measures[options.what](ClipStore.open(options.store), options)
    write(options.out, figures, options)
    print(json.dumps(figures.get("table") or figures["summary"], indent=1))


if __name__ == "__main__":
    main()
