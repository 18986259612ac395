"""Writes docs/results.md, docs/distances.md and their pictures from the exported rows in docs/results/: `.venv/bin/python docs/make.py`."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from rtl_utils import distances, paper, plotting, statistics
from rtl_utils.methods import METHODS
from rtl_utils.plotting import TITLES
from rtl_utils.results import exported

HERE = Path(__file__).resolve().parent
CHANCE = 1 / 5
ALL_IMAGES = {"digits": 126, "cifar100": 500}  # training images a class
TRANSFERS = ["scratch", "ft", "fixed", "ut", "ut-mixture"]


def main() -> None:
    for name, text in pages().items():
        (HERE / name).write_text(text)
    plotting.use_style()
    for name, figure in pictures().items():
        figure.savefig(HERE / f"{name}.png")


def pages() -> dict[str, str]:
    """File name -> Markdown."""
    sections = [section(name, rows) for name, rows in runs_of_the_notebooks().items()]
    sections += [*(every_method(name, exported(name)) for name in TESTED), every_pair(exported("cifar-pairs"))]
    return {"results.md": "\n".join([INTRODUCTION, *sections, END]), "distances.md": distances_page(runs_between_tasks())}


def pictures() -> dict[str, plt.Figure]:
    """File name without its ending -> figure."""
    between = runs_between_tasks()
    matrices = {kind: distances.matrix(between, paper.GAO_TASKS, kind) for kind in paper.GAO_DISTANCES}
    return {
        "flip_rate": flip_rates(ball_at_test(runs_of_the_notebooks()["digits"])),
        **{name: trade_offs(name, exported(name)) for name in TESTED},
        "distances": heat_maps(matrices), "places": maps(matrices), "accuracy_over_distance": scatters(matrices, between),
    }  # fmt: skip


def runs_of_the_notebooks() -> dict[str, pd.DataFrame]:
    return {name: in_order(pd.read_csv(HERE / "results" / f"{name}.csv")) for name in ALL_IMAGES}


def runs_between_tasks() -> pd.DataFrame:
    return pd.concat([exported("distances"), exported("coupled-distances")])


def flip_rates(rows: pd.DataFrame) -> plt.Figure:
    """The README's picture: what the ball does at test time, over the number of target images."""
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 4))
    everything, title = ALL_IMAGES["digits"], TITLES["digits"]
    plotting.by_size(rows, "flip_rate", axes[0], "predictions that the ball flips", f"flip rate ({title})", everything)
    plotting.by_size(rows, "ball_share", axes[1], "predictions in the ball's class", f"ball on every test image ({title})", everything)
    plotting.chance(axes[1], CHANCE)
    plotting.legend_below(figure, axes[1])
    return figure


def trade_offs(name: str, rows: pd.DataFrame) -> plt.Figure:
    """Flips over clean accuracy of every method, few images at the left, all at the right."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 7), sharey=True)
    for ax, (size, part) in zip(axes, by_images(rows), strict=True):
        plotting.trade_off(part, ax, f"{size} target images a class ({TESTED[name][0]})")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    return figure


def by_images(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The transfers of a sweep, at each number of target images a class."""
    transfers = rows[rows.method != "backbone"]
    return list(transfers.groupby(transfers.n_train.map(lambda n: "all" if pd.isna(n) else f"{n:.0f}")))


def heat_maps(matrices: dict[str, distances.Matrix]) -> plt.Figure:
    """Our matrices over Gao & Chaudhari's."""
    figure, axes = plt.subplots(2, 3, figsize=(16, 9.4))
    for column, (kind, m) in zip(axes.T, matrices.items(), strict=True):
        published, none = np.array(paper.GAO_DISTANCES[kind], dtype=float), np.full((len(m.names),) * 2, np.nan)
        theirs, digits = distances.Matrix(kind, m.names, published, none, none), 0 if kind == "fine-tuning" else 2
        unit, title = distances.KINDS[kind].unit, distances.KINDS[kind].title
        plotting.distances(m, unit, column[0], f"{title} (CIFAR-100)", digits)
        plotting.distances(theirs, "their unit", column[1], f"{kind} distance, Gao & Chaudhari (CIFAR-100)", digits)
    return figure


