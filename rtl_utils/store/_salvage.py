"""What can be read of a damaged SQLite file, page by page, whatever its structure says.

Every row of a table lies in a leaf page that can be read alone. So no index, no inner page and no
list of tables is needed: rows are told apart by their number of columns, and a run counts as found
if it and its rows give its checksum.
"""

import errno
import os
import shutil
import sqlite3
import struct
import warnings
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import create_engine, event, insert
from sqlalchemy.exc import DBAPIError

from rtl_utils.store import _log, _tasks
from rtl_utils.store._integrity import NAN, RunRow, verifies
from rtl_utils.store._records import DamagedRunsWarning, Row, takes_no_more
from rtl_utils.store._schema import RUNS, TASKS, USES, VALUES, decoded, prepare, upsert

# what damage makes the drivers raise beside their own errors
ODD = (MemoryError, OverflowError, UnicodeDecodeError, RecursionError)

_PAGE = 4096  # SQLite's usual size
_SIZES = {2**k for k in range(9, 17)}
_LEAF = 0x0D
_LONGEST = 64 * 2**20  # bytes of one row


class Saved(NamedTuple):
    """What a damaged file still holds.

    Args:
        runs: those that verify, with their rows.
        tasks: rows of the table of tasks.
        uses: rows of the table of uses.
        lost: keys of runs of which only parts were found.
    """

    runs: list[tuple[RunRow, list[Row]]]
    tasks: list[tuple[Any, ...]]
    uses: list[_tasks.Use]
    lost: set[str]


def replace(path: Path, why: object) -> None:
    """Put a new file with all that is whole in a damaged one's place, and keep the damaged one.

    The new file has another name, and the usual one becomes a link to it: a process that has the
    old file open deletes that one's log by name when it ends, and must not meet the new one's.

    Args:
        path: of the database; nobody may write meanwhile.
        why: what was found, for the warning.

    Raises:
        OSError: if the disk is full; the damaged file is then as it was.
    """
    saved = read(path)
    real = path.resolve() if path.is_symlink() else path
    new = _free(path, "results-{}.db")
    partial = new.with_name(f"{new.name}.partial")
    try:
        _write(partial, saved)
        os.replace(partial, new)
    except (sqlite3.Error, DBAPIError) as error:
        cause = getattr(error, "orig", error)
        no_space = "is full" in str(cause) or takes_no_more(path.parent)
        raise OSError(errno.ENOSPC if no_space else errno.EIO, str(cause)) from error
    finally:
        for ending in ("", "-journal"):
            partial.with_name(partial.name + ending).unlink(missing_ok=True)
    try:
        kept = _swap(path, real, new)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    _say(path, kept, saved, why)


def say_emptied(path: Path, runs: int) -> None:
    """Warn of a database that is empty though there are weights."""
    warnings.warn(
        f"{path} is new or was emptied, and {path.parent} has the weights of {runs} runs without "
        "their rows; they are trained again",
        DamagedRunsWarning,
        stacklevel=2,
    )


def read(path: Path) -> Saved:
    """All that a file and its log still hold."""
    data = path.read_bytes() if path.exists() else b""
    wal = _log.of(path)
    log = wal.read_bytes() if wal.exists() else b""
    sizes = {_PAGE, _size(data[16:18]), _log.page_size(log)}
    found = [_collect(data, log, size) for size in sorted(sizes & _SIZES)]
    return max(found, key=lambda saved: (len(saved.runs), len(saved.tasks), -len(saved.lost)))


