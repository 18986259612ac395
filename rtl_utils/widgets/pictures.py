"""Scenes as pictures: what a panel shows where nothing can be moved, as on GitHub."""

import io
from collections.abc import Callable
from functools import singledispatch
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from rtl_utils.widgets.scenes import Bars, Chart, Curves, Dots, Heat, Image, Scene

_GREYS = LinearSegmentedColormap.from_list("rtl", ["#ffffff", "#1c1c1c"])  # those of charts.js
_WIDTH = 10.0  # inches of a full row
_HEIGHT = 2.5
_SHARE = {Image: 1.1, Bars: 1.65, Heat: 2.6, Curves: 3.6, Dots: 3.6}  # inches of one chart


def picture(scene: Scene, title: str) -> bytes:
    """The scene as a PNG.

    Args:
        scene: its charts; as many beside each other as fit.
        title: above them.
    """
    rows = _rows(scene)
    figure = Figure(figsize=(_WIDTH, 0.4 + _HEIGHT * len(rows)), dpi=100, layout="constrained")
    figure.suptitle(title, fontsize=11)
    parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for part, charts in zip(parts, rows, strict=True):
        widths = [_inches(chart) for chart in charts]
        left_over = max(0.0, _WIDTH - sum(widths))
        columns = len(charts) + bool(left_over)
        ratios = [*widths, left_over] if left_over else widths
        axes = part.subplots(1, columns, width_ratios=ratios, squeeze=False)[0]
        for ax, chart in zip(axes, charts, strict=False):
            ax.set_title(chart.title, fontsize=9, loc="left", wrap=True)
            ax.set_axisbelow(True)
            _draw(chart, ax)
        for ax in axes[len(charts) :]:
            ax.set_axis_off()
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _inches(chart: Chart) -> float:
    if isinstance(chart, Bars) and len(chart.values) > 10:
        return 5.0
    return _SHARE[type(chart)]


def _rows(scene: Scene) -> list[list[Chart]]:
    rows: list[list[Chart]] = [[]]
    for chart in scene:
        if rows[-1] and sum(map(_inches, rows[-1])) + _inches(chart) > _WIDTH:
            rows.append([])
        rows[-1].append(chart)
    return rows


@singledispatch
def _draw(chart: Chart, ax: Axes) -> None:
    raise TypeError(f"no picture of a {type(chart).__name__}")


@_draw.register
def _(chart: Image, ax: Axes) -> None:
    ax.imshow(chart.pixels, interpolation="nearest")
    ax.set_axis_off()


@_draw.register
def _(chart: Bars, ax: Axes) -> None:
    n = len(chart.values)
    colours = [chart.colours[k % len(chart.colours)] for k in range(n)]
    ax.bar(range(n), chart.values, color=colours)
    ax.set(ylim=(chart.low, chart.high), ylabel=chart.ylabel)
    shown = [(k, text) for k, text in enumerate(chart.labels) if text]
    _ticks(ax.set_xticks, shown)
    if any(len(text) > 4 for _, text in shown):
        ax.tick_params(axis="x", rotation=45)


@_draw.register
def _(chart: Heat, ax: Axes) -> None:
    limits: dict[str, Any] = {"vmin": chart.low, "vmax": chart.high}
    ax.imshow(chart.values, cmap=_GREYS, aspect="auto", **limits)
    _ticks(ax.set_xticks, chart.xticks)
    _ticks(ax.set_yticks, chart.yticks)
    ax.set(xlabel=chart.xlabel, ylabel=chart.ylabel)
    for cell, text in zip(np.ndindex(chart.values.shape), chart.texts or (), strict=False):
        share = (chart.values[cell] - chart.low) / (chart.high - chart.low)
        colour = "white" if share > 0.5 else "black"
        ax.text(cell[1], cell[0], text, ha="center", va="center", color=colour, fontsize=8)
    if chart.cursor is not None:
        row, column = chart.cursor
        style: dict[str, Any] = {"fill": False, "edgecolor": "#D55E00", "linewidth": 2}
        ax.add_patch(_rectangle((column - 0.5, row - 0.5), **style))


@_draw.register
def _(chart: Curves, ax: Axes) -> None:
    for line in chart.lines:
        marker = "o" if len(line.x) == 1 else ""
        style = "--" if line.dashed else "-"
        ax.plot(line.x, line.y, style, marker=marker, color=line.colour, label=line.name)
    if chart.cursor is not None:
        ax.axvline(chart.cursor, color="#1c1c1c", linewidth=1)
    _level(chart, ax)
    ax.set(xlim=chart.xlim, ylim=chart.ylim, xlabel=chart.xlabel, ylabel=chart.ylabel)
    if chart.lines:
        ax.legend(fontsize=8)


@_draw.register
def _(chart: Dots, ax: Axes) -> None:
    for k, group in enumerate(chart.groups):
        n = len(group.values)
        aside = np.linspace(-0.2, 0.2, n) if n > 1 else np.zeros(n)
        ax.plot(k + aside, group.values, "o", color=group.colour, markersize=4)
        if group.interval is not None:
            low, mean, high = group.interval
            ax.plot([k + 0.32] * 2, [low, high], color="#1c1c1c")
            ax.plot(k + 0.32, mean, "o", color="#1c1c1c")
    _level(chart, ax)
    _ticks(ax.set_xticks, [(k, group.name) for k, group in enumerate(chart.groups)])
    ax.set(ylim=chart.ylim, ylabel=chart.ylabel, xlim=(-0.5, len(chart.groups) - 0.5))


def _rectangle(corner: tuple[float, float], **style: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, 1, 1, **style)


def _level(chart: Curves | Dots, ax: Axes) -> None:
    if chart.level is not None:
        ax.axhline(chart.level[0], color="grey", linestyle="--", linewidth=1)


def _ticks(place: Callable[..., object], found: Any) -> None:
    place([value for value, _ in found], [text for _, text in found], fontsize=8)
