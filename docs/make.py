"""Write docs/results.md, docs/distances.md and their pictures: `.venv/bin/python docs/make.py`.

Every number comes from the exported rows in results/; every section says what made its rows.
"""

import textwrap
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rtl_utils import distances, paper, plotting, tables
from rtl_utils.coupled import Coupled
from rtl_utils.data import DATASETS, load
from rtl_utils.methods import METHODS
from rtl_utils.runs import BACKBONE

HERE = Path(__file__).resolve().parent
NOTEBOOKS = (
    "digits",
    "cifar100",
)  # data sets; the sweeps with the notebooks' runs have their names
METHOD_SWEEPS = {"digits-methods": "digits", "cifar-methods": "cifar100"}  # sweep -> data set
DISTANCE_SWEEPS = ("distances", "coupled-distances")
TRANSFERS = ("scratch", "ft", "fixed", "ut", "ut-mixture")
HEADLINE = ("scratch", "ft", "ut", "ct", "iso", "counter")  # methods in the README's table
BEGIN = "<!-- begin: written by docs/make.py from the rows in results/ -->"
END = "<!-- end -->"
ALLOWED = 0.02  # additional flips with which a method still keeps the shortcut out
ALIKE = 0.03  # difference of accuracies below which two methods count as alike
CLASSES = 5  # of every task here
CIFAR_TRAINING = 2_500  # images of a superclass
CIFAR_VALIDATION = 500


def main() -> None:
    """Write both pages and all pictures."""
    for name, text in pages().items():
        (HERE.parent / name).write_text(text)
    plotting.use_style()
    for name, figure in pictures().items():
        figure.savefig(HERE / f"{name}.png")
        plt.close(figure)


def pages() -> dict[str, str]:
    """Path in the checkout -> Markdown."""
    with warnings.catch_warnings():  # each section says what made its rows
        warnings.simplefilter("ignore", tables.MixedRowsWarning)
        return {
            "README.md": readme(),
            "docs/results.md": results_page(),
            "docs/distances.md": distances_page(),
        }


def pictures() -> dict[str, Figure]:
    """File name without its ending -> figure."""
    rows = distance_rows()
    matrices = {kind: distances.matrix(rows, paper.GAO_TASKS, kind) for kind in paper.GAO_DISTANCES}
    methods = {name: trade_offs(name) for name in METHOD_SWEEPS}
    return {
        "flip_rate": flip_rates(),
        **methods,
        "distances": heat_maps(matrices, rows),
        "places": maps(matrices, rows),
        "accuracy_over_distance": scatters(matrices, rows),
    }


# --- the README's results -------------------------------------------------------------------------


def readme() -> str:
    """The README with its results written anew between the two marks."""
    text = (HERE.parent / "README.md").read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{headline()}\n\n{END}{after}"


def headline() -> str:
    """What came out: the shortcut test on the digits, who passes, and the paper's claims."""
    rows = tables.stored("digits-methods")
    sizes = tables.by_images(tables.shortcut_at_test(rows))
    columns = {}
    for size, part in sizes.items():
        table = tables.summary(part, tables.SHORTCUT_TEST, by=["method"]).loc[list(HEADLINE)]
        for metric, name in (("clean_accuracy", "accuracy, %"), ("flip_rate", "flips, %")):
            heading = tables.SHORTCUT_TEST[metric].heading
            columns[f"{size} images per class: {name}"] = table[heading]
    table = pd.DataFrame(columns).rename(index=tables.label)
    passing = []
    for size, part in sizes.items():
        tested = [method for method in METHODS if method in set(part.method)]
        answers = tables.keeps_out(part, tested, ALLOWED)
        passing.append(f"{capitalised(size)} images per class: {tables.passing(answers)}")
    origin = tables.origin("digits-methods", rows)
    cifar = seed_count(tables.stored("cifar-methods"))
    return paragraphs(
        f"""The backbone has the ball on one class, the target images are clean, and the ball
        appears at test time. Cluttered digits, {tables.seeds_text(rows)}: accuracy without the
        ball, and share of predictions that the ball flips; means with 95 % intervals.""",
        tables.markdown(table),
        f"""A method keeps the shortcut out if it flips at most {100 * ALLOWED:.0f} points more
        predictions than training from scratch and is no less accurate than fine-tuning; all
        {rows.method.nunique() - 1} methods were tested. {" ".join(passing)}""",
        """The paper's claims 1 and 3 about uncoupled transfer (UT) and fine-tuning (FT), and the
        course's own question, on the digits:""",
        tables.markdown(notebook_verdicts("digits")),
        f"On CIFAR-100 there is {cifar} so far, which decides nothing.",
        origin,
    )


