"""Writes docs/results.md and its pictures from the exported rows in docs/results/: `.venv/bin/python docs/make.py`."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from rtl_utils import paper, plotting, statistics
from rtl_utils.methods import METHODS
from rtl_utils.plotting import TITLES
from rtl_utils.results import exported

HERE = Path(__file__).resolve().parent
CHANCE = 1 / 5
ALL_IMAGES = {"digits": 126, "cifar100": 500}  # training images a class
TRANSFERS = ["scratch", "ft", "fixed", "ut", "ut-mixture"]


def main() -> None:
    plotting.use_style()
    rows = {name: in_order(pd.read_csv(HERE / "results" / f"{name}.csv")) for name in ALL_IMAGES}
    sections = [*(section(name, frame) for name, frame in rows.items()), every_method(exported("digits-methods"))]
    (HERE / "results.md").write_text("\n".join([INTRODUCTION, *sections, END]))
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 4))
    at_test = ball_at_test(rows["digits"])
    plotting.by_size(at_test, "flip_rate", axes[0], "predictions that the ball flips", f"flip rate ({TITLES['digits']})", ALL_IMAGES["digits"])
    plotting.by_size(
        at_test, "ball_share", axes[1], "predictions in the ball's class", f"ball on every test image ({TITLES['digits']})", ALL_IMAGES["digits"]
    )
    plotting.chance(axes[1], CHANCE)
    plotting.legend_below(figure, axes[1])
    figure.savefig(HERE / "flip_rate.png")


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


def every_method(rows: pd.DataFrame) -> str:
    """Salman's test of all methods, at each size of data."""
    rows = rows[rows.method != "backbone"].assign(images=rows.n_train.map(lambda n: "all" if pd.isna(n) else f"{n:.0f}"))
    names = {"clean_accuracy": "accuracy, no ball, %", "ball_accuracy": "accuracy, ball, %", "flip_rate": "flip rate, %"}
    columns = {metric: (heading, 100, 1) for metric, heading in names.items()}
    parts = [f"## Every method, one test ({TITLES['digits']}, {seeds(rows)})", EVERY_METHOD]
    for size, part in rows.groupby("images"):
        values = statistics.summary(part, columns, by=["method"]).loc[list(METHODS)]
        table = values.join(statistics.keeps_out(part, list(METHODS))).assign(**{"user must know": [METHODS[m].knows for m in METHODS]})
        parts += [f"### {size} target images a class", markdown(table.rename(index=plotting.label))]
    return "\n\n".join([*parts, ""])


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
EVERY_METHOD = """The backbone has the ball on one class, the target is clean, the ball turns up at test time. A method keeps the shortcut out if it
flips at most 2 points more predictions than training from scratch and is no less accurate on clean images than fine-tuning; "yes" and "no" where
the intervals of both differences decide, else "undecided". All take 20 epochs; an iterated coupling takes four times 20. Methods and their
sources are in `rtl_utils/methods.py`."""
END = """## How these were made

    .venv/bin/rtl run --notebook 04 -p seeds "[0, 1, ..., 19]" -p epochs 20 -p out runs/twenty  # 03 and 05: seeds 0 to 9
    .venv/bin/rtl export docs/results/digits.csv --out runs/twenty
    .venv/bin/rtl run --dataset cifar100 --notebook 03 -p source herbivores -p target flowers -p seeds "[0]" -p out runs/cifar  # likewise 04, 05
    .venv/bin/rtl export docs/results/cifar100.csv --out runs/cifar
    .venv/bin/python docs/sweep.py digits-methods
    .venv/bin/python docs/make.py
"""

if __name__ == "__main__":
    main()
