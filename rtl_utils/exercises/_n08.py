"""Exercises of notebook 08: which method keeps the shortcut out?"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from rtl_utils.exercises._answers import by_case, compare, function, table, values
from rtl_utils.exercises._records import Exercise
from rtl_utils.exercises._trained import beyond_scratch, final, shown, target_step
from rtl_utils.settings import Settings
from rtl_utils.statistics import SIGNIFICANT, power

SHARES = (0.25, 0.5, 0.75)  # of the backbone in the average
_SIMULATED = 0.02  # five standard errors of a share of 20,000 experiments, and more


def _error(x: np.ndarray, ddof: int = 1) -> float:
    """Standard error of the mean."""
    return float(x.std(ddof=ddof) / len(x) ** 0.5)


def _t(n: int, level: float = 1 - SIGNIFICANT) -> float:
    """Quantile of Student's t for n values."""
    return float(stats.t.ppf(level, n - 1))


def _right_bound(x: np.ndarray) -> float:
    return float(x.mean()) + _t(len(x)) * _error(x)


_BOUND_MISTAKES: dict[str, Callable[[np.ndarray], Any]] = {
    "this is the end of a two-sided 95 % interval; one-sided, all 5 % lie on one side": lambda x: (
        x.mean() + _t(len(x), 1 - SIGNIFICANT / 2) * _error(x)
    ),
    "this is the lower bound; take the upper one": lambda x: x.mean() - _t(len(x)) * _error(x),
    "with few values take the quantile of Student's t, not that of the normal distribution": (
        lambda x: x.mean() + stats.norm.ppf(1 - SIGNIFICANT) * _error(x)
    ),
    "1.96 belongs to a two-sided interval of many values; here it is Student's t, one-sided": (
        lambda x: x.mean() + 1.96 * _error(x)
    ),
    "divide by n − 1 for the variance (`ddof=1`), as the mean was estimated too": lambda x: (
        x.mean() + _t(len(x)) * _error(x, 0)
    ),
    "this is a bound for one more value; for the mean divide the deviation by √n": lambda x: (
        x.mean() + _t(len(x)) * x.std(ddof=1)
    ),
    "divide by √n, not by n": lambda x: x.mean() + _t(len(x)) * x.std(ddof=1) / len(x),
    "n values have n − 1 degrees of freedom": lambda x: x.mean() + _t(len(x) + 1) * _error(x),
    "this is what must be added to the mean; add it": lambda x: _t(len(x)) * _error(x),
    "this is the mean alone, without its uncertainty": lambda x: x.mean(),
}


def _bound(answer: Any) -> str:
    answer = function(answer, "upper_bound(differences), on an array of n numbers")
    random = np.random.default_rng(0)
    cases = [(np.array([1.0, -2.0, 0.5, 3.0, -1.0]),)]
    cases += [(random.normal(mean, 2, n),) for mean, n in ((0, 3), (1, 10), (-2, 20), (0.5, 5))]
    found = values(answer, cases, "one bound")
    right = [_right_bound(*case) for case in cases]

    def otherwise(k: int) -> str:
        return (
            f"for {cases[k][0].round(2).tolist()} the bound is {right[k]:.4f}, and your function "
            f"returns {found[k]:.4f}"
        )

    compare(found, right, by_case(_BOUND_MISTAKES, cases), otherwise)
    (first,) = cases[0]
    return (
        f"with a mean of {first.mean():.1f} from {len(first)} seeds the bound is {right[0]:.1f}: a "
        "method must be clearly better than the margin to show that it is not worse than it"
    )


def _noncentral(n: int, effect: float, level: float) -> float:
    """Chance that a t statistic of n values with this effect lies above the level."""
    return float(stats.nct.sf(level, n - 1, effect * n**0.5))


