"""Tables about the generator, for ``render_results.py``."""

from typing import Any

REGIONS = ("psnr_db_covered", "psnr_db_holes", "psnr_db_hands_and_arms")


def tiny_quality(record: dict[str, Any]) -> str:
    """Returns the quality table of the tiny generator."""
    table = record["table"]
    has_lpips = all("st_lpips" in row for row in table.values())
    head = ["", "PSNR", "covered", "holes", "hands, arms", "SSIM", *(["ST-LPIPS"] if has_lpips else []), "CPU a clip"]
    lines = [
        f"{record['num_test_clips']} takes of {record['num_test_kitchens']} kitchens that it never saw (simulated; "
        f"64 px, 17 frames of 2 s; the prior covers {100 * record['coverage']:.0f} % of the pixels); "
        "95 % intervals over takes; `python benchmarks/tiny_egox.py quality`, record `docs/results/tiny_egox.json`.",
        "",
        "| " + " | ".join(head) + " |",
        "|---" * len(head) + "|",
    ]
    for name, row in table.items():
        seconds = row.get("cpu_s_a_clip")
        cells = [
            _name(name, row, record),
            f"{row['psnr_db']:.1f} dB ± {row['psnr_db_ci95']:.1f}",
            *(f"{row[region]:.1f}" for region in REGIONS),
            f"{row['ssim']:.3f}",
            *([f"{row['st_lpips']:.3f}"] if has_lpips else []),
            "" if seconds is None else f"{seconds:.2f} s",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _name(name: str, row: dict[str, float], record: dict[str, Any]) -> str:
    if "training_cpu_s" in row:
        millions = record["unet_num_parameters"] / 1e6
        return f"{name}, {millions:.1f} M parameters, {row['training_cpu_s'] / 60:.0f} CPU minutes"
    uses = {"tiny EgoX, steps: 2": "augment", "tiny EgoX, steps: 4, prior kept": "generate"}
    return f"**{name} (default of `{uses[name]}`)**" if name in uses else name
