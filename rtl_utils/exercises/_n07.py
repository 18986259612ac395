"""Exercises of notebook 07: the distance between tasks."""

from collections.abc import Callable
from dataclasses import replace
from math import isnan
from typing import Any, Literal

import numpy as np
from scipy import stats

from rtl_utils.distances import KINDS
from rtl_utils.exercises._answers import by_case, compare, function, table, value, values
from rtl_utils.exercises._records import Exercise, Wrong
from rtl_utils.exercises._trained import final, shown
from rtl_utils.settings import Settings

MEASURED = ("fine-tuning", "riemannian")  # distances of the experiment: one training gives both
SLOWER = 4  # the experiment's learning rate is the usual one over this
_DIGITS = 1e-3  # a ratio may be rounded to three decimals


def _ways(d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The way there and the way back of every pair of different tasks."""
    there = np.triu_indices(len(d), 1)
    return d[there], d.T[there]


def _right_asymmetry(d: np.ndarray) -> float:
    a, b = _ways(d)
    return float((abs(a - b) / ((a + b) / 2)).mean())


_ASYMMETRY_MISTAKES: dict[str, Callable[[np.ndarray], Any]] = {
    "a task and itself are no pair: leave the diagonal out, do not count its zeros": lambda d: (
        _right_asymmetry(d) * (len(d) - 1) / len(d)
    ),
    "divide by the mean of the two ways, not by their sum": lambda d: _right_asymmetry(d) / 2,
    "this divides by the longer way; take the mean of the two": lambda d: (
        abs(_ways(d)[0] - _ways(d)[1]) / np.maximum(*_ways(d))
    ).mean(),
    "this divides by the mean of the whole matrix; each pair has its own mean": lambda d: (
        abs(_ways(d)[0] - _ways(d)[1]).mean() / np.mean(_ways(d))
    ),
    "this is the mean difference in the unit of the distance; divide each by its pair's mean": (
        lambda d: abs(_ways(d)[0] - _ways(d)[1]).mean()
    ),
    "differences of both signs cancel; take absolute values": lambda d: 0.0,
    "this is the asymmetry without the absolute value": lambda d: (
        (_ways(d)[0] - _ways(d)[1]) / np.mean(_ways(d), axis=0)
    ).mean(),
    "this is the sum over pairs; take the mean": lambda d: (
        _right_asymmetry(d) * len(d) * (len(d) - 1) / 2
    ),
    "this is a percentage; give the share": lambda d: 100 * _right_asymmetry(d),
}


def _asymmetry(answer: Any) -> str:
    answer = function(answer, "asymmetry(d), on a (k, k) array")
    random = np.random.default_rng(0)
    cases = []
    for k in (2, 3, 4, 5, 5):
        d = random.uniform(1, 3, (k, k))
        np.fill_diagonal(d, 0)
        cases.append((d,))
    returned = [value(answer, *case) for case in cases]
    if any(isinstance(one, float) and isnan(one) for one in returned):
        raise Wrong(
            "your function returns nan: on the diagonal 0 is divided by 0; leave the diagonal out"
        )
    found = values(answer, cases, "one number")
    right = [_right_asymmetry(*case) for case in cases]

    def otherwise(k: int) -> str:
        return (
            f"for {cases[k][0].round(3).tolist()} the asymmetry is {right[k]:.4f}, and your "
            f"function returns {found[k]:.4f}"
        )

    compare(found, right, by_case(_ASYMMETRY_MISTAKES, cases), otherwise)
    symmetric = cases[2][0] + cases[2][0].T
    (zero,) = values(answer, [(symmetric,)], "one number")
    compare([zero], [0], {}, lambda k: f"a symmetric matrix has asymmetry 0; yours has {zero:.4f}")
    return (
        "it has no unit, so matrices of different kinds can be compared by it; a distance of "
        "geometry would have 0"
    )


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(x, y)[0, 1])


def _of_ranks(
    ties: Literal["average", "min", "max", "dense", "ordinal"],
) -> Callable[[np.ndarray, np.ndarray], float]:
    """The correlation of ranks, with one way to rank equal values."""
    return lambda x, y: _pearson(stats.rankdata(x, ties), stats.rankdata(y, ties))


def _by_squares(x: np.ndarray, y: np.ndarray) -> float:
    """The formula that holds without equal values."""
    n = len(x)
    gaps = stats.rankdata(x) - stats.rankdata(y)
    return float(1 - 6 * (gaps**2).sum() / (n * (n**2 - 1)))


_right_correlation = _of_ranks("average")

_RANK_MISTAKES: dict[str, Callable[[np.ndarray, np.ndarray], Any]] = {
    "this is the correlation of the values; replace them by their ranks first": _pearson,
    "equal values must share one rank, the mean of theirs; here they get ranks in the order in "
    "which they stand": _of_ranks("ordinal"),
    "equal values get the mean of their ranks, not the smallest": _of_ranks("min"),
    "equal values get the mean of their ranks, not the largest": _of_ranks("max"),
    "after equal values the next rank must leave a gap": _of_ranks("dense"),
    "`argsort` says which value comes k-th, not which rank a value has; apply it twice": (
        lambda x, y: _pearson(np.argsort(x), np.argsort(y))
    ),
    "1 − 6 Σd² / (n (n² − 1)) holds only without equal values; take the correlation of the ranks": (
        _by_squares
    ),
    "this is Kendall's τ, which counts pairs in the same order": lambda x, y: (
        stats.kendalltau(x, y).statistic
    ),
    "the sign is reversed: rank both from the smallest up, or both from the largest down": (
        lambda x, y: -_right_correlation(x, y)
    ),
    "a correlation has a sign": lambda x, y: abs(_right_correlation(x, y)),
    "this is the square of the correlation": lambda x, y: _right_correlation(x, y) ** 2,
}


def _ranks(answer: Any) -> str:
    answer = function(answer, "rank_correlation(x, y), on two arrays of n numbers")
    random = np.random.default_rng(0)
    cases: list[tuple[np.ndarray, np.ndarray]] = []
    for n in (5, 8, 12, 20):
        x = random.normal(size=n)
        cases.append((x, np.exp(2 * random.normal(size=n) - x)))
        cases.append((random.integers(0, 4, n), random.integers(0, 4, n)))  # equal values
    cases.append((np.arange(6.0), np.exp(np.arange(6.0))))
    found = values(answer, cases, "one correlation")
    right = [_right_correlation(*case) for case in cases]

    def otherwise(k: int) -> str:
        x, y = (one.round(2).tolist() for one in cases[k])
        return (
            f"for {x} and {y} the rank correlation is {right[k]:.4f}, and your function returns "
            f"{found[k]:.4f}"
        )

    compare(found, right, by_case(_RANK_MISTAKES, cases), otherwise)
    return (
        f"a curve that only rises has {right[-1]:.0f}, however bent it is, where the correlation "
        f"of the values is {_pearson(*cases[-1]):.2f}"
    )


def _slower(answer: Any, *, settings: Settings) -> str:
    found = table(answer, MEASURED, "a ratio of distances")
    size = settings.n_train[0]
    usual = settings.sgd_at(settings.shown_pair[1], size)
    fields: dict[str, Any] = {"n_train": size, "partitions": settings.coupled.partitions}
    before, after = (
        final(settings, shown(settings, settings.runs("ft", sgd=sgd, **fields))).mean()
        for sgd in (usual, replace(usual, lr=usual.lr / SLOWER))
    )
    metrics = [KINDS[kind].metric for kind in MEASURED]
    right = [float(after[metric] / before[metric]) for metric in metrics]

    def otherwise(k: int) -> str:
        return (
            f"for {MEASURED[k]!r} this is not the mean {metrics[k]} of ft at a learning rate of "
            f"{usual.lr / SLOWER:g} over that at {usual.lr:g}, from {settings.shown_pair[0]} to "
            f"{settings.shown_pair[1]}"
        )

    mistakes = _ratio_mistakes(before[metrics].tolist(), after[metrics].tolist())
    compare(found, right, mistakes, otherwise, _DIGITS)
    listed = " and ".join(f"{r:.2f} ({k})" for k, r in zip(MEASURED, right, strict=True))
    return (
        f"at a quarter of the learning rate and equal steps the distances are {listed} of what "
        "they were; distances can be compared only where the trainings are alike"
    )


def _ratio_mistakes(before: list[float], after: list[float]) -> dict[str, list[float]]:
    """What is wrong -> what then stands at the two distances."""
    ratios = [b / a for a, b in zip(before, after, strict=True)]
    return {
        "the ratio is the wrong way round: divide by the distance at the usual learning rate": [
            1 / ratio for ratio in ratios
        ],
        "these are distances; divide them by those at the usual learning rate": after,
        "these are the distances at the usual learning rate": before,
        "the two distances are exchanged": ratios[::-1],
        "these are differences; give ratios": [b - a for a, b in zip(before, after, strict=True)],
        "the learning rate is the same in both trainings: change `lr` of the sgd": [1.0, 1.0],
    }


EXERCISES = (
    Exercise(
        "07.1",
        10,
        (
            "`d.T` holds the ways back. Divide |d − d.T| by the mean of both, entry by entry.",
            "Leave the diagonal out before you divide: `~np.eye(len(d), dtype=bool)` picks the "
            "other entries. Every pair then comes twice, which changes no mean.",
        ),
        _asymmetry,
    ),
    Exercise(
        "07.2",
        20,
        (
            "The rank of a value is one more than the number of smaller values, if no others are "
            "equal to it. The correlation of the ranks is `np.corrcoef`.",
            "Among m equal values the ranks are r + 1, ..., r + m, with r smaller values; their "
            "mean is r + (m + 1) / 2. Count smaller and equal values with comparisons.",
        ),
        _ranks,
    ),
    Exercise(
        "07.3",
        45,
        (
            '`settings.runs("ft", n_train=size, sgd=..., partitions=...)` describes the runs of '
            "one learning rate; `distances.KINDS[kind].metric` names the metric of a distance.",
            "`replace(sgd, lr=sgd.lr / 4)` is the slower training. Take both metrics at the epoch "
            "`experiments.FINAL`, the mean over seeds of each, and divide.",
        ),
        _slower,
    ),
)
