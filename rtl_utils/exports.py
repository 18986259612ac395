"""Stored runs as files: one CSV or Parquet file, or a folder of `results/` with its manifest."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from rtl_utils import folders, tables
from rtl_utils.messages import shown
from rtl_utils.runs import Run
from rtl_utils.store import FINAL, Store

_AT_ONCE = 500  # runs whose epochs are in memory at once
_ORDER = (
    *("dataset", "source", "target", "method", "seed", "run", "metric"),
    *("source_shortcut", "epochs", "source_epochs"),  # in which runs that share a key may differ
)
_EMPTY = pd.DataFrame()
_FORMATS = (".csv", ".parquet")
_AS_TEXT = ("run", "commit", "package", "python", "torch")  # also where they look like numbers

Asked = tuple[str, Mapping[str, Any]]  # key of a run, and its record as it was asked for


class Published(NamedTuple):
    """What `publish` did.

    Args:
        runs: how many were written.
        taken: how many of these the store lacks, and earlier files had.
        unfinished: seeds of which a task is not done, or a run is in neither.
        kept: those among them whose files were left as they are, as something would be lost.
    """

    runs: int
    taken: int
    unfinished: list[int]
    kept: list[int]


def rows_of(runs: Iterable[Run | Asked], store: Store) -> pd.DataFrame:
    """Tidy rows after training, one per run and metric, with each run's record and provenance.

    Args:
        runs: runs, or keys with records as `Store.asked` gives them. From scratch no source is
            read, for one, so runs that differ in it share a key; each is described as it stands
            here. Those that the store lacks, or whose records are of another version, are left
            out.
        store: that holds them.

    Returns:
        Columns run, those of `Run.columns`, status, metric, value and those of the provenance, in
        an order that depends on the values alone.
    """
    described = _described(runs)
    return _rows(described, _values(described.run, store))


def write_rows(runs: Iterable[Run | Asked], store: Store, path: Path) -> pd.DataFrame:
    """Write the values after training of some runs as one file; returns what was written.

    Args:
        runs: as in `rows_of`.
        store: that holds them.
        path: of the file, which ends with .csv or .parquet; its folder is made, and it appears
            whole or not at all.

    Raises:
        ValueError: for another ending, or if the store has none of the runs.
        OSError: if the file cannot be written.
    """
    if path.suffix.lower() not in _FORMATS:
        raise ValueError(
            f"name a file that ends with {' or '.join(_FORMATS)}; got {shown(str(path))}"
        )
    rows = rows_of(runs, store)
    if not len(rows):
        raise ValueError(f"{store.folder} has no values after training of the runs that are asked")
    _write(rows, path)
    return rows


def asked_by(
    tasks: Iterable[str], store: Store, declared: Mapping[str, Sequence[Run]]
) -> list[Asked]:
    """Key and record of the runs that tasks ask for.

    Args:
        tasks: their keys.
        store: that knows what the tasks asked for that were executed.
        declared: the runs of declared tasks, for which the store is not asked.
    """
    executed = [task for task in tasks if task not in declared]
    known = dict.fromkeys(run for runs in declared.values() for run in runs)
    return [*store.asked(executed), *((run.key, asdict(run)) for run in known)]


def publish(
    sweep: str,
    store: Store,
    folder: Path,
    command: str,
    tasks: Mapping[str, Collection[int]],
    note: str = "",
    declared: Mapping[str, Sequence[Run]] | None = None,
) -> Published:
    """Write the rows of a sweep as one CSV file per seed, and a manifest that says what made them.

    What the store lacks of the runs that are asked for is taken from the files of an earlier
    publication, if it was trained on the same kind of device: a case can be added on another
    machine. The file of a seed that is still not finished is replaced only if no row of it would be
    lost.

    Args:
        sweep: its name.
        store: in which it ran.
        folder: gets seed-K.csv and manifest.json; files of other seeds are left as they are.
        command: that made the rows, for the manifest; where no run is new, it keeps its own.
        tasks: key of each task of the sweep -> its seeds; none where they are not known, and then
            every seed waits for it.
        note: for the manifest.
        declared: key of each declared task (`declared.is_declared`) -> its runs; such a task need
            not have been executed, and is done when the store has all of them.

    Raises:
        ValueError: if the store has nothing of the sweep, or nothing that the files may lose.
        OSError: if a file cannot be written.
    """
    declared = {} if declared is None else declared
    asked = asked_by(tasks, store, declared)
    described = _described(asked)
    stored = _values(described.run, store)
    if not len(stored):
        raise ValueError(
            f"{store.folder} has no finished run of the sweep {shown(sweep)}; run "
            f"`rtl batch sweeps/{sweep}.yaml` first, or name its folder"
        )
    earlier = _published(folder, stored, set(described.run))
    rows = _rows(described, pd.concat([stored, earlier], ignore_index=True))
    executed = {task: seeds for task, seeds in tasks.items() if task not in declared}
    unfinished = _unfinished(asked, set(rows.run), store, executed)
    seeds = sorted(set(rows[rows.run.isin(stored.run)].seed.tolist()))
    parts: dict[int, pd.DataFrame] = {seed: rows[rows.seed == seed] for seed in seeds}
    paths = {seed: folder / f"seed-{seed}.csv" for seed in parts}
    kept = [seed for seed in parts if seed in unfinished and _lacks(parts[seed], paths[seed])]
    if len(kept) == len(parts):
        raise ValueError(
            f"the sweep {shown(sweep)} is not finished in {store.folder}, and the files in "
            f"{folder} hold rows that would be lost; run `rtl batch sweeps/{sweep}.yaml` first"
        )
    written = [seed for seed in parts if seed not in kept]
    command = _command(folder, set(stored.run), command)
    diverged = _diverged(described, set(rows.run), store, folder)
    for seed in written:
        _write(parts[seed], paths[seed])
    _write_manifest(sweep, folder, command, note, diverged)
    runs = {run for seed in written for run in parts[seed].run}
    return Published(len(runs), len(runs & set(earlier.run)), sorted(unfinished), kept)


def _published(folder: Path, stored: pd.DataFrame, asked: Collection[str]) -> pd.DataFrame:
    """What earlier files hold of runs that are asked for and not stored, as `_values` has it.

    Args:
        folder: of the files.
        stored: values of runs that the store has; one from another kind of device is not joined.
        asked: keys of the runs that are wanted.
    """
    parts = [stored[:0]]
    for file in sorted(folder.glob("seed-*.csv")):
        rows = pd.read_csv(file, dtype=dict.fromkeys(_AS_TEXT, str)).reindex(columns=list(stored))
        wanted = rows.run.isin(set(asked) - set(stored.run)) & rows.device.isin(stored.device)
        # runs that share a key stand there once per description
        parts.append(rows[wanted].drop_duplicates(["run", "metric"]))
    filled = [part for part in parts if len(part)]
    return pd.concat(filled, ignore_index=True) if filled else stored[:0]


def _diverged(described: pd.DataFrame, found: set[str], store: Store, folder: Path) -> pd.DataFrame:
    """The runs without values, as they diverged, each with the reason in the column "why".

    Args:
        described: the runs that are asked for.
        found: keys of those that have values.
        store: that knows why the others have none.
        folder: whose manifest may name more: runs of other seeds, or of another machine.
    """
    status = store.status(set(described.run) - found)
    why = {key: message for key, (how, message) in status.items() if how == "diverged"}
    lost = described[described.run.isin(why)].assign(why=lambda runs: runs.run.map(why))
    earlier = pd.DataFrame(_manifest(folder).get("diverged", []), columns=[*lost])
    wanted = earlier.run.isin(set(described.run) - found - set(why))
    kept = earlier[wanted | ~earlier.seed.isin(described.seed)]
    return pd.concat([part for part in (lost, kept) if len(part)] or [lost], ignore_index=True)


def _unfinished(
    asked: Sequence[Asked], found: set[str], store: Store, tasks: Mapping[str, Collection[int]]
) -> set[int]:
    """Seeds of which a task is not done, or a run that is asked for has not been found."""
    done = {record.task for record in store.tasks(status="done", keys=tasks)}
    waiting = [seeds for task, seeds in tasks.items() if task not in done]
    if not all(waiting):  # a task that names no seeds
        waiting.append({int(spec["seed"]) for _, spec in asked})
    others = store.status({key for key, _ in asked} - found)
    diverged = {key for key, (status, _) in others.items() if status == "diverged"}
    lost = {int(spec["seed"]) for key, spec in asked if key not in found | diverged}
    return lost.union(*waiting)


def _lacks(rows: pd.DataFrame, path: Path) -> bool:
    """Whether a file of earlier rows holds runs, or numbers of rows, that these lack."""
    if not path.is_file():
        return False
    earlier = pd.read_csv(path, dtype={"run": str})
    return not set(earlier.run) <= set(rows.run) or len(earlier) > len(rows)


def _command(folder: Path, runs: set[str], command: str) -> str:
    """What made the rows: what the manifest says already where no run is new, else the command."""
    files = folder.glob("seed-*.csv")
    known = {run for file in files for run in pd.read_csv(file, usecols=["run"], dtype=str).run}
    earlier = _manifest(folder)
    return str(earlier["command"]) if earlier and runs <= known else command


def _manifest(folder: Path) -> dict[str, Any]:
    """What the manifest of an earlier publication says; empty if there is none."""
    path = folder / "manifest.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _write_manifest(
    sweep: str, folder: Path, command: str, note: str, diverged: pd.DataFrame
) -> None:
    """Say what made all rows of a folder, and which runs have none, as they diverged."""
    files = sorted(folder.glob("seed-*.csv"))
    every = pd.concat([pd.read_csv(file, dtype={"run": str}) for file in files])
    said = tables.manifest(sweep, every, command, note, diverged[diverged.seed.isin(every.seed)])
    with folders.whole_file(folder / "manifest.json") as temporary:
        text = json.dumps(said, indent=1, ensure_ascii=False) + "\n"
        temporary.write_text(text, encoding="utf-8")


def _described(runs: Iterable[Run | Asked]) -> pd.DataFrame:
    """Key and columns of each run; what differs in nothing that a row says stands there once."""
    described = []
    for run in runs:
        with suppress(AttributeError, KeyError, TypeError, ValueError):  # of another version
            key, record = (run.key, run) if isinstance(run, Run) else (run[0], Run.of(run[1]))
            described.append({"run": key, **record.columns()})
    return pd.DataFrame(described or {"run": []}).drop_duplicates()


def _rows(described: pd.DataFrame, values: pd.DataFrame) -> pd.DataFrame:
    """Values beside the records of their runs, in an order that depends on both alone."""
    if not len(values):
        return pd.DataFrame(columns=[*_ORDER, "value"])
    order = dict.fromkeys([*_ORDER, *described])  # so that no two rows are alike
    rows = described.merge(values, on="run")
    return rows.sort_values(list(order), ignore_index=True, kind="stable")


def _values(keys: Iterable[str], store: Store) -> pd.DataFrame:
    """Values after training, a few runs at a time: all epochs of all runs may not fit."""
    remaining = iter(dict.fromkeys(keys))
    parts = []
    while part := list(islice(remaining, _AT_ONCE)):
        values = store.values(part)
        parts.append(values[values.epoch == FINAL].drop(columns="epoch"))
    columns = dict.fromkeys(column for part in parts for column in part)
    # a column that is empty in one part must not decide the type of the others
    filled = [part.dropna(axis="columns", how="all") for part in parts if len(part)]
    return pd.concat(filled, ignore_index=True).reindex(columns=[*columns]) if filled else _EMPTY


def _write(rows: pd.DataFrame, path: Path) -> None:
    """Write rows as the file's ending says, whole or not at all."""
    with folders.whole_file(path) as temporary:
        if path.suffix.lower() == ".parquet":
            rows.to_parquet(temporary, index=False)
        else:
            rows.to_csv(temporary, index=False, float_format="%.6g")
