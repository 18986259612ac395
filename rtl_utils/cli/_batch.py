"""`rtl batch`, `rtl runs` and `rtl results`: grids of notebooks, how they ended, their rows."""

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rtl_utils.cli._console import complain, named_folder, named_values, say
from rtl_utils.messages import counted, cut, duration, shown

if TYPE_CHECKING:  # their imports take seconds, and whoever mistypes an option need not wait
    from rtl_utils.batch import Options, Outcome, Plan
    from rtl_utils.grid import Sweep, Task
    from rtl_utils.runs import Run
    from rtl_utils.store import Store, TaskRecord

STATUSES = ("done", "failed", "timeout", "running", "stopped")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}
_NAMED = 20  # failures that a summary names


class _Asked(NamedTuple):
    """What a sweep asks for: seeds of each task, its runs where they are declared; its note."""

    tasks: dict[str, list[int]]
    declared: "dict[str, list[Run]]"
    note: str


def add_batch(commands: Any) -> None:
    """The options of `rtl batch`."""
    batch = commands.add_parser(
        "batch", help="execute a grid of notebooks, many at once; what is done is skipped"
    )
    batch.add_argument(
        "sweep", metavar="SWEEP", help="a file such as sweeps/table3.yaml, or table3"
    )
    add_store(batch)
    _add_where(batch.add_argument_group("where the runs are executed"))
    _add_which(batch.add_argument_group("which runs"))
    batch.set_defaults(call=_batch)


def _add_where(where: Any) -> None:
    where.add_argument(
        "--launcher",
        default="local",
        metavar="NAME",
        help="local (default), slurm, pbs, sge, lsf, htcondor, oar, or a .py file with a function "
        "launch(request)",
    )
    where.add_argument(
        "--launcher-option",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="an option of a launcher that queues jobs, such as queue, account, walltime, memory",
    )
    where.add_argument(
        "--scheduler", metavar="ADDRESS", help="a Dask scheduler that runs: tcp://host:8786"
    )
    where.add_argument(
        "--workers",
        type=_whole(1),
        metavar="N",
        help="runs at once (default: as many as the machine has cores; one job in a queue)",
    )
    _add_share(where)


def _add_share(where: Any) -> None:
    """What a run has of the machine."""
    where.add_argument(
        "--cores-per-run", type=_whole(1), default=1, metavar="N", help="for training (default: 1)"
    )
    where.add_argument(
        "--gpus-per-run",
        type=_whole(0),
        default=0,
        metavar="N",
        help="GPUs that a run has for itself and sees alone (default: 0)",
    )
    where.add_argument(
        "--device",
        metavar="NAME",
        help="where networks train: auto, cpu, cuda, cuda:1 (a run's second GPU), mps (default: as "
        "the sweep and its notebook say; auto is a GPU of the run's own, else the processor)",
    )


def _add_which(which: Any) -> None:
    which.add_argument("--dry-run", action="store_true", help="say what would be done, and stop")
    which.add_argument("--limit", type=_whole(1), metavar="N", help="execute at most N runs now")
    which.add_argument(
        "--retry-failed", action="store_true", help="execute runs again that failed or timed out"
    )
    which.add_argument(
        "--timeout",
        type=_seconds,
        metavar="TIME",
        help="end a run that takes longer: 90 (seconds), 30m, 2h (default: no limit)",
    )


def add_runs(commands: Any) -> None:
    """The options of `rtl runs`."""
    runs = commands.add_parser("runs", help="list the runs of batches: how they ended, and where")
    runs.add_argument("--sweep", metavar="NAME", help="only of this sweep")
    runs.add_argument("--status", choices=STATUSES, help="only with this status")
    add_store(runs)
    runs.set_defaults(call=_runs)


def add_results(commands: Any) -> None:
    """The options of `rtl results`."""
    results = commands.add_parser(
        "results",
        aliases=["export"],
        help="write what the stored runs measured after training, with their provenance",
    )
    results.add_argument(
        "path",
        metavar="FILE",
        help="rows.csv or rows.parquet; with --sweep also a folder: one CSV file per seed and a "
        "manifest",
    )
    results.add_argument("--sweep", metavar="NAME", help="only the runs that this sweep used")
    results.add_argument("--note", default="", help="what the manifest says beside the facts")
    add_store(results)
    results.set_defaults(call=_results)


def add_store(parser: argparse.ArgumentParser) -> None:
    """The options that say which store."""
    parser.add_argument(
        "--out", metavar="FOLDER", help="folder of the store and its notebooks (default: runs)"
    )
    parser.add_argument(
        "--store",
        metavar="URL",
        help="another database for the rows: postgresql+psycopg://user@host/name (default: SQLite "
        "in the folder)",
    )


