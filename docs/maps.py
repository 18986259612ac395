"""The sections on maps: accuracy and stuck runs over learning rate, momentum and network."""

import pandas as pd
from sections import CIFAR_VALIDATION
from wording import capitalised, of_sweep, other_device_text, paragraphs

from rtl_utils import claims, statistics, tables
from rtl_utils.data import DATASETS
from rtl_utils.runs import BACKBONE
from rtl_utils.tables import listed, seed_count

MAP_SWEEPS = ("stuck", "digits-map", "cifar-map")
CELL = ["condition", "statistics", "width", "momentum", "lr"]
USUAL_RATE = 0.01  # of transfers elsewhere, but for a control
MOST_NAMED = 2  # cells that a sentence names; the table has all
# parts of the file names of pictures
CONDITION_NAMES = dict(
    zip(claims.CONDITIONS, ("marked", "clean-target", "clean-source", "clean"), strict=True)
)


@of_sweep
def map_section(name: str, rows: pd.DataFrame) -> str:
    """Accuracy of FT and UT over learning rate, momentum, network and kind of statistics."""
    found = claims.map_rows(rows)
    pictures = [
        f"![{capitalised(str(condition))}]({name}-{CONDITION_NAMES[str(condition)]}.png)"
        for condition in found.condition.unique()
    ]
    fates = map_fates(name, found)
    return paragraphs(
        f"## {map_title(name, rows)}",
        tables.origin(name, rows),
        f"""FT and UT with updated and with frozen BatchNorm statistics, and in networks without
        BatchNorm ("none"), over {varied(found)}. Backbones train for
        {rows.epochs[rows.method == BACKBONE].mode()[0]} epochs, transfers for
        {transfer_epochs(rows)}. {crossed(found)} A cell is a mean over {seed_count(found)}; the
        count is of cells where the mean of one method lies more than
        {100 * least_lead(found):.1f} points above that of the other{why_least(found)}. A run that
        diverged has no accuracy: its cell is a mean of the others, and empty if there are none. The
        counts are descriptive; nothing is tested. {lowest(found)}""",
        other_device_text(rows),
        tables.markdown(leads(found, fates)),
        *pictures,
        *troubled_cells(found, fates),
    )


def transfer_epochs(rows: pd.DataFrame) -> int:
    """How long the transfers of a map train."""
    return int(rows.epochs[rows.method != BACKBONE].mode()[0])


def least_lead(rows: pd.DataFrame) -> float:
    """From which difference of two means on a map a method leads.

    On CIFAR-100 all runs are measured on the same images, whose choice alone makes a difference.
    """
    if rows.dataset.iloc[0] != "cifar100":
        return claims.ALIKE
    accuracy = rows.value[rows.metric == "val_accuracy"].mean()
    return max(claims.ALIKE, statistics.image_margin(accuracy, CIFAR_VALIDATION))


def why_least(rows: pd.DataFrame) -> str:
    """Where that difference is from, if it is more than the margin of claim 1."""
    if least_lead(rows) == claims.ALIKE:
        return ""
    return ", as the choice of the test images alone may make a difference of as much"


def map_title(name: str, rows: pd.DataFrame) -> str:
    """The title of a map's section: what it asks, and on what."""
    asks = "Where does a transfer stick?" if name == "stuck" else "When does UT lead? A map"
    first = rows[rows.method != BACKBONE].iloc[0]
    title = DATASETS[first.dataset].title
    return f"{asks} ({title}, {first.source} → {first.target}, {tables.seeds_text(rows)})"


def varied(rows: pd.DataFrame) -> str:
    """What differs between the cells of a map, beside the kind of statistics."""
    names = {"lr": "learning rate", "momentum": "momentum", "width": "width"}
    found = [name for column, name in names.items() if rows[column].nunique() > 1]
    return listed(found or ["one setting so far"])


def crossed(rows: pd.DataFrame) -> str:
    """Which settings of a map were run in its first condition only."""
    first = rows.condition == claims.CONDITIONS[0]
    named = {"momentum": "momentum {:g}", "width": "network `{}`"}
    only = [
        text.format(value)
        for column, text in named.items()
        for value in sorted(set(rows[column][first]) - set(rows[column][~first]))
    ]
    if first.all() or not only:
        return ""
    return f"Only the first condition was run with {listed(only)}."


def map_means(rows: pd.DataFrame, metric: str = "val_accuracy") -> pd.DataFrame:
    """Mean accuracy of every cell of a map, one column per method."""
    accuracy = rows[rows.metric == metric]
    return accuracy.pivot_table(index=CELL, columns="method", values="value", aggfunc="mean")


def lowest(rows: pd.DataFrame) -> str:
    """How near to chance either method comes, per kind of statistics."""
    low = 100 * map_means(rows).groupby("statistics").min()
    said = [f"{kind}: FT {line.ft:.0f} %, UT {line.ut:.0f} %" for kind, line in low.iterrows()]
    return f"The lowest cells are, by the kind of statistics, {listed(said)}."