def _collect(data: bytes, log: bytes, size: int) -> Saved:
    runs: dict[str, list[RunRow]] = {}
    rows: dict[str, dict[tuple[str, int], set[Any]]] = {}
    tasks: dict[str, tuple[Any, ...]] = {}
    uses: dict[tuple[str, str, str], _tasks.Use] = {}
    for row in _rows(_pages(data, log, size), size):
        if len(row) == len(RUNS.columns) and isinstance(row[0], str):
            key, status, message, *records, weights, checksum = row
            spec, provenance, reads = map(_json, records)
            run = RunRow(key, status, message, spec, provenance, reads, weights, checksum)
            runs.setdefault(key, []).append(run)
        elif len(row) == len(VALUES.columns) and isinstance(row[0], str):
            run_key, metric, epoch, value = row
            rows.setdefault(run_key, {}).setdefault((metric, epoch), set()).add(value)
        elif len(row) == len(TASKS.columns):
            _keep_task(tasks, row)
        elif len(row) == len(USES.columns):
            _keep_use(uses, row)
    whole = []
    for key, versions in runs.items():
        of_run = rows.get(key, {})
        values = [(*place, _number(next(iter(found)))) for place, found in of_run.items()]
        one = all(len(found) == 1 for found in of_run.values())
        verified = [run for run in versions if one and verifies(run, values)]
        if verified:
            whole.append((verified[0], values))
    lost = (set(runs) | set(rows)) - {run.run for run, _ in whole}
    return Saved(whole, list(tasks.values()), list(uses.values()), lost)


def _keep_task(tasks: dict[str, tuple[Any, ...]], row: tuple[Any, ...]) -> None:
    place = list(TASKS.columns.keys()).index("parameters")
    seconds = list(TASKS.columns.keys()).index("seconds")
    values = list(row)
    values[place] = decoded(values[place])
    if isinstance(values[seconds], int):
        values[seconds] = float(values[seconds])
    if _tasks.whole(tuple(values)) is not None:
        tasks[values[0]] = tuple(values)


def _keep_use(uses: dict[tuple[str, str, str], _tasks.Use], row: tuple[Any, ...]) -> None:
    task, run, variant, spec, checksum = row
    use = _tasks.Use(task, run, variant, decoded(spec), checksum)
    if _tasks.is_whole(use):
        uses[task, run, variant] = use


def _number(value: Any) -> Any:
    """A value of a row: SQLite keeps whole numbers short, and no number as nothing."""
    if value is None:
        return NAN
    return float(value) if isinstance(value, int) else value


def _json(value: Any) -> Any:
    return None if value is None else decoded(value)


def _size(field: bytes) -> int:
    """The page size that a header says."""
    number = int.from_bytes(field, "big")
    return 65536 if number == 1 else number


