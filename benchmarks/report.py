"""docs/performance.md and its picture, from what bench.py measured.

`.venv/bin/python benchmarks/report.py` writes both from benchmarks/results.json again.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from rtl_utils import plotting

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs"
PANELS = {  # curve -> label of its horizontal axis
    "MLPs in two stacks": "replicas",
    "CNNs, `small`": "replicas",
    "widths, one thread": "channels of the four stages",
    "training images, one CNN": "training images",
}
_ACCENT = "#D55E00"


def main() -> None:
    """Write the page and its picture from the stored figures."""
    write(json.loads((HERE / "results.json").read_text()))


def write(results: Mapping[str, Any]) -> None:
    """Write both; rows that were not measured yet are left out.

    Args:
        results: row -> what was measured, and on which machine.
    """
    parts = [INTRODUCTION, machines(results), table(results)]
    if "optimisations" in results:
        parts += ["## What each optimisation brings alone", alone(results["optimisations"])]
    if "evaluation" in results:
        parts += ["## Evaluation's share of a training", shares(results["evaluation"])]
    if "batches" in results:
        parts += ["## Batches", BATCHES, claims(results["batches"])]
    if "sliders" in results:
        parts += ["## Sliders", SLIDERS, claims(results["sliders"])]
    if "curves" in results:
        full = draw(results["curves"])
        parts += [
            "## How cost grows",
            "![Training steps per second over replicas, widths and images](performance.png)",
            CURVES.format(**full),
        ]
    profiles = [row["profiles"] for row in results.values() if "profiles" in row]
    if profiles:
        parts += ["## Where the time goes", PROFILES]
        parts += stacks(results.get("synthetic_seeds"))
        parts += [profile(name, spent) for row in profiles for name, spent in row.items()]
    (DOCS / "performance.md").write_text("\n\n".join(parts) + "\n")


def machines(results: Mapping[str, Any]) -> str:
    """What the figures were measured on: one paragraph per machine and versions."""
    commits: dict[str, list[str]] = {}
    for row in results.values():
        found = row["machine"]
        line = (
            f"Measured on: {found['processor']}, {found['cores']} cores; Python {found['python']}, "
            f"torch {found['torch']}, numpy {found['numpy']}, rtl-utils {found['package']}, commit"
        )
        commits.setdefault(line, []).append((found["commit"] or "unknown")[:7])
    return "\n\n".join(
        f"{line} {', '.join(dict.fromkeys(those))}." for line, those in commits.items()
    )


def table(results: Mapping[str, Any]) -> str:
    """One line per speed claim: both sides, the ratio, the target, whether it is reached."""
    lines = [
        "| what | baseline | ours | baseline's time | ratio | target | target reached |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in results.values():
        if "target" in row:
            lines.append(f"| {' | '.join(_cells(row))} |")
    return "\n".join(lines)


def alone(rows: Mapping[str, Any]) -> str:
    """One line per optimisation."""
    lines = [
        "| optimisation | with it, s | without it, s | ratio |",
        "| --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        if name != "machine":
            sides = f"{row['ours_s']:.3f} | {row['baseline_s']:.3f}"
            lines.append(f"| {name} | {sides} | {row['ratio']:.2f} |")
    return "\n".join(lines)


def shares(rows: Mapping[str, Any]) -> str:
    """One line per data set."""
    lines = [f"- {name}: {share:.1%}" for name, share in rows.items() if name != "machine"]
    return "\n".join(lines)


def claims(rows: Mapping[str, Any]) -> str:
    """One line per claim with a limit."""
    lines = [
        "| what | measured | beside | target | target reached |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        if name == "machine":
            continue
        smaller = row["smaller_is_better"]
        reached = row["value"] <= row["limit"] if smaller else row["value"] >= row["limit"]
        beside = row["against"]
        if row["baseline"] is not None:
            beside = f"{row['ours']:.2f} s; {beside}: {row['baseline']:.2f} s"
        value = f"{row['value']:.3g} {row['unit']}".strip()
        bound = f"at {'most' if smaller else 'least'} {row['limit']:g} {row['unit']}".strip()
        lines.append(f"| {name} | {value} | {beside} | {bound} | {'yes' if reached else 'no'} |")
    return "\n".join(lines)


def stacks(row: Mapping[str, Any] | None) -> list[str]:
    """Why the row of stacked MLPs misses its target, if it does."""
    if row is None or row["ratio"] >= row["target"]:
        return []
    return [STACKS.format(**row)]


def profile(name: str, spent: Mapping[str, float]) -> str:
    """One line per operation of a profile."""
    lines = [f"**{name}**", "", "| operation | share of the time |", "| --- | --- |"]
    lines += [f"| `{operation}` | {share:.0%} |" for operation, share in spent.items()]
    return "\n".join(lines)


def draw(curves: Mapping[str, Any]) -> dict[str, str]:
    """Draw docs/performance.png.

    Args:
        curves: name of each curve of PANELS -> (size -> training steps per second); rates.

    Returns:
        "MLPs" and "CNNs" -> where the curve is full: the smallest number of replicas within a
        tenth of the best rate.
    """
    plotting.use_style()
    full = {}
    figure, axes = plt.subplots(1, len(PANELS), figsize=(15, 4.2))
    for ax, (name, xlabel) in zip(axes, PANELS.items(), strict=True):
        points = curves[name]
        _curve(points, ax, xlabel, name.replace("`", ""))
        if xlabel == "replicas":
            full[name.split()[0].strip(",")] = _mark_full(points, ax)
        if name == "widths, one thread":
            _percentages(list(points.values()), list(curves["rates"].values()), ax)
    axes[0].set_ylabel("training steps per second, all replicas")
    figure.suptitle("How many training steps fit into a second")
    figure.savefig(DOCS / "performance.png")
    plt.close(figure)
    return full


def _cells(row: Mapping[str, Any]) -> Sequence[str]:
    smaller = row.get("smaller_is_better", False)
    reached = row["ratio"] <= row["target"] if smaller else row["ratio"] >= row["target"]
    ours, baseline = (
        f"{row[side]:.2f} s" if side in row else "" for side in ("ours_s", "baseline_s")
    )
    target = f"{'at most' if smaller else 'at least'} {row['target']:g}"
    answer = "yes" if reached else "no"
    return row["what"], row["against"], ours, baseline, f"{row['ratio']:.2f}", target, answer


def _curve(points: Mapping[str, float], ax: Axes, xlabel: str, title: str) -> None:
    """One panel: equal steps on the horizontal axis."""
    ax.plot(range(len(points)), list(points.values()), "o-", color=plotting.BACKBONE_COLOUR)
    if "channels" in xlabel:
        ax.set_xticks(range(len(points)), list(points), rotation=30, ha="right")
    else:
        ax.set_xticks(range(len(points)), list(points))
    ax.margins(x=0.12)
    ax.set(xlabel=xlabel, title=title, ylim=(0, 1.15 * max(points.values())))


def _mark_full(points: Mapping[str, float], ax: Axes) -> str:
    """A dashed line at the smallest size within a tenth of the best rate; returns that size."""
    best = max(points.values())
    size = next(size for size, rate in points.items() if rate >= 0.9 * best)
    place = list(points).index(size)
    ax.axvline(place, color=_ACCENT, linestyle="--", linewidth=1)
    ax.annotate(
        f"full at {size}",
        (place, 0),
        (-4, 6),
        textcoords="offset points",
        ha="right",
        color=_ACCENT,
    )
    return str(size)


def _percentages(rates: Sequence[float], shares_of_peak: Sequence[float], ax: Axes) -> None:
    """The share of the arithmetic peak beside each point."""
    for k, (rate, share) in enumerate(zip(rates, shares_of_peak, strict=True)):
        ax.annotate(f"{share:.0%}", (k, rate), (4, 6), textcoords="offset points", fontsize=9)


INTRODUCTION = """# Performance

