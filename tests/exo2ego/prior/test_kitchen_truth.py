"""The prior against the kitchen's truth: pictures, depth alignment, depth scale, estimated poses."""

import importlib.util
from pathlib import Path

import pytest

from egoloom.kitchen import KitchenSettings, render_clip
from egoloom.kitchen.settings import NoiseSettings

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "ego_prior.py"


@pytest.mark.slow
def test_kitchen_figures():
    """The same measurement that ``benchmarks/ego_prior.py`` prints, on one short clip."""
    spec = importlib.util.spec_from_file_location("benchmark_ego_prior", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    settings = KitchenSettings(
        seed=3, ego_size_px=112, exo_width_px=448, exo_height_px=448, duration_s=0.5, noise=NoiseSettings.none()
    )
    figures = benchmark._kitchen_clip(render_clip(settings, 1), settings, 1)
    assert figures["kitchen_psnr_static_db"] >= 28
    assert figures["kitchen_share_static_visible"] > 0.25
    assert figures["kitchen_scale_error_aligned"] <= 0.02
    assert figures["kitchen_scale_error_solver"] <= 0.2
    assert figures["kitchen_head_error_m"] <= 0.15
    assert figures["kitchen_gaze_error_deg"] <= 45
