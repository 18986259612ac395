"""Figures of trainings and of their results."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.ticker import LogLocator

from rtl_utils import claims, tables
from rtl_utils.methods import METHODS
from rtl_utils.plotting.style import ACCENT, BACKBONE_COLOUR, SINGLE, colour, marker, write
from rtl_utils.provenance import warn_if_mixed
from rtl_utils.statistics import Interval, mean_interval
from rtl_utils.store import FINAL


def curves(rows: pd.DataFrame, metric: str, ax: Axes, ylabel: str, title: str) -> Axes:
    """A metric over epochs, one line per method.

    The line is the mean over seeds, the band reaches from the lowest to the highest run. A method
    that has one epoch while others have more took no steps: it is drawn as a level.

    Args:
        rows: tidy rows with columns method, seed, metric, epoch (from 0) and value.
        metric: that is drawn.
        ax: to draw on.
        ylabel: the metric's name and unit.
        title: of the axes.
    """
    warn_if_mixed(rows)
    chosen = rows[(rows.metric == metric) & (rows.epoch >= 0)]
    for method in dict.fromkeys(chosen.method):
        part = chosen[chosen.method == method]
        table = part.pivot_table(index="epoch", columns="seed", values="value")
        epochs = np.asarray(table.index, dtype=float) + 1
        low = table.min(axis=1).to_numpy()
        high = table.max(axis=1).to_numpy()
        if len(epochs) == 1 and chosen.epoch.max() > 0:  # it took no steps: a level
            of_method: dict[str, Any] = {"color": colour(method), "linewidth": 0}
            ax.axhspan(low[0], high[0], alpha=0.15, **of_method)
            level = table.mean(axis=1).iloc[0]
            ax.axhline(level, color=colour(method), linestyle="--", label=tables.label(method))
            continue
        ax.fill_between(epochs, low, high, color=colour(method), alpha=0.15, linewidth=0)
        # a line through one epoch cannot be seen
        style = marker(method) if len(epochs) == 1 else ""
        mean = table.mean(axis=1)
        ax.plot(epochs, mean, color=colour(method), marker=style, label=tables.label(method))
    ax.set(xlabel="epoch", ylabel=ylabel, title=title)
    return ax


def bars(rows: pd.DataFrame, metrics: Mapping[str, str], ax: Axes, ylabel: str, title: str) -> Axes:
    """Final values side by side: one group per metric, one bar per method.

    A bar shows the mean over seeds, its line the 95 % t interval, and every run is a dot.

    Args:
        rows: tidy rows.
        metrics: name -> text under its group.
        ax: to draw on.
        ylabel: name and unit of the values.
        title: of the axes.
    """
    warn_if_mixed(rows)
    methods = list(dict.fromkeys(rows.method))
    final = rows[rows.epoch == FINAL]
    width = 0.8 / len(methods)
    for k, method in enumerate(methods):
        for group, metric in enumerate(metrics):
            chosen = final[(final.method == method) & (final.metric == metric)]
            if len(chosen):
                x = group + (k - (len(methods) - 1) / 2) * width
                _bar(chosen.value.tolist(), x, width, ax, method, labelled=group == 0)
    ax.set_xticks(range(len(metrics)), list(metrics.values()))
    ax.grid(axis="x", visible=False)
    ax.set(ylabel=ylabel, title=title)
    return ax


def runs(
    rows: pd.DataFrame,
    metric: str,
    lines: Sequence[str],
    ax: Axes,
    xlabel: str,
    title: str,
    column: str = "method",
) -> Axes:
    """Every run as a dot, one line per method; the stroke is the mean over seeds.

    Args:
        rows: tidy rows, one run per line and seed.
        metric: whose final value is drawn.
        lines: methods from top to bottom; one without rows keeps its place, so that panels compare.
        ax: to draw on.
        xlabel: name and unit of the values.
        title: of the axes.
        column: that tells the lines apart, where they are not methods.
    """
    warn_if_mixed(rows)
    final = rows[(rows.metric == metric) & (rows.epoch == FINAL)]
    for place, line in enumerate(lines):
        own = final[final[column] == line].sort_values("seed")
        if own.empty:
            continue
        values = own.value.to_numpy()
        shade = colour(own.method.iloc[0])
        # seed by seed from top to bottom, so that equal values do not hide each other
        heights = place + np.linspace(-0.3, 0.3, len(values) + 2)[1:-1]
        ax.plot(values, heights, ".", color=shade, markersize=7, alpha=0.75)
        ax.vlines(values.mean(), place - 0.35, place + 0.35, color=shade, linewidth=2.4)
    ax.set_yticks(range(len(lines)), [tables.label(line) for line in lines])
    ax.set_ylim(len(lines) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    ax.set(xlabel=xlabel, title=title)
    return ax


def slopes(
    rows: pd.DataFrame, metrics: Mapping[str, str], ax: Axes, ylabel: str, title: str
) -> Axes:
    """Final values from one metric to the next on a logarithmic axis.

    Thin lines are runs, the thick line is the median over seeds: on this axis a single run far
    above the others would lift a mean above nearly all of them.

    Args:
        rows: tidy rows.
        metrics: name -> text under it, from left to right.
        ax: to draw on.
        ylabel: name and unit of the values.
        title: of the axes.
    """
    warn_if_mixed(rows)
    final = rows[rows.epoch == FINAL]
    x = np.arange(len(metrics))
    for method in dict.fromkeys(final.method):
        part = final[final.method == method]
        table = part.pivot_table(index="seed", columns="metric", values="value")[list(metrics)]
        of_method: dict[str, Any] = {"color": colour(method)}
        ax.plot(x, table.T.to_numpy(), linewidth=0.9, alpha=0.55, **of_method)
        ax.plot(
            x,
            table.median(),
            marker=marker(method),
            markersize=7,
            linewidth=2.4,
            label=tables.label(method),
            **of_method,
        )
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
    ax.set_xticks(x, list(metrics.values()))
    ax.margins(x=0.08)
    ax.set(ylabel=ylabel, title=title)
    return ax


def by_size(
    rows: pd.DataFrame, metric: str, ax: Axes, ylabel: str, title: str, everything: int
) -> Axes:
    """A final share over the number of target images per class, one line per method.

    Lines go through the means over seeds; vertical strokes are 95 % t intervals.

    Args:
        rows: tidy rows with a column n_train.
        metric: a share, 0 ... 1; intervals beyond are cut off.
        ax: to draw on.
        ylabel: the metric's name.
        title: of the axes.
        everything: images per class where n_train is None (all images).
    """
    warn_if_mixed(rows)
    chosen = rows[(rows.metric == metric) & (rows.epoch == FINAL)]
    chosen = chosen.assign(images=chosen.n_train.astype(float).fillna(everything))
    methods = list(dict.fromkeys(chosen.method))
    for k, method in enumerate(methods):
        part = chosen[chosen.method == method]
        sizes = sorted(set(part.images))
        intervals = [mean_interval(part.value[part.images == size].tolist()) for size in sizes]
        x = np.array(sizes) * 1.04 ** (k - (len(methods) - 1) / 2)  # beside each other, not on top
        means = [interval.mean for interval in intervals]
        ax.plot(x, means, color=colour(method), marker=marker(method), label=tables.label(method))
        low = [interval.low for interval in intervals]
        high = [interval.high for interval in intervals]
        ax.vlines(x, low, high, color=colour(method), linewidth=1.5)
        few = [(at, y) for at, interval in zip(x, intervals, strict=True) for y in interval.points]
        if few:  # single values, where they are too few for an interval
            ax.plot(*zip(*few, strict=True), ".", color=colour(method), **SINGLE)
    ticks = sorted(set(chosen.images))
    ax.set_xscale("log")
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.set(xlabel="target images per class", ylabel=ylabel, title=title, ylim=(-0.03, 1.03))
    return ax


def forest(differences: Mapping[str, Interval], ax: Axes, xlabel: str, title: str) -> Axes:
    """Differences with their intervals, one per row; the vertical line is no difference.

    Args:
        differences: name -> interval, from top to bottom.
        ax: to draw on.
        xlabel: name and unit of the differences.
        title: of the axes.
    """
    for row, interval in enumerate(differences.values()):
        ax.plot(interval.mean, row, "o", color="black")
        ax.plot([interval.low, interval.high], [row, row], color="black")
        ax.plot(interval.points, [row] * len(interval.points), ".", color="black", **SINGLE)
    ax.axvline(0, color="grey", linewidth=1)
    ax.set_yticks(range(len(differences)), list(differences))
    ax.set_ylim(len(differences) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.set(xlabel=xlabel, title=title)
    return ax


def trade_off(rows: pd.DataFrame, ax: Axes, title: str) -> Axes:
    """Flip rate over clean accuracy in the shortcut test: one marker per method.

    Crosses are 95 % t intervals over seeds. In the shaded corner a method keeps the shortcut out by
    the means: less than `claims.ALLOWED` more flips than training from scratch, and less than
    `claims.INFERIOR` below fine-tuning's accuracy on clean images.

    Args:
        rows: tidy rows of one number of target images, "scratch" and "ft" among their methods.
        ax: to draw on.
        title: of the axes.
    """
    warn_if_mixed(rows)
    final = rows[(rows.epoch == FINAL) & rows.method.isin(list(METHODS))]
    for method in [m for m in METHODS if m in set(final.method)]:
        accuracy = _interval(final, method, "clean_accuracy")
        _cross(accuracy, _interval(final, method, "flip_rate"), ax, method)
    left, right = (float(x) for x in ax.dataLim.intervalx)  # with the intervals
    left = max(0.0, left) - 0.03
    right = min(1.0, right) + 0.03
    most_flips = _interval(final, "scratch", "flip_rate").mean + claims.ALLOWED
    ax.fill_between(
        [_interval(final, "ft", "clean_accuracy").mean - claims.INFERIOR, right],
        -0.03,
        most_flips,
        color="grey",
        alpha=0.2,
        linewidth=0,
    )
    ax.set(
        xlim=(left, right),
        ylim=(-0.03, 1.03),
        xlabel="accuracy without shortcut",
        ylabel="flip rate",
        title=title,
    )
    return ax


def cells(
    table: pd.DataFrame, ax: Axes, title: str, limits: tuple[float, float], colours: str = "Greys"
) -> Axes:
    """A table of percentages as a heat map, each written into its cell in whole percent.

    Args:
        table: fractions, one row per line of cells; NaN leaves a cell empty.
        ax: to draw on.
        title: of the axes.
        limits: fractions at both ends of the colours; a light colour stands at the lower end of
            "Greys", and halfway in one that has two directions, such as "PuOr".
        colours: name of a colour map of Matplotlib.
    """
    scale = Normalize(*limits)
    ax.imshow(table, cmap=colours, norm=scale, aspect="auto")
    middle = 0.0 if colours == "Greys" else 0.5
    reach = 1.0 - middle
    for i, j in np.argwhere(table.notna().to_numpy()):
        value = float(table.to_numpy()[i, j])
        dark = abs(float(scale(value)) - middle) > 0.6 * reach
        write(ax, i, j, f"{round(100 * value)}", dark)
    ax.set_xticks(range(table.shape[1]), [str(name) for name in table.columns])
    ax.set_yticks(range(table.shape[0]), [str(name) for name in table.index])
    ax.grid(visible=False)
    ax.set(xlabel=table.columns.name or "", ylabel=table.index.name or "", title=title)
    return ax


def against_baseline(
    values: "pd.Series[float]", baseline: "pd.Series[float]", ax: Axes, xlabel: str, title: str
) -> Axes:
    """Horizontal bars, one per setting from top to bottom, each with its baseline as a stroke.

    Args:
        values: of the network, indexed by the setting's name.
        baseline: of linear regression on the same data, indexed likewise.
        ax: to draw on.
        xlabel: name and unit of the values.
        title: of the axes.
    """
    rows = np.arange(len(values))
    ax.barh(rows, values, 0.65, color=BACKBONE_COLOUR, alpha=0.6, label="network")
    ax.vlines(
        baseline[values.index],
        rows - 0.42,
        rows + 0.42,
        color=ACCENT,
        linewidth=2.5,
        label="linear regression on the same data",
    )
    ax.set_yticks(rows, list(values.index))
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set(xlabel=xlabel, title=title)
    return ax


def _bar(
    values: Sequence[float], x: float, width: float, ax: Axes, method: str, labelled: bool
) -> None:
    """One bar with its interval and its runs."""
    interval = mean_interval(values)
    name = tables.label(method) if labelled else None
    ax.bar(x, interval.mean, width * 0.92, color=colour(method), alpha=0.75, label=name)
    if interval.n > 1:
        ax.plot([x, x], [interval.low, interval.high], color="black", linewidth=1.2)
    ax.plot(np.full(len(values), x), values, ".", color="black", **SINGLE)


def _cross(x: Interval, y: Interval, ax: Axes, method: str) -> None:
    """A method's marker at two means, with both intervals."""
    thin: dict[str, Any] = {"color": colour(method), "linewidth": 1, "alpha": 0.6}
    ax.plot([x.low, x.high], [y.mean, y.mean], **thin)
    ax.plot([x.mean, x.mean], [y.low, y.high], **thin)
    ax.plot(
        x.mean,
        y.mean,
        linestyle="",
        marker=marker(method),
        color=colour(method),
        markersize=8,
        label=tables.label(method),
        zorder=3,
    )


def _interval(final: pd.DataFrame, method: str, metric: str) -> Interval:
    chosen = final[(final.method == method) & (final.metric == metric)]
    return mean_interval(chosen.value.tolist())
