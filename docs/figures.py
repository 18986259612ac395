"""The pictures of docs/: figures of the exported rows in results/."""

import textwrap
from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from distance_page import kind_seeds
from maps import CONDITION_NAMES, MAP_SWEEPS
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from passing import PASSING_SWEEPS, answer_tables, compared, picture_of
from sections import METHOD_SWEEPS, SIZES_SWEEP, sweep_title
from synthetic import SYNTHETIC_SWEEP, target_models
from wording import ON_IMAGES, capitalised, transfers, uncapitalised

from rtl_utils import claims, distances, paper, plotting, tables
from rtl_utils.data import DATASETS
from rtl_utils.runs import BACKBONE
from rtl_utils.statistics import FEWEST
from rtl_utils.tables import seed_count

ANSWER_COLOURS = {"": "#FFFFFF", "no": "#F4C2A8", "undecided": "#ECECEC", "yes": "#A6D8BD"}
IMAGES_PER_CLASS = {"digits": 126, "cifar100": 500}  # of a target, where it has all


def pictures() -> dict[str, Figure]:
    """File name without its ending -> figure, for the sweeps that have rows."""
    rows = tables.distance_rows()
    found = distances.matrices(rows, paper.GAO_TASKS)
    matrices = {kind: found[kind] for kind in paper.GAO_DISTANCES if kind in found}
    methods = {name: trade_offs(name) for name in METHOD_SWEEPS if not tables.stored(name).empty}
    passing = {name: settings_figure(name) for name in PASSING_SWEEPS if len(tables.stored(name))}
    answers = {
        picture_of(device): answers_figure(device, table)
        for device, table in answer_tables(PASSING_SWEEPS).items()
    }
    figures = {**methods, **passing, **answers, **learning_rate_maps()}
    for dataset in ON_IMAGES:
        stored = tables.course(dataset)
        if stored.empty:
            continue
        usual = transfers(stored)
        figures[f"{dataset}-runs"] = every_run(dataset, usual)
        controls = tables.control_rows(stored)
        if len(controls):
            figures[f"{dataset}-controls"] = every_control(dataset, controls)
        before = stored[(stored.method == tables.BEFORE) & stored.source_shortcut.notna()]
        if len(before):
            figures[f"{dataset}-before"] = before_transfer(dataset, before)
        if len(tables.shortcut_at_test(usual)):
            figures[f"flip_rate-{dataset}"] = flip_rates(dataset, usual)
            if "headline" not in figures and enough_seeds(usual):
                figures["headline"] = headline(dataset, usual)
    if len(tables.stored(SIZES_SWEEP)):
        figures["sizes"] = sizes()
    if len(tables.stored(SYNTHETIC_SWEEP)):
        figures["synthetic"] = restored_features()
        figures["synthetic-runs"] = synthetic_runs()
    if len(matrices) > 1:
        figures["distances"] = heat_maps(matrices, rows)
        figures["places"] = places(matrices, rows)
        figures["accuracy_over_distance"] = scatters(matrices, rows)
    return figures


def enough_seeds(rows: pd.DataFrame) -> bool:
    """Whether every pair's shortcut test has the seeds that a verdict needs."""
    tests = tables.shortcut_at_test(rows).groupby(list(tables.PAIR)).seed.nunique()
    return bool(tests.min() >= FEWEST)


def headline(dataset: str, rows: pd.DataFrame) -> Figure:
    """Flip rates over the number of images, equal epochs: the README's picture.

    Args:
        dataset: its name.
        rows: of the transfers that were trained as usual.
    """
    pairs = _by_pair(tables.shortcut_at_test(rows))
    shown = {pair: _flip_panels(part)["equal epochs"] for pair, part in pairs.items()}
    return _over_images(dataset, shown, "flip_rate", "flip rate")


