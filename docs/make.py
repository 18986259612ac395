"""Writes docs/results.md and its pictures from the exported rows in docs/results/: `.venv/bin/python docs/make.py`."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from rtl_utils import paper, plotting, statistics
from rtl_utils.plotting import TITLES

HERE = Path(__file__).resolve().parent
CHANCE = 1 / 5
ALL_IMAGES = {"digits": 126, "cifar100": 500}  # training images a class
TRANSFERS = ["scratch", "ft", "fixed", "ut", "ut-mixture"]


def main() -> None:
    plotting.use_style()
    rows = {name: pd.read_csv(HERE / "results" / f"{name}.csv") for name in ALL_IMAGES}
    (HERE / "results.md").write_text("\n".join([INTRODUCTION, *(section(name, frame) for name, frame in rows.items()), END]))
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 4))
    salman = salman_rows(rows["digits"])
    plotting.by_size(salman, "flip_rate", axes[0], "predictions that the ball flips", f"flip rate ({TITLES['digits']})", ALL_IMAGES["digits"])
    plotting.by_size(
        salman, "ball_share", axes[1], "predictions in the ball's class", f"ball on every test image ({TITLES['digits']})", ALL_IMAGES["digits"]
    )
    plotting.chance(axes[1], CHANCE)
    plotting.legend_below(figure, axes[1])
    figure.savefig(HERE / "flip_rate.png")


def section(name: str, rows: pd.DataFrame) -> str:
    """The tables of one data set as Markdown."""
    seeds = sorted(set(rows.seed))
    usual = rows[(rows.head == "shared") & rows.method.isin(TRANSFERS)]
    usual = usual[(usual.lr == usual.lr.mode()[0]) & (usual.epochs == usual.epochs.max())]
    parts = [
        f"## {TITLES[name].capitalize()}: {'seed' if len(seeds) == 1 else f'{len(seeds)} seeds,'} {seeds[0]}"
        + (f" to {seeds[-1]}" if len(seeds) > 1 else "")
    ]
    parts += ["### Backbones", backbones(rows)]
    parts += ["### Clean tasks (tables 1 and 2)", clean(usual)]
    parts += ["### Ball on every target image (table 3)", ball_everywhere(usual, rows)]
    parts += ["### Clean target, ball at test time only", salman_table(usual)]
    return "\n\n".join([*parts, verdicts(usual), ""])


def backbones(rows: pd.DataFrame) -> str:
    part = rows[rows.method == "backbone"].assign(ball=rows.source_ball.notna().map({True: "on one class", False: "none"}))
    columns = {
        "train_accuracy": ("training, %", 100, 1), "val_accuracy": ("validation, %", 100, 1), "clean_accuracy": ("no ball, %", 100, 1),
        "ball_accuracy": ("ball on all, %", 100, 1), "ball_share": ("in the ball's class, ball on all, %", 100, 1),
    }  # fmt: skip
    return markdown(statistics.summary(part, columns, by=["source", "ball"]))


def clean(rows: pd.DataFrame) -> str:
    part = rows[rows.source_ball.isna() & ~rows.target_ball & rows.n_train.isna()]
    columns = {
        "length": ("∫\\|dw\\|", 1, 1),
        "train_loss": ("training loss", 1, 3),
        "val_loss": ("validation loss", 1, 3),
        "val_accuracy": ("validation accuracy, %", 100, 1),
    }
    table = statistics.summary(part, columns, by=["source", "target", "method"])
    return markdown(with_paper(table, {m: f"{m}_accuracy" for m in ("ft", "fixed", "ut")}))


def ball_everywhere(usual: pd.DataFrame, rows: pd.DataFrame) -> str:
    part = usual[usual.source_ball.notna() & usual.target_ball]
    columns = {
        "val_accuracy": ("accuracy, ball on all, %", 100, 1),
        "clean_accuracy": ("accuracy, ball taken away, %", 100, 1),
        "val_loss": ("validation loss", 1, 3),
    }
    table = with_paper(statistics.summary(part, columns, by=["source", "target", "method"]), {m: f"ball_{m}_accuracy" for m in ("ft", "ut")})
    controls = rows[rows.target_ball & (rows.method == "ft")].assign(control="")
    controls.loc[controls.source_ball.isna(), "control"] = "clean backbone"
    controls.loc[controls.lr < controls.lr.max(), "control"] = "a tenth of the learning rate"
    controls.loc[controls.epochs < controls.epochs.max(), "control"] = "only the epochs of UT at τ = 1"
    controls = statistics.summary(
        controls[controls.control != ""], {"val_accuracy": ("accuracy, ball on all, %", 100, 1)}, by=["source", "target", "control"]
    )
    return f"{markdown(table)}\n\nFine-tuning as a control:\n\n{markdown(controls)}"


def salman_rows(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows.source_ball.notna() & ~rows.target_ball & rows.method.isin(TRANSFERS) & (rows.head == "shared")]


def salman_table(rows: pd.DataFrame) -> str:
    part = salman_rows(rows)
    part = part.assign(images=part.n_train.map(lambda n: "all" if pd.isna(n) else f"{n:.0f}"))
    columns = {
        "clean_accuracy": ("accuracy, no ball, %", 100, 1), "ball_accuracy": ("accuracy, ball, %", 100, 1),
        "flip_rate": ("flip rate, %", 100, 1), "ball_share": ("in the ball's class, ball, %", 100, 1),
    }  # fmt: skip
    return markdown(statistics.summary(part, columns, by=["source", "target", "images", "method"]))


def verdicts(rows: pd.DataFrame) -> str:
    """Paired differences UT - FT with their verdicts; the p-values are Wilcoxon's, by Holm over the table."""
    clean_rows = rows[rows.source_ball.isna() & ~rows.target_ball & rows.n_train.isna()]
    ball = rows[rows.source_ball.notna() & rows.target_ball]
    few = rows[rows.source_ball.notna() & ~rows.target_ball]
    cases = [
        ("1: alike on clean tasks (within 3 points of accuracy)", clean_rows, "val_accuracy", "alike", 0.03),
        ("3: UT beats FT, ball on every target image (accuracy)", ball, "val_accuracy", "above", 0.0),
    ]
    for size, part in few.groupby(few.n_train.map(lambda n: "all" if pd.isna(n) else f"{n:.0f}"), sort=False):
        cases.append((f"UT keeps the shortcut out, {size} clean images a class (flip rate)", part, "flip_rate", "below", 0.0))
    table = []
    for claim, part, metric, kind, margin in cases:
        for (source, target), pair in part.groupby(["source", "target"], sort=False):
            difference, p = statistics.paired_difference(*statistics.paired(pair, metric, "ut", "ft"))
            table.append(
                {
                    "claim": claim,
                    "pair": f"{source} → {target}",
                    "UT - FT, points": difference.text(scale=100),
                    "p": p,
                    "verdict": statistics.verdict(difference, kind, margin),
                }
            )
    frame = pd.DataFrame(table)
    frame["p, Holm"] = statistics.holm(frame.p).round(4)
    return "### Verdicts\n\n" + markdown(frame.set_index("claim").drop(columns="p"))


