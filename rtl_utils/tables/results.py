"""The tables of the results page."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from rtl_utils import paper
from rtl_utils.runs import BACKBONE
from rtl_utils.statistics import FEWEST, prediction_interval
from rtl_utils.tables.choices import (
    PAIR,
    by_images,
    in_order,
    shared_seeds,
    shortcut_everywhere,
    sizes,
    without_shortcut,
)
from rtl_utils.tables.summaries import SHORTCUT_TEST, Column, paired, per_group, points, summary
from rtl_utils.tables.texts import (
    BEFORE,
    group_index,
    label,
    n_train_text,
    percent_text,
    points_text,
    seed_count,
    stuck_text,
)

PAPER_ACCURACY = Column("paper, %", 100)  # of tables 1 to 3


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


def shortcut_shares(rows: pd.DataFrame) -> "pd.Series[float]":
    """Share of the marked images of its own task that a biased backbone gives the shortcut's class.

    Args:
        rows: tidy rows; those of biased backbones are chosen.

    Returns:
        Source -> mean over seeds; LEARNED or more if the backbone has learned the shortcut.
    """
    biased = rows[(rows.method == BACKBONE) & rows.source_shortcut.notna()]
    return biased[biased.metric == "ball_share"].groupby("source", sort=False).value.mean()


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
    table = summary(rows, columns, by).assign(**{"stuck runs": per_group(rows, by, stuck_text)})
    return with_paper(table, {m: f"ball_{m}_accuracy" for m in ("ft", "ut")})


def control_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """UT and FT on a target with the shortcut on every image, and what may make them differ.

    Args:
        rows: tidy rows of one data set, with the controls.

    Returns:
        Rows of accuracies, pair by pair, with the column `control`: the label of FT or of UT as
        usual, of training from scratch or of mixup within the target, or the condition in which
        fine-tuning was changed. A run that differs in two conditions is left out. Empty if
        fine-tuning has one condition alone.
    """
    marked = rows[rows.target_shortcut.notna() & rows.n_train.isna()]
    marked = marked[marked.metric == "val_accuracy"]
    ft = marked[marked.method == "ft"].assign(control=label("ft"))
    changes = {
        "FT, clean source": ft.source_shortcut.isna(),
        "FT, a tenth of the learning rate": ft.lr < ft.lr.max(),
        "FT, only the epochs of UT at τ = 1": ft.epochs < ft.epochs.max(),
    }
    for name, changed in changes.items():
        ft.loc[changed, "control"] = name
    ft = ft[pd.DataFrame(changes).sum(axis=1) <= 1]
    if (ft.control == label("ft")).all():
        return ft[:0]
    usual = marked[(marked.lr == ft.lr.max()) & (marked.epochs == ft.epochs.max())]
    others = shortcut_everywhere(usual[usual.method.isin(["scratch", "mixup", "ut"])])
    others = in_order(others).assign(control=lambda found: found.method.map(label))
    pairs = pd.concat([ft, others]).groupby(list(PAIR), sort=False)
    return pd.concat([part for _, part in pairs])


def control_table(rows: pd.DataFrame) -> pd.DataFrame:
    """What may explain a difference of UT and FT on a target with the shortcut on every image.

    Args:
        rows: tidy rows of one data set, with the controls.

    Returns:
        One row per pair and control, see `control_rows`: accuracy, its difference from FT as usual,
        and that of UT from it, paired by seed. Empty if there are no controls.
    """
    found = control_rows(rows)
    if found.empty:
        return pd.DataFrame()
    by = [*PAIR, "control"]
    ft, ut = label("ft"), label("ut")
    others = found[~found.control.isin([ft, ut])]
    table = summary(others, {"val_accuracy": Column("accuracy, shortcut on all, %", 100)}, by)
    of_pair = dict(iter(found.groupby(list(PAIR), sort=False)))

    def difference(pair: Any, a: str, b: str) -> str:
        return points(of_pair[pair], "val_accuracy", a, b, "control")

    table["minus FT, points"] = [difference(tuple(pair), name, ft) for *pair, name in table.index]
    table["UT minus it, points"] = [
        difference(tuple(pair), ut, name) for *pair, name in table.index
    ]
    return _with_seeds(table, others, by)


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
        "stuck runs": per_group(biased, by, stuck_text),
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
        for size in sizes(part):
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
                    f"{short:.0f} epochs, %": percent_text(values["few"]),
                    "as many steps as with all images, %": percent_text(values["many"]),
                    "all images, %": percent_text(values["all"]),
                    "fewer steps, points": points(three, "flip_rate", "few", "many", "_setting"),
                    "fewer images, points": points(three, "flip_rate", "many", "all", "_setting"),
                }
            )
    if not lines:
        return pd.DataFrame()
    return pd.DataFrame(lines, index=group_index(keys, [*PAIR, "images per class", "method"]))


def paper_table(rows: pd.DataFrame) -> pd.DataFrame:
    """UT minus FT in accuracy beside the paper's difference, of its tables 1 and 2 and of table 3.

    Args:
        rows: tidy rows of the transfers of one data set, see `as_usual`.

    Returns:
        One row per table and pair that the paper has and the rows have: our mean with its 95 %
        interval over seeds, the paper's number, and what `compatible` says. Empty if there is
        none.
    """
    settings = {
        "1 and 2 (clean tasks)": (without_shortcut(rows), "", paper.TRIALS["1 and 2"]),
        "3 (shortcut on every image)": (shortcut_everywhere(rows), "ball_", paper.TRIALS["3"]),
    }
    lines = []
    for name, (part, prefix, trials) in settings.items():
        for pair in paper.TABLES:
            own = part[(part.source == pair[0]) & (part.target == pair[1])]
            ut, ft = (paper.value(*pair, f"{prefix}{method}_accuracy") for method in ("ut", "ft"))
            if not {"ut", "ft"} <= set(own.method) or ut is None or ft is None:
                continue
            ours = np.subtract(*paired(own, "val_accuracy", "ut", "ft")).tolist()
            lines.append(
                {
                    "the paper's table": name,
                    "pair": " → ".join(pair),
                    "seeds": len(ours),
                    "UT - FT, points": points_text(ours),
                    "paper: UT - FT, points": f"{100 * (ut - ft):+.1f}",
                    "compatible with ours": compatible(ours, ut - ft, trials),
                }
            )
    return pd.DataFrame(lines).set_index("the paper's table") if lines else pd.DataFrame()


def compatible(values: Sequence[float], reported: float, trials: int) -> str:
    """Whether a reported mean lies in the prediction interval of ours; empty for fewer than five.

    Args:
        values: ours, one per seed.
        reported: by the paper.
        trials: how many trainings the reported number is the mean of.
    """
    if len(values) < FEWEST:
        return ""
    interval = prediction_interval(values, trials)
    return "yes" if interval.low <= reported <= interval.high else "no"


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


def _with_seeds(table: pd.DataFrame, rows: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """The table of `summary` with a first column of seeds, if its groups differ in them."""
    counts = per_group(rows, by, lambda part: str(part.seed.nunique()))
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
