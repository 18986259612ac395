"""Numbers of docs/results.md, computed again from the CSV files without the package."""

import csv
import math
import re
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
CLEAN = {"source_shortcut": "", "target_shortcut": "", "n_train": ""}
MARKED = {"source_shortcut": "ball on 4", "target_shortcut": "ball on all", "n_train": ""}
AT_TEST = {"source_shortcut": "ball on 4", "target_shortcut": "", "n_train": ""}


@pytest.fixture(scope="module")
def lines():
    """Final values of the digits' sweep, trained as usual."""
    found = []
    for path in sorted((ROOT / "results" / "digits").glob("seed-*.csv")):
        with path.open() as file:
            found += csv.DictReader(file)
    usual = {"lr": 0.01, "epochs": 20}  # the controls and the longer trainings differ in them
    return [
        line
        for line in found
        if line["head"] == "shared" and all(float(line[k]) == v for k, v in usual.items())
    ]


@pytest.fixture(scope="module")
def section():
    """The page's part on the digits, heading by heading."""
    page = (ROOT / "docs" / "results.md").read_text()
    digits = page.split("\n## Cluttered digits: the runs")[1].split("\n## ")[0]
    parts = digits.split("\n### ")[1:]
    return {part.split("\n")[0].split(" (")[0]: part for part in parts}


def by_seed(lines, where, method, metric):
    """Seed -> value."""
    wanted = where | {"method": method, "metric": metric}
    chosen = [line for line in lines if all(line[k] == v for k, v in wanted.items())]
    values = {int(line["seed"]): float(line["value"]) for line in chosen}
    assert len(values) == len(chosen) >= 10, "a seed is missing or there twice"
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
    """Mean and Student's 95 % interval, from their definitions."""
    n = len(values)
    mean = sum(values) / n
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    reach = stats.t.ppf(0.975, n - 1) * spread / math.sqrt(n)
    return [mean, mean - reach, mean + reach]


class Cell(NamedTuple):
    """A column of a table on the page, and the rows that it is made of."""

    heading: str
    where: dict[str, str]
    metric: str
    column: str
    factor: float = 100
    within: float = 0.06  # the page has one digit


FIRST = "Clean source and clean target, as in the paper's tables 1 and 2"
THIRD = "Shortcut on every target image, as in the paper's table 3"
TESTED = "Clean target, shortcut at test time only"
CELLS = [
    Cell(FIRST, CLEAN, "val_accuracy", "validation accuracy, %"),
    Cell(FIRST, CLEAN, "val_loss", "validation loss", 1, 0.0006),
    Cell(THIRD, MARKED, "val_accuracy", "accuracy, shortcut on all, %"),
    Cell(TESTED, AT_TEST, "flip_rate", "flip rate, %"),
    Cell(TESTED, AT_TEST, "clean_accuracy", "accuracy without shortcut, %"),
]


@pytest.mark.parametrize("method", NAMES)
@pytest.mark.parametrize("of", CELLS, ids=[f"{of.heading[:12]}, {of.metric}" for of in CELLS])
def test_a_mean_and_its_interval(lines, section, of, method):
    values = by_seed(lines, of.where, method, of.metric).values()
    named = {"method": NAMES[method]}
    if of.heading == TESTED:
        named["images per class"] = "all"
    found = cell(section[of.heading], of.column, **named)
    assert found == pytest.approx(
        mean_and_ends([of.factor * value for value in values]), abs=of.within
    )


@pytest.mark.parametrize(
    ("claim", "where", "metric"),
    [
        ("3: UT beats FT, shortcut on every target image (accuracy)", MARKED, "val_accuracy"),
        ("UT flips less than FT, all images (flip rate)", AT_TEST, "flip_rate"),
    ],
)
def test_a_difference_with_its_interval(lines, section, claim, where, metric):
    ut, ft = (by_seed(lines, where, method, metric) for method in ("ut", "ft"))
    differences = [100 * (ut[seed] - ft[seed]) for seed in sorted(ut.keys() & ft.keys())]
    part = section["Verdicts on the claims"]
    found = cell(part, "UT - FT, points", claim=claim)
    assert found == pytest.approx(mean_and_ends(differences), abs=0.06)
    assert cell(part, "seeds", claim=claim) == [len(differences)]
