"""docs/performance.md and its picture from what bench.py measured."""

from pathlib import Path

import matplotlib.pyplot as plt

from rtl_utils import plotting

DOCS = Path(__file__).resolve().parent.parent / "docs"


def write(results: dict) -> None:
    """Write both; rows that were not measured yet are left out."""
    machine = next(iter(results.values()))["machine"]
    parts = [INTRODUCTION.format(**machine), table(results)]
    if "optimisations" in results:
        parts += ["## What each optimisation buys alone", alone(results["optimisations"])]
    if "evaluation" in results:
        shares = [f"- {name}: {share:.1%}" for name, share in results["evaluation"].items() if name != "machine"]
        parts += ["## Evaluation's share of a training", "\n".join(shares)]
    if "curves" in results:
        full = draw(results["curves"])
        parts += ["## How cost grows", "![training steps a second over replicas, widths and images](performance.png)", CURVES.format(**full)]
    profiles = {name: shares for row in results.values() for name, shares in row.get("profiles", {}).items()}
    if profiles:
        missed = results.get("synthetic_seeds", {"ratio": 1, "target": 0})
        why = [STACKS.format(**missed)] if missed["ratio"] < missed["target"] else []
        parts += ["## Where the time goes", PROFILES, *why, *(profile(name, shares) for name, shares in profiles.items())]
    (DOCS / "performance.md").write_text("\n\n".join(parts) + "\n")


def table(results: dict) -> str:
    """One line a speed claim: both sides, the ratio, what was to be reached."""
    lines = ["| what | against | ours | rival | ratio | to reach | reached |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for row in (row for row in results.values() if "target" in row):
        good = row["ratio"] <= row["target"] if row.get("smaller_is_better") else row["ratio"] >= row["target"]
        sides = [f"{row[side]:.2f} s" if side in row else "" for side in ("ours_s", "rival_s")]
        bound = "at most " if row.get("smaller_is_better") else ""
        cells = [row["what"], row["against"], *sides, f"{row['ratio']:.2f}", f"{bound}{row['target']:g}", "yes" if good else "no"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def alone(rows: dict) -> str:
    lines = ["| optimisation | with it, s | without it, s | ratio |", "| --- | --- | --- | --- |"]
    lines += [f"| {name} | {row['ours_s']:.3f} | {row['rival_s']:.3f} | {row['ratio']:.2f} |" for name, row in rows.items() if name != "machine"]
    return "\n".join(lines)


def profile(name: str, shares: dict[str, float]) -> str:
    lines = [f"**{name}**", "", "| operation | share of the time |", "| --- | --- |"]
    return "\n".join(lines + [f"| `{operation}` | {share:.0%} |" for operation, share in shares.items()])


def draw(curves: dict) -> dict[str, str]:
    """Draw docs/performance.png. Returns where each of the first two curves is full: the smallest size within a tenth of its best rate."""
    plotting.use_style()
    full = {}
    figure, axes = plt.subplots(1, 4, figsize=(15, 3.8))
    panels = [(name, curves[name]) for name in ("MLPs in two stacks", "CNNs, `small`", "widths, one thread", "training images, one CNN")]
    labels = ("replicas", "replicas", "channels of the four stages", "training images")
    for ax, (name, points), label in zip(axes, panels, labels, strict=True):
        ax.plot(range(len(points)), list(points.values()), "o-", color="black")
        ax.set_xticks(range(len(points)), list(points), rotation=30 if "widths" in name else 0, ha="right" if "widths" in name else "center")
        ax.set(xlabel=label, title=name.replace("`", ""), ylim=(0, 1.15 * max(points.values())))
        if label == "replicas":
            size = next(size for size, rate in points.items() if rate >= 0.9 * max(points.values()))
            place = list(points).index(size)
            ax.axvline(place, color="#D55E00", linestyle="--", linewidth=1)
            ax.annotate(f"full at {size}", (place, 0), xytext=(4, 6), textcoords="offset points", color="#D55E00")
            full[name.split()[0].strip(",")] = str(size)
    for k, rate in enumerate(curves["rates"].values()):
        axes[2].annotate(f"{rate:.0%}", (k, list(curves["widths, one thread"].values())[k]), xytext=(4, 6), textcoords="offset points", fontsize=9)
    axes[0].set_ylabel("training steps a second, all replicas")
    figure.savefig(DOCS / "performance.png")
    return full


INTRODUCTION = """# Performance

Written by `make bench`: both sides of every line were measured in one run, in turn, after a warm-up; seconds are medians, the ratio is the median
of the pairs' ratios. The rivals are in `benchmarks/rivals.py`, written as the tutorials write them.

Machine: {processor}, {cores} cores; Python {python}, torch {torch}, numpy {numpy}."""
CURVES = """Left to right: a stack of MLPs gains with every replica until the matrix products fill the cores (full at {MLPs} replicas); CNNs gain from
the second process and little from more, since each fills its core (full at {CNNs}); wider networks take fewer steps a second at a growing share
of the machine's float32 matrix-product rate (the percentages, of one core); the number of training images changes no step, only how often
start-up and evaluation come in between."""
PROFILES = """Self time of the operations that take most of it, by torch's profiler, whose own cost makes small operations look larger than they
are."""
STACKS = """**Why the synthetic row misses its target.** At the matrix-product rate of all cores the multiply-adds alone would take {floor_s:.1f} s of
our {ours_s:.1f} s. At mini-batches of 64 the batched products (`aten::bmm` below) run near that rate already and set the pace, so stacking can
take away only what lies around them; copies of the gradient and momentum's updates are the next in line."""
