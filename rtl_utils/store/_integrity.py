"""Checksums: whether a run is what was stored, to the last bit."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rtl_utils.store._records import Row

NAN = float("nan")


class _Broken:
    """What stands where a JSON text cannot be read; it equals nothing that was stored."""

    def __bool__(self) -> bool:
        return False


broken = _Broken()


class RunRow(NamedTuple):
    """A row of the table of runs, see `_schema`."""

    run: str
    status: str
    message: str | None
    spec: Any
    provenance: Any
    reads: Any
    weights: str | None
    checksum: str | None


def checksum(run: RunRow, rows: Iterable[Row]) -> str | None:
    """SHA-256 of a run and its rows, in any order.

    The values count to the last bit; all that are not a number are one, and so are 0 and -0, as
    in SQLite.

    Args:
        run: its checksum is not read.
        rows: (metric, epoch, value).

    Returns:
        None for what cannot have been stored, such as a text where a number should be.
    """
    try:
        digest = hashlib.sha256(json.dumps(run[:-1], sort_keys=True).encode())
        ordered = sorted(rows)
        names = "\n".join([f"{metric}\t{epoch}" for metric, epoch, _ in ordered])
        digest.update(f"\n{len(ordered)}\n{names}\n".encode())
        digest.update(_bytes([value for _, _, value in ordered]))
    except (TypeError, ValueError, OverflowError):
        return None
    return digest.hexdigest()


def verifies(run: RunRow, rows: Iterable[Row]) -> bool:
    """Whether the run and its rows are what was stored."""
    return run.checksum is not None and checksum(run, rows) == run.checksum


def record_checksum(values: Sequence[Any] | Mapping[str, Any]) -> str | None:
    """SHA-256 of some JSON values; None where one is damaged."""
    try:
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    except (TypeError, ValueError):
        return None


def record_verifies(values: Sequence[Any], stored: Any) -> bool:
    """Whether some JSON values are what was stored."""
    return stored is not None and record_checksum(values) == stored


def grouped(found: Iterable[Any]) -> dict[str, list[Row]]:
    """Run -> its rows, of (run, metric, epoch, value); SQLite stores no number as NULL."""
    rows: dict[str, list[Row]] = {}
    for run, metric, epoch, value in found:
        rows.setdefault(run, []).append((metric, epoch, NAN if value is None else value))
    return rows


def plain(value: Mapping[str, Any] | None) -> Any:
    """A record as it comes back from JSON."""
    return None if value is None else json.loads(json.dumps(dict(value)))


def _bytes(values: Sequence[Any]) -> bytes:
    """The values as every database gives them back."""
    if not set(map(type, values)) <= {float, int}:
        raise TypeError(values)
    numbers = np.array(values, dtype=float)
    numbers[np.isnan(numbers)] = NAN
    return (numbers + 0.0).astype(">f8").tobytes()
