"""Is the difference real? Bootstrap intervals over samples, t intervals over seeds, and McNemar's test.

Shape letters: N samples, S seeds.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


class Interval(NamedTuple):
    """An estimate with its confidence interval."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside the interval."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def bootstrap_interval(
    values_N: ArrayLike,
    statistic: Callable[[np.ndarray], float] | None = None,
    *,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
    groups_N: ArrayLike | None = None,
) -> Interval:
    """Returns a percentile bootstrap interval of a statistic of samples.

    Args:
        values_N: One row a sample (for instance 1.0 where right).
        statistic: From resampled rows to a number; the mean where not given.
        confidence: Coverage.
        num_resamples: Number of resamples.
        seed: Makes the interval reproducible.
        groups_N: Group of each sample (its video or participant); whole groups are resampled then, because
            neighbouring clips are not independent and an interval over single clips would be too narrow.

    Raises:
        ValueError: If there are no samples.
    """
    values = np.asarray(values_N)
    if len(values) == 0:
        raise ValueError("There are no samples to resample")
    generator = np.random.default_rng(seed)
    members = [np.array([i]) for i in range(len(values))]
    if groups_N is not None:
        groups = np.asarray(groups_N)
        members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    if statistic is None and values.ndim == 1:
        # The mean needs only sums and counts of the groups, which makes thousands of resamples one matrix product.
        sums = np.array([values[rows].sum() for rows in members], np.float64)
        counts = np.array([len(rows) for rows in members], np.float64)
        picks = generator.multinomial(len(members), np.full(len(members), 1 / len(members)), size=num_resamples)
        estimates = (picks @ sums) / (picks @ counts)
        value = float(values.mean())
    else:
        function = statistic or (lambda rows: float(rows.mean()))
        estimates = np.empty(num_resamples)
        for i in range(num_resamples):
            chosen = generator.integers(0, len(members), len(members))
            estimates[i] = function(values[np.concatenate([members[j] for j in chosen])])
        value = float(function(values))
    low, high = np.quantile(estimates, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, float(low), float(high))


def paired_bootstrap(
    a_N: ArrayLike,
    b_N: ArrayLike,
    *,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
    groups_N: ArrayLike | None = None,
) -> Interval:
    """Returns the mean of ``a - b`` over the same samples with its bootstrap interval.

    Raises:
        ValueError: If the lengths differ.
    """
    a, b = np.asarray(a_N, np.float64), np.asarray(b_N, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"Paired samples must have equal shapes, got {list(a.shape)} and {list(b.shape)}")
    return bootstrap_interval(a - b, confidence=confidence, num_resamples=num_resamples, seed=seed, groups_N=groups_N)


def seed_interval(values_S: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Returns the mean over runs with its Student-t interval (infinite for a single run).

    For two methods run with the same seeds, pass the differences: their interval says whether the gain is real.
    """
    values = np.asarray(values_S, np.float64)
    mean = float(values.mean())
    if len(values) < 2:
        return Interval(mean, -np.inf, np.inf)
    half = stats.t.ppf((1 + confidence) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return Interval(mean, mean - float(half), mean + float(half))


def mcnemar_p_value(a_right_N: ArrayLike, b_right_N: ArrayLike) -> float:
    """Returns the exact two-sided p-value of McNemar's test: are the samples that only one gets right balanced?"""
    a, b = np.asarray(a_right_N, bool), np.asarray(b_right_N, bool)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    if only_a + only_b == 0:
        return 1.0
    return float(stats.binomtest(only_a, only_a + only_b, 0.5).pvalue)
