"""docs/performance.md and its picture from benchmarks/results.json."""

import json
from pathlib import Path

import matplotlib.pyplot as plt

from rtl_utils import plotting

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs"


def main() -> None:
    results = json.loads((HERE / "results.json").read_text())
    text = [INTRODUCTION.format(**next(iter(results.values()))["machine"]), *table(results)]
    if "optimisations" in results:
        text += ["", "## What each optimisation buys alone", "", "| optimisation | with it, s | without it, s | ratio |", "| --- | --- | --- | --- |"]
        for name, row in results["optimisations"].items():
            if name != "machine":
                text.append(f"| {name} | {row['ours_s']:.2f} | {row['rival_s']:.2f} | {row['ratio']:.2f} |")
    if "curves" in results:
        draw(results["curves"])
        text += ["", "## How cost grows", "", "![steps a second over replicas, widths and images](performance.png)", "", CURVES]
    (DOCS / "performance.md").write_text("\n".join(text) + "\n")


def table(results: dict) -> list[str]:
    """One line a speed claim: both sides, the ratio, what was to be reached."""
    lines = ["| what | against | ours | rival | ratio | to reach | reached |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for row in results.values():
        if "target" in row:
            good = row["ratio"] <= row["target"] if row.get("smaller_is_better") else row["ratio"] >= row["target"]
            sides = [f"{row[side]:.2f} s" if side in row else "" for side in ("ours_s", "rival_s")]
            lines.append(
                f"| {row['what']} | {row['against']} | {' | '.join(sides)} | {row['ratio']:.2f} | {row['target']:g} | {'yes' if good else 'no'} |"
            )
    return lines


def draw(curves: dict) -> None:
    plotting.use_style()
    panels = {name: points for name, points in curves.items() if name != "machine"}
    figure, axes = plt.subplots(1, len(panels), figsize=(3.4 * len(panels), 3.4))
    for ax, (name, points) in zip(axes, panels.items(), strict=True):
        kind, axis = name.split(", ")
        ax.plot(list(points), list(points.values()), "o-", color="black")
        ax.set(xlabel=axis, title=kind, ylim=(0, None))
        ax.tick_params(axis="x", rotation=30 if "widths" in axis else 0)
    axes[0].set_ylabel("training steps a second")
    figure.savefig(DOCS / "performance.png")


INTRODUCTION = """# Performance

Written by `make bench`: both sides of every line were measured in one run, in turn, after a warm-up; figures are medians. The rivals are in
`benchmarks/rivals.py`, written as the tutorials write them. Machine: {processor}, {cores} cores, Python {python}, torch {torch}, numpy {numpy}.
"""
CURVES = """A stack of MLPs gains until the matrix products fill the core; CNNs gain from a second process and from no more, since each already
fills its core. Wider networks take fewer steps a second, but more arithmetic. The number of images changes nothing but the share of start-up
and evaluation."""

if __name__ == "__main__":
    main()