def _by_pair(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Name of each pair of tasks -> the rows of its transfers."""
    transferred = tables.in_order(rows[~rows.method.isin([tables.BEFORE, BACKBONE])])
    groups = transferred.groupby(list(tables.PAIR), sort=False)
    return {" → ".join(pair): part for pair, part in groups}


def _over_images(dataset: str, pairs: dict[str, pd.DataFrame], metric: str, ylabel: str) -> Figure:
    """A metric over the target's images per class, a panel per pair."""
    size = (max(6, 4.2 * len(pairs)), 4.2)
    figure, axes = plt.subplots(1, len(pairs), figsize=size, squeeze=False, sharey=True)
    for ax, (pair, part) in zip(axes[0], pairs.items(), strict=True):
        title = f"{pair} ({seed_count(part)})"
        plotting.by_size(part, metric, ax, ylabel, title, IMAGES_PER_CLASS[dataset])
        ax.label_outer()
    figure.suptitle(DATASETS[dataset].title)
    plotting.legend_below(figure, axes[0, -1])
    return figure


def restored_features() -> Figure:
    """Figure 2a of the paper: losses when the original features come back, every run drawn."""
    models = target_models(tables.in_order(tables.stored(SYNTHETIC_SWEEP)))
    figure, axes = plt.subplots(1, len(models), figsize=(6 * len(models), 4.2), sharey=True)
    names = {metric: column.heading for metric, column in tables.VIEWS.items()}
    for ax, (name, rows) in zip(np.atleast_1d(axes), models.items(), strict=True):
        title = f"{capitalised(name)} ({seed_count(rows)})"
        plotting.slopes(rows, names, ax, "mean squared error", title)
    plotting.legend_below(figure, np.atleast_1d(axes)[-1])
    return figure


def synthetic_runs() -> Figure:
    """Figures 1, 2b and 2c of the paper: validation losses and LIME weights, every run drawn."""
    rows = tables.in_order(tables.stored(SYNTHETIC_SWEEP))
    backbone = rows[rows.method == BACKBONE]
    models = target_models(rows)
    methods = list(dict.fromkeys(rows.method))
    panels = {
        "val_loss": "validation loss",
        "lime_spurious": "mean |LIME weight|, spurious features",
    }
    shape = (len(models), len(panels))
    size = (11, 2.6 * len(models) + 0.4)
    figure, axes = plt.subplots(*shape, figsize=size, squeeze=False, sharex="col", sharey=True)
    for line, (name, own) in zip(axes, models.items(), strict=True):
        for ax, (metric, xlabel) in zip(line, panels.items(), strict=True):
            title = f"{capitalised(name)} ({seed_count(own)})"
            plotting.runs(pd.concat([backbone, own]), metric, methods, ax, xlabel, title)
            ax.label_outer()
    figure.suptitle("Figures 1, 2b and 2c, run by run (synthetic; the backbone on its own task)")
    return figure


def every_control(dataset: str, rows: pd.DataFrame) -> Figure:
    """Each run of table 3's UT and FT and of their controls as a dot, a panel per pair.

    Args:
        dataset: its name.
        rows: of `tables.control_rows`.
    """
    first = [tables.label(method) for method in ("ft", "ut")]
    lines = list(dict.fromkeys([*first, *rows.control]))
    figure = _lines_per_pair(rows, "control", lines, "val_accuracy", "accuracy")
    title = "Shortcut on every target image: what may explain UT - FT"
    figure.suptitle(f"{title} ({DATASETS[dataset].title})")
    return figure


def before_transfer(dataset: str, rows: pd.DataFrame) -> Figure:
    """Claim 2: each biased backbone on its targets before any transfer, a panel per pair.

    Args:
        dataset: its name.
        rows: of the method that trains nothing, from biased backbones.
    """
    names = {metric: name.removesuffix(", %") for metric, name in claims.CHANCE_COLUMNS.items()}
    own = rows[rows.metric.isin(list(names))]
    own = own.drop_duplicates([*tables.PAIR, "seed", "metric"])  # whatever it might be trained on
    shares = own.assign(what=own.metric.map(names), metric="share")
    figure = _lines_per_pair(shares, "what", list(names.values()), "share", "share of the images")
    for ax in figure.axes:
        plotting.chance(ax, claims.CHANCE, "x")
    figure.suptitle(f"Biased backbones before any transfer ({DATASETS[dataset].title})")
    return figure


def _lines_per_pair(
    rows: pd.DataFrame, column: str, lines: list[str], metric: str, xlabel: str
) -> Figure:
    """Every run as a dot, a panel per pair of tasks, a line per value of the column."""
    pairs = dict(iter(rows.groupby(list(tables.PAIR), sort=False)))
    size = (3.4 + 3.6 * len(pairs), 1.3 + 0.36 * len(lines))
    figure, axes = plt.subplots(
        1, len(pairs), figsize=size, squeeze=False, sharex=True, sharey=True
    )
    for ax, ((source, target), own) in zip(axes[0], pairs.items(), strict=True):
        title = f"{source} → {target}\n({seed_count(own)})"
        plotting.runs(own, metric, lines, ax, xlabel, title, column)
        ax.label_outer()
    return figure


def every_run(dataset: str, rows: pd.DataFrame) -> Figure:
    """Each run of tables 1 and 3 and of the shortcut test as a dot, a row of panels per pair.

    Args:
        dataset: its name.
        rows: of the transfers that were trained as usual.
    """
    moved = rows[rows.method != tables.BEFORE]
    tests = tables.by_images(tables.shortcut_at_test(moved))
    panels = {
        "clean tasks": (tables.without_shortcut(moved), "val_accuracy", "accuracy"),
        "shortcut on every image": (tables.shortcut_everywhere(moved), "val_accuracy", "accuracy"),
    }
    for size, part in tests.items():
        images = tables.images_text(size).replace(", ", ",\n")
        panels[f"clean target,\n{images}"] = (part, "flip_rate", "flip rate")
    panels = {title: panel for title, panel in panels.items() if len(panel[0])}
    pairs = list(moved[list(tables.PAIR)].drop_duplicates().itertuples(index=False))
    methods = list(dict.fromkeys(tables.in_order(moved).method))
    size = (1.8 + 2.9 * len(panels), 1.2 + 0.36 * len(methods) * len(pairs))
    shape = (len(pairs), len(panels))
    title = DATASETS[dataset].title
    figure, axes = plt.subplots(*shape, figsize=size, squeeze=False, sharex="col", sharey=True)
    for line, (source, target) in zip(axes, pairs, strict=True):
        for ax, (head, (part, metric, xlabel)) in zip(line, panels.items(), strict=True):
            own = part[(part.source == source) & (part.target == target)]
            plotting.runs(own, metric, methods, ax, xlabel, f"{head}\n({seed_count(own)})")
            ax.label_outer()
            ax.title.set_fontsize(10)
        line[0].set_ylabel(f"{source}\n→ {target}")
    figure.suptitle(f"Tables 1 to 3 and the shortcut test, run by run ({title})")
    return figure


def flip_rates(dataset: str, rows: pd.DataFrame) -> Figure:
    """What the shortcut does at test time, over the number of images; a row of panels per pair.

    Args:
        dataset: its name.
        rows: of the transfers that were trained as usual.
    """
    pairs = _by_pair(tables.shortcut_at_test(rows))
    columns = max(len(_flip_panels(part)) for part in pairs.values()) + 1
    size = (5.2 * columns, 4.2 * len(pairs))
    figure, axes = plt.subplots(len(pairs), columns, figsize=size, squeeze=False)
    for line, (pair, part) in zip(axes, pairs.items(), strict=True):
        _flips_of_pair(dataset, pair, part, line)
    plotting.legend_below(figure, axes[-1, -1])
    return figure


def _flip_panels(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Title of a panel -> its rows; lines of one panel show the same seeds, which it counts."""
    epochs = rows.groupby(rows.n_train.fillna(np.inf)).epochs
    by = ["n_train", "method"]
    short = tables.shared_seeds(rows[rows.epochs == epochs.transform("min")], by)
    long = tables.shared_seeds(rows[rows.epochs == epochs.transform("max")], by)
    same = short.run.isin(long.run).all()
    return {"equal epochs": short} if same else {"equal epochs": short, "equal steps": long}


def _flips_of_pair(dataset: str, pair: str, rows: pd.DataFrame, axes: np.ndarray) -> None:
    panels = _flip_panels(rows)
    everything = IMAGES_PER_CLASS[dataset]
    for ax, (name, part) in zip(axes, panels.items(), strict=False):
        title = f"Flip rate, {name}\n({pair}, {seed_count(part)})"
        plotting.by_size(part, "flip_rate", ax, "flip rate", title, everything)
    name, last = list(panels.items())[-1]
    title = f"Shortcut on every test image, {name}\n({pair}, {seed_count(last)})"
    ylabel = "predictions of the shortcut's class"
    plotting.by_size(last, "ball_share", axes[-1], ylabel, title, everything)
    plotting.chance(axes[-1], claims.CHANCE)


def sizes() -> Figure:
    """When does transfer pay? Accuracy over clean target images per class, a panel per pair."""
    pairs = _by_pair(tables.stored(SIZES_SWEEP))
    return _over_images("cifar100", pairs, "val_accuracy", "accuracy")


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


def settings_figure(name: str) -> Figure:
    """Flip rate over clean accuracy in each setting of a sweep on refits and windows."""
    rows = tables.stored(name)
    parts = compared(rows)
    columns = min(3, len(parts))
    lines = -(-len(parts) // columns)
    size = {"figsize": (4.6 * columns, 4.4 * lines + 0.8)}
    figure, axes = plt.subplots(lines, columns, squeeze=False, sharey=True, **size)
    for ax in axes.flat[len(parts) :]:
        ax.remove()
    for ax, (text, part) in zip(axes.flat, parts.items(), strict=False):
        pair, _, rest = text.partition(", ")
        plotting.trade_off(part, ax, f"{pair}\n{rest}")
        ax.title.set_fontsize(10)
        ax.locator_params(axis="x", nbins=6)
    highest = max(ax.dataLim.y1 for ax in figure.axes)  # with the intervals
    axes[0, 0].set_ylim(-0.03, min(1.0, highest) + 0.03)  # of all panels, whose axis is shared
    title = DATASETS[rows.dataset.iloc[0]].title
    figure.suptitle(f"Shortcut test of refits and windows ({title}, {seed_count(rows)})")
    plotting.legend_below(figure, axes[0, 0])
    return figure


def answers_figure(device: str, table: pd.DataFrame) -> Figure:
    """Which method passes where: a line per setting, a column per method, a colour per answer.

    Args:
        device: where the networks were trained, as a title.
        table: one of `passing.answer_tables`.
    """
    cells = table.drop(columns="seeds")
    words = cells.map(lambda answer: "" if answer is None else answer.verdict)
    kinds = words.apply(lambda column: column.map(list(ANSWER_COLOURS).index))
    size = (3.6 + 1.15 * cells.shape[1], 1.8 + 0.5 * len(cells))
    figure, ax = plt.subplots(figsize=size)
    colours = ListedColormap(list(ANSWER_COLOURS.values()))
    ax.imshow(kinds, cmap=colours, vmin=0, vmax=len(ANSWER_COLOURS) - 1, aspect="auto")
    for i, j in np.argwhere((words != "").to_numpy()):
        answer = cells.iloc[i, j]
        flips, clean, *seeds = answer.numbers
        text = "\n".join([f"{flips}, {clean}", *seeds]).replace("-", "−")
        weight = "bold" if answer.verdict == "yes" else "normal"
        ax.text(j, i, text, ha="center", va="center", fontsize=9, weight=weight)
    heads = [textwrap.fill(name, 15) for name in cells.columns]
    ax.set_xticks(range(cells.shape[1]), heads, fontsize=9)
    ax.xaxis.tick_top()
    lines = [
        f"{text.replace(', ', chr(10), 1)} ({seeds} seeds)" for text, seeds in table.seeds.items()
    ]
    ax.set_yticks(range(len(cells)), lines, fontsize=9)
    ax.set_xticks(np.arange(1, cells.shape[1]) - 0.5, minor=True)
    ax.set_yticks(np.arange(1, len(cells)) - 0.5, minor=True)
    ax.grid(visible=False)
    ax.grid(which="minor", color="white", linewidth=3, alpha=1)
    ax.tick_params(which="both", length=0)
    ax.spines[:].set_visible(False)
    patches = [Patch(color=shade, label=word) for word, shade in ANSWER_COLOURS.items() if word]
    figure.legend(handles=patches, loc="outside lower center", ncols=3)
    title = "Is the shortcut kept out? Flips beyond training from scratch, accuracy beyond FT"
    figure.suptitle(f"{title} (points, {uncapitalised(device)})")
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
