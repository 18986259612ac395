"""The store of runs: rows in a database, weights in files. Writes are atomic, damage is noticed."""

from rtl_utils.store._records import (
    FINAL,
    Adopted,
    DamagedRunsWarning,
    Row,
    StoreError,
    TaskRecord,
    full,
    is_full,
)
from rtl_utils.store._store import Store

__all__ = [
    "FINAL",
    "Adopted",
    "DamagedRunsWarning",
    "Row",
    "Store",
    "StoreError",
    "TaskRecord",
    "full",
    "is_full",
]
