"""Records of a sweep's tasks, and which runs each of them asked for."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, select

from rtl_utils.store._integrity import plain, record_checksum, record_verifies
from rtl_utils.store._records import TaskRecord
from rtl_utils.store._schema import TASKS, USES, parts, upsert

_VARIANT = 16  # digits


class Use(NamedTuple):
    """A row of the table of uses, see `_schema`."""

    task: str
    run: str
    variant: str
    spec: Any
    checksum: str


def save(connection: Connection, record: TaskRecord) -> None:
    """Store what became of a task; what was stored of it before is replaced.

    A task that begins asks anew: what it asked for in an earlier execution is forgotten.
    """
    row = record._replace(
        parameters=plain(record.parameters),
        message=None if record.message is None else record.message.replace("\0", "�"),
        seconds=None if record.seconds is None else float(record.seconds),
    )
    values = row._asdict() | {"checksum": record_checksum(row)}
    upsert(connection, TASKS, [values])
    if record.status == "running":
        connection.execute(delete(USES).where(USES.c.task == record.task))


def read(
    connection: Connection,
    sweep: str | None,
    status: str | None,
    keys: Iterable[str] | None,
) -> tuple[list[TaskRecord], bool]:
    """The records that are whole, by sweep, start and key; and whether some are not."""
    query = select(TASKS)
    if sweep is not None:
        query = query.where(TASKS.c.sweep == sweep)
    if status is not None:
        query = query.where(TASKS.c.status == status)
    queries = [query]
    if keys is not None:
        queries = [query.where(TASKS.c.task.in_(part)) for part in parts(dict.fromkeys(keys))]
    records = [whole(tuple(row)) for query in queries for row in connection.execute(query)]
    found = [record for record in records if record is not None]
    found.sort(key=lambda record: (record.sweep, record.started, record.task))
    return found, len(found) < len(records)


def whole(row: tuple[Any, ...]) -> TaskRecord | None:
    """The record that a row of the table holds; None if it is not what was stored."""
    return TaskRecord(*row[:-1]) if record_verifies(row[:-1], row[-1]) else None


def use(connection: Connection, task: str, runs: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    """Store that a task asked for these runs: key and record of each."""
    rows = {}
    for run, spec in runs:
        record = plain(spec)
        variant = str(record_checksum(record))[:_VARIANT]
        checksum = str(record_checksum([task, run, variant, record]))
        rows[run, variant] = Use(task, run, variant, record, checksum)._asdict()
    upsert(connection, USES, [rows[place] for place in sorted(rows)])


def used(connection: Connection, tasks: Iterable[str]) -> dict[str, list[str]]:
    """Task -> keys of the runs that it used, each once, sorted."""
    found: dict[str, set[str]] = {task: set() for task in tasks}
    for one in _uses(connection, found):
        found[one.task].add(one.run)
    return {task: sorted(runs) for task, runs in found.items()}


def asked(connection: Connection, tasks: Iterable[str]) -> list[tuple[str, Mapping[str, Any]]]:
    """(key, record) of every run as these tasks asked for it, each once, in a fixed order."""
    found = {(one.run, one.variant): one.spec for one in _uses(connection, tasks)}
    return [(run, found[run, variant]) for run, variant in sorted(found)]


def is_whole(one: Use) -> bool:
    """Whether a row of the table of uses is what was stored."""
    return record_verifies(one[:-1], one.checksum)


def _uses(connection: Connection, tasks: Iterable[str]) -> Iterator[Use]:
    for part in parts(dict.fromkeys(tasks)):
        rows = connection.execute(select(USES).where(USES.c.task.in_(part)))
        yield from filter(is_whole, (Use(*row) for row in rows))
