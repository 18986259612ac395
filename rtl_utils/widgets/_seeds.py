"""How many seeds: the interval and the verdict of a claim as seeds are added."""

from functools import lru_cache

import ipywidgets as ipw
import numpy as np

from rtl_utils.claims import Case, Judged, course_cases, difference_text, differences, judge
from rtl_utils.plotting import colour
from rtl_utils.statistics import FEWEST, Interval, mean_interval
from rtl_utils.widgets.panels import Panel, choice, slider
from rtl_utils.widgets.pictures import picture
from rtl_utils.widgets.rows import stored
from rtl_utils.widgets.scenes import Curves, Dots, Group, Line, Scene

_FIRST = 2  # seeds
POINTS = 100  # percentage points in a fraction of 1
_UNUSED = "#C8C8C8"
_END = "#1c1c1c"  # of an interval, as beside dots
_BOUND = "#808080"
_MEASURES = {"val_accuracy": "accuracy", "flip_rate": "flip rate"}


class SeedsPanel(Panel):
    """A slider over the number of seeds; the claim and the first seed can be chosen.

    Raises:
        FileNotFoundError: outside the course's checkout, which holds the rows.
    """

    def __init__(self) -> None:
        super().__init__(
            "How many seeds?",
            "Add seeds: the interval shrinks, and a verdict appears, or vanishes again. Then "
            "begin with another seed; after the last one comes seed 0. Each dot is the difference "
            "between uncoupled transfer (UT), or its mixture of tasks, and fine-tuning (FT) of one "
            "seed. The claim is judged alone, so its p is not adjusted for other claims.",
        )
        cases = course_cases(stored("digits"))
        self.claim = choice("claim", [(case.claim, k) for k, case in enumerate(cases)], 1)
        self.seeds = slider("seeds", 5, 20, lowest=_FIRST)
        self.first = slider("first seed", 0, 19)
        self.verdict = ipw.HTML()
        self._cases = cases
        self._values = [differences(case) for case in cases]
        self._of = lru_cache(maxsize=None)(self._judged)
        self._along = lru_cache(maxsize=None)(self._intervals)
        self.claim.observe(lambda _: self._limit(), names="value")
        self._limit()
        moved = [self.claim, self.seeds, self.first]
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
        mean = f"mean {found.interval.text(scale=POINTS)} points"
        start = f"{claim}. {n} of {of_all} seeds: {mean}"
        if n < FEWEST:
            return f"{start}; no verdict, which needs {FEWEST} seeds at least."
        return (
            f"{start}, with its 95 % interval; {_p(found.p)} for the claim and "
            f"{_p(found.opposite)} for its opposite, so it is {found.says}."
        )

    def scene(self) -> Scene:
        """Differences of the seeds; mean and interval over the number of seeds."""
        case, now = self._cases[self.claim.value], self._now()
        values = POINTS * self._ordered(self.claim.value, self.first.value)
        interval = now.interval
        n = interval.n
        ends = (POINTS * interval.low, POINTS * interval.mean, POINTS * interval.high)
        used = Group(f"{n} used", values[:n], colour(case.a), ends)
        unused = Group(f"{len(values) - n} not used", values[n:], _UNUSED)
        ylabel = f"{difference_text(case)}, points of {_MEASURES[case.metric]}"
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
        found = self._along(self.claim.value, self.first.value)
        n = np.array([interval.n for interval in found], dtype=float)
        names = {"mean": "mean", "low": "95 % interval", "high": ""}
        colours = {"mean": colour(case.a), "low": _END, "high": _END}
        lines = []
        for end, name in names.items():
            values = np.array([getattr(interval, end) for interval in found])
            lines.append(Line(name, n, POINTS * values, colours[end], dashed=end != "mean"))
        if case.margin:
            margin = POINTS * case.margin
            around = np.array([margin, margin, -margin, -margin])
            x = n[[0, -1, -1, 0]]
            lines.append(Line(f"margin, ±{margin:.0f}", x, around, _BOUND, dashed=True))
        return lines

    def _now(self) -> Judged:
        return self._of(self.claim.value, self.first.value, self.seeds.value)

    def _limit(self) -> None:
        self.seeds.max = len(self._values[self.claim.value])
        self.first.max = self.seeds.max - 1

    def _ordered(self, claim: int, first: int) -> np.ndarray:
        """The differences of a claim, beginning with one seed."""
        return np.roll(self._values[claim], -first)

    def _intervals(self, claim: int, first: int) -> list[Interval]:
        """Of two seeds from the first one on, three seeds, and so on."""
        values = self._ordered(claim, first)
        return [mean_interval(values[:n].tolist()) for n in range(_FIRST, len(values) + 1)]

    def _judged(self, claim: int, first: int, n: int) -> Judged:
        """The claim on n seeds from one on."""
        return judge(self._cases[claim], self._ordered(claim, first)[:n].tolist())


def _p(p: float) -> str:
    return "p > 0.99" if p > 0.99 else f"p = {p:.2g}"


def _limits(values: np.ndarray, margin: float) -> tuple[float, float]:
    """An axis that holds the values, zero and the margin on both sides."""
    low, high = min(values.min(), -margin), max(values.max(), margin)
    space = 0.1 * (high - low)
    return float(low - space), float(high + space)
