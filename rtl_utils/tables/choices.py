"""Which rows a table shows, and in which order."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from rtl_utils.methods import METHODS
from rtl_utils.runs import BACKBONE
from rtl_utils.store import FINAL
from rtl_utils.tables.texts import BEFORE, n_train_text

PAIR = ("source", "target")  # columns that name the tasks of a transfer


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


def by_images(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Rows of the transfers at each number of target images per class, few images first.

    Args:
        rows: tidy rows; runs of one number of images that were trained for different numbers of
            epochs are kept apart.

    Returns:
        The number as a text -> its rows; the text names the epochs where they differ.
    """
    transfers = rows[rows.method != BACKBONE]
    parts = {n_train_text(n): transfers[transfers.n_train == n] for n in sizes(transfers)}
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


def sizes(rows: pd.DataFrame) -> list[float]:
    """The numbers of target images per class, without all, few first."""
    return sorted(rows.n_train.dropna().unique().tolist())
