"""The store itself: what the rest of the package reads and writes."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from sqlalchemy import URL, Connection, Engine, Table, delete, insert, make_url, select
from sqlalchemy.exc import ArgumentError

from rtl_utils.store import _tasks, _weights
from rtl_utils.store._integrity import RunRow, checksum, grouped, plain, verifies
from rtl_utils.store._leases import Leases
from rtl_utils.store._records import (
    Adopted,
    DamagedRunsWarning,
    Row,
    StoreError,
    TaskRecord,
    full,
    is_full,
    is_refused,
    read_only,
)
from rtl_utils.store._schema import RUNS, VALUES, parts, upsert
from rtl_utils.store._server import Server
from rtl_utils.store._sqlite import NAME, SQLite

_NAMED = 3  # damaged runs that a warning names


class Store:
    """Rows and weights of runs in a folder, and the tasks of sweeps that used them.

    Args:
        folder: is made if it is not there.
        url: of a PostgreSQL database, in SQLAlchemy's notation; None for SQLite in the folder.
        task: key of the batch task that this process executes, or None.

    Raises:
        StoreError: if the folder can neither be written nor read, the database does not answer, or
            a newer version wrote it.
    """

    def __init__(self, folder: str | Path, url: str | None = None, task: str | None = None) -> None:
        self.folder = Path(folder)
        self.url = url
        self.task = task
        self.migrated = False  # whether runs of earlier versions were looked for
        self._verified: dict[str, tuple[Any, ...]] = {}  # run -> what was read when it verified
        self._damaged: set[str] = set()  # runs for which the whole database was looked at
        self._looked = False  # whether the index of runs was compared with its table
        self._database = _database(self.folder, url)
        self.read_only = self._database.read_only or not _ready(self.folder)
        self._leases = Leases(self._database)

    @property
    def engine(self) -> Engine:
        """Of the database."""
        return self._database.engine

    def save(
        self,
        key: str,
        spec: Mapping[str, Any],
        rows: Iterable[Row],
        *,
        message: str | None = None,
        provenance: Mapping[str, Any] | None = None,
        reads: Mapping[str, Any] | None = None,
        weights: str | None = None,
    ) -> None:
        """Store one run in one transaction; an earlier version of it is replaced.

        Args:
            key: of the run.
            spec: its record, as JSON values.
            rows: (metric, epoch, value).
            message: why it diverged; None if it did not.
            provenance: which code and machine made it.
            reads: what its key is a hash of.
            weights: what `save_weights` returned.

        Raises:
            ValueError: for two values in one place.
            StoreError: if the disk is full, the store can be read only or the database is gone.
        """
        self._may_write()
        values = [(metric, int(epoch), float(value)) for metric, epoch, value in rows]
        if len({row[:2] for row in values}) < len(values):
            raise ValueError(f"run {key} has two values of one metric and epoch; give one")
        status = "diverged" if message else "done"
        message = message and message.replace("\0", "�")
        run = RunRow(
            key, status, message, plain(spec), plain(provenance), plain(reads), weights, None
        )
        run = run._replace(checksum=checksum(run, values))
        self._database.write(lambda connection: _put(connection, run, values))
        self._verified.pop(key, None)

    def status(self, keys: Iterable[str]) -> dict[str, tuple[str, str | None]]:
        """(status, message) of the runs among `keys` that are in the store and whole."""
        wanted = list(dict.fromkeys(keys))
        query = select(RUNS.c.run, RUNS.c.status, RUNS.c.message, RUNS.c.checksum)

        def look(connection: Connection) -> tuple[list[Any], set[str]]:
            found = _of(connection, query, RUNS, wanted)
            unknown = [row.run for row in found if self._verified.get(row.run) != tuple(row)]
            known = {row.run for row in found} - set(unknown)
            return found, known | {run.run for run, _ in self._whole(connection, unknown)}

        found, whole = self._database.read(look)
        if self._must_mend(wanted, {row.run for row in found}, whole):
            return self.status(wanted)
        self._warn(row.run for row in found if row.run not in whole)
        return {row.run: (row.status, row.message) for row in found if row.run in whole}

    def specs(self) -> dict[str, dict[str, Any]]:
        """Key of every run in the store -> its record, or what damage has made of it."""
        found = self._database.read(
            lambda connection: connection.execute(select(RUNS.c.run, RUNS.c.spec)).all()
        )
        return {row.run: row.spec for row in found}

    def keys(self) -> set[str]:
        """Keys of all runs in the store; whether one is whole is known when it is read."""
        found = self._database.read(
            lambda connection: connection.execute(select(RUNS.c.run)).scalars().all()
        )
        return set(found)

    def values(self, keys: Iterable[str]) -> pd.DataFrame:
        """Tidy rows of the runs among `keys` that are in the store and whole.

        Returns:
            Columns run, status, metric, epoch (-1: after training), value and those of the
            provenance.
        """
        wanted = list(dict.fromkeys(keys))

        def look(connection: Connection) -> tuple[set[str], list[tuple[RunRow, list[Row]]]]:
            there = {row.run for row in _of(connection, select(RUNS.c.run), RUNS, wanted)}
            return there, self._whole(connection, wanted)

        there, found = self._database.read(look)
        whole = {run.run for run, _ in found}
        if self._must_mend(wanted, there, whole):
            return self.values(wanted)
        self._warn(key for key in wanted if key in there - whole)
        return _tidy(found)

    def adopt(self, key: str, adopted: Adopted) -> None:
        """Give a stored run another key, record and names of metrics, all or nothing.

        Its values and weights stay as they are, and so does its provenance if it has one. A run
        that is damaged stays as it is.

        Args:
            key: of the run as it is stored.
            adopted: what it becomes.

        Raises:
            ValueError: if the new key is taken.
        """
        self._may_write()
        new = adopted.key

        def look(connection: Connection) -> list[tuple[RunRow, list[Row]]]:
            if not _is_there(connection, key):  # another process was faster
                return []
            if _is_there(connection, new):
                raise ValueError(f"run {new} is in the store already; no other can become it")
            return self._whole(connection, [key])

        def change(connection: Connection) -> None:
            for run, rows in look(connection):
                names = adopted.metrics
                renamed = [(names.get(m, m), epoch, value) for m, epoch, value in rows]
                changed = RunRow(
                    new,
                    run.status,
                    run.message,
                    plain(adopted.spec),
                    run.provenance or plain(adopted.provenance),
                    plain(adopted.reads),
                    weights,
                    None,
                )
                _remove(connection, key)
                _put(connection, changed._replace(checksum=checksum(changed, renamed)), renamed)

        if not self._database.read(look):
            return
        weights = _weights.rename(self._weights(key), key, new)
        self._database.write(change)

    def save_weights(self, key: str, net: torch.nn.Module) -> str:
        """Keep a network's weights under the run's key; the file appears whole or not at all.

        Returns:
            The file's SHA-256, which `save` wants.

        Raises:
            StoreError: if the disk is full or the store can be read only; nothing is left behind.
        """
        self._may_write()
        return _weights.save(self._weights(key), key, net.state_dict())

    def has_weights(self, key: str) -> bool:
        """Whether there is a file of weights; `load_weights` tells whether it is whole."""
        return self._weights(key).exists()

    def load_weights(self, key: str, net: torch.nn.Module) -> bool:
        """Load the run's weights into the network.

        Returns:
            False if they are not there, damaged or not this run's, so that they must be trained
            again; the network is then as it was.
        """
        query = select(RUNS.c.weights).where(RUNS.c.run == key)
        digest = self._database.read(lambda connection: connection.execute(query).scalar())
        state = _weights.load(self._weights(key), key, digest)
        if state is None or not _weights.fits(state, net):
            return False
        net.load_state_dict(state)
        net.eval()
        return True

    def lease(self, names: Iterable[str]) -> AbstractContextManager[set[str]]:
        """Hold what nobody living holds, so that no other process makes it meanwhile.

        Args:
            names: what is wanted.

        Returns:
            A context manager that gives the names that this process holds now, until its end.
        """
        names = list(names)
        if names:
            self._may_write()
        return self._leases.hold(names)

    def leased(self, names: Iterable[str]) -> dict[str, str]:
        """Name -> who holds it, such as "host, process 123"; only those that are held now."""
        return self._leases.living(names)

    def use(self, runs: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Store that this process's task asked for these runs; nothing where there is no task.

        Args:
            runs: key of each, and its record as it was asked for: runs that differ only in what
                their method does not read share a key.
        """
        task = self.task
        asked = list(runs)
        if task is None or not asked:
            return
        self._may_write()
        self._database.write(lambda connection: _tasks.use(connection, task, asked))

    def save_task(self, record: TaskRecord) -> None:
        """Store what became of a task; what was stored of it before is replaced."""
        self._may_write()
        self._database.write(lambda connection: _tasks.save(connection, record))

    def tasks(
        self,
        sweep: str | None = None,
        status: str | None = None,
        keys: Iterable[str] | None = None,
    ) -> list[TaskRecord]:
        """Records of tasks, by sweep, start and key.

        Args:
            sweep: only those of this one.
            status: only those with this one.
            keys: only these.
        """
        wanted = None if keys is None else list(keys)
        found, damaged = self._database.read(
            lambda connection: _tasks.read(connection, sweep, status, wanted)
        )
        if damaged and self._database.mend():
            return self.tasks(sweep, status, wanted)
        return found

    def runs_of(self, tasks: Iterable[str]) -> dict[str, list[str]]:
        """Key of each of these tasks -> keys of the runs that it used, each once."""
        wanted = list(tasks)
        found: dict[str, list[str]] = self._database.read(
            lambda connection: _tasks.used(connection, wanted)
        )
        return found

    def asked(self, tasks: Iterable[str]) -> list[tuple[str, Mapping[str, Any]]]:
        """(key, record) of every run as these tasks asked for it, each once, in a fixed order.

        Runs that share a key come once per record.

        Args:
            tasks: their keys.
        """
        wanted = list(tasks)
        found: list[tuple[str, Mapping[str, Any]]] = self._database.read(
            lambda connection: _tasks.asked(connection, wanted)
        )
        return found

    def _weights(self, key: str) -> Path:
        return self.folder / "weights" / f"{key}.pt"

    def _may_write(self) -> None:
        if self.read_only:
            raise read_only(self.folder)

    def _whole(self, connection: Connection, keys: Sequence[str]) -> list[tuple[RunRow, list[Row]]]:
        """The runs among `keys` that verify, with their rows."""
        found: list[tuple[RunRow, list[Row]]] = []
        for part in parts(keys):
            runs = [RunRow(*row) for row in _of(connection, select(RUNS), RUNS, part)]
            rows = grouped(_values(connection, part))
            for run in runs:
                if verifies(run, rows.get(run.run, [])):
                    found.append((run, rows.get(run.run, [])))
                    self._verified[run.run] = (run.run, run.status, run.message, run.checksum)
        return found

    def _must_mend(self, wanted: Sequence[str], there: set[str], whole: set[str]) -> bool:
        """Whether the database contradicted itself and was mended, so that one must look again."""
        damaged = there - whole
        new = damaged - self._damaged
        self._damaged = (self._damaged - whole) | damaged
        if new and self._database.mend():
            return True
        missing = set(wanted) - there
        if not missing or self._looked:
            return False
        self._looked = True
        return self._database.lost(missing) and self._database.mend()

    def _warn(self, damaged: Iterable[str]) -> None:
        keys = list(damaged)
        if not keys:
            return
        named = ", ".join(keys[:_NAMED]) + (", ..." if len(keys) > _NAMED else "")
        runs = "1 run is" if len(keys) == 1 else f"{len(keys)} runs are"
        warnings.warn(
            f"{self.folder}: {runs} damaged and left out ({named}); they are trained again",
            DamagedRunsWarning,
            stacklevel=3,
        )


