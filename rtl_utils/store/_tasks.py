"""Records of a sweep's tasks, and which runs each of them used."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from sqlalchemy import Connection, select

from rtl_utils.store._integrity import plain, record_checksum, record_verifies
from rtl_utils.store._records import TaskRecord
from rtl_utils.store._schema import TASKS, USES, upsert

_ASKED_AT_ONCE = 500


def save(connection: Connection, record: TaskRecord) -> None:
    """Store what became of a task; what was stored of it before is replaced."""
    row = record._replace(
        parameters=plain(record.parameters),
        message=None if record.message is None else record.message.replace("\0", "�"),
        seconds=None if record.seconds is None else float(record.seconds),
    )
    values = row._asdict() | {"checksum": record_checksum(row)}
    upsert(connection, TASKS, [values])


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
        queries = [query.where(TASKS.c.task.in_(part)) for part in _parts(dict.fromkeys(keys))]
    records = [whole(tuple(row)) for query in queries for row in connection.execute(query)]
    found = [record for record in records if record is not None]
    found.sort(key=lambda record: (record.sweep, record.started, record.task))
    return found, len(found) < len(records)


def whole(row: tuple[Any, ...]) -> TaskRecord | None:
    """The record that a row of the table holds; None if it is not what was stored."""
    return TaskRecord(*row[:-1]) if record_verifies(row[:-1], row[-1]) else None


def use(connection: Connection, task: str, runs: Iterable[str]) -> None:
    """Store that a task used these runs."""
    rows = [
        {"task": task, "run": run, "checksum": record_checksum([task, run])}
        for run in sorted(set(runs))
    ]
    upsert(connection, USES, rows)


def used(connection: Connection, tasks: Iterable[str]) -> dict[str, list[str]]:
    """Task -> keys of the runs that it used, sorted."""
    found: dict[str, list[str]] = {task: [] for task in tasks}
    for part in _parts(found):
        query = select(USES).where(USES.c.task.in_(part)).order_by(USES.c.run)
        for task, run, checksum in connection.execute(query):
            if record_verifies([task, run], checksum):
                found[task].append(run)
    return found


def _parts(values: Iterable[str]) -> Iterator[list[str]]:
    remaining = iter(values)
    while part := list(islice(remaining, _ASKED_AT_ONCE)):
        yield part
