"""How many seeds: the interval and the verdict of a claim as seeds are added."""

from functools import lru_cache
from typing import NamedTuple

import ipywidgets as ipw
import numpy as np

from rtl_utils import tables
from rtl_utils.claims import Case, course_cases, fewest
from rtl_utils.plotting import colour
from rtl_utils.randomness import generator
from rtl_utils.statistics import Interval, decided, mean_interval, p_values, untested
from rtl_utils.widgets._rows import stored
from rtl_utils.widgets.panels import Panel, choice, slider
from rtl_utils.widgets.pictures import picture
from rtl_utils.widgets.scenes import Curves, Dots, Group, Line, Scene

_ORDERS = 20  # that are drawn, beside the stored one
_FIRST = 2  # seeds
POINTS = 100  # percentage points in a fraction of 1
_UNUSED = "#C8C8C8"
_END = "#1c1c1c"  # of an interval, as beside dots
_BOUND = "#808080"
_MEASURES = {"val_accuracy": "accuracy", "flip_rate": "flip rate"}


class Judged(NamedTuple):
    """A claim on the first n seeds of an order, judged alone.

    Args:
        interval: of the mean of their differences, as fractions.
        p: of the claim; see `statistics.p_values`.
        opposite: p of its opposite.
        fewest: seeds that a verdict needs.
    """

    interval: Interval
    p: float
    opposite: float
    fewest: int

    @property
    def says(self) -> str:
        """The verdict."""
        return untested(self.interval.n, self.fewest) or decided(self.p, self.opposite)


class SeedsPanel(Panel):
    """A slider over the number of seeds; the claim and the order of the seeds can be chosen.

    Raises:
        FileNotFoundError: outside the course's checkout, which holds the rows.
    """

    def __init__(self) -> None:
        super().__init__(
            "How many seeds?",
            "Add seeds: the interval shrinks, and a verdict appears, or vanishes again. Then take "
            "the seeds in another order. Each dot is the difference between uncoupled transfer "
            "(UT) and fine-tuning (FT) of one seed. The claim is judged alone, so its p is not "
            "adjusted for other claims.",
        )
        cases = course_cases(stored("digits"))
        self.claim = choice("claim", [(case.claim, k) for k, case in enumerate(cases)], 1)
        self.seeds = slider("seeds", 5, 20, lowest=_FIRST)
        self.order = slider("order of the seeds", 0, _ORDERS)
        self.verdict = ipw.HTML()
        self._cases = cases
        self._values = [differences(case) for case in cases]
        self._of = lru_cache(maxsize=None)(self._judged)
        self._along = lru_cache(maxsize=None)(self._intervals)
        self.claim.observe(lambda _: self._limit(), names="value")
        self._limit()
        moved = [self.claim, self.seeds, self.order]
        self.build([*moved, self.verdict], moved)

    def picture(self) -> bytes:
        """What the panel shows now, as a PNG; the claim stands in its title."""
        return picture(self.scene(), f"{self.title} {self._cases[self.claim.value].claim}")

    def follow(self) -> None:
        """Draw the chosen seeds, and say the verdict in words."""
        super().follow()
        self.verdict.value = f"<p role='status'>{self.sentence()}</p>"

    def sentence(self) -> str:
        """The claim, with mean, interval and verdict of the chosen seeds."""
        found = self._now()
        claim = self._cases[self.claim.value].claim
        n, of_all = found.interval.n, len(self._values[self.claim.value])
        start = f"{claim}. {n} of {of_all} seeds: {found.interval.text(scale=POINTS)} points"
        if n < found.fewest:
            return f"{start}; no verdict, which needs {found.fewest} seeds at least."
        return (
            f"{start} (mean, 95 % interval); p = {found.p:.2g} for the claim and "
            f"{found.opposite:.2g} for its opposite, so it is {found.says}."
        )

    def scene(self) -> Scene:
        """Differences of the seeds; mean and interval over the number of seeds."""
        case, now = self._cases[self.claim.value], self._now()
        values = POINTS * self._ordered(self.claim.value, self.order.value)
        interval = now.interval
        n = interval.n
        ends = (POINTS * interval.low, POINTS * interval.mean, POINTS * interval.high)
        used = Group(f"{n} used", values[:n], colour(case.a), ends)
        unused = Group(f"{len(values) - n} not used", values[n:], _UNUSED)
        ylabel = f"UT - FT, points of {_MEASURES[case.metric]}"
        ylim = _limits(values, POINTS * case.margin)
        level = None if case.margin else (0.0, "no difference")
        curves = Curves(
            f"verdict with {n} seeds: {now.says}",
            self._lines(case),
            "seeds",
            ylabel,
            (_FIRST, len(values)),
            ylim,
            cursor=n,
            level=level,
        )
        return [Dots("difference of each seed", [used, unused], ylabel, ylim, level), curves]

    def _lines(self, case: Case) -> list[Line]:
        """Mean and ends of the interval over the number of seeds; the margin if there is one."""
        found = self._along(self.claim.value, self.order.value)
        n = np.array([interval.n for interval in found], dtype=float)
        names = {"mean": "mean", "low": "lower end, 95 %", "high": "upper end, 95 %"}
        colours = {"mean": colour(case.a), "low": _END, "high": _END}
        lines = []
        for end, name in names.items():
            values = np.array([getattr(interval, end) for interval in found])
            lines.append(Line(name, n, POINTS * values, colours[end]))
        if case.margin:
            margin = POINTS * case.margin
            around = np.array([margin, margin, -margin, -margin])
            x = n[[0, -1, -1, 0]]
            lines.append(Line(f"margin, ±{margin:.0f}", x, around, _BOUND, dashed=True))
        return lines

    def _now(self) -> Judged:
        return self._of(self.claim.value, self.order.value, self.seeds.value)

    def _limit(self) -> None:
        self.seeds.max = len(self._values[self.claim.value])

    def _ordered(self, claim: int, order: int) -> np.ndarray:
        """The differences of a claim in one order; order 0 is that of the seeds."""
        values = self._values[claim]
        if order == 0:
            return values
        return values[generator(order, "seed-order").permutation(len(values))]

    def _intervals(self, claim: int, order: int) -> list[Interval]:
        """Of the first two seeds of an order, the first three, and so on."""
        values = self._ordered(claim, order)
        return [mean_interval(values[:n].tolist()) for n in range(_FIRST, len(values) + 1)]

    def _judged(self, claim: int, order: int, n: int) -> Judged:
        """The claim on the first n seeds of an order."""
        return judged(self._cases[claim], self._ordered(claim, order)[:n].tolist())


def judged(case: Case, values: list[float]) -> Judged:
    """A claim on these differences alone."""
    p, opposite = p_values(values, case.direction, case.margin)
    return Judged(mean_interval(values), p, opposite, fewest(case.rows))


def differences(case: Case) -> np.ndarray:
    """(n,) differences as fractions, seeds rising."""
    return np.subtract(*tables.paired(case.rows, case.metric, case.a, case.b))


def _limits(values: np.ndarray, margin: float) -> tuple[float, float]:
    """An axis that holds the values, zero and the margin on both sides."""
    low, high = min(values.min(), -margin), max(values.max(), margin)
    space = 0.1 * (high - low)
    return float(low - space), float(high + space)
