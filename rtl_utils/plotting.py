"""Every figure of the course: functions that take data and an `Axes` and return the `Axes`. One style, one colour a method."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from rtl_utils.methods import METHODS
from rtl_utils.statistics import mean_interval
from rtl_utils.tasks import Task

TITLES = {"synthetic": "synthetic task", "digits": "cluttered digits", "cifar100": "CIFAR-100"}  # data sets as figures write them

# Okabe & Ito's palette: told apart by colour-blind readers, the same for a method everywhere
COLOURS = {
    "scratch": "#7F7F7F", "ft": "#E69F00", "ft-still": "#D55E00", "fixed": "#CC79A7", "fixed-moving": "#8C4C73", "lp-ft": "#F0C75E",
    "mixup": "#B8860B", "l2-sp": "#A0522D", "wise-ft": "#FF9F80", "counter": "#C00000", "ut": "#0072B2", "ut-mixture": "#56B4E9",
    "ut-annealed": "#1F3A93", "ut-fade": "#6A5ACD", "ut-decorrelated": "#00B3B3", "ct": "#009E73", "ct-annealed": "#7FB800",
    "ct-iterated": "#004D38", "iso": "#7A5195", "backbone": "#222222",
}  # fmt: skip
MARKERS = {
    "scratch": "s", "ft": "o", "ft-still": "h", "fixed": "D", "fixed-moving": "d", "lp-ft": "H", "mixup": "*", "l2-sp": "p", "wise-ft": "8",
    "counter": "X", "ut": "^", "ut-mixture": "v", "ut-annealed": "<", "ut-fade": ">", "ut-decorrelated": "$\\oplus$", "ct": "$\\otimes$",
    "ct-annealed": "$\\ominus$", "ct-iterated": "$\\odot$", "iso": "$\\star$", "backbone": "P",
}  # fmt: skip


def use_style() -> None:
    """Set the course's look for all figures of this session."""
    plt.rcParams.update(
        {
            "figure.dpi": 110, "savefig.dpi": 110, "figure.constrained_layout.use": True, "font.size": 10.5, "axes.titlesize": 11,
            "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25, "legend.frameon": False,
        }
    )  # fmt: skip


def label(method: str) -> str:
    """A method's name as figures write it."""
    return METHODS[method].label if method in METHODS else method


def curves(rows: pd.DataFrame, metric: str, ax: Axes, ylabel: str, title: str) -> Axes:
    """A metric over epochs, one line a method: the mean over seeds, and a band from the lowest to the highest run.

    rows: tidy rows with columns method, seed, metric, epoch (from 0), value.
    """
    chosen = rows[(rows.metric == metric) & (rows.epoch >= 0)]
    for method, part in chosen.groupby("method", sort=False):
        table = part.pivot_table(index="epoch", columns="seed", values="value")
        ax.fill_between(table.index + 1, table.min(axis=1), table.max(axis=1), color=COLOURS[method], alpha=0.15, linewidth=0)
        ax.plot(table.index + 1, table.mean(axis=1), color=COLOURS[method], label=label(method))
    ax.set(xlabel="epoch", ylabel=ylabel, title=title)
    return ax


def bars(rows: pd.DataFrame, metrics: Mapping[str, str], ax: Axes, ylabel: str, title: str) -> Axes:
    """Final values side by side: a group a metric (name -> text under it), a bar a method, 95 % t intervals and every run as a dot."""
    methods = list(dict.fromkeys(rows.method))
    width = 0.8 / len(methods)
    for k, method in enumerate(methods):
        for g, metric in enumerate(metrics):
            values = rows[(rows.method == method) & (rows.metric == metric) & (rows.epoch < 0)].value.to_numpy()
            if not len(values):
                continue
            interval, x = mean_interval(values), g + (k - (len(methods) - 1) / 2) * width
            ax.bar(x, interval.mean, width * 0.92, color=COLOURS[method], alpha=0.75, label=label(method) if g == 0 else None)
            if interval.n > 1:
                ax.plot([x, x], [interval.low, interval.high], color="black", linewidth=1.2)
            ax.plot(np.full(len(values), x), values, ".", color="black", markersize=3.5, alpha=0.6)
    ax.set_xticks(range(len(metrics)), list(metrics.values()))
    ax.grid(axis="x", visible=False)
    ax.set(ylabel=ylabel, title=title)
    return ax


