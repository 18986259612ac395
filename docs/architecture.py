"""Writes docs/architecture.md and its picture from the package: `make results` calls it."""

import ast
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parent / "rtl_utils"

# From the ground up: a module imports only from those before it.
ORDER = (
    ("messages", "folders", "progress", "randomness", "devices", "provenance", "_launch"),
    ("sheets", "data", "launchers", "_fork"),
    ("models", "couplings", "schedules", "forks"),
    ("paths", "kernels"),
    ("lengths", "training"),
    ("coupled", "heads", "refits"),
    ("methods", "probing"),
    ("runs", "store"),
    ("migration",),
    ("experiments",),
    ("statistics", "paper"),
    ("distances",),
    ("tables",),
    ("claims", "exports"),
    ("plotting",),
    ("settings",),
    ("widgets", "headless", "exercises"),
    ("grid", "report"),
    ("declared",),
    ("app", "batch"),
    ("cli",),
)
GROUPS = {
    "tasks and paths": ("data", "models", "couplings", "schedules", "paths"),
    "training": (
        "devices",
        "lengths",
        "training",
        "coupled",
        "heads",
        "refits",
        "methods",
        "probing",
    ),
    "runs that last": ("provenance", "runs", "store", "migration", "experiments"),
    "evidence": ("statistics", "paper", "distances", "tables", "claims", "plotting"),
    "use": ("settings", "exercises", "widgets", "app", "headless", "report", "cli"),
    "kernels": ("_launch", "_fork", "forks", "kernels"),
    "batches": ("sheets", "launchers", "grid", "declared", "exports", "batch"),
    "ground": ("messages", "folders", "progress", "randomness"),
}
COLOURS = dict(
    zip(
        GROUPS,
        ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#E8906A", "#7FB2D9", "#BBBBBB"),
        strict=True,
    )
)


def modules() -> dict[str, list[Path]]:
    """Name of each module or subpackage -> its files."""
    found = {path.stem: [path] for path in PACKAGE.glob("*.py") if path.stem != "__init__"}
    for folder in PACKAGE.iterdir():
        if (folder / "__init__.py").exists():
            found[folder.name] = sorted(folder.glob("*.py"))
    return found


def imports(files: list[Path]) -> set[str]:
    """Modules of the package that these files import."""
    names: set[str] = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "rtl_utils":
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rtl_utils."):
                names.add(str(node.module).split(".")[1])
    return names


def graph() -> dict[str, set[str]]:
    """Module -> those that it imports."""
    found = modules()
    return {name: imports(files) & set(found) - {name} for name, files in found.items()}


def reached(arrows: dict[str, set[str]], start: str) -> set[str]:
    """Modules that a module uses, directly or through others."""
    used = arrows[start]
    return used.union(*(reached(arrows, name) for name in used))


def reduced(arrows: dict[str, set[str]]) -> dict[str, set[str]]:
    """The arrows without those that a longer way implies."""
    return {
        name: used - set().union(*(reached(arrows, other) for other in used))
        for name, used in arrows.items()
    }


def summary(name: str) -> str:
    """First sentence of the module's docstring."""
    path = PACKAGE / f"{name}.py"
    path = path if path.exists() else PACKAGE / name / "__init__.py"
    text = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0].split())
    return text.rstrip(".")


def page() -> str:
    """The text of docs/architecture.md."""
    arrows = graph()
    rows = [
        f"| `{name}` | {summary(name)} | {_names(arrows[name])} |"
        for layer in ORDER
        for name in layer
    ]
    return PAGE.format(rows="\n".join(rows))


