"""The learning-rate schedule against recorded rates and closed forms."""

import numpy as np
import pytest

from egoloom.training.schedule import learning_rate


def test_linear_schedule_equals_the_recorded_rates(golden):
    recorded = np.load(golden / "distillation" / "lr_schedule.npz", allow_pickle=False)
    names = {key.split("/")[0] for key in recorded.files}
    assert names
    for name in names:
        warmup, total, base = recorded[f"{name}/config"]
        ours = [
            learning_rate(step, base=base, num_steps=int(total), num_warmup_steps=int(warmup))
            for step in range(int(total) + 3)
        ]
        np.testing.assert_allclose(ours, recorded[f"{name}/lr"], atol=1e-12)


@pytest.mark.parametrize(("step", "share"), [(10, 1.0), (60, 0.5), (110, 0.0), (200, 0.0)])
def test_cosine_falls_along_half_a_cosine(step, share):
    rate = learning_rate(step, base=0.1, num_steps=110, num_warmup_steps=10, schedule="cosine")
    assert rate == pytest.approx(0.1 * share, abs=1e-12)


def test_constant_stays_after_the_warm_up():
    rates = [learning_rate(s, base=1.0, num_steps=9, num_warmup_steps=4, schedule="constant") for s in (0, 2, 4, 50)]
    assert rates == [0.0, 0.5, 1.0, 1.0]