def _batch(options: argparse.Namespace) -> int:
    from rtl_utils import batch, grid

    chosen = _options(options)
    out = named_folder(options.out)
    here = options.scheduler is None and options.launcher == "local"
    sweep = _placed(grid.read(grid.find(options.sweep)), options.device, chosen, here)
    there = _is_there(out, options.store)
    if not there:  # a sweep that is refused, or not to be executed, leaves no folder behind
        check_parameters(sweep.tasks, here)
    store = open_store(out, options.store) if there or not options.dry_run else None
    again = {"retry_failed": options.retry_failed, "limit": options.limit}
    plan = batch.plan(sweep, out, store, **again)
    if there:
        check_parameters([*plan.waiting, *plan.later], here)
    say(_opening(plan, chosen), sys.stderr)
    if plan.waiting:
        _say_devices(plan.waiting, chosen)
    if options.dry_run or store is None:
        for task in plan.waiting:
            say(f"to do: {task.name}")
        return 0
    return _summary(plan, batch.execute(plan, store, chosen), store)


def _placed(sweep: "Sweep", device: str | None, options: "Options", here: bool) -> "Sweep":
    """The sweep on its devices.

    On this machine "auto" is a GPU where each run has its own, as many runs would crowd one GPU;
    elsewhere each run sees for itself.

    Raises:
        ValueError: for a device that is none, or a GPU beyond those of a run.
    """
    from rtl_utils import devices, grid

    gpus = options.request.gpus
    auto = ("cuda" if gpus else "cpu") if here else devices.AUTO
    if device is not None:
        devices.check_name(device)
    placed = grid.placed(sweep, device, auto)
    for name in _devices(placed.tasks):
        kind, _, number = name.partition(":")
        if gpus and kind == "cuda" and number.isdigit() and int(number) >= gpus:
            raise ValueError(
                f"device {shown(name)} is not among the {gpus} of --gpus-per-run, which every run "
                "counts from 0"
            )
    return placed


def _devices(tasks: Sequence["Task"]) -> list[str]:
    """The names of devices that the tasks have."""
    names = [task.parameters.get("device") for task in tasks]
    return list(dict.fromkeys(name for name in names if isinstance(name, str)))


def _say_devices(tasks: Sequence["Task"], options: "Options") -> None:
    names = ", ".join(_devices(tasks))
    gpus = options.request.gpus
    own = f"; each run sees {counted(gpus, 'GPU')} of its own" if gpus else ""
    if names:
        say(f"device: {names}{own}", sys.stderr)


def check_parameters(tasks: Sequence["Task"], here: bool) -> None:
    """Raises ValueError for the first task that its notebook would refuse."""
    from rtl_utils import grid
    from rtl_utils.progress import Bar

    with Bar(len(tasks), "checking parameters", "sets", leave=False) as bar:
        grid.check(tasks, bar.update, here=here)


def _options(options: argparse.Namespace) -> "Options":
    """How the batch is executed. Raises ValueError for options that contradict one another."""
    from rtl_utils import launchers
    from rtl_utils.batch import Options

    given = named_values(options.launcher_option, "--launcher-option")
    if options.scheduler is not None:
        for name, value in (("workers", options.workers), ("launcher-option", given)):
            if value:
                raise ValueError(
                    f"--{name} is for a cluster that is started here; with --scheduler the workers "
                    "are those that it has"
                )
    request = launchers.Request(options.workers, options.cores_per_run, options.gpus_per_run, given)
    if options.scheduler is None and launchers.find(options.launcher) is launchers.local:
        launchers.room(request)  # whether this machine has it, before anything else is done
    return Options(options.launcher, request, options.scheduler, options.timeout)


def _opening(plan: "Plan", options: "Options") -> str:
    """How many runs are done and to do, and how long it will take."""
    todo = len(plan.waiting)
    parts = [f"{len(plan.done)} done", f"{todo} to do"]
    if plan.failed:
        parts.insert(1, f"{len(plan.failed)} failed earlier (--retry-failed executes them again)")
    if plan.later:
        parts.append(f"{len(plan.later)} left for later by --limit")
    text = f"{plan.sweep.name}: {counted(len(plan.sweep.tasks), 'run')}: {', '.join(parts)}"
    return f"{text}; {_estimate(plan, options)}" if todo else text