def chance(ax: Axes, level: float) -> Axes:
    """A dashed grey line where guessing lies."""
    ax.axhline(level, color="grey", linestyle="--", linewidth=1, label="chance")
    return ax


def images(task: Task, ax: Axes, per_class: int = 5, split: str = "train") -> Axes:
    """A sheet of a task's images: one row a class, its name at the left."""
    x, y = getattr(task, f"x_{split}"), getattr(task, f"y_{split}")
    rows = [np.concatenate(list(x[(y == k).nonzero()[:per_class, 0]].permute(0, 2, 3, 1).numpy()), axis=1) for k in range(task.outputs)]
    side = x.shape[-1]
    ax.imshow(np.concatenate(rows), interpolation="nearest")
    ax.set_yticks([side * (k + 0.5) for k in range(task.outputs)], [name.replace("_", " ") for name in task.class_names])
    ax.set_xticks([])
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    ax.set_title(f"{task.name} ({TITLES[task.dataset]})")
    return ax


def confusion(counts: np.ndarray, names: Sequence[str], columns: Sequence[str], ax: Axes, title: str) -> Axes:
    """(k, k) counts as a heat map: true classes down, predicted labels across, each row in shares of its images."""
    shares = counts / counts.sum(1, keepdims=True)
    ax.imshow(shares, cmap="Greys", vmin=0, vmax=1)
    for i, j in np.ndindex(*counts.shape):
        ax.text(j, i, int(counts[i, j]), ha="center", va="center", color="white" if shares[i, j] > 0.5 else "black", fontsize=9)
    ax.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    ax.set_xticks(range(len(columns)), [name.replace("_", " ") for name in columns], rotation=35, ha="right")
    ax.grid(visible=False)
    ax.set(xlabel="predicted: label of the source class", ylabel="true class", title=title)
    return ax


def feature_weights(weights: Mapping[str, np.ndarray], ax: Axes, title: str, ylabel: str = "mean |LIME weight|") -> Axes:
    """Bars over features, one colour a model: means over explained points with 95 % t intervals.

    weights: model -> (n, d) weights, one row an explained point.
    """
    width = 0.8 / len(weights)
    for k, (method, values) in enumerate(weights.items()):
        size = np.abs(values)
        mean, error = size.mean(0), 1.96 * size.std(0, ddof=1) / np.sqrt(len(size))
        x = np.arange(values.shape[1]) + (k - (len(weights) - 1) / 2) * width
        ax.bar(x, mean, width, color=COLOURS[method], alpha=0.85, label=label(method), yerr=error, error_kw={"linewidth": 0.7, "ecolor": "black"})
    ax.set(xlabel="feature", ylabel=ylabel, title=title)
    ax.grid(axis="x", visible=False)
    return ax


def by_size(rows: pd.DataFrame, metric: str, ax: Axes, ylabel: str, title: str, everything: int) -> Axes:
    """A final share over the number of target images a class: a line a method through the means, 95 % t intervals over seeds, cut at 0 and 1.

    rows: tidy rows with a column n_train; `everything` is where n_train = None (all images) stands on the axis.
    """
    chosen = rows[(rows.metric == metric) & (rows.epoch < 0)]
    methods = list(dict.fromkeys(chosen.method))
    for k, method in enumerate(methods):
        part = chosen[chosen.method == method]
        sizes = part.n_train.astype(float).fillna(everything)
        intervals = {size: mean_interval(part.value[sizes == size]) for size in sorted(set(sizes))}
        x = np.array(list(intervals)) * 1.04 ** (k - (len(methods) - 1) / 2)  # side by side, so that intervals stay readable
        ax.plot(x, [i.mean for i in intervals.values()], color=COLOURS[method], marker=MARKERS[method], label=label(method))
        ax.vlines(x, [i.low for i in intervals.values()], [i.high for i in intervals.values()], color=COLOURS[method], linewidth=1.5)
    ticks = sorted(set(chosen.n_train.astype(float).fillna(everything)))
    ax.set_xscale("log")
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.set(xlabel="target images a class", ylabel=ylabel, title=title, ylim=(-0.03, 1.03))
    return ax


