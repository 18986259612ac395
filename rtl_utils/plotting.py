"""Every figure of the course: functions that take data and an `Axes` and return the `Axes`.

One style for all; each method has one colour and one marker everywhere (`methods.METHODS`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from rtl_utils import claims, tables
from rtl_utils.data import DATASETS, Task
from rtl_utils.data.synthetic import FEATURES
from rtl_utils.distances import Matrix
from rtl_utils.methods import METHODS
from rtl_utils.provenance import warn_if_mixed
from rtl_utils.runs import BACKBONE
from rtl_utils.statistics import Interval, mean_interval
from rtl_utils.store import FINAL

BACKBONE_COLOUR = "#222222"
BACKBONE_MARKER = "P"
_ACCENT = "#D55E00"  # of what a figure points at
_NORMAL = 1.96  # standard errors on either side of a mean that hold 95 % of a normal distribution
_SINGLE: dict[str, Any] = {"markersize": 3.5, "alpha": 0.6}  # of the dots of single values
_STYLE: dict[Any, Any] = {
    "figure.dpi": 110,
    "savefig.dpi": 110,
    "figure.constrained_layout.use": True,
    "font.size": 10.5,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}
# Marker and colour of features of the synthetic task by what they are for the target.
_FEATURE_STYLES = {
    "spurious": ("o", "#D55E00"),
    "shared": ("s", "#009E73"),
    "target only": ("^", "#7A5195"),
}


# --- style -------------------------------------------------------------------------------------


def use_style() -> None:
    """Set the course's style for all figures of this session."""
    for name, value in _STYLE.items():
        plt.rcParams[name] = value


def colour(method: str) -> str:
    """Colour of a method, or of the backbone, in every figure.

    Raises:
        ValueError: for another name.
    """
    _check(method)
    return BACKBONE_COLOUR if method == BACKBONE else METHODS[method].colour


def marker(method: str) -> str:
    """Marker of a method, or of the backbone, in every figure.

    Raises:
        ValueError: for another name.
    """
    _check(method)
    return BACKBONE_MARKER if method == BACKBONE else METHODS[method].marker


def chance(ax: Axes, level: float) -> Axes:
    """Draw a dashed grey line at the level of guessing.

    Args:
        ax: with a share on its vertical axis.
        level: such as 1 / 5 for five classes.
    """
    ax.axhline(level, color="grey", linestyle="--", linewidth=1, label="chance")
    return ax


def legend_below(figure: Figure, ax: Axes) -> None:
    """Draw one legend for the whole figure, below its axes.

    Args:
        figure: that gets the legend.
        ax: whose entries it shows.
    """
    handles, labels = ax.get_legend_handles_labels()
    columns = len(labels) if len(labels) <= 5 else 3
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


