"""The shortcut test: which methods keep the shortcut out and stay accurate."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from rtl_utils.claims.verdicts import ALLOWED, INFERIOR, p_text, percent
from rtl_utils.methods import METHODS
from rtl_utils.statistics import (
    FEWEST,
    SIGNIFICANT,
    Interval,
    decided,
    holm,
    mean_interval,
    p_above,
    p_below,
    power,
    seeds_needed,
    untested,
)
from rtl_utils.store import FINAL
from rtl_utils.tables import BEFORE, Paired, label, listed, paired, seed_count


def judged(rows: pd.DataFrame) -> list[str]:
    """The methods that keep the shortcut out or not: all that train, as METHODS lists them."""
    found = set(rows.method) - {BEFORE}
    return [method for method in METHODS if method in found]


def keeps_out(rows: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Which methods keep the shortcut out, by two tests of non-inferiority.

    A method keeps it out if it flips less than ALLOWED more than training from scratch, and loses
    less than INFERIOR of fine-tuning's clean accuracy. Each is tested by a one-sided t test of
    differences paired by seed. The p of "yes" is the larger of the two (an intersection of two
    alternatives); the p of "no" is twice the smaller one of the reversed tests (a union). Both are
    adjusted by Holm's method over the methods. What is compared with itself passes by definition.

    Args:
        rows: tidy rows of one number of target images, "scratch" and "ft" among their methods.
        methods: that are judged.

    Returns:
        One row per method: its seeds; both differences with 90 % intervals (their ends are
        one-sided 95 % bounds), both p-values, the answer by the means alone, and the answer: "yes"
        or "no" where its p lies below 0.05, else "undecided".

    Source: Berger (1982) for the intersection of tests.
    """
    lines = {}
    tests = _non_inferiorities(rows, methods)
    few = [untested(test.n) for test in tests]
    yes = holm([np.nan if none else test.yes for test, none in zip(tests, few, strict=True)])
    no = holm([np.nan if none else test.no for test, none in zip(tests, few, strict=True)])
    for method, test, none, p_yes, p_no in zip(methods, tests, few, yes, no, strict=True):
        # a mean of fractions is on the margin or not, whatever its last digit
        flips, clean = round(test.flips.mean, 9), round(test.clean.mean, 9)
        by_means = flips < ALLOWED and clean > -INFERIOR
        says = {"reproduced": "yes", "not reproduced": "no"}
        answer = none or decided(p_yes, p_no)
        lines[method] = {
            "seeds": test.n,
            "flips minus scratch, points [90 %]": test.flips.text(scale=100),
            "accuracy minus fine-tuning, points [90 %]": test.clean.text(scale=100),
            "p of yes, Holm": p_text(p_yes),
            "p of no, Holm": p_text(p_no),
            "by the means": "yes" if by_means else "no",
            "keeps it out": says.get(answer, answer),
        }
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis("method")


def power_text(rows: pd.DataFrame, methods: Sequence[str]) -> str:
    """What the tests of `keeps_out` can find with these seeds, in two sentences.

    The level is that of the first step of Holm's method, and both tests count as independent.

    Args:
        rows: see `keeps_out`.
        methods: see `keeps_out`.
    """
    tests = dict(zip(methods, _non_inferiorities(rows, methods), strict=True))
    seeds = int(np.median([test.n for test in tests.values()]))
    others = {m: t for m, t in tests.items() if t.flips_sd > 0 and t.clean_sd > 0}
    if seeds < FEWEST:
        return f"With {seed_count(rows)} nothing is decided."
    if not others:
        return "Each of these methods is compared with itself in one of the tests; so no power."
    nearest = min(others, key=lambda method: others[method].yes)
    spreads = {
        f"those of {label(nearest)}, which comes nearest": _spreads(others[nearest]),
        "the median of all methods": np.median([_spreads(t) for t in others.values()], axis=0),
    }
    level = SIGNIFICANT / len(methods)
    said = []
    for name, (flips, clean) in spreads.items():
        effects = [ALLOWED / flips, INFERIOR / clean]
        enough = seeds_needed(effects, level)
        needed = "more than 100,000" if enough is None else f"{enough:,}"
        said.append(
            f"{percent(power(effects, seeds, level))} with {seeds} seeds, and 80 % with {needed}, "
            f"if its differences spread as {name} ({100 * flips:.1f} points of flips, "
            f"{100 * clean:.1f} of accuracy)"
        )
    return (
        "The power of these tests: a method that truly equals training from scratch in flips and "
        f'fine-tuning in accuracy gets "yes" with a chance of {"; of ".join(said)}.'
    )


