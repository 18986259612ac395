"""The sections of docs/results.md and docs/distances.md, from the exported rows in results/.

A section of a sweep that has no rows is empty, and is left out of its page.
"""

import textwrap
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from math import factorial

import numpy as np
import pandas as pd

from rtl_utils import claims, distances, paper, statistics, tables
from rtl_utils.coupled import Coupled
from rtl_utils.data import DATASETS
from rtl_utils.methods import METHODS
from rtl_utils.runs import BACKBONE
from rtl_utils.store import FINAL
from rtl_utils.tables import BEFORE, listed, seed_count

NOTEBOOKS = ("digits", "cifar100")  # data sets; their sweeps have the notebooks' runs
METHOD_SWEEPS = {"digits-methods": "digits", "cifar-methods": "cifar100"}  # sweep -> data set
FROZEN_SWEEP = "digits-frozen"
MAP_SWEEPS = ("digits-map", "cifar-map")
PAIRS_SWEEP = "cifar-pairs"
BEFORE_SWEEP = "cifar-before"
SYNTHETIC_SWEEP = "synthetic"
DISTANCE_SWEEPS = ("distances", "coupled-distances")
TRANSFERS = (BEFORE, "scratch", "ft", "fixed", "ut", "ut-mixture")
# parts of the file names of pictures
CONDITION_NAMES = dict(
    zip(claims.CONDITIONS, ("marked", "clean-target", "clean-source", "clean"), strict=True)
)
CIFAR_TRAINING = 2_500  # images of a superclass
CIFAR_VALIDATION = 500
POINTS = f"{100 * claims.ALIKE:.0f}"
MARGINS = f"""A method keeps the shortcut out if it flips less than {100 * claims.ALLOWED:.0f}
    points more predictions than training from scratch, and loses less than
    {100 * claims.INFERIOR:.0f} points of fine-tuning's accuracy on clean images; each is
    tested one-sidedly at the 5 % level."""


def of_sweep(section: Callable[[str, pd.DataFrame], str]) -> Callable[[str], str]:
    """The section of a sweep, by its name alone; empty where the sweep has no rows."""

    @wraps(section)
    def build(name: str) -> str:
        rows = tables.stored(name)
        return section(name, rows) if len(rows) else ""

    return build


# --- the page of results --------------------------------------------------------------------------


def introduction() -> str:
    """What the numbers are, how claims are judged, and what one seed can say."""
    return paragraphs(
        "# Results",
        """Long runs of notebooks 03 to 06, written by `docs/make.py` from the rows in `results/`.
        Numbers are means over seeds with 95 % Student t intervals, which may leave the
        possible range where runs crowd at its edge. A seed sets the weights, the order of
        the images, the places of the shortcut and, on the digits, the images themselves.
        The shortcut is a tennis ball.""",
        f"""There is no interval for fewer than three seeds, or where all values are equal. Counts
        of runs have Clopper-Pearson intervals. A run is stuck if its training accuracy is at most
        {100 * tables.STUCK:.0f} %: it has not learned, so its flips say nothing about the
        shortcut.""",
        """A verdict is decided by the p-values beside it, which are adjusted by Holm's method over
        the table: "reproduced" if p lies below 0.05, "not reproduced" if p of the opposite does,
        else "undecided". A claim that one value is larger is tested by Student's t, two-sided; a
        claim that two are alike by two one-sided tests (TOST). p of Wilcoxon's signed-rank test
        against no difference stands beside them and decides nothing. With fewer than three seeds
        (five on CIFAR-100) there is no verdict. Pairs of tasks are never pooled. The seeds that
        would decide what is undecided do so in four of five such experiments, if mean and spread
        stay what they are, and without an adjustment for other claims.""",
        one_seed_text(),
    )


def one_seed_text() -> str:
    """What the choice of the images alone does to a difference of two accuracies on CIFAR-100."""
    rows = tables.stored("cifar100")
    if rows.empty:
        return ""
    clean = tables.without_shortcut(transfers(rows))
    accuracy = clean.value[(clean.metric == "val_accuracy") & (clean.method == "ft")].mean()
    margin = 100 * statistics.image_margin(accuracy, CIFAR_VALIDATION)
    return f"""Two accuracies near {100 * accuracy:.0f} % that are measured on {CIFAR_VALIDATION}
        images each have a difference with a 95 % margin of ±{margin:.1f} points from the choice of
        images alone; the choice of the seed adds to it. So the sections on CIFAR-100 with one seed
        show large effects only."""