def notebook_verdicts(name: str) -> pd.DataFrame:
    """The verdicts on one data set."""
    usual = transfers(tables.in_order(tables.stored(name)))
    return tables.verdict_table(
        claims(
            tables.without_shortcut(usual),
            tables.shortcut_everywhere(usual),
            tables.shortcut_at_test(usual),
        )
    )


# --- the page of results -------------------------------------------------------------------------


def results_page() -> str:
    """Everything but the distances between tasks."""
    sections = [introduction()]
    sections += [notebook_section(name) for name in NOTEBOOKS]
    sections += [method_section(name) for name in METHOD_SWEEPS]
    sections += [pairs_section(), commands([*NOTEBOOKS, *METHOD_SWEEPS, "cifar-pairs"])]
    return "\n\n".join(sections) + "\n"


def introduction() -> str:
    """What the numbers are, and what one seed can say."""
    clean = tables.without_shortcut(transfers(tables.stored("cifar100")))
    accuracy = clean.value[(clean.metric == "val_accuracy") & (clean.method == "ft")].mean()
    margin = 100 * 1.96 * (2 * accuracy * (1 - accuracy) / CIFAR_VALIDATION) ** 0.5
    return paragraphs(
        "# Results",
        """Long runs of notebooks 03 to 06, written by `docs/make.py` from the rows in `results/`.
        Numbers are means over seeds with 95 % Student t intervals, which may leave the
        possible range where runs crowd at its edge. A seed sets the weights, the order of
        the images, the places of the shortcut and, on the digits, the images themselves.
        The shortcut is a tennis ball.""",
        f"""A single seed has no interval. Two accuracies near {100 * accuracy:.0f} % that are
        measured on {CIFAR_VALIDATION} images each have a difference with a 95 % margin of about
        ±{margin:.1f} points from the choice of images alone; the choice of the seed adds to it.
        So the sections on CIFAR-100 with one seed show large effects only.""",
    )


def notebook_section(name: str) -> str:
    """The runs of notebooks 03 to 05 on one data set."""
    rows = tables.in_order(tables.stored(name))
    usual = transfers(rows)
    clean = tables.without_shortcut(usual)
    marked = tables.shortcut_everywhere(usual)
    at_test = tables.shortcut_at_test(usual)
    title = capitalised(DATASETS[name].title)
    picture = []
    if name == "digits":
        picture = ["![Flip rate over training images per class](flip_rate.png)"]
    return paragraphs(
        f"## {title}: the runs of notebooks 03 to 05",
        tables.origin(name, rows),
        training(rows),
        f"### Backbones on their own task ({tables.seeds_text(rows)})",
        tables.markdown(tables.backbone_table(rows)),
        "### Clean source and clean target, as in the paper's tables 1 and 2 "
        f"({tables.seeds_text(clean)})",
        method_table(tables.clean_table(clean)),
        "### Shortcut on every target image, as in the paper's table 3 "
        f"({tables.seeds_text(marked)})",
        method_table(tables.target_table(marked)),
        "Fine-tuning to the same target under other conditions:",
        tables.markdown(tables.control_table(rows)),
        f"### Clean target, shortcut at test time only ({tables.seeds_text(at_test)})",
        *picture,
        method_table(tables.size_table(at_test)),
        "### Verdicts on the claims",
        """UT is uncoupled transfer, FT is fine-tuning. p-values are those of Wilcoxon's signed-rank
        test, adjusted by Holm's method over the table. A claim is "reproduced" if the whole
        interval agrees with it, "not reproduced" if the whole interval disagrees.""",
        tables.markdown(tables.verdict_table(claims(clean, marked, at_test))),
    )


