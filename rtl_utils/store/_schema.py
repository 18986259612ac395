"""The tables of the store, their version, and the way there from earlier versions."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from sqlalchemy import (
    JSON,
    Column,
    Connection,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateColumn, CreateTable

from rtl_utils.store._integrity import RunRow, broken, checksum, grouped
from rtl_utils.store._records import StoreError

ASKED_AT_ONCE = 500  # keys per query
SCHEMA = 2  # raise it with every change of the tables, and say in `prepare` how to get there

_METADATA = MetaData()
ABOUT = Table(
    "about",
    _METADATA,
    Column("name", String, primary_key=True),
    Column("value", String),
)
# salvage tells tables by their numbers of columns, see `_salvage`: no two may have the same
RUNS = Table(
    "runs",
    _METADATA,
    Column("run", String, primary_key=True),
    Column("status", String, nullable=False),  # "done" or "diverged"
    Column("message", String),  # why it diverged
    Column("spec", JSON, nullable=False),  # the run's record, in full
    Column("provenance", JSON),  # which code and machine made it, see `rtl_utils.provenance`
    Column("reads", JSON),  # what its key is a hash of, see `rtl_utils.runs`
    Column("weights", String),  # SHA-256 of its file of weights
    Column("checksum", String),  # of all of this and of its rows, see `_integrity`
)
VALUES = Table(
    "results",
    _METADATA,
    Column("run", String, primary_key=True),
    Column("metric", String, primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("value", Float),
)
TASKS = Table(
    "tasks",
    _METADATA,
    Column("task", String, primary_key=True),
    Column("sweep", String, nullable=False),
    Column("notebook", String, nullable=False),
    Column("parameters", JSON, nullable=False),
    Column("status", String, nullable=False),
    Column("message", String),
    Column("executed", String),
    Column("host", String, nullable=False),
    Column("started", String, nullable=False),
    Column("seconds", Float),
    Column("checksum", String, nullable=False),
)
USES = Table(
    "uses",
    _METADATA,
    Column("task", String, primary_key=True),
    Column("run", String, primary_key=True),
    Column("variant", String, primary_key=True),  # 16 hexadecimal digits of the SHA-256 of `spec`
    # the run's record as the task asked for it: runs that differ in it may share a key
    Column("spec", JSON, nullable=False),
    Column("checksum", String, nullable=False),
)
LEASES = Table(
    "leases",
    _METADATA,
    Column("name", String, primary_key=True),
    Column("holder", String, nullable=False),  # who may release it
    Column("host", String, nullable=False),
    Column("place", String, nullable=False),  # where `process` is a process's number
    Column("process", Integer, nullable=False),
    Column("started", String, nullable=False),  # of the process: numbers are used again
    Column("beat", Float, nullable=False),  # seconds by the database's clock
)
TABLES = (ABOUT, RUNS, VALUES, TASKS, USES, LEASES)


class Damaged(Exception):
    """The database holds what no version of the store can have written."""


def decoded(value: Any) -> Any:
    """A stored JSON text's value; something that equals nothing where it is damaged."""
    try:
        return json.loads(value)
    except (TypeError, ValueError, RecursionError):
        return broken


def upsert(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows; those whose primary key is there replace it.

    Args:
        connection: in a transaction.
        table: where.
        rows: with a value for every column.
    """
    if not rows:
        return
    make = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    statement = make(table)
    keys = [column.name for column in table.primary_key]
    rest = {c.name: statement.excluded[c.name] for c in table.columns if c.name not in keys}
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=rest), rows)


def version(connection: Connection) -> int | None:
    """Number of the schema that the database has.

    Returns:
        0 for that of before there were numbers; None for an empty database.

    Raises:
        Damaged: if it cannot be what a store wrote.
        StoreError: if it is newer than this program.
    """
    there = set(inspect(connection).get_table_names())
    if not there:
        return None
    if "about" not in there:
        return _unnumbered(connection, there)
    found = connection.execute(select(ABOUT.c.value).where(ABOUT.c.name == "schema")).scalar()
    if not str(found).isdecimal():
        raise Damaged(f"the schema's number is {found!r}")
    number = int(str(found))
    if number > SCHEMA:
        raise StoreError(
            f"this store was written by a newer version of rtl-utils (its schema is {number}, "
            f"this version knows {SCHEMA}); update rtl-utils, or name another folder"
        )
    if lost := {table.name for table in TABLES} - there:
        raise Damaged(f"no table {', '.join(sorted(lost))}")
    return number


def prepare(connection: Connection) -> None:
    """Make the tables, or bring those of an earlier version up to date.

    Args:
        connection: in a transaction that lets no other process write.
    """
    found = version(connection)
    if found == SCHEMA:  # another process was faster
        return
    if found == 1:
        _forget_uses(connection)
    for table in TABLES:
        connection.execute(CreateTable(table, if_not_exists=True))
    if found == 0:
        _migrate(connection)
    upsert(connection, ABOUT, [{"name": "schema", "value": str(SCHEMA)}])


def _unnumbered(connection: Connection, there: set[str]) -> int:
    """0 if the tables are those of before there were numbers."""
    if "runs" not in there:
        raise Damaged("no table of runs")
    known = [column.name for column in RUNS.columns]
    columns = [str(column["name"]) for column in inspect(connection).get_columns("runs")]
    if columns != known[: len(columns)] or not 4 <= len(columns) <= 6:
        raise Damaged("the columns are not those of an earlier version")
    if connection.dialect.name == "sqlite":
        sound = connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar()
        if sound != "ok":  # and there are no checksums that could tell which runs are whole
            raise Damaged(str(sound))
    return 0


def _forget_uses(connection: Connection) -> None:
    """Drop a table of uses that does not say what was asked; its finished tasks are done again."""
    used = text("DELETE FROM tasks WHERE status = 'done' AND task IN (SELECT task FROM uses)")
    connection.execute(used)
    connection.execute(text("DROP TABLE uses"))


def _migrate(connection: Connection) -> None:
    """Add what the first version with a number has: columns, and a checksum per run."""
    there = {column["name"] for column in inspect(connection).get_columns("runs")}
    for column in RUNS.columns:
        if column.name not in there:
            definition = CreateColumn(column).compile(connection)
            connection.execute(text(f"ALTER TABLE runs ADD COLUMN {definition}"))
    rows = grouped(connection.execute(select(VALUES)))
    for found in connection.execute(select(RUNS)).all():
        run = RunRow(*found)
        whole = checksum(run, rows.get(run.run, []))
        connection.execute(
            update(RUNS).where(RUNS.c.run == run.run).values(checksum=whole or "damaged")
        )


def parts(values: Iterable[str]) -> Iterator[list[str]]:
    """The values, as many at a time as one query may name: databases limit its parameters."""
    remaining = iter(values)
    while part := list(islice(remaining, ASKED_AT_ONCE)):
        yield part
