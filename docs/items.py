"""The paper, item by item: where each table, figure and claim is reproduced, and what comes out."""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from distance_page import RANKS_TITLE
from maps import MAP_SWEEPS, map_fates, map_title, transfer_epochs, troubled_text
from sections import FROZEN_SWEEP, clean_before, clean_text, course_title, frozen_title
from synthetic import SYNTHETIC_SWEEP, SYNTHETIC_TITLE, target_models
from wording import ON_IMAGES, paragraphs, transfers, uncapitalised

from rtl_utils import claims, distances, paper, tables
from rtl_utils.data import DATASETS
from rtl_utils.runs import BACKBONE
from rtl_utils.statistics import mean_interval
from rtl_utils.store import FINAL
from rtl_utils.tables import PAIR, listed

NOTEBOOK = "notebook [{number}](../notebooks/{name}.ipynb)"
SHORT = {"uncoupled transfer": "UT", "fine-tuning": "FT", "from scratch": "scratch"}


class Item(NamedTuple):
    """A line of the overview.

    Args:
        item: of the paper.
        shows: what it is about.
        where: it is reproduced, with links.
        data: that decide.
        seeds: how many, per pair.
        verdict: what the rows say.
    """

    item: str
    shows: str
    where: str
    data: str
    seeds: str
    verdict: str


def items_section() -> str:
    """Every table, figure and claim of the paper, with its place, data, seeds and verdict."""
    items = [*synthetic_items(), *[item for name in ON_IMAGES for item in course_items(name)]]
    items += [*frozen_items(), *map_items(), *distance_items()]
    if not items:
        return ""
    table = pd.DataFrame(sorted(items, key=lambda item: _place(item.item)))
    table = table.rename(columns={"shows": "what it shows"})
    return paragraphs(
        "## The paper, item by item",
        """UT is uncoupled transfer, FT fine-tuning. "Ours minus the paper's" is in points of
        accuracy, for the pairs vehicles-1 → vehicles-2, herbivores → flowers and carnivores →
        flowers, as far as they have runs. The paper's number is compatible if it lies in the 95 %
        prediction interval for one further run of ours, or in table 3, whose numbers are averages
        of three trials, for the mean of three. With few seeds such an interval is wide, so
        "compatible" is weak evidence. The sections below have the differences, intervals and
        p-values behind each verdict.""",
        tables.markdown(table.set_index("item")),
    )


# --- the synthetic experiment ---------------------------------------------------------------------


def synthetic_items() -> Iterator[Item]:
    """Figures 1 and 2, and claim 5."""
    rows = tables.stored(SYNTHETIC_SWEEP)
    if rows.empty:
        return
    section = _link("this section", SYNTHETIC_TITLE)
    data = "synthetic"
    models = target_models(rows)
    plain = models["without the lasso"]
    lower = claims.loss_tables(models)
    losses = "; ".join(f"{name}: {_losses(part)}" for name, part in models.items())
    said = [f"{name}: {_by_line(table['lower'])}" for name, table in lower.items()]
    yield Item(
        "Figure 1",
        "validation loss on synthetic data: lowest for UT, highest from scratch",
        f"{_notebook('01_synthetic_task')} draws the curves; every last value in {section}",
        data,
        _seeds(plain),
        f"{'; '.join(said)}. Losses, lowest first: {losses}; the paper: "
        f"{_in_order(paper.SYNTHETIC)}",
    )
    rises = claims.rise_tables({name: tables.with_rise(part) for name, part in models.items()})
    said = [
        f"{name}: {_by_measure(table['claim 5'])}{_most(table)}" for name, table in rises.items()
    ]
    where = f"{_notebook('01_synthetic_task')}; {section}"
    yield Item(
        "Figure 2a",
        "losses when the original features come back",
        where,
        data,
        _seeds(plain),
        "; ".join(f"{name}: {_rising(part)}" for name, part in models.items()),
    )
    yield Item(
        "Claim 5",
        "the loss of a transfer rises no more than that of scratch (tested here: rises less)",
        where,
        data,
        _seeds(plain),
        "; ".join(said),
    )
    yield from _lime_items(rows, models, data)


def _by_measure(verdicts: "pd.Series[str]") -> str:
    """The verdicts on each measure of claim 5, method by method where they differ."""
    said = []
    for measure, part in verdicts.groupby(level="measure", sort=False):
        each = [f"{method} {says}" for (method, _), says in part.items()]
        said.append(f"{measure} {part.iloc[0] if part.nunique() == 1 else listed(each)}")
    return ", ".join(said)


def _most(table: pd.DataFrame) -> str:
    """By how much at most a transfer's loss rises more than that of scratch, if seeds suffice."""
    over = table[claims.OVER_SCRATCH]
    ends = {method: text.split()[-1].strip("]") for (method, _), text in over[over != ""].items()}
    if not ends:
        return ""
    said = [f"{SHORT[method]} {end}" for method, end in ends.items()]
    return f"; the ratio of both losses over that of scratch is at most {listed(said)} (95 %)"


