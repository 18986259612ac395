"""What the store takes and gives: rows, records of tasks, and its errors."""

import errno
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

FINAL = -1  # epoch of a value that is measured after training
Row = tuple[str, int, float]  # metric, epoch, value

_FULL = {errno.ENOSPC, errno.EDQUOT}
_PROBE = bytes(64 * 1024)  # more than SQLite needs at once
_REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM}


class StoreError(ValueError):
    """The store cannot do what was asked: a full disk, a database that is gone, a newer version."""


class DamagedRunsWarning(UserWarning):
    """Stored runs are damaged; they are left out, and trained again."""


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


class TaskRecord(NamedTuple):
    """What became of one task of a sweep.

    Args:
        task: its key.
        sweep: name of the sweep.
        notebook: that was executed.
        parameters: of the notebook, as JSON values.
        status: "running", "done", "failed" or "timeout".
        message: why it failed; None if it did not.
        executed: path of the executed notebook, relative to the store's folder or absolute; None
            if there is none.
        host: name of the machine.
        started: when, in ISO format, UTC.
        seconds: how long it took; None while it runs.
    """

    task: str
    sweep: str
    notebook: str
    parameters: Mapping[str, Any]
    status: str
    message: str | None
    executed: str | None
    host: str
    started: str
    seconds: float | None


def is_full(error: OSError) -> bool:
    """Whether the error says that a disk or a quota is full."""
    return error.errno in _FULL


def is_refused(error: OSError) -> bool:
    """Whether the error says that this may be read only."""
    return error.errno in _REFUSED


def takes_no_more(folder: Path) -> bool:
    """Whether a folder's disk or quota is full: SQLite does not always say."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(_PROBE)
    except OSError as error:
        return is_full(error)
    return False


def full(folder: Path | str) -> StoreError:
    """The error of a full disk.

    Args:
        folder: that lies on it.
    """
    return StoreError(
        f"{folder}: the disk is full; free some space and run the same command again; "
        "finished runs are kept"
    )


def read_only(folder: Path | str) -> StoreError:
    """The error of a store that cannot be changed.

    Args:
        folder: of the store.
    """
    return StoreError(
        f"the store in {folder} can be read only, so nothing can be saved in it; "
        "name another folder, or copy this one to where it can be written"
    )
