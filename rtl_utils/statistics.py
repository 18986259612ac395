"""Means with intervals over seeds, paired tests, and the verdict on each claim, computed by SciPy and statsmodels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

BALL_TEST = {"clean_accuracy": "accuracy, no ball, %", "ball_accuracy": "accuracy, ball, %", "flip_rate": "flip rate, %"}  # metric -> heading


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval over n independent runs; low and high are NaN for n = 1."""

    mean: float
    low: float
    high: float
    n: int

    def text(self, digits: int = 1, scale: float = 1.0) -> str:
        """As a table shows it: "65.8 [63.1, 68.5]"; a single run has no interval."""
        mean = f"{scale * self.mean:.{digits}f}"
        return mean if np.isnan(self.low) else f"{mean} [{scale * self.low:.{digits}f}, {scale * self.high:.{digits}f}]"


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Mean and Student t interval of independent values, one a seed. Raises ValueError if there are none or one is not finite."""
    x = np.asarray(values, dtype=float)
    if x.size == 0 or not np.isfinite(x).all():
        raise ValueError(f"mean_interval needs finite values, at least one; got {list(values)}")
    if x.size == 1 or np.ptp(x) == 0:
        spread = np.nan if x.size == 1 else x.mean()
        return Interval(float(x.mean()), float(spread), float(spread), x.size)
    low, high = stats.t.interval(level, x.size - 1, loc=x.mean(), scale=stats.sem(x))
    return Interval(float(x.mean()), float(low), float(high), x.size)


def interquartile_mean(values: Sequence[float]) -> float:
    """Mean of the middle half of the values (Agarwal et al. 2021): robust where some runs are stuck."""
    return float(stats.trim_mean(np.asarray(values, dtype=float), 0.25))


def summary(rows: pd.DataFrame, metrics: Mapping[str, tuple[str, float, int]], by: Sequence[str]) -> pd.DataFrame:
    """Final values over seeds as a table of texts "mean [95 % interval]": a row a group, a column a metric.

    rows: tidy rows; metrics: name -> (heading, factor to its unit, digits); by: columns that name a group, kept in their order.
    """
    final = rows[rows.epoch < 0]
    groups = dict(list(final.groupby(list(by), sort=False, dropna=False)))
    table = {}
    for key, part in groups.items():
        values = {metric: part.value[part.metric == metric] for metric in metrics}
        table[key] = {
            heading: mean_interval(values[m]).text(digits, factor) if len(values[m]) else "" for m, (heading, factor, digits) in metrics.items()
        }
    frame = pd.DataFrame.from_dict(table, orient="index")
    frame.index = pd.MultiIndex.from_tuples(frame.index, names=by) if len(by) > 1 else pd.Index([k[0] for k in groups], name=by[0])
    return frame


def ball_test_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Salman's test of every pair and method over seeds, as texts: accuracy and flips of the runs whose source has the ball, and, where there are
    such runs, beside them the accuracy of those from a clean source."""
    by, columns = ["source", "target", "method"], {metric: (heading, 100, 1) for metric, heading in BALL_TEST.items()}
    table = summary(rows[rows.source_ball.notna()], columns, by)
    clean = rows[rows.source_ball.isna()]
    if len(clean):
        beside = summary(clean, {"val_accuracy": ("accuracy", 100, 1)}, by).accuracy
        table.insert(0, "clean backbone: accuracy, %", beside.reindex(table.index).fillna(""))
    return table


def paired(rows: pd.DataFrame, metric: str, a: str, b: str, column: str = "method") -> tuple[list[float], list[float]]:
    """Final values of a and of b for the seeds and pairs that both have, in one order, ready for `paired_difference`.

    Raises ValueError if the rows hold more than one run of a kind for a seed and pair: choose among them first.
    """
    chosen = rows[(rows.metric == metric) & (rows.epoch < 0)]
    table = chosen.pivot(index=["source", "target", "seed"], columns=column, values="value")[[a, b]].dropna()
    return table[a].tolist(), table[b].tolist()


def share_interval(hits: int, n: int, level: float = 0.95) -> Interval:
    """Share hits / n with its Wilson interval. Raises ValueError unless 0 <= hits <= n and n >= 1."""
    if not (0 <= hits <= n and n >= 1):
        raise ValueError(f"share_interval needs 0 <= hits <= n with n >= 1; got {hits} of {n}")
    wilson = stats.binomtest(hits, n).proportion_ci(level, method="wilson")
    return Interval(hits / n, wilson.low, wilson.high, n)