def _by_line(verdicts: "pd.Series[str]") -> str:
    """The verdict on each line of a table that asks which of two losses is lower."""
    said = ", ".join(f"{line} {says}" for line, says in verdicts.items())
    for long, name in (SHORT | {" minus ": " below "}).items():
        said = said.replace(long, name)
    return said


def _losses(rows: pd.DataFrame) -> str:
    """Mean validation losses of the target models."""
    return _in_order(
        {method: _mean(rows, method, "val_loss") for method in ("ft", "ut", "scratch")}
    )


def _in_order(losses: Mapping[str, float]) -> str:
    """The losses of the target models, the lowest first."""
    found = sorted((loss, method) for method, loss in losses.items() if method != BACKBONE)
    return ", ".join(f"{tables.label(method)} {loss:.3f}" for loss, method in found)


def _rising(rows: pd.DataFrame) -> str:
    """For which methods the restored loss is larger, by the interval of the logarithm's mean."""
    ratios = tables.with_rise(tables.in_order(rows))
    ratios = ratios[ratios.metric == "log_ratio"]
    rise = [
        "training from scratch" if method == "scratch" else str(method).upper()
        for method, part in ratios.groupby("method", sort=False)
        if mean_interval(part.value.tolist()).low > 0
    ]
    return f"the loss rises for {listed(rise)} (log ratio)" if rise else "no rise is shown"


def _lime_items(
    rows: pd.DataFrame, models: Mapping[str, pd.DataFrame], data: str
) -> Iterator[Item]:
    """Figures 2b and 2c, and claim 5 asked of LIME."""
    backbone = rows[rows.method == BACKBONE]
    smaller = {
        name: claims.lime_table(pd.concat([backbone, part]))["smaller"]
        for name, part in models.items()
    }
    where = f"{_notebook('02_lime_probing')}; {_link('this section', SYNTHETIC_TITLE)}"
    asked = {
        "Figure 2b": (
            "LIME: spurious features weigh less in UT than in FT",
            [("", "ut", "ft")],
        ),
        "Figure 2c": (
            "LIME: spurious features weigh more in the backbone than in the target models",
            [("FT ", "ft", BACKBONE), ("UT ", "ut", BACKBONE)],
        ),
        "Claim 5": (
            "LIME: spurious features weigh no more in a transfer than in training from scratch "
            "(tested here: less)",
            [("FT ", "ft", "scratch"), ("UT ", "ut", "scratch")],
        ),
    }
    for item, (shows, compared) in asked.items():
        said = []
        for name, says in smaller.items():
            found = [
                f"{method}{says[line]}"
                for method, a, b in compared
                if (line := f"{tables.label(a)} minus {tables.label(b)}") in says
            ]
            said += [f"{name}: {', '.join(found)}"] if found else []
        if said:
            yield Item(item, shows, where, data, _seeds(rows), "; ".join(said))


# --- images ---------------------------------------------------------------------------------------


def course_items(dataset: str) -> Iterator[Item]:
    """Tables 1 to 3, figure 3, and claims 1 to 4, on one data set."""
    rows = tables.course(dataset)
    if rows.empty:
        return
    usual = transfers(rows)
    clean, marked = tables.without_shortcut(usual), tables.shortcut_everywhere(usual)
    section = _link("this section", course_title(dataset))
    title = DATASETS[dataset].title
    judged = claims.verdict_table(claims.course_cases(usual))
    lines = [
        (
            "Table 1",
            "FT and fixed, clean tasks",
            "03_cifar_baselines",
            clean,
            "ft",
            "fixed",
        ),
        ("Table 2", "UT, clean tasks", "03_cifar_baselines", clean, "ut"),
        ("Table 3", "FT and UT, shortcut on every image", "05_ut_vs_ft", marked, "ft", "ut"),
    ]
    for item, shows, notebook, part, *methods in lines:
        said = _beside_paper(part, "ball_" if item == "Table 3" else "", methods)
        if said:
            where = f"{_notebook(notebook)}; {section}"
            yield Item(item, shows, where, title, _seeds(part), said)
    if dataset == "cifar100":
        notebooks = f"{_notebook('03_cifar_baselines')} and {_notebook('04_tennis_ball_bias')}"
        yield Item(
            "Figure 3",
            "images with and without the tennis ball",
            f"{notebooks} draw them where `dataset` is `cifar100`; the course holds none of its "
            "images",
            title,
            "",
            "a picture, nothing to test",
        )
    chance = claims.chance_table(rows)
    targets = chance[chance.index.get_level_values("images of") != claims.OWN_TASK]
    if len(targets):
        where = f"{_notebook('04_tennis_ball_bias')}; {section}"
        shows = (
            "a biased backbone is at chance on a target where every image has the shortcut, as it "
            "puts (nearly) all into the shortcut's class"
        )
        seeds = _numbers(targets["seeds"])
        said = f"{_at_chance(targets)}. {clean_text(clean_before(rows))}".strip()
        yield Item("Claim 2", shows, where, title, seeds, " ".join(said.split()))
    yield from _judged_items(judged, marked, tables.paper_table(usual), title, section)


