"""Means with intervals over seeds, the tests that claims need, and verdicts on claims.

The numbers are computed by SciPy and statsmodels.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from math import prod
from typing import NamedTuple

import numpy as np
from numpy import nan
from scipy import stats
from statsmodels.stats.power import TTestPower

CLAIMS = ("above", "below", "alike")
SIGNIFICANT = 0.05  # a p below it decides
FEWEST = 5  # values for an interval or a verdict
_MOST_TASKS = 7  # whose 5,040 orders are all tried
_ORDERS = 5_000  # that are drawn for more tasks
_MOST_SEEDS = 100_000  # where the search for enough seeds ends
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval, or with its values where they are too few for one.

    Args:
        mean: of the values.
        low: lower end of the interval; NaN where there is none.
        high: upper end; NaN where there is none.
        n: independent values.
        points: the values themselves, if they are fewer than an interval needs.
    """

    mean: float
    low: float
    high: float
    n: int
    points: tuple[float, ...] = ()

    def within(self, low: float, high: float) -> "Interval":
        """The same, for a mean that lies between low and high, as a share does between 0 and 1."""
        ends = np.clip([self.low, self.high], low, high)
        return replace(self, low=float(ends[0]), high=float(ends[1]))

    def text(self, digits: int = 1, scale: float = 1.0) -> str:
        """As a table shows it: mean and interval, "65.8 [63.1, 68.5]", or mean and points.

        Two to four points stand in brackets, "65.8 (64.9, 66.7)". One value stands alone, and so
        does the mean of equal values.

        Args:
            digits: after the decimal point.
            scale: factor to the unit of the table, such as 100 for percent.
        """
        mean = f"{scale * self.mean:.{digits}f}"
        if not np.isnan(self.low):
            return f"{mean} [{scale * self.low:.{digits}f}, {scale * self.high:.{digits}f}]"
        if len(self.points) < 2:
            return mean
        return f"{mean} ({', '.join(f'{scale * point:.{digits}f}' for point in self.points)})"


class Evidence(NamedTuple):
    """What the values of the seeds say about one claim, before any other claim is looked at.

    Args:
        interval: 95 % interval of the mean.
        p: of the test that the claim needs; NaN without spread, or with too few seeds.
        opposite: p of the test of the opposite; NaN likewise.
        wilcoxon: two-sided p of Wilcoxon's signed-rank test; NaN with too few seeds.
    """

    interval: Interval
    p: float
    opposite: float
    wilcoxon: float


class Verdict(NamedTuple):
    """A verdict with the p-values that decide it, adjusted for all claims that were judged.

    Args:
        says: "reproduced", "not reproduced", "undecided", or "undecided (...)" with the reason why
            nothing was tested.
        p: of the claim.
        opposite: p of its opposite.
        wilcoxon: p of Wilcoxon's test; decides nothing.
    """

    says: str
    p: float
    opposite: float
    wilcoxon: float


class Association(NamedTuple):
    """A rank correlation over ordered pairs of tasks.

    Args:
        interval: of the correlation; its n counts tasks.
        falls: one-sided p of "one falls as the other rises".
        rises: one-sided p of "both rise together".
    """

    interval: Interval
    falls: float
    rises: float


# --- means and shares -----------------------------------------------------------------------------


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Mean and Student t interval of independent values.

    There is no interval for fewer than five values, nor for values that are all the same: their
    spread says nothing about how far the mean is from the truth.

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
    if not _testable(x):
        points = tuple(x.tolist()) if x.size < FEWEST else ()
        return Interval(mean, np.nan, np.nan, x.size, points)
    low, high = stats.t.interval(level, x.size - 1, loc=mean, scale=stats.sem(x))
    return Interval(mean, float(low), float(high), x.size)


def prediction_interval(values: Sequence[float], further: int = 1, level: float = 0.95) -> Interval:
    """Mean of independent values, and where the mean of further ones would lie.

    mean +- t s sqrt(1/m + 1/n) for m further values: unlike the interval of the mean it does not
    shrink to nothing with more values. A published number is compared with it. As for
    `mean_interval`, fewer than five values have none.

    Args:
        values: one per seed.
        further: how many values the other mean is of; 1 for a single number.
        level: share of such intervals that hold the mean of the further values.

    Raises:
        ValueError: as `mean_interval`.
    """
    interval = mean_interval(values, level)
    reach = (interval.high - interval.mean) * (interval.n / further + 1) ** 0.5
    return replace(interval, low=interval.mean - reach, high=interval.mean + reach)


