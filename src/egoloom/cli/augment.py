"""``egoloom augment STORE``: third-person clips of one or many stores become marked first-person clips."""

import json as json_module
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from egoloom.errors import UserError

if TYPE_CHECKING:
    from egoloom.augmentation.filtering import Verdict
    from egoloom.augmentation.job import Job
    from egoloom.clips import ClipStore

MAX_NAMED = 20  # failed clips that are listed


@dataclass
class Pick:
    """Which exo clips are taken.

    Attributes:
        recorded: Store of recorded ego clips whose labels are at hand; scarce classes and people come first.
        need_label: Only clips with a label.
        min_visibility: Least share of frames in which hands and objects are seen, where boxes are known.
        min_coverage: Least share of the ego view that the exo camera sees, as estimated from depth and cameras.
        min_label_confidence: Least certainty that the label holds for the ego view.
    """

    recorded: Path | None = None
    need_label: bool = False
    min_visibility: float = 0.0
    min_coverage: float = 0.05
    min_label_confidence: float = 0.5


@dataclass
class Filter:
    """Which generated clips may be trained on; the others go to the split ``rejected``, with the reason.

    Attributes:
        enabled: Filter at all.
        recogniser: Run or checkpoint of a recogniser that never saw these clips; without it labels are not checked.
        validation_split: Exo clips of this split are generated too, and set the thresholds.
        num_validation: At most this many of them.
        worst_share: Clips as bad as the worst this share of the validation clips are rejected, counted over all
            checks together.
    """

    enabled: bool = True
    recogniser: Path | None = None
    validation_split: str = "validation"
    num_validation: int = 40
    worst_share: float = 0.1


@dataclass
class Arguments:
    """Generates the first-person view of exo clips into a store of its own, marked as generated.

    The clips need depth and cameras. Work that was interrupted continues; one bad clip does not stop it.

    Attributes:
        stores: Stores with exo clips.
        out: The store of the generated clips.
        generator: builtin, inpainting (no network), or the folder of a trained generator.
        split: Only exo clips of this split; default: train and unlabelled, because what is made of other splits would
            leak into training. What is made of a held-out split stays in that split.
        limit: At most this many clips.
        size: Side of the generated frames in pixels.
        num_frames: Frames generated a clip.
        num_steps: Denoising steps.
        seed: Seed of the noise.
        keep_prior: Share of the ego prior, 0 to 1, in what it shows; 0 leaves everything to the generator.
        metric_depth: The depth of the stores is metric; otherwise one scale is solved for each clip.
        workers: Processes.
        ray: Work on a Ray cluster: local, auto, or host:port.
        modalities: Also flow, audio, boxes and IMU for the generated clips, so that teachers can see them.
        page: Write OUT/augmented.html with strips of accepted and rejected clips.
        dry_run: Only say what would be done, how long it takes and what it costs.
        price_per_hour: Price of the machine, for the estimate.
        max_failed_share: The command ends as an error if a larger share of the clips failed; the others are kept.
        json: Print one JSON line.
        pick: Which exo clips are taken.
        filter: Which generated clips may be trained on.
    """

    stores: tyro.conf.Positional[tuple[Path, ...]]
    out: Path
    generator: str = "builtin"
    split: str | None = None
    limit: int | None = None
    size: int = 64
    num_frames: int = 17
    num_steps: int = 2
    seed: int = 0
    keep_prior: float = 0.0
    metric_depth: bool | None = None
    workers: int = 1
    ray: str | None = None
    modalities: bool = True
    page: bool = True
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    price_per_hour: float | None = None
    max_failed_share: float = 0.1
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    pick: Pick = field(default_factory=Pick)
    filter: Filter = field(default_factory=Filter)


def main(arguments: list[str]) -> None:
    """Parses, generates and prints where the result lies."""
    options = tyro.cli(Arguments, prog="egoloom augment", args=arguments)
    _check(options)
    from egoloom.clips import ClipStore

    sources = [ClipStore.open(path) for path in options.stores]
    job, passed_over = _plan(options, sources)
    if options.dry_run:
        _say(options, _estimate(options, job) | {"passed_over": passed_over})
        return
    from egoloom.augmentation.run import run_job

    report = run_job(job, num_workers=options.workers, ray_address=options.ray)
    figures: dict[str, Any] = {
        "num_done": report.num_done,
        "num_kept": report.num_kept,
        "failures": report.failures,
        "passed_over": passed_over,
    }
    figures |= _finish(options, job)
    _say(options, figures)
    if not options.json:
        mixed = f"--data.store {options.pick.recorded or options.stores[0]} --data.extra-stores {options.out}"
        print(f"wrote {options.out}")
        print(f"next: egoloom train tiny {mixed} --out runs/mixed")
    _report_failures(options, report.failures, len(job.orders))


def _report_failures(options: Arguments, failures: dict[str, str], num_clips: int) -> None:
    """Names the clips that failed on the error stream; too many of them are an error, after all else is finished."""
    if not failures:
        return
    print(f"{len(failures)} of {num_clips} clips failed; the same command tries them again:", file=sys.stderr)
    for clip_id, reason in list(failures.items())[:MAX_NAMED]:
        print(f"  {clip_id}: {reason}", file=sys.stderr)
    if len(failures) > options.max_failed_share * num_clips:
        raise UserError(
            f"{len(failures)} of {num_clips} clips failed; the others are finished and kept",
            allowed=f"a failed share of at most {options.max_failed_share:g}",
            fix="repair the clips named above, or pass a larger --max-failed-share",
        )


