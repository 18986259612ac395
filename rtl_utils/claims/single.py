"""The paper's single claims on images: about chance and stuck runs."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from statsmodels.stats.contingency_tables import mcnemar

from rtl_utils.claims.verdicts import (
    CHANCE,
    NEAR_CHANCE,
    NEARLY_ALL,
    Question,
    p_text,
    with_verdicts,
)
from rtl_utils.runs import BACKBONE
from rtl_utils.statistics import FEWEST, decided, holm, mean_interval, untested
from rtl_utils.tables import (
    BEFORE,
    PAIR,
    STUCK,
    n_train_text,
    paired,
    percent_text,
    points,
    points_text,
    seed_count,
    stuck_text,
)

CLAIM_4 = "claim 4: FT stuck more often"  # column of `frozen_table`
OWN_TASK = "its own task"  # images of `chance_table` that are no target's
MOST_THERE = f"over {100 * NEARLY_ALL:.0f} % in the shortcut's class"  # column of `chance_table`
CHANCE_COLUMNS = {  # metric -> column of `chance_table`
    "ball_accuracy": "accuracy, shortcut on all, %",
    "clean_accuracy": "accuracy without shortcut, %",
    "ball_share": "in the shortcut's class, shortcut on all, %",
    "clean_share": "in the shortcut's class, without shortcut, %",
}
# Where the shortcut is in the runs with frozen statistics and in the maps.
CONDITIONS = (
    "shortcut in the source and on every target image",
    "shortcut in the source, clean target",
    "clean source, shortcut on every target image",
    "no shortcut",
)


def stuck_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Claim 4: is fine-tuning stuck more often than UT?

    Args:
        rows: tidy rows of "ft" and "ut", one run per pair of tasks, method and seed.

    Returns:
        One row per pair of tasks: its seeds; the stuck runs of both methods with Clopper-Pearson
        intervals; p of McNemar's exact test, two-sided, on the runs paired by seed, adjusted by
        Holm's method over the table and empty where nothing can be tested; and the verdict. Empty
        if no pair has both methods.

    Source: McNemar (1947).
    """
    stuck = []
    lines = {}
    for (source, target), part in rows.groupby(list(PAIR), sort=False):
        training = part[part.metric == "train_accuracy"]
        if not {"ft", "ut"} <= set(training.method):
            continue
        stuck.append(_stuck(part))
        lines[f"{source} → {target}"] = {
            "seeds": len(paired(part, "train_accuracy", "ut", "ft").a),
            "FT stuck": stuck_text(part[part.method == "ft"]),
            "UT stuck": stuck_text(part[part.method == "ut"]),
        }
    table = pd.DataFrame.from_dict(lines, orient="index").rename_axis("pair")
    return _with_claim_4(table, stuck)


def chance_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Biased backbones before any transfer, with the shortcut on every image: the paper's claim 2.

    Args:
        rows: tidy rows of biased backbones on their own tasks, and of the method that trains
            nothing on each target.

    Returns:
        One row per task and pair: accuracy and share of predictions in the shortcut's class, with
        the shortcut and, to compare, without it; p of "the accuracy with it is at chance" (within
        NEAR_CHANCE of it, TOST) and of its opposite, adjusted by Holm's method over the targets and
        over the backbones' own tasks, and the verdict; and whether the 95 % interval of the share
        in the shortcut's class lies above NEARLY_ALL. Empty if there are no such rows.
    """
    biased = rows[rows.source_shortcut.notna()]
    own = biased[biased.method == BACKBONE].assign(images=OWN_TASK)
    before = biased[biased.method == BEFORE]
    moved = before.assign(images=before.target)  # one network, whatever it might be trained on
    shown = pd.concat([own, moved]).drop_duplicates(["source", "images", "seed", "metric"])
    questions = []
    lines = []
    keys = []
    for (source, images), part in shown.groupby(["source", "images"], sort=False):
        values = dict(iter(part.groupby("metric").value))
        if "ball_accuracy" not in values:
            continue
        keys.append((source, images))
        family = images if images == OWN_TASK else "targets"
        beyond = (values["ball_accuracy"] - CHANCE).tolist()
        questions.append(Question(beyond, "alike", NEAR_CHANCE, family))
        line: dict[str, object] = {"seeds": part.seed.nunique()}
        for metric, heading in CHANCE_COLUMNS.items():
            line[heading] = percent_text(values[metric]) if metric in values else ""
        line[MOST_THERE] = _nearly_all(values["ball_share"].tolist())
        lines.append(line)
    return with_verdicts(pd.DataFrame(lines), questions, keys, ["backbone of", "images of"])


def _nearly_all(shares: Sequence[float]) -> str:
    """Whether the 95 % interval of a mean share lies above NEARLY_ALL; empty for few seeds."""
    share = mean_interval(shares)
    if share.n < FEWEST:
        return ""
    low, high = (share.mean,) * 2 if np.isnan(share.low) else (share.low, share.high)
    if low > NEARLY_ALL:
        return "yes"
    return "no" if high < NEARLY_ALL else "undecided"


def frozen_cases(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with frozen and updated BatchNorm statistics, named alike.

    Args:
        rows: tidy rows of "ft", "ut", "ft-frozen" and "ut-frozen".

    Returns:
        The rows with the method "ft" or "ut", and columns `statistics`, `images` (per class),
        `learning rate` and `condition` (where the shortcut is).
    """
    moved = rows[rows.method.isin(["ft", "ut", "ft-frozen", "ut-frozen"])]
    frozen = moved.method.str.endswith("-frozen")
    biased = moved.source_shortcut.notna()
    marked = moved.target_shortcut.notna()
    where = np.select([biased & marked, biased, marked], list(CONDITIONS)[:3], list(CONDITIONS)[3])
    return moved.assign(
        method=moved.method.str.removesuffix("-frozen"),
        statistics=np.where(frozen, "frozen", "updated"),
        images=moved.n_train.map(n_train_text),
        condition=where,
        **{"learning rate": moved.lr},
    )