def map_fates(name: str, rows: pd.DataFrame) -> pd.DataFrame:
    """How every run of a map ended: one row per run, with the columns `stuck` and `diverged`."""
    training = rows[rows.metric == "train_accuracy"]
    ended = training.assign(stuck=training.value <= tables.STUCK, diverged=False)
    lost = tables.stored_diverged(name)
    if lost.empty:
        return ended
    lost = claims.map_rows(lost).assign(stuck=False, diverged=True)
    return pd.concat([ended, lost], ignore_index=True)


def fates_text(runs: pd.DataFrame) -> str:
    """How many of some runs of a map are stuck, and how many diverged if any did."""
    diverged = runs.diverged.sum()
    return f"{runs.stuck.sum()} of {len(runs)}" + (f", {diverged} diverged" if diverged else "")


def with_fates(table: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """A table of a map, with how many runs of either method are stuck in each of its lines."""
    ends = {}
    for method in ("ft", "ut"):
        part = runs[runs.method == method].groupby(list(table.index.names))
        ends[f"{method.upper()} runs stuck"] = part[["stuck", "diverged"]].apply(fates_text)
    return table.join(pd.DataFrame(ends)).fillna("")


def leads(rows: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """In how many cells of a map UT leads, FT leads, or neither does, and how many runs stuck.

    Args:
        rows: of `claims.map_rows`.
        runs: of `map_fates`.
    """
    means = map_means(rows)
    least = least_lead(rows)
    lead = (means["ut"] - means["ft"]).dropna()
    counts = pd.DataFrame({"UT leads": lead > least, "FT leads": lead < -least, "cells": True})
    found = counts.groupby(["condition", "statistics"]).sum().reset_index()
    place = found.condition.map(list(claims.CONDITIONS).index)
    order = found.assign(_place=place).sort_values(
        ["_place", "statistics"], ascending=[True, False]
    )
    return with_fates(order.drop(columns="_place").set_index(["condition", "statistics"]), runs)


def troubled_cells(rows: pd.DataFrame, runs: pd.DataFrame) -> list[str]:
    """Where runs of a map are stuck or diverge: a sentence, and a table of those cells.

    Args:
        rows: of `claims.map_rows`.
        runs: of `map_fates`.
    """
    troubled = runs[runs.stuck | runs.diverged]
    if troubled.empty:
        return [f"{troubled_text(runs)}."]
    by = varying(runs)
    cells = troubled.groupby(by).size().index
    texts = pd.DataFrame(index=cells)
    for metric, name in (("train_accuracy", "training"), ("val_accuracy", "validation")):
        means = 100 * map_means(rows, metric).groupby(by)[["ft", "ut"]].mean().reindex(cells)
        for method in means:
            texts[f"{method.upper()}: {name}, %"] = means[method].map("{:.0f}".format, "ignore")
    texts = texts.fillna("")
    table = with_fates(texts, runs).reset_index()
    numbers = [name for name in ("momentum", "lr") if name in table]
    table[numbers] = table[numbers].map("{:g}".format)
    shown = table.rename(columns={"lr": "learning rate"})
    return [f"{troubled_text(runs)}:", tables.markdown(shown.set_index(shown.columns[0]))]


def troubled_text(runs: pd.DataFrame) -> str:
    """In how many cells of a map runs of either method are stuck or diverge."""
    by = varying(runs)
    if not (runs.stuck | runs.diverged).any():
        return "No run is stuck, and none diverged"
    counts = []
    for method in ("ft", "ut"):
        own = runs[runs.method == method]
        stuck, lost = (len(own[own[how]][by].drop_duplicates()) for how in ("stuck", "diverged"))
        counts.append(f"{method.upper()} has stuck runs in {stuck} and diverged ones in {lost}")
    return f"Of {len(runs[by].drop_duplicates())} cells, {', '.join(counts)}{where_stuck(runs)}"


def where_stuck(runs: pd.DataFrame) -> str:
    """Where fine-tuning is stuck, if that is in few cells, and in how many at the usual rate."""
    stuck = runs[(runs.method == "ft") & runs.stuck]
    if stuck.empty:
        return ""
    by = varying(runs)
    cells = stuck[by].drop_duplicates()
    where = ""
    if len(cells) <= MOST_NAMED:
        named = [cell_text(cell) for cell in cells.to_dict("records")]
        where = f"; FT is stuck with {listed(named)}"
    usual = len(cells[cells.lr == USUAL_RATE])
    of = len(runs[runs.lr == USUAL_RATE][by].drop_duplicates())
    rate = f"at the usual learning rate of {USUAL_RATE:g}"
    return f"{where}; {rate}, FT has stuck runs in {usual} of {of}"


def cell_text(cell: dict[str, object]) -> str:
    """A cell of a map in words, as far as it differs from others."""
    kinds = {
        "updated": "updated statistics",
        "frozen": "frozen statistics",
        "none": "no BatchNorm",
    }
    texts = {
        "condition": "{}",
        "width": "network `{}`",
        "momentum": "momentum {:g}",
        "lr": "learning rate {:g}",
    }
    return ", ".join(
        kinds[str(value)] if name == "statistics" else texts[name].format(value)
        for name, value in cell.items()
    )


def varying(runs: pd.DataFrame) -> list[str]:
    """The columns in which the cells of a map differ."""
    return [name for name in CELL if runs[name].nunique() > 1]
