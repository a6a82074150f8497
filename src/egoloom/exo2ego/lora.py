"""LoRA files for Wan transformers: every naming in use, one key report, loading, fusing and saving.

Accepted: prefixes none, ``transformer.``, ``diffusion_model.``, ``base_model.model.``; suffixes ``lora_A/lora_B``
(with or without an adapter name) and ``lora_down/lora_up`` with ``alpha``; module names of diffusers and of the native
Wan code (``self_attn.q`` ...).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from egoloom._distributed import full_tensors, is_main
from egoloom.errors import UserError

# Targets of the published EgoX weights: both attentions of every block, not the added image projections.
REFERENCE_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
PREFIXES = ("base_model.model.", "transformer.", "diffusion_model.", "model.")
_NATIVE_NAMES = (
    (r"\bself_attn\.(q|k|v)\b", r"attn1.to_\1"),
    (r"\bcross_attn\.(q|k|v)\b", r"attn2.to_\1"),
    (r"\bself_attn\.o\b", "attn1.to_out.0"),
    (r"\bcross_attn\.o\b", "attn2.to_out.0"),
    (r"\bcross_attn\.k_img\b", "attn2.add_k_proj"),
    (r"\bcross_attn\.v_img\b", "attn2.add_v_proj"),
    (r"\bffn\.0\b", "ffn.net.0.proj"),
    (r"\bffn\.2\b", "ffn.net.2"),
)
_KEY = re.compile(r"^(?P<module>.+?)\.(?P<kind>lora_A|lora_B|lora_down|lora_up)(?:\.(?P<adapter>[^.]+))?\.weight$")


@dataclass(frozen=True)
class LoraReport:
    """What of a file fits a transformer.

    Args:
        num_tensors: Tensors in the file.
        rank: Rank of the file (the largest, where layers differ).
        matched: Modules that get a pair of matrices.
        missing: Target modules of the transformer for which the file holds nothing.
        unexpected: Keys that belong to no module of the transformer, or that no naming explains.
        mismatched: Modules whose matrices have another size than the transformer's layer.
    """

    num_tensors: int
    rank: int
    matched: tuple[str, ...]
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()

    def summary(self) -> str:
        """Returns one line."""
        return (
            f"{self.num_tensors} tensors, rank {self.rank}: {len(self.matched)} modules matched, "
            f"{len(self.missing)} missing, {len(self.unexpected)} unexpected, {len(self.mismatched)} of another size"
        )


@dataclass
class LoraWeights:
    """A LoRA in diffusers naming with the scale folded in.

    Args:
        down: ``[rank, in]`` per module.
        up: ``[out, rank]`` per module, already multiplied with alpha / rank.
        unexplained: Keys that no naming explains.
        num_tensors: Tensors in the file.
    """

    down: dict[str, torch.Tensor] = field(default_factory=dict)
    up: dict[str, torch.Tensor] = field(default_factory=dict)
    unexplained: list[str] = field(default_factory=list)
    num_tensors: int = 0

    def compare(self, transformer: torch.nn.Module, targets: Iterable[str] = REFERENCE_TARGETS) -> LoraReport:
        """Returns the full key report against a transformer, which may live on the meta device."""
        layers = {  # a layer that carries a LoRA already is inside of it
            name.removesuffix(".base_layer"): module
            for name, module in transformer.named_modules()
            if isinstance(module, torch.nn.Linear) and ".lora_" not in name
        }
        wanted = {name for name in layers if ".attn" in name and name.endswith(tuple(f".{t}" for t in targets))}
        matched, mismatched, unexpected = [], [], list(self.unexplained)
        for name in sorted(self.down.keys() | self.up.keys()):
            if name not in layers or name not in self.down or name not in self.up:
                unexpected.append(name)
                continue
            layer, down, up = layers[name], self.down[name], self.up[name]
            fits = down.shape[1] == layer.in_features and up.shape[0] == layer.out_features
            (matched if fits and down.shape[0] == up.shape[1] else mismatched).append(name)
        return LoraReport(
            num_tensors=self.num_tensors,
            rank=max((len(value) for value in self.down.values()), default=0),
            matched=tuple(matched),
            missing=tuple(sorted(wanted - set(matched) - set(mismatched))),
            unexpected=tuple(unexpected),
            mismatched=tuple(mismatched),
        )


def canonical_module(name: str) -> str:
    """Returns the diffusers name of a module: prefixes stripped, native Wan names translated."""
    stripped = True
    while stripped:
        stripped = False
        for prefix in PREFIXES:
            if name.startswith(prefix):
                name, stripped = name[len(prefix) :], True
    for pattern, replacement in _NATIVE_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def parse_lora(tensors: Mapping[str, torch.Tensor]) -> LoraWeights:
    """Returns a LoRA in diffusers naming from tensors under any accepted naming.

    Where a file stores ``alpha``, the up matrix is multiplied with ``alpha / rank``; without it the scale is 1.
    """
    weights, alphas = LoraWeights(num_tensors=len(tensors)), {}
    for key, tensor in tensors.items():
        if key.endswith(".alpha"):
            alphas[canonical_module(key.removesuffix(".alpha"))] = float(tensor) if not tensor.is_meta else None
            continue
        match = _KEY.match(key)
        if match is None:
            weights.unexplained.append(key)
            continue
        side = weights.down if match["kind"] in {"lora_A", "lora_down"} else weights.up
        side[canonical_module(match["module"])] = tensor
    for module, alpha in alphas.items():
        if module not in weights.up or module not in weights.down:
            weights.unexplained.append(f"{module}.alpha")
        elif alpha is not None:
            weights.up[module] = weights.up[module] * (alpha / len(weights.down[module]))
    return weights


def read_lora(path: str | Path) -> LoraWeights:
    """Returns the LoRA of a safetensors file, or of the standard file name in a folder.

    Raises:
        UserError: If there is no such file, or it is not a safetensors file.
    """
    path = Path(path)
    path = path / "pytorch_lora_weights.safetensors" if path.is_dir() else path
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"Cannot read LoRA weights from {path}: {error}", allowed="a .safetensors file") from error
    return parse_lora(tensors)


def load_lora(
    transformer: WanTransformer3DModel,
    source: str | Path | Mapping[str, torch.Tensor] | LoraWeights,
    *,
    adapter_name: str = "default",
    scale: float = 1.0,
    strict: bool = True,
) -> LoraReport:
    """Adds a LoRA to a transformer, unfused, and returns the key report.

    Args:
        transformer: A stock Wan transformer.
        source: A file, a folder, tensors under any accepted naming, or parsed weights.
        adapter_name: Name under which peft keeps it.
        scale: Additional factor.
        strict: Refuses files that do not fit completely; otherwise loads what fits.

    Raises:
        UserError: If nothing fits, or ``strict`` and something does not.
    """
    from peft import LoraConfig, set_peft_model_state_dict

    if isinstance(source, (str, Path)):
        source = read_lora(source)
    weights = source if isinstance(source, LoraWeights) else parse_lora(source)
    report = weights.compare(transformer)
    faults = report.missing or report.unexpected or report.mismatched
    if not report.matched or (strict and faults):
        raise UserError(
            f"The LoRA does not fit this transformer ({report.summary()}); {_first_faults(report)}",
            allowed="a LoRA that was trained for this base model",
            fix="use the matching base model, or load what fits with strict=False",
        )
    ranks = {name: len(weights.down[name]) for name in report.matched}
    pattern = {f"^{re.escape(name)}": rank for name, rank in ranks.items()}
    compute_dtype = transformer.dtype
    transformer.add_adapter(
        LoraConfig(
            r=report.rank,
            lora_alpha=report.rank,
            rank_pattern=pattern if len(set(ranks.values())) > 1 else {},
            alpha_pattern=pattern if len(set(ranks.values())) > 1 else {},
            target_modules=list(report.matched),
        ),
        adapter_name=adapter_name,
    )
    for name, parameter in transformer.named_parameters():
        if f".{adapter_name}." in name and "lora_" in name:
            # peft takes the type in which the base is stored; a quantised base computes in another one.
            parameter.data = parameter.data.to(compute_dtype)
    state = {f"{name}.lora_A.weight": weights.down[name] for name in report.matched}
    state |= {f"{name}.lora_B.weight": weights.up[name] * scale for name in report.matched}
    outcome = set_peft_model_state_dict(transformer, state, adapter_name=adapter_name)
    if outcome.unexpected_keys:
        raise UserError(f"peft did not accept {len(outcome.unexpected_keys)} keys, e.g. {outcome.unexpected_keys[0]}")
    return report


def load_loras(transformer: WanTransformer3DModel, sources: Iterable[str | Path]) -> list[LoraReport]:
    """Adds several LoRA at once, unfused, so that their changes add up; see :func:`load_lora`."""
    names = {f"lora{number}": source for number, source in enumerate(sources)}
    reports = [load_lora(transformer, source, adapter_name=name) for name, source in names.items()]
    transformer.set_adapters(list(names))  # peft uses only the last one otherwise
    return reports


def _first_faults(report: LoraReport) -> str:
    parts = []
    for label, names in (
        ("missing", report.missing),
        ("unexpected", report.unexpected),
        ("of another size", report.mismatched),
    ):
        if names:
            parts.append(f"{label}: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}")
    return "; ".join(parts) or "no key names a module of a Wan transformer"


def lora_state(transformer: WanTransformer3DModel, adapter_name: str = "default") -> dict[str, torch.Tensor]:
    """Returns a trained LoRA under the published naming, ``transformer.blocks...lora_A.weight``."""
    from peft import get_peft_model_state_dict

    state = full_tensors(get_peft_model_state_dict(transformer, adapter_name=adapter_name), keep=True)
    return {f"transformer.{key}": value.contiguous() for key, value in state.items()}


def save_lora(transformer: WanTransformer3DModel, folder: str | Path, adapter_name: str = "default") -> Path:
    """Writes a LoRA under the published file and key names and returns its path; atomic.

    All processes must call it: each holds a part of sharded weights, and the main one writes.
    """
    state = lora_state(transformer, adapter_name)
    folder = Path(folder)
    path = folder / "pytorch_lora_weights.safetensors"
    if is_main():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        save_file(state, part)
        part.replace(path)
    return path
