"""The store of runs: rows in a database, weights in files. Writes are atomic."""

import io
import os
import sqlite3
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from sqlalchemy import (
    JSON,
    URL,
    Column,
    Engine,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    delete,
    event,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.exc import OperationalError
from sqlalchemy.schema import CreateColumn, CreateTable

FINAL = -1  # epoch of a value that is measured after training
Row = tuple[str, int, float]  # metric, epoch, value

_METADATA = MetaData()
_RUNS = Table(
    "runs",
    _METADATA,
    Column("run", String(16), primary_key=True),
    Column("status", String(16), nullable=False),  # "done" or "diverged"
    Column("message", String),  # why it diverged
    Column("spec", JSON, nullable=False),  # the run's record, in full
    Column("provenance", JSON),  # which code and machine made it, see `rtl_utils.provenance`
    Column("reads", JSON),  # what its key is a hash of, see `rtl_utils.runs`
)
_VALUES = Table(
    "results",
    _METADATA,
    Column("run", String(16), primary_key=True),
    Column("metric", String(40), primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("value", Float),
)


class Adopted(NamedTuple):
    """What a run that an earlier version stored becomes.

    Args:
        key: its new one.
        spec: its record.
        reads: what its key is a hash of.
        provenance: where it came from, if it was stored without one.
        metrics: old name -> new name.
    """

    key: str
    spec: Mapping[str, Any]
    reads: Mapping[str, Any]
    provenance: Mapping[str, Any]
    metrics: Mapping[str, str]


_ASKED_AT_ONCE = 500  # keys per query: databases limit the number of parameters
_SWITCH_ATTEMPTS = 200  # at 0.05 s each


class Store:
    """Rows and weights of runs in a folder.

    Args:
        folder: is made if it is not there.
        url: of another database, in SQLAlchemy's notation; None for SQLite in the folder.

    Raises:
        ValueError: if the folder cannot be written.
    """

    def __init__(self, folder: str | Path, url: str | None = None) -> None:
        self.folder = Path(folder)
        self.migrated = False  # whether runs of earlier versions were looked for
        try:
            (self.folder / "weights").mkdir(parents=True, exist_ok=True)
            self.engine = _engine(self.folder, url)
            with self.engine.begin() as connection:
                for table in (_RUNS, _VALUES):  # several processes may open a new store at once
                    connection.execute(CreateTable(table, if_not_exists=True))
            self._add_missing_columns()
        except (OSError, OperationalError) as error:
            reason = getattr(error, "orig", None) or error
            raise ValueError(
                f"out must be a folder that can be written; got {str(folder)!r} ({reason})"
            ) from error

    def save(
        self,
        key: str,
        spec: Mapping[str, Any],
        rows: Iterable[Row],
        *,
        message: str | None = None,
        provenance: Mapping[str, Any] | None = None,
        reads: Mapping[str, Any] | None = None,
    ) -> None:
        """Store one run in one transaction; an earlier version of it is replaced.

        Args:
            key: of the run.
            spec: its record, as JSON values.
            rows: (metric, epoch, value).
            message: why it diverged; None if it did not.
            provenance: which code and machine made it.
            reads: what its key is a hash of.
        """
        values = [
            {"run": key, "metric": metric, "epoch": epoch, "value": value}
            for metric, epoch, value in rows
        ]
        run = {
            "run": key,
            "status": "diverged" if message else "done",
            "message": message,
            "spec": dict(spec),
            "provenance": provenance and dict(provenance),
            "reads": reads and dict(reads),
        }
        with self.engine.begin() as connection:
            for table in (_RUNS, _VALUES):
                connection.execute(delete(table).where(table.c.run == key))
            connection.execute(insert(_RUNS).values(**run))
            if values:
                connection.execute(insert(_VALUES), values)

    def status(self, keys: Iterable[str]) -> dict[str, tuple[str, str | None]]:
        """(status, message) of the runs among `keys` that are in the store."""
        query = select(_RUNS.c.run, _RUNS.c.status, _RUNS.c.message)
        found = self._of(query, _RUNS, keys)
        return {run: (status, message) for run, status, message in found}

    def specs(self) -> dict[str, dict[str, Any]]:
        """Key of every run in the store -> its record."""
        with self.engine.connect() as connection:
            found = connection.execute(select(_RUNS.c.run, _RUNS.c.spec)).all()
        return {row.run: row.spec for row in found}

    def values(self, keys: Iterable[str]) -> pd.DataFrame:
        """Tidy rows of the runs among `keys` that are in the store.

        Returns:
            Columns run, status, metric, epoch (-1: after training), value and those of the
            provenance.
        """
        wanted = list(dict.fromkeys(keys))
        query = select(_RUNS.c.run, _RUNS.c.status, _RUNS.c.provenance)
        runs = [
            {"run": run, "status": status, **_mapping(provenance)}
            for run, status, provenance in self._of(query, _RUNS, wanted)
        ]
        rows = [tuple(row) for row in self._of(select(_VALUES), _VALUES, wanted)]
        values = pd.DataFrame(rows, columns=["run", "metric", "epoch", "value"])
        values["value"] = values["value"].astype(float)
        described = pd.DataFrame(runs, columns=None if runs else ["run", "status"])
        return values.merge(described, on="run")

    def adopt(self, key: str, adopted: Adopted) -> None:
        """Give a stored run another key, record and names of metrics, all or nothing.

        Its values and weights stay as they are, and so does its provenance if it has one.

        Args:
            key: of the run as it is stored.
            adopted: what it becomes.
        """
        new = adopted.key
        with suppress(FileNotFoundError):  # there are none, or another process was faster
            self._weights(key).replace(self._weights(new))
        values = {"run": new, "spec": dict(adopted.spec), "reads": dict(adopted.reads)}
        with self.engine.begin() as connection:
            of_run = _RUNS.c.run == key
            found = connection.execute(select(_RUNS.c.provenance).where(of_run)).one_or_none()
            if found is None:  # another process was faster
                return
            values["provenance"] = found.provenance or dict(adopted.provenance)
            connection.execute(update(_RUNS).where(of_run).values(**values))
            of_run = _VALUES.c.run == key
            for metric, name in adopted.metrics.items():
                renamed = update(_VALUES).where(of_run & (_VALUES.c.metric == metric))
                connection.execute(renamed.values(metric=name))
            connection.execute(update(_VALUES).where(of_run).values(run=new))

    def save_weights(self, key: str, net: torch.nn.Module) -> None:
        """Keep a network's weights under the run's key; the file appears whole or not at all.

        Raises:
            OSError: if the disk is full; nothing is left behind.
        """
        packed = io.BytesIO()
        torch.save(net.state_dict(), packed)
        temporary = self._weights(key).with_suffix(f".{os.getpid()}.partial")
        try:
            temporary.write_bytes(packed.getbuffer())
            temporary.replace(self._weights(key))
        finally:
            temporary.unlink(missing_ok=True)

    def has_weights(self, key: str) -> bool:
        """Whether there is a file of weights; `load_weights` tells whether it is whole."""
        return self._weights(key).exists()

    def load_weights(self, key: str, net: torch.nn.Module) -> bool:
        """Load the run's weights into the network.

        Returns:
            False if they are not there or damaged, so that they must be trained again.
        """
        try:
            with zipfile.ZipFile(self._weights(key)) as file:
                if file.testzip() is not None:  # torch does not check the checksums that it writes
                    return False
            state = torch.load(self._weights(key), weights_only=True, map_location="cpu")
            net.load_state_dict(state)
        except Exception:  # a damaged file can raise anything, from OSError to TypeError
            return False
        net.eval()
        return True

    def _weights(self, key: str) -> Path:
        return self.folder / "weights" / f"{key}.pt"

    def _of(self, query: Any, table: Table, keys: Iterable[str]) -> list[Any]:
        """What the query finds of the runs among `keys`."""
        found: list[Any] = []
        with self.engine.connect() as connection:
            for part in _parts(dict.fromkeys(keys), _ASKED_AT_ONCE):
                found += connection.execute(query.where(table.c.run.in_(part))).all()
        return found

    def _add_missing_columns(self) -> None:
        """Bring the tables of a store that an earlier version made up to date."""
        there = {column["name"] for column in inspect(self.engine).get_columns("runs")}
        for column in _RUNS.columns:
            if column.name not in there:
                definition = CreateColumn(column).compile(self.engine)
                with self.engine.begin() as connection:
                    connection.execute(text(f"ALTER TABLE runs ADD COLUMN {definition}"))


def _mapping(value: Any) -> Mapping[str, Any]:
    """A stored record, or nothing where none was stored or it is damaged."""
    return value if isinstance(value, Mapping) else {}


def _engine(folder: Path, url: str | None) -> Engine:
    if url is not None:
        return create_engine(url)
    # not a URL as text: a folder may have "?" or "%" in its name
    database = URL.create("sqlite", database=str(folder / "results.db"))
    engine = create_engine(database, connect_args={"timeout": 30})
    event.listen(engine, "connect", _write_ahead)
    return engine


def _write_ahead(connection: sqlite3.Connection, _record: object) -> None:
    """Let readers and a writer work at once.

    Switching a new file needs a moment alone for which SQLite's own time-out does not wait.
    """
    for attempt in range(_SWITCH_ATTEMPTS):
        try:
            connection.execute("PRAGMA journal_mode=WAL").fetchall()
            break
        except sqlite3.OperationalError as error:
            locked = "locked" in str(error)
            if not locked or attempt == _SWITCH_ATTEMPTS - 1:
                raise
            time.sleep(0.05)
    connection.execute("PRAGMA synchronous=NORMAL")


def _parts(values: Iterable[str], size: int) -> Iterator[Sequence[str]]:
    remaining = iter(values)
    while part := list(islice(remaining, size)):
        yield part
