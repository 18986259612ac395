"""The rows that the checkout holds: where they lie, and what is said of them."""

import json
import os
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pandas as pd

from rtl_utils import folders, paper
from rtl_utils.messages import duration
from rtl_utils.provenance import processor, recorded
from rtl_utils.statistics import FEWEST
from rtl_utils.store import FINAL
from rtl_utils.tables.choices import PAIR, in_order
from rtl_utils.tables.texts import listed, seeds_text

# Data set -> the sweeps whose stored runs decide the claims of notebooks 01 to 05.
COURSE = {
    "synthetic": ("synthetic",),
    "cifar100": ("table1", "table3", "salman"),
    "digits": ("digits",),
}
COUPLED_SWEEPS = ("distances", "coupled-distances")  # of UT, and of CT at the same settings
_SETTING = ["source", "target", "source_shortcut", "target_shortcut", "n_train"]
_ALL_PAIRS = len(paper.GAO_TASKS) * (len(paper.GAO_TASKS) - 1)  # there and back


class Deciding(NamedTuple):
    """The rows that verdicts are taken from, see `deciding`.

    Args:
        rows: tidy rows of the values after training; empty if nothing is stored for these tasks.
        text: whose rows and seeds they are, for a caption.
    """

    rows: pd.DataFrame
    text: str


def stored(name: str) -> pd.DataFrame:
    """Rows of a sweep that the course's checkout holds, from results/NAME/*.csv.

    Args:
        name: of the folder.

    Returns:
        Tidy rows as `experiments.run` returns them, with the values after training alone (epoch
        -1); an empty frame if there are none.
    """
    checkout = folders.checkout()
    if checkout is None:
        return pd.DataFrame()
    files = sorted((checkout / "results" / name).glob("*.csv"), key=_natural_order)
    if not files:
        return pd.DataFrame()
    parts = [pd.read_csv(file, dtype={"run": str}) for file in files]
    rows = pd.concat([_without_empty_columns(part) for part in parts], ignore_index=True)
    columns = dict.fromkeys(column for part in parts for column in part)
    return rows.reindex(columns=list(columns)).assign(epoch=FINAL)


def course(dataset: str) -> pd.DataFrame:
    """Rows of all stored runs of notebooks 01 to 05 on a data set, as tables list them.

    Sweeps share runs. A run of two sweeps has one key and the same values in both, so it counts
    once; a network from scratch, one run for all sources, stands beside each of them.

    Args:
        dataset: its name; one without sweeps of its own has no rows.
    """
    parts = [stored(name) for name in COURSE.get(dataset, ())]
    rows = pd.concat([part for part in parts if len(part)] or [pd.DataFrame()], ignore_index=True)
    if rows.empty:
        return rows
    columns = [column for column in _SETTING if column in rows]
    found = in_order(rows.drop_duplicates(["run", "metric", *columns]))
    pairs = {source: place for place, (source, _) in enumerate(paper.TABLES)}
    # the paper's pairs in its order, each with its own source
    return found.sort_values("source", key=lambda of: of.map(pairs), kind="stable")


def deciding(
    live: pd.DataFrame, chosen: Callable[[pd.DataFrame], pd.DataFrame] | None = None
) -> Deciding:
    """The rows that verdicts are taken from: the stored ones, or live ones of five seeds or more.

    A notebook trains a seed or two, to be watched. They decide nothing, and differ from machine to
    machine. So a verdict comes from the stored rows of the same data set and pairs of tasks.

    Args:
        live: tidy rows of a notebook's own runs on one data set.
        chosen: takes from all stored rows of the data set those in question, such as
            `without_shortcut`; None for all.
    """
    if live.seed.nunique() >= FEWEST:
        final = live[live.epoch == FINAL]
        return Deciding(final, f"this notebook, {seeds_text(final)}")
    (dataset,) = set(live.dataset)
    rows = course(dataset)
    if len(rows):
        rows = rows if chosen is None else chosen(rows)
        pairs = pd.MultiIndex.from_frame(live[list(PAIR)])
        rows = rows[pd.MultiIndex.from_frame(rows[list(PAIR)]).isin(pairs)]
    if rows.empty:
        none = live.iloc[:0]  # with its columns, so that it can be asked
        return Deciding(none, "nothing is stored for these tasks, so nothing is decided")
    sweeps = listed(f"results/{name}" for name in COURSE[dataset])
    return Deciding(rows, f"{sweeps}, {seeds_text(rows)}")


def distance_sweeps() -> tuple[str, str]:
    """The sweeps of the distances between superclasses of CIFAR-100: of FT and UT, and of CT.

    The first is the one at the paper's settings once it has every pair, a shorter one until then.
    """
    rows = stored("task-distances")
    moved = rows[rows.method == "ut"] if len(rows) else rows
    complete = len(moved) and len(moved[list(PAIR)].drop_duplicates()) == _ALL_PAIRS
    uncoupled, coupled = COUPLED_SWEEPS
    return ("task-distances" if complete else uncoupled, coupled)


def distance_rows() -> pd.DataFrame:
    """The rows of `distance_sweeps`."""
    return pd.concat([stored(name) for name in distance_sweeps()], ignore_index=True)


