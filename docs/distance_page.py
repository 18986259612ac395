"""The page on distances between tasks, docs/distances.md, from the rows in results/."""

from collections.abc import Mapping
from math import factorial

import numpy as np
import pandas as pd
from wording import capitalised, commands, paragraphs, training

from rtl_utils import claims, distances, paper, statistics, tables
from rtl_utils.coupled import Coupled
from rtl_utils.tables import coupled_rows, distance_rows, distance_sweeps, listed, seed_count

CIFAR_TRAINING = 2_500  # images of a superclass
RANKS_TITLE = "Do the distances agree, and does accuracy fall with distance?"


def distances_page() -> str:
    """What the matrices over the paper's five superclasses say."""
    rows = distance_rows()
    matrices = distances.matrices(rows, paper.GAO_TASKS)
    if "fine-tuning" not in matrices:
        return "# Distances between tasks\n\nNo rows yet.\n"
    page = paragraphs(
        "# Distances between tasks",
        """How far a network must go from one superclass of CIFAR-100 to another, on the five
        superclasses of Gao & Chaudhari (2021); written by `docs/make.py` from the rows in
        `results/`.""",
        *[part for name in distance_sweeps() for part in made_parts(name)],
        "![Our matrices above those of Gao & Chaudhari](distances.png)",
        f"""From left to right: {", ".join(paper.GAO_DISTANCES)}. Upper row: our distances. Lower
        row: those of Gao & Chaudhari, read off their figures. Sources stand in rows and targets in
        columns; below a mean stands half of its 95 % interval, where there is one. Their uncoupled
        path is the mixture of tasks, their fine-tuning distance is a Riemannian length cut at 95 %
        of the final validation accuracy, and their network is another one: compare the order of
        entries, not their sizes.""",
        *numbers_section(matrices),
        "## Tasks as places",
        """Classical scaling of the matrices, made symmetric by the mean of both directions. A plane
        cannot hold every set of distances: the error of a map is the root mean square of drawn
        minus measured distances, divided by that of the measured ones.""",
        f"""The errors: {listed(map_errors(matrices))}. Five tasks at equal distances from each
        other, which have no map at all, give {100 * no_map(len(paper.GAO_TASKS)):.0f} %. Where an
        error is not far below that, do not read the map.""",
        "![The five tasks in a plane, by each distance](places.png)",
        *ranks_section(matrices, rows),
    )
    sweeps = dict.fromkeys([*distance_sweeps(), *tables.COUPLED_SWEEPS])
    return f"{page}\n\n{commands(sweeps)}\n"


def made_parts(name: str) -> list[str]:
    """Where the rows of a sweep come from, how its networks were trained, and what was measured."""
    rows = tables.stored(name)
    if rows.empty:
        return []
    return [tables.origin(name, rows), f"{training(rows)} {measured(rows)}"]