def _names(modules: set[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(modules)) or "–"


def draw(ax: Axes) -> Axes:
    """The graph, layer above layer, without the arrows that a longer way implies."""
    arrows = reduced(graph())
    places = {}
    for level, layer in enumerate(ORDER):
        for k, name in enumerate(layer):
            places[name] = ((k - (len(layer) - 1) / 2) * 3.2, level * 1.0)
    group_of = {name: group for group, names in GROUPS.items() for name in names}
    for name, (x, y) in places.items():
        for used in sorted(arrows[name]):
            to_x, to_y = places[used]
            style = {"arrowstyle": "-|>", "color": "#666666", "linewidth": 1, "alpha": 0.8}
            bent = {**style, "connectionstyle": f"arc3,rad={0.12 if to_x <= x else -0.12}"}
            ax.annotate("", (to_x, to_y + 0.25), (x, y - 0.25), arrowprops=bent, zorder=1)
    for name, (x, y) in places.items():
        box = {"boxstyle": "round,pad=0.4", "facecolor": COLOURS[group_of[name]], "linewidth": 0}
        ax.text(x, y, name, ha="center", va="center", bbox=box, zorder=3, fontsize=11)
    for group, colour in COLOURS.items():
        ax.plot([], [], "s", color=colour, markersize=10, label=group)
    ax.legend(loc="upper left", bbox_to_anchor=(0, 1), frameon=False)
    ax.set(xlim=(-9, 9), ylim=(-0.7, len(ORDER) - 0.3), title="what imports what in rtl_utils")
    ax.axis("off")
    return ax


PAGE = """# Architecture

Written by `docs/architecture.py` from the imports and docstrings of the package.

**One idea carries the package: every transfer method is training along a path of tasks from the
source (tau = 0) to the target (tau = 1).** So there is one training loop (`training`), and a
method is a small record (`methods.METHODS`). Data flows one way: data, paths, training, probing
and distances, store, statistics, figures. No module knows a notebook.

![Modules of rtl_utils, each above those that it imports](architecture.png)

The picture leaves out arrows that a longer way implies; the table has them all. A module imports
only from those above it in the table, which a test holds.

| module | holds | imports |
| --- | --- | --- |
{rows}

## Results that last

A run is a record (`runs.Run`), stored under a key. The key is a hash of what the run *reads*
(`runs.reads`): the fields that its method uses, and the `version` numbers of its data set,
network, blend, schedule, method, shortcut, and of the training, heads, lengths, couplings and
probing.
It is not a hash of source text, so a rename, a type hint, a moved file or a new method keeps
every stored run.

What guards the numbers are the canaries (`tests/canaries.py`): one tiny training in float64 for
each of these, compared with committed values to 1e-9. Whoever changes a number sees exactly the
canaries of what was changed turn red, raises its `version`, and records the new values.

Every stored and exported row carries its provenance: commit, whether the package was unchanged,
package, Python and torch versions, device, processor, threads, date and seconds.
`results/NAME/manifest.json` says which command made a sweep, and which of its runs have no rows, as
they diverged. Tables and figures warn when they average rows of different versions, devices or
machines.

Runs of version 0.1 are found again where their numbers have not changed (`migration`): their old
key, a hash of the source text, proves which commit made them.

## What a kill, a damaged file or a full disk can cost

A run's rows, its checksum and the checksum of its weights are written in one transaction, after the
weights. So whatever is killed at whatever moment, a stored run is whole. What is damaged later does
not verify when it is read: that run is named and trained again, the others stay.

Who trains a run holds its lease in the store (`store.Store.lease`), renews it while it works, and
loses it when it dies. So two notebooks, two batches or two machines never train one run twice.

`rtl batch` (`batch`) gives each task of a sweep (`grid`) to a Dask worker. The worker forks a
kernel from a warm process (`forks`; a plain kernel where that is not safe) and executes one
notebook with papermill (`kernels`, `headless`). A task is recorded in the store when it begins and
when it ends; its kernel dies with its worker, and its worker with the batch.

The parameters of `sweeps/trainings.ipynb` say by themselves which runs there are (`declared`). So
`rtl train` trains those of a whole sweep by one call of `experiments.run`, without a notebook, and
`rtl results` knows what the sweep asks for though no task of it was executed.

## Where does a line belong?

| you add | you touch |
| --- | --- |
| a data set | one record in `data/datasets.py` (and its loader beside the others) |
| a shortcut | one record in `data/shortcuts.py`, `PATCHES` |
| a method | one record in `methods.py`, `METHODS` |
| a blend, a schedule, a network | one record in `paths.py`, `schedules.py`, `models.py` |
| a notebook parameter | one record in `settings/parameters.py`, a field in `settings/records.py` |
| an exercise | one record in `exercises/_nNN.py`, three cells of its notebook, its solution |
| a sweep | one YAML file in `sweeps/` |
| a place for runs | one entry of `LAUNCHERS` in `launchers.py`, or a file of one's own |
| a table, a verdict, a figure | one function in a module of `tables/`, `claims/`, `plotting/` |

`CONTRIBUTING.md` explains how; `docs/tried.md` says what was tried and did not pay.
"""


def main() -> None:
    """Write page and picture."""
    (HERE / "architecture.md").write_text(page())
    figure, ax = plt.subplots(figsize=(11, 11.5))
    draw(ax)
    figure.savefig(HERE / "architecture.png", dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()