def claims(clean: pd.DataFrame, marked: pd.DataFrame, at_test: pd.DataFrame) -> list[tables.Case]:
    """The paper's claims 1 and 3, and whether UT flips less at each number of images."""
    alike = f"1: alike on clean tasks (within {100 * ALIKE:.0f} points of accuracy)"
    cases = [
        tables.Case(alike, clean, "val_accuracy", "alike", ALIKE),
        tables.Case(
            "3: UT beats FT, shortcut on every target image (accuracy)",
            marked,
            "val_accuracy",
            "above",
        ),
    ]
    for size, rows in tables.by_images(at_test).items():
        claim = f"UT flips less than FT, {size} clean images per class (flip rate)"
        cases.append(tables.Case(claim, rows, "flip_rate", "below"))
    return cases


def method_section(name: str) -> str:
    """The shortcut test of all methods, at each number of target images."""
    rows = tables.stored(name)
    at_test = tables.shortcut_at_test(rows)
    parts = [
        f"## Every method in the shortcut test ({sweep_title(name)}, {tables.seeds_text(rows)})",
        tables.origin(name, rows),
        f"""The source has the shortcut on one class, the target is clean, and the shortcut appears
        at test time. A method keeps the shortcut out if its flip rate is at most
        {100 * ALLOWED:.0f} points above that of training from scratch, and it is no less accurate
        on clean images than fine-tuning. The answer is "yes" or "no" where the intervals of both
        differences decide, else "undecided"; in the picture the shaded corner is "yes" by the
        means. The methods and their sources are listed in `rtl_utils/methods.py`.""",
        training(rows),
        f"![Flip rate over accuracy without shortcut, one marker per method]({name}.png)",
    ]
    for size, part in tables.by_images(at_test).items():
        tested = [method for method in METHODS if method in set(part.method)]
        values = tables.summary(part, tables.SHORTCUT_TEST, by=["method"]).loc[tested]
        answers = tables.keeps_out(part, tested, ALLOWED)
        known = {"user must know": [METHODS[method].knows for method in tested]}
        table = values.join(answers).assign(**known)
        parts += [
            f"### {capitalised(size)} target images per class",
            tables.passing(answers),
            tables.markdown(table.rename(index=plotting.label)),
        ]
    return paragraphs(*parts)


def pairs_section() -> str:
    """All methods on the paper's three pairs, from a clean and from a biased source."""
    rows = tables.stored("cifar-pairs")
    order = [(*pair, method) for pair in paper.TABLES for method in METHODS]
    table = tables.shortcut_test_table(rows[rows.method != BACKBONE]).loc[order]
    return paragraphs(
        f"## Every method on the paper's three pairs (CIFAR-100, {tables.seeds_text(rows)})",
        tables.origin("cifar-pairs", rows),
        """The first column of numbers is the accuracy of a transfer without any shortcut; the
        others are those of the shortcut test in the sections above.""",
        training(rows),
        method_table(table),
    )


# --- the page of distances -----------------------------------------------------------------------


def distances_page() -> str:
    """What the matrices over the paper's five superclasses say."""
    rows = distance_rows()
    matrices = {kind: distances.matrix(rows, paper.GAO_TASKS, kind) for kind in distances.KINDS}
    page = paragraphs(
        "# Distances between tasks",
        """How far a network must go from one superclass of CIFAR-100 to another, on the five
        superclasses of Gao & Chaudhari (2021); written by `docs/make.py` from the rows in
        `results/`.""",
        *[tables.origin(name, tables.stored(name)) for name in DISTANCE_SWEEPS],
        training(rows),
        measured(rows),
        "![Our matrices above those of Gao & Chaudhari](distances.png)",
        f"""From left to right: {", ".join(paper.GAO_DISTANCES)}. Upper row: our distances. Lower
        row: those of Gao & Chaudhari, read off their figures. Sources stand in rows and targets in
        columns; below a mean stands half of its 95 % interval, where there is one. Their uncoupled
        path is the mixture of tasks, their fine-tuning distance is a Riemannian length cut at 95 %
        of the final validation accuracy, and their network is another one: compare the order of
        entries, not their sizes.""",
        *numbers_section(matrices),
        "## Tasks as places",
        """Classical scaling of the matrices, made symmetric by the mean of both directions:
        tasks that are near each other in a map are near by that distance.""",
        "![The five tasks in a plane, by each distance](places.png)",
        *ranks_section(matrices, rows),
    )
    return f"{page}\n\n{commands(DISTANCE_SWEEPS)}\n"


