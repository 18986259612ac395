"""The course's tables: tidy rows in, data frames out, and where the rows come from.

A table is a data frame of texts, one row per group, with the group in its index. `markdown` writes
it for a page; notebooks show it as it is.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from rtl_utils import distances, folders, paper
from rtl_utils.distances import Matrix
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
    Interval,
    holm,
    mean_interval,
    paired_difference,
    rank_correlation,
    verdict,
)
from rtl_utils.store import FINAL

__all__ = [
    "SHORTCUT_TEST",
    "Case",
    "Column",
    "MixedRowsWarning",
    "Paired",
    "backbone_table",
    "by_images",
    "clean_table",
    "control_table",
    "in_order",
    "keeps_out",
    "label",
    "manifest",
    "markdown",
    "matrix_table",
    "mixed",
    "n_train_text",
    "origin",
    "paired",
    "passing",
    "rank_table",
    "seeds_text",
    "shortcut_at_test",
    "shortcut_everywhere",
    "shortcut_test_table",
    "size_table",
    "stored",
    "stored_manifest",
    "summary",
    "target_table",
    "verdict_table",
    "with_paper",
    "without_shortcut",
]

_PAIR = ("source", "target")


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


class Paired(NamedTuple):
    """Values of two groups for the same seeds and pairs of tasks, in one order.

    Args:
        a: (n,) values of the first group.
        b: (n,) values of the second.
    """

    a: list[float]
    b: list[float]


class Case(NamedTuple):
    """A claim about the difference between uncoupled transfer and fine-tuning, and its rows.

    Args:
        claim: in words.
        rows: tidy rows of the runs that decide it.
        metric: that is compared.
        direction: of the claim, see `statistics.verdict`.
        margin: see `statistics.verdict`.
    """

    claim: str
    rows: pd.DataFrame
    metric: str
    direction: str
    margin: float = 0.0


# The metrics of the shortcut test (Salman et al. 2022) with their headings.
SHORTCUT_TEST = {
    "clean_accuracy": Column("accuracy without shortcut, %", 100),
    "ball_accuracy": Column("accuracy with shortcut, %", 100),
    "flip_rate": Column("flip rate, %", 100),
}


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
        f"Machine: {_listed(recorded(rows, 'processor'))}, {said.get('cores') or 'unknown'} cores; "
        f"device {_listed(recorded(rows, 'device'))}; "
        f"threads per training: {_listed(recorded(rows, 'threads'))}.",
        f"Trained: {_listed(dict.fromkeys(dates[:1] + dates[-1:]), ' to ')} (UTC).",
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
    return pd.DataFrame(lines, index=_index(keys, by), columns=headings)


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
    table = chosen.pivot(index=[*_PAIR, "seed"], columns=column, values="value")
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
    by = [*_PAIR, "method"]
    table = summary(rows[rows.source_shortcut.notna()], SHORTCUT_TEST, by)
    clean = rows[rows.source_shortcut.isna()]
    if len(clean):
        beside = summary(clean, {"val_accuracy": Column("accuracy", 100)}, by).accuracy
        table.insert(0, "clean source: accuracy, %", beside.reindex(table.index).fillna(""))
    return table


def keeps_out(rows: pd.DataFrame, methods: Sequence[str], allowed: float = 0.02) -> pd.DataFrame:
    """Which methods keep the shortcut out, by the shortcut test.

    A method keeps it out if its flip rate is at most `allowed` above that of training from scratch,
    and its clean accuracy is no lower than that of fine-tuning. Differences are paired by seed.

    Args:
        rows: tidy rows of one number of target images, "scratch" and "ft" among their methods.
        methods: that are judged.
        allowed: additional flips, as a fraction.

    Returns:
        One row per method: both differences with 95 % intervals, the answer by the means alone, and
        the answer by the intervals: "yes" or "no" where they decide, else "undecided".
    """
    lines = {}
    for method in methods:
        flips = _difference(rows, "flip_rate", method, "scratch")
        clean = _difference(rows, "clean_accuracy", method, "ft")
        lines[method] = {
            "flip rate minus scratch, points": flips.text(scale=100),
            "clean accuracy minus fine-tuning, points": clean.text(scale=100),
            "by the means": "yes" if flips.mean <= allowed and clean.mean >= 0 else "no",
            "keeps it out": _answer(flips, clean, allowed),
        }
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis("method")


def rank_table(
    matrices: Mapping[str, Matrix],
    rows: pd.DataFrame,
    published: Mapping[str, Sequence[Sequence[float]]],
) -> pd.DataFrame:
    """Spearman's rank correlations of distances over all ordered pairs of tasks.

    Args:
        matrices: kind -> our matrix; the fine-tuning distance is among them.
        rows: tidy rows with the accuracies of the transfers that measured the distances.
        published: kind -> (k, k) matrix of Gao & Chaudhari (2021), where there is one.

    Returns:
        One row per kind, correlations as texts with 95 % bootstrap intervals: with the published
        matrix; with our fine-tuning distance; with accuracy after transfer; with accuracy, both
        less their target's mean, so that a hard target counts once; and the verdict on the paper's
        claim 6, that accuracy falls as distance grows.

    Raises:
        ValueError: what `distances.accuracies` and `statistics.rank_correlation` raise.
    """
    one_seed = rows.seed.nunique() == 1
    lines = {}
    for kind, matrix in matrices.items():
        accuracy = distances.accuracies(rows, matrix.names, distances.KINDS[kind].method)
        with_accuracy = rank_correlation(matrix.pairs.tolist(), accuracy.tolist())
        within = rank_correlation(
            _less_target_means(matrix, matrix.pairs).tolist(),
            _less_target_means(matrix, accuracy).tolist(),
        )
        lines[kind] = {
            "with Gao & Chaudhari's": _with_published(matrix, published.get(kind)),
            "with our fine-tuning distance": _with_fine_tuning(matrix, matrices),
            "with accuracy": with_accuracy.text(2),
            "with accuracy, within a target": within.text(2),
            "claim 6": "undecided (one seed)" if one_seed else verdict(with_accuracy, "below"),
        }
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis("distance")


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


def without_shortcut(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of clean sources and clean targets with all their images."""
    clean = rows.source_shortcut.isna() & rows.target_shortcut.isna()
    return rows[clean & rows.n_train.isna()]