def _pages(data: bytes, log: bytes, size: int) -> dict[int, bytes]:
    """Number of each page -> its newest content."""
    pages = {k + 1: data[k * size : (k + 1) * size] for k in range((len(data) + size - 1) // size)}
    return pages | _log.pages(log, size)


def _rows(pages: dict[int, bytes], size: int) -> Iterator[tuple[Any, ...]]:
    """Every row of every leaf page of a table that can be read."""
    for number, page in pages.items():
        head = 100 if number == 1 else 0
        if len(page) < head + 8 or page[head] != _LEAF:
            continue
        (cells,) = struct.unpack_from(">H", page, head + 3)
        for k in range(cells):
            with suppress(IndexError, ValueError, struct.error, UnicodeDecodeError):
                (start,) = struct.unpack_from(">H", page, head + 8 + 2 * k)
                yield _record(_payload(page, start, pages, size))


def _payload(page: bytes, start: int, pages: dict[int, bytes], size: int) -> bytes:
    """The bytes of one row, those on overflow pages too."""
    length, start = _varint(page, start)
    _, start = _varint(page, start)  # the row's number
    if length > _LONGEST:
        raise ValueError(length)
    longest = size - 35
    local = length
    if length > longest:
        least = (size - 12) * 32 // 255 - 23
        local = least + (length - least) % (size - 4)
        local = local if local <= longest else least
    content = page[start : start + local]
    following = page[start + local : start + local + 4] if length > local else b""
    seen = set()
    while len(content) < length:
        number = int.from_bytes(following, "big")
        if number in seen or number not in pages:
            raise ValueError(number)
        seen.add(number)
        more = pages[number]
        following = more[:4]
        content += more[4 : 4 + length - len(content)]
    return content


def _record(payload: bytes) -> tuple[Any, ...]:
    end, place = _varint(payload, 0)
    kinds = []
    while place < end:
        kind, place = _varint(payload, place)
        kinds.append(kind)
    values = []
    for kind in kinds:
        value, place = _value(payload, place, kind)
        values.append(value)
    if place != len(payload):
        raise ValueError(place)
    return tuple(values)


_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}  # kind -> bytes


def _value(payload: bytes, start: int, kind: int) -> tuple[Any, int]:
    """One value of a row, and where the next begins."""
    if kind == 0:
        return None, start
    if kind in _INTEGERS:
        end = start + _INTEGERS[kind]
        return int.from_bytes(_cut(payload, start, end), "big", signed=True), end
    if kind == 7:
        return struct.unpack_from(">d", payload, start)[0], start + 8
    if kind in {8, 9}:
        return kind - 8, start
    if kind < 12:
        raise ValueError(kind)
    end = start + (kind - 12) // 2
    content = _cut(payload, start, end)
    return (content.decode() if kind % 2 else content), end


def _cut(payload: bytes, start: int, end: int) -> bytes:
    if end > len(payload):
        raise ValueError(end)
    return payload[start:end]


def _varint(data: bytes, start: int) -> tuple[int, int]:
    """SQLite's number of one to nine bytes, and where the next begins."""
    value = 0
    for k in range(8):
        byte = data[start + k]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, start + k + 1
    return value << 8 | data[start + 8], start + 9


def _write(path: Path, saved: Saved) -> None:
    """Make a new database of what was saved; it is on the disk when this returns."""
    path.unlink(missing_ok=True)
    engine = create_engine("sqlite://", creator=lambda: sqlite3.connect(path, isolation_level=None))
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    try:
        with engine.begin() as connection:
            prepare(connection)
            upsert(connection, RUNS, [run._asdict() for run, _ in saved.runs])
            values = [
                {"run": run.run, "metric": metric, "epoch": epoch, "value": value}
                for run, rows in saved.runs
                for metric, epoch, value in rows
            ]
            if values:
                connection.execute(insert(VALUES), values)
            for table, rows in ((TASKS, saved.tasks), (USES, saved.uses)):
                names = list(table.columns.keys())
                upsert(connection, table, [dict(zip(names, row, strict=True)) for row in rows])
    finally:
        engine.dispose()


def _swap(path: Path, real: Path, new: Path) -> Path:
    """Let the usual name lead to the new file; where the damaged one is kept."""
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    kept = path.with_name(f"results.damaged-{date}.db")
    if kept.exists():
        kept = _free(path, f"results.damaged-{date}-{{}}.db")
    for ending in ("", "-wal"):
        source = real.with_name(real.name + ending)
        if source.exists():
            _keep(source, kept.with_name(kept.name + ending))
    link = path.with_name(f"{path.name}.partial")
    link.unlink(missing_ok=True)
    try:
        link.symlink_to(new.name)
    except OSError:  # there are disks without links; then no log of the old file may stay
        link = new
        _remove_logs(real)
    os.replace(link, path)
    with suppress(OSError):  # what stays has a name that nobody opens
        _remove_logs(real)
        if real != path:
            real.unlink(missing_ok=True)
    return kept


def _remove_logs(real: Path) -> None:
    for ending in ("-wal", "-shm"):
        real.with_name(real.name + ending).unlink(missing_ok=True)


def _keep(source: Path, kept: Path) -> None:
    """Give a file a second name, or copy it where a file can have one only."""
    try:
        os.link(source, kept)
    except OSError:
        try:
            shutil.copyfile(source, kept)
        except OSError:
            kept.unlink(missing_ok=True)
            raise


def _free(path: Path, pattern: str) -> Path:
    """A name beside `path` that is not taken, with a number from 2 on."""
    for number in count(2):
        candidate = path.with_name(pattern.format(number))
        if not candidate.exists() and not candidate.is_symlink():
            break
    return candidate


def _say(path: Path, kept: Path, saved: Saved, why: object) -> None:
    weights = path.with_name("weights")
    files = {file.stem for file in weights.glob("*.pt")} if weights.is_dir() else set()
    lost = (saved.lost | files) - {run.run for run, _ in saved.runs}
    reason = str(getattr(why, "orig", None) or why).strip().splitlines()
    warnings.warn(
        f"{path} was damaged ({reason[0] if reason else 'unreadable'}): {len(saved.runs)} runs "
        f"were saved, {len(lost)} are lost, and they are trained again; the damaged file is kept "
        f"as {kept.name}",
        DamagedRunsWarning,
        stacklevel=2,
    )
