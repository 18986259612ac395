"""The page on transfers that keep a shortcut out, docs/passing.md, from the rows in results/."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sections import MARGINS, answers_of, method_parts, references
from wording import capitalised, commands, of_sweep, paragraphs, training, uncapitalised

from rtl_utils import claims, tables
from rtl_utils.data import DATASETS
from rtl_utils.messages import counted
from rtl_utils.provenance import recorded
from rtl_utils.statistics import FEWEST

PASSING_SWEEPS = ("digits-refit", "digits-shortcuts", "cifar-refit", "cifar-refit-all")
TRIALS = Path(__file__).with_name("trials.csv")
SHAPES = Path(__file__).with_name("trials-shapes.csv")  # of windows, which came later
SHOWN = {  # trials in the account: text in the file -> what is said of it there
    "fine-tuning": "",
    "rescaled": "`rescale`",
    "random rectangles of one colour on half": "",
    "refit against the source, lambda 10, lengths kept": "",
    "refit 0.3": "`refit`",
    "refit 0.3, rescaled": "",
    "windows of 1/4 on a quarter": "",
    "windows of 1/8 and 1/4 on a quarter": "",
    "windows of 1/8 and 1/4 on half": "",
    "copies with windows of half": "`window`",
    "copies with windows of half, a changed answer costs 0.3": "",
    "copies with windows of half, a changed answer costs 1": "`window-steady`",
    "copies with windows of half, a changed answer costs 3": "",
    "refit 0.1, windows of 1/8 and 1/4 on half": "",
    "refit 0.3, windows of 1/8 and 1/4 on half": "before copies: `refit-window`",
    "refit 0.3, copies with windows of half, a changed answer costs 1": "",
    "refit 0.3, rescaled, windows of 1/8 and 1/4 on half": "",
}
_INHERITED = "inherited flips, points"
_SETTING = [*tables.PAIR, "patch", "averaged", "device"]


def passing_page() -> str:
    """Every setting of the sweeps on refits and windows, with an overview of all."""
    sections = [
        introduction(),
        "## Overview",
        paragraphs(*overview(PASSING_SWEEPS)) or "No rows yet.",
        *[passing_section(name) for name in PASSING_SWEEPS],
        "## Trials that the settings were chosen from",
        "See [what was tried](method.md#what-was-tried).",
        tables.markdown(trials_table(TRIALS)),
        "Windows of other shapes, which came later:",
        tables.markdown(trials_table(SHAPES)),
        commands(PASSING_SWEEPS),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def trials_table(file: Path) -> pd.DataFrame:
    """One row per trial, one column per pair and shortcut: differences of the test, and seeds.

    All with 50 images per class and averaged weights.

    Args:
        file: of one series of trials.
    """
    rows = pd.read_csv(file)
    rows = rows[(rows.n_train == 50) & (rows.weights == "averaged")]
    columns = {}
    for (source, target, patch), part in rows.groupby([*tables.PAIR, "patch"]):
        values = part.pivot(index="seed", columns="trial")
        flips = values["flip_rate"].sub(values["flip_rate", "from scratch"], axis=0)
        clean = values["clean_accuracy"].sub(values["clean_accuracy", "fine-tuning"], axis=0)
        both = flips.notna() & clean.notna()
        columns[f"{source} → {target}, {patch}"] = {
            trial: f"{100 * flips[trial][both[trial]].mean():+z.1f}, "
            f"{100 * clean[trial][both[trial]].mean():+z.1f} ({both[trial].sum()})"
            for trial in both
            if both[trial].any()
        }
    return pd.DataFrame(columns).fillna("").rename_axis("trial").sort_index()


def variants(file: Path) -> set[str]:
    """What was tried in one series of trials, without the references."""
    return {
        name
        for name in pd.read_csv(file).trial
        if name != "fine-tuning" and "from scratch" not in name
    }


def shown_trials() -> str:
    """The trials of the account, and how many there were."""
    known = trials_table(TRIALS).loc[list(SHOWN)]
    known.insert(0, "method", list(SHOWN.values()))
    first = variants(TRIALS)
    later = variants(SHAPES) - first
    return paragraphs(
        f"""{len(first)} variants were tried after that. Here are some of them; [all
        results](passing.md#trials-that-the-settings-were-chosen-from) has those whose references
        were trained too.""",
        tables.markdown(known),
        f"""{len(later)} variants came later, with windows of other shapes, and with shortcuts of
        other shapes. Their backbones are new ones, so windows have other numbers than above.""",
        tables.markdown(trials_table(SHAPES)),
    )


def introduction() -> str:
    """What is tested."""
    return paragraphs(
        "# A path that passes: all results",
        """Which method keeps a shortcut out, by the course's test: the source has the shortcut on
        one class, the target is clean, and the shortcut appears at test time. The methods and the
        theory stand in [A transfer that passes](method.md); the page is written by `docs/make.py`
        from the rows in `results/`.""",
        f"""{MARGINS} The p-values are adjusted by Holm's method over the methods of a setting. A
        method whose weights are averaged is compared with training from scratch and fine-tuning
        whose weights are averaged too.""",
    )


def settings(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Text of each setting -> its rows, from biased and from clean sources.

    A setting is a pair of tasks, a shortcut, a number of images, a number of epochs, whether the
    weights are averaged, and the kind of device: a CPU and a GPU round differently, so their seeds
    are not averaged.

    Args:
        rows: of one sweep.
    """
    target = tables.clean_target(rows)
    carried = target.source_shortcut.fillna(target.tested).fillna("ball")
    target = target.assign(
        patch=carried.str.split(" on ").str[0],
        averaged=target.averaged.fillna(0),
        device=target.get("device", pd.Series(index=target.index, dtype=str)).fillna(""),
    )
    several = len(recorded(target, "device")) > 1
    found = {}
    for (source, to, patch, averaged, _), part in target.groupby(_SETTING, sort=False):
        weights = "averaged weights" if averaged else "last weights"
        if several:
            weights += f", {uncapitalised(trained_on(part))}"
        for size, own in tables.by_images(part).items():
            images = tables.images_text(size)
            found[f"{source} → {to}, {patch}, {images}, {weights}"] = own
    return found


def overview(names: Sequence[str]) -> list[str]:
    """Parts of a page: for each kind of device what passes, and one line per setting.

    Args:
        names: of sweeps; those without rows are left out.
    """
    found = answer_tables(names)
    if not found:
        return []
    parts = [
        """For each method the answer of the test, and in brackets the flips beyond training from
        scratch and the accuracy beyond fine-tuning, in points: means over the seeds, paired.
        With fewer than five seeds nothing is decided."""
    ]
    for device, table in found.items():
        parts += [f"{device}. {passes(table)}", tables.markdown(table)]
    inherited = inherited_table(names)
    if len(inherited):
        parts += [
            """Flips from the biased backbone minus those from a clean one, in points, with 95 %
            intervals: what a method inherits. Where it is about 0 while the flips are few, the
            method is not just steadier against whatever is pasted.""",
            tables.markdown(inherited),
        ]
    return parts


def inherited_table(names: Sequence[str]) -> pd.DataFrame:
    """Inherited flips: a line per setting in which several methods started from both backbones.

    Args:
        names: of sweeps.
    """
    lines = {}
    for name in names:
        rows = tables.stored(name)
        for text, part in settings(rows).items() if len(rows) else ():
            columns = tables.shortcut_columns(part, ["method"])
            found = columns.get(_INHERITED, pd.Series(dtype=str))
            found = found[found != ""]
            if len(found) > 1:
                lines[text] = found.rename(tables.label).to_dict()
    table = pd.DataFrame.from_dict(lines, orient="index").rename_axis("setting")
    return table.fillna("")


def answer_tables(names: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Where networks were trained -> the answers: a line per setting, a column per method.

    Rows that were trained on different devices stand in tables of their own.
    """
    lines: dict[str, dict[str, dict[str, str]]] = {}
    for name in names:
        rows = tables.stored(name)
        for text, part in settings(rows).items() if len(rows) else ():
            biased = tables.shortcut_at_test(part)
            own = lines.setdefault(trained_on(part), {})
            own[text] = {"seeds": str(biased.seed.nunique())} | answer_cells(biased)
    return {
        device: pd.DataFrame.from_dict(of_device, orient="index")
        .rename_axis("setting")
        .fillna("")
        .rename(columns=tables.label)
        for device, of_device in sorted(lines.items())
    }


def passes(table: pd.DataFrame) -> str:
    """In how many settings each method keeps the shortcut out, of those that can be decided.

    Args:
        table: a line per setting, with its seeds and each method's answer.
    """
    decided = table[table.seeds.astype(int) >= FEWEST].drop(columns="seeds")
    if decided.empty:
        return f"No setting has {FEWEST} seeds yet."
    counts = decided.apply(lambda answers: answers.str.startswith("yes").sum())
    named = [f'"{method}" in {count}' for method, count in counts[counts > 0].items()]
    settings = f"Of {counted(len(decided), 'setting')} with at least {FEWEST} seeds"
    if not named:
        return f"{settings} the shortcut is kept out in none, by the tests."
    return f"{settings} the shortcut is kept out, by the tests, by {tables.listed(named)}."


def trained_on(rows: pd.DataFrame) -> str:
    """The kind of device that the networks of some rows were trained on."""
    kinds = {"cpu": "a CPU", "cuda": "a GPU", "mps": "Apple's GPU"}
    found = [kinds[kind] for kind in recorded(rows, "device") if kind]
    return f"Trained on {tables.listed(found)}" if found else "Trained on an unknown device"


def answer_cells(rows: pd.DataFrame) -> dict[str, str]:
    """Method -> the answer, and both differences of the means in points.

    Args:
        rows: of one setting, from a biased source.
    """
    answers = answers_of(rows)["keeps it out"]
    cells = {}
    for method in claims.judged(rows):
        if method == "scratch":
            continue
        flips = _difference(rows, "flip_rate", method, "scratch")
        clean = _difference(rows, "clean_accuracy", method, "ft")
        answer = answers[method].split(" (")[0]  # the seeds have a column of their own
        cells[method] = f"{answer} ({flips:+z.1f}, {clean:+z.1f})"
    return cells


def _difference(rows: pd.DataFrame, metric: str, method: str, reference: str) -> float:
    """A mean difference in points, paired by seed."""
    if method == reference:
        return 0.0
    return float(100 * np.subtract(*tables.paired(rows, metric, method, reference)).mean())


@of_sweep
def passing_section(name: str, rows: pd.DataFrame) -> str:
    """All settings of one sweep."""
    title = capitalised(DATASETS[rows.dataset.iloc[0]].title)
    parts = [
        f"## {title}: `{name}`, {tables.seeds_text(rows)}",
        tables.origin(name, rows),
        f"{training(rows)} {references(tables.clean_target(rows))}",
        f"![Flip rate over accuracy without shortcut, one panel per setting]({name}.png)",
    ]
    for text, part in settings(rows).items():
        parts += method_parts(text, part, tables.shortcut_at_test(part))
    return paragraphs(*parts)
