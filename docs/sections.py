"""The sections of docs/results.md on images, from the exported rows in results/.

A section of a sweep that has no rows is empty, and is left out of its page.
"""

import numpy as np
import pandas as pd
from wording import (
    capitalised,
    method_table,
    of_sweep,
    origins,
    other_device_text,
    paragraphs,
    training,
    transfers,
)

from rtl_utils import claims, paper, statistics, tables
from rtl_utils.data import DATASETS
from rtl_utils.methods import METHODS
from rtl_utils.runs import BACKBONE
from rtl_utils.tables import listed

METHOD_SWEEPS = {"digits-methods": "digits", "cifar-methods": "cifar100"}  # sweep -> data set
FROZEN_SWEEP = "digits-frozen"
SIZES_SWEEP = "images"
PAIRS_SWEEP = "cifar-pairs"
CIFAR_VALIDATION = 500  # images of a superclass
DIFFERENCE = """A difference is the named method minus FT; UT (mixture) draws an image of the source
    or of the target where UT mixes their pixels."""
MARGINS = f"""A method keeps the shortcut out if it flips less than {100 * claims.ALLOWED:.0f}
    points more predictions than training from scratch, and loses less than
    {100 * claims.INFERIOR:.0f} points of fine-tuning's accuracy on clean images; each is
    tested one-sidedly at the 5 % level."""


def introduction() -> str:
    """What the numbers are, how claims are judged, and what one seed can say."""
    return paragraphs(
        "# Results",
        """Long runs of the notebooks, written by `docs/make.py` from the rows in `results/`.
        Numbers are means over seeds with 95 % Student t intervals; those of percentages are cut off
        at 0 and 100 %. A seed sets the weights, the order of the images, the places of the shortcut
        and, on the digits, the images themselves. The shortcut is a tennis ball.""",
        f"""With fewer than five seeds there is no interval, and the single values stand in round
        brackets. Where all values are equal there is no interval either. Counts of runs have
        Clopper-Pearson intervals. A run is stuck if its training accuracy is at most
        {100 * tables.STUCK:.0f} %: it has not learned, so its flips say nothing about the
        shortcut.""",
        """A verdict is decided by the p-values beside it. A claim is "reproduced" if its p lies
        below 0.05, "not reproduced" if the p of its opposite does (then the opposite is shown),
        and else "undecided". A claim that one value is larger is tested by Student's t, two-sided;
        a claim that two are alike by two one-sided tests (TOST). p-values are adjusted by Holm's
        method: over the pairs of claim 1, over those of claim 3, and over all comparisons of
        flips, as the notes of the sweeps on CIFAR-100 say; over the targets of claim 2, and over
        the backbones' own tasks; as their section says for the synthetic experiment; elsewhere
        over the table. p of Wilcoxon's signed-rank test against no difference stands beside them
        and decides nothing; with five seeds it cannot be below 0.06, before any adjustment. With
        fewer than five seeds there is no verdict. Pairs of tasks are never pooled. "Seeds that
        would decide" is how many give a verdict with a power of 80 %, if mean and spread stay what
        they are; it takes the level that is enough whatever the other lines say, so fewer may do. A
        section may have fewer seeds than its file in `sweeps/` asks for: then the time for training
        ended; none was stopped for what its rows say.""",
        """The notes of the sweeps, which each section quotes, say what was compared and adjusted
        before the runs: claims 1 and 3 and the flips on CIFAR-100, and most of the synthetic
        experiment. When a transfer pays, and claim 6, were declared when one seed was known. The
        other verdicts were not declared: claims 2 and 4, and all on the digits and with frozen
        statistics. Their margins stood in the code before the rows, but for the limit of 90 % in
        claim 2; that its targets are judged apart from the backbones' own tasks was decided when
        the rows were known.""",
        """On CIFAR-100 every seed is measured on the same test images, 100 per class, so intervals
        over seeds say nothing about other images.""",
        one_seed_text(),
    )


