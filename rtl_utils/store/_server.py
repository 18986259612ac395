"""PostgreSQL by URL: many machines write, and a restart of the server costs a pause."""

import os
import sys
import time
import weakref
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, text
from sqlalchemy.exc import DBAPIError, NoSuchModuleError, SQLAlchemyError

from rtl_utils.store._records import StoreError
from rtl_utils.store._schema import SCHEMA, Damaged, decoded, prepare, version

T = TypeVar("T")

PATIENCE = 60.0  # seconds for which a transaction waits for a server that is away
_PAUSES = (0.1, 2.0)  # seconds between two attempts: at first, and at most
_CONNECT = 10  # seconds for one connection
_OPENING = 7_352_011  # of the advisory lock under which tables are made

_AGAIN = {"40001", "40P01", "53300", "57P01", "57P02", "57P03"}  # states that pass by themselves
_FULL = "53100"
_READ_ONLY = "25006"
# what a connection can be told that no waiting changes; libpq gives no state there
_REFUSALS = ("authentication failed", "no password", "does not exist", "no pg_hba.conf entry")


class Server:
    """A PostgreSQL database: transactions that wait while the server is away.

    Args:
        url: where it is.

    Raises:
        StoreError: if it does not answer, or a newer version wrote it.
    """

    clock = "extract(epoch from clock_timestamp())"  # SQL for the seconds since 1970
    read_only = False

    def __init__(self, url: URL) -> None:
        self.where = f"{url.host or 'localhost'}{f':{url.port}' if url.port else ''}"
        self.engine = _engine(url)
        self._pid = os.getpid()
        weakref.finalize(self, _close, self.engine, self._pid)
        self._reading = self.engine.execution_options(isolation_level="REPEATABLE READ")
        try:
            if self.read(version) != SCHEMA:
                self.write(_prepare_alone)
        except Damaged as error:
            raise StoreError(
                f"the database at {self.where} holds tables that are not this store's ({error}); "
                "name another database"
            ) from error

    def read(self, work: Callable[[Connection], T]) -> T:
        """What `work` finds in one state of the database, whatever others write meanwhile."""
        return self._attempt(work, self._reading, PATIENCE)

    def write(self, work: Callable[[Connection], T], patience: float | None = None) -> T:
        """Do `work` in one transaction, all or nothing.

        Args:
            work: may be called again, also where it was done and the answer was lost.
            patience: seconds for which to wait for the server; None for the usual.

        Raises:
            StoreError: if the server does not answer, or refuses.
        """
        return self._attempt(work, self.engine, PATIENCE if patience is None else patience)

    def mend(self) -> bool:
        """False: the server looks after its files."""
        return False

    def lost(self, _keys: object) -> bool:
        """False: the server looks after its indices."""
        return False

    def _attempt(self, work: Callable[[Connection], T], engine: Engine, patience: float) -> T:
        if self._pid != os.getpid():  # connections do not survive a fork
            self._pid = os.getpid()
            self.engine.dispose(close=False)
        started = time.monotonic()
        pause = _PAUSES[0]
        said = False
        while True:
            try:
                with engine.begin() as connection:
                    return work(connection)
            except DBAPIError as error:
                if not _passes(error):
                    raise self._refused(error) from error
                if time.monotonic() - started >= patience:
                    raise StoreError(
                        f"the database at {self.where} does not answer ({_reason(error)}); start "
                        "it, and run the same command again; finished runs are kept"
                    ) from error
                if not said and patience and _state(error) not in {"40001", "40P01"}:
                    said = True
                    print(f"waiting for the database at {self.where}", file=sys.stderr, flush=True)
            time.sleep(pause)
            pause = min(2 * pause, _PAUSES[1])

    def _refused(self, error: DBAPIError) -> StoreError:
        state = _state(error)
        if state == _FULL:
            return StoreError(
                f"the disk of the database at {self.where} is full; free some space and run the "
                "same command again; finished runs are kept"
            )
        if state == _READ_ONLY:
            return StoreError(
                f"the database at {self.where} can be read only, so nothing can be saved in it; "
                "name one that can be written"
            )
        return StoreError(f"the database at {self.where} refuses ({_reason(error)})")


def _engine(url: URL) -> Engine:
    given = {} if "connect_timeout" in url.query else {"connect_timeout": _CONNECT}
    try:
        return create_engine(url, pool_pre_ping=True, json_deserializer=decoded, connect_args=given)
    except ImportError as error:
        raise StoreError(
            f"the database needs the Python package {error.name!r}, which is not installed; "
            f"run: pip install {_package(error.name)}"
        ) from error
    except (NoSuchModuleError, SQLAlchemyError) as error:
        raise StoreError(
            f"the database's URL must start with postgresql+psycopg://; got {url.drivername!r}"
        ) from error


def _close(engine: Engine, process: int) -> None:
    """Close the connections; after a fork they are the parent's."""
    if os.getpid() == process:
        engine.dispose()


def _package(module: str | None) -> str:
    return "'psycopg[binary]'" if module in {None, "psycopg"} else str(module)


def _prepare_alone(connection: Connection) -> None:
    """Make the tables; of several processes one after the other."""
    connection.execute(text(f"SELECT pg_advisory_xact_lock({_OPENING})"))
    prepare(connection)


def _passes(error: DBAPIError) -> bool:
    """Whether waiting may help: the server is away, starts, ends, or others were in the way."""
    state = _state(error)
    if state is not None:
        return state in _AGAIN or state.startswith("08")
    if error.connection_invalidated:
        return True
    kind = type(error.orig).__name__
    reason = str(error.orig)
    return kind in {"OperationalError", "InterfaceError", "ConnectionTimeout"} and not any(
        refusal in reason for refusal in _REFUSALS
    )


def _state(error: DBAPIError) -> str | None:
    return getattr(error.orig, "sqlstate", None)


def _reason(error: DBAPIError) -> str:
    """The server's own words, in one line, without what libpq adds to each attempt."""
    lines = [line.strip() for line in str(error.orig).splitlines() if line.strip()]
    return lines[0] if lines else type(error.orig).__name__
