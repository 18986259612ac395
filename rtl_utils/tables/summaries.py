"""Tables of any rows: means over seeds, and what is paired by seed."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from rtl_utils.distances import Matrix
from rtl_utils.provenance import warn_if_mixed
from rtl_utils.statistics import Interval, mean_interval, paired_difference
from rtl_utils.store import FINAL
from rtl_utils.tables.choices import PAIR
from rtl_utils.tables.texts import group_index


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

    @property
    def is_share(self) -> bool:
        """Whether it is in percent, of a metric that lies between 0 and 1."""
        return self.factor == 100


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
# Mean |LIME weight| per group of features.
LIME = {
    "lime_spurious": Column("spurious features", 1, 4),
    "lime_shared": Column("shared features", 1, 4),
    "lime_target_only": Column("features of the target alone", 1, 4),
}
RISE = {"rise": Column("rise", 1, 2), "log_ratio": Column("log10 ratio", 1, 2)}


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


def points(rows: pd.DataFrame, metric: str, a: str, b: str, column: str = "method") -> str:
    """A paired difference in points; empty where there is none, or of a group from itself."""
    groups = set(rows[column][rows.metric == metric])
    if a == b or not {a, b} <= groups:
        return ""
    return paired_difference(*paired(rows, metric, a, b, column)).text(scale=100)


def _text(rows: pd.DataFrame, metric: str, column: Column) -> str:
    """Mean and interval of a metric; empty where the rows lack it."""
    values = rows.value[rows.metric == metric].tolist()
    if not values:
        return ""
    found = mean_interval(values)
    shown = found.within(0, 1) if column.is_share else found
    return shown.text(column.digits, column.factor)


def per_group(
    rows: pd.DataFrame, by: Sequence[str], text: Callable[[pd.DataFrame], str]
) -> list[str]:
    """One text per group, in the order of `summary`."""
    final = rows[rows.epoch == FINAL]
    return [text(part) for _, part in final.groupby(list(by), sort=False, dropna=False)]