Written by `make bench`: both sides of every line were measured in one run, in turn, after a
warm-up; seconds are medians, and the ratio is the median of the ratios pair by pair. The baselines
are in `benchmarks/baselines.py`, written as the tutorials write them."""
CURVES = """From left to right: a stack of MLPs gains with every replica until the matrix products
fill the cores (full at {MLPs} replicas); CNNs gain little from more replicas, since each fills its
core (full at {CNNs}); wider networks take fewer steps per second, at a larger share of one core's
float32 matrix-product rate (the percentages); the number of training images changes no step, only
how often start-up and evaluation come in between."""
BATCHES = """`rtl batch` and the store. Both sides of a line were measured in one run."""
SLIDERS = """The panels in a real kernel, and served by `rtl app` to headless Chromium. Latencies
are 95th percentiles."""
PROFILES = """Each operation's own time, by torch's profiler, whose own cost makes small operations
look larger than they are."""
STACKS = """**Why the synthetic row misses its target.** At the matrix-product rate of all cores the
multiply-adds alone would take {floor_s:.1f} s of our {ours_s:.1f} s. At mini-batches of 64 the
batched products (`aten::bmm` below) take most of the time, so stacking can only remove what lies
around them: copies of the gradient and momentum's updates come next."""


if __name__ == "__main__":
    main()