def paired_difference(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> tuple[Interval, float]:
    """Interval of the mean of a - b over pairs, and the two-sided p of Wilcoxon's signed-rank test (exact for few pairs).

    a, b: (n,) values of the same n seeds, in the same order. p is 1 if all differences are 0.
    Raises ValueError if the lengths differ.
    """
    if len(a) != len(b):
        raise ValueError(f"paired values must come in pairs; got {len(a)} and {len(b)}")
    difference = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    p = 1.0 if not difference.any() else float(stats.wilcoxon(difference).pvalue)
    return mean_interval(difference, level), p


def keeps_out(rows: pd.DataFrame, methods: Sequence[str], allowed: float = 0.02) -> pd.DataFrame:
    """Which methods keep the shortcut out under Salman's test: a flip rate at most `allowed` above scratch's, a clean accuracy no lower than FT's.

    rows: tidy rows of one size of data with the metrics flip_rate and clean_accuracy; methods: those to judge, "scratch" and "ft" among the
    rows. Differences are paired by seed, with 95 % intervals; the verdict is "yes" or "no" where the intervals decide, else "undecided".
    """
    lines = {}
    for method in methods:
        flips, _ = paired_difference(*paired(rows, "flip_rate", method, "scratch")) if method != "scratch" else (Interval(0.0, 0.0, 0.0, 0), 1.0)
        clean, _ = paired_difference(*paired(rows, "clean_accuracy", method, "ft")) if method != "ft" else (Interval(0.0, 0.0, 0.0, 0), 1.0)
        both = (flips.high <= allowed, clean.low >= 0), (flips.low > allowed, clean.high < 0)
        lines[method] = {
            "flip rate minus scratch, points": flips.text(scale=100), "clean accuracy minus FT, points": clean.text(scale=100),
            "by the means": "yes" if flips.mean <= allowed and clean.mean >= 0 else "no",
            "keeps it out": "yes" if all(both[0]) else "no" if any(both[1]) else "undecided",
        }  # fmt: skip
    return pd.DataFrame.from_dict(lines, orient="index")


def rank_correlation(x: Sequence[float], y: Sequence[float], level: float = 0.95) -> Interval:
    """Spearman's rank correlation with its bootstrap interval (percentiles of 5,000 draws of pairs, always the same ones).

    Pairs that share a task are not independent, so for distances between tasks the interval is narrower than the truth.
    Raises ValueError for fewer than four pairs or different lengths.
    """
    if len(x) != len(y) or len(x) < 4:
        raise ValueError(f"a rank correlation needs two lists of one length, four or more; got {len(x)} and {len(y)}")
    data = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    drawn = {"n_resamples": 5_000, "confidence_level": level, "method": "percentile", "rng": np.random.default_rng(0)}
    found = stats.bootstrap(data, _spearman, paired=True, vectorized=True, **drawn)
    return Interval(float(_spearman(*data)), *map(float, found.confidence_interval), len(x))


def _spearman(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    ranks = [stats.rankdata(values, axis=axis) for values in (x, y)]
    a, b = (r - r.mean(axis, keepdims=True) for r in ranks)
    spread = np.sqrt((a**2).sum(axis) * (b**2).sum(axis))
    return np.where(spread > 0, (a * b).sum(axis) / np.maximum(spread, 1e-300), 0.0)  # a draw of one pair alone has no order


def holm(p: Sequence[float]) -> np.ndarray:
    """(m,) p-values adjusted for m tests by Holm's step-down method."""
    return multipletests(p, method="holm")[1]


def verdict(interval: Interval, claim: str, margin: float = 0.0) -> str:
    """What the runs say of a claim about a difference, by its interval and nothing else.

    claim: "above" (the difference exceeds the margin), "below" (it is under minus the margin) or "alike" (it lies within the margin).
    Returns "reproduced" if the whole interval agrees, "not reproduced" if the whole interval disagrees, else "undecided".
    Raises ValueError for another claim.
    """
    if claim not in ("above", "below", "alike"):
        raise ValueError(f"claim must be 'above', 'below' or 'alike'; got {claim!r}")
    if np.isnan(interval.low):
        return "undecided"
    low, high = (interval.low, interval.high) if claim != "below" else (-interval.high, -interval.low)
    if claim == "alike":
        agrees, disagrees = -margin <= low and high <= margin, low > margin or high < -margin
    else:
        agrees, disagrees = low > margin, high <= margin
    return "reproduced" if agrees else "not reproduced" if disagrees else "undecided"
