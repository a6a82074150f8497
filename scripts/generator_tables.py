"""Tables about the generator, for ``render_results.py``."""

from typing import Any

from egoloom.evaluation.significance import seed_interval

VARIANTS = {
    "full": "full: correct rays, hole mask, clean exo latents",
    "no_prior": "without prior",
    "no_geometry": "without geometry-guided attention",
    "noisy_exo": "without clean exo latents",
    "rays_10_deg_off": "rays turned by 10 degrees, the mean error of the reference's",
    "no_hole_mask": "without hole mask",
    "vmf": "linear bias instead (`vmf`)",
}
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


def tiny_ablation(record: dict[str, Any]) -> str:
    """Returns the table of ablations: PSNR, SSIM and the paired difference to the full model over seeds."""
    rows = {(row["variant"], row["seed"]): row for row in record["rows"]}
    papers = {row["variant"]: row["paper_psnr_db"] for row in record["summary"]}
    seeds = sorted({seed for _, seed in rows})
    options = " ".join(f"--{name.replace('_', '-')} {record['settings'][name]}" for name in ("steps", "train_limit"))
    command = f"python benchmarks/tiny_egox.py ablation --store STORE {options}"
    lines = [
        f"{record['num_train_clips']} training and {record['num_test_clips']} test takes of unseen kitchens "
        f"(simulated, 64 px), {record['steps']} steps each, {len(seeds)} seeds, 95 % intervals over seeds; "
        f"`{command}`, record `docs/results/tiny_egox_ablation.json`. "
        "Tiny scale: not comparable with the paper's column, which stands there for orientation.",
        "",
        "| variant | PSNR | SSIM | against full, dB | paper, 14B, seen scenes |",
        "|---|---|---|---|---|",
    ]
    for variant in papers:
        psnr, similarity, loss = (
            seed_interval([value(seed) for seed in seeds])
            for value in (
                lambda seed, v=variant: rows[v, seed]["psnr_db"],
                lambda seed, v=variant: rows[v, seed]["ssim"],
                lambda seed, v=variant: rows[v, seed]["psnr_db"] - rows["full", seed]["psnr_db"],
            )
        )
        difference = "" if variant == "full" else f"{loss.value:+.2f} [{loss.low:+.2f}, {loss.high:+.2f}]"
        paper = "" if papers[variant] is None else f"{papers[variant]:.2f} dB"
        name, figures = VARIANTS.get(variant, variant), f"{psnr.value:.2f} dB | {similarity.value:.3f}"
        lines.append(f"| {name} | {figures} | {difference} | {paper} |")
    return "\n".join(lines)