def numbers_section(matrices: Mapping[str, distances.Matrix]) -> list[str]:
    """Every matrix as a table, below its equation."""
    parts = [
        "## Our numbers",
        """Means with 95 % intervals: over seeds, or with one seed over blocks of pairs (coupled)
        or over pairs (uncoupled, Riemannian). A fine-tuning distance of one seed has no
        interval.""",
    ]
    for kind, matrix in matrices.items():
        record = distances.KINDS[kind]
        digits = 1 if kind in ("fine-tuning", "riemannian") else 3
        parts += [
            f"### {capitalised(record.title)}, in {record.unit}",
            f"{capitalised(record.equation)}. Source: {record.reference}.",
            tables.markdown(tables.matrix_table(matrix, digits)),
        ]
    return parts


def ranks_section(matrices: Mapping[str, distances.Matrix], rows: pd.DataFrame) -> list[str]:
    """How the distances agree with each other, with the published ones and with accuracy."""
    return [
        "## Do the distances agree, and does accuracy fall with distance?",
        """Spearman's rank correlations over the ordered pairs, with 95 % bootstrap intervals.
        Pairs that share a task are not independent, so the intervals are narrower than the
        truth. "Within a target" subtracts from each accuracy and distance the mean of its
        target. Claim 6 of the paper is that accuracy falls as distance grows.""",
        tables.markdown(tables.rank_table(matrices, rows, paper.GAO_DISTANCES)),
        "![Accuracy after transfer over distance](accuracy_over_distance.png)",
    ]


def distance_rows() -> pd.DataFrame:
    """Rows of both sweeps over all pairs of tasks."""
    return pd.concat([tables.stored(name) for name in DISTANCE_SWEEPS], ignore_index=True)


def measured(rows: pd.DataFrame) -> str:
    """How the lengths of these rows were measured."""
    iterated = rows[rows.method == "ct-iterated"]
    iterations = int(iterated.coupled_iterations.iloc[0])
    blocks = int(iterated.coupled_blocks.iloc[0])
    block = Coupled(blocks=blocks).block_of(CIFAR_TRAINING)
    partitions = int(rows.partitions.dropna().iloc[0])
    return f"""Paths are cut into {partitions} partitions. The coupled distance is that of iteration
        {iterations} of {iterations}, over {blocks} blocks of {block} × {block} pairs."""


# --- pictures ------------------------------------------------------------------------------------


def flip_rates() -> Figure:
    """The README's picture: what the shortcut does at test time, over the number of images."""
    rows = tables.in_order(tables.shortcut_at_test(transfers(tables.stored("digits"))))
    task = load("digits", "digits-5-9", seed=0)
    everything = round(len(task.y_train) / task.outputs)
    where = f"{DATASETS['digits'].title}, {rows.seed.nunique()} seeds"
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 4.2))
    plotting.by_size(rows, "flip_rate", axes[0], "flip rate", f"Flip rate ({where})", everything)
    plotting.by_size(
        rows,
        "ball_share",
        axes[1],
        "predictions of the shortcut's class",
        f"Shortcut on every test image ({where})",
        everything,
    )
    plotting.chance(axes[1], 1 / CLASSES)
    plotting.legend_below(figure, axes[1])
    return figure


def trade_offs(name: str) -> Figure:
    """Flip rate over clean accuracy of every method, few images at the left, all at the right."""
    rows = tables.shortcut_at_test(tables.stored(name))
    parts = tables.by_images(rows)
    figure, axes = plt.subplots(1, len(parts), figsize=(12, 7), sharey=True)
    for ax, (size, part) in zip(axes, parts.items(), strict=True):
        plotting.trade_off(part, ax, f"{capitalised(size)} target images per class", ALLOWED)
        ax.label_outer()
    figure.suptitle(f"Shortcut test of every method ({sweep_title(name)}, {seed_count(rows)})")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9)
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


def maps(matrices: Mapping[str, distances.Matrix], rows: pd.DataFrame) -> Figure:
    """The tasks as places in a plane, by each distance."""
    figure, axes = plt.subplots(1, len(matrices), figsize=(14, 4.4))
    for ax, (kind, matrix) in zip(axes, matrices.items(), strict=True):
        record = distances.KINDS[kind]
        title = f"{capitalised(record.title)} (CIFAR-100, {kind_seeds(kind, rows)})"
        places = distances.embedding(matrix)
        plotting.places(places, matrix.names, record.unit, ax, title)
    return figure


