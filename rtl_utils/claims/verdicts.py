"""Any claim: the margins, a case, and a table with a verdict per case."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from rtl_utils.statistics import (
    Interval,
    decided,
    evidence,
    mean_interval,
    p_values,
    seeds_to_decide,
    untested,
    verdicts,
)
from rtl_utils.tables import (
    PAIR,
    by_images,
    group_index,
    images_text,
    paired,
    shortcut_at_test,
    shortcut_everywhere,
    without_shortcut,
)

# Margins of the verdicts, as fractions. They were written down before the results were looked at.
ALIKE = 0.03  # two methods whose accuracies differ by less are alike (claim 1)
ALLOWED = 0.02  # additional flips with which a method still keeps the shortcut out
INFERIOR = 0.02  # accuracy that it may lack of fine-tuning's
NEAR_CHANCE = 0.05  # from chance, within which an accuracy is at chance (claim 2): 500 images alone
# give 0.035 on either side, so a narrower margin could hardly be met
CHANCE = 0.2  # accuracy of guessing: every image task here has five classes


class Case(NamedTuple):
    """A claim about the difference between two methods, and its rows.

    Args:
        claim: in words.
        rows: tidy rows of the runs that decide it.
        metric: that is compared.
        direction: of the claim, see `statistics.evidence`.
        margin: see `statistics.evidence`.
        a: method whose value is taken.
        b: method whose value is subtracted.
    """

    claim: str
    rows: pd.DataFrame
    metric: str
    direction: str
    margin: float = 0.0
    a: str = "ut"
    b: str = "ft"


class Judged(NamedTuple):
    """A claim on some seeds, judged alone, by Student's t alone.

    Args:
        interval: of the mean of their differences, as fractions.
        p: of the claim; see `statistics.p_values`.
        opposite: p of its opposite.
    """

    interval: Interval
    p: float
    opposite: float

    @property
    def says(self) -> str:
        """The verdict."""
        return untested(self.interval.n) or decided(self.p, self.opposite)


def verdict_table(cases: Sequence[Case]) -> pd.DataFrame:
    """Paired differences between two methods, with the verdict on each claim.

    Args:
        cases: the claims; each gives one row per pair of tasks among its rows that has both
            methods. Pairs are never pooled: two pairs with one target are not independent.

    Returns:
        Differences in points with 95 % intervals; p of the test that each claim needs, p of its
        opposite and p of Wilcoxon's signed-rank test, each adjusted by Holm's method over the
        table; verdicts, see `statistics.verdicts`; and for what is undecided the number of seeds
        that would decide it, see `statistics.seeds_to_decide`. Empty if there are no rows.
    """
    found = []
    judged = []
    lines = []
    keys = []
    for case in cases:
        for (source, target), rows in case.rows.groupby(list(PAIR), sort=False):
            if not {case.a, case.b} <= set(rows.method[rows.metric == case.metric]):
                continue
            values = np.subtract(*paired(rows, case.metric, case.a, case.b)).tolist()
            found.append(evidence(values, case.direction, case.margin))
            judged.append((values, case.direction, case.margin))
            keys.append((case.claim,))
            lines.append(
                {
                    "pair": f"{source} → {target}",
                    "seeds": len(values),
                    _heading(cases): found[-1].interval.text(scale=100),
                }
            )
    table = with_verdicts(pd.DataFrame(lines), found, keys, ["claim"])
    if len(table):
        undecided = table.verdict.str.startswith("undecided")
        tested = sum(not np.isnan(e.p) for e in found)
        needed = [
            seeds_to_decide(*claim, tested) if open_ else None
            for claim, open_ in zip(judged, undecided, strict=True)
        ]
        table["seeds that would decide"] = [f"{n:,}" if n is not None else "" for n in needed]
    return table


def course_cases(rows: pd.DataFrame) -> list[Case]:
    """The paper's claims 1 and 3, and whether UT flips less at each number of images.

    Args:
        rows: tidy rows of the transfers of one data set, see `tables.as_usual`.
    """
    clean, marked = without_shortcut(rows), shortcut_everywhere(rows)
    alike = f"1: alike on clean tasks (within {100 * ALIKE:.0f} points of accuracy)"
    third = "3: UT beats FT, shortcut on every target image (accuracy)"
    cases = [
        Case(alike, clean, "val_accuracy", "alike", ALIKE),
        Case(third, marked, "val_accuracy", "above"),
    ]
    for size, part in by_images(shortcut_at_test(rows)).items():
        claim = f"UT flips less than FT, {images_text(size)} (flip rate)"
        cases.append(Case(claim, part, "flip_rate", "below"))
    return cases


def differences(case: Case) -> np.ndarray:
    """(n,) differences of a case as fractions, seeds rising."""
    return np.subtract(*paired(case.rows, case.metric, case.a, case.b))


def judge(case: Case, values: Sequence[float]) -> Judged:
    """The verdict on a claim from some of its differences alone.

    Args:
        case: the claim.
        values: of `differences`.
    """
    p, opposite = p_values(values, case.direction, case.margin)
    return Judged(mean_interval(values), p, opposite)


def with_verdicts(
    table: pd.DataFrame, found: Sequence[Any], keys: Sequence[Any], by: Sequence[str]
) -> pd.DataFrame:
    """The table with its groups as index, and with the p-values and verdicts on its claims."""
    if table.empty:
        return table
    judged = verdicts(found)
    table.index = group_index([tuple(key) for key in keys], by)
    return table.assign(
        **{
            "p, Holm": [p_text(one.p) for one in judged],
            "p of the opposite, Holm": [p_text(one.opposite) for one in judged],
            "p, Wilcoxon, Holm": [p_text(one.wilcoxon) for one in judged],
            "verdict": [one.says for one in judged],
        }
    )


def _heading(cases: Sequence[Case]) -> str:
    """Of the column of differences: the two methods, where all claims have the same."""
    methods = {(case.a, case.b) for case in cases}
    if len(methods) > 1:
        return "difference, points"
    ((a, b),) = methods
    return f"{a.upper()} - {b.upper()}, points"


def percent(share: float) -> str:
    """A chance in whole percent, as far as whole percents tell it from 0."""
    return f"{100 * share:.0f} %" if share >= 0.005 else "less than 1 %"


def p_text(p: float) -> str:
    """A p-value as tables write it; empty where nothing was tested."""
    return "" if np.isnan(p) else f"{p:.2g}"
