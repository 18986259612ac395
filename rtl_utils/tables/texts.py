"""How tables and pages write methods, seeds, numbers of images and means."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from rtl_utils.methods import METHODS
from rtl_utils.statistics import FEWEST, mean_interval, share_interval

STUCK = 0.25  # a run whose training accuracy is no higher has not learned
LEARNED = 0.5  # a backbone that puts fewer marked images into the shortcut's class ignores it
BEFORE = "before"  # the method that trains nothing


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


def percent_text(values: Iterable[float]) -> str:
    """Mean and interval of shares, in percent; the interval has no part outside 0 to 100."""
    return mean_interval(list(values)).within(0, 1).text(scale=100)


def points_text(differences: Iterable[float]) -> str:
    """Mean and interval of differences of shares, in percentage points."""
    return mean_interval(list(differences)).text(scale=100)


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


def images_text(size: str) -> str:
    """A key of `by_images` in words: "50 images per class, 20 epochs"."""
    number, *epochs = size.split(", ")
    images = "all images" if number == "all" else f"{number} images per class"
    return ", ".join([images, *epochs])


def group_index(keys: Sequence[tuple[Any, ...]], by: Sequence[str]) -> pd.Index:
    """The groups of a table as its index: one level per column that names them."""
    levels = pd.DataFrame(keys, columns=list(by))
    return pd.Index(levels[by[0]]) if len(by) == 1 else pd.MultiIndex.from_frame(levels)


def markdown(table: pd.DataFrame) -> str:
    """The table as Markdown, its index as first columns."""
    flat = table.reset_index()
    lines = [list(flat.columns), ["---"] * flat.shape[1], *flat.astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