_CHANCE_MISTAKES: dict[str, Callable[[int, float, float], Any]] = {
    "this is the chance of a two-sided test; the test here is one-sided": lambda n, s, m: (
        _noncentral(n, m / s, _t(n, 1 - SIGNIFICANT / 2))
    ),
    "this is 5 % whatever the margin: the true mean is 0, so it lies below the margin": (
        lambda n, s, m: SIGNIFICANT
    ),
    "this is the chance that the test does *not* say so": lambda n, s, m: 1 - power([m / s], n),
    "this is a percentage; give the share": lambda n, s, m: 100 * power([m / s], n),
    "compare with the quantile of Student's t, not with that of the normal distribution": (
        lambda n, s, m: _noncentral(n, m / s, float(stats.norm.ppf(1 - SIGNIFICANT)))
    ),
    "the spread is a standard deviation, not a variance": lambda n, s, m: power([m / s**0.5], n),
    "this is how often the mean lies below the margin; the test must say so": lambda n, s, m: float(
        stats.norm.cdf(m / s * n**0.5)
    ),
    "this is the chance of a test *above* the margin; mind the sign": lambda n, s, m: _noncentral(
        n, -m / s, _t(n)
    ),
}


def _chance(answer: Any) -> str:
    answer = function(answer, "chance(n, spread, margin), such as chance(10, 5, 2)")
    cases = [(10, 5.0, 2.0), (3, 2.0, 2.0), (20, 3.0, 2.0), (6, 0.25, 0.2), (40, 10.0, 2.0)]
    found = values(answer, cases, "one share")
    right = [power([margin / spread], n) for n, spread, margin in cases]

    def otherwise(k: int) -> str:
        n, spread, margin = cases[k]
        return (
            f"with {n} seeds, a spread of {spread:g} and a margin of {margin:g} the chance is "
            f"{right[k]:.2f}, and your function returns {found[k]:.4f}; if it is near, simulate "
            "more experiments"
        )

    compare(found, right, by_case(_CHANCE_MISTAKES, cases), otherwise, _SIMULATED)
    n, spread, margin = cases[0]
    return (
        f"with {n} seeds, a spread of {spread:g} points and a margin of {margin:g} a method that "
        f"truly equals its reference gets its “yes” with a chance of {right[0]:.2f}, from this one "
        "test and before Holm's adjustment"
    )


def _share(answer: Any, *, settings: Settings) -> str:
    found = table(answer, SHARES, "a difference of flip rates")
    size = settings.n_train[0]

    def trained(method: str, **fields: Any) -> pd.DataFrame:
        runs = settings.runs(method, biased=True, n_train=size, **fields)
        return final(settings, shown(settings, runs))

    averaged = [trained("wise-ft", backbone_share=share) for share in SHARES]
    flips = pd.DataFrame({k: one.flip_rate for k, one in enumerate(averaged)})
    scratch = trained("scratch").flip_rate
    right, usual = beyond_scratch(settings, flips, scratch)
    mistakes = usual | {
        "the backbone's share is the wrong way round: 0.75 is three quarters of the backbone": (
            right[::-1]
        ),
        "these flips are compared with fine-tuning; the reference is training from scratch": (
            flips.mean() - trained("ft").flip_rate.mean()
        ).tolist(),
    }

    def otherwise(k: int) -> str:
        return (
            f"at the share {SHARES[k]:g} this is not the flip rate of wise-ft minus that of "
            f"scratch, both from the biased source {settings.shown_pair[0]} to "
            f"{settings.shown_pair[1]} and averaged over your seeds"
        )

    compare(found, right, mistakes, otherwise, target_step(settings, len(settings.seeds)))
    listed = ", ".join(f"{100 * d:+.1f} at {s:g}" for s, d in zip(SHARES, right, strict=True))
    return f"beyond training from scratch the average flips, in points: {listed}"


EXERCISES = (
    Exercise(
        "08.1",
        10,
        (
            "The bound is the mean plus a quantile times the standard error of the mean.",
            "The quantile leaves 5 % above it, with n − 1 degrees of freedom. The standard error "
            "is the standard deviation (`ddof=1`) divided by the root of n.",
        ),
        _bound,
    ),
    Exercise(
        "08.2",
        20,
        (
            "Draw an array of (experiments, n) normal differences. Each row is one experiment.",
            "Each row has a mean and a standard error. The test says yes where (mean − margin) / "
            "error lies below the 5 % quantile of Student's t with n − 1 degrees of freedom.",
        ),
        _chance,
    ),
    Exercise(
        "08.3",
        45,
        (
            '`settings.runs("wise-ft", biased=True, n_train=size, backbone_share=...)` describes '
            "the runs of one share; `settings.run` returns their rows.",
            'Keep the rows of `pair`, of the metric "flip_rate" and of the epoch '
            "`experiments.FINAL`, average over seeds, and do the same for scratch.",
        ),
        _share,
    ),
)
