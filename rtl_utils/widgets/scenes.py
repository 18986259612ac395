"""Scenes: what a panel shows, as lists of charts. The canvas draws them, and so does Matplotlib.

`static/charts.js` draws the same charts in a browser, for the panels of notebooks and for the
explorer; `pictures` draws them where nothing can be moved.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

Tick = tuple[float, str]  # where, and what is written there


@dataclass(frozen=True)
class Chart:
    """One chart of a scene.

    Args:
        title: says what is shown.
    """

    title: str

    def state(self) -> dict[str, Any]:
        """Its kind and fields as JavaScript takes them: arrays are bytes."""
        return {"kind": type(self).__name__.lower()} | _fields(self)


@dataclass(frozen=True)
class Image(Chart):
    """A small picture.

    Args:
        pixels: (height, width, 3) uint8.
    """

    pixels: np.ndarray

    def state(self) -> dict[str, Any]:
        """Height, width and bytes."""
        height, width, _ = self.pixels.shape
        return super().state() | {"height": height, "width": width}


@dataclass(frozen=True)
class Bars(Chart):
    """One bar per value.

    Args:
        labels: below the bars; "" for none.
        values: (n,) heights.
        colours: of the bars; used again from the start where there are fewer.
        low: lowest value of the axis.
        high: highest value of the axis.
        ylabel: name and unit of the values.
    """

    labels: Sequence[str]
    values: np.ndarray
    colours: Sequence[str]
    low: float = 0.0
    high: float = 1.0
    ylabel: str = "probability"


@dataclass(frozen=True)
class Heat(Chart):
    """A map: darker is more.

    Args:
        values: (rows, columns); the first row is on top.
        low: value that is white.
        high: value that is black.
        xlabel: of the columns.
        ylabel: of the rows.
        xticks: (column, text).
        yticks: (row, text).
        cursor: (row, column) of the cell that is framed; None for none.
        texts: what is written into the cells, row by row; None for nothing.
    """

    values: np.ndarray
    low: float
    high: float
    xlabel: str = ""
    ylabel: str = ""
    xticks: Sequence[Tick] = ()
    yticks: Sequence[Tick] = ()
    cursor: tuple[int, int] | None = None
    texts: Sequence[str] | None = None

    def state(self) -> dict[str, Any]:
        """Rows, columns and values."""
        rows, columns = self.values.shape
        return super().state() | {"rows": rows, "columns": columns}


@dataclass(frozen=True)
class Line:
    """One curve.

    Args:
        name: in the legend.
        x: (n,) places.
        y: (n,) values; NaN leaves a gap.
        colour: of the line.
        dashed: whether it is.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    colour: str
    dashed: bool = False


@dataclass(frozen=True)
class Curves(Chart):
    """Lines over a common axis.

    Args:
        lines: of the chart.
        xlabel: name and unit.
        ylabel: name and unit.
        xlim: ends of the axis.
        ylim: ends of the axis.
        cursor: place of a vertical line; None for none.
        level: height of a dashed line, such as chance, and its name; None for none.
    """

    lines: Sequence[Line]
    xlabel: str
    ylabel: str
    xlim: tuple[float, float]
    ylim: tuple[float, float] = (0.0, 1.0)
    cursor: float | None = None
    level: Tick | None = None


@dataclass(frozen=True)
class Group:
    """A column of dots.

    Args:
        name: below the dots.
        values: (n,) one dot each.
        colour: of the dots.
        interval: (low, mean, high), drawn beside them; None for none.
    """

    name: str
    values: np.ndarray
    colour: str
    interval: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Dots(Chart):
    """Single values, such as one per seed, with the interval of their mean.

    Args:
        groups: from left to right.
        ylabel: name and unit.
        ylim: ends of the axis.
        level: height of a dashed line, such as no difference, and its name; None for none.
    """

    groups: Sequence[Group]
    ylabel: str
    ylim: tuple[float, float]
    level: Tick | None = None


Scene = Sequence[Chart]


def _fields(record: Chart | Line | Group) -> dict[str, Any]:
    return {f.name: _plain(getattr(record, f.name)) for f in fields(record)}


def _plain(value: Any) -> Any:
    """Nested fields as dictionaries and lists, floating-point arrays as float32 bytes."""
    if isinstance(value, np.ndarray):
        if value.dtype == np.uint8:
            return np.ascontiguousarray(value).tobytes()
        return {"float32": np.ascontiguousarray(value, dtype=np.float32).tobytes()}
    if isinstance(value, Chart | Line | Group):
        return _fields(value)
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, str) or not isinstance(value, Sequence):
        return value.item() if isinstance(value, np.generic) else value
    return [_plain(part) for part in value]
