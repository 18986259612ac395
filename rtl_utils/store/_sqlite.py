"""SQLite in the store's folder: one file, many processes, and a way back from damage."""

import fcntl
import os
import shutil
import sqlite3
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.pool import QueuePool

from rtl_utils.store import _log, _salvage
from rtl_utils.store._records import StoreError, full, is_full, is_refused, read_only, takes_no_more
from rtl_utils.store._schema import SCHEMA, Damaged, decoded, prepare, version

T = TypeVar("T")

NAME = "results.db"
_LOCK = "results.lock"
_BUSY = 30  # seconds that one process waits for another's transaction
_SWITCH_ATTEMPTS = 200  # at 0.05 s each
_ATTEMPTS = 4  # of one transaction: after a salvage, or where another process salvaged

# of SQLite: what is no sign of damage
_BUSY_CODES = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_TROUBLE = (DBAPIError, DisconnectionError, sqlite3.Error, Damaged, OSError, *_salvage.ODD)
_CLOSED_CODES = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH}


class SQLite:
    """A database file: transactions that wait for their turn, and mend what is damaged.

    Args:
        path: of the file; it is made if it is not there.

    Raises:
        StoreError: if it can neither be written nor read, or a newer version wrote it.
    """

    clock = "(julianday('now') - 2440587.5) * 86400.0"  # SQL for the seconds since 1970

    def __init__(self, path: Path) -> None:
        self.where = str(path.parent)
        self.read_only = False
        self.path = path
        self._copy: Path | None = None
        self._pid = os.getpid()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path.with_name(_LOCK), os.O_RDWR | os.O_CREAT, 0o666))
        except OSError as error:
            if is_full(error) and not path.exists():
                raise full(path.parent) from error
            if not is_full(error) and not (is_refused(error) and path.exists()):
                raise _no_folder(path.parent, error) from error
            self.read_only = is_refused(error)
        self.engine = self._open()
        self._prepare()

    def read(self, work: Callable[[Connection], T]) -> T:
        """What `work` finds in one state of the database, whatever others write meanwhile."""
        return self._attempt(work, writes=False)

    def write(self, work: Callable[[Connection], T], patience: float | None = None) -> T:
        """Do `work` in one transaction, all or nothing.

        Args:
            work: may be called again, so it must not count its calls.
            patience: seconds; a file is there or it is not, so nothing waits.

        Raises:
            StoreError: if the store can be read only, or the disk is full.
        """
        if self.read_only:
            raise read_only(self.where)
        return self._attempt(work, writes=True)

    def mend(self) -> bool:
        """Look whether the file contradicts itself; if so, copy what is whole into a new one.

        Returns:
            Whether it did.
        """
        seen = _identity(self.path)
        try:
            with self.engine.connect() as connection:
                found = connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar()
        except _TROUBLE as error:
            self._recover(error, seen)
            return True
        if found == "ok":
            return False
        self._salvage(seen, found)
        return True

    def lost(self, keys: Iterable[str]) -> bool:
        """Whether the table of runs has some of these keys though its index lacks them."""
        wanted = set(keys)

        def scan(connection: Connection) -> bool:
            found = connection.exec_driver_sql("SELECT run FROM runs NOT INDEXED")
            return any(run in wanted for (run,) in found)

        return self.read(scan)

    def _attempt(self, work: Callable[[Connection], T], writes: bool) -> T:
        if self._pid != os.getpid():  # connections do not survive a fork
            self._pid = os.getpid()
            self.engine.dispose(close=False)
        engine = self.engine.execution_options(writes=writes)
        for attempt in range(_ATTEMPTS):
            seen = _identity(self.path)
            try:
                with self._turn() if writes else nullcontext(), engine.begin() as connection:
                    return work(connection)
            except _TROUBLE as error:
                if attempt == _ATTEMPTS - 1:
                    raise StoreError(f"{self._name()} cannot be used ({_reason(error)})") from error
                self._recover(error, seen)
            engine = self.engine.execution_options(writes=writes)
        raise AssertionError("unreachable")

    def _recover(self, error: Exception, seen: object) -> None:
        """Make the next attempt worth while, or say why there is none."""
        if isinstance(error, DisconnectionError):  # another process has put a new file there
            self.engine.dispose()
            return
        if isinstance(error, OSError):
            raise (
                full(self.where)
                if is_full(error)
                else StoreError(f"{self._name()} cannot be used ({error.strerror})")
            ) from error
        cause = error.orig if isinstance(error, DBAPIError) else error
        code = getattr(cause, "sqlite_errorcode", None)
        primary = None if code is None else code & 0xFF
        if primary == sqlite3.SQLITE_FULL or (
            primary in {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}
            and takes_no_more(self.path.parent)
        ):
            raise full(self.where) from error
        if primary in _BUSY_CODES:
            raise StoreError(
                f"another process keeps {self._name()} busy; "
                "wait for it, and run the same command again"
            ) from error
        if code == sqlite3.SQLITE_READONLY_DBMOVED:
            self.engine.dispose()
            return
        if primary == sqlite3.SQLITE_READONLY and not _writable(self.path):
            raise read_only(self.where) from error
        if primary in _CLOSED_CODES:
            raise StoreError(f"{self._name()} cannot be opened ({_reason(error)})") from error
        self._salvage(seen, error)

    def _salvage(
        self, seen: object, why: object, confirm: Callable[[Path], bool] = lambda _: True
    ) -> None:
        """Copy what is whole into a new file, and go on with that; one process at a time.

        Args:
            seen: identity of the file that is damaged.
            why: what was found.
            confirm: asked once more when nobody else writes.
        """
        self.engine.dispose()
        try:
            if self.read_only:
                self._use_copy()
                _salvage.replace(self.path, why)
                return
            with self._turn(alone=True):
                # else another process was faster
                if _identity(self.path) == seen and confirm(self.path):
                    _salvage.replace(self.path, why)
        except OSError as error:
            if is_full(error) or takes_no_more(self.path.parent):
                raise full(self.path.parent) from error
            raise StoreError(
                f"{self._name()} is damaged, and cannot be mended ({error.strerror})"
            ) from error

    @contextmanager
    def _turn(self, alone: bool = False) -> Iterator[None]:
        """Hold the lock that a salvage needs alone, so that nobody writes into the old file."""
        if self.read_only:
            yield
            return
        handle = os.open(self.path.with_name(_LOCK), os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            yield
        finally:
            os.close(handle)

    def _open(self) -> Engine:
        """The engine, on a copy where the folder can be read only and a kill left a log there."""
        if self.read_only and _left_over(self.path):
            self._use_copy()
        engine = create_engine(
            "sqlite://", creator=self._connect, poolclass=QueuePool, json_deserializer=decoded
        )
        event.listen(engine, "begin", _begin)
        event.listen(engine, "connect", self._remember)
        event.listen(engine, "checkout", self._still_there)
        return engine

    def _connect(self) -> sqlite3.Connection:
        mode = "?immutable=1" if self.read_only and self._copy is None else ""
        connection = sqlite3.connect(
            # a folder may have any character in its name
            f"file://{quote(os.fsencode(os.path.abspath(self.path)))}{mode}",
            uri=True,
            timeout=_BUSY,
            isolation_level=None,  # `_begin` begins transactions
            check_same_thread=False,
        )
        try:
            if not mode:
                _write_ahead(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _remember(self, _connection: Any, record: Any) -> None:
        record.info["file"] = _identity(self.path)

    def _still_there(self, _connection: Any, record: Any, _proxy: Any) -> None:
        if record.info.get("file") != _identity(self.path):
            raise DisconnectionError(f"{self.path} is another file now")

    def _use_copy(self) -> None:
        """Go on with a copy in a temporary folder, which can be written."""
        if self._copy is not None:
            return
        self._copy = Path(tempfile.mkdtemp(prefix="rtl-store-"))
        weakref.finalize(self, _forget, self._copy, os.getpid())
        copy = self._copy / NAME
        for ending in ("", "-wal"):
            source = _log.of(self.path) if ending else self.path
            if source.exists():
                shutil.copyfile(source, copy.with_name(NAME + ending))
        self.path = copy

    def _prepare(self) -> None:
        """Make the tables, or bring those of an earlier version up to date."""
        if _log.is_damaged(self.path):  # a first connection would cut it
            self._salvage(_identity(self.path), "its log is damaged", _log.is_damaged)
        found = self.read(version)
        if found == SCHEMA:
            return
        if found is None:
            self._say_if_emptied()
        if self.read_only:
            self.engine.dispose()
            self._use_copy()
            self._attempt(prepare, writes=True)
        else:
            self.write(prepare)

    def _say_if_emptied(self) -> None:
        weights = self.path.with_name("weights")
        runs = sum(1 for _ in weights.glob("*.pt")) if weights.is_dir() else 0
        if runs:
            _salvage.say_emptied(self.path, runs)

    def _name(self) -> str:
        return f"the store in {self.where}"


def _forget(folder: Path, process: int) -> None:
    """Remove a copy; after a fork it is the parent's."""
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


def _begin(connection: Connection) -> None:
    """A writer takes its turn at once: it could not take it later, in the middle of a reading."""
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _write_ahead(connection: sqlite3.Connection) -> None:
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
    connection.execute("PRAGMA secure_delete=ON")  # a salvage must not find what was replaced


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file lies there, whatever its name."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _left_over(path: Path) -> bool:
    """Whether there is a log that SQLite has yet to copy into the file."""
    try:
        return _log.of(path).stat().st_size > 0
    except OSError:
        return False


def _writable(path: Path) -> bool:
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def _reason(error: BaseException) -> str:
    return str(getattr(error, "orig", None) or error)


def _no_folder(folder: Path, error: OSError) -> StoreError:
    if is_full(error):
        return full(folder)
    return StoreError(
        f"out must be a folder that can be written; got {str(folder)!r} ({error.strerror})"
    )
