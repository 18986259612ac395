"""The pictures of docs/: figures of the exported rows in results/."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sections import (
    CONDITION_NAMES,
    MAP_SWEEPS,
    METHOD_SWEEPS,
    SYNTHETIC_SWEEP,
    capitalised,
    distance_rows,
    kind_seeds,
    lasso_text,
    matrices_of,
    sweep_title,
    target_models,
    transfers,
)

from rtl_utils import claims, distances, paper, plotting, tables
from rtl_utils.data import DATASETS, load
from rtl_utils.tables import seed_count


def pictures() -> dict[str, Figure]:
    """File name without its ending -> figure, for the sweeps that have rows."""
    rows = distance_rows()
    found = matrices_of(rows)
    matrices = {kind: found[kind] for kind in paper.GAO_DISTANCES if kind in found}
    methods = {name: trade_offs(name) for name in METHOD_SWEEPS if not tables.stored(name).empty}
    figures = {**methods, **learning_rate_maps()}
    if len(tables.stored("digits")):
        figures["flip_rate"] = flip_rates()
    if len(tables.stored(SYNTHETIC_SWEEP)):
        figures["synthetic"] = restored_features()
    if len(matrices) > 1:
        figures["distances"] = heat_maps(matrices, rows)
        figures["places"] = places(matrices, rows)
        figures["accuracy_over_distance"] = scatters(matrices, rows)
    return figures


def restored_features() -> Figure:
    """Figure 2a of the paper: losses when the original features come back, every run drawn."""
    models = target_models(tables.in_order(tables.stored(SYNTHETIC_SWEEP)))
    figure, axes = plt.subplots(1, len(models), figsize=(6 * len(models), 4.2), sharey=True)
    names = {metric: column.heading for metric, column in tables.VIEWS.items()}
    for ax, (l1, rows) in zip(np.atleast_1d(axes), models.items(), strict=True):
        title = f"{capitalised(lasso_text(l1))} ({seed_count(rows)})"
        plotting.slopes(rows, names, ax, "mean squared error", title)
    plotting.legend_below(figure, np.atleast_1d(axes)[-1])
    return figure


def flip_rates() -> Figure:
    """The README's picture: what the shortcut does at test time, over the number of images."""
    found = tables.in_order(tables.shortcut_at_test(transfers(tables.stored("digits"))))
    rows = found[found.method != tables.BEFORE]
    task = load("digits", "digits-5-9", seed=0)
    everything = round(len(task.y_train) / task.outputs)
    data = DATASETS["digits"].title
    epochs = rows.groupby(rows.n_train.fillna(np.inf)).epochs
    # lines of one panel show the same seeds, which its title counts
    by = ["n_train", "method"]
    short = tables.shared_seeds(rows[rows.epochs == epochs.transform("min")], by)
    long = tables.shared_seeds(rows[rows.epochs == epochs.transform("max")], by)
    panels = {"equal epochs": short}
    if not short.run.isin(long.run).all():
        panels["equal steps"] = long
    figure, axes = plt.subplots(1, len(panels) + 1, figsize=(5.2 * (len(panels) + 1), 4.2))
    for ax, (name, part) in zip(axes, panels.items(), strict=False):
        title = f"Flip rate, {name} ({data}, {seed_count(part)})"
        plotting.by_size(part, "flip_rate", ax, "flip rate", title, everything)
    plotting.by_size(
        long,
        "ball_share",
        axes[-1],
        "predictions of the shortcut's class",
        f"Shortcut on every test image ({data}, {seed_count(long)})",
        everything,
    )
    plotting.chance(axes[-1], claims.CHANCE)
    plotting.legend_below(figure, axes[-1])
    return figure


def trade_offs(name: str) -> Figure:
    """Flip rate over clean accuracy of every method, few images at the left, all at the right."""
    rows = tables.shortcut_at_test(tables.stored(name))
    parts = tables.by_images(rows[rows.method != tables.BEFORE])
    figure, axes = plt.subplots(1, len(parts), figsize=(6 * len(parts), 7), sharey=True)
    for ax, (size, part) in zip(np.atleast_1d(axes), parts.items(), strict=True):
        plotting.trade_off(part, ax, capitalised(tables.images_text(size)))
        ax.label_outer()
    figure.suptitle(f"Shortcut test of every method ({sweep_title(name)}, {seed_count(rows)})")
    handles, labels = np.atleast_1d(axes)[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9)
    return figure


