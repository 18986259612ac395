"""One style for all figures; the colour and marker of each method."""

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rtl_utils.methods import METHODS
from rtl_utils.runs import BACKBONE

BACKBONE_COLOUR = "#222222"
BACKBONE_MARKER = "P"
ACCENT = "#D55E00"  # of what a figure points at
SINGLE: dict[str, Any] = {"markersize": 3.5, "alpha": 0.6}  # of the dots of single values
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


def chance(ax: Axes, level: float, axis: str = "y") -> Axes:
    """Draw a dashed grey line at the level of guessing.

    Args:
        ax: to draw on.
        level: such as 1 / 5 for five classes.
        axis: that has the shares, "x" or "y".
    """
    draw = ax.axvline if axis == "x" else ax.axhline
    draw(level, color="grey", linestyle="--", linewidth=1, label="chance")
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


def _check(method: str) -> None:
    """Raises ValueError for a name that has no colour and marker."""
    if method != BACKBONE and method not in METHODS:
        names = ", ".join((BACKBONE, *METHODS))
        raise ValueError(f"method must be one of {names}; got {method!r}")


def write(ax: Axes, row: int, column: int, text: str, dark: bool) -> None:
    """A text in a cell of a heat map, white where the cell is dark."""
    shade = "white" if dark else "black"
    ax.text(column, row, text, ha="center", va="center", fontsize=8.5, color=shade)


def without_frame(ax: Axes) -> None:
    """No grid, spines or tick marks, as around a sheet of images."""
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)


def spaced(name: str) -> str:
    """A name as a text writes it, without underscores."""
    return name.replace("_", " ")