@of_sweep
def notebook_section(name: str, stored: pd.DataFrame) -> str:
    """The runs of notebooks 03 to 05 on one data set."""
    rows = tables.in_order(stored)
    usual = transfers(rows)
    clean = tables.without_shortcut(usual)
    marked = tables.shortcut_everywhere(usual)
    target = tables.clean_target(usual)
    at_test = tables.shortcut_at_test(usual)
    picture = "![Flip rate over training images per class](flip_rate.png)"
    return paragraphs(
        f"## {capitalised(DATASETS[name].title)}: the runs of notebooks 03 to 05",
        tables.origin(name, rows),
        training(rows),
        f"### Backbones on their own task ({tables.seeds_text(rows)})",
        tables.markdown(tables.backbone_table(rows)),
        *chance_parts(rows),
        "### Clean source and clean target, as in the paper's tables 1 and 2 "
        f"({tables.seeds_text(clean)})",
        method_table(tables.clean_table(clean)),
        "### Shortcut on every target image, as in the paper's table 3 "
        f"({tables.seeds_text(marked)})",
        method_table(tables.target_table(marked)),
        "Fine-tuning to the same target under other conditions:",
        tables.markdown(tables.control_table(rows)),
        f"### Clean target, shortcut at test time only ({tables.seeds_text(at_test)})",
        picture if name == "digits" else "",
        references(target),
        method_table(tables.size_table(target)),
        "### Verdicts on the claims",
        "UT is uncoupled transfer, FT is fine-tuning.",
        tables.markdown(claims.verdict_table(claims.course_cases(usual))),
    )


def chance_parts(rows: pd.DataFrame) -> list[str]:
    """Claim 2: the biased backbone before any transfer, with the shortcut on every image."""
    table = claims.chance_table(rows)
    if table.empty:
        return []
    return [
        "### Before any transfer: is the biased backbone at chance?",
        f"""The paper's claim 2 is that it is, once the shortcut is on every image. At chance means
        within {100 * claims.NEAR_CHANCE:.0f} points of {100 * claims.CHANCE:.0f} % (two one-sided
        tests).""",
        tables.markdown(table),
    ]


def references(rows: pd.DataFrame) -> str:
    """Which two references the tables of the shortcut test have."""
    clean = rows[rows.source_shortcut.isna()]
    better = """Inherited flips have a better one, the same method from a clean backbone: they are
        the flips from the biased backbone minus those."""
    return f"""The flips of training from scratch are a reference, but with few images it is less
        accurate than a transferred network. {better if "flip_rate" in set(clean.metric) else ""}"""


def steps_section() -> str:
    """Whether few images or few steps make the flips."""
    parts = []
    shown = []
    for name in ("digits", "digits-methods"):
        rows = tables.stored(name)
        if rows.empty:
            continue
        table = tables.steps_table(tables.in_order(tables.shortcut_at_test(rows)))
        if table.empty:
            continue
        shown.append(table)
        parts += [f"From `results/{name}/`:", method_table(table)]
    if not parts:
        return ""
    return paragraphs(
        "## Few images or few steps?",
        """With the same number of epochs, few images also mean few steps of SGD. So each comparison
        of numbers of images has a third run: few images, trained for as many steps as all images.
        "Fewer steps" is the flip rate after few steps minus that after as many steps as with all
        images; "fewer images" is the latter minus the flip rate with all images. All numbers of a
        row are of the seeds that have all three runs.""",
        steps_text(pd.concat(shown)),
        *parts,
    )


def steps_text(table: pd.DataFrame) -> str:
    """How much of the flips is due to the number of steps, for fine-tuning."""
    sentences = []
    for (*_, size, method), line in table.iterrows():
        if method == "ft":
            sentences.append(
                f"Flips of fine-tuning with {tables.images_text(size)} beyond those with all "
                "images: "
                f"{line['fewer steps, points']} points for fewer steps, "
                f"{line['fewer images, points']} points for fewer images."
            )
    return " ".join(sentences)