def one_seed_text() -> str:
    """What the choice of the images alone does to a difference of two accuracies on CIFAR-100."""
    rows = tables.course("cifar100")
    if rows.empty:
        return ""
    moved = transfers(rows)
    accuracy = moved.value[(moved.metric == "val_accuracy") & (moved.method == "ft")].mean()
    margin = 100 * statistics.image_margin(accuracy, CIFAR_VALIDATION)
    return f"""If two networks erred independently, two accuracies near {100 * accuracy:.0f} % on
        {CIFAR_VALIDATION} images would have a difference with a 95 % margin of ±{margin:.1f} points
        from the choice of images alone; less where they err on the same images. The choice of the
        seed adds to it. So a single seed on CIFAR-100 shows large effects only."""


def course_section(dataset: str) -> str:
    """The runs of notebooks 03 to 05 on one data set: the paper's tables and claims."""
    rows = tables.course(dataset)
    if rows.empty:
        return ""
    usual = transfers(rows)
    verdicts = claims.verdict_table(claims.course_cases(usual))
    return paragraphs(
        f"## {course_title(dataset)}",
        *origins(dataset),
        training(rows),
        f"![Every run of tables 1 to 3 and of the shortcut test]({dataset}-runs.png)",
        """Each dot is one run, each stroke the mean of a method. The controls of table 3 are drawn
        beside their table; shortcut tests from clean backbones are in the tables alone.""",
        f"### Backbones on their own task ({tables.seeds_text(rows)})",
        tables.markdown(tables.backbone_table(rows)),
        paper_backbones() if dataset == "cifar100" else "",
        *chance_parts(rows),
        before_picture(dataset, rows),
        *clean_parts(tables.without_shortcut(usual)),
        *marked_parts(dataset, rows, tables.shortcut_everywhere(usual)),
        *test_parts(dataset, tables.clean_target(usual)),
        "### Verdicts on the claims",
        f"UT is uncoupled transfer, FT is fine-tuning. {DIFFERENCE}",
        tables.markdown(verdicts) if len(verdicts) else "No pair has runs of both yet.",
        every_pair_text(usual),
        *paper_parts(usual),
    )


def paper_backbones() -> str:
    """What the paper says of its backbones on CIFAR-100."""
    training, validation = (
        f"{100 * paper.BACKBONE[metric]:.0f} %" for metric in ("train_accuracy", "val_accuracy")
    )
    return f"""Of its backbones the paper says that their training accuracy is about {training}, and
        their validation accuracy about {validation}."""


def every_pair_text(rows: pd.DataFrame) -> str:
    """Claim 1 on all pairs at once, beside its verdicts on each."""
    clean = tables.without_shortcut(rows)
    found = []
    for _, part in clean.groupby(list(tables.PAIR), sort=False):
        if {"ft", "ut"} <= set(part.method):
            difference = np.subtract(*tables.paired(part, "val_accuracy", "ut", "ft")).tolist()
            found.append(statistics.evidence(difference, "alike", claims.ALIKE).p)
    if len(found) < 2 or pd.isna(found).any():
        return ""
    return f"""Holm's method never gives a smaller p-value more than a larger one gets, so several
        of a family may come out equal. Claim 1 on all {len(found)} pairs at once would need no
        adjustment: its p is the largest of theirs, {max(found):.2g}. The sweep did not declare
        that; the verdicts are those of the pairs."""


def paper_parts(rows: pd.DataFrame) -> list[str]:
    """UT minus FT beside the paper's difference."""
    table = tables.paper_table(rows)
    if table.empty:
        return []
    return [
        """The paper has one number per cell and no interval. It is compatible with ours if it lies
        in their 95 % prediction interval: for one further run, or for the mean of three in table 3,
        whose numbers are averages of three trials. With few seeds such intervals are wide, so
        "compatible" is weak evidence.""",
        tables.markdown(table),
    ]


def course_title(dataset: str) -> str:
    """Heading of the section on a data set."""
    return f"{capitalised(DATASETS[dataset].title)}: the runs of notebooks 03 to 05"