def forest(differences: Mapping[str, object], ax: Axes, xlabel: str, title: str) -> Axes:
    """Differences with their intervals, one a row; the vertical line is no difference. differences: name -> statistics.Interval."""
    for row, interval in enumerate(differences.values()):
        ax.plot(interval.mean, row, "o", color="black")
        ax.plot([interval.low, interval.high], [row, row], color="black")
    ax.axvline(0, color="grey", linewidth=1)
    ax.set_yticks(range(len(differences)), list(differences))
    ax.set_ylim(len(differences) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.set(xlabel=xlabel, title=title)
    return ax


def distances(matrix, unit: str, ax: Axes, title: str, digits: int = 2) -> Axes:
    """A `distances.Matrix` as a heat map: sources down, targets across, each mean with half of its 95 % interval under it."""
    shown = np.where(np.eye(len(matrix.names), dtype=bool), np.nan, matrix.mean)
    image = ax.imshow(shown, cmap="Greys", vmin=0, vmax=1.3 * np.nanmax(shown))
    for i, j in np.argwhere(np.isfinite(shown)):
        half = (matrix.high[i, j] - matrix.low[i, j]) / 2
        text = f"{shown[i, j]:.{digits}f}" + ("" if np.isnan(half) else f"\n± {half:.{digits}f}")
        ax.text(j, i, text, ha="center", va="center", fontsize=8.5, color="white" if shown[i, j] > 0.75 * np.nanmax(shown) else "black")
    ax.set_xticks(range(len(matrix.names)), matrix.names, rotation=35, ha="right")
    ax.set_yticks(range(len(matrix.names)), matrix.names)
    ax.grid(visible=False)
    ax.set(xlabel="target", ylabel="source", title=title)
    ax.figure.colorbar(image, ax=ax, label=unit, shrink=0.8)
    return ax


def places(points: np.ndarray, names: Sequence[str], unit: str, ax: Axes, title: str) -> Axes:
    """Tasks as named points in a plane: (k, 2) places whose distances stand for those between the tasks."""
    ax.plot(*points.T, "o", color=COLOURS["backbone"])
    for name, place in zip(names, points, strict=True):
        ax.annotate(name, place, xytext=(5, 4), textcoords="offset points", fontsize=9)
    ax.set_aspect("equal", adjustable="datalim")
    ax.margins(0.25)
    ax.set(xlabel=unit, ylabel=unit, title=title)
    return ax


def couplings(matrices: Sequence[np.ndarray], titles: Sequence[str], axes: Sequence[Axes]) -> None:
    """Couplings side by side on one scale: (a, b) masses each, source examples down, target examples across, 1 being an even share."""
    shares = [matrix / matrix.mean() for matrix in matrices]
    top = max(share.max() for share in shares)
    for share, title, ax in zip(shares, titles, axes, strict=True):
        image = ax.imshow(share, cmap="Greys", vmin=0, vmax=top)
        ax.grid(visible=False)
        ax.set(xlabel="target example", ylabel="source example" if ax is axes[0] else "", title=title, xticks=[], yticks=[])
    axes[-1].figure.colorbar(image, ax=list(axes), label="mass, in even shares", shrink=0.8)


def trajectories(paths: Mapping[str, np.ndarray], ax: Axes, title: str, unit: str) -> Axes:
    """Walks in a plane, one a method: (t, 2) places, a ring where it starts and a filled marker where it ends."""
    for method, walk in paths.items():
        ax.plot(*walk.T, "-", color=COLOURS[method], linewidth=1.2)
        ax.plot(*walk[1:-1].T, ".", color=COLOURS[method], markersize=4)
        ax.plot(*walk[-1], marker=MARKERS[method], linestyle="", color=COLOURS[method], markersize=9, label=label(method))
    ax.plot(*next(iter(paths.values()))[0], "o", color=COLOURS["backbone"], markerfacecolor="none", markersize=10, label="backbone")
    ax.set_aspect("equal", adjustable="datalim")
    ax.set(xlabel=unit, ylabel=unit, title=title)
    ax.legend(fontsize=9)
    return ax


def image_rows(images: np.ndarray, names: Sequence[str], columns: Sequence[str], ax: Axes, title: str) -> Axes:
    """A sheet of images with a name at each row and under each column. images: (r, c, h, w, 3), 0 ... 1."""
    count, across, side = images.shape[:3]
    framed = np.pad(images, ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0)), constant_values=1)  # a white line between neighbours
    ax.imshow(np.concatenate([np.concatenate(list(row), axis=1) for row in framed]), interpolation="nearest")
    ax.set_yticks([(side + 1) * (k + 0.5) for k in range(count)], names)
    ax.set_xticks([(side + 1) * (k + 0.5) for k in range(across)], columns)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    ax.set_title(title)
    return ax