def interquartile_mean(values: Sequence[float]) -> float:
    """Mean of the middle half of the values: robust where some runs are stuck.

    Source: Agarwal et al. (2021).
    """
    return float(stats.trim_mean(np.asarray(values, dtype=float), 0.25))


def share_interval(hits: int, n: int, level: float = 0.95) -> Interval:
    """Share hits / n with its Clopper-Pearson interval, which holds at least its level.

    Args:
        hits: how many of n.
        n: independent trials.
        level: of the interval.

    Raises:
        ValueError: unless 0 <= hits <= n and n >= 1.
    """
    if not (0 <= hits <= n and n >= 1):
        raise ValueError(f"share_interval needs 0 <= hits <= n with n >= 1; got {hits} of {n}")
    exact = stats.binomtest(hits, n).proportion_ci(level, method="exact")
    return Interval(hits / n, float(exact.low), float(exact.high), n)


def image_margin(accuracy: float, images: int, level: float = 0.95) -> float:
    """Half-width of the interval of a difference of two accuracies, from the images alone.

    margin = z sqrt(2 a (1 - a) / n): each accuracy is measured on n images, and the choice of the
    seed is not in it.

    Args:
        accuracy: near which both lie, as a fraction.
        images: on which each is measured.
        level: of the interval.
    """
    return float(stats.norm.isf((1 - level) / 2) * (2 * accuracy * (1 - accuracy) / images) ** 0.5)


# --- tests and verdicts ---------------------------------------------------------------------------


