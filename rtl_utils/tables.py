"""The course's tables: tidy rows in, data frames out, and where the rows come from.

A table is a data frame of texts, one row per group, with the group in its index. `markdown` writes
it for a page; notebooks show it as it is.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from rtl_utils import folders, paper
from rtl_utils.distances import Matrix
from rtl_utils.messages import duration
from rtl_utils.methods import METHODS
from rtl_utils.provenance import (
    MixedRowsWarning,
    mixed,
    processor,
    recorded,
    warn_if_mixed,
)
from rtl_utils.runs import BACKBONE
from rtl_utils.statistics import (
    FEWEST,
    Interval,
    mean_interval,
    paired_difference,
    share_interval,
)
from rtl_utils.store import FINAL

__all__ = [
    "BEFORE",
    "COURSE",
    "LIME",
    "PAIR",
    "RISE",
    "SHORTCUT_TEST",
    "STUCK",
    "VIEWS",
    "Column",
    "Deciding",
    "MixedRowsWarning",
    "Paired",
    "as_usual",
    "backbone_table",
    "by_images",
    "clean_table",
    "clean_target",
    "control_table",
    "course",
    "deciding",
    "distance_rows",
    "distance_sweeps",
    "fewest_flips_first",
    "group_index",
    "images_text",
    "in_order",
    "label",
    "listed",
    "manifest",
    "markdown",
    "matrix_table",
    "mean_text",
    "mixed",
    "n_train_text",
    "origin",
    "paired",
    "points",
    "seed_count",
    "seeds_text",
    "shared_seeds",
    "shortcut_at_test",
    "shortcut_columns",
    "shortcut_everywhere",
    "shortcut_test_table",
    "size_table",
    "steps_table",
    "stored",
    "stored_manifest",
    "stuck_text",
    "summary",
    "target_table",
    "with_paper",
    "with_rise",
    "without_shortcut",
]

STUCK = 0.25  # a run whose training accuracy is no higher has not learned
PAIR = ("source", "target")  # columns that name the tasks of a transfer
# Data set -> the sweeps whose stored runs decide the claims of notebooks 01 to 05.
COURSE = {
    "synthetic": ("synthetic",),
    "cifar100": ("table1", "table3", "salman"),
    "digits": ("digits",),
}
_SETTING = ["source", "target", "source_shortcut", "target_shortcut", "n_train"]
BEFORE = "before"  # the method that trains nothing
_ALL_PAIRS = len(paper.GAO_TASKS) * (len(paper.GAO_TASKS) - 1)  # there and back


class Column(NamedTuple):
    """How a metric becomes a column of a table.

    Args:
        heading: of the column.
        factor: to the unit of the heading, such as 100 for percent.
        digits: after the decimal point.
    """

    heading: str
    factor: float = 1.0
    digits: int = 1


class Deciding(NamedTuple):
    """The rows that verdicts are taken from, see `deciding`.

    Args:
        rows: tidy rows of the values after training; empty if nothing is stored for these tasks.
        text: whose rows and seeds they are, for a caption.
    """

    rows: pd.DataFrame
    text: str


class Paired(NamedTuple):
    """Values of two groups for the same seeds and pairs of tasks, in one order.

    Args:
        a: (n,) values of the first group.
        b: (n,) values of the second.
    """

    a: list[float]
    b: list[float]


# The metrics of the shortcut test (Salman et al. 2022) with their headings.
SHORTCUT_TEST = {
    "clean_accuracy": Column("accuracy without shortcut, %", 100),
    "ball_accuracy": Column("accuracy with shortcut, %", 100),
    "flip_rate": Column("flip rate, %", 100),
}


# Losses on the views of the synthetic target, and what the restored features do to them.
VIEWS = {
    "val_loss": Column("permuted", 1, 3),
    "rows_loss": Column("rows (control)", 1, 3),
    "restored_loss": Column("restored", 1, 2),
}
PAPER_ACCURACY = Column("paper, %", 100)  # of tables 1 to 3
# Mean |LIME weight| per group of features.
LIME = {
    "lime_spurious": Column("spurious features", 1, 4),
    "lime_shared": Column("shared features", 1, 4),
    "lime_target_only": Column("features of the target alone", 1, 4),
}
RISE = {"rise": Column("rise", 1, 2), "log_ratio": Column("log10 ratio", 1, 2)}


# --- where rows come from -------------------------------------------------------------------------


def stored(name: str) -> pd.DataFrame:
    """Rows of a sweep that the course's checkout holds, from results/NAME/*.csv.

    Args:
        name: of the folder.

    Returns:
        Tidy rows as `experiments.run` returns them, with the values after training alone (epoch
        -1); an empty frame if there are none.
    """
    checkout = folders.checkout()
    if checkout is None:
        return pd.DataFrame()
    files = sorted((checkout / "results" / name).glob("*.csv"), key=_natural_order)
    if not files:
        return pd.DataFrame()
    parts = [pd.read_csv(file, dtype={"run": str}) for file in files]
    rows = pd.concat([_without_empty_columns(part) for part in parts], ignore_index=True)
    columns = dict.fromkeys(column for part in parts for column in part)
    return rows.reindex(columns=list(columns)).assign(epoch=FINAL)


def course(dataset: str) -> pd.DataFrame:
    """Rows of all stored runs of notebooks 01 to 05 on a data set, as tables list them.

    Sweeps share runs. A run of two sweeps has one key and the same values in both, so it counts
    once; a network from scratch, one run for all sources, stands beside each of them.

    Args:
        dataset: its name; one without sweeps of its own has no rows.
    """
    parts = [stored(name) for name in COURSE.get(dataset, ())]
    rows = pd.concat([part for part in parts if len(part)] or [pd.DataFrame()], ignore_index=True)
    if rows.empty:
        return rows
    columns = [column for column in _SETTING if column in rows]
    found = in_order(rows.drop_duplicates(["run", "metric", *columns]))
    pairs = {source: place for place, (source, _) in enumerate(paper.TABLES)}
    # the paper's pairs in its order, each with its own source
    return found.sort_values("source", key=lambda of: of.map(pairs), kind="stable")


def deciding(
    live: pd.DataFrame, chosen: Callable[[pd.DataFrame], pd.DataFrame] | None = None
) -> Deciding:
    """The rows that verdicts are taken from: the stored ones, or live ones of five seeds or more.

    A notebook trains a seed or two, to be watched. They decide nothing, and differ from machine to
    machine. So a verdict comes from the stored rows of the same data set and pairs of tasks.

    Args:
        live: tidy rows of a notebook's own runs on one data set.
        chosen: takes from all stored rows of the data set those in question, such as
            `without_shortcut`; None for all.
    """
    if live.seed.nunique() >= FEWEST:
        final = live[live.epoch == FINAL]
        return Deciding(final, f"this notebook, {seeds_text(final)}")
    (dataset,) = set(live.dataset)
    rows = course(dataset)
    if len(rows):
        rows = rows if chosen is None else chosen(rows)
        pairs = pd.MultiIndex.from_frame(live[list(PAIR)])
        rows = rows[pd.MultiIndex.from_frame(rows[list(PAIR)]).isin(pairs)]
    if rows.empty:
        none = live.iloc[:0]  # with its columns, so that it can be asked
        return Deciding(none, "nothing is stored for these tasks, so nothing is decided")
    sweeps = listed(f"results/{name}" for name in COURSE[dataset])
    return Deciding(rows, f"{sweeps}, {seeds_text(rows)}")


def distance_sweeps() -> tuple[str, str]:
    """The sweeps of the distances between superclasses of CIFAR-100: of FT and UT, and of CT.

    The first is the one at the paper's settings once it has every pair, a shorter one until then.
    """
    rows = stored("task-distances")
    moved = rows[rows.method == "ut"] if len(rows) else rows
    complete = len(moved) and len(moved[list(PAIR)].drop_duplicates()) == _ALL_PAIRS
    return ("task-distances" if complete else "distances", "coupled-distances")


def distance_rows() -> pd.DataFrame:
    """The rows of `distance_sweeps`."""
    return pd.concat([stored(name) for name in distance_sweeps()], ignore_index=True)


def stored_manifest(name: str) -> dict[str, Any]:
    """What results/NAME/manifest.json of the checkout says; empty if there is none."""
    checkout = folders.checkout()
    if checkout is None:
        return {}
    path = checkout / "results" / name / "manifest.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def manifest(name: str, rows: pd.DataFrame, command: str, note: str = "") -> dict[str, Any]:
    """What is said beside exported rows about their making, ready for manifest.json.

    Args:
        name: of the sweep.
        rows: all exported rows, with their provenance columns.
        command: that made them.
        note: what else a reader must know.

    Returns:
        JSON values: the versions, machines and dates that the rows name, and the number of runs and
        rows per seed. `cores` is None unless all rows come from this machine's processor.
    """
    processors = recorded(rows, "processor")
    dates = recorded(rows, "date")
    seeds = rows.groupby("seed") if len(rows) else None
    return {
        "name": name,
        "command": command,
        "commits": recorded(rows, "commit"),
        "clean": recorded(rows, "clean"),
        "package": recorded(rows, "package"),
        "torch": recorded(rows, "torch"),
        "python": recorded(rows, "python"),
        "device": recorded(rows, "device"),
        "processor": processors,
        "cores": os.cpu_count() if processors == [processor("cpu")] else None,
        "threads": recorded(rows, "threads"),
        "first_date": dates[0] if dates else None,
        "last_date": dates[-1] if dates else None,
        "runs_per_seed": {} if seeds is None else _per_seed(seeds.run.nunique()),
        "rows_per_seed": {} if seeds is None else _per_seed(seeds.size()),
        "note": note,
    }


def origin(name: str, rows: pd.DataFrame) -> str:
    """Where the rows of a section come from, as one paragraph of Markdown.

    Args:
        name: of their sweep, for its folder and its manifest.
        rows: that the section shows.

    Returns:
        Commits, versions, machine and dates, as far as the rows name them, and the manifest's note.
    """
    shown = f"Rows: `results/{name}/`, {rows.run.nunique()} runs, {seeds_text(rows)}."
    said = stored_manifest(name)
    note = said.get("note", "")
    if not recorded(rows, "commit"):
        return f"{shown} {note or 'Where they were made was not recorded.'}"
    dates = [date[:10] for date in recorded(rows, "date")]
    commits = _listed(commit[:7] for commit in recorded(rows, "commit"))
    sentences = [
        shown,
        f"Code: commit {commits}{_changed(rows)}.",
        f"Versions: rtl-utils {_listed(recorded(rows, 'package'))}, "
        f"torch {_listed(recorded(rows, 'torch'))}, Python {_listed(recorded(rows, 'python'))}.",
        _machine(rows, said.get("cores")),
        f"Trained: {_listed(dict.fromkeys(dates[:1] + dates[-1:]), ' to ')} (UTC){_took(rows)}.",
        note,
    ]
    return " ".join(sentences).strip()


# --- tables of any rows ---------------------------------------------------------------------------


def summary(
    rows: pd.DataFrame,
    metrics: Mapping[str, Column | tuple[str, float, int]],
    by: Sequence[str],
) -> pd.DataFrame:
    """Final values over seeds as texts "mean [95 % interval]".

    Args:
        rows: tidy rows; a `MixedRowsWarning` says if they mix versions, devices or machines.
        metrics: name of each metric -> its column.
        by: columns that name a group.

    Returns:
        One row per group, in the order in which the groups first appear; one column per metric,
        empty where a group lacks it.
    """
    final = rows[rows.epoch == FINAL]
    warn_if_mixed(final[final.metric.isin(list(metrics))])
    columns = {metric: Column(*column) for metric, column in metrics.items()}
    keys = []
    lines = []
    for key, part in final.groupby(list(by), sort=False, dropna=False):
        keys.append(key)
        lines.append({c.heading: _text(part, metric, c) for metric, c in columns.items()})
    headings = [c.heading for c in columns.values()]
    return pd.DataFrame(lines, index=group_index(keys, by), columns=headings)


def paired(rows: pd.DataFrame, metric: str, a: str, b: str, column: str = "method") -> Paired:
    """Final values of a and of b for the seeds and pairs of tasks that both have.

    Args:
        rows: tidy rows; a `MixedRowsWarning` says if they mix versions, devices or machines.
        metric: whose values are taken.
        a: value of the column that names the first group.
        b: value of the column that names the second.
        column: that tells the groups apart.

    Returns:
        Both in one order, ready for `statistics.paired_difference(*paired(...))`.

    Raises:
        ValueError: if the rows hold more than one run of a group for a seed and pair (choose among
            them first), or no seed and pair has both.
    """
    chosen = rows[(rows.metric == metric) & (rows.epoch == FINAL) & rows[column].isin([a, b])]
    warn_if_mixed(chosen)
    table = chosen.pivot(index=[*PAIR, "seed"], columns=column, values="value")
    both = table.reindex(columns=[a, b]).dropna()
    if both.empty:
        raise ValueError(f"no seed and pair of tasks has {metric} of both {a!r} and {b!r}")
    return Paired(both[a].tolist(), both[b].tolist())


def shortcut_test_table(rows: pd.DataFrame) -> pd.DataFrame:
    """The shortcut test over seeds, for every pair and method.

    Args:
        rows: tidy rows; those whose source carries a shortcut are tested.

    Returns:
        Accuracy and flip rate of the tested runs; where there are runs from a clean source, their
        accuracy stands in a first column.

    Source: Salman et al. (2022).
    """
    by = [*PAIR, "method"]
    table = summary(rows[rows.source_shortcut.notna()], SHORTCUT_TEST, by)
    clean = rows[rows.source_shortcut.isna()]
    if len(clean):
        beside = summary(clean, {"val_accuracy": Column("accuracy", 100)}, by).accuracy
        table.insert(0, "clean source: accuracy, %", beside.reindex(table.index).fillna(""))
    return table


def matrix_table(matrix: Matrix, digits: int = 2) -> pd.DataFrame:
    """A matrix of distances as texts "mean [95 % interval]": sources in rows, targets in columns.

    Args:
        matrix: of one kind.
        digits: after the decimal point.
    """
    table = pd.DataFrame("", index=list(matrix.names), columns=list(matrix.names))
    for i, j in np.argwhere(matrix.off_diagonal):
        interval = Interval(matrix.mean[i, j], matrix.low[i, j], matrix.high[i, j], 0)
        table.iloc[i, j] = interval.text(digits)
    return table.rename_axis("source \\ target")


# --- the tables of the results page ---------------------------------------------------------------


def as_usual(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the transfers that were trained as usual or longer: not those of the controls."""
    transfers = rows[(rows.method != BACKBONE) & (rows["head"] == "shared")]
    same_rate = transfers.lr == transfers.lr.mode()[0]
    long_enough = transfers.epochs >= transfers.epochs.mode()[0]
    usual: pd.DataFrame = transfers[same_rate & long_enough]
    return usual


