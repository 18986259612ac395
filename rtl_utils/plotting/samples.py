"""Figures of images, and of what networks say of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from rtl_utils import tables
from rtl_utils.data import DATASETS, Task
from rtl_utils.plotting.style import colour, spaced, without_frame, write


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
    ax.set_yticks(centres, [spaced(name) for name in task.class_names])
    ax.set_xticks([])
    without_frame(ax)
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
    without_frame(ax)
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
        write(ax, i, j, str(int(counts[i, j])), dark)
    ax.set_yticks(range(len(names)), [spaced(name) for name in names])
    ax.set_xticks(range(len(columns)), [spaced(n) for n in columns], rotation=35, ha="right")
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
            text = spaced(a) if a == b else f"{spaced(a)} → {spaced(b)}"
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
