"""Any claim: the margins, a case, and a table with a verdict per case."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from rtl_utils.statistics import (
    Evidence,
    Interval,
    Verdict,
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
    points_text,
    shortcut_at_test,
    shortcut_everywhere,
    without_shortcut,
)

# Margins of the verdicts, as fractions. They were written down before the results were looked at,
# but for NEARLY_ALL.
ALIKE = 0.03  # two methods whose accuracies differ by less are alike (claim 1)
ALLOWED = 0.02  # additional flips with which a method still keeps the shortcut out
INFERIOR = 0.02  # accuracy that it may lack of fine-tuning's
NEAR_CHANCE = 0.05  # from chance, within which an accuracy is at chance (claim 2): 500 images alone
# give 0.035 on either side, so a narrower margin could hardly be met
NEARLY_ALL = 0.9  # share of images in the shortcut's class, which explains claim 2
CHANCE = 0.2  # accuracy of guessing: every image task here has five classes
# methods in claims and headings
_SHORT = {"ut": "UT", "ut-mixture": "UT (mixture)", "ft": "FT", "scratch": "scratch"}


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
        family: whose claims are adjusted together by Holm's method, see `with_verdicts`.
    """

    claim: str
    rows: pd.DataFrame
    metric: str
    direction: str
    margin: float = 0.0
    a: str = "ut"
    b: str = "ft"
    family: str = ""


class Question(NamedTuple):
    """What a line of a table with verdicts asks of its values.

    Args:
        values: one per seed.
        direction: of the claim, see `statistics.evidence`.
        margin: see `statistics.evidence`.
        family: as of a `Case`.
    """

    values: Sequence[float]
    direction: str
    margin: float = 0.0
    family: str = ""

    @property
    def evidence(self) -> Evidence:
        """What the values say before any other line is looked at."""
        return evidence(self.values, self.direction, self.margin)

    def seeds_to_decide(self, lines: int) -> str:
        """How many seeds would decide it, beside so many lines of its family that are tested."""
        seeds = seeds_to_decide(self.values, self.direction, self.margin, lines)
        return "" if seeds is None else f"{seeds:,}"


class Answer(NamedTuple):
    """What is said of a question.

    Args:
        verdict: with its p-values, adjusted over its family.
        seeds: that would decide what is undecided; else empty.
    """

    verdict: Verdict
    seeds: str


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
        Differences in points with 95 % intervals, and the columns of `with_verdicts`. Empty if
        there are no rows.
    """
    questions = []
    lines = []
    keys = []
    for case in cases:
        for (source, target), rows in case.rows.groupby(list(PAIR), sort=False):
            if not {case.a, case.b} <= set(rows.method[rows.metric == case.metric]):
                continue
            values = np.subtract(*paired(rows, case.metric, case.a, case.b)).tolist()
            questions.append(Question(values, case.direction, case.margin, case.family))
            keys.append((case.claim,))
            lines.append(
                {
                    "pair": f"{source} → {target}",
                    "seeds": len(values),
                    _heading(cases): points_text(values),
                }
            )
    return with_verdicts(pd.DataFrame(lines), questions, keys, ["claim"])


def course_cases(rows: pd.DataFrame) -> list[Case]:
    """The paper's claims 1 and 3, and whether UT flips less at each number of images.

    The families are those that the sweeps' notes name: the pairs of claim 1, those of claim 3, and
    all comparisons of flips.

    Args:
        rows: tidy rows of the transfers of one data set, see `tables.as_usual`.
    """
    clean, marked = without_shortcut(rows), shortcut_everywhere(rows)
    alike = f"1: UT and FT alike on clean tasks (within {100 * ALIKE:.0f} points of accuracy)"
    third = "3: UT beats FT, shortcut on every target image (accuracy)"
    cases = [
        Case(alike, clean, "val_accuracy", "alike", ALIKE, family="claim 1"),
        Case(third, marked, "val_accuracy", "above", family="claim 3"),
    ]
    sizes = by_images(shortcut_at_test(rows))
    for method in ("ut", "ut-mixture"):
        for size, part in sizes.items():
            claim = f"{_SHORT[method]} flips less than FT, {images_text(size)} (flip rate)"
            if method in set(part.method):
                cases.append(Case(claim, part, "flip_rate", "below", a=method, family="flips"))
    return cases


def difference_text(case: Case) -> str:
    """The difference of a case in short, such as "UT - FT"."""
    return " - ".join(_SHORT.get(method, method.upper()) for method in (case.a, case.b))


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
    table: pd.DataFrame, questions: Sequence[Question], keys: Sequence[Any], by: Sequence[str]
) -> pd.DataFrame:
    """The table with its groups as index, and with what the tests say about each line.

    Args:
        table: one row per line.
        questions: of the lines.
        keys: of the groups, one per line.
        by: names of their levels.

    Returns:
        The table with p of the test that each claim needs, p of its opposite and p of Wilcoxon's
        signed-rank test, each adjusted by Holm's method over the lines of one family; verdicts, see
        `statistics.verdicts`; and for what is undecided the number of seeds that would decide it,
        see `statistics.seeds_to_decide`.
    """
    if table.empty:
        return table
    answers = _answers(questions)
    table.index = group_index([tuple(key) for key in keys], by)
    return table.assign(
        **{
            "p, Holm": [p_text(one.verdict.p) for one in answers],
            "p of the opposite, Holm": [p_text(one.verdict.opposite) for one in answers],
            "p, Wilcoxon, Holm": [p_text(one.verdict.wilcoxon) for one in answers],
            "verdict": [one.verdict.says for one in answers],
            "seeds that would decide": [one.seeds for one in answers],
        }
    )


def _answers(questions: Sequence[Question]) -> list[Answer]:
    """The answers in the order of the questions, each family judged by itself."""
    families: dict[str, list[int]] = {}
    for place, question in enumerate(questions):
        families.setdefault(question.family, []).append(place)
    answers: dict[int, Answer] = {}
    for places in families.values():
        found = [questions[place].evidence for place in places]
        tested = sum(not np.isnan(one.p) for one in found)
        for place, verdict in zip(places, verdicts(found), strict=True):
            open_ = verdict.says.startswith("undecided")
            seeds = questions[place].seeds_to_decide(tested) if open_ else ""
            answers[place] = Answer(verdict, seeds)
    return [answers[place] for place in range(len(questions))]


def _heading(cases: Sequence[Case]) -> str:
    """Of the column of differences: the two methods, where all claims have the same."""
    names = {difference_text(case) for case in cases}
    return f"{names.pop() if len(names) == 1 else 'difference'}, points"


def percent(share: float) -> str:
    """A chance in whole percent, as far as whole percents tell it from 0."""
    return f"{100 * share:.0f} %" if share >= 0.005 else "less than 1 %"


def p_text(p: float) -> str:
    """A p-value as tables write it; empty where nothing was tested."""
    return "" if np.isnan(p) else f"{p:.2g}"
