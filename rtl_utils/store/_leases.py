"""Leases: of several processes that need the same thing, one makes it."""

import os
import threading
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol, TypeVar

from sqlalchemy import ColumnElement, Connection, Float, delete, literal_column, select, update
from sqlalchemy.dialects import postgresql, sqlite

from rtl_utils.store import _processes
from rtl_utils.store._records import StoreError
from rtl_utils.store._schema import LEASES, parts

T = TypeVar("T")

BEAT = 10.0  # seconds between two signs of life
EXPIRY = 60.0  # seconds without one, after which a holder on another machine counts as dead


class _Database(Protocol):
    clock: str

    def read(self, work: Any) -> Any: ...

    def write(self, work: Any, patience: float | None = None) -> Any: ...


class Leases:
    """The leases of one store that this process holds, kept alive by a thread while there are any.

    Args:
        database: with the table.
    """

    def __init__(self, database: _Database) -> None:
        self._database = database
        self._held: dict[str, frozenset[str]] = {}  # holder -> names
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._stop: threading.Event | None = None

    @contextmanager
    def hold(self, names: Iterable[str]) -> Iterator[set[str]]:
        """The names among these that nobody living held; they are released at the end.

        Raises:
            StoreError: if the database cannot be written.
        """
        wanted = sorted(set(names))
        if not wanted:
            yield set()
            return
        holder = uuid.uuid4().hex
        pid = os.getpid()
        try:
            held = self._acquire(holder, wanted)
            if held:
                self._start(holder, held)
            yield set(held)
        finally:
            if os.getpid() == pid:  # a forked child does not release what its parent holds
                self._release(holder)

    def living(self, names: Iterable[str]) -> dict[str, str]:
        """Name -> "host, process 123", of those that somebody living holds."""
        wanted = sorted(set(names))
        rows = self._database.read(lambda connection: self._rows(connection, wanted))
        return {row.name: f"{row.host}, process {row.process}" for row in rows if not _is_dead(row)}

    def _acquire(self, holder: str, names: list[str]) -> list[str]:
        mine = {**self._row(holder), "beat": self._now()}

        def take(connection: Connection) -> list[str]:
            taken = {row.name: row for row in self._rows(connection, names)}
            free = [{"name": name, **self._row(holder)} for name in names if name not in taken]
            _insert(connection, free)
            connection.execute(update(LEASES).where(LEASES.c.holder == holder).values(**mine))
            for name, row in taken.items():
                if _is_dead(row):  # of two that see it dead, the second no longer finds it
                    same = (LEASES.c.name == name) & (LEASES.c.holder == row.holder)
                    unmoved = LEASES.c.beat == row.beat
                    connection.execute(update(LEASES).where(same & unmoved).values(**mine))
            held = select(LEASES.c.name).where(LEASES.c.holder == holder)
            return list(connection.execute(held).scalars())

        return list(self._database.write(take))

    def _rows(self, connection: Connection, names: list[str]) -> list[Any]:
        age = (self._now() - LEASES.c.beat).label("age")
        found: list[Any] = []
        for part in parts(names):
            found += connection.execute(select(LEASES, age).where(LEASES.c.name.in_(part))).all()
        return found

    def _row(self, holder: str) -> dict[str, Any]:
        """What a lease says of its holder; the time comes from the database's clock."""
        me = _processes.this()
        return {
            "holder": holder,
            "host": me.host,
            "place": me.place,
            "process": me.number,
            "started": me.started,
            "beat": 0.0,
        }

    def _now(self) -> ColumnElement[float]:
        return literal_column(self._database.clock, Float)

    def _release(self, holder: str) -> None:
        mine = delete(LEASES).where(LEASES.c.holder == holder)
        with self._lock:
            self._held.pop(holder, None)
            if not self._held and self._stop is not None:
                self._stop.set()
                self._stop = None
            with suppress(StoreError):  # a lease whose holder is gone ends by itself
                self._database.write(lambda connection: connection.execute(mine), 0)

    def _start(self, holder: str, names: list[str]) -> None:
        with self._lock:
            if self._pid != os.getpid():  # threads and leases do not survive a fork
                self._pid = os.getpid()
                self._held.clear()
                self._stop = None
            self._held[holder] = frozenset(names)
            if self._stop is None:
                self._stop = threading.Event()
                threading.Thread(target=self._beat, args=(self._stop,), daemon=True).start()

    def _beat(self, stop: threading.Event) -> None:
        while not stop.wait(BEAT):
            # the next one may come through; and nothing is released between look and write
            with self._lock, suppress(StoreError):
                if not stop.is_set():
                    self._database.write(self._renew, 0)

    def _renew(self, connection: Connection) -> None:
        """Say that the holders live; what a mended database has lost is held again."""
        for holder, names in self._held.items():
            _insert(connection, [{"name": name, **self._row(holder)} for name in sorted(names)])
        mine = LEASES.c.holder.in_(list(self._held))
        connection.execute(update(LEASES).where(mine).values(beat=self._now()))


def _insert(connection: Connection, rows: list[dict[str, Any]]) -> None:
    """Insert leases that nobody holds; of two that do so at once, one comes too late."""
    if not rows:
        return
    make = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    connection.execute(make(LEASES).on_conflict_do_nothing(), rows)


def _is_dead(row: Any) -> bool:
    """Whether the holder of a lease is gone."""
    process = _processes.Process(row.host, row.place, row.process, row.started)
    alive = _processes.lives(process)
    return bool(row.age > EXPIRY) if alive is None else not alive