def _estimate(plan: "Plan", options: "Options") -> str:
    from rtl_utils import launchers

    if plan.seconds is None:
        return "how long they take is known after the first one"
    if options.scheduler is not None:
        workers = None
    elif options.launcher == "local":
        workers = launchers.room(options.request)
    else:
        workers = options.request.workers
    todo = len(plan.waiting)
    whole = duration(plan.seconds * -(-todo // (workers or 1)))
    at_once = f"with {workers} at once" if workers else "of one worker's time"
    return f"about {whole} {at_once} ({duration(plan.seconds)} per run)"


def _summary(plan: "Plan", outcomes: Mapping[str, "Outcome"], store: "Store") -> int:
    """Say how the batch ended; returns the exit status."""
    names = {task.key: task.name for task in plan.sweep.tasks}
    bad = [outcome for outcome in outcomes.values() if outcome.status != "done"]
    lines = [
        f"{names[outcome.task]}: {outcome.status}: {outcome.message}{_kept(outcome.kept, store)}"
        for outcome in bad
    ]
    lines += [
        f"{task.name}: {record.status} earlier: {record.message}{_kept(record.executed, store)}"
        for task, record in plan.failed
    ]
    for line in lines[:_NAMED]:
        complain(line)
    failed = len(lines)
    if failed > _NAMED:
        complain(f"{failed - _NAMED} more: `rtl runs --sweep {plan.sweep.name}` lists them")
    done = len(plan.done) + len(outcomes) - len(bad)
    every = counted(len(plan.sweep.tasks), "run")
    say(f"{plan.sweep.name}: {done} of {every} done, {failed} failed")
    say(f"Executed notebooks: {plan.folder}")
    return 1 if failed else 0


def _kept(path: str | None, store: "Store") -> str:
    return "" if path is None else f" (its cells so far: {store.folder / path})"


def _runs(options: argparse.Namespace) -> int:
    out = named_folder(options.out)
    _check_there(out, options.store)
    store = open_store(out, options.store)
    name = None if options.sweep is None else Path(options.sweep).stem
    records = store.tasks(sweep=name)
    if name is not None and not records:
        known = dict.fromkeys(record.sweep for record in store.tasks())
        raise ValueError(
            f"no run of a sweep {shown(name)} is known here; there are {', '.join(known) or 'none'}"
        )
    unfinished = [record.task for record in records if record.status == "running"]
    held = store.leased(unfinished)
    every = [(_status(record, held), record) for record in records]
    listed = [(s, record) for s, record in every if options.status in (None, s)]
    for status, record in listed:
        say(_line(status, record, held))
    counts = {s: sum(status == s for status, _ in listed) for s in STATUSES}
    total = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    say(f"{counted(len(listed), 'run')}{f': {total}' if total else ''}")
    return 0


def _status(record: "TaskRecord", held: Mapping[str, str]) -> str:
    """A task's status; one that is running and held by nobody was stopped."""
    return "stopped" if record.status == "running" and record.task not in held else record.status


def _line(status: str, record: "TaskRecord", held: Mapping[str, str]) -> str:
    took = "" if record.seconds is None else duration(record.seconds)
    place = record.executed or held.get(record.task, "")
    values = ", ".join(f"{k}={v}" for k, v in record.parameters.items() if k != "out")
    name = f"{record.notebook} {cut(values, 80)}"
    if record.executed:
        name = Path(record.executed).name.removesuffix(".ipynb").removesuffix(".partial")
    message = f"  {record.message}" if record.message else ""
    return f"{status:8} {took:>12}  {record.sweep}  {name}  {place}{message}"


def _results(options: argparse.Namespace) -> int:
    from rtl_utils import exports
    from rtl_utils.migration import migrate

    out = named_folder(options.out)
    path = Path(options.path)
    if not path.name:
        raise ValueError("name the file to write")
    _check_there(out, options.store)
    store = open_store(out, options.store)
    if not store.read_only:
        migrate(store)
    asked = None if options.sweep is None else _asked(options.sweep, store)
    if path.suffix:
        runs, left_out = _current(store, asked)
        written = exports.write_rows(runs, store, path).run.nunique()
        old = f"; {left_out} of earlier versions are left out" if left_out else ""
        say(f"Written: {path} ({counted(written, 'run')}{old})")
        return 0
    if asked is None:
        raise ValueError(
            f"name a file that ends with .csv or .parquet; a folder, such as {shown(str(path))}, "
            "is for the rows of one sweep: add --sweep NAME"
        )
    return _publish(options.sweep, store, path, options.note or asked.note, asked)


def _publish(sweep: str, store: "Store", folder: Path, note: str, asked: _Asked) -> int:
    """Write a sweep's folder, and name the seeds that are not finished."""
    from rtl_utils import exports

    name = Path(sweep).stem
    tasks, declared, _ = asked
    executed = len(declared) < len(tasks) or store.tasks(keys=tasks)
    command = f"rtl {'batch' if executed else 'train'} {sweep}"
    published = exports.publish(name, store, folder, command, tasks, note, declared)
    taken = f", {published.taken} of them from its earlier files" if published.taken else ""
    say(f"Written: {folder} ({counted(published.runs, 'run')}{taken})")
    if published.unfinished:
        complain(f"{name} is not finished for seeds {_listed(published.unfinished)}")
    if published.kept:
        kept = _listed(published.kept)
        complain(f"the files of seeds {kept} hold rows that would be lost: they stay as they are")
    return 0


def _asked(sweep: str, store: "Store") -> _Asked:
    """What a sweep asks for, as its file says, or as the store knows.

    Raises:
        ValueError: if there is neither.
    """
    from rtl_utils import declared, grid, headless

    try:
        path = grid.find(sweep)
    except ValueError:  # executed elsewhere, or the file is gone
        records = store.tasks(sweep=Path(sweep).stem)
        if not records:
            raise
        return _Asked({record.task: _seeds(record.parameters) for record in records}, {}, "")
    read = grid.read(path)
    notebooks = {task.notebook for task in read.tasks}
    defaults = {notebook: headless.default_parameters(notebook) for notebook in notebooks}
    seeds = {task.key: _seeds(defaults[task.notebook] | task.parameters) for task in read.tasks}
    known = {task.key: declared.runs([task]) for task in read.tasks if declared.is_declared(task)}
    return _Asked(seeds, known, read.note)


def _seeds(parameters: Mapping[str, Any]) -> list[int]:
    """The seeds of a task; none where its notebook has no parameter of that name."""
    given = parameters.get("seeds", [])
    return [one for one in (given if isinstance(given, list) else [given]) if type(one) is int]


def _listed(seeds: Sequence[int]) -> str:
    return cut(", ".join(map(str, seeds)), 200)


def _current(
    store: "Store", sweep: _Asked | None
) -> tuple[list[tuple[str, Mapping[str, Any]]], int]:
    """Runs of today, as a sweep asked for them, or all of the store; and how many are not."""
    from rtl_utils import exports
    from rtl_utils.runs import Run

    there = store.specs()
    asked: list[tuple[str, Mapping[str, Any]]] = [*there.items()]
    if sweep is not None:
        asked = exports.asked_by(sweep.tasks, store, sweep.declared)
    wanted = [(key, spec) for key, spec in asked if key in there]
    found = []
    for key, spec in wanted:
        with suppress(AttributeError, KeyError, TypeError, ValueError):  # of another version
            if Run.of(spec).key == key:
                found.append((key, spec))
    old = len({key for key, _ in wanted} - {key for key, _ in found})
    if not found:
        what = "the sweep" if sweep is not None else "this version"
        others = f" ({old} of earlier ones)" if old else ""
        raise ValueError(f"{store.folder} holds no runs of {what}{others}")
    return found, old


def open_store(out: Path, url: str | None) -> "Store":
    """The store of a folder. Raises ValueError for a --store that names no database."""
    from rtl_utils.store import Store

    if url is not None and ("://" not in url or url.startswith("sqlite")):
        raise ValueError(
            "--store must be the URL of a database, such as postgresql+psycopg://user@host/name; "
            f"a folder is named with --out; got {shown(url)}"
        )
    return Store(out, url)


def _is_there(out: Path, url: str | None) -> bool:
    return url is not None or (out / "results.db").is_file()


def _check_there(out: Path, url: str | None) -> None:
    """Raises ValueError where there is no store to read."""
    if not _is_there(out, url):
        raise ValueError(
            f"{out} holds no results.db; name the folder that the notebooks' parameter `out`, or "
            "the --out of `rtl batch`, named"
        )


def _whole(least: int) -> Callable[[str], int]:
    """What reads a whole number, `least` or more."""

    def read(text: str) -> int:
        if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) < least:
            raise argparse.ArgumentTypeError(
                f"must be a whole number, {least} or more; got {shown(text)}"
            )
        return int(text)

    return read


def _seconds(text: str) -> float:
    """A time in seconds: "90", "1.5h", "30m"."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)([smh]?)", text)
    if found is None or float(found[1]) == 0:
        raise argparse.ArgumentTypeError(
            f"must be a time, positive, such as 90 (seconds), 30m or 2h; got {shown(text)}"
        )
    return float(found[1]) * _UNITS[found[2]]
