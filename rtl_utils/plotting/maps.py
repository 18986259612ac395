"""Figures of distances between tasks."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator

from rtl_utils import tables
from rtl_utils.distances import Matrix
from rtl_utils.plotting.style import BACKBONE_COLOUR, colour, marker, write
from rtl_utils.runs import BACKBONE


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
        write(ax, i, j, f"{shown[i, j]:.{digits}f}{below}", dark)
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
