"""Stored runs as files: one CSV or Parquet file, or a folder of `results/` with its manifest."""

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

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


def rows_of(runs: Iterable[Run | str], store: Store) -> pd.DataFrame:
    """Tidy rows after training, one per run and metric, with each run's record and provenance.

    Args:
        runs: runs, which are described as they stand here, or keys, which are described as they
            were stored. From scratch no source is read, for one, so runs that differ in it share
            a key. Those that the store lacks, or whose records are of another version, are left
            out.
        store: that holds them.

    Returns:
        Columns run, those of `Run.columns`, status, metric, value and those of the provenance, in
        an order that depends on the values alone.
    """
    wanted = list(dict.fromkeys(runs))
    specs = store.specs() if any(isinstance(run, str) for run in wanted) else {}
    described = []
    for run in wanted:
        with suppress(AttributeError, KeyError, TypeError, ValueError):  # of another version
            record = Run.of(specs[run]) if isinstance(run, str) else run
            key = run if isinstance(run, str) else run.key
            described.append({"run": key, **record.columns()})
    values = _values(dict.fromkeys(one["run"] for one in described), store)
    if not len(values):
        return pd.DataFrame(columns=[*_ORDER, "value"])
    rows = pd.DataFrame(described).merge(values, on="run")
    return rows.sort_values(list(_ORDER), ignore_index=True, kind="stable")


def write_rows(runs: Iterable[Run | str], store: Store, path: Path) -> pd.DataFrame:
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
        raise ValueError(f"name a file that ends with {' or '.join(_FORMATS)}; got {shown(path)}")
    rows = rows_of(runs, store)
    if not len(rows):
        raise ValueError(f"{store.folder} has no values after training of the runs that are asked")
    _write(rows, path)
    return rows


def publish(
    sweep: str,
    store: Store,
    folder: Path,
    command: str,
    note: str = "",
    tasks: Sequence[str] | None = None,
) -> int:
    """Write the rows of a sweep as one CSV file per seed, and a manifest that says what made them.

    Args:
        sweep: its name.
        store: in which it ran.
        folder: gets seed-K.csv and manifest.json; files of other seeds are left as they are.
        command: that made the rows, for the manifest.
        note: for the manifest.
        tasks: keys of the tasks whose runs are wanted; None for all that the store knows of the
            sweep, with those of earlier contents of its file.

    Returns:
        The number of runs that were written.

    Raises:
        ValueError: if the store has no finished run of the sweep.
        OSError: if a file cannot be written.
    """
    if tasks is None:
        tasks = [record.task for record in store.tasks(sweep=sweep)]
    used = store.runs_of(tasks)
    rows = rows_of((run for keys in used.values() for run in keys), store)
    if not len(rows):
        raise ValueError(
            f"{store.folder} has no finished run of the sweep {shown(sweep)}; run "
            f"`rtl batch sweeps/{sweep}.yaml` first, or name its folder"
        )
    for seed, part in rows.groupby("seed"):
        _write(part, folder / f"seed-{seed}.csv")
    files = sorted(folder.glob("seed-*.csv"))
    every = pd.concat([pd.read_csv(file, dtype={"run": str}) for file in files])
    said = tables.manifest(sweep, every, command, note)
    with folders.whole_file(folder / "manifest.json") as temporary:
        text = json.dumps(said, indent=1, ensure_ascii=False) + "\n"
        temporary.write_text(text, encoding="utf-8")
    return int(rows.run.nunique())


def _values(keys: Iterable[str], store: Store) -> pd.DataFrame:
    """Values after training, a few runs at a time: all epochs of all runs may not fit."""
    remaining = iter(keys)
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
