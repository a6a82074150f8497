"""``egoloom evaluate --protocol exo2ego``: generated ego clips against recorded ones."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

# Name in the table, key, better values, format.
MEASURES = (
    ("PSNR", "psnr_db", "higher", "{:.2f} dB"),
    ("SSIM", "ssim", "higher", "{:.3f}"),
    ("ST-LPIPS", "lpips", "lower", "{:.3f}"),
    ("CLIP-I", "clip_i", "higher", "{:.3f}"),
    ("object location error", "location_error_px", "lower", "{:.1f} px"),
    ("object IoU (boxes)", "box_iou", "higher", "{:.3f}"),
    ("object contour (IoU of masks)", "mask_iou", "higher", "{:.3f}"),
    ("temporal flicker", "flicker", "as recorded", "{:.4f}"),
    ("motion smoothness", "smoothness", "as recorded", "{:.4f}"),
    ("strength of motion", "dynamic_strength_px", "as recorded", "{:.2f} px"),
    ("dynamic degree", "is_dynamic", "as recorded", "{:.2f}"),
)


@dataclass
class ExoToEgoArguments:
    """Compares generated ego clips with recorded ones.

    Attributes:
        protocol: exo2ego.
        generated: A folder of mp4 files (egoloom exo2ego generate), or a store of generated clips (egoloom augment).
        truth: A folder of mp4 files of the same names, or the store that the clips were generated from.
        resample: Take recorded frames at the times and in the size of the generated ones; otherwise clips of
            other sizes or lengths are an error.
        split: Only generated clips of this split of a store.
        lpips: Measure ST-LPIPS, if its weights are installed.
        clip: Measure CLIP-I with the CLIP weights (transformers format) in this folder.
        masks: Measure objects: two folders, masks of generated and of recorded clips, each NAME.npz (name of the
            generated clip) with ids [T, H, W], 0 for no object, or mask [T, H, W].
        features: Measure FVD: two .npy files [N, D], features of generated and of recorded clips.
        backbone: What made the features of FVD.
        json: Print one JSON object and nothing else on standard output.
    """

    protocol: Literal["exo2ego"]
    generated: Path
    truth: Path
    resample: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    split: str | None = None
    lpips: bool = True
    clip: Path | None = None
    masks: tuple[Path, Path] | None = None
    features: tuple[Path, Path] | None = None
    backbone: str = ""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False


def main(arguments: list[str]) -> None:
    """Parses, measures and prints protocol and means; clips without a partner go to the error stream."""
    options = tyro.cli(ExoToEgoArguments, prog="egoloom evaluate", args=arguments)
    from egoloom.evaluation.exo2ego import evaluate_exo2ego
    from egoloom.evaluation.object_masks import video_distance

    fvd = None if options.features is None else video_distance(options.features, options.backbone)
    record: dict[str, Any] = evaluate_exo2ego(
        options.generated,
        options.truth,
        resample=options.resample,
        split=options.split,
        lpips_distance=_lpips() if options.lpips else None,
        clip_similarity=_clip(options.clip),
        masks=options.masks,
    ) | {"video_distance": fvd}
    for name, reason in record["unpaired"].items():
        print(f"warning: {name} has no partner: {reason}", file=sys.stderr)
    if options.json:
        print(json.dumps(record, indent=1))
    else:
        _print(record)


def _lpips() -> Any:
    from egoloom.errors import UserError
    from egoloom.evaluation.perceptual import load_lpips

    try:
        return load_lpips()
    except UserError as error:
        print(f"warning: no ST-LPIPS: {error.what}; {error.fix}", file=sys.stderr)
        return None


def _clip(folder: Path | None) -> Any:
    if folder is None:
        return None
    from egoloom.evaluation.clip_image import ClipImageSimilarity

    return ClipImageSimilarity(folder)


def _print(record: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    print(f"{record['num_clips']} clips of {record['num_takes']} takes: {record['protocol']}")
    table = Table(box=None, pad_edge=False)
    for column in ("measure", "generated", "95 % interval", "recorded", "better"):
        table.add_column(column, justify="right" if column in ("generated", "recorded") else "left")
    for title, key, better, form in MEASURES:
        mean, recorded = record["means"][key], record["means"].get(f"recorded_{key}")
        if mean is None:
            continue
        interval = "" if mean["ci95"] is None else "{:.4g} to {:.4g}".format(*mean["ci95"])
        table.add_row(
            title, form.format(mean["mean"]), interval, form.format(recorded["mean"]) if recorded else "", better
        )
    Console().print(table)
    if (distance := record["video_distance"]) is not None:
        print(
            f"FVD {distance['fvd']:.2f} (lower is better; {distance['backbone']}; "
            f"{distance['num_generated']} generated, {distance['num_recorded']} recorded clips)"
        )
