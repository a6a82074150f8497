"""The memory plan against known sizes and against measured peaks at small size."""

import json
import os
import subprocess
import sys

import pytest

from egoloom.errors import UserError
from egoloom.exo2ego.layout import CanvasLayout
from egoloom.exo2ego.memory_plan import (
    WAN_14B,
    PlanConfig,
    all_plans,
    component_parameters,
    lora_parameters,
    make_plan,
    transformer_activation_bytes,
)

SMALL = {"num_attention_heads": 4, "attention_head_dim": 64, "in_channels": 36, "out_channels": 16, "ffn_dim": 1024,
         "num_layers": 1, "text_dim": 32}  # fmt: skip
MEASURE = """
import json, sys, torch
from pathlib import Path
from diffusers import WanTransformer3DModel
from egoloom.exo2ego.attention import GeometryGuidance
from egoloom.exo2ego.guided_attention import ActiveGuidance
from egoloom.exo2ego.bias import DirectionTables
from egoloom.exo2ego.layout import CanvasLayout

def resident(field):
    line = next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith(field))
    return int(line.split()[1]) * 1024

torch.set_num_threads(1)
model = WanTransformer3DModel(**json.loads(sys.argv[1])).eval()
guidance = GeometryGuidance().install(model)

@torch.no_grad()
def run(layout, mode):
    tables = DirectionTables(
        torch.randn(1, layout.token_frames, layout.ego_tokens_per_frame, 3) / 3,
        torch.randn(1, layout.token_frames, layout.num_exo_tokens, 3) / 3,
    )
    x = torch.randn(1, 36, layout.num_frames, layout.height, layout.width)
    text = torch.zeros(1, 8, 32)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    with guidance.active(ActiveGuidance(layout, tables, 1.0, mode)):
        model(x, torch.tensor([500]), text, return_dict=False)
    return resident("VmHWM") - before

run(CanvasLayout(1, 4, 4, 4), "blocks")
print(json.dumps({mode: run(CanvasLayout(2, 56, 98, 56), mode) for mode in ("blocks", "cached")}))
"""


def test_component_sizes_are_the_published_ones() -> None:
    sizes = component_parameters()
    assert sizes["transformer"] * 4 / 1e9 == pytest.approx(65.6, abs=0.1)
    assert sizes["text_encoder"] * 4 / 1e9 == pytest.approx(22.7, abs=0.1)
    assert sizes["image_encoder"] * 2 / 1e9 == pytest.approx(1.26, abs=0.02)
    assert sizes["vae"] * 4 / 1e9 == pytest.approx(0.51, abs=0.01)
    assert lora_parameters(WAN_14B, 256) == 838_860_800


@pytest.mark.parametrize("budget_gb", [80, 48, 24, 16])
def test_every_budget_has_a_plan_that_fits(budget_gb: float) -> None:
    plan = make_plan(PlanConfig(budget_gb=budget_gb))
    assert plan.fits
    assert plan.peak_gb == max(stage.total_gb for stage in plan.stages)


def test_plans_get_smaller_and_a_tiny_budget_is_told_the_truth() -> None:
    peaks = [plan.peak_gb for plan in all_plans(PlanConfig())]
    assert peaks == sorted(peaks, reverse=True)
    assert not make_plan(PlanConfig(budget_gb=2.0)).fits
    with pytest.raises(UserError, match="4 k \\+ 1"):
        make_plan(PlanConfig(num_frames=48))
    with pytest.raises(UserError, match="divisible by 16"):
        make_plan(PlanConfig(height=450))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_predicted_activations_are_the_measured_peaks() -> None:
    # Large tensors get pages of their own, so that the resident set is what lives and not what the heap keeps.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}
    command = [sys.executable, "-c", MEASURE, json.dumps(SMALL)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    measured = json.loads(result.stdout.splitlines()[-1])
    layout = CanvasLayout(2, 56, 98, 56)
    for mode in ("blocks", "cached"):
        predicted = transformer_activation_bytes(SMALL, layout, element=4, mode=mode)
        print(f"{mode}: predicted {predicted / 1e6:.0f} MB, measured {measured[mode] / 1e6:.0f} MB")
        assert predicted == pytest.approx(measured[mode], rel=0.25)