def by_target(matrix, accuracies: np.ndarray, ax: Axes, xlabel: str, title: str) -> Axes:
    """Accuracy after transfer over the distance of a `distances.Matrix`, one marker an ordered pair, a colour a target.

    accuracies: (k (k - 1),), in the order of `Matrix.pairs`.
    """
    targets = np.tile(np.arange(len(matrix.names)), (len(matrix.names), 1))[~np.eye(len(matrix.names), dtype=bool)]
    for k, name in enumerate(matrix.names):
        ax.plot(matrix.pairs[targets == k], accuracies[targets == k], "osD^v"[k % 5], color=plt.cm.viridis(k / len(matrix.names)), label=f"to {name}")
    ax.set(xlabel=xlabel, title=title)
    return ax


def trade_off(rows: pd.DataFrame, ax: Axes, title: str, allowed: float = 0.02) -> Axes:
    """Flips over clean accuracy under Salman's test: a marker a method, crosses of 95 % t intervals over seeds.

    rows: tidy rows of one size of data, "scratch" and "ft" among them; in the shaded corner a method keeps the shortcut out: at most `allowed`
    more flips than scratch, and no less accurate on clean images than fine-tuning.
    """
    final = rows[(rows.epoch < 0) & rows.method.isin(METHODS)]
    means = final.groupby(["method", "metric"]).value.mean()
    most, least = means["scratch", "flip_rate"] + allowed, means["ft", "clean_accuracy"]
    for method in [m for m in METHODS if m in set(final.method)]:
        part = final[final.method == method]
        x, y = (mean_interval(part.value[part.metric == metric]) for metric in ("clean_accuracy", "flip_rate"))
        ax.plot(x.mean, y.mean, linestyle="", marker=MARKERS[method], color=COLOURS[method], markersize=8, label=label(method), zorder=3)
        ax.plot([x.low, x.high], [y.mean] * 2, color=COLOURS[method], linewidth=1, alpha=0.6)
        ax.plot([x.mean] * 2, [y.low, y.high], color=COLOURS[method], linewidth=1, alpha=0.6)
    limits = means.unstack().clean_accuracy.min() - 0.05, means.unstack().clean_accuracy.max() + 0.05
    ax.fill_between([least, limits[1]], -0.03, most, color="grey", alpha=0.2, linewidth=0)
    ax.set(xlim=limits, ylim=(-0.03, 1.03), xlabel="accuracy, no ball", ylabel="predictions that the ball flips", title=title)
    return ax


