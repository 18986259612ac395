"""The trials that the settings of refits and windows were chosen from, from trials*.csv."""

from pathlib import Path

import pandas as pd
from wording import paragraphs

from rtl_utils import tables

TRIALS = Path(__file__).with_name("trials.csv")
SHAPES = Path(__file__).with_name("trials-shapes.csv")  # of windows, which came later
SMOOTHING = Path(__file__).with_name("trials-smoothing.csv")
NAMED = {  # trials whose settings became a method: text in the file -> method
    "rescaled": "rescale",
    "refit 0.3": "refit",
    "copies with windows of half": "window",
    "copies with windows of half, a changed answer costs 1": "window-steady",
    "copies with bands of 1/16 of half": "band",
}


def trials_section() -> str:
    """Every trial that the settings were chosen from."""
    return paragraphs(
        """The cells are the differences of the test in points, flips beyond training from scratch
        and accuracy beyond fine-tuning, and in brackets the number of seeds. All are with 50 images
        per class and averaged weights; trials whose references were not trained are left out. With
        so few seeds a difference of 3 points is noise. A name in brackets is the method that a
        trial became.""",
        "### Refits, windows and lengths",
        """`refit-window` joins "refit 0.3" and "copies with windows of half"; in these trials its
        windows were still on the images themselves.""",
        tables.markdown(trials_table(TRIALS)),
        "### Windows of other shapes",
        """They came later, and with other shortcuts. All networks of this series were trained anew,
        also those from scratch, so the same methods have other numbers than above.""",
        tables.markdown(trials_table(SHAPES)),
        "### The smoothing of a refit",
        """The accuracy on held-out images is that of two trainings, each on one half of the
        target's training images and measured on the other. The cells are differences in
        points: this accuracy beyond that of fine-tuning, flips beyond training from scratch, and
        accuracy on clean validation images beyond that of fine-tuning; in brackets the number of
        seeds.""",
        tables.markdown(smoothing_table()),
    )


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
    table = pd.DataFrame(columns).fillna("").sort_index()
    names = {text: f"{text} (`{method}`)" for text, method in NAMED.items()}
    return table.rename(names).rename_axis("trial")


def smoothing_table() -> pd.DataFrame:
    """What the smoothing of a refit does, and which one held-out images of the target would choose.

    Returns:
        A line per smoothing, 0 for plain fine-tuning, and one for the largest per seed that is not
        less accurate than fine-tuning on held-out training images. For each pair, in points:
        accuracy on held-out images beyond fine-tuning, flips beyond training from scratch, accuracy
        on clean validation images beyond fine-tuning; and the seeds.
    """
    by_seed = [*tables.PAIR, "seed"]
    rows = pd.read_csv(SMOOTHING).set_index(by_seed)
    scratch = rows[rows.trial == "from scratch"]
    plain = rows[rows.trial == "fine-tuning"]
    tried = rows[rows.trial != "from scratch"].fillna({"smoothing": 0})
    differences = pd.DataFrame(
        {
            "smoothing": tried.smoothing,
            "held out": tried.held_out_accuracy - plain.held_out_accuracy.loc[tried.index],
            "flips": tried.flip_rate - scratch.flip_rate.loc[tried.index],
            "clean": tried.clean_accuracy - plain.clean_accuracy.loc[tried.index],
        }
    ).reset_index()
    able = differences[differences["held out"] >= 0]
    lines = {f"{value:g}": part for value, part in differences.groupby("smoothing")}
    lines["the largest that costs nothing on held-out images"] = able.loc[
        able.groupby(by_seed).smoothing.idxmax()
    ]
    columns: dict[str, dict[str, str]] = {}
    for line, part in lines.items():
        for (source, target), own in part.groupby(list(tables.PAIR)):
            means = 100 * own[["held out", "flips", "clean"]].mean()
            text = ", ".join(f"{mean:+z.1f}" for mean in means)
            columns.setdefault(f"{source} → {target}", {})[line] = f"{text} ({len(own)})"
    return pd.DataFrame(columns).fillna("").rename_axis("smoothing")


def variants(file: Path) -> set[str]:
    """What was tried in one series of trials, without the references."""
    return {
        name
        for name in pd.read_csv(file).trial
        if name != "fine-tuning" and "from scratch" not in name
    }


def counts() -> str:
    """How many variants were tried, and where they stand."""
    first = variants(TRIALS)
    later = variants(SHAPES) - first
    smoothings = pd.read_csv(SMOOTHING).smoothing.nunique()
    return paragraphs(
        f"""After an earlier search with 37 candidates, {len(first)} variants of transfer were
        tried, then {len(later)} with windows of other shapes, and {smoothings} values of a refit's
        smoothing, on seeds 100 to 104. [The trials](trials.md) are listed one by one, with what was
        learned from them, and with what was known when a method or a seed was added."""
    )