def frozen_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of FT and UT where BatchNorm statistics are frozen, beside updated ones.

    Args:
        rows: of `frozen_cases`.

    Returns:
        One row per condition, number of images, learning rate and kind of statistics: accuracies,
        stuck runs, paired differences (of all seeds, and of those where neither run is stuck), the
        verdict on "UT is more accurate than FT", and the verdict on the paper's claim 4, "FT is
        stuck more often than UT". The p of claim 4 is that of McNemar's exact test, two-sided, on
        runs paired by seed, adjusted by Holm's method over the table; it is empty where nothing can
        be tested. All p-values are adjusted over the table, but for the line that is the paper's
        claim 3: that is judged as in `verdict_table`.

    Source: McNemar (1947).
    """
    by = ["condition", "images", "learning rate", "statistics"]
    questions = []
    stuck = []
    lines = []
    keys = []
    order = {name: place for place, name in enumerate(CONDITIONS)}
    claim_3 = (CONDITIONS[0], "all", rows["learning rate"].max(), "updated")
    placed = rows.assign(_place=rows.condition.map(order), _many=rows.images == "all")
    placed = placed.sort_values(["_place", "_many", "learning rate", "statistics"], kind="stable")
    for key, part in placed.groupby(by, sort=False):
        if set(part.method) != {"ft", "ut"}:
            continue
        keys.append(key)
        values = paired(part, "val_accuracy", "ut", "ft")
        both = np.subtract(*values).tolist()
        family = "claim 3" if key == claim_3 else "this table"
        questions.append(Question(both, "above", family=family))
        stuck.append(_stuck(part))
        line = {"seeds": f"{len(both)}"}
        for method, of_method in zip(("ut", "ft"), values, strict=True):
            chosen = part[part.method == method]
            line[f"{method.upper()}, %"] = percent_text(of_method)
            line[f"{method.upper()} stuck"] = stuck_text(chosen)
        line["UT - FT, points"] = points_text(both)
        line["neither stuck: UT - FT, points"] = _unstuck_text(part)
        lines.append(line)
    return _with_claim_4(with_verdicts(pd.DataFrame(lines), questions, keys, by), stuck)


def map_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of a map over learning rates, named alike.

    Args:
        rows: tidy rows of a sweep over learning rate, momentum and network.

    Returns:
        Those of `frozen_cases`; a network without BatchNorm, whose name ends in "-plain", has the
        statistics "none" and the width without that ending.
    """
    found = frozen_cases(rows)
    plain = found.width.str.endswith("-plain")
    return found.assign(
        width=found.width.str.removesuffix("-plain"),
        statistics=found.statistics.mask(plain, "none"),
    )


class _Stuck(NamedTuple):
    """Whether FT is stuck more often than UT, before any other row of the table is looked at.

    Args:
        more: stuck runs of FT minus those of UT.
        p: of McNemar's exact test, two-sided; NaN where nothing can be tested.
        untested: the verdict there; else empty.
    """

    more: int
    p: float
    untested: str


def _stuck(rows: pd.DataFrame) -> _Stuck:
    """What the runs of FT and UT, paired by seed, say about claim 4."""
    ut, ft = (np.array(of) <= STUCK for of in paired(rows, "train_accuracy", "ut", "ft"))
    none = untested(len(ft))
    if not none and not (ft | ut).any():
        none = "undecided (no run is stuck)"
    only_ft = int((ft & ~ut).sum())
    only_ut = int((ut & ~ft).sum())
    # seeds where both runs are stuck, or neither is, do not count in McNemar's test
    p = np.nan if none else float(mcnemar([[0, only_ft], [only_ut, 0]], exact=True).pvalue)
    return _Stuck(only_ft - only_ut, p, none)


def _with_claim_4(table: pd.DataFrame, stuck: Sequence[_Stuck]) -> pd.DataFrame:
    """The table with the p and the verdict of claim 4."""
    if table.empty:
        return table
    says = []
    adjusted = holm([one.p for one in stuck])
    for one, p in zip(stuck, adjusted, strict=True):
        more, fewer = (p, 1.0) if one.more > 0 else (1.0, p)
        says.append(one.untested or decided(more, fewer))
    return table.assign(
        **{
            "stuck, FT against UT: p of McNemar's test, Holm": [p_text(p) for p in adjusted],
            CLAIM_4: says,
        }
    )


def _unstuck_text(rows: pd.DataFrame) -> str:
    """UT minus FT in points, of the seeds where neither run is stuck, and how many they are."""
    training = rows[rows.metric == "train_accuracy"]
    stuck = set(training.seed[training.value <= STUCK])
    kept = rows[~rows.seed.isin(stuck)]
    text = points(kept, "val_accuracy", "ut", "ft")
    return f"{text} ({seed_count(kept)})" if text else ""
