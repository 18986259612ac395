"""The page on transfers that keep a shortcut out, docs/passing.md, from the rows in results/."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sections import MARGINS, answers_of, method_parts, references
from wording import capitalised, commands, of_sweep, paragraphs, training, uncapitalised

from rtl_utils import claims, tables
from rtl_utils.data import DATASETS
from rtl_utils.messages import counted
from rtl_utils.methods import METHODS
from rtl_utils.provenance import recorded
from rtl_utils.statistics import FEWEST

PASSING_SWEEPS = ("digits-refit", "digits-shortcuts", "cifar-refit", "cifar-refit-all")
MAIN = (  # the sweep and the setting that the account has a table of
    "digits-refit",
    "digits-0-4 → digits-5-9, ball, 50 images per class, 20 epochs, averaged weights",
)
CELLS = """For each method the answer of the test, the flips beyond training from scratch and the
accuracy beyond fine-tuning, in points: means over the seeds, paired."""
_INHERITED = "inherited flips, points"
_SETTING = [*tables.PAIR, "patch", "averaged"]


@dataclass(frozen=True)
class Answer:
    """What the test says of a method in a setting.

    Args:
        verdict: "yes", "no" or "undecided".
        flips: beyond training from scratch, in points; a mean over the seeds, paired.
        clean: accuracy beyond fine-tuning, likewise.
        seeds: of the method, where it has fewer than its setting.
    """

    verdict: str
    flips: float
    clean: float
    seeds: int | None = None

    @property
    def numbers(self) -> list[str]:
        """Both differences and the seeds as text, such as +1.0."""
        fewer = [] if self.seeds is None else [counted(self.seeds, "seed")]
        return [f"{self.flips:+z.1f}", f"{self.clean:+z.1f}", *fewer]

    def __str__(self) -> str:
        return f"{self.verdict} ({', '.join(self.numbers)})"


def passing_page(answers: dict[str, pd.DataFrame], inherited: pd.DataFrame) -> str:
    """Every setting of the sweeps on refits and windows, with an overview of all.

    Args:
        answers: see `answer_tables`.
        inherited: see `inherited_table`.
    """
    sections = [
        introduction(),
        "## Overview",
        overview(answers, inherited),
        *[passing_section(name) for name in PASSING_SWEEPS],
        commands(PASSING_SWEEPS),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def introduction() -> str:
    """What is tested."""
    return paragraphs(
        "# Refits and windows: all results",
        """Which method keeps a shortcut out, by the course's test: the source has the shortcut on
        one class, the target is clean, and the shortcut appears at test time. The methods and the
        theory stand in [A transfer that passes](method.md), the choice of their settings in
        [The trials](trials.md); the page is written by `docs/make.py` from the rows in
        `results/`.""",
        f"""{MARGINS} The p-values are adjusted by Holm's method over the methods of a setting. A
        method whose weights are averaged is compared with training from scratch and fine-tuning
        whose weights are averaged too.""",
    )


def settings(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Text of each setting -> its rows, from biased and from clean sources.

    A setting is a pair of tasks, a shortcut, a number of images, a number of epochs, and whether
    the weights are averaged.

    Args:
        rows: of one sweep.
    """
    target = tables.clean_target(rows)
    carried = target.source_shortcut.fillna(target.tested).fillna("ball")
    target = target.assign(
        patch=carried.str.split(" on ").str[0], averaged=target.averaged.fillna(0)
    )
    found = {}
    for (source, to, patch, averaged), part in target.groupby(_SETTING, sort=False):
        weights = "averaged weights" if averaged else "last weights"
        for size, own in tables.by_images(part).items():
            images = tables.images_text(size)
            found[f"{source} → {to}, {patch}, {images}, {weights}"] = own
    return found


