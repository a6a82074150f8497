"""Time and peak memory of geometry-guided attention: ours, plain attention, and the reference's way.

One layer's attention over the joint sequence of exo and ego tokens, head width 128, on the CPU:

    plain      scaled dot-product attention without any bias
    blocks     ours, bias of one query frame at a time (generation)
    cached     ours, bias of the ego rows kept once per clip (training)
    vmf        ours, linear bias as extra query and key features
    reference  the way of the public EgoX code: an N x N cosine matrix in float32 for the clip, its logarithm over the
               whole matrix in every layer, a three-dimensional mask, gathered and scattered rows
    reference4d  the same with a four-dimensional mask, which lets PyTorch take its fused kernel

Every method runs in a process of its own; memory is the peak of the resident set above the inputs. Times are the
smallest of several alternating runs, in CPU seconds (all threads), because machines are shared.

    python benchmarks/geometry_attention.py --tokens 17248 --heads 8 --dtype bf16 --mode blocks --json
    python benchmarks/geometry_attention.py --all --repeats 1 --out docs/results/geometry_attention.json
"""

import argparse
import ctypes
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn.functional import normalize, scaled_dot_product_attention

from egoloom.clips.files import write_text
from egoloom.exo2ego.bias import DirectionTables
from egoloom.exo2ego.guided_attention import ActiveGuidance, attend
from egoloom.exo2ego.layout import CanvasLayout

HEAD_DIM = 128
# Latent cells of one frame at full size: 56 rows, 98 exo and 56 ego columns, 2,156 tokens.
ROWS, EXO_COLUMNS, EGO_COLUMNS, TOKENS_PER_FRAME = 56, 98, 56, 2156
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
OURS = ("blocks", "cached", "vmf")
REFERENCES = ("reference", "reference4d")
MEGABYTE = 1e6


def canvas(num_tokens: int) -> CanvasLayout:
    frames = round(num_tokens / TOKENS_PER_FRAME)
    if frames < 1 or frames * TOKENS_PER_FRAME != num_tokens:
        near = max(1, frames) * TOKENS_PER_FRAME
        sys.exit(f"{num_tokens} tokens are no whole frames of {TOKENS_PER_FRAME}; try --tokens {near}")
    return CanvasLayout(frames, ROWS, EXO_COLUMNS, EGO_COLUMNS)


def make_inputs(layout: CanvasLayout, heads: int, dtype: torch.dtype):
    generator = torch.Generator().manual_seed(0)
    shape = (1, heads, layout.num_tokens, HEAD_DIM)
    query, key, value = (torch.randn(shape, generator=generator).to(dtype) for _ in range(3))
    frames = layout.token_frames
    rays = normalize(torch.randn(1, frames, layout.ego_tokens_per_frame, 3, generator=generator), dim=-1)
    directions = normalize(torch.randn(1, frames, layout.num_exo_tokens, 3, generator=generator), dim=-1)
    return query, key, value, DirectionTables(rays, directions)


def reference_cosine(layout: CanvasLayout, tables: DirectionTables, scale: float) -> torch.Tensor:
    """The clip's dense cosine matrix [1, N, N] in the transformer's own token order."""
    exo, ego = layout.exo_token_index(), layout.ego_token_index()
    frames, per_frame = layout.token_frames, layout.ego_tokens_per_frame
    cosine = torch.zeros(1, layout.num_tokens, layout.num_tokens)
    for frame in range(frames):
        rows = ego[frame * per_frame : (frame + 1) * per_frame]
        block = tables.rays_BFPC[0, frame] @ tables.directions_BFKC[0, frame].T
        cosine[0, rows[:, None], exo] = block.clamp(-1, 1)
    if scale > 1:
        positive = cosine > 0
        cosine[positive] = cosine[positive] * scale
    else:
        cosine = cosine * scale
    return cosine


