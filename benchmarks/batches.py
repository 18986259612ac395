"""What a batch costs: its overhead, its skipping, its writers, its scaling."""

import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from subprocess import PIPE
from typing import Any

import yaml
from measure import seconds

from rtl_utils import batch, folders, grid, headless, provenance
from rtl_utils.launchers import Request
from rtl_utils.store import Store, TaskRecord

SHORT = {
    "dataset": "digits",
    "methods": ["scratch", "ft"],
    "n_train": 20,
    "epochs": 8,
    "source_epochs": 2,
    "taus": [1],
}
TASKS = 20
FINISHED = 10_000
WRITERS = 4
COMMITS = 10_000
Figure = dict[str, Any]


def measured() -> dict[str, Figure]:
    """Name of each claim -> what was measured, the limit, and what it was measured against."""
    return {
        "overhead of a task": overhead(),
        f"skipping a finished sweep of {FINISHED:,} runs": skipping(),
        f"{TASKS} short runs with two workers": scaling(),
        f"{WRITERS} writers x {COMMITS:,} commits, SQLite": writing(None),
        f"{WRITERS} writers x {COMMITS:,} commits, PostgreSQL": _on_postgresql(),
    }


def overhead() -> Figure:
    """Seconds of a task beyond those of its bare cells, once the cluster is warm.

    The cells alone run in this process, which has imported everything, on a store of their own.
    """
    with tempfile.TemporaryDirectory() as place:
        sweep = _sweep(Path(place), 13)
        times = {}
        for count in (1, 13):  # the first task pays for the cluster and the warm process
            store = Store(Path(place, f"store-{count}"))
            plan = batch.plan(sweep, store.folder, store, limit=count)
            options = batch.Options(request=Request(workers=1))
            times[count] = seconds(lambda p=plan, s=store, o=options: batch.execute(p, s, o))
        whole = (times[13] - times[1]) / 12
        bare = _bare_cells(sweep, Path(place))
    return {
        "unit": "s",
        "ours": whole,
        "baseline": bare,
        "against": "its cells in a process that has imported everything",
        "value": whole - bare,
        "limit": 2.0,
        "smaller_is_better": True,
    }


def skipping() -> Figure:
    """Wall seconds of `rtl batch` on a sweep all of whose runs are done."""
    with tempfile.TemporaryDirectory() as place:
        sweep = _sweep(Path(place), FINISHED)
        store = Store(Path(place, "store"))
        made = store.folder / "batch" / sweep.name
        made.mkdir(parents=True)
        for k, task in enumerate(sweep.tasks):
            run = f"{k:016x}"
            store.save(run, {"seed": k}, [("val_accuracy", -1, 0.5)])
            executed = made / f"{task.name}.ipynb"
            executed.touch()
            record = TaskRecord(
                task.key,
                sweep.name,
                task.notebook.name,
                task.parameters,
                "done",
                None,
                str(executed.relative_to(store.folder)),
                provenance.host(),
                provenance.now(),
                1.0,
            )
            store.save_task(record)
            store.task = task.key
            store.use([(run, {"seed": k})])
        command = [sys.executable, "-m", "rtl_utils.cli", "batch", str(sweep.path)]
        command += ["--out", str(store.folder)]

        def skip() -> None:
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            assert f"{FINISHED} done, 0 to do" in done.stderr, done.stderr

        skip()
        took = statistics.median(seconds(skip) for _ in range(3))
        nothing = [sys.executable, "-m", "rtl_utils.cli", "--version"]
        start = seconds(lambda: subprocess.run(nothing, check=True, capture_output=True))
    return {
        "unit": "s",
        "ours": took,
        "baseline": start,
        "against": "`rtl --version`",
        "value": took,
        "limit": 5.0,
        "smaller_is_better": True,
    }


def scaling() -> Figure:
    """How much faster two workers finish a sweep than one, start-up included."""
    with tempfile.TemporaryDirectory() as place:
        sweep = _sweep(Path(place), TASKS)
        times = {}
        for workers in (2, 1):
            command = [sys.executable, "-m", "rtl_utils.cli", "batch", str(sweep.path)]
            command += ["--out", str(Path(place, f"store-{workers}")), "--workers", str(workers)]
            times[workers] = seconds(partial(subprocess.run, command, check=True, stdout=PIPE))
    return {
        "unit": "",
        "ours": times[2],
        "baseline": times[1],
        "against": "one worker",
        "value": times[1] / times[2],
        "limit": 1.8,
        "smaller_is_better": False,
    }


def writing(url: str | None) -> Figure:
    """How many commits of several writers at once are lost."""
    with tempfile.TemporaryDirectory() as place:
        Store(place, url)
        start = time.perf_counter()
        context = multiprocessing.get_context("spawn")
        writers = [
            context.Process(target=_write, args=(place, url, writer)) for writer in range(WRITERS)
        ]
        for process in writers:
            process.start()
        for process in writers:
            process.join()
        took = time.perf_counter() - start
        wanted = {f"{w:08x}{k:08x}" for w in range(WRITERS) for k in range(COMMITS)}
        lost = len(wanted - Store(place, url).keys())
    return {
        "unit": "lost",
        "ours": took,
        "baseline": None,
        "against": f"{WRITERS * COMMITS / took:,.0f} commits per second",
        "value": lost,
        "limit": 0,
        "smaller_is_better": True,
    }


def _write(folder: str, url: str | None, writer: int) -> None:
    store = Store(folder, url)
    for k in range(COMMITS):
        store.save(f"{writer:08x}{k:08x}", {"seed": k}, [("val_accuracy", -1, k / COMMITS)])


def _on_postgresql() -> Figure:
    """The same on a PostgreSQL server that is started for it."""
    sys.path.append(str(folders.root() / "tests"))
    from small_postgres import Postgres

    with tempfile.TemporaryDirectory() as place:
        server = Postgres(Path(place))
        try:
            return writing(server.new())
        finally:
            server.stop()


def _sweep(place: Path, count: int) -> grid.Sweep:
    """A sweep of short trainings with so many seeds."""
    notebook = folders.root() / "sweeps" / "trainings.ipynb"
    content = {
        "notebook": os.path.relpath(notebook, place),
        "parameters": SHORT,
        "grid": {"seeds": list(range(count))},
    }
    path = place / "short.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return grid.read(path)


def _bare_cells(sweep: grid.Sweep, place: Path) -> float:
    """Median seconds of a task's cells, executed here one after the other."""
    notebook = sweep.tasks[0].notebook
    cells = json.loads(notebook.read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    times = []
    for task in sweep.tasks:
        values = headless.default_parameters(notebook) | task.parameters
        values["out"] = str(place / "bare")
        with _cores(1):
            times.append(seconds(lambda v=values: _execute(sources[1:], v)))
    return sum(times[1:]) / len(times[1:])


def _execute(sources: list[str], values: dict[str, Any]) -> None:
    namespace = dict(values) | {"display": lambda *_: None}
    for source in sources:
        exec(source, namespace)


@contextmanager
def _cores(count: int) -> Iterator[None]:
    before = os.environ.get("LOKY_MAX_CPU_COUNT")
    os.environ["LOKY_MAX_CPU_COUNT"] = str(count)
    try:
        yield
    finally:
        del os.environ["LOKY_MAX_CPU_COUNT"]
        if before is not None:
            os.environ["LOKY_MAX_CPU_COUNT"] = before