def clean_parts(rows: pd.DataFrame) -> list[str]:
    """Transfers between clean tasks, beside the paper's tables 1 and 2."""
    if rows.empty:
        return []
    table = tables.clean_table(rows)
    beside = """The paper's distances are those of Gao & Chaudhari, of other networks and by other
        definitions; ours are on the page of [distances](distances.md). Its losses of fine-tuning
        cannot be validation losses: a wrong prediction costs at least ln 2, so they lie below what
        its accuracies allow."""
    return [
        "### Clean source and clean target, as in the paper's tables 1 and 2 "
        f"({tables.seeds_text(rows)})",
        beside if "paper: loss" in table else "",
        method_table(table),
    ]


def marked_parts(dataset: str, rows: pd.DataFrame, marked: pd.DataFrame) -> list[str]:
    """Transfers to a target with the shortcut on every image, beside the paper's table 3.

    Args:
        dataset: its name.
        rows: of the data set, with the controls.
        marked: those that were trained as usual.
    """
    if marked.empty:
        return []
    controls = tables.control_table(rows)
    stuck = claims.stuck_table(marked)
    return [
        "### Shortcut on every target image, as in the paper's table 3 "
        f"({tables.seeds_text(marked)})",
        method_table(tables.target_table(marked)),
        """What a difference of UT and FT may come from: fine-tuning to the same target under other
        conditions, training from scratch, and mixup within the target, which mixes as UT does but
        has no path. Differences are paired by seed, and their 95 % intervals are not adjusted:"""
        if len(controls)
        else "",
        tables.markdown(controls) if len(controls) else "",
        f"![Every run of table 3 and of its controls]({dataset}-controls.png)"
        if len(controls)
        else "",
        "The paper's claim 4 is that fine-tuning gets stuck in some trials, and UT rarely:"
        if len(stuck)
        else "",
        tables.markdown(stuck) if len(stuck) else "",
    ]


def test_parts(dataset: str, target: pd.DataFrame) -> list[str]:
    """The question that the paper's test cannot answer: a clean target, the shortcut at test time.

    Args:
        dataset: its name.
        target: rows of transfers to a clean target.
    """
    at_test = tables.shortcut_at_test(target)
    if at_test.empty:
        return []
    return [
        f"### Clean target, shortcut at test time only ({tables.seeds_text(at_test)})",
        """With the shortcut on every target image, the paper's test cannot see whether a network
        still uses it. Here the target's training images are clean, and the shortcut appears at test
        time only (Salman et al. 2022).""",
        f"![Flip rate over training images per class](flip_rate-{dataset}.png)",
        references(target),
        method_table(tables.size_table(target)),
    ]


def chance_parts(rows: pd.DataFrame) -> list[str]:
    """Claim 2: the biased backbone before any transfer, with the shortcut on every image."""
    table = claims.chance_table(rows)
    if table.empty:
        return []
    return [
        "### Before any transfer: is the biased backbone at chance?",
        f"""The paper's claim 2 is that it is on a target, once the shortcut is on every image, as
        it puts all images into the shortcut's class. At chance means within
        {100 * claims.NEAR_CHANCE:.0f} points of {100 * claims.CHANCE:.0f} % (two one-sided tests);
        the verdict is on that alone. The reason that the paper gives has a column of its own: does
        the 95 % interval of the share in the shortcut's class lie above
        {100 * claims.NEARLY_ALL:.0f} %?""",
        untransferred_text(rows),
        tables.markdown(table),
    ]


def before_picture(dataset: str, rows: pd.DataFrame) -> str:
    """Every backbone on its targets before any transfer, where that was measured."""
    if not clean_before(rows):
        return ""
    return f"![Every biased backbone on its targets before any transfer]({dataset}-before.png)"


def untransferred_text(rows: pd.DataFrame) -> str:
    """What a backbone's accuracy on a target is without the shortcut, before any transfer."""
    clean = clean_before(rows)
    if not clean:
        return "Only the backbones' own tasks were measured here."
    accuracies = listed(f"{100 * np.mean(values):.1f}" for values in clean)
    return f"""A backbone has never seen the target's labels: without the shortcut its accuracy
        there is {accuracies} %. {clean_text(clean)}The table has its own task too, to compare."""