def without_shortcut(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of clean sources and clean targets with all their images."""
    clean = rows.source_shortcut.isna() & rows.target_shortcut.isna()
    return rows[clean & rows.n_train.isna()]


def shortcut_everywhere(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of runs with the shortcut in the source and on every target image."""
    return rows[rows.source_shortcut.notna() & rows.target_shortcut.notna()]


def clean_target(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of transfers to a clean target, from biased and from clean sources."""
    return rows[rows.target_shortcut.isna() & (rows.method != BACKBONE)]


def shortcut_at_test(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of transfers with the shortcut in the source and a clean target."""
    found = clean_target(rows)
    return found[found.source_shortcut.notna()]


def backbone_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Backbones on their own task, with and without the shortcut on one of its classes."""
    backbones = rows[rows.method == BACKBONE]
    columns = {
        "train_accuracy": Column("training, %", 100),
        "val_accuracy": Column("validation, %", 100),
        "clean_accuracy": Column("without shortcut, %", 100),
        "ball_accuracy": Column("shortcut on all, %", 100),
        "ball_share": Column("in the shortcut's class, shortcut on all, %", 100),
    }
    shortcut = backbones.source_shortcut.fillna("none")
    named = backbones.assign(shortcut=shortcut)
    by = ["source", "shortcut"]
    return _with_seeds(summary(named, columns, by), named, by)


def clean_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Transfers between clean tasks, beside the paper's tables 1 and 2."""
    columns = {
        "weight_length": Column("weight length ∫\\|dw\\|"),
        "train_loss": Column("training loss", 1, 3),
        "val_loss": Column("validation loss", 1, 3),
        "val_accuracy": Column("validation accuracy, %", 100),
    }
    table = summary(rows, columns, [*PAIR, "method"])
    table = with_paper(table, {m: f"{m}_accuracy" for m in ("ft", "fixed", "ut")})
    loss = Column("paper: loss", 1, 3)
    table = with_paper(table, {m: f"{m}_loss" for m in ("ft", "fixed", "ut")}, loss)
    distance = Column("paper: distance", 1, 2)
    return with_paper(table, {m: f"{m}_distance" for m in ("ft", "ut")}, distance)


def target_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Transfers to a target with the shortcut on every image, beside the paper's table 3."""
    columns = {
        "val_accuracy": Column("accuracy, shortcut on all, %", 100),
        "clean_accuracy": Column("accuracy, shortcut removed, %", 100),
        "val_loss": Column("validation loss", 1, 3),
    }
    by = [*PAIR, "method"]
    table = summary(rows, columns, by).assign(**{"stuck runs": _per_group(rows, by, stuck_text)})
    return with_paper(table, {m: f"ball_{m}_accuracy" for m in ("ft", "ut")})


def control_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Fine-tuning to a target with the shortcut on every image, under other conditions."""
    part = rows[rows.target_shortcut.notna() & (rows.method == "ft")].assign(control="")
    part.loc[part.source_shortcut.isna(), "control"] = "clean source"
    part.loc[part.lr < part.lr.max(), "control"] = "a tenth of the learning rate"
    part.loc[part.epochs < part.epochs.max(), "control"] = "only the epochs of UT at τ = 1"
    columns = {"val_accuracy": Column("accuracy, shortcut on all, %", 100)}
    return summary(part[part.control != ""], columns, [*PAIR, "control"])


def size_table(rows: pd.DataFrame) -> pd.DataFrame:
    """The shortcut test over the number of clean target images per class.

    Args:
        rows: tidy rows of transfers to a clean target, see `shortcut_columns`.
    """
    parts = [part.assign(**{"images per class": n}) for n, part in by_images(rows).items()]
    return shortcut_columns(pd.concat(parts), [*PAIR, "images per class", "method"])


def shortcut_columns(rows: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """The shortcut test with both of its references, one row per group.

    Args:
        rows: tidy rows of transfers to a clean target, from biased sources and, for what is
            inherited, from clean ones.
        by: columns that name a group, "method" the last.

    Returns:
        The test of the biased sources; the flips beyond those from scratch, which is less accurate
        with few images; the inherited flips, those from a biased backbone beyond those from a clean
        one; and the stuck runs. Differences are paired by seed, with 95 % intervals; one that has
        fewer seeds than its method says how many. The first column counts seeds where groups
        differ in them. A column that would be empty is left out.
    """
    biased = rows[rows.source_shortcut.notna()]
    share = Column("in the shortcut's class, with shortcut, %", 100)
    table = summary(biased, SHORTCUT_TEST | {"ball_share": share}, by)
    outer = list(by[:-1])
    from_scratch: dict[Any, str] = {}
    inherited: dict[Any, str] = {}
    flips = rows[rows.metric == "flip_rate"]
    for key, part in flips.groupby(outer, sort=False) if outer else [((), flips)]:
        source = np.where(part.source_shortcut.notna(), "biased", "clean")
        part = part.assign(_source=source)
        for method in part.method.unique():
            place = (*key, method) if outer else method
            own = part[part.method == method]
            biased_part = part[source == "biased"]
            from_scratch[place] = _points_of(biased_part, method, "scratch", "method")
            inherited[place] = _points_of(own, "biased", "clean", "_source")
    extra = {
        "flips minus scratch, points": [from_scratch.get(key, "") for key in table.index],
        "inherited flips, points": [inherited.get(key, "") for key in table.index],
        "stuck runs": _per_group(biased, by, stuck_text),
    }
    table = table.assign(**{name: texts for name, texts in extra.items() if any(texts)})
    return _with_seeds(table, biased, by)


def steps_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Flips with few images and few steps, with few images and many steps, and with all images.

    Args:
        rows: tidy rows of shortcut tests, some numbers of images with two lengths of training.

    Returns:
        One row per pair, number of images and method that have all three: the seeds that all three
        share, and of these the flips in percent, and their paired differences in points with 95 %
        intervals. Empty if there are none.
    """
    lines = []
    keys = []
    flips = rows[(rows.metric == "flip_rate") & (rows.method != BEFORE)]
    for (*pair, method), part in flips.groupby([*PAIR, "method"], sort=False):
        everything = part[part.n_train.isna()].assign(_setting="all")
        for size in _sizes(part):
            few = part[part.n_train == size]
            short = few.epochs.min()
            if short == few.epochs.max() or everything.empty:
                continue
            named = few.assign(_setting=np.where(few.epochs == short, "few", "many"))
            three = shared_seeds(pd.concat([named, everything]), ["_setting"])
            if three.empty:
                continue
            values = {name: three.value[three._setting == name] for name in ("few", "many", "all")}
            keys.append((*pair, n_train_text(size), method))
            lines.append(
                {
                    "seeds": three.seed.nunique(),
                    f"{short:.0f} epochs, %": mean_text(values["few"]),
                    "as many steps as with all images, %": mean_text(values["many"]),
                    "all images, %": mean_text(values["all"]),
                    "fewer steps, points": points(three, "flip_rate", "few", "many", "_setting"),
                    "fewer images, points": points(three, "flip_rate", "many", "all", "_setting"),
                }
            )
    if not lines:
        return pd.DataFrame()
    return pd.DataFrame(lines, index=group_index(keys, [*PAIR, "images per class", "method"]))


def with_paper(
    table: pd.DataFrame, names: Mapping[str, str], column: Column = PAPER_ACCURACY
) -> pd.DataFrame:
    """The table with a column of the paper's numbers, if the paper has one for any of its rows.

    Args:
        table: with the index (source, target, method).
        names: method -> name of its number in `paper.TABLES`.
        column: heading, factor and digits of the numbers.
    """
    reported = [
        paper.value(source, target, names.get(method, "")) for source, target, method in table.index
    ]
    if all(value is None for value in reported):
        return table
    texts = [
        "" if value is None else f"{column.factor * value:.{column.digits}f}" for value in reported
    ]
    return table.assign(**{column.heading: texts})


# --- texts and orders -----------------------------------------------------------------------------


def label(method: str) -> str:
    """A method's name as tables and figures write it."""
    return METHODS[method].label if method in METHODS else method


def listed(texts: Iterable[str]) -> str:
    """The texts as prose lists them: A, B and C."""
    *first, last = texts
    return f"{', '.join(first)} and {last}" if first else last


def seeds_text(rows: pd.DataFrame) -> str:
    """Which seeds the rows have, such as "seeds 0 to 9"."""
    seeds = sorted(set(rows.seed))
    if len(seeds) == 1:
        return f"seed {seeds[0]} only"
    if seeds[-1] - seeds[0] == len(seeds) - 1:
        return f"seeds {seeds[0]} to {seeds[-1]}"
    return f"seeds {', '.join(map(str, seeds))}"


def n_train_text(n_train: float | None) -> str:
    """A number of target images per class as tables write it; "all" for None."""
    return "all" if n_train is None or np.isnan(n_train) else f"{n_train:.0f}"


def seed_count(rows: pd.DataFrame) -> str:
    """How many seeds the rows have, as titles write it."""
    count = rows.seed.nunique()
    return "1 seed" if count == 1 else f"{count} seeds"


def mean_text(values: Iterable[float]) -> str:
    """Mean and interval of fractions, in percent."""
    return mean_interval(list(values)).text(scale=100)


def points(rows: pd.DataFrame, metric: str, a: str, b: str, column: str = "method") -> str:
    """A paired difference in points; empty where there is none, or of a group from itself."""
    groups = set(rows[column][rows.metric == metric])
    if a == b or not {a, b} <= groups:
        return ""
    return paired_difference(*paired(rows, metric, a, b, column)).text(scale=100)


def stuck_text(rows: pd.DataFrame) -> str:
    """How many runs have not learned, such as "3 of 20 [3, 38] %"; empty where nothing was trained.

    A run is stuck if its training accuracy is at most STUCK. The interval is that of Clopper and
    Pearson; fewer than five runs have none.
    """
    accuracies = rows.value[(rows.metric == "train_accuracy") & (rows.method != BEFORE)]
    if accuracies.empty:
        return ""
    stuck = int((accuracies <= STUCK).sum())
    share = share_interval(stuck, len(accuracies))
    if share.n < FEWEST:
        return f"{stuck} of {share.n}"
    return f"{stuck} of {share.n} [{100 * share.low:.0f}, {100 * share.high:.0f}] %"


def by_images(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Rows of the transfers at each number of target images per class, few images first.

    Args:
        rows: tidy rows; runs of one number of images that were trained for different numbers of
            epochs are kept apart.

    Returns:
        The number as a text -> its rows; the text names the epochs where they differ.
    """
    transfers = rows[rows.method != BACKBONE]
    parts = {n_train_text(n): transfers[transfers.n_train == n] for n in _sizes(transfers)}
    everything = transfers[transfers.n_train.isna()]
    if len(everything):
        parts["all"] = everything
    found: dict[str, pd.DataFrame] = {}
    for text, part in parts.items():
        lengths = sorted(part.epochs.unique()) if "epochs" in part else []
        if len(lengths) > 1:
            found |= {f"{text}, {n:.0f} epochs": part[part.epochs == n] for n in lengths}
        else:
            found[text] = part
    return found


def images_text(size: str) -> str:
    """A key of `by_images` in words: "50 images per class, 20 epochs"."""
    number, *epochs = size.split(", ")
    images = "all images" if number == "all" else f"{number} images per class"
    return ", ".join([images, *epochs])


def with_rise(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the synthetic target with two more metrics, those of RISE.

    rise = restored loss - permuted loss;  log_ratio = log10(restored loss / permuted loss)

    Args:
        rows: tidy rows with one run per pair of tasks, method and seed.
    """
    last = rows[rows.epoch == FINAL]
    run = [*PAIR, "method", "seed"]
    losses = last.pivot_table("value", index=run, columns="metric", sort=False)
    rise = losses.restored_loss - losses.val_loss
    ratio = np.log10(losses.restored_loss / losses.val_loss)
    more = pd.DataFrame({"rise": rise, "log_ratio": ratio})
    more = more.melt(var_name="metric", ignore_index=False).reset_index()
    return pd.concat([rows, more.assign(epoch=FINAL)], ignore_index=True)


def shared_seeds(rows: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """The rows of the seeds that all groups have.

    Args:
        rows: tidy rows.
        by: columns that name a group.
    """
    groups = [set(part.seed) for _, part in rows.groupby(list(by), dropna=False)]
    return rows[rows.seed.isin(set.intersection(*groups))] if groups else rows


def in_order(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows as tables list them: few images before all, methods as in METHODS, seeds rising."""
    order = {method: k for k, method in enumerate(dict.fromkeys([BACKBONE, BEFORE, *METHODS]))}
    placed = rows.assign(_place=rows.method.map(order))
    by = [*PAIR, "source_shortcut", "n_train", "epochs", "_place", "seed"]
    return placed.sort_values(by, kind="stable").drop(columns="_place")


def fewest_flips_first(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of each pair of tasks with the method first that flips least on average.

    Args:
        rows: tidy rows of shortcut tests; methods without a flip rate come last.
    """
    flips = rows[(rows.metric == "flip_rate") & rows.source_shortcut.notna()]
    means = flips.groupby([*PAIR, "method"]).value.mean().rename("_flips")
    pair = pd.factorize(rows.source + " " + rows.target)[0]  # in the order of their appearance
    placed = rows.join(means, on=[*PAIR, "method"]).assign(_pair=pair)
    placed = placed.sort_values(["_pair", "_flips", "method", "seed"], kind="stable")
    return placed.drop(columns=["_pair", "_flips"])


def group_index(keys: Sequence[tuple[Any, ...]], by: Sequence[str]) -> pd.Index:
    """The groups of a table as its index: one level per column that names them."""
    levels = pd.DataFrame(keys, columns=list(by))
    return pd.Index(levels[by[0]]) if len(by) == 1 else pd.MultiIndex.from_frame(levels)


def markdown(table: pd.DataFrame) -> str:
    """The table as Markdown, its index as first columns."""
    flat = table.reset_index()
    lines = [list(flat.columns), ["---"] * flat.shape[1], *flat.astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


# --- helpers --------------------------------------------------------------------------------------


def _natural_order(path: os.PathLike[str]) -> tuple[int, str]:
    """seed-2 before seed-10."""
    name = os.path.basename(path)
    return len(name), name


def _without_empty_columns(rows: pd.DataFrame) -> pd.DataFrame:
    """Without the columns that hold nothing, whose type would be a guess."""
    return rows.dropna(axis="columns", how="all")


def _listed(values: Iterable[str], between: str = ", ") -> str:
    return between.join(values) or "not recorded"


def _machine(rows: pd.DataFrame, cores: int | None) -> str:
    """What the networks were trained on; the cores of the machine say nothing of a GPU."""
    devices = recorded(rows, "device")
    core_text = f", {cores or 'unknown'} cores" if "cpu" in devices else ""
    return (
        f"Machine: {_listed(recorded(rows, 'processor'))}{core_text}; "
        f"device {_listed(devices)}; threads per training: {_listed(recorded(rows, 'threads'))}."
    )


def _took(rows: pd.DataFrame) -> str:
    """How long the trainings took, summed over the runs."""
    seconds = rows.drop_duplicates("run").seconds if "seconds" in rows else pd.Series(dtype=float)
    return f", {duration(seconds.sum())} of training in total" if seconds.notna().any() else ""


def _changed(rows: pd.DataFrame) -> str:
    """A remark where the code had changes that were not committed."""
    return " with uncommitted changes" if "False" in recorded(rows, "clean") else ""


def _per_seed(counts: "pd.Series[int]") -> dict[str, int]:
    return {str(seed): int(count) for seed, count in counts.items()}


def _text(rows: pd.DataFrame, metric: str, column: Column) -> str:
    """Mean and interval of a metric; empty where the rows lack it."""
    values = rows.value[rows.metric == metric].tolist()
    return mean_interval(values).text(column.digits, column.factor) if values else ""


def _per_group(
    rows: pd.DataFrame, by: Sequence[str], text: Callable[[pd.DataFrame], str]
) -> list[str]:
    """One text per group, in the order of `summary`."""
    final = rows[rows.epoch == FINAL]
    return [text(part) for _, part in final.groupby(list(by), sort=False, dropna=False)]


def _with_seeds(table: pd.DataFrame, rows: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """The table of `summary` with a first column of seeds, if its groups differ in them."""
    counts = _per_group(rows, by, lambda part: str(part.seed.nunique()))
    if len(set(counts)) > 1:
        table.insert(0, "seeds", counts)
    return table


def _points_of(rows: pd.DataFrame, a: str, b: str, column: str) -> str:
    """`points` of flip rates; says its seeds where they are fewer than those of a."""
    text = points(rows, "flip_rate", a, b, column)
    own = rows[(rows.metric == "flip_rate") & (rows[column] == a)]
    shared = own[own.seed.isin(rows.seed[rows[column] == b])]
    few = text and shared.seed.nunique() < own.seed.nunique()
    return f"{text} ({seed_count(shared)})" if few else text


def _sizes(rows: pd.DataFrame) -> list[float]:
    """The numbers of target images per class, without all, few first."""
    return sorted(rows.n_train.dropna().unique().tolist())
