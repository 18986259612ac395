"""The paper's claims on the synthetic experiment: about losses, their rise, and LIME."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from rtl_utils.claims.verdicts import Question, with_verdicts
from rtl_utils.runs import BACKBONE
from rtl_utils.statistics import Interval, mean_interval
from rtl_utils.store import FINAL
from rtl_utils.tables import RISE, label, paired

OVER_SCRATCH = "ratio over that of scratch, 90 % interval"  # column of `rise_tables`
_ORDER = (("ut", "ft"), ("ut", "scratch"), ("ft", "scratch"))  # of figure 1, the lower loss first


class _Line(NamedTuple):
    """A line of a table: is the value of a below that of b?

    Args:
        metric: that is compared.
        a: method whose value is taken.
        b: method whose value is subtracted.
        digits: after the point of the difference.
    """

    metric: str
    a: str
    b: str
    digits: int


def loss_tables(models: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Figure 1: is the validation loss lowest for UT, and lower for FT than from scratch?

    Args:
        models: name of each set of target models -> its rows.

    Returns:
        Name -> one row per pair of methods: the paired difference of the validation losses,
        p-values after Holm's adjustment over all the tables, and the verdict on "lower".
    """
    lines = {f"{label(a)} minus {label(b)}": _Line("val_loss", a, b, digits=4) for a, b in _ORDER}
    table = _compared(models, {(name,): line for name, line in lines.items()}, ["validation loss"])
    table = table.rename(columns={"verdict": "lower"})
    return {name: pd.DataFrame(table.xs(name, level="models")) for name in models}


def rise_tables(models: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Claim 5: do restored features raise the loss of a transfer less than that of scratch?

    Args:
        models: name of each set of target models -> its rows, of `tables.with_rise`.

    Returns:
        Name -> one row per transfer and measure: the paired difference to scratch; for the
        logarithm of the ratio also the difference as a factor, whose 90 % interval ends at
        one-sided 95 % bounds: by so much at most a transfer rises more; p-values after Holm's
        adjustment over all the tables, as all ask the same, and the verdict on "less than scratch".
    """
    lines: dict[tuple[str, ...], _Line] = {
        (label(method), column.heading): _Line(measure, method, "scratch", digits=2)
        for measure, column in RISE.items()
        for method in ("ft", "ut")
    }
    table = _compared(models, lines, ["method", "measure"])
    logarithm = RISE["log_ratio"].heading
    factors = [
        _factor_text(_differences(models[name], lines[method, measure]))
        if measure == logarithm
        else ""
        for name, method, measure in table.index
    ]
    table.insert(1, OVER_SCRATCH, factors)
    table = table.rename(columns={"difference": "minus scratch", "verdict": "claim 5"})
    return {name: pd.DataFrame(table.xs(name, level="models")) for name in models}


def _compared(
    models: Mapping[str, pd.DataFrame], lines: Mapping[tuple[str, ...], _Line], by: list[str]
) -> pd.DataFrame:
    """The lines asked of each set of models, all judged together; the sets are the first level."""
    questions = []
    texts = []
    keys = []
    for name, rows in models.items():
        for key, line in lines.items():
            difference = _differences(rows, line)
            questions.append(Question(difference, "below"))
            texts.append({"difference": mean_interval(difference).text(line.digits)})
            keys.append((name, *key))
    return with_verdicts(pd.DataFrame(texts), questions, keys, ["models", *by])


def _differences(rows: pd.DataFrame, line: _Line) -> list[float]:
    """What a line compares, one difference per seed."""
    return list(np.subtract(*paired(rows, line.metric, line.a, line.b)).tolist())


def _factor_text(logarithms: list[float]) -> str:
    """The mean of log10 ratios as a factor, with its 90 % interval; empty where there is none."""
    found = mean_interval(logarithms, 0.9)
    if np.isnan(found.low):
        return ""
    return Interval(10**found.mean, 10**found.low, 10**found.high, found.n).text(2)


def lime_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Figures 2b and 2c, and claim 5: are the LIME weights of the spurious features smaller?

    Args:
        rows: tidy rows of the backbones and of the target models, one run per method and seed.

    Returns:
        One row per comparison: the paired difference of the mean |weight|, p-values after Holm's
        adjustment, and the verdict on "smaller". The comparisons with training from scratch are a
        family of their own: they were added when the others were known. Empty if there are no rows.
    """
    if rows.empty:
        return pd.DataFrame()
    sizes = rows[(rows.metric == "lime_spurious") & (rows.epoch == FINAL)]
    by_seed = sizes.pivot_table("value", index="seed", columns="method")
    compared = {
        "figures 2b and 2c": (("ft", BACKBONE), ("ut", BACKBONE), ("ut", "ft")),
        "claim 5": (("ft", "scratch"), ("ut", "scratch")),
    }
    questions = []
    lines = []
    keys = []
    for family, pairs in compared.items():
        for a, b in pairs:
            if not {a, b} <= set(by_seed):
                continue
            difference = (by_seed[a] - by_seed[b]).dropna().tolist()
            questions.append(Question(difference, "below", family=family))
            keys.append((f"{label(a)} minus {label(b)}",))
            lines.append({"difference": mean_interval(difference).text(4)})
    by = ["mean size of the LIME weight, features 0 to 19"]
    table = with_verdicts(pd.DataFrame(lines), questions, keys, by)
    return table.rename(columns={"verdict": "smaller"})