def compared(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Text -> biased rows of each setting that has methods beside training from scratch and FT.

    Args:
        rows: of one sweep.
    """
    found = {text: tables.shortcut_at_test(part) for text, part in settings(rows).items()}
    return {text: part for text, part in found.items() if set(part.method) - {"scratch", "ft"}}


def overview(answers: dict[str, pd.DataFrame], inherited: pd.DataFrame) -> str:
    """For each kind of device one line per setting, and what is inherited.

    Args:
        answers: see `answer_tables`.
        inherited: see `inherited_table`.
    """
    if not answers:
        return "No rows yet."
    parts = [
        f"""{CELLS} With fewer than five seeds nothing is decided. These are the numbers of the
        pictures in [A transfer that passes](method.md#results), which counts them.""",
    ]
    for device, table in answers.items():
        written = table.map(lambda cell: "" if cell is None else str(cell))
        parts += [f"{device}:", tables.markdown(written)]
    if len(inherited):
        parts += [
            """What is inherited, where several methods started from a clean backbone too: the
            difference of both backbones, paired by seed. A method that only made a network steadier
            against whatever is pasted would have fewer flips from a clean backbone as well.""",
            tables.markdown(inherited),
        ]
    return paragraphs(*parts)


def drawn_overview(answers: dict[str, pd.DataFrame]) -> str:
    """The main setting with its intervals, and a picture for the table of the overview.

    Args:
        answers: see `answer_tables`.
    """
    if not answers:
        return "No rows yet."
    sweep, setting = MAIN
    parts = [
        f"""{setting}, {tables.seeds_text(tables.stored(sweep))}. Differences are paired by seed;
        inherited flips are the flips from the biased backbone minus those from a clean one. p is
        that of "yes", adjusted over the methods. Intervals are of 95 %, those of the test of
        90 %.""",
        tables.markdown(main_table()),
        f"""Every setting. {CELLS} [All results](passing.md) have their intervals and p-values.""",
    ]
    for device, table in answers.items():
        alternative = f"The answer for each method in each setting, {uncapitalised(device)}"
        parts += [f"{device}. {passes(table)}", f"![{alternative}]({picture_of(device)}.png)"]
    return paragraphs(*parts)


def main_table() -> pd.DataFrame:
    """The main setting: a line per method, with intervals."""
    sweep, setting = MAIN
    rows = settings(tables.stored(sweep))[setting]
    shown = tables.shortcut_columns(rows, ["method"])
    answers = answers_of(tables.shortcut_at_test(rows))
    means = shown[["accuracy without shortcut, %", "flip rate, %", _INHERITED]]
    tested = answers.drop(columns=["seeds", "p of no, Holm", "by the means"])
    return means.join(tested, how="right").rename(index=tables.label)


def picture_of(device: str) -> str:
    """File name, without its ending, of the picture of all answers.

    Args:
        device: as `trained_on` says it.
    """
    return f"answers-{device.rsplit(maxsplit=1)[-1].lower()}"


def inherited_table(names: Sequence[str]) -> pd.DataFrame:
    """Flips from both backbones, where several methods started from both.

    Args:
        names: of sweeps.
    """
    lines = []
    for name in names:
        rows = tables.stored(name)
        for text, part in settings(rows).items() if len(rows) else ():
            inherited = tables.shortcut_columns(part, ["method"]).get(_INHERITED, pd.Series())
            flips = part[part.metric == "flip_rate"].assign(biased=part.source_shortcut.notna())
            means = 100 * flips.groupby(["method", "biased"]).value.mean().unstack()
            both = [method for method in METHODS if inherited.get(method)]
            for method in both if len(both) > 1 else ():
                lines.append(
                    {
                        "setting": text,
                        "method": tables.label(method),
                        "flips from the biased backbone, %": f"{means.loc[method, True]:.1f}",
                        "flips from a clean backbone, %": f"{means.loc[method, False]:.1f}",
                        _INHERITED: inherited[method],
                    }
                )
    return pd.DataFrame(lines).set_index("setting") if lines else pd.DataFrame()


def answer_tables(names: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Where networks were trained -> the answers: a line per setting, a column per method.

    Rows that were trained on different devices stand in tables of their own.

    Args:
        names: of sweeps; those without rows are left out.

    Returns:
        Tables with the number of seeds, and an `Answer` for each method, or None.
    """
    lines: dict[str, dict[str, dict[str, int | Answer]]] = {}
    for name in names:
        rows = tables.stored(name)
        for text, biased in compared(rows).items() if len(rows) else ():
            own = lines.setdefault(trained_on(biased), {})
            own[text] = {"seeds": biased.seed.nunique()} | setting_answers(biased)
    return {device: _table(of_device) for device, of_device in sorted(lines.items())}


def _table(lines: dict[str, dict[str, int | Answer]]) -> pd.DataFrame:
    """A line per setting and a column per method; None where there is no answer."""
    columns = dict.fromkeys(name for line in lines.values() for name in line)
    cells = {name: [line.get(name) for line in lines.values()] for name in columns}
    table = pd.DataFrame(cells, index=pd.Index(lines, name="setting"))
    return table.rename(columns=tables.label)


def passes(table: pd.DataFrame) -> str:
    """In how many settings each method keeps the shortcut out, of those that can be decided.

    Args:
        table: one of `answer_tables`.
    """
    decided = table[table.seeds >= FEWEST].drop(columns="seeds")
    if decided.empty:
        return f"No setting has {FEWEST} seeds yet."
    settings = f"Of {counted(len(decided), 'setting')} with at least {FEWEST} seeds the tests say"
    some, none = _counted(decided)
    said = [f"by {tables.listed(some)}"] if some else []
    said += [f"by {tables.listed(none)} in none"] if none else []
    return (
        f"{settings} that the shortcut is kept out {'; '.join(said)}. "
        f"{needed(decided)} No p-value is adjusted over the settings."
    )


def needed(table: pd.DataFrame) -> str:
    """The same where a transfer is needed: training from scratch lacks fine-tuning's accuracy.

    Args:
        table: a line per setting, with each method's answer.
    """
    scratch = table[tables.label("scratch")]
    there = table[[answer.clean < -100 * claims.INFERIOR for answer in scratch]]
    margin = f"over {100 * claims.INFERIOR:.0f} points"
    start = f"Fine-tuning is, by the means, {margin} more accurate than training from scratch in"
    if there.empty:
        return f"{start} none of them."
    some, _ = _counted(there)
    kept = f"it is kept out by {tables.listed(some)}" if some else "no method keeps it out"
    return f"{start} {len(there)} of them; there {kept}."


def _counted(table: pd.DataFrame) -> tuple[list[str], list[str]]:
    """The methods that pass, with in how many of their settings, and those that never do.

    Args:
        table: a line per setting, with each method's answer.
    """
    some = []
    none = []
    for method in table:
        answers = [answer for answer in table[method] if answer is not None]
        passed = sum(answer.verdict == "yes" for answer in answers)
        if passed:
            some.append(f'"{method}" in {passed} of {len(answers)}')
        else:
            none.append(f'"{method}"')
    return some, none


def trained_on(rows: pd.DataFrame) -> str:
    """The kind of device that the networks of some rows were trained on."""
    kinds = {"cpu": "a CPU", "cuda": "a GPU", "mps": "Apple's GPU"}
    found = [kinds[kind] for kind in recorded(rows, "device")]
    return f"Trained on {tables.listed(found)}" if found else "Trained on an unknown device"


def setting_answers(rows: pd.DataFrame) -> dict[str, Answer]:
    """The answer for each method.

    Args:
        rows: of one setting, from a biased source.
    """
    answers = answers_of(rows)
    every = rows.seed.nunique()
    found = {}
    for method in claims.judged(rows):
        verdict = answers["keeps it out"][method].split(" (")[0]
        flips = _difference(rows, "flip_rate", method, "scratch")
        clean = _difference(rows, "clean_accuracy", method, "ft")
        seeds = int(answers["seeds"][method])
        found[method] = Answer(verdict, flips, clean, seeds if seeds < every else None)
    return found


def _difference(rows: pd.DataFrame, metric: str, method: str, reference: str) -> float:
    """A mean difference in points, paired by seed."""
    if method == reference:
        return 0.0
    return float(100 * np.subtract(*tables.paired(rows, metric, method, reference)).mean())


def seconds(rows: pd.DataFrame) -> str:
    """How long a training of each method took, as the rows say."""
    runs = tables.clean_target(rows).drop_duplicates("run")
    medians = runs.groupby("method").seconds.median()
    texts = [f"{tables.label(m)} {medians[m]:.0f}" for m in METHODS if medians.get(m, 0) > 0]
    return f"Median seconds per training: {'; '.join(texts)}." if texts else ""


@of_sweep
def passing_section(name: str, rows: pd.DataFrame) -> str:
    """All settings of one sweep."""
    title = capitalised(DATASETS[rows.dataset.iloc[0]].title)
    parts = [
        f"## {title}: `{name}`, {tables.seeds_text(rows)}",
        tables.origin(name, rows),
        f"{training(rows)} {references(tables.clean_target(rows))} {seconds(rows)}",
        f"![Flip rate over accuracy without shortcut, one panel per setting]({name}.png)",
    ]
    for text, part in settings(rows).items():
        parts += method_parts(text, part, tables.shortcut_at_test(part))
    return paragraphs(*parts)