def _check(options: Arguments) -> None:
    if not options.stores:
        raise UserError("No store is given", fix="egoloom augment STORE --out OUT")
    for name, value, least in (("workers", options.workers, 1), ("limit", options.limit, 1)):
        if value is not None and value < least:
            raise UserError(f"--{name} {value} is too few", allowed=f"{least} or more")
    if not 0 <= options.keep_prior <= 1:
        raise UserError(f"--keep-prior {options.keep_prior} is out of range", allowed="0 to 1")
    if not 0 <= options.filter.worst_share < 1:
        raise UserError(f"--filter.worst-share {options.filter.worst_share} is out of range", allowed="0 up to below 1")
    if options.ray is not None:
        from egoloom.augmentation.ray_workers import refuse_unreachable

        refuse_unreachable(options.ray)


def _plan(options: Arguments, sources: "list[ClipStore]") -> tuple["Job", dict[str, str]]:
    """Picks clips and those that set the thresholds; returns the job and why others were passed over."""
    from egoloom.augmentation.generate import AugmentationConfig
    from egoloom.augmentation.job import plan_job
    from egoloom.augmentation.pick import TRAINABLE, PickConfig, held_out_splits, judging_clips, pick_clips
    from egoloom.augmentation.samples import generator_prior_config
    from egoloom.clips import ClipStore
    from egoloom.exo2ego.generation import GenerationConfig

    is_metric = all(store.info.is_simulated for store in sources)
    config = AugmentationConfig(
        size_px=options.size,
        num_frames=options.num_frames,
        generation=GenerationConfig(num_steps=options.num_steps, seed=options.seed, keep_prior=options.keep_prior),
        prior=generator_prior_config(is_metric=is_metric if options.metric_depth is None else options.metric_depth),
    )
    pick = PickConfig(
        max_clips=options.limit,
        need_label=options.pick.need_label,
        min_visibility=options.pick.min_visibility,
        min_coverage=options.pick.min_coverage,
        min_label_confidence=options.pick.min_label_confidence,
    )
    recorded = ClipStore.open(options.pick.recorded).select(labelled=True) if options.pick.recorded else []
    judging = options.filter.validation_split
    picked = pick_clips(
        sources,
        pick,
        recorded=[clip for clip in recorded if clip.split in TRAINABLE],
        split=options.split,
        held_out=held_out_splits(sources) if options.split is None else (),
    )
    passed_over = {one.clip.clip_id: one.reason for one in picked.passed_over}
    if not picked.chosen:
        reasons = "; ".join(sorted(set(passed_over.values()))[:3])
        needs_depth = "has no depth" in reasons
        raise UserError(
            f"No exo clip is left to generate: {reasons}",
            fix=f"egoloom modalities depth --store {options.stores[0]} (a depth network's weights in a folder)"
            if needs_depth
            else "--split NAME, or egoloom augment --help, group pick",
        )
    judges = []
    if options.filter.enabled and options.split != judging:
        judges = judging_clips(sources, pick, judging, options.filter.num_validation)
    job = plan_job(
        picked.chosen,
        options.out,
        options.generator,
        config,
        split="train" if options.split in (None, *TRAINABLE) else options.split,
        held_out=judges,
        held_out_split=judging,
    )
    return job, passed_over


def _estimate(options: Arguments, job: "Job") -> dict[str, Any]:
    from egoloom.augmentation.run import estimate

    return vars(estimate(job, num_workers=options.workers, price_per_hour=options.price_per_hour))


def _finish(options: Arguments, job: "Job") -> dict[str, Any]:
    """Computes other modalities, filters, writes the page; returns figures of what was rejected."""
    from egoloom.augmentation.filtering import filter_store, load_recogniser
    from egoloom.clips import ClipStore

    store = ClipStore.open(job.out)
    if options.modalities:
        from egoloom.augmentation.other_modalities import add_modalities

        add_modalities(store, num_workers=options.workers)
    verdicts: list[Verdict] = []
    if options.filter.enabled:
        recogniser = load_recogniser(options.filter.recogniser) if options.filter.recogniser else None
        verdicts, thresholds = filter_store(
            store,
            validation_split=options.filter.validation_split,
            recogniser=recogniser,
            worst_share=options.filter.worst_share,
        )
    figures: dict[str, Any] = {"rejected": {v.clip_id: v.reason for v in verdicts if v.reason}}
    if verdicts:
        figures["thresholds"] = thresholds.model_dump()
    if options.page:
        from egoloom.augmentation.page import write_page

        figures["page"] = str(write_page(ClipStore.open(job.out), job.out / "augmented.html"))
    return figures


def _say(options: Arguments, figures: dict[str, Any]) -> None:
    if options.json:
        print(json_module.dumps(figures))
        return
    if options.dry_run:
        cost = "" if figures["cost"] is None else f", cost {figures['cost']:.2f}"
        print(f"{figures['num_clips']} clips to generate, {figures['num_kept']} there already")
        print(
            f"{figures['seconds_a_clip']:.2f} s a clip: {60 * figures['hours']:.1f} min with {options.workers} "
            f"worker(s), {figures['megabytes']:.0f} MB{cost}"
        )
    else:
        print(
            f"generated {figures['num_done']}, kept {figures['num_kept']}, failed {len(figures['failures'])}, "
            f"rejected {len(figures['rejected'])}"
        )
    for reason, count in Counter(figures["passed_over"].values()).most_common():
        print(f"  passed over {count}: {reason}")
    for clip_id, reason in list(figures.get("rejected", {}).items())[:5]:
        print(f"  rejected: {clip_id}: {reason}")
    if "page" in figures:
        print(f"look at {figures['page']}")
