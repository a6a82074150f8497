"""The same seed gives the same arrays: in any order, in another process, on generic code."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from egoloom.kitchen import KitchenSettings, render_clip

SETTINGS = KitchenSettings(ego_size_px=48, exo_width_px=64, exo_height_px=48, fps=5)
SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from test_reproducible import SETTINGS, fingerprint
from egoloom.kitchen import render_clip
print(fingerprint(render_clip(SETTINGS, 7)))
"""


def fingerprint(clip) -> str:
    digest = hashlib.sha256()
    for view in (clip.ego, clip.exo):
        for array in (view.rgb, view.depth_m, view.ids, view.flow_px, view.T_world_camera):
            digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(clip.imu.accel.tobytes() + clip.imu.gyro.tobytes())
    digest.update(b"silent" if clip.audio is None else clip.audio.tobytes())
    for table in clip.boxes.values():
        digest.update(table.boxes.tobytes() + table.score.tobytes() + " ".join(table.category).encode())
    return digest.hexdigest()


def in_another_process(**environment: str) -> str:
    command = [sys.executable, "-c", SCRIPT, os.path.dirname(__file__)]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_clip_is_the_same_alone_and_after_others():
    alone = fingerprint(render_clip(SETTINGS, 7))
    render_clip(SETTINGS, 9_999)
    assert fingerprint(render_clip(SETTINGS, 7)) == alone


def test_a_clip_is_the_same_in_another_process_with_other_thread_counts():
    assert in_another_process(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1") == fingerprint(render_clip(SETTINGS, 7))


@pytest.mark.slow
def test_a_clip_is_the_same_on_generic_code_and_other_blas_kernels():
    other = in_another_process(NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="", OPENBLAS_CORETYPE="Haswell")
    assert other == fingerprint(render_clip(SETTINGS, 7))


def test_another_seed_gives_another_clip():
    other = SETTINGS.model_copy(update={"seed": 1})
    assert fingerprint(render_clip(other, 7)) != fingerprint(render_clip(SETTINGS, 7))


def test_noise_options_leave_the_geometry_alone():
    quiet = SETTINGS.model_copy(update={"noise": type(SETTINGS.noise).none()})
    noisy_clip, quiet_clip = render_clip(SETTINGS, 7), render_clip(quiet, 7)
    np.testing.assert_array_equal(noisy_clip.ego.depth_m, quiet_clip.ego.depth_m)
    np.testing.assert_array_equal(noisy_clip.exo.ids, quiet_clip.exo.ids)
    assert (noisy_clip.ego.rgb != quiet_clip.ego.rgb).any()


def test_kernels_work_without_any_writable_cache(tmp_path):
    """A read-only installation without a home folder: numba finds no place for its cache."""
    code = (
        "import numba.core.caching as c\n"
        "c.CacheImpl._locator_classes = []\n"
        "c.CompileResultCacheImpl._locator_classes = []\n"
        "from egoloom.kitchen.raster import draw\n"
        "from egoloom.kitchen.boxes import true_extents\n"
        "import numpy as np\n"
        "print(true_extents(np.ones((1, 4, 6), np.uint8), 2)[0, 1].tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "[0, 0, 6, 4, 24]"