def numbers_section(matrices: Mapping[str, distances.Matrix]) -> list[str]:
    """Every matrix as a table, below its equation."""
    without = [
        distances.KINDS[kind].title
        for kind, matrix in matrices.items()
        if pd.isna(matrix.low[matrix.off_diagonal]).all()
    ]
    parts = [
        "## Our numbers",
        f"""Means with 95 % intervals: over seeds, or with one seed over blocks of pairs (coupled)
        or over pairs (the others). An interval over pairs says how well one network was measured,
        and nothing of other trainings. {no_interval(without)}""",
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


def map_errors(matrices: Mapping[str, distances.Matrix]) -> list[str]:
    """How far each map is from its distances, kind by kind."""
    return [
        f"{kind} {100 * distances.embedding_error(matrices[kind]):.0f} %"
        for kind in paper.GAO_DISTANCES
        if kind in matrices
    ]


def no_map(tasks: int) -> float:
    """Error of the map of so many tasks, all equally far from each other."""
    names = tuple(map(str, range(tasks)))
    equal = 1.0 - np.eye(tasks)
    return distances.embedding_error(distances.Matrix("uncoupled", names, equal, equal, equal))


def no_interval(titles: list[str]) -> str:
    """Which distances have no interval here."""
    return f"There is no interval for the {listed(titles)}." if titles else ""


def ranks_section(matrices: Mapping[str, distances.Matrix], rows: pd.DataFrame) -> list[str]:
    """How the distances agree with each other, with the published ones and with accuracy."""
    table = claims.rank_table(matrices, rows, paper.GAO_DISTANCES)
    tested = int((table["p of falling, Holm"] != "").sum())
    measuring = [f"{kind} by {tables.label(distances.KINDS[kind].method)}" for kind in table.index]
    return [
        f"## {RANKS_TITLE}",
        f"""Spearman's rank correlations over the ordered pairs. Pairs that share a task are not
        independent: the 95 % intervals leave out one task with all its pairs at a time (jackknife),
        and are wide with five tasks. "Within a target" subtracts from each accuracy and distance
        the mean of its target. Claim 6 of the paper is that accuracy falls as distance grows; its p
        is the share of the {factorial(len(paper.GAO_TASKS))} orders of the tasks that give a
        correlation as low, adjusted by Holm's method over the kinds of distance. The paper makes
        that claim of the fine-tuning distance; it is asked here of every kind, so the adjustment is
        over all; it is one-sided, as the claim is. {smallest_p(tested or len(table))} The accuracy
        is that of the transfers that measured the distance: {listed(measuring)}. The last four
        columns ask the same of Gao & Chaudhari's published distances and our accuracies; their
        Riemannian length is the one that they call fine-tuning distance. The comparison that was
        declared before the runs is that of our distances with theirs; its p is the share of orders
        with a correlation as high, not adjusted. What is asked of claim 6 was written down when one
        seed was known. A verdict needs {statistics.FEWEST} seeds, as everywhere: tasks are what is
        permuted, but each distance is a mean over seeds.""",
        tables.markdown(table),
        within_text(table),
        claims.coupled_text(coupled_rows(), paper.GAO_TASKS, paper.GAO_DISTANCES),
        alike_text(),
        "![Accuracy after transfer over distance](accuracy_over_distance.png)",
    ]


def within_text(table: pd.DataFrame) -> str:
    """How much of the correlation with accuracy is left within a target."""
    found = table["with accuracy, within a target"].str.split().str[0]
    each = [f"{value} ({kind})" for kind, value in found.items()]
    return f"""Over all pairs a target that is hard may also be far from every source. Within a
        target the correlations of distance and accuracy are {listed(each)}."""


def alike_text() -> str:
    """Where the uncoupled distance of that sentence is from, if not from the tables above."""
    name = tables.COUPLED_SWEEPS[0]
    if name in distance_sweeps():
        return ""
    return f"""For that count both distances are of transfers that train as long as those of the
        coupled distance; so the uncoupled ones are not those of the tables above, whose transfers
        train longer. {tables.origin(name, tables.stored(name))}"""


def smallest_p(kinds: int) -> str:
    """How extreme an order of the tasks must be to decide, after Holm over kinds of distance."""
    orders = factorial(len(paper.GAO_TASKS))
    enough = max(n for n in range(orders) if kinds * n / orders < statistics.SIGNIFICANT)
    needed = "is the most extreme of all" if enough == 1 else f"is among the {enough} most extreme"
    return f"""With {orders} orders the smallest p is {1 / orders:.1g}; after Holm over {kinds}
        kind{"s" if kinds > 1 else ""} of distance nothing is decided unless the given order
        {needed} for one kind."""


def measured(rows: pd.DataFrame) -> str:
    """How the lengths of these rows were measured."""
    partitions = f"Paths are cut into {int(rows.partitions.dropna().iloc[0])} partitions."
    iterated = rows[rows.method == "ct-iterated"]
    if iterated.empty:
        return partitions
    iterations = int(iterated.coupled_iterations.iloc[0])
    blocks = int(iterated.coupled_blocks.iloc[0])
    block = Coupled(blocks=blocks).block_of(CIFAR_TRAINING)
    return f"""{partitions} The coupled distance is that of iteration
        {iterations} of {iterations}, over {blocks} blocks of {block} × {block} pairs."""


def kind_seeds(kind: str, rows: pd.DataFrame) -> str:
    """How many seeds measured one kind of distance."""
    return seed_count(rows[rows.method == distances.KINDS[kind].method])