def shortcut_everywhere(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of runs with the shortcut in the source and on every target image."""
    return rows[rows.source_shortcut.notna() & rows.target_shortcut.notna()]


def shortcut_at_test(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of runs with the shortcut in the source and a clean target."""
    chosen = rows.source_shortcut.notna() & rows.target_shortcut.isna()
    return rows[chosen & (rows.method != BACKBONE)]


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
    return summary(backbones.assign(shortcut=shortcut), columns, ["source", "shortcut"])


def clean_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Transfers between clean tasks, beside the paper's tables 1 and 2."""
    columns = {
        "weight_length": Column("weight length ∫\\|dw\\|"),
        "train_loss": Column("training loss", 1, 3),
        "val_loss": Column("validation loss", 1, 3),
        "val_accuracy": Column("validation accuracy, %", 100),
    }
    table = summary(rows, columns, [*_PAIR, "method"])
    return with_paper(table, {m: f"{m}_accuracy" for m in ("ft", "fixed", "ut")})


def target_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Transfers to a target with the shortcut on every image, beside the paper's table 3."""
    columns = {
        "val_accuracy": Column("accuracy, shortcut on all, %", 100),
        "clean_accuracy": Column("accuracy, shortcut removed, %", 100),
        "val_loss": Column("validation loss", 1, 3),
    }
    table = summary(rows, columns, [*_PAIR, "method"])
    return with_paper(table, {m: f"ball_{m}_accuracy" for m in ("ft", "ut")})


def control_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Fine-tuning to a target with the shortcut on every image, under other conditions."""
    part = rows[rows.target_shortcut.notna() & (rows.method == "ft")].assign(control="")
    part.loc[part.source_shortcut.isna(), "control"] = "clean source"
    part.loc[part.lr < part.lr.max(), "control"] = "a tenth of the learning rate"
    part.loc[part.epochs < part.epochs.max(), "control"] = "only the epochs of UT at τ = 1"
    columns = {"val_accuracy": Column("accuracy, shortcut on all, %", 100)}
    return summary(part[part.control != ""], columns, [*_PAIR, "control"])


def size_table(rows: pd.DataFrame) -> pd.DataFrame:
    """The shortcut test over the number of clean target images per class."""
    part = rows.assign(**{"images per class": rows.n_train.map(n_train_text)})
    share = Column("in the shortcut's class, with shortcut, %", 100)
    return summary(
        part, SHORTCUT_TEST | {"ball_share": share}, [*_PAIR, "images per class", "method"]
    )


def verdict_table(cases: Sequence[Case]) -> pd.DataFrame:
    """Paired differences of uncoupled transfer minus fine-tuning, with the verdict on each claim.

    Args:
        cases: the claims; each gives one row per pair of tasks among its rows.

    Returns:
        Differences in points with 95 % intervals, p-values of Wilcoxon's signed-rank test adjusted
        by Holm's method over the table, and verdicts.
    """
    lines = []
    p_values = []
    for case in cases:
        for (source, target), rows in case.rows.groupby(list(_PAIR), sort=False):
            found = paired_difference(*paired(rows, case.metric, "ut", "ft"))
            p_values.append(found.p)
            lines.append(
                {
                    "claim": case.claim,
                    "pair": f"{source} → {target}",
                    "seeds": found.interval.n,
                    "UT - FT, points": found.interval.text(scale=100),
                    "verdict": verdict(found.interval, case.direction, case.margin),
                }
            )
    table = pd.DataFrame(lines)
    table.insert(4, "p, Holm", [f"{p:.2g}" for p in holm(p_values)])
    return table.set_index("claim")


def with_paper(table: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """The table with a column of the paper's accuracies, if the paper has one for any of its rows.

    Args:
        table: with the index (source, target, method).
        names: method -> name of its number in `paper.TABLES`.
    """
    reported = [
        paper.value(source, target, names.get(method, "")) for source, target, method in table.index
    ]
    if all(value is None for value in reported):
        return table
    texts = ["" if value is None else f"{100 * value:.1f}" for value in reported]
    return table.assign(**{"paper, %": texts})


# --- texts and orders -----------------------------------------------------------------------------


def label(method: str) -> str:
    """A method's name as tables and figures write it."""
    return METHODS[method].label if method in METHODS else method


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


def by_images(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Rows of the transfers at each number of target images per class, few images first.

    Returns:
        The number as a text -> its rows.
    """
    transfers = rows[rows.method != BACKBONE]
    sizes = sorted(transfers.n_train.dropna().unique())
    parts = {n_train_text(size): transfers[transfers.n_train == size] for size in sizes}
    everything = transfers[transfers.n_train.isna()]
    return parts | ({"all": everything} if len(everything) else {})


def in_order(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows as tables list them: few images before all, methods as in METHODS, seeds rising."""
    order = {method: k for k, method in enumerate([BACKBONE, *METHODS])}
    placed = rows.assign(_place=rows.method.map(order))
    by = [*_PAIR, "source_shortcut", "n_train", "_place", "seed"]
    return placed.sort_values(by, kind="stable").drop(columns="_place")


def passing(table: pd.DataFrame) -> str:
    """Which methods keep the shortcut out, in one sentence.

    Args:
        table: of `keeps_out`.
    """
    by_intervals = _methods_in(table, "keeps it out")
    by_means = _methods_in(table, "by the means")
    return (
        f"By the intervals {by_intervals} the shortcut out; by the means alone {by_means} it out."
    )


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


def _changed(rows: pd.DataFrame) -> str:
    """A remark where the code had changes that were not committed."""
    return " with uncommitted changes" if "False" in recorded(rows, "clean") else ""


def _per_seed(counts: "pd.Series[int]") -> dict[str, int]:
    return {str(seed): int(count) for seed, count in counts.items()}


def _index(keys: Sequence[tuple[Any, ...]], by: Sequence[str]) -> pd.Index:
    """The groups of a table as its index: one level per column that names them."""
    levels = pd.DataFrame(keys, columns=list(by))
    return pd.Index(levels[by[0]]) if len(by) == 1 else pd.MultiIndex.from_frame(levels)


def _text(rows: pd.DataFrame, metric: str, column: Column) -> str:
    """Mean and interval of a metric; empty where the rows lack it."""
    values = rows.value[rows.metric == metric].tolist()
    return mean_interval(values).text(column.digits, column.factor) if values else ""


def _difference(rows: pd.DataFrame, metric: str, method: str, baseline: str) -> Interval:
    """Interval of a method's paired difference from its baseline; 0 from itself."""
    if method == baseline:
        return Interval(0.0, 0.0, 0.0, 0)
    return paired_difference(*paired(rows, metric, method, baseline)).interval


def _answer(flips: Interval, clean: Interval, allowed: float) -> str:
    """Whether a method keeps the shortcut out, where the intervals of both differences decide."""
    few_flips = flips.high <= allowed
    many_flips = flips.low > allowed
    accurate = clean.low >= 0
    inaccurate = clean.high < 0
    if few_flips and accurate:
        return "yes"
    return "no" if many_flips or inaccurate else "undecided"


def _less_target_means(matrix: Matrix, values: np.ndarray) -> np.ndarray:
    """Values in the order of `Matrix.pairs`, each less the mean of its target."""
    table = np.full(matrix.mean.shape, np.nan)
    table[matrix.off_diagonal] = values
    return np.asarray((table - np.nanmean(table, axis=0))[matrix.off_diagonal])


def _with_published(matrix: Matrix, published: Sequence[Sequence[float]] | None) -> str:
    if published is None:
        return ""
    theirs = np.asarray(published, dtype=float)[matrix.off_diagonal]
    return rank_correlation(matrix.pairs.tolist(), theirs.tolist()).text(2)


def _with_fine_tuning(matrix: Matrix, matrices: Mapping[str, Matrix]) -> str:
    if matrix.kind == "fine-tuning":
        return ""
    ours = matrices["fine-tuning"].pairs
    return rank_correlation(matrix.pairs.tolist(), ours.tolist()).text(2)


def _methods_in(table: pd.DataFrame, column: str) -> str:
    """The methods whose answer in a column is "yes", with the verb: "A and B keep"."""
    passed = [label(method) for method in table.index[table[column] == "yes"]]
    verb = "keep" if len(passed) > 1 else "keeps"
    return f"{' and '.join(passed) or 'no method'} {verb}"