def reference_layer(query, key, value, cosine, layout: CanvasLayout, four_dimensional: bool) -> torch.Tensor:
    """One layer as the public code does it: logarithm of everything, ego rows cut out, two calls, scatter."""
    exo, ego = layout.exo_token_index(), layout.ego_token_index()
    bias = torch.log(cosine + 1 + 1e-6)
    mask = bias[:, ego].to(query.dtype)
    mask = mask[:, None] if four_dimensional else mask
    out = torch.empty_like(query)
    out[:, :, exo] = scaled_dot_product_attention(query[:, :, exo], key, value)
    out[:, :, ego] = scaled_dot_product_attention(query[:, :, ego], key, value, attn_mask=mask)
    return out


def layer_of(method: str, layout: CanvasLayout, inputs, scale: float) -> Callable[[], torch.Tensor]:
    """Prepares what a method keeps for a clip and returns its layer."""
    query, key, value, tables = inputs
    if method == "plain":
        return lambda: scaled_dot_product_attention(query, key, value)
    if method in REFERENCES:
        cosine = reference_cosine(layout, tables, scale)
        return lambda: reference_layer(query, key, value, cosine, layout, method == "reference4d")
    kappa = torch.ones(1, query.shape[1]) if method == "vmf" else None
    guidance = ActiveGuidance(layout, tables, scale, method, kappa_LH=kappa)  # type: ignore[arg-type]
    if method == "cached":
        guidance.ego_rows(query.dtype)
    return lambda: attend(query, key, value, guidance)


def resident_mb(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024 / MEGABYTE
    raise RuntimeError(f"/proc/self/status has no {field}")


@torch.no_grad()
def measure_memory(method: str, layout: CanvasLayout, heads: int, dtype: torch.dtype, scale: float) -> dict[str, float]:
    small = canvas(TOKENS_PER_FRAME)
    layer_of(method, small, make_inputs(small, 1, dtype), scale)()  # libraries allocate on first use
    inputs = make_inputs(layout, heads, dtype)
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # gives freed memory back, which a layer could otherwise use unseen
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = resident_mb("VmRSS")
    started = time.process_time()
    layer = layer_of(method, layout, inputs, scale)
    prepare_s = time.process_time() - started
    layer()
    return {"peak_mb": resident_mb("VmHWM") - before, "prepare_s": prepare_s}


@torch.no_grad()
def measure_time(
    methods: list[str], layout: CanvasLayout, heads: int, dtype: torch.dtype, scale: float, repeats: int
) -> dict[str, dict[str, float]]:
    inputs = make_inputs(layout, heads, dtype)
    layers = {method: layer_of(method, layout, inputs, scale) for method in methods}
    best = {method: {"cpu_s": float("inf"), "wall_s": float("inf")} for method in methods}
    for round_number in range(repeats + 1):
        for method, layer in layers.items():
            cpu, wall = time.process_time(), time.perf_counter()
            layer()
            taken = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
            if round_number:  # the first round warms up
                best[method] = {key: min(value, taken[key]) for key, value in best[method].items()}
    return best


def in_own_process(arguments: argparse.Namespace, **changes: object) -> dict:
    """Runs one measurement in a fresh process and returns its JSON."""
    values = {**vars(arguments), **changes}
    names = ("tokens", "heads", "dtype", "scale", "repeats", "threads", "worker")
    command = [sys.executable, __file__] + [part for name in names for part in (f"--{name}", str(values[name]))]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        return {"failed": (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]}
    return json.loads(result.stdout.splitlines()[-1])


def reference_needs_mb(num_tokens: int, heads: int, dtype: str) -> float:
    """About what the reference's way allocates (a quarter above its two largest pairs), to refuse what cannot fit."""
    ego = round(num_tokens * EGO_COLUMNS / (EXO_COLUMNS + EGO_COLUMNS))
    return 1.25 * (2 * 4 * num_tokens**2 + 8 * heads * ego * num_tokens) / MEGABYTE


def available_mb() -> float:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) * 1024 / MEGABYTE
    return 0.0