def legend_below(figure: plt.Figure, ax: Axes) -> None:
    """One legend for the whole figure, under it, from the entries of one of its axes."""
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels) if len(labels) <= 5 else 3)


def feature_ranges(x: np.ndarray, ax: Axes, title: str) -> Axes:
    """Mean and standard deviation of each synthetic feature, coloured by what it is for the target. x: (n, 50) raw features."""
    groups = {"spurious": (slice(0, 20), "o", "#D55E00"), "shared": (slice(20, 30), "s", "#009E73"), "target only": (slice(30, 50), "^", "#7A5195")}
    place, mean, spread = np.arange(x.shape[1]), x.mean(0), x.std(0)
    for name, (part, marker, colour) in groups.items():
        ax.errorbar(place[part], mean[part], spread[part], fmt=marker, color=colour, markersize=4, linewidth=1.2, label=name)
    ax.set(xlabel="feature", ylabel="mean ± standard deviation (raw units)", title=title)
    ax.set_ylim(top=ax.get_ylim()[1] + 4)  # room for the legend
    ax.legend(loc="upper center", ncols=3, fontsize=9)
    return ax


def against_yardstick(values: pd.Series, yardstick: pd.Series, ax: Axes, xlabel: str, title: str) -> Axes:
    """Lying bars, one a setting, the first on top, each with its own yardstick as a vertical stroke. Both indexed by the setting's name."""
    rows = np.arange(len(values))
    ax.barh(rows, values, 0.65, color=COLOURS["backbone"], alpha=0.6, label="network")
    ax.vlines(yardstick[values.index], rows - 0.42, rows + 0.42, color="#D55E00", linewidth=2.5, label="linear regression on the same data")
    ax.set_yticks(rows, list(values.index))
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set(xlabel=xlabel, title=title)
    return ax


def feature_profile(sizes: Mapping[str, np.ndarray], ax: Axes, ylabel: str, title: str) -> Axes:
    """One marker a feature and model. sizes: model -> (d,) values."""
    for method, values in sizes.items():
        ax.plot(np.arange(len(values)), values, MARKERS[method], color=COLOURS[method], markersize=4.5, alpha=0.85, label=label(method))
    ax.set(xlabel="feature", ylabel=ylabel, title=title)
    ax.set_ylim(bottom=0)
    return ax


def agreement(effect: np.ndarray, weight: np.ndarray, ax: Axes, title: str, colour: str, spurious: int = 20) -> Axes:
    """Two measures of each feature against each other: the spurious ones (the first) hollow, the others filled, equality as a line."""
    ax.plot(effect[spurious:], weight[spurious:], "o", color=colour, markersize=4.5, alpha=0.7, label=f"{spurious} to {len(effect) - 1}")
    ax.plot(effect[:spurious], weight[:spurious], "o", color=colour, markerfacecolor="none", markersize=5.5, label=f"0 to {spurious - 1} (spurious)")
    top = 1.08 * max(effect.max(), weight.max())
    ax.plot([0, top], [0, top], color="grey", linewidth=1, linestyle=":", label="equal")
    ax.set(xlim=(0, top), ylim=(0, top), title=title)
    return ax


def slopes(rows: pd.DataFrame, metrics: Mapping[str, str], ax: Axes, ylabel: str, title: str) -> Axes:
    """Final values from one metric to the next on a log axis: a thin line a run, a thick line through the means (name -> text under it)."""
    final, place = rows[rows.epoch < 0], np.arange(len(metrics))
    for method, part in final.groupby("method", sort=False):
        table = part.pivot_table(index="seed", columns="metric", values="value")[list(metrics)]
        ax.plot(place, table.T.to_numpy(), color=COLOURS[method], linewidth=0.9, alpha=0.55)
        ax.plot(place, table.mean(), color=COLOURS[method], marker=MARKERS[method], markersize=7, linewidth=2.4, label=label(method))
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
    ax.set_xticks(place, list(metrics.values()))
    ax.margins(x=0.08)
    ax.set(ylabel=ylabel, title=title)
    return ax