def _at_chance(targets: pd.DataFrame) -> str:
    """The verdicts of claim 2, with the numbers that say how much they mean."""
    shares = targets["in the shortcut's class, shortcut on all, %"].str.split().str[0]
    clean = targets["accuracy without shortcut, %"].str.split().str[0]
    return (
        f"at chance: {_counts(targets['verdict'])}; {claims.MOST_THERE}: "
        f"{_counts(targets[claims.MOST_THERE])} (shares: {', '.join(shares)} %); accuracy without "
        f"the shortcut: {', '.join(clean)} %"
    )


def _judged_items(
    judged: pd.DataFrame, marked: pd.DataFrame, beside: pd.DataFrame, title: str, section: str
) -> Iterator[Item]:
    """Claims 1, 3 and 4, and the question beyond them.

    Args:
        judged: verdicts on the claims.
        marked: rows of transfers with the shortcut everywhere.
        beside: our differences of UT and FT beside the paper's, see `tables.paper_table`.
        title: of the data set.
        section: link to its section.
    """
    lines = [
        ("1:", "Claim 1", "FT and UT perform alike on clean tasks", "03_cifar_baselines"),
        ("3:", "Claim 3", "UT beats FT with the shortcut on every image", "05_ut_vs_ft"),
        ("UT flips", "Beyond", "UT flips less than FT (clean target)", "04_tennis_ball_bias"),
        ("UT (mix", "Beyond", "UT (mixture) flips less than FT", "04_tennis_ball_bias"),
    ]
    for start, item, shows, notebook in lines:
        part = judged[judged.index.str.startswith(start)] if len(judged) else judged
        if len(part):
            where = f"{_notebook(notebook)}; {section}"
            seeds = _numbers(part["seeds"])
            said = _counts(part["verdict"])
            if item == "Beyond":
                said = _shown(said)
            else:
                (differences,) = (name for name in part if name.endswith(", points"))
                said += f"; UT - FT in points: {listed(part[differences])}"
                said += _paper_differences(beside, "3" if item == "Claim 3" else "1 and 2")
            yield Item(item, shows, where, title, seeds, said)
    stuck = claims.stuck_table(marked) if len(marked) else marked
    if len(stuck):
        where = f"{_notebook('05_ut_vs_ft')}; {section}"
        counts = f"{_counts(stuck[claims.CLAIM_4])}; {_ft_stuck(stuck)}"
        shows = "FT gets stuck more often than UT"
        yield Item("Claim 4", shows, where, title, _numbers(stuck["seeds"]), counts)


def _paper_differences(beside: pd.DataFrame, table: str) -> str:
    """The paper's differences of UT and FT in one of its tables, and how many are compatible."""
    own = beside[beside.index.str.startswith(table)] if len(beside) else beside
    if own.empty or (own["compatible with ours"] == "").any():
        return ""
    compatible = (own["compatible with ours"] == "yes").sum()
    theirs = listed(own["paper: UT - FT, points"])
    return f"; the paper's: {theirs} ({compatible} of {len(own)} compatible)"


def _ft_stuck(stuck: pd.DataFrame) -> str:
    """How often fine-tuning is stuck, pair by pair where that differs."""
    counts = stuck["FT stuck"]
    if counts.nunique() == 1:
        return f"FT stuck: {counts.iloc[0]}{' on each pair' if len(counts) > 1 else ''}"
    return f"FT stuck: {', '.join(f'{pair} {count}' for pair, count in counts.items())}"


def frozen_items() -> Iterator[Item]:
    """Claims 3 and 4 once more, where BatchNorm's statistics are frozen."""
    rows = tables.stored(FROZEN_SWEEP)
    if rows.empty:
        return
    table = claims.frozen_table(claims.frozen_cases(rows)).reset_index()
    marked = table.condition == claims.CONDITIONS[0]
    chosen = table[marked & (table.images == "all") & (table.statistics == "frozen")]
    where = f"{_notebook('05_ut_vs_ft')}; {_link('this section', frozen_title(rows))}"
    title = f"{DATASETS[rows.dataset.iloc[0]].title}, statistics of BatchNorm frozen, learning rate"
    shows = {
        "Claim 3": ("UT beats FT with the shortcut on every image", "verdict"),
        "Claim 4": ("FT gets stuck more often than UT", claims.CLAIM_4),
    }
    for _, line in chosen.iterrows():
        stuck = f"; FT stuck: {line['FT stuck']}, UT: {line['UT stuck']}"
        data = f"{title} {line['learning rate']:g}"
        for item, (text, column) in shows.items():
            yield Item(item, text, where, data, line.seeds, f"{line[column]}{stuck}")


