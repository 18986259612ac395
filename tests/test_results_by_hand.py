"""Numbers of docs/results.md, computed again from the CSV files without the package."""

import csv
import math
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from scipy import stats

ROOT = Path(__file__).resolve().parents[1]
NUMBER = r"-?\d[\d.]*(?:e-?\d+)?"
NAMES = {
    "scratch": "from scratch",
    "ft": "fine-tuning",
    "fixed": "fixed feature",
    "ut": "uncoupled transfer",
}
FIRST = "Clean source and clean target, as in the paper's tables 1 and 2"
THIRD = "Shortcut on every target image, as in the paper's table 3"
TESTED = "Clean target, shortcut at test time only"


class Pair(NamedTuple):
    """Two tasks, and the folders that hold their rows, one per heading of the page."""

    title: str
    source: str
    target: str
    ball: str
    epochs: int
    folders: tuple[str, str, str]

    def where(self, heading: str) -> dict[str, str]:
        """What the rows under a heading have in common."""
        source = "" if heading == FIRST else f"ball on {self.ball}"
        target = "ball on all" if heading == THIRD else ""
        shortcuts = {"source_shortcut": source, "target_shortcut": target}
        return shortcuts | {"source": self.source, "target": self.target, "n_train": ""}


HEADINGS = (FIRST, THIRD, TESTED)
DIGITS = ("digits", "digits", "digits")
CIFAR = ("table1", "table3", "salman")
PAIRS = [
    Pair("Cluttered digits", "digits-0-4", "digits-5-9", "4", 20, DIGITS),
    Pair("CIFAR-100", "vehicles-1", "vehicles-2", "train", 50, CIFAR),
    Pair("CIFAR-100", "herbivores", "flowers", "kangaroo", 50, CIFAR),
    Pair("CIFAR-100", "carnivores", "flowers", "wolf", 50, CIFAR),
]


def stored(pair, heading):
    """Files of the rows under a heading; a sweep may not have begun."""
    return sorted((ROOT / "results" / pair.folders[HEADINGS.index(heading)]).glob("seed-*.csv"))


@cache
def lines(pair, heading):
    """Final values under a heading, trained as usual: the controls differ in what is asked here."""
    found = []
    for path in stored(pair, heading):
        with path.open() as file:
            found += csv.DictReader(file)
    usual = {"lr": 0.01, "epochs": pair.epochs}
    return [
        line
        for line in found
        if line["head"] == "shared" and all(float(line[k]) == v for k, v in usual.items())
    ]


@cache
def sections(title):
    """The page's part on a data set, heading by heading."""
    page = (ROOT / "docs" / "results.md").read_text()
    (part,) = page.split(f"\n## {title}: the runs")[1:]
    parts = part.split("\n## ")[0].split("\n### ")[1:]
    return {part.split("\n")[0].split(" (")[0]: part for part in parts}


def by_seed(lines, where, method, metric):
    """Seed -> value."""
    wanted = where | {"method": method, "metric": metric}
    chosen = [line for line in lines if all(line[k] == v for k, v in wanted.items())]
    values = {int(line["seed"]): float(line["value"]) for line in chosen}
    assert 0 < len(values) == len(chosen), "a seed is missing or there twice"
    return values


def cell(part, column, **where):
    """The numbers of one cell: mean and both ends of the interval."""
    split = [re.split(r"(?<!\\)\|", row)[1:-1] for row in part.split("\n") if "|" in row]
    rows = [[text.strip() for text in row] for row in split]
    (head,) = [k for k, row in enumerate(rows) if {column, *where} <= set(row)]
    for row in rows[head + 2 :]:
        found = dict(zip(rows[head], row, strict=False))
        if all(found.get(name) == value for name, value in where.items()):
            return [float(text) for text in re.findall(NUMBER, found[column])]
    raise AssertionError(f"the page has no row {where}")


def mean_and_ends(values):
    """Mean and Student's 95 % interval, from their definitions; too few have no interval."""
    n = len(values)
    mean = sum(values) / n
    if n < 3:
        return [mean]
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    reach = stats.t.ppf(0.975, n - 1) * spread / math.sqrt(n)
    return [mean, mean - reach, mean + reach]


class Cell(NamedTuple):
    """A column of a table on the page, and the rows that it is made of."""

    heading: str
    metric: str
    column: str
    factor: float = 100
    within: float = 0.06  # the page has one digit


CELLS = [
    Cell(FIRST, "val_accuracy", "validation accuracy, %"),
    Cell(FIRST, "val_loss", "validation loss", 1, 0.0006),
    Cell(THIRD, "val_accuracy", "accuracy, shortcut on all, %"),
    Cell(TESTED, "flip_rate", "flip rate, %"),
    Cell(TESTED, "clean_accuracy", "accuracy without shortcut, %"),
]
CHECKED = [
    pytest.param(pair, of, method, id=f"{pair.source}, {of.heading[:12]}, {of.metric}, {method}")
    for pair in PAIRS
    for of in CELLS
    if stored(pair, of.heading)
    for method in NAMES
]


@pytest.mark.parametrize(("pair", "of", "method"), CHECKED)
def test_a_mean_and_its_interval(pair, of, method):
    values = by_seed(lines(pair, of.heading), pair.where(of.heading), method, of.metric).values()
    named = {"method": NAMES[method], "source": pair.source, "target": pair.target}
    if of.heading == TESTED:
        named["images per class"] = "all"
    found = cell(sections(pair.title)[of.heading], of.column, **named)
    assert found == pytest.approx(
        mean_and_ends([of.factor * value for value in values]), abs=of.within
    )


CLAIMS = {
    THIRD: ("3: UT beats FT, shortcut on every target image (accuracy)", "val_accuracy"),
    TESTED: ("UT flips less than FT, all images (flip rate)", "flip_rate"),
}


@pytest.mark.parametrize(
    ("pair", "heading"),
    [
        pytest.param(pair, heading, id=f"{pair.source}, {heading[:12]}")
        for pair in PAIRS
        for heading in CLAIMS
        if stored(pair, heading)
    ],
)
def test_a_difference_with_its_interval(pair, heading):
    claim, metric = CLAIMS[heading]
    rows = lines(pair, heading)
    ut, ft = (by_seed(rows, pair.where(heading), method, metric) for method in ("ut", "ft"))
    differences = [100 * (ut[seed] - ft[seed]) for seed in sorted(ut.keys() & ft.keys())]
    part = sections(pair.title)["Verdicts on the claims"]
    named = {"claim": claim, "pair": f"{pair.source} → {pair.target}"}
    assert cell(part, "UT - FT, points", **named) == pytest.approx(
        mean_and_ends(differences), abs=0.06
    )
    assert cell(part, "seeds", **named) == [len(differences)]