def compare(arguments: argparse.Namespace, modes: tuple[str, ...]) -> list[dict[str, object]]:
    """Measures modes beside plain attention, all in one process, and the reference's way."""
    fits = reference_needs_mb(arguments.tokens, arguments.heads, arguments.dtype) < 0.7 * available_mb()
    timing = in_own_process(arguments, worker=",".join(("time:plain", *modes)))
    memory = {
        method: in_own_process(arguments, worker=f"memory:{method}")
        for method in ("plain", *modes, *(REFERENCES[:1] if fits else ()))
    }
    reference_time = in_own_process(arguments, worker="time:reference", repeats=1) if fits else {}
    known = fits and "failed" not in memory["reference"] and "failed" not in reference_time
    reference = reference_time["reference"]["cpu_s"] if known else None
    reference_mb = memory["reference"]["peak_mb"] if known else None
    return [row_of(arguments, mode, timing, memory, reference, reference_mb) for mode in modes]


def row_of(
    arguments: argparse.Namespace,
    mode: str,
    timing: dict,
    memory: dict,
    reference_s: float | None,
    reference_mb: float | None,
) -> dict[str, object]:
    """One mode's figures and their ratios; those to the reference are None where it does not fit in memory."""
    ours, plain, memory_mb = timing[mode], timing["plain"], memory[mode]["peak_mb"]
    return {
        **{name: getattr(arguments, name) for name in ("tokens", "heads", "dtype", "scale")},
        "mode": mode,
        "time_s": ours["cpu_s"],
        "plain_time_s": plain["cpu_s"],
        "reference_time_s": reference_s,
        "wall_s": ours["wall_s"],
        "plain_wall_s": plain["wall_s"],
        "prepare_s": memory[mode]["prepare_s"],
        "memory_mb": memory_mb,
        "plain_memory_mb": memory["plain"]["peak_mb"],
        "reference_memory_mb": reference_mb,
        "time_ratio_to_plain": ours["cpu_s"] / plain["cpu_s"],
        "wall_ratio_to_plain": ours["wall_s"] / plain["wall_s"],
        "time_ratio_to_reference": None if reference_s is None else ours["cpu_s"] / reference_s,
        "memory_ratio_to_reference": None if reference_mb is None else memory_mb / reference_mb,
    }


def run_worker(arguments: argparse.Namespace) -> None:
    kind, _, methods = arguments.worker.partition(":")
    layout, dtype = canvas(arguments.tokens), DTYPES[arguments.dtype]
    if kind == "memory":
        print(json.dumps(measure_memory(methods, layout, arguments.heads, dtype, arguments.scale)))
    else:
        names = methods.split(",")
        print(json.dumps(measure_time(names, layout, arguments.heads, dtype, arguments.scale, arguments.repeats)))


def run_all(arguments: argparse.Namespace) -> None:
    """The whole table: sizes, types, factors and heads, as far as memory allows."""
    rows: list[dict[str, object]] = []
    for dtype in DTYPES:
        for tokens, heads in ((2156, 40), (8624, 8), (8624, 40), (17248, 8), (28028, 2)):
            for scale in (1.0, 3.0):
                modes = OURS if scale == 1.0 else OURS[:2]  # the linear bias of vmf has kappa in place of the factor
                changed = {"tokens": tokens, "heads": heads, "dtype": dtype, "scale": scale}
                for row in compare(argparse.Namespace(**{**vars(arguments), **changed}), modes):
                    rows.append(row)
                    print(json.dumps(row), flush=True)
                if arguments.out:
                    record = {"threads": arguments.threads, "repeats": arguments.repeats, "rows": rows}
                    write_text(arguments.out, json.dumps(record, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=8624, help="multiple of 2156, up to 28028")
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bf16")
    parser.add_argument("--mode", choices=OURS, default="blocks")
    parser.add_argument("--scale", type=float, default=3.0, help="the factor lambda")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--all", action="store_true", help="print the whole table as JSON lines")
    parser.add_argument("--out", type=Path, help="with --all: also write all rows to this file")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    canvas(arguments.tokens)
    if arguments.worker:
        run_worker(arguments)
    elif arguments.all:
        run_all(arguments)
    else:
        row = compare(arguments, (arguments.mode,))[0]
        if arguments.json:
            print(json.dumps(row))
        else:
            for key, value in row.items():
                print(f"{key:28} {value:.4g}" if isinstance(value, float) else f"{key:28} {value}")


if __name__ == "__main__":
    main()