def map_items() -> Iterator[Item]:
    """Claim 4 over learning rates, momentum and kinds of normalisation: where FT gets stuck."""
    for name in MAP_SWEEPS:
        rows = tables.stored(name)
        if rows.empty:
            continue
        yield Item(
            "Claim 4",
            "where FT gets stuck, over learning rates and kinds of normalisation",
            _link("a map", map_title(name, rows)),
            f"{DATASETS[rows.dataset.iloc[0]].title}, {transfer_epochs(rows)} epochs",
            _seeds(rows),
            f"{uncapitalised(troubled_text(map_fates(name, claims.map_rows(rows))))}; not tested",
        )


def _beside_paper(rows: pd.DataFrame, prefix: str, methods: list[str]) -> str:
    """Mean accuracies minus the paper's, in points, pair by pair, and how many are compatible."""
    said = []
    for method in methods:
        points = []
        inside = []
        for pair in paper.TABLES:
            values = _of_pair(rows, *pair, method).value.tolist()
            reported = paper.value(*pair, f"{prefix}{method}_accuracy")
            if not values or reported is None:
                continue
            points.append(f"{100 * (np.mean(values) - reported):+.1f}")
            trials = paper.TRIALS["3" if prefix else "1 and 2"]
            inside.append(tables.compatible(values, reported, trials))
        if points:
            count = f" ({inside.count('yes')} of {len(inside)} compatible)" if all(inside) else ""
            said.append(f"{tables.label(method)} {', '.join(points)}{count}")
    return f"ours minus the paper's: {'; '.join(said)}" if said else ""


def _of_pair(rows: pd.DataFrame, source: str, target: str, method: str) -> pd.DataFrame:
    one = (rows.source == source) & (rows.target == target) & (rows.method == method)
    return rows[one & (rows.metric == "val_accuracy")]


# --- distances ------------------------------------------------------------------------------------


def distance_items() -> Iterator[Item]:
    """Claim 6."""
    rows = tables.distance_rows()
    matrices = distances.matrices(rows, paper.GAO_TASKS)
    if "fine-tuning" not in matrices:
        return
    table = claims.rank_table(matrices, rows, paper.GAO_DISTANCES)
    ours = f"our distances: {_counts(table['claim 6, our distances'])}"
    theirs = f"published ones: {_counts(table['claim 6, published distances'])}"
    where = f"{_notebook('07_task_distance')}; {_link('distances', RANKS_TITLE, 'distances.md')}"
    shows = "accuracy falls as distance grows"
    yield Item("Claim 6", shows, where, "CIFAR-100", _seeds(rows), f"{ours}; {theirs}")


# --- texts ----------------------------------------------------------------------------------------


def _place(item: str) -> tuple[int, str]:
    kinds = ("Table", "Figure", "Claim", "Beyond")
    return kinds.index(item.split(maxsplit=1)[0]), item


def _counts(verdicts: "pd.Series[str]") -> str:
    """How often each verdict was given, such as "reproduced (2 of 3)"."""
    given = verdicts[verdicts != ""]
    if given.nunique() == 1:
        return str(given.iloc[0])
    counts = given.value_counts(sort=False)
    return ", ".join(f"{says} ({n} of {len(given)})" for says, n in counts.items())


def _shown(verdicts: str) -> str:
    """Verdicts on what the paper does not claim."""
    return verdicts.replace("not reproduced", "the opposite is shown").replace(
        "reproduced", "shown"
    )


def _numbers(seeds: "pd.Series[int]") -> str:
    """Smallest and largest number of seeds."""
    few, many = int(seeds.min()), int(seeds.max())
    return f"{few}" if few == many else f"{few} to {many}"


def _seeds(rows: pd.DataFrame) -> str:
    by = list(PAIR) if {*PAIR} <= set(rows) and rows.target.notna().any() else ["method"]
    return _numbers(rows.groupby(by).seed.nunique())


def _mean(rows: pd.DataFrame, method: str, metric: str) -> float:
    chosen = (rows.method == method) & (rows.metric == metric) & (rows.epoch == FINAL)
    return float(rows.value[chosen].mean())


def _notebook(name: str) -> str:
    return NOTEBOOK.format(number=name[:2], name=name)


def _link(text: str, title: str, page: str = "") -> str:
    """A link to a heading, by the anchor that GitHub gives it."""
    return f"[{text}]({page}#{_slug(title)})"


def _slug(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