@of_sweep
def frozen_section(name: str, rows: pd.DataFrame) -> str:
    """UT and FT with frozen BatchNorm statistics: is the paper's headline one of optimisation?"""
    table = claims.frozen_table(claims.frozen_cases(rows))
    return paragraphs(
        f"## Frozen BatchNorm statistics (cluttered digits, {tables.seeds_text(rows)})",
        tables.origin(name, rows),
        """The paper's headline is that UT beats FT with the shortcut on every target image. The
        paper does not say whether its networks keep their BatchNorm statistics while they are
        transferred; here are both. Is a lead of UT about the shortcut, or does fine-tuning fail to
        train, so that the path serves as a warm-up? A lead from a clean source cannot come from the
        shortcut, and one on a clean target cannot come from balls in its images.""",
        training(rows),
        """Accuracies are those on validation images made like the target's training images. The
        verdict of each row is on the claim that UT is more accurate than FT. Last comes the paper's
        claim 4, that FT gets stuck more often than UT: McNemar's exact test, two-sided, on the runs
        paired by seed. Its p is empty where no run of either is stuck. All p-values are adjusted
        over this table, so where it repeats a comparison of a shorter table its p is larger.""",
        frozen_text(table),
        tables.markdown(table),
    )


def frozen_text(table: pd.DataFrame) -> str:
    """What the table of frozen statistics says about the paper's headline, in sentences."""
    flat = table.reset_index()
    flat = flat[flat.images == "all"]
    rates = flat["learning rate"]
    sentences = []
    for (rate, kind), part in flat.groupby(["learning rate", "statistics"]):
        said = [
            f'{line["UT - FT, points"]} points ("{line.condition}": {line.verdict})'
            for _, line in part.iterrows()
        ]
        where = f"All images, learning rate {rate:g}, {kind} statistics"
        sentences.append(f"{where}: UT - FT is {listed(said)}.")
    usual = flat[(rates == rates.max()) & (flat.statistics == "frozen")].set_index("condition")
    return " ".join([*sentences, frozen_conclusion(usual)])


def frozen_conclusion(table: pd.DataFrame) -> str:
    """Whether a lead of UT with frozen statistics is about the shortcut.

    Args:
        table: lines of `claims.frozen_table`, one per condition.
    """
    marked, *others = claims.CONDITIONS
    if says(table, marked) == "not reproduced":
        return "So UT does not lead, even with frozen statistics."
    if says(table, marked) != "reproduced":
        return "That does not decide whether UT leads with frozen statistics."
    elsewhere = [f'"{where}"' for where in others if says(table, where) == "reproduced"]
    if elsewhere:
        lead = f"""So with frozen statistics a lead of UT does not need the shortcut on both sides:
            UT also leads with {listed(elsewhere)}."""
    else:
        # a lead that was not shown is not shown to be absent
        each = [f'"{where}": {says(table, where) or "not run"}' for where in others]
        lead = f"""With frozen statistics UT leads with the shortcut on both sides; in the other
            conditions a lead was not shown ({"; ".join(each)})."""
    return f"{lead} {stuck_conclusion(table.loc[marked])}"


def stuck_conclusion(line: "pd.Series[str]") -> str:
    """Whether a lead of UT is a failure of optimisation, by the verdict on claim 4 beside it."""
    verdict = line[claims.CLAIM_4]
    if verdict == "reproduced":
        return f"""FT is stuck more often than UT there (claim 4: {verdict}), so the lead is at
            least partly a failure of optimisation, with the path as a warm-up."""
    return f"Claim 4, that FT is stuck more often, is {verdict} there."


def says(table: pd.DataFrame, condition: str) -> str:
    """The verdict of a condition; empty where it was not run."""
    return str(table.verdict[condition]) if condition in table.index else ""