def scatters(matrices: Mapping[str, distances.Matrix], rows: pd.DataFrame) -> Figure:
    """Accuracy after transfer over each distance."""
    figure, axes = plt.subplots(1, len(matrices), figsize=(14, 4.4), sharey=True)
    for ax, (kind, matrix) in zip(axes, matrices.items(), strict=True):
        record = distances.KINDS[kind]
        accuracy = distances.accuracies(rows, matrix.names, record.method)
        title = (
            f"{capitalised(plotting.label(record.method))} (CIFAR-100, {kind_seeds(kind, rows)})"
        )
        plotting.by_target(matrix, accuracy, ax, f"{record.title}, {record.unit}", title)
    axes[0].set_ylabel("validation accuracy after transfer")
    plotting.legend_below(figure, axes[0])
    return figure


# --- rows and texts ------------------------------------------------------------------------------


def transfers(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the compared methods, trained as usual: not those of the controls."""
    compared = rows[rows.method.isin(TRANSFERS) & (rows["head"] == "shared")]
    same_rate = compared.lr == compared.lr.mode()[0]
    same_length = compared.epochs == compared.epochs.max()
    usual: pd.DataFrame = compared[same_rate & same_length]
    return usual


def training(rows: pd.DataFrame) -> str:
    """How the rows' networks were trained, in sentences."""
    backbones = rows[rows.method == BACKBONE]
    moved = rows[rows.method != BACKBONE]
    epochs = {size: part.epochs.mode()[0] for size, part in tables.by_images(moved).items()}
    if len(set(epochs.values())) == 1:
        transfer = f"{next(iter(epochs.values()))} epochs"
    else:
        each = [f"{n} epochs with {size} images per class" for size, n in epochs.items()]
        transfer = " and ".join(each)
    sentences = [
        f"Network `{rows.width.mode()[0]}`; SGD with learning rate {rows.lr.mode()[0]:g}, momentum "
        f"{rows.momentum.mode()[0]:g} and mini-batches of {rows.batch_size.mode()[0]}.",
        f"Backbones train for {backbones.epochs.mode()[0]} epochs, transfers for {transfer}.",
    ]
    iterated = rows[rows.method == "ct-iterated"]
    if len(iterated):
        times = int(iterated.coupled_iterations.iloc[0])
        sentences.append(f"An iterated coupling trains {times} times as long.")
    return " ".join(sentences)


def commands(names: Iterable[str]) -> str:
    """The commands that made the rows, as their manifests name them, and the one for this page."""
    made = [f"- `results/{name}/`: {tables.stored_manifest(name)['command']}" for name in names]
    page = "- this page and its pictures: `.venv/bin/python docs/make.py`"
    return "\n".join(["## How these were made", "", *made, page])


def method_table(table: pd.DataFrame) -> str:
    """A table with methods in its index as Markdown, with their labels."""
    return tables.markdown(table.rename(index=plotting.label, level="method"))


def sweep_title(name: str) -> str:
    """The data set and pair of a sweep over methods."""
    rows = tables.stored(name)
    moved = rows[rows.method != BACKBONE].iloc[0]
    title = DATASETS[METHOD_SWEEPS[name]].title
    return f"{title}, {moved.source} → {moved.target}"


def kind_seeds(kind: str, rows: pd.DataFrame) -> str:
    """How many seeds measured one kind of distance."""
    return seed_count(rows[rows.method == distances.KINDS[kind].method])


def seed_count(rows: pd.DataFrame) -> str:
    """How many seeds the rows have, as titles write it."""
    count = rows.seed.nunique()
    return "1 seed" if count == 1 else f"{count} seeds"


def capitalised(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def paragraphs(*parts: str) -> str:
    """Parts of a page with empty lines between; prose is wrapped, the rest stays as it is."""
    return "\n\n".join(_wrapped(part) for part in parts)


def _wrapped(part: str) -> str:
    if part.startswith(("#", "|", "!")):
        return part
    return textwrap.fill(" ".join(part.split()), 100, break_on_hyphens=False)


if __name__ == "__main__":
    main()
