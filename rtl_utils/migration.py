"""Runs that earlier versions of the project stored, found again under today's keys.

Until version 0.2 a run's key was a hash of its record and of the source text of fourteen modules.
So the key itself proves which code made a run, and if that code's numbers are still today's, the
run is given today's key. Other runs are left alone. What the old key could not prove is left out of
the provenance: at 52f0bda a single training in the caller's process used all its threads, and gives
other bits with one.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from rtl_utils.data import DATASETS
from rtl_utils.runs import Run, check_fields, reads
from rtl_utils.store import Adopted, Store

# hash of the source text of the fourteen modules -> commit that had it; all versions were 1 then
CODE = {
    "9421aeea753913653a86262f5a3e59d4e0d638233ea0be3d58029e4d2fe7babb": "52f0bda",
    "ccf0806cbf39186a2678f8df844943206d7b7f3786dc40c979ffff5eaa47e020": "9c67935",
}
_METHODS = {"ft-still": "ft-frozen", "fixed-moving": "fixed-updated"}  # old name -> today's
_METRICS = {
    "length": "weight_length",
    "riemannian_length": "checkpoint_length",  # a sum over checkpoints, not over every step
    "riemannian_length_error": "checkpoint_length_error",
}


class Migrated(NamedTuple):
    """What became of a store's earlier runs.

    Args:
        found: given today's key.
        old: left alone, as their numbers are not today's or the code that made them is unknown.
    """

    found: int
    old: int


def migrate(store: Store) -> Migrated:
    """Give the earlier runs of a store today's keys where their numbers have not changed.

    Nothing is deleted: a run whose key is taken, or whose code is unknown, stays as it is.
    """
    specs = store.specs()
    taken = set(specs)
    found = old = 0
    for key, spec in specs.items():
        if isinstance(spec, Mapping) and "source_ball" not in spec:  # a run of today
            continue
        commit = _commit(key, spec)
        run = _run(spec) if commit else None
        if run is None or run.key in taken:
            old += 1
            continue
        made = {"commit": commit, "package": "0.1.0"}
        store.adopt(key, Adopted(run.key, asdict(run), reads(run), made, _METRICS))
        taken.add(run.key)
        found += 1
    return Migrated(found, old)


def _commit(key: str, spec: Any) -> str | None:
    """The commit that made a run, which its key proves; None for another."""
    if not isinstance(spec, Mapping):  # damaged
        return None
    hashed = dict(spec)
    if hashed.get("method") != "ct-iterated":  # the others did not read it
        hashed["coupled"] = _DEFAULT_COUPLED
    for code, commit in CODE.items():
        text = json.dumps([hashed, code], sort_keys=True)
        if hashlib.sha256(text.encode()).hexdigest()[:16] == key:
            return commit
    return None


_DEFAULT_COUPLED = {
    "iterations": 4,
    "block": None,
    "blocks": None,
    "partitions": 10,
    "smoothing": 0.05,
}


def _run(spec: Mapping[str, Any]) -> Run | None:
    """Today's record of an earlier run; None if its numbers are not today's."""
    values = dict(spec)
    ball, everywhere = values.pop("source_ball"), values.pop("target_ball")
    values["source_shortcut"] = None if ball is None else {"patch": "ball", "classes": [ball]}
    values["target_shortcut"] = {"patch": "ball"} if everywhere else None
    values["method"] = _METHODS.get(values["method"], values["method"])
    try:
        run = Run.of(values)
        check_fields(run)
        raised = list(_versions(reads(run)))
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    ignored = values["n_train"] is not None and DATASETS[run.dataset].views is not None
    untested = run.test is not None and run.shortcut_label is None  # a clean source was not, then
    return None if raised or ignored or untested else run


def _versions(read: Mapping[str, Any]) -> Iterator[int]:
    """Every version number that was raised, in what a run reads."""
    for name, value in read.items():
        if name == "version":
            yield value
        if name == "versions":
            yield from value.values()
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, Mapping) and name != "versions":
                yield from _versions(part)