@of_sweep
def map_section(name: str, rows: pd.DataFrame) -> str:
    """Accuracy of FT and UT over learning rate, momentum, network and kind of statistics."""
    found = claims.map_rows(rows)
    title = DATASETS[found.dataset.iloc[0]].title
    pictures = [
        f"![{capitalised(str(condition))}]({name}-{CONDITION_NAMES[str(condition)]}.png)"
        for condition in found.condition.unique()
    ]
    pair = f"{found.source.iloc[0]} → {found.target.iloc[0]}"
    return paragraphs(
        f"## When does UT lead? A map ({title}, {pair}, {tables.seeds_text(rows)})",
        tables.origin(name, rows),
        f"""FT and UT with updated and with frozen BatchNorm statistics, and in networks without
        BatchNorm ("none"), over {varied(found)}. Backbones train for
        {rows.epochs[rows.method == BACKBONE].mode()[0]} epochs, transfers for
        {found.epochs.mode()[0]}. {crossed(found)} A cell is a mean over {seed_count(found)}; the
        count is of cells where the mean of one method lies more than {POINTS} points above that of
        the other. Where a run diverged, its cell is empty and not counted. The counts are
        descriptive; nothing is tested. {lowest(found)}""",
        tables.markdown(leads(found)),
        *pictures,
    )


def varied(rows: pd.DataFrame) -> str:
    """What differs between the cells of a map, beside the kind of statistics."""
    names = {"lr": "learning rate", "momentum": "momentum", "width": "width"}
    return listed(name for column, name in names.items() if rows[column].nunique() > 1)


def crossed(rows: pd.DataFrame) -> str:
    """Which settings of a map were run in its first condition only."""
    first = rows.condition == claims.CONDITIONS[0]
    named = {"momentum": "momentum {:g}", "width": "network `{}`"}
    only = [
        text.format(value)
        for column, text in named.items()
        for value in sorted(set(rows[column][first]) - set(rows[column][~first]))
    ]
    if first.all() or not only:
        return ""
    return f"Only the first condition was run with {listed(only)}."