def maps(matrices: dict[str, distances.Matrix]) -> plt.Figure:
    """The tasks as places in a plane, by each distance."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4))
    for (kind, m), ax in zip(matrices.items(), axes, strict=True):
        plotting.places(distances.embedding(m), m.names, distances.KINDS[kind].unit, ax, f"{kind} distance (CIFAR-100)")
    return figure


def scatters(matrices: dict[str, distances.Matrix], rows: pd.DataFrame) -> plt.Figure:
    """Accuracy after transfer over each distance."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), sharey=True)
    for (kind, m), ax in zip(matrices.items(), axes, strict=True):
        method, unit = distances.KINDS[kind].method, distances.KINDS[kind].unit
        plotting.by_target(m, distances.accuracies(rows, m.names, method), ax, f"{kind} distance, {unit}", f"{plotting.label(method)} (CIFAR-100)")
    axes[0].set_ylabel("validation accuracy after transfer")
    plotting.legend_below(figure, axes[0])
    return figure


def distances_page(rows: pd.DataFrame) -> str:
    """What the 5 x 5 matrices say."""
    matrices = {kind: distances.matrix(rows, paper.GAO_TASKS, kind) for kind in distances.KINDS}
    trained = "; ".join(f"{kind}: {seeds(rows[rows.method == distances.KINDS[kind].method])}" for kind in paper.GAO_DISTANCES)
    numbers = "\n\n".join(f"**{distances.KINDS[kind].title}**, {distances.KINDS[kind].unit}\n\n{matrix_table(m)}" for kind, m in matrices.items())
    ranks = markdown(distances.rank_table(matrices, rows, paper.GAO_DISTANCES))
    return DISTANCES.format(seeds=trained, numbers=numbers, ranks=ranks)


def matrix_table(m: distances.Matrix) -> str:
    digits = 1 if m.kind in ("fine-tuning", "riemannian") else 3
    cells = [
        ["" if i == j else statistics.Interval(m.mean[i, j], m.low[i, j], m.high[i, j], 0).text(digits) for j in range(len(m.names))]
        for i in range(len(m.names))
    ]
    return markdown(pd.DataFrame(cells, index=pd.Index(m.names, name="source \\ target"), columns=m.names))