# --- trainings and their results ---------------------------------------------------------------


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
    rows: pd.DataFrame, metric: str, methods: Sequence[str], ax: Axes, xlabel: str, title: str
) -> Axes:
    """Every run as a dot, one line per method; the stroke is the mean over seeds.

    Args:
        rows: tidy rows, one run per method and seed.
        metric: whose final value is drawn.
        methods: from top to bottom; one without rows keeps its place, so that panels compare.
        ax: to draw on.
        xlabel: name and unit of the values.
        title: of the axes.
    """
    warn_if_mixed(rows)
    final = rows[(rows.metric == metric) & (rows.epoch == FINAL)]
    for place, method in enumerate(methods):
        values = final[final.method == method].sort_values("seed").value.to_numpy()
        if not len(values):
            continue
        # seed by seed from top to bottom, so that equal values do not hide each other
        heights = place + np.linspace(-0.3, 0.3, len(values) + 2)[1:-1]
        ax.plot(values, heights, ".", color=colour(method), markersize=7, alpha=0.75)
        ax.vlines(values.mean(), place - 0.35, place + 0.35, color=colour(method), linewidth=2.4)
    ax.set_yticks(range(len(methods)), [tables.label(method) for method in methods])
    ax.set_ylim(len(methods) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    ax.set(xlabel=xlabel, title=title)
    return ax


def slopes(
    rows: pd.DataFrame, metrics: Mapping[str, str], ax: Axes, ylabel: str, title: str
) -> Axes:
    """Final values from one metric to the next on a logarithmic axis.

    Thin lines are runs, the thick line is the mean over seeds.

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
            table.mean(),
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
            ax.plot(*zip(*few, strict=True), ".", color=colour(method), **_SINGLE)
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
        ax.plot(interval.points, [row] * len(interval.points), ".", color="black", **_SINGLE)
    ax.axvline(0, color="grey", linewidth=1)
    ax.set_yticks(range(len(differences)), list(differences))
    ax.set_ylim(len(differences) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.set(xlabel=xlabel, title=title)
    return ax


def trade_off(
    rows: pd.DataFrame,
    ax: Axes,
    title: str,
    allowed: float = claims.ALLOWED,
    inferior: float = claims.INFERIOR,
) -> Axes:
    """Flip rate over clean accuracy in the shortcut test: one marker per method.

    Crosses are 95 % t intervals over seeds. In the shaded corner a method keeps the shortcut out by
    the means: less than `allowed` more flips than training from scratch, and less than `inferior`
    below fine-tuning's accuracy on clean images.

    Args:
        rows: tidy rows of one number of target images, "scratch" and "ft" among their methods.
        ax: to draw on.
        title: of the axes.
        allowed: additional flips, as a fraction.
        inferior: lacking accuracy, as a fraction.
    """
    warn_if_mixed(rows)
    final = rows[(rows.epoch == FINAL) & rows.method.isin(list(METHODS))]
    for method in [m for m in METHODS if m in set(final.method)]:
        accuracy = _interval(final, method, "clean_accuracy")
        _cross(accuracy, _interval(final, method, "flip_rate"), ax, method)
    left, right = (float(x) for x in ax.dataLim.intervalx)  # with the intervals
    left = max(0.0, left) - 0.03
    right = min(1.0, right) + 0.03
    most_flips = _interval(final, "scratch", "flip_rate").mean + allowed
    ax.fill_between(
        [_interval(final, "ft", "clean_accuracy").mean - inferior, right],
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
        _write(ax, i, j, f"{round(100 * value)}", dark)
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
        color=_ACCENT,
        linewidth=2.5,
        label="linear regression on the same data",
    )
    ax.set_yticks(rows, list(values.index))
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set(xlabel=xlabel, title=title)
    return ax


# --- images ------------------------------------------------------------------------------------


def images(task: Task, ax: Axes, per_class: int = 5, split: str = "train") -> Axes:
    """A sheet of a task's images: one row per class, its name at the left.

    Args:
        task: of images.
        ax: to draw on.
        per_class: images per row.
        split: "train" or "val".
    """
    x = getattr(task, f"x_{split}")
    y = getattr(task, f"y_{split}")
    rows = []
    for k in range(task.outputs):
        first = (y == k).nonzero()[:per_class, 0]
        rows.append(np.concatenate(list(x[first].permute(0, 2, 3, 1).numpy()), axis=1))
    ax.imshow(np.concatenate(rows), interpolation="nearest")
    centres = [task.side * (k + 0.5) for k in range(task.outputs)]
    ax.set_yticks(centres, [_spaced(name) for name in task.class_names])
    ax.set_xticks([])
    _without_frame(ax)
    title = DATASETS[task.dataset].title if task.dataset in DATASETS else task.dataset
    ax.set_title(f"{task.name} ({title})")
    return ax


def image_rows(
    images: np.ndarray, names: Sequence[str], columns: Sequence[str], ax: Axes, title: str
) -> Axes:
    """A sheet of images with a name at each row and below each column.

    Args:
        images: (r, c, h, w, 3), 0 ... 1.
        names: of the r rows.
        columns: of the c columns.
        ax: to draw on.
        title: of the axes.
    """
    count, across, side = images.shape[:3]
    gap = ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0))  # a white line between neighbours
    framed = np.pad(images, gap, constant_values=1)
    rows = [np.concatenate(list(row), axis=1) for row in framed]
    ax.imshow(np.concatenate(rows), interpolation="nearest")
    ax.set_yticks([(side + 1) * (k + 0.5) for k in range(count)], list(names))
    ax.set_xticks([(side + 1) * (k + 0.5) for k in range(across)], list(columns))
    _without_frame(ax)
    ax.set_title(title)
    return ax


def confusion(
    counts: np.ndarray, names: Sequence[str], columns: Sequence[str], ax: Axes, title: str
) -> Axes:
    """Counts as a heat map: true classes in rows, predicted labels in columns.

    The grey value is the share of a row's images.

    Args:
        counts: (k, k) images.
        names: of the k true classes.
        columns: of the k labels, by the source's class.
        ax: to draw on.
        title: of the axes.
    """
    shares = counts / counts.sum(1, keepdims=True)
    ax.imshow(shares, cmap="Greys", vmin=0, vmax=1)
    for i, j in np.ndindex(counts.shape):
        dark = shares[i, j] > 0.5
        _write(ax, i, j, str(int(counts[i, j])), dark)
    ax.set_yticks(range(len(names)), [_spaced(name) for name in names])
    ax.set_xticks(range(len(columns)), [_spaced(n) for n in columns], rotation=35, ha="right")
    ax.grid(visible=False)
    ax.set(xlabel="predicted: label of the source class", ylabel="true class", title=title)
    return ax


def predictions(
    images: np.ndarray,
    truth: Sequence[str],
    given: Mapping[str, tuple[Sequence[str], Sequence[str]]],
    ax: Axes,
    title: str,
) -> Axes:
    """Images without and with the shortcut, and below them what each method predicts.

    A prediction that flips is written as "before → after", in bold.

    Args:
        images: (2, c, h, w, 3), 0 ... 1: without, and with the shortcut.
        truth: names of the c images' classes.
        given: method -> the c predicted names without, and with the shortcut.
        ax: to draw on.
        title: of the axes.
    """
    image_rows(images, ["clean", "with the ball"], [""] * len(truth), ax, title)
    lines = {"truth": (truth, truth)} | {tables.label(m): names for m, names in given.items()}
    colours = ["black", *(colour(method) for method in given)]
    for k, ((name, (before, after)), shade) in enumerate(zip(lines.items(), colours, strict=True)):
        where: dict[str, Any] = {"transform": ax.get_xaxis_transform(), "va": "top"}
        height = -0.04 - 0.13 * k  # in heights of the sheet
        ax.text(-1.5, height, name, color=shade, ha="right", **where)
        for x, a, b in zip(ax.get_xticks(), before, after, strict=True):
            text = _spaced(a) if a == b else f"{_spaced(a)} → {_spaced(b)}"
            weight = "normal" if a == b else "bold"
            ax.text(x, height, text, color=shade, weight=weight, ha="center", **where)
    return ax


def flips(flipped: Sequence[bool], method: str, ax: Axes) -> Axes:
    """One dot per image, filled where the shortcut flips the prediction.

    Args:
        flipped: one value per image, in the order of the images, so that methods compare.
        method: whose predictions these are.
        ax: to draw on.
    """
    hit = np.asarray(flipped, dtype=bool)
    down, across = np.divmod(np.arange(len(hit)), np.ceil(np.sqrt(len(hit))))
    ax.scatter(across[~hit], down[~hit], s=24, color="#DDDDDD", linewidth=0)
    ax.scatter(across[hit], down[hit], s=24, color=colour(method), linewidth=0)
    ax.invert_yaxis()
    ax.set_aspect("equal")
    ax.axis("off")
    ax.set_title(f"{tables.label(method)}: {hit.sum()} of {len(hit)}")
    return ax


# --- features of the synthetic task ------------------------------------------------------------


def feature_ranges(x: np.ndarray, ax: Axes, title: str) -> Axes:
    """Mean and standard deviation of each synthetic feature, coloured by its role for the target.

    Args:
        x: (n, 50) raw features.
        ax: to draw on.
        title: of the axes.
    """
    features = np.arange(x.shape[1])
    mean = x.mean(0)
    spread = x.std(0)
    for name, part in FEATURES.items():
        shape, of_group = _FEATURE_STYLES[name]
        ax.errorbar(
            features[part],
            mean[part],
            spread[part],
            fmt=shape,
            color=of_group,
            markersize=4,
            linewidth=1.2,
            label=name,
        )
    ax.set(xlabel="feature", ylabel="mean ± standard deviation (raw units)", title=title)
    ax.set_ylim(top=ax.get_ylim()[1] + 4)  # room for the legend
    ax.legend(loc="upper center", ncols=3, fontsize=9)
    return ax


def feature_weights(
    weights: Mapping[str, np.ndarray],
    ax: Axes,
    title: str,
    ylabel: str = "mean |LIME weight|",
) -> Axes:
    """Bars over features, one colour per model: means over explained points.

    Strokes are 1.96 standard errors over the points.

    Args:
        weights: model -> (n, d) weights, one row per explained point.
        ax: to draw on.
        title: of the axes.
        ylabel: name and unit of the weights.
    """
    width = 0.8 / len(weights)
    for k, (method, values) in enumerate(weights.items()):
        size = np.abs(values)
        ax.bar(
            np.arange(values.shape[1]) + (k - (len(weights) - 1) / 2) * width,
            size.mean(0),
            width,
            color=colour(method),
            alpha=0.85,
            label=tables.label(method),
            yerr=_NORMAL * size.std(0, ddof=1) / np.sqrt(len(size)),
            error_kw={"linewidth": 0.7, "ecolor": "black"},
        )
    ax.set(xlabel="feature", ylabel=ylabel, title=title)
    ax.grid(axis="x", visible=False)
    return ax


def feature_profile(sizes: Mapping[str, np.ndarray], ax: Axes, ylabel: str, title: str) -> Axes:
    """One value per feature, one marker per model.

    Args:
        sizes: model -> (d,) values.
        ax: to draw on.
        ylabel: name and unit of the values.
        title: of the axes.
    """
    for method, values in sizes.items():
        ax.plot(
            np.arange(len(values)),
            values,
            linestyle="",
            marker=marker(method),
            color=colour(method),
            markersize=4.5,
            alpha=0.85,
            label=tables.label(method),
        )
    ax.set(xlabel="feature", ylabel=ylabel, title=title)
    ax.set_ylim(bottom=0)
    return ax


def agreement(
    effect: np.ndarray, weight: np.ndarray, ax: Axes, title: str, colour: str, spurious: int = 20
) -> Axes:
    """Two measures of each feature against each other, with the line of equality.

    Args:
        effect: (d,) first measure, on the horizontal axis.
        weight: (d,) second measure.
        ax: to draw on.
        title: of the axes.
        colour: of the markers.
        spurious: how many of the first features are spurious; their markers are hollow.
    """
    others = f"{spurious} to {len(effect) - 1}"
    first = f"0 to {spurious - 1} (spurious)"
    filled: dict[str, Any] = {"linestyle": "", "marker": "o", "color": colour}
    ax.plot(effect[spurious:], weight[spurious:], markersize=4.5, alpha=0.7, label=others, **filled)
    hollow: dict[str, Any] = filled | {"markerfacecolor": "none"}
    ax.plot(effect[:spurious], weight[:spurious], markersize=5.5, label=first, **hollow)
    top = 1.08 * max(effect.max(), weight.max())
    ax.plot([0, top], [0, top], color="grey", linewidth=1, linestyle=":", label="equal")
    ax.set(xlim=(0, top), ylim=(0, top), title=title)
    return ax


# --- distances between tasks -------------------------------------------------------------------


def distances(matrix: Matrix, unit: str, ax: Axes, title: str, digits: int = 2) -> Axes:
    """A matrix of distances as a heat map: sources in rows, targets in columns.

    Below each mean stands half of its 95 % interval, where there is one. The grey values reach from
    the smallest to the largest distance, so that they show the order of the entries.

    Args:
        matrix: of one kind.
        unit: beside the colour bar.
        ax: to draw on.
        title: of the axes.
        digits: after the decimal point.
    """
    shown = np.where(matrix.off_diagonal, matrix.mean, np.nan)
    low = np.nanmin(shown)
    span = (np.nanmax(shown) - low) or 1.0
    greys = Normalize(low - 0.25 * span, low + 1.25 * span)  # light enough to read what is written
    image = ax.imshow(shown, cmap="Greys", norm=greys)
    for i, j in np.argwhere(matrix.off_diagonal):
        half = (matrix.high[i, j] - matrix.low[i, j]) / 2
        below = "" if np.isnan(half) else f"\n± {half:.{digits}f}"
        dark = greys(shown[i, j]) > 0.55
        _write(ax, i, j, f"{shown[i, j]:.{digits}f}{below}", dark)
    ax.set_xticks(range(len(matrix.names)), matrix.names, rotation=35, ha="right")
    ax.set_yticks(range(len(matrix.names)), matrix.names)
    ax.grid(visible=False)
    ax.set(xlabel="target", ylabel="source", title=title)
    ax.figure.colorbar(image, ax=ax, label=unit, shrink=0.8)
    return ax


def places(points: np.ndarray, names: Sequence[str], unit: str, ax: Axes, title: str) -> Axes:
    """Tasks as named points in a plane.

    Args:
        points: (k, 2) places whose distances stand for those between the tasks.
        names: of the k tasks.
        unit: of both axes.
        ax: to draw on.
        title: of the axes.
    """
    ax.plot(points[:, 0], points[:, 1], "o", color=BACKBONE_COLOUR)
    middle = (points[:, 0].min() + points[:, 0].max()) / 2
    for name, place in zip(names, points, strict=True):
        side = "right" if place[0] > middle else "left"  # names stay between the outer points
        offset = (-5 if side == "right" else 5, 4)
        ax.annotate(name, place, offset, textcoords="offset points", fontsize=9, ha=side)
    ax.set_aspect("equal", adjustable="datalim")
    ax.margins(0.25)
    ax.set(xlabel=unit, ylabel=unit, title=title)
    return ax


def by_target(matrix: Matrix, accuracies: np.ndarray, ax: Axes, xlabel: str, title: str) -> Axes:
    """Accuracy after transfer over distance: one point per ordered pair, one colour per target.

    Args:
        matrix: of the distances.
        accuracies: (k (k - 1),), in the order of `Matrix.pairs`.
        ax: to draw on.
        xlabel: the distance's name and unit.
        title: of the axes.
    """
    k = len(matrix.names)
    columns = np.tile(np.arange(k), (k, 1))
    targets = columns[matrix.off_diagonal]
    colours = plt.get_cmap("viridis")(np.arange(k) / k)
    for column, name in enumerate(matrix.names):
        ax.plot(
            matrix.pairs[targets == column],
            accuracies[targets == column],
            linestyle="",
            marker="osD^v"[column % 5],
            color=colours[column],
            label=f"to {name}",
        )
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.set(xlabel=xlabel, title=title)
    return ax


def couplings(
    matrices: Sequence[np.ndarray], titles: Sequence[str], axes: Sequence[Axes]
) -> Sequence[Axes]:
    """Couplings side by side on one scale, on which 1 is an even share of the mass.

    Args:
        matrices: (a, b) masses each: source examples in rows, target examples in columns.
        titles: of the axes.
        axes: to draw on, one per matrix.
    """
    shares = [matrix / matrix.mean() for matrix in matrices]
    top = max(share.max() for share in shares)
    for share, title, ax in zip(shares, titles, axes, strict=True):
        image = ax.imshow(share, cmap="Greys", vmin=0, vmax=top)
        ax.grid(visible=False)
        ylabel = "source example" if ax is axes[0] else ""
        ax.set(xlabel="target example", ylabel=ylabel, title=title, xticks=[], yticks=[])
    axes[-1].figure.colorbar(image, ax=list(axes), label="mass, in even shares", shrink=0.8)
    return axes


def trajectories(paths: Mapping[str, np.ndarray], ax: Axes, title: str, unit: str) -> Axes:
    """Paths in a plane, one per method: a ring where they start, a filled marker where each ends.

    Args:
        paths: method -> (t, 2) places; all start at one place, the backbone's.
        ax: to draw on.
        title: of the axes.
        unit: of both axes.
    """
    for method, path in paths.items():
        x = path[:, 0]
        y = path[:, 1]
        ax.plot(x, y, "-", color=colour(method), linewidth=1.2)
        ax.plot(x[1:-1], y[1:-1], ".", color=colour(method), markersize=4)
        ax.plot(
            x[-1],
            y[-1],
            linestyle="",
            marker=marker(method),
            color=colour(method),
            markersize=9,
            label=tables.label(method),
        )
    start = next(iter(paths.values()))[0]
    ring: dict[str, Any] = {"markerfacecolor": "none", "markersize": 10, "color": BACKBONE_COLOUR}
    ax.plot(start[0], start[1], "o", label=tables.label(BACKBONE), **ring)
    ax.set_aspect("equal", adjustable="datalim")
    ax.set(xlabel=unit, ylabel=unit, title=title)
    ax.legend(fontsize=9)
    return ax


# --- helpers -----------------------------------------------------------------------------------


def _check(method: str) -> None:
    """Raises ValueError for a name that has no colour and marker."""
    if method != BACKBONE and method not in METHODS:
        names = ", ".join((BACKBONE, *METHODS))
        raise ValueError(f"method must be one of {names}; got {method!r}")


def _bar(
    values: Sequence[float], x: float, width: float, ax: Axes, method: str, labelled: bool
) -> None:
    """One bar with its interval and its runs."""
    interval = mean_interval(values)
    name = tables.label(method) if labelled else None
    ax.bar(x, interval.mean, width * 0.92, color=colour(method), alpha=0.75, label=name)
    if interval.n > 1:
        ax.plot([x, x], [interval.low, interval.high], color="black", linewidth=1.2)
    ax.plot(np.full(len(values), x), values, ".", color="black", **_SINGLE)


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


def _write(ax: Axes, row: int, column: int, text: str, dark: bool) -> None:
    """A text in a cell of a heat map, white where the cell is dark."""
    shade = "white" if dark else "black"
    ax.text(column, row, text, ha="center", va="center", fontsize=8.5, color=shade)


def _without_frame(ax: Axes) -> None:
    """No grid, spines or tick marks, as around a sheet of images."""
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)


def _spaced(name: str) -> str:
    return name.replace("_", " ")
