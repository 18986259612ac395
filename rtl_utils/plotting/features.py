"""Figures of the features of the synthetic task."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from rtl_utils import tables
from rtl_utils.data.synthetic import FEATURES
from rtl_utils.plotting.style import colour, marker

_NORMAL = 1.96  # standard errors on either side of a mean that hold 95 % of a normal distribution
# Marker and colour of features of the synthetic task by what they are for the target.
_FEATURE_STYLES = {
    "spurious": ("o", "#D55E00"),
    "shared": ("s", "#009E73"),
    "target only": ("^", "#7A5195"),
}


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