def in_order(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows as tables list them: few images before all, methods as everywhere, seeds rising."""
    order = {method: k for k, method in enumerate(["backbone", *TRANSFERS])}
    return rows.sort_values(["source", "target", "source_ball", "n_train", "method", "seed"], key=lambda c: c.map(order) if c.name == "method" else c)


def section(name: str, rows: pd.DataFrame) -> str:
    """The tables of one data set as Markdown."""
    usual = rows[(rows["head"] == "shared") & rows.method.isin(TRANSFERS)]
    usual = usual[(usual.lr == usual.lr.mode()[0]) & (usual.epochs == usual.epochs.max())]
    clean_rows, ball_rows, test_rows = clean_task(usual), ball_everywhere(usual), ball_at_test(usual)
    parts = [f"## {TITLES[name][0].upper()}{TITLES[name][1:]}"]
    parts += [f"### Backbones ({seeds(rows)})", backbones(rows)]
    parts += [f"### Clean tasks, tables 1 and 2 ({seeds(clean_rows)})", clean_table(clean_rows)]
    parts += [f"### Ball on every target image, table 3 ({seeds(ball_rows)})", ball_table(ball_rows), "Fine-tuning as a control:", controls(rows)]
    parts += [f"### Clean target, ball at test time only ({seeds(test_rows)})", test_table(test_rows)]
    return "\n\n".join([*parts, "### Verdicts", verdicts(clean_rows, ball_rows, test_rows), ""])


def every_method(name: str, rows: pd.DataFrame) -> str:
    """Salman's test of all methods, at each size of data."""
    title, setting = TESTED[name]
    columns = {metric: (heading, 100, 1) for metric, heading in statistics.BALL_TEST.items()}
    picture = f"![Flips over clean accuracy, a marker a method]({name}.png)"
    parts = [f"## Every method, one test ({title}, {seeds(rows)})", f"{EVERY_METHOD} {setting}", picture]
    for size, part in by_images(rows):
        values = statistics.summary(part, columns, by=["method"]).loc[list(METHODS)]
        table = values.join(statistics.keeps_out(part, list(METHODS))).assign(**{"user must know": [METHODS[m].knows for m in METHODS]})
        parts += [f"### {size} target images a class", kept_out(table), markdown(table.rename(index=plotting.label))]
    return "\n\n".join([*parts, ""])


def kept_out(table: pd.DataFrame) -> str:
    """Who passes, in one sentence."""
    by_intervals, by_means = (
        ", ".join(plotting.label(m) for m in table.index[table[column] == "yes"]) or "no method" for column in ("keeps it out", "by the means")
    )
    return f"By the intervals {by_intervals} keeps the shortcut out; by the means alone, {by_means}."


def every_pair(rows: pd.DataFrame) -> str:
    """All methods on the paper's three pairs, from a clean backbone and from one that knows the ball."""
    order = [(*pair, method) for pair in paper.TABLES for method in METHODS]
    table = statistics.ball_test_table(rows[rows.method != "backbone"]).loc[order].rename(index=plotting.label, level="method")
    return "\n\n".join([f"## Every method on the paper's three pairs (CIFAR-100, {seeds(rows)})", EVERY_PAIR, markdown(table), ""])


def seeds(rows: pd.DataFrame) -> str:
    """How many seeds, in words that a heading can take."""
    found = sorted(set(rows.seed))
    return f"seeds {found[0]} to {found[-1]}" if len(found) > 1 else f"seed {found[0]} alone"


def clean_task(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows.source_ball.isna() & ~rows.target_ball & rows.n_train.isna()]


def ball_everywhere(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows.source_ball.notna() & rows.target_ball]


def ball_at_test(rows: pd.DataFrame) -> pd.DataFrame:
    part = rows[rows.source_ball.notna() & ~rows.target_ball & rows.method.isin(TRANSFERS)]
    return part.assign(images=part.n_train.map(lambda n: "all" if pd.isna(n) else f"{n:.0f}"))


def backbones(rows: pd.DataFrame) -> str:
    part = rows[rows.method == "backbone"].assign(ball=rows.source_ball.notna().map({True: "on one class", False: "none"}))
    columns = {
        "train_accuracy": ("training, %", 100, 1), "val_accuracy": ("validation, %", 100, 1), "clean_accuracy": ("no ball, %", 100, 1),
        "ball_accuracy": ("ball on all, %", 100, 1), "ball_share": ("in the ball's class, ball on all, %", 100, 1),
    }  # fmt: skip
    return markdown(statistics.summary(part, columns, by=["source", "ball"]))


def clean_table(rows: pd.DataFrame) -> str:
    columns = {
        "length": ("∫\\|dw\\|", 1, 1),
        "train_loss": ("training loss", 1, 3),
        "val_loss": ("validation loss", 1, 3),
        "val_accuracy": ("validation accuracy, %", 100, 1),
    }
    table = statistics.summary(rows, columns, by=["source", "target", "method"])
    return markdown(with_paper(table, {m: f"{m}_accuracy" for m in ("ft", "fixed", "ut")}))


def ball_table(rows: pd.DataFrame) -> str:
    columns = {
        "val_accuracy": ("accuracy, ball on all, %", 100, 1),
        "clean_accuracy": ("accuracy, ball taken away, %", 100, 1),
        "val_loss": ("validation loss", 1, 3),
    }
    table = statistics.summary(rows, columns, by=["source", "target", "method"])
    return markdown(with_paper(table, {m: f"ball_{m}_accuracy" for m in ("ft", "ut")}))


def controls(rows: pd.DataFrame) -> str:
    part = rows[rows.target_ball & (rows.method == "ft")].assign(control="")
    part.loc[part.source_ball.isna(), "control"] = "clean backbone"
    part.loc[part.lr < part.lr.max(), "control"] = "a tenth of the learning rate"
    part.loc[part.epochs < part.epochs.max(), "control"] = "only the epochs of UT at τ = 1"
    columns = {"val_accuracy": ("accuracy, ball on all, %", 100, 1)}
    return markdown(statistics.summary(part[part.control != ""], columns, by=["source", "target", "control"]))


def test_table(rows: pd.DataFrame) -> str:
    columns = {
        "clean_accuracy": ("accuracy, no ball, %", 100, 1),
        "ball_accuracy": ("accuracy, ball, %", 100, 1),
        "flip_rate": ("flip rate, %", 100, 1),
        "ball_share": ("in the ball's class, ball, %", 100, 1),
    }
    return markdown(statistics.summary(rows, columns, by=["source", "target", "images", "method"]))


def verdicts(clean: pd.DataFrame, ball: pd.DataFrame, test: pd.DataFrame) -> str:
    """Paired differences UT - FT with their verdicts; the p-values are Wilcoxon's, by Holm over the table."""
    cases = [
        ("1: alike on clean tasks (within 3 points of accuracy)", clean, "val_accuracy", "alike", 0.03),
        ("3: UT beats FT, ball on every target image (accuracy)", ball, "val_accuracy", "above", 0.0),
    ]
    for size, part in test.groupby("images", sort=False):
        cases.append((f"UT keeps the shortcut out, {size} clean images a class (flip rate)", part, "flip_rate", "below", 0.0))
    table, p = [], []
    for claim, rows, metric, kind, margin in cases:
        for (source, target), pair in rows.groupby(["source", "target"], sort=False):
            difference, wilcoxon = statistics.paired_difference(*statistics.paired(pair, metric, "ut", "ft"))
            says = statistics.verdict(difference, kind, margin)
            shown = {"claim": claim, "pair": f"{source} → {target}", "seeds": difference.n, "UT - FT, points": difference.text(scale=100)}
            table.append(shown | {"verdict": says})
            p.append(wilcoxon)
    frame = pd.DataFrame(table)
    frame.insert(4, "p, Holm", [f"{value:.2g}" for value in statistics.holm(p)])
    return markdown(frame.set_index("claim"))


def with_paper(table: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    said = [paper.value(source, target, names.get(method, "")) for source, target, method in table.index]
    return table.assign(**{"paper, %": ["" if v is None else f"{100 * v:.1f}" for v in said]}) if any(v is not None for v in said) else table


def markdown(table: pd.DataFrame) -> str:
    flat = table.reset_index()
    lines = [flat.columns, ["---"] * flat.shape[1], *flat.astype(str).to_numpy()]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


INTRODUCTION = """# Results

Long runs of notebooks 03 to 05, written by `docs/make.py` from the rows in `docs/results/`. Numbers are means with 95 % Student t intervals
over seeds, which may pass 100 % where runs crowd at the edge; a single seed has no interval, and on 500 validation images says nothing about
differences under three points. A seed sets the weights, the order of the images, the places of the ball and, on the digits, the images
themselves. All runs: CPU, float32, mini-batch 16, SGD 0.01 with momentum 0.9, `small` network; 20 epochs on the digits, 50 on CIFAR-100.
"""
TESTED = {  # a sweep -> its title and what was trained how long
    "digits-methods": (TITLES["digits"], "All take 20 epochs; an iterated coupling takes four times 20."),
    "cifar-methods": (
        f"{TITLES['cifar100']}, herbivores → flowers",
        "The backbone takes 20 epochs; transfers take 20 at 50 images a class and 10 at 500, an iterated coupling twice that.",
    ),
}
EVERY_PAIR = """50 target images a class, 20 epochs. First the accuracy of a transfer with no ball anywhere, then the test of the sections above."""
EVERY_METHOD = """The backbone has the ball on one class, the target is clean, the ball turns up at test time. A method keeps the shortcut out if it
flips at most 2 points more predictions than training from scratch and is no less accurate on clean images than fine-tuning; "yes" and "no" where
the intervals of both differences decide, else "undecided"; in the picture that is the shaded corner. Methods
and their sources are in `rtl_utils/methods.py`."""
DISTANCES = """# Distances between tasks

The five superclasses of CIFAR-100 on which Gao & Chaudhari (2021) measure distances; written by `docs/make.py` from the rows in
`docs/results/`. Sources stand at the left, targets below; under a mean stands half of its 95 % interval, over seeds, or with one seed over
blocks of pairs. {seeds}.

Backbones take 20 epochs, transfers 10, with 10 partitions of the path (`small` network, SGD 0.01 with momentum 0.9, mini-batch 16, CPU). The
coupled distance is that of the second iteration, over 20 blocks of 25 x 25 pairs. Equations stand in `rtl_utils/distances.py`.

![Our matrices and those of Gao & Chaudhari](distances.png)

Their uncoupled path is the mixture of tasks, their fine-tuning distance a Riemannian length cut at 95 % of the final validation accuracy, and
their network another: compare the order of entries, not their sizes.

{numbers}

## Tasks as places

Classical scaling of the matrices, made symmetric by their mean.

![The five tasks in a plane, by each distance](places.png)

## Do they agree, and does accuracy fall with distance?

Spearman's rank correlations over the 20 ordered pairs, with 95 % bootstrap intervals; pairs that share a task are not independent, so the
intervals are narrower than the truth. "Within a target" takes each accuracy and distance less its target's mean.

{ranks}

![Accuracy after transfer over distance](accuracy_over_distance.png)

## How these were made

    .venv/bin/python docs/sweep.py distances
    .venv/bin/python docs/sweep.py coupled-distances
    .venv/bin/python docs/make.py
"""
END = """## How these were made

    .venv/bin/rtl run --notebook 04 -p seeds "[0, 1, ..., 19]" -p epochs 20 -p out runs/twenty  # 03 and 05: seeds 0 to 9
    .venv/bin/rtl export docs/results/digits.csv --out runs/twenty
    .venv/bin/rtl run --dataset cifar100 --notebook 03 -p source herbivores -p target flowers -p seeds "[0]" -p out runs/cifar  # likewise 04, 05
    .venv/bin/rtl export docs/results/cifar100.csv --out runs/cifar
    .venv/bin/python docs/sweep.py digits-methods  # likewise cifar-methods, cifar-pairs
    .venv/bin/python docs/make.py
"""

if __name__ == "__main__":
    main()