def coupled_rows() -> pd.DataFrame:
    """The rows that compare the coupled distance with the uncoupled one, at the same settings."""
    return pd.concat([stored(name) for name in COUPLED_SWEEPS], ignore_index=True)


def stored_manifest(name: str) -> dict[str, Any]:
    """What results/NAME/manifest.json of the checkout says; empty if there is none."""
    checkout = folders.checkout()
    if checkout is None:
        return {}
    path = checkout / "results" / name / "manifest.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def stored_diverged(name: str) -> pd.DataFrame:
    """Runs of a sweep that have no rows, as they diverged; none where none did.

    Args:
        name: of the folder in the checkout's results.

    Returns:
        One row per run, with the columns of tidy rows that describe it, and `why`. Sweeps that were
        published before diverged runs were recorded have none.
    """
    return pd.DataFrame(stored_manifest(name).get("diverged", []))


def manifest(
    name: str, rows: pd.DataFrame, command: str, note: str, diverged: pd.DataFrame
) -> dict[str, Any]:
    """What is said beside exported rows about their making, ready for manifest.json.

    Args:
        name: of the sweep.
        rows: all exported rows, with their provenance columns.
        command: that made them.
        note: what else a reader must know.
        diverged: the runs that have no rows, as they diverged, with what describes them and `why`.

    Returns:
        JSON values: the versions, machines and dates that the rows name, the number of runs and
        rows per seed, and the runs that diverged. `cores` is None unless all rows come from this
        machine's processor.
    """
    processors = recorded(rows, "processor")
    dates = recorded(rows, "date")
    seeds = rows.groupby("seed") if len(rows) else None
    return {
        "name": name,
        "command": command,
        "commits": recorded(rows, "commit"),
        "clean": recorded(rows, "clean"),
        "package": recorded(rows, "package"),
        "torch": recorded(rows, "torch"),
        "python": recorded(rows, "python"),
        "device": recorded(rows, "device"),
        "processor": processors,
        "cores": os.cpu_count() if processors == [processor("cpu")] else None,
        "threads": recorded(rows, "threads"),
        "first_date": dates[0] if dates else None,
        "last_date": dates[-1] if dates else None,
        "runs_per_seed": {} if seeds is None else _per_seed(seeds.run.nunique()),
        "rows_per_seed": {} if seeds is None else _per_seed(seeds.size()),
        "diverged": json.loads(diverged.to_json(orient="records")),
        "note": note,
    }


def origin(name: str, rows: pd.DataFrame) -> str:
    """Where the rows of a section come from, as one paragraph of Markdown.

    Args:
        name: of their sweep, for its folder and its manifest.
        rows: that the section shows.

    Returns:
        Commits, versions, machine and dates, as far as the rows name them, and the manifest's note.
    """
    shown = f"Rows: `results/{name}/`, {rows.run.nunique()} runs, {seeds_text(rows)}."
    said = stored_manifest(name)
    note = said.get("note", "")
    if not recorded(rows, "commit"):
        return f"{shown} {note or 'Where they were made was not recorded.'}"
    dates = [date[:10] for date in recorded(rows, "date")]
    changed = " with uncommitted changes" if untraced(rows) else ""
    commits = _listed(commit[:7] for commit in recorded(rows, "commit"))
    sentences = [
        shown,
        f"Code: commit {commits}{changed}.",
        f"Versions: rtl-utils {_listed(recorded(rows, 'package'))}, "
        f"torch {_listed(recorded(rows, 'torch'))}, Python {_listed(recorded(rows, 'python'))}.",
        _machine(rows, said.get("cores")),
        f"Trained: {_listed(dict.fromkeys(dates[:1] + dates[-1:]), ' to ')} (UTC){_took(rows)}.",
        note,
    ]
    return " ".join(sentences).strip()


def _natural_order(path: os.PathLike[str]) -> tuple[int, str]:
    """seed-2 before seed-10."""
    name = os.path.basename(path)
    return len(name), name


def _without_empty_columns(rows: pd.DataFrame) -> pd.DataFrame:
    """Without the columns that hold nothing, whose type would be a guess."""
    return rows.dropna(axis="columns", how="all")


def _listed(values: Iterable[str], between: str = ", ") -> str:
    return between.join(values) or "not recorded"


def _machine(rows: pd.DataFrame, cores: int | None) -> str:
    """What the networks were trained on; the cores of the machine say nothing of a GPU."""
    devices = recorded(rows, "device")
    core_text = f", {cores or 'unknown'} cores" if "cpu" in devices else ""
    return (
        f"Machine: {_listed(recorded(rows, 'processor'))}{core_text}; "
        f"device {_listed(devices)}; threads per training: {_listed(recorded(rows, 'threads'))}."
    )


def _took(rows: pd.DataFrame) -> str:
    """How long the trainings took, summed over the runs."""
    seconds = rows.drop_duplicates("run").seconds if "seconds" in rows else pd.Series(dtype=float)
    return (
        f"; {duration(seconds.sum())} of training, summed over runs"
        if seconds.notna().any()
        else ""
    )


def untraced(rows: pd.DataFrame) -> bool:
    """Whether some rows name a commit to which uncommitted changes had been made."""
    return "False" in recorded(rows, "clean")


def _per_seed(counts: "pd.Series[int]") -> dict[str, int]:
    return {str(seed): int(count) for seed, count in counts.items()}