def with_paper(table: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    said = [paper.value(source, target, names.get(method, "")) for source, target, method in table.index]
    return table.assign(**{"paper, %": ["" if v is None else f"{100 * v:.1f}" for v in said]}) if any(v is not None for v in said) else table


def markdown(table: pd.DataFrame) -> str:
    flat = table.reset_index()
    lines = [flat.columns, ["---"] * flat.shape[1], *flat.astype(str).to_numpy()]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


INTRODUCTION = """# Results

Long runs of notebooks 03 to 05, written by `docs/make.py` from the rows in `docs/results/`. Numbers are means with 95 % Student t intervals
over seeds; a single seed has no interval, and on 500 validation images says nothing about differences under three points. A seed sets the
weights, the order of the images, the places of the ball and, on the digits, the images themselves. All runs: CPU, float32, mini-batch 16, SGD
0.01 with momentum 0.9, `small` network.
"""
END = """## How these were made

    .venv/bin/rtl run --notebook 03 -p seeds "[0, 1, ..., 19]" -p out runs/twenty     # likewise 04 and 05
    .venv/bin/rtl export docs/results/digits.csv --out runs/twenty
    .venv/bin/rtl run --dataset cifar100 --notebook 03 -p seeds "[0]" -p out runs/cifar # likewise 04 and 05
    .venv/bin/rtl export docs/results/cifar100.csv --out runs/cifar
    .venv/bin/python docs/make.py
"""

if __name__ == "__main__":
    main()