def clean_text(clean: list[list[float]]) -> str:
    """On how many targets a biased backbone is at chance without the shortcut as well.

    Args:
        clean: of `clean_before`.
    """
    p = [
        statistics.evidence(beyond, "alike", claims.NEAR_CHANCE).p
        for beyond in (np.subtract(values, claims.CHANCE).tolist() for values in clean)
        if len(beyond) >= statistics.FEWEST
    ]
    near = sum(one < statistics.SIGNIFICANT for one in p)
    if not near:
        return ""
    return f"""The same test, not adjusted, says that this is at chance as well on {near} of
        {len(p)}: there claim 2 says little, and the share in the shortcut's class says more. """


def clean_before(rows: pd.DataFrame) -> list[list[float]]:
    """Accuracies of biased backbones on each target without the shortcut, before any transfer."""
    moved = rows[(rows.method == tables.BEFORE) & rows.source_shortcut.notna()]
    clean = moved[moved.metric == "clean_accuracy"].drop_duplicates([*tables.PAIR, "seed"])
    return [part.tolist() for _, part in clean.groupby(list(tables.PAIR), sort=False).value]


def references(rows: pd.DataFrame) -> str:
    """Which two references the tables of the shortcut test have."""
    clean = rows[rows.source_shortcut.isna()]
    better = """A better reference is the same method from a clean backbone: inherited flips are
        those from the biased backbone minus those from the clean one."""
    return f"""The flips of training from scratch are a reference. It may be less accurate than a
        transferred network, or more; the tables say which.
        {better if "flip_rate" in set(clean.metric) else ""}"""


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
    stuck = [name for name in table if "stuck" in name and "neither" not in name]
    return paragraphs(
        f"## {frozen_title(rows)}",
        tables.origin(name, rows),
        """The paper's headline is that UT beats FT with the shortcut on every target image. The
        paper does not say whether its networks keep their BatchNorm statistics while they are
        transferred; here are both. Is a lead of UT about the shortcut, or does fine-tuning fail to
        train? A lead from a clean source cannot come from the shortcut, and one on a clean target
        cannot come from balls in its images.""",
        training(rows),
        """Accuracies are those on validation images made like the target's training images. The
        verdict of each row is on the claim that UT is more accurate than FT. The p-values are
        adjusted over this table; the line that is claim 3, with updated statistics, keeps the
        p-values that it has above.""",
        tables.markdown(table.drop(columns=stuck)),
        """The paper's claim 4 is that FT gets stuck more often than UT: McNemar's exact test,
        two-sided, on the runs paired by seed, adjusted over the table. Its p is empty where no run
        of either is stuck.""",
        tables.markdown(table[["seeds", *stuck]]),
        frozen_text(table),
    )


def frozen_title(rows: pd.DataFrame) -> str:
    """Heading of the section on frozen statistics."""
    return f"Frozen BatchNorm statistics (cluttered digits, {tables.seeds_text(rows)})"


def frozen_text(table: pd.DataFrame) -> str:
    """What the table of frozen statistics says about the paper's headline, in sentences."""
    flat = table.reset_index()
    read = flat[(flat.images == "all") & (flat.statistics == "frozen")]
    rate = read["learning rate"].max()
    usual = read[read["learning rate"] == rate].set_index("condition")
    lower = [
        f"""With a learning rate of {line["learning rate"]:g} the stuck runs of FT are
        {line["FT stuck"]}, and UT - FT is {line["UT - FT, points"]} points ({line.verdict})."""
        for _, line in read[read["learning rate"] < rate].iterrows()
    ]
    return f"""Is a lead of UT about the shortcut? Read the lines with all images, frozen statistics
        and a learning rate of {rate:g}. {frozen_conclusion(usual)} {" ".join(lower)}"""