def paired_difference(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> Interval:
    """Mean of a - b with its Student t interval, see `mean_interval`.

    Args:
        a: (n,) values, one per seed.
        b: (n,) values of the same seeds in the same order.
        level: of the interval.

    Raises:
        ValueError: if the lengths differ, and what `mean_interval` raises.
    """
    if len(a) != len(b):
        raise ValueError(f"paired values must come in pairs; got {len(a)} and {len(b)}")
    return mean_interval(np.subtract(a, b).tolist(), level)


def p_above(values: Sequence[float], bound: float) -> float:
    """One-sided p of Student's t test for "the mean lies above the bound".

    NaN for fewer than five values, and for values that are all the same: nothing can be tested.
    """
    x = np.asarray(values, dtype=float)
    return float(stats.ttest_1samp(x, bound, alternative="greater").pvalue) if _testable(x) else nan


def p_below(values: Sequence[float], bound: float) -> float:
    """One-sided p of Student's t test for "the mean lies below the bound"; see `p_above`."""
    return p_above([-value for value in values], -bound)


def evidence(values: Sequence[float], claim: str, margin: float = 0.0) -> Evidence:
    """What independent values say about a claim on their mean.

    "above" and "below" need a two-sided t test, written as twice the one-sided p in the direction
    of the claim; the opposite is the other direction. So without other claims the verdict is that
    of the 95 % interval. "alike" needs both one-sided tests against its bounds (TOST): p is the
    larger one, so without other claims the verdict is that of the 90 % interval. Its opposite is
    that the mean lies outside, by twice the smaller p.

    Args:
        values: one per seed, such as paired differences.
        claim: "above" (the mean exceeds the margin), "below" (it is under minus the margin) or
            "alike" (it lies within the margin).
        margin: 0 or more, in the unit of the values.

    Raises:
        ValueError: for another claim, and what `mean_interval` raises.

    Source: Schuirmann (1987) for TOST.
    """
    p, opposite = p_values(values, claim, margin)
    interval = mean_interval(values)
    if len(values) < FEWEST:
        return Evidence(interval, nan, nan, nan)
    return Evidence(interval, p, opposite, _wilcoxon(np.array(values)))


def p_values(values: Sequence[float], claim: str, margin: float = 0.0) -> tuple[float, float]:
    """P of a claim on the mean of independent values, and p of its opposite; see `evidence`.

    Raises:
        ValueError: for another claim.
    """
    if claim not in CLAIMS:
        raise ValueError(f"claim must be 'above', 'below' or 'alike'; got {claim!r}")
    x = list(values)
    if claim == "alike":
        p = max(p_above(x, -margin), p_below(x, margin))
        opposite = 2 * min(p_above(x, margin), p_below(x, -margin))
    elif claim == "above":
        p = 2 * p_above(x, margin)
        opposite = 2 * p_below(x, margin)
    else:
        p = 2 * p_below(x, -margin)
        opposite = 2 * p_above(x, -margin)
    return min(p, 1.0), min(opposite, 1.0)


def verdicts(found: Sequence[Evidence]) -> list[Verdict]:
    """The verdicts on claims that are judged together, by p-values after Holm's adjustment.

    Args:
        found: one per claim.

    Returns:
        One verdict per claim: "reproduced" if its p lies below 0.05, "not reproduced" if that of
        its opposite does, else "undecided". A claim that was not tested does not count for Holm.
    """
    columns = (holm([getattr(one, name) for one in found]) for name in Evidence._fields[1:])
    lines = []
    for one, p, opposite, wilcoxon in zip(found, *columns, strict=True):
        says = untested(one.interval.n) or decided(p, opposite)
        lines.append(Verdict(says, float(p), float(opposite), float(wilcoxon)))
    return lines


def decided(p: float, opposite: float) -> str:
    """The verdict by two p-values, adjusted where several claims are judged.

    Args:
        p: of the claim.
        opposite: of its opposite; NaN decides nothing, for both.
    """
    if p < SIGNIFICANT:
        return "reproduced"
    if opposite < SIGNIFICANT:
        return "not reproduced"
    return "undecided" if not np.isnan(p) else "undecided (no spread)"


def untested(seeds: int) -> str:
    """The verdict where there are too few seeds for one; empty where there are enough."""
    if seeds >= FEWEST:
        return ""
    return f"undecided ({seeds} seed{'' if seeds == 1 else 's'})"


def holm(p: Sequence[float]) -> np.ndarray:
    """(m,) p-values adjusted by Holm's step-down method; NaN stays and does not count as a test.

    statsmodels' `multipletests` gives the same, but collects garbage at each call, which took a
    third of the time of all pages of results.

    Source: Holm (1979).
    """
    adjusted = np.array(p, dtype=float)
    tested = np.flatnonzero(~np.isnan(adjusted))
    ascending = tested[np.argsort(adjusted[tested])]
    remaining = np.arange(len(ascending), 0, -1)  # hypotheses that are not rejected yet
    steps = np.minimum(adjusted[ascending] * remaining, 1)
    adjusted[ascending] = np.maximum.accumulate(steps)
    return adjusted


# --- how many seeds -------------------------------------------------------------------------------


def power(effects: Sequence[float], n: int, level: float = SIGNIFICANT) -> float:
    """Chance that one-sided t tests all decide, taken as independent of each other.

    Args:
        effects: of each test, distance from its bound in standard deviations.
        n: seeds.
        level: of each test.
    """
    solver = TTestPower()
    chances = (solver.power(effect, n, level, alternative="larger") for effect in effects)
    return float(prod(chances))


def seeds_needed(
    effects: Sequence[float], level: float = SIGNIFICANT, wanted: float = 0.8
) -> int | None:
    """Fewest seeds with which `power` reaches what is wanted; None beyond 100,000.

    Args:
        effects: see `power`; above 0.
        level: see `power`.
        wanted: chance, such as 0.8.
    """
    seeds = range(FEWEST, _MOST_SEEDS)
    place = bisect_left(seeds, wanted, key=lambda n: power(effects, n, level))
    return seeds[place] if place < len(seeds) else None


def seeds_to_decide(
    values: Sequence[float], claim: str, margin: float = 0.0, claims: int = 1
) -> int | None:
    """Fewest seeds that decide a claim or its opposite in four of five such experiments.

    Mean and spread are taken as they are here, so few values give a rough number.

    Args:
        values: one per seed, five or more.
        claim: "above", "below" or "alike", see `evidence`.
        margin: 0 or more, in the unit of the values.
        claims: judged together, this one among them. Its level is then 0.05 / claims, which is
            enough whatever the others turn out to be: Holm's method asks for no more.

    Returns:
        None beyond 100,000 seeds, or where the values have no spread.
    """
    x = np.asarray(values, dtype=float)
    if not _testable(x):
        return None
    level = SIGNIFICANT / claims
    mean, spread = float(x.mean()), float(x.std(ddof=1))
    if claim == "alike" and abs(mean) < margin:
        effects = [(margin - mean) / spread, (margin + mean) / spread]
        return seeds_needed(effects, level)
    bound = {"above": margin, "below": -margin, "alike": np.sign(mean) * margin}[claim]
    effect = abs(mean - float(bound)) / spread
    return seeds_needed([effect], level / 2)  # two-sided: the claim or its opposite


# --- tasks ----------------------------------------------------------------------------------------


def task_permutation(x: np.ndarray, y: np.ndarray, level: float = 0.95) -> Association:
    """Spearman's rank correlation over ordered pairs of tasks, tested by permuting the tasks.

    Pairs that share a task are not independent, so nothing here treats them as such. The p-values
    are shares of the orders of the tasks (rows and columns of y together) whose correlation is at
    least as extreme; all orders for up to seven tasks, 5,000 drawn ones beyond. The interval is
    that of the jackknife that leaves out one task, with all its pairs, at a time. Its factor is
    (k - 1) / k; that of Snijders & Borgatti (1999), (k - 2) / (2k), gives shorter intervals, which
    hold their level if pairs are independent, but not if tasks differ much, as hard targets do:
    in simulations with strong effects of tasks they covered the truth in 83 to 88 % of cases.

    Args:
        x: (k, k) values, such as distances; the diagonal is not used.
        y: (k, k) values of the same tasks, such as accuracies.
        level: of the interval.

    Raises:
        ValueError: unless both are square, of one size, and of four tasks or more.

    Source: Mantel (1967) for the test; Fafchamps & Gubert (2007) for pairs that share a node;
        Snijders & Borgatti (1999) for the jackknife over nodes.
    """
    k = len(x)
    if x.shape != (k, k) or y.shape != (k, k) or k < 4:
        raise ValueError(
            "a permutation of tasks needs two k x k matrices with k of four or more; "
            f"got {x.shape} and {y.shape}"
        )
    (found,) = _spearman(x, y)
    orders = _orders(k)
    others = _spearman(x, y[orders[:, :, None], orders[:, None, :]])
    falls = float((others <= found + _ROUNDING).mean())
    rises = float((others >= found - _ROUNDING).mean())
    kept = [np.delete(np.arange(k), task) for task in range(k)]
    without = np.array([_spearman(x[np.ix_(i, i)], y[np.ix_(i, i)])[0] for i in kept])
    error = ((k - 1) / k * ((without - without.mean()) ** 2).sum()) ** 0.5
    half = stats.t.isf((1 - level) / 2, k - 1) * error
    ends = np.clip([found - half, found + half], -1, 1)
    return Association(Interval(float(found), float(ends[0]), float(ends[1]), k), falls, rises)


# --- helpers --------------------------------------------------------------------------------------


def _testable(x: np.ndarray) -> bool:
    """Whether there are five values or more, and they differ by more than rounding."""
    return x.size >= FEWEST and bool(np.ptp(x) > _ROUNDING * max(1.0, float(np.abs(x).max())))


def _wilcoxon(x: np.ndarray) -> float:
    return float(stats.wilcoxon(x).pvalue) if x.any() else 1.0


def _orders(k: int) -> np.ndarray:
    """(n, k) orders of k tasks, the given one first."""
    if k <= _MOST_TASKS:
        return np.array(list(permutations(range(k))))
    draw = np.random.default_rng(0)
    return np.array([np.arange(k), *(draw.permutation(k) for _ in range(_ORDERS - 1))])


def _spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n,) Spearman's correlations off the diagonal of one matrix with n; 0 for a constant one."""
    pairs = ~np.eye(len(x), dtype=bool)
    a = _centred_ranks(x[pairs])
    b = _centred_ranks(y.reshape(-1, *x.shape)[:, pairs])
    spread = np.sqrt((a**2).sum() * (b**2).sum(1))
    return np.asarray((b @ a) / np.where(spread > 0, spread, np.inf))


def _centred_ranks(values: np.ndarray) -> np.ndarray:
    ranks = stats.rankdata(values, axis=-1)
    return np.asarray(ranks - ranks.mean(-1, keepdims=True))