def _database(folder: Path, url: str | None) -> SQLite | Server:
    if url is None:
        return SQLite(folder / NAME)
    parsed = _url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database not in {None, "", ":memory:"}:
        return SQLite(Path(str(parsed.database)))
    if parsed.get_backend_name() != "postgresql":
        raise StoreError(
            f"the database's URL must start with postgresql+psycopg://; got {parsed.drivername!r}"
        )
    return Server(parsed)


def _url(url: str) -> URL:
    try:
        return make_url(url)
    except (ArgumentError, ValueError):  # its text may hold a password
        raise StoreError(
            "the database's URL cannot be read; write it as "
            "postgresql+psycopg://USER@HOST:PORT/DATABASE"
        ) from None


def _ready(folder: Path) -> bool:
    """Make the folder of weights, and tidy it; False where it can be read only."""
    try:
        weights = folder / "weights"
        weights.mkdir(parents=True, exist_ok=True)
        _weights.tidy(weights)
    except OSError as error:
        if is_refused(error) and folder.is_dir():
            return False
        if is_full(error):
            raise full(folder) from error
        raise StoreError(
            f"out must be a folder that can be written; got {str(folder)!r} ({error.strerror})"
        ) from error
    return True


def _put(connection: Connection, run: RunRow, rows: Sequence[Row]) -> None:
    # first the run: of two processes that save it at once, the second waits here
    upsert(connection, RUNS, [run._asdict()])
    connection.execute(delete(VALUES).where(VALUES.c.run == run.run))
    values = [(run.run, *row) for row in rows]
    if values and connection.dialect.name == "sqlite":  # without SQLAlchemy's work per value
        connection.exec_driver_sql("INSERT INTO results VALUES (?, ?, ?, ?)", values)
    elif values:
        names = list(VALUES.columns.keys())
        connection.execute(insert(VALUES), [dict(zip(names, row, strict=True)) for row in values])


