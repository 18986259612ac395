"""Numbers and verdicts of docs/results.md, computed again from the files without the package."""

import csv
import math
import re
import statistics
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from rtl_utils import claims

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
def rows_of(folder):
    """Every line of the files of a sweep."""
    found = []
    for path in sorted((ROOT / "results" / folder).glob("seed-*.csv")):
        with path.open() as file:
            found += csv.DictReader(file)
    return found


@cache
def lines(pair, heading, epochs=None):
    """Final values under a heading, trained as usual: the controls differ in what is asked here.

    With `epochs`, those that were trained for another number of epochs.
    """
    usual = {"lr": 0.01, "epochs": epochs or pair.epochs}
    return [
        line
        for line in rows_of(pair.folders[HEADINGS.index(heading)])
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
    """Mean and Student's 95 % interval, from their definitions; under five have no interval."""
    n = len(values)
    mean = sum(values) / n
    if n < 5:
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
    expected = mean_and_ends([of.factor * value for value in values])
    if of.column.endswith("%"):
        expected = [min(max(end, 0), 100) for end in expected]
    assert found == pytest.approx(expected, abs=of.within)


# --- claims ---------------------------------------------------------------------------------------


class Claim(NamedTuple):
    """A line of the table of verdicts, as its text begins, and the test that it needs."""

    text: str
    heading: str
    metric: str
    direction: str
    a: str = "ut"
    n_train: str = ""
    epochs: int | None = None


MARGIN = 0.03  # of claim 1, as sweeps/table1.yaml says
CHANCE, NEAR = 0.2, 0.05
# Data set -> the numbers of images of its test: text, value and epochs.
SIZES = {
    "CIFAR-100": [("50 images per class", "50", None), ("all images", "", None)],
    "Cluttered digits": [
        ("20 images per class, 20 epochs", "20", None),
        ("20 images per class, 114 epochs", "20", 114),
        ("all images", "", None),
    ],
}
# The families of Holm's method, as the notes in sweeps/*.yaml name them.
FAMILIES = [
    pytest.param(title, family, id=f"{title}, {family[0].text[:12]}")
    for title, sizes in SIZES.items()
    for family in (
        [Claim("1: UT and FT alike on clean tasks", FIRST, "val_accuracy", "alike")],
        [Claim("3: UT beats FT", THIRD, "val_accuracy", "above")],
        [
            Claim(f"{name} flips less than FT, {text}", TESTED, "flip_rate", "below", method, *size)
            for method, name in (("ut", "UT"), ("ut-mixture", "UT (mixture)"))
            for text, *size in sizes
        ],
    )
]


def p_values(values, direction, margin=0.0):
    """p of a claim and of its opposite, by scipy's t tests."""

    def p(bound, alternative):
        return stats.ttest_1samp(values, bound, alternative=alternative).pvalue

    if direction == "alike":
        inside = max(p(-margin, "greater"), p(margin, "less"))
        return inside, min(1.0, 2 * min(p(-margin, "less"), p(margin, "greater")))
    for_, against = ("greater", "less") if direction == "above" else ("less", "greater")
    return min(1.0, 2 * p(0.0, for_)), min(1.0, 2 * p(0.0, against))


def adjusted(p):
    """By Holm's method, as statsmodels has it."""
    return multipletests(p, method="holm")[1]


def of_claim(pair, claim):
    """Differences of a claim on a pair of tasks, seeds rising."""
    where = pair.where(claim.heading) | {"n_train": claim.n_train}
    rows = lines(pair, claim.heading, claim.epochs)
    of_a, ft = (by_seed(rows, where, method, claim.metric) for method in (claim.a, "ft"))
    return [of_a[seed] - ft[seed] for seed in sorted(of_a.keys() & ft.keys())]


def line_of(part, start, pair):
    """The line of a table of verdicts, as a dictionary."""
    split = [[text.strip() for text in row.split("|")[1:-1]] for row in part.split("\n")]
    (head,) = [row for row in split if row[:2] == ["claim", "pair"]]
    (row,) = [row for row in split if row and row[0].startswith(start) and row[1] == pair]
    return dict(zip(head, row, strict=True))


def numbers(text):
    return [float(number) for number in re.findall(NUMBER, text)]


def said(p, opposite):
    """The verdict by two adjusted p-values."""
    if p < 0.05:
        return "reproduced"
    return "not reproduced" if opposite < 0.05 else "undecided"


@pytest.mark.parametrize(("title", "family"), FAMILIES)
def test_differences_p_values_and_verdicts_of_a_family(title, family):
    """All pairs of a data set, adjusted over all lines of the family."""
    asked = [(pair, claim) for claim in family for pair in PAIRS if pair.title == title]
    values = [of_claim(pair, claim) for pair, claim in asked]
    found = [
        p_values(of, claim.direction, MARGIN) for of, (_, claim) in zip(values, asked, strict=True)
    ]
    signed_ranks = adjusted([stats.wilcoxon(of).pvalue for of in values])
    tests = (*(adjusted(p) for p in zip(*found, strict=True)), signed_ranks)
    part = sections(title)["Verdicts on the claims"]
    for (pair, claim), of, p, opposite, wilcoxon in zip(asked, values, *tests, strict=True):
        line = line_of(part, claim.text, f"{pair.source} → {pair.target}")
        assert numbers(line["difference, points"]) == pytest.approx(
            mean_and_ends([100 * value for value in of]), abs=0.06
        )
        assert line["seeds"] == str(len(of))
        assert float(line["p, Holm"]) == pytest.approx(p, rel=0.06)  # the page has two digits
        assert float(line["p of the opposite, Holm"]) == pytest.approx(opposite, rel=0.06)
        assert float(line["p, Wilcoxon, Holm"]) == pytest.approx(wilcoxon, rel=0.06)
        assert line["verdict"] == said(p, opposite)


def test_margins_are_those_of_the_notes():
    assert "alike means within 3 points" in " ".join(
        (ROOT / "sweeps" / "table1.yaml").read_text().split()
    )
    assert (claims.ALIKE, claims.CHANCE, claims.NEAR_CHANCE) == (MARGIN, CHANCE, NEAR)


def test_claim_2_on_the_three_targets():
    """The backbone as it is, with the ball on every image of the target."""
    pairs = [pair for pair in PAIRS if pair.title == "CIFAR-100"]
    before = [
        by_seed(lines(pair, TESTED), pair.where(TESTED), "before", "ball_accuracy").values()
        for pair in pairs
    ]
    found = [p_values([v - CHANCE for v in values], "alike", NEAR) for values in before]
    part = sections("CIFAR-100")["Before any transfer: is the biased backbone at chance?"]
    each = zip(pairs, before, *(adjusted(p) for p in zip(*found, strict=True)), strict=True)
    for pair, values, p, opposite in each:
        named = {"backbone of": pair.source, "images of": pair.target}
        assert cell(part, "accuracy, shortcut on all, %", **named) == pytest.approx(
            mean_and_ends([100 * value for value in values]), abs=0.06
        )
        assert cell(part, "p, Holm", **named) == pytest.approx([p], rel=0.06)
        assert f"| {said(p, opposite)} |" in next(
            row for row in part.split("\n") if f"| {pair.source} | {pair.target} |" in row
        )


def test_whether_the_papers_table_3_is_compatible_with_ours():
    """Its mean of three trials lies in the prediction interval for three further runs of ours."""
    paper = {"vehicles-1": 2.7, "herbivores": 12.9, "carnivores": 29.1}
    part = sections("CIFAR-100")["Verdicts on the claims"].split("prediction interval")[1]
    (claim,) = FAMILIES[1].values[1]
    for pair in PAIRS:
        if pair.title != "CIFAR-100":
            continue
        values = [100 * value for value in of_claim(pair, claim)]
        n = len(values)
        reach = stats.t.ppf(0.975, n - 1) * statistics.stdev(values) * (1 / 3 + 1 / n) ** 0.5
        inside = abs(paper[pair.source] - statistics.mean(values)) <= reach
        row = next(
            row
            for row in part.split("\n")
            if row.startswith("| 3 (") and f"| {pair.source} → {pair.target} |" in row
        )
        assert row.endswith(f"| {paper[pair.source]:+} | {'yes' if inside else 'no'} |")


@pytest.mark.parametrize("title", SIZES)
def test_the_readme_counts_the_settings_with_inherited_flips(title):
    """Flips from the biased backbone minus those from the clean one, paired by seed."""
    p = {"ft": [], "ut": []}
    for method, found in p.items():
        for pair in (pair for pair in PAIRS if pair.title == title):
            for _, n_train, epochs in SIZES[title]:
                where = pair.where(TESTED) | {"n_train": n_train}
                rows = lines(pair, TESTED, epochs)
                biased = by_seed(rows, where, method, "flip_rate")
                clean = by_seed(rows, where | {"source_shortcut": ""}, method, "flip_rate")
                shared = sorted(biased.keys() & clean.keys())
                found.append(p_values([biased[seed] - clean[seed] for seed in shared], "above")[0])
    shown = adjusted(p["ft"] + p["ut"]) < 0.05
    ft, ut = shown[: len(p["ft"])], shown[len(p["ft"]) :]
    said = f"fine-tuning in {sum(ft)} of {len(ft)} and uncoupled transfer in {sum(ut)} of {len(ut)}"
    short = " ".join(
        (ROOT / "README.md").read_text().split("**In short.**")[1].split("\n\n")[0].split()
    )
    assert said in short.split(f"{title}:")[1].split(". That")[0]


def test_stuck_runs_with_their_intervals_and_mcnemars_test():
    """Frozen statistics, the shortcut in the source and on every target image, all images."""
    stuck = {}
    for row in rows_of("digits-frozen"):
        if row["metric"] == "train_accuracy" and row["method"] in ("ft-frozen", "ut-frozen"):
            setting = row["source_shortcut"], row["target_shortcut"], row["n_train"], row["lr"]
            of = stuck.setdefault(setting, {"ft-frozen": set(), "ut-frozen": set()})
            of[row["method"]] |= {row["seed"]} if float(row["value"]) <= 0.25 else set()
    alone = {
        setting: stats.binomtest(len(ft - ut), len(ft ^ ut)).pvalue
        for setting, (ft, ut) in ((setting, of.values()) for setting, of in stuck.items())
        if ft ^ ut  # with updated statistics no run is stuck, so those lines are not tested
    }
    p = dict(zip(alone, adjusted(list(alone.values())), strict=True))
    setting = ("ball on 4", "ball on all", "", "0.01")
    page = (ROOT / "docs" / "results.md").read_text().split("## Frozen BatchNorm statistics")[1]
    part = page.split("The paper's claim 4")[1].split("\n## ")[0]
    named = {"images": "all", "learning rate": "0.01", "statistics": "frozen"}
    named["condition"] = "shortcut in the source and on every target image"
    for method, seeds in stuck[setting].items():
        low = stats.beta.ppf(0.025, len(seeds), 21 - len(seeds))
        high = stats.beta.ppf(0.975, len(seeds) + 1, 20 - len(seeds))
        expected = [len(seeds), 20, 100 * low, 100 * high]
        column = f"{method[:2].upper()} stuck"
        assert cell(part, column, **named) == pytest.approx(expected, abs=0.6)
    column = "stuck, FT against UT: p of McNemar's test, Holm"
    assert cell(part, column, **named) == pytest.approx([p[setting]], rel=0.06)


def test_claim_6_by_all_orders_of_the_tasks():
    """Spearman's correlation of the fine-tuning distance with the accuracy of fine-tuning."""
    tasks = ("herbivores", "carnivores", "vehicles-1", "vehicles-2", "flowers")
    found = {"weight_length": {}, "val_accuracy": {}}
    for row in rows_of("task-distances"):
        if row["method"] == "ft" and row["metric"] in found:
            place = tasks.index(row["source"]), tasks.index(row["target"])
            found[row["metric"]].setdefault(place, []).append(float(row["value"]))
    distance, accuracy = ({p: statistics.mean(v) for p, v in of.items()} for of in found.values())
    places = sorted(distance)
    assert len(places) == 20

    def correlation(order):
        moved = [accuracy[order[i], order[j]] for i, j in places]
        return stats.spearmanr([distance[place] for place in places], moved).statistic

    given = correlation(range(5))
    as_low = [correlation(order) <= given + 1e-9 for order in permutations(range(5))]
    page = (ROOT / "docs" / "distances.md").read_text()
    part = page.split("## Do the distances agree")[1]
    assert cell(part, "with accuracy", distance="fine-tuning")[0] == pytest.approx(given, abs=0.006)
    p = sum(as_low) / len(as_low)
    assert cell(part, "p of falling", distance="fine-tuning") == pytest.approx([p], rel=0.06)


@pytest.mark.parametrize(
    ("a", "b", "family"),
    [
        ("ut", "ft", (("ft", "backbone"), ("ut", "backbone"), ("ut", "ft"))),
        ("ut", "scratch", (("ft", "scratch"), ("ut", "scratch"))),
    ],
)
@pytest.mark.parametrize(("lasso", "heading"), [(0, "Without"), (0.002, "With")])
def test_lime_weights_of_the_spurious_features(a, b, family, lasso, heading):
    # the backbones have a lasso of their own
    rows = rows_of("synthetic")
    rows = [row for row in rows if row["method"] == "backbone" or float(row["l1"] or 0) == lasso]
    sizes = {name: by_seed(rows, {}, name, "lime_spurious") for pair in family for name in pair}
    differences = {
        (x, y): [sizes[x][seed] - sizes[y][seed] for seed in sorted(sizes[x])] for x, y in family
    }
    p = [p_values(values, "below") for values in differences.values()]
    opposite = adjusted([one for _, one in p])[list(differences).index((a, b))]
    page = (ROOT / "docs" / "results.md").read_text().split("## CIFAR-100")[0]
    page = page.split("### LIME")[1].split(f"{heading} the lasso:")[1].split(" the lasso:")[0]
    names = NAMES | {"backbone": "backbone"}
    named = {"mean size of the LIME weight, features 0 to 19": f"{names[a]} minus {names[b]}"}
    assert cell(page, "difference", **named) == pytest.approx(
        mean_and_ends(differences[a, b]), abs=6e-5
    )
    assert cell(page, "p of the opposite, Holm", **named) == pytest.approx([opposite], rel=0.06)


@pytest.mark.parametrize(("lasso", "heading"), [(0, "Without"), (0.002, "With")])
def test_which_validation_losses_are_lower_as_in_figure_1(lasso, heading):
    rows = [row for row in rows_of("synthetic") if row["method"] in NAMES]
    asked = (("ut", "ft"), ("ut", "scratch"), ("ft", "scratch"))
    differences = {}
    for l1 in (0, 0.002):
        chosen = [row for row in rows if float(row["l1"] or 0) == l1]
        losses = {name: by_seed(chosen, {}, name, "val_loss") for name in ("ft", "ut", "scratch")}
        for a, b in asked:
            seeds = sorted(losses[a])
            differences[l1, a, b] = [losses[a][seed] - losses[b][seed] for seed in seeds]
    p = [p_values(values, "below") for values in differences.values()]
    lower, opposite = adjusted([one for one, _ in p]), adjusted([one for _, one in p])
    page = (ROOT / "docs" / "results.md").read_text().split("## The synthetic experiment")[1]
    part = page.split(f"### {heading} the lasso")[1].split("\n### ")[0]
    for place, ((l1, a, b), values) in enumerate(differences.items()):
        if l1 != lasso:
            continue
        named = {"validation loss": f"{NAMES[a]} minus {NAMES[b]}"}
        assert cell(part, "difference", **named) == pytest.approx(mean_and_ends(values), abs=6e-5)
        assert cell(part, "p, Holm", **named) == pytest.approx([lower[place]], rel=0.06)
        assert cell(part, "p of the opposite, Holm", **named) == pytest.approx(
            [opposite[place]], rel=0.06
        )


def test_the_median_rise_of_the_restored_loss():
    page = (ROOT / "docs" / "results.md").read_text().split("### Without the lasso")[1]
    page = page.split("\n### ")[0]
    losses = {}
    for row in rows_of("synthetic"):
        if row["method"] in NAMES and float(row["l1"] or 0) == 0:
            key = row["method"], row["seed"]
            losses.setdefault(key, {})[row["metric"]] = float(row["value"])
    for method in ("scratch", "ft", "ut"):
        rises = [
            of["restored_loss"] - of["val_loss"] for (m, _), of in losses.items() if m == method
        ]
        assert cell(page, "median rise", method=NAMES[method]) == pytest.approx(
            [statistics.median(rises)], abs=0.006
        )