def learning_rate_maps() -> dict[str, Figure]:
    """One figure per sweep and condition: accuracy over learning rate and kind of statistics."""
    figures = {}
    for name in MAP_SWEEPS:
        rows = tables.stored(name)
        if rows.empty:
            continue
        found = claims.map_rows(rows)
        for condition, part in found.groupby("condition", sort=False):
            figures[f"{name}-{CONDITION_NAMES[str(condition)]}"] = learning_rate_map(part)
    return figures


def learning_rate_map(rows: pd.DataFrame) -> Figure:
    """FT, UT and their difference: a row of heat maps per network and momentum."""
    settings = list(rows.groupby(["width", "momentum"], sort=True))
    accuracy = rows[rows.metric == "val_accuracy"]
    title = DATASETS[rows.dataset.iloc[0]].title
    figure, axes = plt.subplots(
        len(settings), 3, figsize=(13, 2.4 * len(settings)), squeeze=False, sharey=True
    )
    for line, ((width, momentum), part) in zip(axes, settings, strict=True):
        chosen = accuracy.loc[accuracy.index.intersection(part.index)]
        table = chosen.pivot_table(
            index="statistics", columns=["method", "lr"], values="value", aggfunc="mean"
        )
        table = table.reindex(
            [state for state in ("updated", "frozen", "none") if state in table.index]
        )
        of_ft = table["ft"].rename_axis(columns="learning rate")
        of_ut = table["ut"].rename_axis(columns="learning rate")
        where = f"{width}, momentum {momentum:g}"
        plotting.cells(of_ft, line[0], f"FT, {where}", (0, 1))
        plotting.cells(of_ut, line[1], f"UT, {where}", (0, 1))
        plotting.cells(of_ut - of_ft, line[2], f"UT - FT, {where}", (-0.7, 0.7), "PuOr")
        for ax in line:
            ax.label_outer()
    figure.suptitle(f"Accuracy, % ({title}, {rows.condition.iloc[0]}; mean of {seed_count(rows)})")
    return figure


def heat_maps(matrices: Mapping[str, distances.Matrix], rows: pd.DataFrame) -> Figure:
    """Our matrices above those of Gao & Chaudhari."""
    figure, axes = plt.subplots(2, len(matrices), figsize=(16, 9.4))
    for column, (kind, ours) in zip(axes.T, matrices.items(), strict=True):
        record = distances.KINDS[kind]
        digits = 0 if kind == "fine-tuning" else 2
        published = np.array(paper.GAO_DISTANCES[kind], dtype=float)
        nothing = np.full(published.shape, np.nan)
        theirs = distances.Matrix(kind, ours.names, published, nothing, nothing)
        title = f"{capitalised(record.title)} (CIFAR-100, {kind_seeds(kind, rows)})"
        plotting.distances(ours, record.unit, column[0], title, digits)
        plotting.distances(theirs, "their unit", column[1], "Gao & Chaudhari (CIFAR-100)", digits)
    return figure


def places(matrices: Mapping[str, distances.Matrix], rows: pd.DataFrame) -> Figure:
    """The tasks as places in a plane, by each distance."""
    figure, axes = plt.subplots(1, len(matrices), figsize=(14, 4.4))
    for ax, (kind, matrix) in zip(axes, matrices.items(), strict=True):
        record = distances.KINDS[kind]
        title = f"{capitalised(record.title)} (CIFAR-100, {kind_seeds(kind, rows)})"
        points = distances.embedding(matrix)
        plotting.places(points, matrix.names, record.unit, ax, title)
    return figure


def scatters(matrices: Mapping[str, distances.Matrix], rows: pd.DataFrame) -> Figure:
    """Accuracy after transfer over each distance."""
    figure, axes = plt.subplots(1, len(matrices), figsize=(14, 4.4), sharey=True)
    for ax, (kind, matrix) in zip(axes, matrices.items(), strict=True):
        record = distances.KINDS[kind]
        accuracy = distances.accuracies(rows, matrix.names, record.method)
        title = f"{capitalised(tables.label(record.method))} (CIFAR-100, {kind_seeds(kind, rows)})"
        plotting.by_target(matrix, accuracy, ax, f"{record.title}, {record.unit}", title)
    axes[0].set_ylabel("validation accuracy after transfer")
    plotting.legend_below(figure, axes[0])
    return figure