def frozen_conclusion(table: pd.DataFrame) -> str:
    """Whether a lead of UT with frozen statistics is about the shortcut.

    Args:
        table: lines of `claims.frozen_table`, one per condition.
    """
    marked, *others = claims.CONDITIONS
    if says(table, marked) == "not reproduced":
        return "UT does not lead, even with frozen statistics."
    if says(table, marked) != "reproduced":
        return "These do not decide whether UT leads with frozen statistics."
    elsewhere = [f'"{where}"' for where in others if says(table, where) == "reproduced"]
    if elsewhere:
        lead = f"""With frozen statistics a lead of UT does not need the shortcut on both
            sides: UT also leads with {listed(elsewhere)}."""
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
            least partly a failure of optimisation."""
    return f"Claim 4, that FT is stuck more often, is {verdict} there."


def says(table: pd.DataFrame, condition: str) -> str:
    """The verdict of a condition; empty where it was not run."""
    return str(table.verdict[condition]) if condition in table.index else ""


@of_sweep
def sizes_section(name: str, stored: pd.DataFrame) -> str:
    """When does transfer pay? Accuracy over the number of clean target images."""
    rows = tables.in_order(stored[stored.method != BACKBONE])
    cases = [
        claims.Case(
            f"{short} is more accurate than training from scratch, {tables.images_text(size)}",
            part,
            "val_accuracy",
            "above",
            a=method,
            b="scratch",
            family=method,
        )
        for method, short in (("ft", "FT"), ("ut", "UT"))
        for size, part in tables.by_images(rows).items()
    ]
    return paragraphs(
        f"## When does transfer pay? (CIFAR-100, {tables.seeds_text(rows)})",
        tables.origin(name, stored),
        f"""Clean sources and clean targets; FT is fine-tuning, UT uncoupled transfer. A transfer
        pays where it is more accurate than training from scratch on the same images. p-values are
        adjusted over all lines of FT, and over all of UT. {training(stored)}""",
        other_device_text(stored),
        "![Accuracy over target images per class](sizes.png)",
        tables.markdown(claims.verdict_table(cases)),
    )


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
        other_device_text(rows),
        references(target),
        f"![Flip rate over accuracy without shortcut, one marker per method]({name}.png)",
    ]
    for size, part in tables.by_images(target).items():
        heading = capitalised(tables.images_text(size))
        parts += method_parts(heading, part, answered[size])
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


def method_parts(heading: str, rows: pd.DataFrame, answered: pd.DataFrame) -> list[str]:
    """Tables and sentences on all methods in one setting.

    Args:
        heading: of the setting.
        rows: of the setting, from biased and from clean sources.
        answered: of the answers, from a biased source.
    """
    shown = tables.shortcut_columns(rows, ["method"])
    everything = [method for method in METHODS if method in shown.index]
    stuck = tables.shortcut_columns(answered, ["method"]).get("stuck runs", "")
    answers = answers_of(answered).assign(**{"stuck runs": stuck})
    known = {"user must know": [METHODS[method].knows for method in everything]}
    return [
        f"### {heading}",
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
    return f"""Iso-classification moves on along its path when its loss is low enough, or else after
        a fixed number of steps. That limit, and not the loss, made {", ".join(said)} of its moves.
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
        other_device_text(rows),
        unlearned_text(rows),
        method_table(table.loc[[place for place in order if place in table.index]]),
        *chance_parts(rows),
    )


def unlearned_text(rows: pd.DataFrame) -> str:
    """Which biased backbones did not learn the shortcut: their rows test nothing."""
    shares = tables.shortcut_shares(rows)
    lost = shares[shares < tables.LEARNED]
    if lost.empty:
        return ""
    said = [f"of {source} ({100 * share:.0f} %)" for source, share in lost.items()]
    return f"""A biased backbone puts marked images of its own task into the shortcut's class. Where
        it does so with less than {100 * tables.LEARNED:.0f} % of them, it has not learned the
        shortcut, and the flips of its rows say nothing of a shortcut: here the backbone
        {listed(said)}."""


def sweep_title(name: str) -> str:
    """The data set and pair of a sweep over methods."""
    rows = tables.stored(name)
    moved = rows[rows.method != BACKBONE].iloc[0]
    title = DATASETS[METHOD_SWEEPS[name]].title
    return f"{title}, {moved.source} → {moved.target}"
