"""The store of runs: tidy rows in a database, weights in files. Written once, found by key, never half there."""

import ast
import hashlib
import json
import os
import sqlite3
import time
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd
import torch
from sqlalchemy import JSON, Column, Float, Integer, MetaData, String, Table, create_engine, delete, event, insert, select
from sqlalchemy.schema import CreateTable

_METADATA = MetaData()
RUNS = Table(
    "runs",
    _METADATA,
    Column("run", String(16), primary_key=True),
    Column("status", String(16), nullable=False),  # "done" or "diverged"
    Column("message", String),  # why it diverged
    Column("spec", JSON, nullable=False),  # the run's description, in full
    Column("provenance", JSON),  # which code and machine made it: `rtl_utils.provenance`
)
VALUES = Table(
    "results",
    _METADATA,
    Column("run", String(16), primary_key=True),
    Column("metric", String(40), primary_key=True),
    Column("epoch", Integer, primary_key=True),  # -1: measured after training
    Column("value", Float),
)
FINAL = -1
EXPORTS = Path(__file__).resolve().parent.parent / "docs" / "results"
_SWITCH_ATTEMPTS = 200  # at 0.05 s each


class Store:
    """Results and weights in a folder; the database is SQLite there, or another by its SQLAlchemy URL.

    Raises ValueError if the folder cannot be written.
    """

    def __init__(self, folder: str | Path, url: str | None = None):
        self.folder = Path(folder)
        try:
            (self.folder / "weights").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"out must be a folder that can be written; got {str(folder)!r} ({error})") from error
        self.engine = create_engine(url or f"sqlite:///{self.folder / 'results.db'}", connect_args={} if url else {"timeout": 30})
        if self.engine.dialect.name == "sqlite":
            event.listen(self.engine, "connect", _write_ahead)
        with self.engine.begin() as connection:
            for table in (RUNS, VALUES):
                connection.execute(CreateTable(table, if_not_exists=True))  # several processes may open a new store at once

    def save(self, key: str, spec: Mapping, rows: Iterable[tuple[str, int, float]], message: str | None = None, made: Mapping | None = None) -> None:
        """One run's rows (metric, epoch, value) and its status, in one transaction; an earlier version of the run is replaced."""
        status = "diverged" if message else "done"
        values = [{"run": key, "metric": metric, "epoch": epoch, "value": value} for metric, epoch, value in rows]
        with self.engine.begin() as connection:
            for table in (RUNS, VALUES):
                connection.execute(delete(table).where(table.c.run == key))
            connection.execute(insert(RUNS).values(run=key, status=status, message=message, spec=dict(spec), provenance=made and dict(made)))
            if values:
                connection.execute(insert(VALUES), values)

    def status(self, keys: Iterable[str]) -> dict[str, tuple[str, str | None]]:
        """(status, message) of the runs among `keys` that are in the store."""
        wanted = set(keys)
        with self.engine.connect() as connection:
            found = connection.execute(select(RUNS.c.run, RUNS.c.status, RUNS.c.message)).all()
        return {run: (status, message) for run, status, message in found if run in wanted}

    def frame(self, keys: Iterable[str]) -> pd.DataFrame:
        """Tidy rows of the runs: run, status, every field of the spec, metric, epoch (-1: after training), value."""
        wanted = list(dict.fromkeys(keys))
        with self.engine.connect() as connection:
            runs = [row for row in connection.execute(select(RUNS)).mappings() if row["run"] in set(wanted)]
            values = pd.read_sql(select(VALUES), connection)
        specs = pd.DataFrame([{"run": row["run"], "status": row["status"], **row["spec"]} for row in runs])
        return specs.merge(values, on="run") if len(specs) else pd.DataFrame(columns=["run", "status", "metric", "epoch", "value"])

    def export(self, path: Path, keys: Iterable[str] | None = None) -> Path:
        """Write the values after training of some runs, or all, as one CSV file, sorted, the spec's records spread over columns; returns the path."""
        if keys is None:
            with self.engine.connect() as connection:
                keys = connection.execute(select(RUNS.c.run)).scalars().all()
        frame = self.frame(keys)
        last = frame.groupby(["run", "metric"]).epoch.transform("max")
        frame = frame[(frame.epoch == FINAL) | ((frame.metric == "length") & (frame.epoch == last))].assign(epoch=FINAL)
        records = [pd.json_normalize(frame.sgd).set_index(frame.index)]
        if "coupled" in frame:
            records.append(pd.json_normalize(frame.coupled).add_prefix("coupled_").set_index(frame.index))
        flat = pd.concat([frame.drop(columns=["sgd", "source_sgd", "coupled", "taus"], errors="ignore"), *records], axis=1)
        flat.sort_values(["dataset", "source", "target", "method", "seed", "run", "metric"]).to_csv(path, index=False, float_format="%.6g")
        return path

    def save_weights(self, key: str, net: torch.nn.Module) -> None:
        """Keep a network's weights under the run's key; the file appears whole or not at all."""
        path = self._weights(key)
        temporary = path.with_suffix(f".{os.getpid()}.partial")
        torch.save(net.state_dict(), temporary)
        temporary.replace(path)

    def load_weights(self, key: str, net: torch.nn.Module) -> bool:
        """Load the run's weights into the network; False if they are not there or damaged, so that they must be trained again."""
        try:
            with zipfile.ZipFile(self._weights(key)) as file:
                if file.testzip() is not None:  # torch does not look at the checksums that it writes
                    return False
            net.load_state_dict(torch.load(self._weights(key), weights_only=True, map_location="cpu"))
        except Exception:  # a damaged file can raise anything, from OSError to TypeError
            return False
        net.eval()
        return True

    def _weights(self, key: str) -> Path:
        return self.folder / "weights" / f"{key}.pt"


def exported(name: str) -> pd.DataFrame:
    """Rows of a long run that are kept in docs/results/NAME/, one file a seed (`docs/sweep.py`); empty if there are none yet."""
    files = sorted((EXPORTS / name).glob("seed-*.csv"))
    return pd.concat([pd.read_csv(path) for path in files], ignore_index=True) if files else pd.DataFrame()


def run_key(spec: Mapping, modules: Iterable[Path]) -> str:
    """16 hexadecimal digits that stand for a run: its description and the code that computes it."""
    text = json.dumps([spec, code_version(modules)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def code_version(modules: Iterable[Path]) -> str:
    """Hash of what the modules do: their syntax trees without docstrings, so that a comment makes no run old."""
    digest = hashlib.sha256()
    for path in sorted(modules):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()


def _write_ahead(connection, _record) -> None:
    """Let readers and a writer work at once. Switching a new file needs a moment alone for which SQLite's own time-out does not wait."""
    for attempt in range(_SWITCH_ATTEMPTS):
        try:
            connection.execute("PRAGMA journal_mode=WAL").fetchall()
            break
        except sqlite3.OperationalError:
            if attempt == _SWITCH_ATTEMPTS - 1:
                raise
            time.sleep(0.05)
    connection.execute("PRAGMA synchronous=NORMAL")