def passing(table: pd.DataFrame) -> str:
    """Which methods keep the shortcut out, in one sentence.

    Args:
        table: of `keeps_out`.
    """
    by_tests = _methods_in(table, "keeps it out")
    by_means = _methods_in(table, "by the means")
    return f"By the tests {by_tests} the shortcut out; by the means alone {by_means} it out."


class _NonInferiority(NamedTuple):
    """What the shortcut test says about one method, see `keeps_out`.

    Args:
        flips: 90 % interval of its flips minus those from scratch.
        clean: 90 % interval of its clean accuracy minus fine-tuning's.
        yes: p of "both lie within their margins"; NaN where nothing can be tested.
        no: p of "one of them lies beyond its margin".
        flips_sd: standard deviation of the first difference over seeds; 0 from itself.
        clean_sd: that of the second.
        n: seeds.
    """

    flips: Interval
    clean: Interval
    yes: float
    no: float
    flips_sd: float
    clean_sd: float
    n: int


def _non_inferiorities(rows: pd.DataFrame, methods: Sequence[str]) -> list[_NonInferiority]:
    """Both tests of each method."""
    compared = rows[rows.metric.isin(["flip_rate", "clean_accuracy"])]  # few of many metrics
    return [_non_inferiority(compared, method) for method in methods]


def _non_inferiority(rows: pd.DataFrame, method: str) -> _NonInferiority:
    flips = np.subtract(*_with_baseline(rows, "flip_rate", method, "scratch"))
    clean = np.subtract(*_with_baseline(rows, "clean_accuracy", method, "ft"))
    p_yes = []
    p_no = []
    if method != "scratch":
        p_yes.append(p_below(flips.tolist(), ALLOWED))
        p_no.append(p_above(flips.tolist(), ALLOWED))
    if method != "ft":
        p_yes.append(p_above(clean.tolist(), -INFERIOR))
        p_no.append(p_below(clean.tolist(), -INFERIOR))
    several = len(flips) > 1
    return _NonInferiority(
        mean_interval(flips.tolist(), 0.9),
        mean_interval(clean.tolist(), 0.9),
        yes=float(np.max(p_yes)),
        no=min(1.0, len(p_no) * float(np.nanmin([*p_no, 1.0]))),
        flips_sd=float(flips.std(ddof=1)) if several else 0.0,
        clean_sd=float(clean.std(ddof=1)) if several else 0.0,
        n=min(len(flips), len(clean)),
    )


def _spreads(test: _NonInferiority) -> np.ndarray:
    return np.array([test.flips_sd, test.clean_sd])


def _with_baseline(rows: pd.DataFrame, metric: str, method: str, baseline: str) -> Paired:
    """The values of a method and of its baseline; of itself where it is its own baseline."""
    if method != baseline:
        return paired(rows, metric, method, baseline)
    chosen = rows[(rows.metric == metric) & (rows.method == method) & (rows.epoch == FINAL)]
    return Paired(chosen.value.tolist(), chosen.value.tolist())


def _methods_in(table: pd.DataFrame, column: str) -> str:
    """The methods whose answer in a column is "yes", with the verb: "A and B keep"."""
    passed = [label(method) for method in table.index[table[column] == "yes"]]
    passed = [f'"{name}"' if " " in name else name for name in passed]
    verb = "keep" if len(passed) > 1 else "keeps"
    return f"{listed(passed) if passed else 'no method'} {verb}"
