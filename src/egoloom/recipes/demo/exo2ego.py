"""The generation half of the demonstration: adapt to takes, render priors, generate marked ego clips, measure."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from egoloom.augmentation.generate import AugmentationConfig, generate_clips, generated_store
from egoloom.augmentation.generators import inpaint, load_generator
from egoloom.augmentation.samples import generator_prior_config, generator_sample
from egoloom.augmentation.takes import load_take
from egoloom.clips import Clip, ClipStore
from egoloom.clips.files import write_text
from egoloom.errors import UserError
from egoloom.evaluation.video_quality import psnr_db
from egoloom.exo2ego.generation import GenerationConfig, generate
from egoloom.exo2ego.lora import save_lora
from egoloom.exo2ego.samples import GeneratorSample
from egoloom.exo2ego.shipped import load_generator as load_shipped_generator
from egoloom.exo2ego.training import train_generator
from egoloom.exo2ego.training_config import TINY_LORA_TRAINING
from egoloom.recipes.demo.config import DemoConfig
from egoloom.recipes.demo.data import DemoData
from egoloom.recipes.demo.strips import write_strip

GENERATION = GenerationConfig()
MAX_TRAINING_TAKES = 32
NUM_MEASURED_TAKES = 12
NUM_STRIPS = 4


def load_samples(config: DemoConfig, store: ClipStore, clips: Sequence[Clip]) -> list[GeneratorSample]:
    """Returns the generator's samples of exo clips with depth and cameras."""
    samples = []
    prior = generator_prior_config(is_metric=store.info.is_simulated)
    for clip in track(clips, "ego priors", transient=True):
        take = load_take(store, clip, num_frames=config.generated_frames)
        size_px = config.generated_size_px
        samples.append(generator_sample(take, size_px=size_px, prior_config=prior)[0])
    return samples


def training_clips(data: DemoData) -> list[Clip]:
    """Returns the exo clips whose take also has a recorded ego view to learn from."""
    store = ClipStore.open(data.pairs)
    ego_takes = {video.take_id for video in store.videos.values() if video.view == "ego"}
    split = None if data.is_real else "train"
    clips = [clip for clip in store.select(view="exo", split=split) if clip.take_id in ego_takes]
    return clips[:MAX_TRAINING_TAKES]


def measured_clips(data: DemoData) -> list[Clip]:
    """Returns the exo clips on which prior and generated pictures are compared with the recorded ego view.

    In the kitchen these are takes of the second owner, which the generator never saw; with real recordings there are
    only the takes that it was adapted to, and the report says so.
    """
    store = ClipStore.open(data.exo)
    ego_takes = {video.take_id for video in store.videos.values() if video.view == "ego"}
    return [clip for clip in store.select(view="exo") if clip.take_id in ego_takes][:NUM_MEASURED_TAKES]


def adapt_tiny_egox(config: DemoConfig, data: DemoData, out: Path) -> dict[str, Any]:
    """Trains a LoRA of the generator that ships on the takes at hand; saves both."""
    folder = out / "exo2ego"
    samples = load_samples(config, ClipStore.open(data.pairs), training_clips(data))
    if not samples:
        raise UserError(f"{data.pairs} has no take with depth, cameras and an ego view to learn from")
    pipeline = load_shipped_generator()
    pipeline.save_pretrained(folder / "base")
    training = TINY_LORA_TRAINING.model_copy(update={"num_steps": config.lora_steps, "seed": config.seed})
    adapted = train_generator(samples, training, pipeline, run_dir=folder / "lora_run")
    save_lora(pipeline.transformer, folder / "lora")
    return {
        "base": "builtin",
        "num_parameters": sum(parameter.numel() for parameter in pipeline.transformer.parameters()),
        "num_training_takes": len(samples),
        "lora_num_parameters": adapted.num_parameters,
        "lora_loss": adapted.mean_loss(),
    }


def generate_marked(config: DemoConfig, data: DemoData, out: Path) -> dict[str, Any]:
    """Generates the ego view of every exo clip into a store of its own, with flow for the teachers."""
    from egoloom.modalities import flow

    pipeline, name = load_generator(out / "exo2ego" / "base")
    source = ClipStore.open(data.exo)
    recognition = ClipStore.open(data.recognition)
    path = out / "clips" / "generated"
    augmentation = AugmentationConfig(
        size_px=config.generated_size_px,
        num_frames=config.generated_frames,
        generation=GENERATION,
        prior=generator_prior_config(is_metric=source.info.is_simulated),
    )
    report = generate_clips(
        source,
        source.select(view="exo"),
        pipeline,
        path,
        generator=name,
        config=augmentation,
        # Real takes bring no labels of their own; their clips join the classes of the recognition store unlabelled.
        target=generated_store(path, recognition, name),
    )
    flow.compute(report.store, progress=False)
    store = ClipStore.open(path)
    qualities = [clip.quality for clip in store.clips if clip.quality is not None]
    return {
        "num_generated_clips": len(store.clips),
        "mean_quality": float(np.mean(qualities)) if qualities else None,
        "failures": report.failures,
    }


def measure_pictures(config: DemoConfig, data: DemoData, out: Path) -> dict[str, Any]:
    """Compares prior and generated frames with the recorded ego view; writes strips for the report."""
    pipeline, _ = load_generator(out / "exo2ego" / "base")
    store = ClipStore.open(data.exo)
    clips = measured_clips(data)
    samples = load_samples(config, store, clips)
    figures: dict[str, list[float]] = {"prior": [], "inpainted": [], "generated": []}
    captions = {}
    for clip, sample in zip(clips, samples, strict=True):
        assert sample.truth_TCHW is not None
        generated = generate(pipeline, [sample], GENERATION)[0].numpy()
        truth, prior = sample.truth_TCHW.numpy(), sample.prior_TCHW.numpy()
        assert sample.hole_THW is not None
        filled = inpaint(prior, sample.hole_THW.numpy())
        for name, frames in (("prior", prior), ("inpainted", filled), ("generated", generated)):
            figures[name].append(psnr_db(frames, truth))
        if len(captions) < NUM_STRIPS:
            name = f"{len(captions)}.png"
            panels = {"exo": sample.exo_TCHW.numpy(), "prior": prior, "generated": generated, "truth": truth}
            write_strip(out / "report" / "strips" / name, panels)
            caption = f"{clip.narration or clip.clip_id}: three moments, top to bottom"
            captions[name] = {"caption": caption, "panels": list(panels)}
    write_text(out / "report" / "strips" / "strips.json", json.dumps(captions, indent=1))
    return {
        "prior_psnr_db": float(np.mean(figures["prior"])),
        "inpainted_prior_psnr_db": float(np.mean(figures["inpainted"])),
        "generated_psnr_db": float(np.mean(figures["generated"])),
        "num_measured_takes": len(clips),
        "measured_on": "the takes it was adapted to" if data.is_real else "takes that the generator never saw",
    }