def _remove(connection: Connection, key: str) -> None:
    for table in (RUNS, VALUES):
        connection.execute(delete(table).where(table.c.run == key))


def _is_there(connection: Connection, key: str) -> bool:
    return bool(_of(connection, select(RUNS.c.run), RUNS, [key]))


def _of(connection: Connection, query: Any, table: Table, keys: Iterable[str]) -> list[Any]:
    """What the query finds of the runs among `keys`."""
    found: list[Any] = []
    for part in parts(keys):
        found += connection.execute(query.where(table.c.run.in_(part))).all()
    return found


def _values(connection: Connection, keys: Sequence[str]) -> Iterable[Any]:
    """(run, metric, epoch, value) of as many runs as one query may name."""
    if connection.dialect.name != "sqlite":
        return connection.execute(select(VALUES).where(VALUES.c.run.in_(keys))).all()
    # there are hundreds of thousands: without SQLAlchemy's work per row
    marks = ", ".join("?" * len(keys))
    query = f"SELECT run, metric, epoch, value FROM results WHERE run IN ({marks})"
    found = connection.connection.cursor().execute(query, list(keys))
    return list(found.fetchall())


def _tidy(found: Sequence[tuple[RunRow, list[Row]]]) -> pd.DataFrame:
    runs = [{"run": run.run, "status": run.status, **_mapping(run.provenance)} for run, _ in found]
    rows = [(run.run, *row) for run, values in found for row in values]
    values = pd.DataFrame(rows, columns=["run", "metric", "epoch", "value"])
    values["value"] = values["value"].astype(float)
    described = pd.DataFrame(runs, columns=None if runs else ["run", "status"])
    return values.merge(described, on="run")


def _mapping(value: Any) -> Mapping[str, Any]:
    """A stored record, or nothing where none was stored."""
    return value if isinstance(value, Mapping) else {}