def map_means(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracy of every cell of a map, one column per method."""
    accuracy = rows[rows.metric == "val_accuracy"]
    cell = ["condition", "statistics", "width", "momentum", "lr"]
    return accuracy.pivot_table(index=cell, columns="method", values="value", aggfunc="mean")


def lowest(rows: pd.DataFrame) -> str:
    """How near to chance either method comes, per kind of statistics."""
    low = 100 * map_means(rows).groupby("statistics").min()
    said = [f"{kind}: FT {line.ft:.0f} %, UT {line.ut:.0f} %" for kind, line in low.iterrows()]
    return f"The lowest cells are, by the kind of statistics, {listed(said)}."


def leads(rows: pd.DataFrame) -> pd.DataFrame:
    """In how many cells of a map UT leads, FT leads, or neither does."""
    means = map_means(rows)
    lead = (means["ut"] - means["ft"]).dropna()
    counts = pd.DataFrame(
        {"UT leads": lead > claims.ALIKE, "FT leads": lead < -claims.ALIKE, "cells": True}
    )
    found = counts.groupby(["condition", "statistics"]).sum().reset_index()
    place = found.condition.map(list(claims.CONDITIONS).index)
    order = found.assign(_place=place).sort_values(
        ["_place", "statistics"], ascending=[True, False]
    )
    return order.drop(columns="_place").set_index(["condition", "statistics"])


@of_sweep
def method_section(name: str, rows: pd.DataFrame) -> str:
    """The shortcut test of all methods, at each number of target images."""
    target = tables.clean_target(rows)
    answered = settings_of(name)
    parts = [
        f"## Every method in the shortcut test ({sweep_title(name)}, {tables.seeds_text(rows)})",
        tables.origin(name, rows),
        f"""The source has the shortcut on one class, the target is clean, and the shortcut appears
        at test time. {MARGINS} The p of "yes" is the larger one of both tests, the p of "no" twice
        the smaller one of the reversed tests, each adjusted by Holm's method over the methods; the
        answer is the one whose p lies below 0.05, else "undecided". The ends of a 90 % interval
        are one-sided 95 % bounds. In the picture the shaded corner is "yes" by the means. The
        methods and their sources are listed in `rtl_utils/methods.py`. {longer_sweep(name)}""",
        f"{training(rows)} {steps_differ(target)}",
        references(target),
        f"![Flip rate over accuracy without shortcut, one marker per method]({name}.png)",
    ]
    for size, part in tables.by_images(target).items():
        parts += method_parts(size, part, answered[size])
    return paragraphs(*parts, *coupled_parts(rows), capped_text(rows))


def longer_sweep(name: str) -> str:
    """That answers also use the rows of the notebooks' sweep, where they do."""
    if name != "digits-methods" or tables.stored("digits").empty:
        return ""
    return """Where `results/digits/` has more seeds of a method, its answer uses those, and the
        table of answers counts the seeds; the other table and the picture are of this sweep."""


def steps_differ(rows: pd.DataFrame) -> str:
    """A warning where two numbers of images have no runs of equal steps."""
    sizes = tables.by_images(rows)
    if len(sizes) < 2 or rows.groupby("n_train", dropna=False).epochs.nunique().max() > 1:
        return ""
    return """The sizes also differ in steps of SGD, so they must not be compared with each
        other."""


def settings_of(name: str) -> dict[str, pd.DataFrame]:
    """Number of images -> rows of all methods from a biased source that are judged together."""
    if name == "digits-methods":
        return digits_settings()
    return tables.by_images(tables.shortcut_at_test(tables.stored(name)))


def digits_settings() -> dict[str, pd.DataFrame]:
    """Number of images -> rows of all methods from a biased source, each from its longer sweep."""
    settings = tables.by_images(tables.shortcut_at_test(tables.stored("digits-methods")))
    rows = tables.stored("digits")
    more = tables.by_images(tables.shortcut_at_test(transfers(rows))) if len(rows) else {}
    for size in settings.keys() & more.keys():
        part = settings[size]
        seeds = more[size].groupby("method").seed.nunique()
        longer = seeds[seeds > part.groupby("method").seed.nunique().reindex(seeds.index).fillna(0)]
        own = part[~part.method.isin(longer.index)]
        from_longer = more[size][more[size].method.isin(longer.index)]
        settings[size] = pd.concat([from_longer, own], ignore_index=True)
    return settings


def method_parts(size: str, rows: pd.DataFrame, answered: pd.DataFrame) -> list[str]:
    """Tables and sentences on all methods at one number of target images.

    Args:
        size: a key of `tables.by_images`.
        rows: of this sweep.
        answered: of the answers, see `settings_of`.
    """
    shown = tables.shortcut_columns(rows, ["method"])
    everything = [method for method in METHODS if method in shown.index]
    stuck = tables.shortcut_columns(answered, ["method"]).get("stuck runs", "")
    answers = answers_of(answered).assign(**{"stuck runs": stuck})
    known = {"user must know": [METHODS[method].knows for method in everything]}
    return [
        f"### {capitalised(tables.images_text(size))}",
        method_table(shown.loc[everything].assign(**known)),
        f"{claims.passing(answers)} {power_of(answered)}",
        method_table(answers),
    ]


def answers_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Which of the trained methods keep the shortcut out.

    Args:
        rows: of one number of images, from a biased source.
    """
    return claims.keeps_out(rows, claims.judged(rows))


def power_of(rows: pd.DataFrame) -> str:
    """What `answers_of` can find."""
    return claims.power_text(rows, claims.judged(rows))


def coupled_parts(rows: pd.DataFrame) -> list[str]:
    """The paper's sentence that a coupling can only help, with verdicts."""
    cases = []
    for size, part in tables.by_images(tables.shortcut_at_test(rows)).items():
        where = tables.images_text(size)
        couple = {"a": "ct", "b": "ut"}
        cases += [
            claims.Case(f"fewer flips ({where})", part, "flip_rate", "below", **couple),
            claims.Case(f"more accurate ({where})", part, "clean_accuracy", "above", **couple),
        ]
    table = claims.verdict_table(cases)
    if table.empty:
        return []
    return [
        "### Can a coupling only help?",
        """The paper's section 2.3 says that coupled transfer (CT) can only do better than
        uncoupled transfer (UT).""",
        tables.markdown(table),
    ]


def capped_text(rows: pd.DataFrame) -> str:
    """How often the cap, and not the controller, moved iso-classification along its path."""
    shares = tables.shortcut_at_test(rows)
    shares = shares[shares.metric == "capped_share"]
    if shares.empty:
        return ""
    said = [
        f"{tables.summary(part, {'capped_share': ('share', 100, 1)}, ['metric']).iloc[0, 0]} % "
        f"({tables.images_text(size)})"
        for size, part in tables.by_images(shares).items()
    ]
    return f"""Iso-classification moves along its path when its loss allows it, or at the latest
        when its cap does. Share of its steps of τ that the cap forced: {", ".join(said)}.
        A fifth of the target's training images steer it and are not trained on, so it takes a fifth
        fewer steps than the other methods."""


@of_sweep
def pairs_section(name: str, rows: pd.DataFrame) -> str:
    """All methods on the paper's three pairs, from a clean and from a biased source."""
    moved = tables.clean_target(rows)
    table = tables.shortcut_test_table(moved)
    order = [(*pair, method) for pair in paper.TABLES for method in METHODS]
    more = tables.shortcut_columns(moved, ["source", "target", "method"])
    table = table.join(more[[name for name in more if name not in table]])
    return paragraphs(
        f"## Every method on the paper's three pairs (CIFAR-100, {tables.seeds_text(rows)})",
        tables.origin(name, rows),
        """The first column of numbers is the accuracy of a transfer without any shortcut; the
        others are those of the shortcut test in the sections above. Two pairs share their target,
        so they are not independent, and no row pools pairs.""",
        training(rows),
        method_table(table.loc[[place for place in order if place in table.index]]),
        *chance_parts(rows),
    )


@of_sweep
def before_section(name: str, rows: pd.DataFrame) -> str:
    """Our biased backbones on the targets of the paper's three pairs, with nothing trained."""
    epochs = rows.epochs[rows.method == BACKBONE].mode()[0]
    return paragraphs(
        "## Our biased backbones on the targets of the paper's three pairs "
        f"(CIFAR-100, {tables.seeds_text(rows)})",
        tables.origin(name, rows),
        f"Backbones train for {epochs} epochs; nothing is transferred.",
        *chance_parts(rows),
    )


# --- the page of distances ------------------------------------------------------------------------


def distances_page() -> str:
    """What the matrices over the paper's five superclasses say."""
    rows = distance_rows()
    matrices = matrices_of(rows)
    if "fine-tuning" not in matrices:
        return "# Distances between tasks\n\nNo rows yet.\n"
    page = paragraphs(
        "# Distances between tasks",
        """How far a network must go from one superclass of CIFAR-100 to another, on the five
        superclasses of Gao & Chaudhari (2021); written by `docs/make.py` from the rows in
        `results/`.""",
        *[
            tables.origin(name, tables.stored(name))
            for name in DISTANCE_SWEEPS
            if len(tables.stored(name))
        ],
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
    without = [
        distances.KINDS[kind].title
        for kind, matrix in matrices.items()
        if pd.isna(matrix.low[matrix.off_diagonal]).all()
    ]
    parts = [
        "## Our numbers",
        f"""Means with 95 % intervals: over seeds, or with one seed over blocks of pairs (coupled)
        or over pairs (the others). {no_interval(without)}""",
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


def no_interval(titles: list[str]) -> str:
    """Which distances have no interval here."""
    return f"There is no interval for the {listed(titles)}." if titles else ""


def ranks_section(matrices: Mapping[str, distances.Matrix], rows: pd.DataFrame) -> list[str]:
    """How the distances agree with each other, with the published ones and with accuracy."""
    table = claims.rank_table(matrices, rows, paper.GAO_DISTANCES)
    tested = int((table["p of falling, Holm"] != "").sum())
    return [
        "## Do the distances agree, and does accuracy fall with distance?",
        f"""Spearman's rank correlations over the ordered pairs. Pairs that share a task are not
        independent: the 95 % intervals leave out one task with all its pairs at a time (jackknife),
        and are wide with five tasks. "Within a target" subtracts from each accuracy and distance
        the mean of its target. Claim 6 of the paper is that accuracy falls as distance grows; its p
        is the share of the {factorial(len(paper.GAO_TASKS))} orders of the tasks that give a
        correlation as low, adjusted by Holm's method over the kinds of distance. The paper makes
        that claim of the fine-tuning distance; it is asked here of every kind, so the adjustment is
        over all. {smallest_p(tested or len(table))} The last four columns ask the same of Gao &
        Chaudhari's published distances and our accuracies; their Riemannian length is the one that
        they call fine-tuning distance.""",
        tables.markdown(table),
        claims.coupled_text(rows, paper.GAO_TASKS, paper.GAO_DISTANCES),
        "![Accuracy after transfer over distance](accuracy_over_distance.png)",
    ]


def smallest_p(kinds: int) -> str:
    """How extreme an order of the tasks must be to decide, after Holm over kinds of distance."""
    orders = factorial(len(paper.GAO_TASKS))
    enough = max(n for n in range(orders) if kinds * n / orders < statistics.SIGNIFICANT)
    needed = "is the most extreme of all" if enough == 1 else f"is among the {enough} most extreme"
    return f"""With {orders} orders the smallest p is {1 / orders:.1g}; after Holm over {kinds}
        kind{"s" if kinds > 1 else ""} of distance nothing is decided unless the given order
        {needed} for one kind."""


def distance_rows() -> pd.DataFrame:
    """Rows of both sweeps over all pairs of tasks."""
    return pd.concat([tables.stored(name) for name in DISTANCE_SWEEPS], ignore_index=True)


def matrices_of(rows: pd.DataFrame) -> dict[str, distances.Matrix]:
    """Our matrix of each kind that has rows."""
    metrics = set(rows.metric) if len(rows) else set()
    return {
        kind: distances.matrix(rows, paper.GAO_TASKS, kind)
        for kind, record in distances.KINDS.items()
        if record.metric in metrics and record.method in set(rows.method)
    }


def measured(rows: pd.DataFrame) -> str:
    """How the lengths of these rows were measured."""
    iterated = rows[rows.method == "ct-iterated"]
    if iterated.empty:
        return ""
    iterations = int(iterated.coupled_iterations.iloc[0])
    blocks = int(iterated.coupled_blocks.iloc[0])
    block = Coupled(blocks=blocks).block_of(CIFAR_TRAINING)
    partitions = int(rows.partitions.dropna().iloc[0])
    return f"""Paths are cut into {partitions} partitions. The coupled distance is that of iteration
        {iterations} of {iterations}, over {blocks} blocks of {block} × {block} pairs."""


# --- the synthetic experiment ---------------------------------------------------------------------


@of_sweep
def synthetic_section(name: str, stored: pd.DataFrame) -> str:
    """Figure 2a and claim 5: the target models without and with the lasso."""
    rows = tables.in_order(stored)
    loss = statistics.mean_interval(final(rows[rows.method == BACKBONE], "val_loss")).text(3)
    parts = [
        "## The synthetic experiment: figures 2a to 2c and claim 5",
        tables.origin(name, rows),
        f"""50 features; 0 to 19 are spurious for the target, whose first 20 columns are permuted.
        Figure 2a gives the trained models the original columns back. Losses are squared errors in
        variances of the response. The backbone's validation loss is {loss} here and
        {paper.SYNTHETIC[BACKBONE]} in the paper. The rise is the restored loss minus the permuted
        one; claim 5 is that it is not larger for a transfer than for training from scratch, and it
        is tested as in notebook 01: does the rise lie below that of scratch?""",
        "![Losses on the three views](synthetic.png)",
    ]
    for l1, part in target_models(rows).items():
        rises = tables.with_rise(part)
        table = tables.summary(rises, tables.VIEWS | tables.RISE, by=["method"])
        table["paper: permuted"] = [f"{paper.SYNTHETIC[m]:.3f}" for m in table.index]
        parts += [
            f"### {capitalised(lasso_text(l1))} ({tables.seeds_text(part)})",
            tables.markdown(table.rename(index=tables.label)),
            tables.markdown(claims.rise_table(rises)),
        ]
    return paragraphs(*parts, *lime_parts(rows))


def lime_parts(rows: pd.DataFrame) -> list[str]:
    """Figures 2b and 2c: LIME weights of the backbone and of target models without the lasso."""
    plain, *_ = target_models(rows).values()
    models = pd.concat([rows[rows.method == BACKBONE], plain])
    table = tables.summary(models, tables.LIME, by=["method"]).rename(index=tables.label)
    return [
        f"""### LIME, as in the paper's figures 2b and 2c ({tables.seeds_text(models)})""",
        """Mean |LIME weight| over 20 validation points per seed, in outputs per standard deviation
        of a feature; the backbone is explained on its own task. The paper finds large weights of
        the spurious features for the backbone (2c), small ones for the target models, and mostly
        smaller ones for UT than for FT (2b).""",
        tables.markdown(table),
        tables.markdown(claims.lime_table(models)),
    ]


def target_models(rows: pd.DataFrame) -> dict[float, pd.DataFrame]:
    """Lasso penalty of the target models -> their rows."""
    models = rows[rows.method != BACKBONE]
    return dict(iter(models.groupby(models.l1.fillna(0.0))))


def lasso_text(l1: float) -> str:
    """What the target models were trained with."""
    return f"with a lasso of {l1:g} on the first layer" if l1 else "without the lasso"


def final(rows: pd.DataFrame, metric: str) -> list[float]:
    """The values of a metric after training."""
    return rows.value[(rows.metric == metric) & (rows.epoch == FINAL)].tolist()


# --- rows and texts -------------------------------------------------------------------------------


def transfers(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the compared methods, trained as usual or longer: not those of the controls."""
    return tables.as_usual(rows[rows.method.isin(TRANSFERS)])


def training(rows: pd.DataFrame) -> str:
    """How the rows' networks were trained, in sentences."""
    backbones = rows[rows.method == BACKBONE]
    moved = rows[(rows.method != BACKBONE) & (rows.method != BEFORE)]
    usual = tables.clean_target(moved)  # controls of other lengths have the shortcut on the target
    lengths = {}
    for size, part in usual.groupby(usual.n_train.fillna(np.inf)):
        text = tables.images_text("all" if size == np.inf else f"{size:.0f}")
        lengths[text] = " or ".join(f"{n:.0f}" for n in sorted(part.epochs.unique()))
    if len(set(lengths.values())) == 1:
        transfer = f"{next(iter(lengths.values()))} epochs"
    else:
        each = [f"{epochs} epochs with {size}" for size, epochs in lengths.items()]
        transfer = listed(each)
    sentences = [
        f"Network `{rows.width.mode()[0]}`; SGD with learning rate {moved.lr.mode()[0]:g}, "
        f"momentum {rows.momentum.mode()[0]:g} and mini-batches of {rows.batch_size.mode()[0]}.",
        f"Backbones train for {backbones.epochs.mode()[0]} epochs, transfers for {transfer}.",
    ]
    iterated = rows[rows.method == "ct-iterated"]
    if len(iterated):
        times = int(iterated.coupled_iterations.iloc[0])
        sentences.append(f"An iterated coupling trains {times} times as long.")
    return " ".join(sentences)


def commands(names: Iterable[str]) -> str:
    """The commands that made the rows, as their manifests name them, and the one for this page."""
    manifests = {name: tables.stored_manifest(name) for name in names}
    made = [f"- `results/{name}/`: {said['command']}" for name, said in manifests.items() if said]
    page = "- this page and its pictures: `.venv/bin/python docs/make.py`"
    return "\n".join(["## How these were made", "", *made, page])


def method_table(table: pd.DataFrame) -> str:
    """A table with methods in its index as Markdown, with their labels."""
    return tables.markdown(table.rename(index=tables.label, level="method"))


def sweep_title(name: str) -> str:
    """The data set and pair of a sweep over methods."""
    rows = tables.stored(name)
    moved = rows[rows.method != BACKBONE].iloc[0]
    title = DATASETS[METHOD_SWEEPS[name]].title
    return f"{title}, {moved.source} → {moved.target}"


def kind_seeds(kind: str, rows: pd.DataFrame) -> str:
    """How many seeds measured one kind of distance."""
    return seed_count(rows[rows.method == distances.KINDS[kind].method])


def uncapitalised(text: str) -> str:
    """The text with its first letter in lower case."""
    return text[:1].lower() + text[1:]


def capitalised(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def paragraphs(*parts: str) -> str:
    """Parts of a page with empty lines between; prose is wrapped, the rest stays as it is."""
    return "\n\n".join(_wrapped(part) for part in parts if part)


def _wrapped(part: str) -> str:
    if part.startswith(("#", "|", "!")):
        return part
    return textwrap.fill(" ".join(part.split()), 100, break_on_hyphens=False)
