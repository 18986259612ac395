"""Means with intervals over seeds, paired tests, and the verdict on a claim.

The numbers are computed by SciPy and statsmodels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests

CLAIMS = ("above", "below", "alike")
_RESAMPLES = 5_000  # of the bootstrap


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval.

    Args:
        mean: of the values.
        low: lower end of the interval; NaN for n = 1.
        high: upper end; NaN for n = 1.
        n: independent values.
    """

    mean: float
    low: float
    high: float
    n: int

    def text(self, digits: int = 1, scale: float = 1.0) -> str:
        """As a table shows it, such as "65.8 [63.1, 68.5]"; a single value has no interval.

        Args:
            digits: after the decimal point.
            scale: factor to the unit of the table, such as 100 for percent.
        """
        mean = f"{scale * self.mean:.{digits}f}"
        if np.isnan(self.low):
            return mean
        return f"{mean} [{scale * self.low:.{digits}f}, {scale * self.high:.{digits}f}]"


class Difference(NamedTuple):
    """A paired difference.

    Args:
        interval: of its mean.
        p: two-sided p-value of Wilcoxon's signed-rank test.
    """

    interval: Interval
    p: float


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Mean and Student t interval of independent values.

    Args:
        values: one per seed.
        level: of the interval.

    Raises:
        ValueError: if there are no values, or one is not finite.
    """
    x = np.asarray(values, dtype=float)
    if x.size == 0 or not np.isfinite(x).all():
        raise ValueError(f"mean_interval needs finite values, at least one; got {list(values)}")
    mean = float(x.mean())
    if x.size == 1:
        return Interval(mean, np.nan, np.nan, 1)
    if np.ptp(x) == 0:
        return Interval(mean, mean, mean, x.size)
    low, high = stats.t.interval(level, x.size - 1, loc=x.mean(), scale=stats.sem(x))
    return Interval(mean, float(low), float(high), x.size)


def interquartile_mean(values: Sequence[float]) -> float:
    """Mean of the middle half of the values: robust where some runs are stuck.

    Source: Agarwal et al. (2021).
    """
    return float(stats.trim_mean(np.asarray(values, dtype=float), 0.25))


def share_interval(hits: int, n: int, level: float = 0.95) -> Interval:
    """Share hits / n with its Wilson interval.

    Args:
        hits: how many of n.
        n: independent trials.
        level: of the interval.

    Raises:
        ValueError: unless 0 <= hits <= n and n >= 1.
    """
    if not (0 <= hits <= n and n >= 1):
        raise ValueError(f"share_interval needs 0 <= hits <= n with n >= 1; got {hits} of {n}")
    wilson = stats.binomtest(hits, n).proportion_ci(level, method="wilson")
    return Interval(hits / n, float(wilson.low), float(wilson.high), n)


def paired_difference(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> Difference:
    """Interval of the mean of a - b, and p of Wilcoxon's signed-rank test (exact for few pairs).

    Args:
        a: (n,) values, one per seed.
        b: (n,) values of the same seeds in the same order.
        level: of the interval.

    Returns:
        The difference; its p is 1 if all differences are 0.

    Raises:
        ValueError: if the lengths differ.
    """
    if len(a) != len(b):
        raise ValueError(f"paired values must come in pairs; got {len(a)} and {len(b)}")
    difference = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    p = float(stats.wilcoxon(difference).pvalue) if difference.any() else 1.0
    return Difference(mean_interval(difference.tolist(), level), p)


def rank_correlation(x: Sequence[float], y: Sequence[float], level: float = 0.95) -> Interval:
    """Spearman's rank correlation with its bootstrap interval.

    The interval is given by percentiles of 5,000 resamples of the pairs, always the same ones.
    Pairs that share a task are not independent, so for distances between tasks it is narrower than
    the truth.

    Args:
        x: (n,) values.
        y: (n,) values that belong to them.
        level: of the interval.

    Raises:
        ValueError: for fewer than four pairs or different lengths.
    """
    if len(x) != len(y) or len(x) < 4:
        raise ValueError(
            "a rank correlation needs two lists of one length, four or more; "
            f"got {len(x)} and {len(y)}"
        )
    data = (np.asarray(x, dtype=float), np.asarray(y, dtype=float))
    found = stats.bootstrap(
        data,
        _spearman,
        n_resamples=_RESAMPLES,
        vectorized=True,
        paired=True,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    interval = found.confidence_interval
    return Interval(float(_spearman(*data)), float(interval.low), float(interval.high), len(x))


def holm(p: Sequence[float]) -> np.ndarray:
    """(m,) p-values adjusted for m tests by Holm's step-down method."""
    return np.asarray(multipletests(p, method="holm")[1])


def verdict(interval: Interval, claim: str, margin: float = 0.0) -> str:
    """What the runs say about a claim on a difference, judged by its interval alone.

    Args:
        interval: of the difference.
        claim: "above" (the difference exceeds the margin), "below" (it is under minus the margin)
            or "alike" (it lies within the margin).
        margin: 0 or more, in the unit of the difference.

    Returns:
        "reproduced" if the whole interval agrees, "not reproduced" if the whole interval disagrees,
        else "undecided".

    Raises:
        ValueError: for another claim.
    """
    if claim not in CLAIMS:
        raise ValueError(f"claim must be 'above', 'below' or 'alike'; got {claim!r}")
    if np.isnan(interval.low):
        return "undecided"
    if claim == "alike":
        agrees = -margin <= interval.low and interval.high <= margin
        disagrees = interval.low > margin or interval.high < -margin
    elif claim == "above":
        agrees = interval.low > margin
        disagrees = interval.high <= margin
    else:
        agrees = interval.high < -margin
        disagrees = interval.low >= -margin
    if agrees:
        return "reproduced"
    return "not reproduced" if disagrees else "undecided"


def _spearman(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    """Spearman's correlation along an axis; 0 where a resample is one pair alone."""
    a = _centred_ranks(x, axis)
    b = _centred_ranks(y, axis)
    spread = np.sqrt((a**2).sum(axis) * (b**2).sum(axis))
    covariance = (a * b).sum(axis)
    return np.where(spread > 0, covariance / np.maximum(spread, 1e-300), 0.0)


def _centred_ranks(values: np.ndarray, axis: int) -> np.ndarray:
    ranks = stats.rankdata(values, axis=axis)
    return np.asarray(ranks - ranks.mean(axis, keepdims=True))
