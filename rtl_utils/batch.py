"""A grid of notebooks on any number of cores or machines: one task, one kernel, one notebook.

The store remembers every task, so the same command carries on where it was stopped, and two batches
of one sweep share the work: a task belongs to the one that holds its lease.
"""

import logging
import signal
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from rtl_utils import launchers, provenance
from rtl_utils.forks import ForkServer
from rtl_utils.grid import Sweep, Task
from rtl_utils.headless import NotebookFailed
from rtl_utils.messages import counted, cut, shown
from rtl_utils.progress import Bar, Board
from rtl_utils.store import Store, StoreError, TaskRecord, full, is_full

TOPIC = "rtl-batch"  # of the events in which workers say how far they are
ELSEWHERE = "elsewhere"  # status of a task that another batch is executing
_POLL = 0.1  # seconds between two looks at what is running
_LOOK = 1.0  # seconds between two looks at the workers, and at what other batches do
_EVERY = 0.5  # seconds between two events of one worker
_VERIFIED_AT_ONCE = 2_000  # runs
_CONNECT = 20.0  # seconds that a scheduler may take to answer


class Options(NamedTuple):
    """How a batch is executed.

    Args:
        launcher: a name of `launchers.LAUNCHERS` or a Python file; not used with a scheduler.
        request: what is asked of the launcher.
        scheduler: address of a Dask scheduler that runs already, such as tcp://host:8786.
        timeout: seconds after which a run is ended; None for no limit.
    """

    launcher: str = "local"
    request: launchers.Request = launchers.Request()
    scheduler: str | None = None
    timeout: float | None = None


@dataclass(frozen=True)
class Plan:
    """The tasks of a sweep by what is to be done about them, each in the sweep's order.

    Args:
        sweep: that is executed.
        folder: where executed notebooks are put.
        records: task key -> what the store knows of it.
        done: executed, and their runs are in the store.
        failed: failed or timed out earlier, and are left as they are.
        waiting: are executed.
        later: are left for another time, as no more were asked for.
        seconds: median time of a finished task of the same notebook and data set; None if unknown.
    """

    sweep: Sweep
    folder: Path
    records: Mapping[str, TaskRecord]
    done: Sequence[Task]
    failed: Sequence[tuple[Task, TaskRecord]]
    waiting: Sequence[Task]
    later: Sequence[Task]
    seconds: float | None


class Job(NamedTuple):
    """What a worker is told about a task.

    Args:
        task: its key.
        sweep: name of its sweep.
        name: of the executed notebook, without its ending.
        notebook: path of the notebook.
        parameters: of the notebook, among them the store's folder `out`.
        store: folder of the store.
        url: of its database; None for the one in the folder.
        folder: of the executed notebook.
        cores: for training.
        seconds: after which it is ended; None for no limit.
        before: when its latest execution began, as the batch saw it; None if there was none.
    """

    task: str
    sweep: str
    name: str
    notebook: str
    parameters: Mapping[str, Any]
    store: str
    url: str | None
    folder: str
    cores: int
    seconds: float | None
    before: str | None


class Outcome(NamedTuple):
    """How a task ended.

    Args:
        task: its key.
        status: "done", "failed", "timeout", or ELSEWHERE.
        message: why it failed; None if it did not.
        kept: the executed notebook, or the cells so far of one that failed; None if there is none.
    """

    task: str
    status: str
    message: str | None = None
    kept: str | None = None


def plan(
    sweep: Sweep,
    folder: Path,
    store: Store | None,
    *,
    retry_failed: bool = False,
    limit: int | None = None,
) -> Plan:
    """What there is to do for a sweep.

    Args:
        sweep: its tasks.
        folder: of the store.
        store: that remembers what was done; None where there is none yet.
        retry_failed: whether tasks that failed or timed out are executed again.
        limit: the most tasks that are executed now; None for all.
    """
    found = [] if store is None else store.tasks(sweep=sweep.name)
    records = {record.task: record for record in found}
    lacking = set() if store is None else _lacking(store, found)
    done: list[Task] = []
    failed: list[tuple[Task, TaskRecord]] = []
    waiting: list[Task] = []
    for task in sweep.tasks:
        record = records.get(task.key)
        status = record.status if record is not None else None
        if record is not None and status == "done" and task.key not in lacking:
            done.append(task)
        elif record is not None and status in ("failed", "timeout") and not retry_failed:
            failed.append((task, record))
        else:
            waiting.append(task)
    now = waiting if limit is None else waiting[:limit]
    later = waiting[len(now) :]
    typical = None if store is None else _typical(sweep, store)
    return Plan(sweep, folder / "batch" / sweep.name, records, done, failed, now, later, typical)


def execute(plan: Plan, store: Store, options: Options) -> dict[str, Outcome]:
    """Execute the plan's tasks on a cluster, and say on stderr how far they are.

    Returns:
        Key of each task -> how it ended. A task that fails does not stop the others.

    Raises:
        ValueError: for a scheduler that does not answer, or a launcher that cannot start.
        StoreError: if the store cannot be written any more; finished tasks stay finished.
    """
    jobs = [_job(task, plan, store, options) for task in plan.waiting]
    if not jobs:
        return {}
    board = Board(plan.sweep.name, len(jobs))
    try:
        with _client(options) as client:
            return _Driver(client, store, board, options.request.gpus).run(jobs)
    finally:
        board.close()


def perform(job: Job) -> Outcome:
    """Execute one task in this process, a worker's; the store says afterwards how it ended.

    Raises:
        StoreError: if the store cannot be written.
    """
    store = _store(job.store, job.url)
    with store.lease([job.task]) as held:
        if job.task not in held:
            return Outcome(job.task, ELSEWHERE)
        for record in store.tasks(keys=[job.task]):
            if _just_ended(record, job, store):  # in another batch
                return Outcome(job.task, record.status, record.message, record.executed)
        return _executed(job, store)


def _just_ended(record: TaskRecord, job: Job, store: Store) -> bool:
    """Whether a task has ended since the batch looked."""
    if record.status == "done":
        return not _lacking(store, [record])
    return record.status != "running" and record.started != job.before


def _executed(job: Job, store: Store) -> Outcome:
    """Run the notebook, and record its beginning and its end."""
    from rtl_utils import headless, kernels

    began = time.monotonic()
    record = _begun(job)
    store.save_task(record)
    environment = {"RTL_TASK": job.task} | ({"RTL_STORE": job.url} if job.url else {})
    outcome = Outcome(job.task, "done")
    try:
        executed = headless.execute(
            Path(job.notebook),
            job.parameters,
            Path(job.folder),
            name=f"{job.name}-{job.task[:6]}.ipynb",  # an edited sweep has another key
            limits=kernels.Limits(job.cores, job.seconds, environment),
            forks=_forks(job.cores),
            show=_reporter(job),
        )
        outcome = outcome._replace(kept=str(executed))
    except NotebookFailed as error:
        kept = None if error.kept is None else str(error.kept)
        outcome = Outcome(job.task, error.status, error.reason, kept)
    except OSError as error:
        if is_full(error):  # nothing can be recorded either; the task is left to be done
            raise full(Path(job.folder)) from error
        outcome = Outcome(job.task, "failed", f"{error.strerror}: {error.filename}")
    except ValueError as error:
        outcome = Outcome(job.task, "failed", cut(str(error)))
    kept = outcome.kept and _relative(Path(outcome.kept), store.folder)
    seconds = round(time.monotonic() - began, 3)
    status, message = outcome.status, outcome.message
    store.save_task(record._replace(status=status, message=message, executed=kept, seconds=seconds))
    return outcome


def _begun(job: Job) -> TaskRecord:
    return TaskRecord(
        job.task,
        job.sweep,
        Path(job.notebook).name,
        job.parameters,
        "running",
        message=None,
        executed=None,
        host=provenance.host(),
        started=provenance.now(),
        seconds=None,
    )


_ONCE = threading.Lock()  # a worker may have several threads


def _store(folder: str, url: str | None) -> Store:
    """The store, opened once per worker."""
    with _ONCE:
        return _opened(folder, url)


def _forks(cores: int) -> ForkServer | None:
    """The warm process from which this worker's kernels are forked; it ends with the worker."""
    with _ONCE:
        return _warm(cores)


@cache
def _opened(folder: str, url: str | None) -> Store:
    return Store(folder, url)


@cache
def _warm(cores: int) -> ForkServer | None:
    return ForkServer(cores) if ForkServer.available() else None


def _reporter(job: Job) -> Any:
    """What tells the batch how far a task is, now and then."""
    from distributed import get_worker

    worker = get_worker()
    last = 0.0

    def show(progress: Any) -> None:
        nonlocal last
        if time.monotonic() - last >= _EVERY:
            last = time.monotonic()
            inside = f", {progress.now}" if progress.now else ""
            cell = f"cell {min(progress.done + 1, progress.total)} of {progress.total}{inside}"
            where = f"{provenance.host()}, worker {worker.name}"
            worker.log_event(TOPIC, {"task": job.task, "where": where, "now": cell})

    return show


@dataclass
class _Driver:
    """Hands tasks to workers as they become free, and collects how they ended."""

    client: Any
    store: Store
    board: Board
    gpus: int
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    running: dict[Any, Job] = field(default_factory=dict)  # future -> job
    elsewhere: dict[str, Job] = field(default_factory=dict)
    said: dict[str, Mapping[str, str]] = field(default_factory=dict)  # task -> its last event

    def run(self, jobs: Sequence[Job]) -> dict[str, Outcome]:
        """Execute the jobs in their order."""
        waiting = deque(jobs)
        self.client.subscribe_topic(TOPIC, self._hear)
        room = 0
        look = 0.0
        while waiting or self.running or self.elsewhere:
            if time.monotonic() >= look:
                look = time.monotonic() + _LOOK
                room = self._room()
                waiting.extendleft(self._given_back())
            while waiting and len(self.running) < room:
                self._submit(waiting.popleft())
            self._collect()
            self.board.show(self._lines(len(waiting), room))
        return self.outcomes

    def _hear(self, event: tuple[float, Mapping[str, str]]) -> None:
        if event[1]["task"] in {job.task for job in list(self.running.values())}:
            self.said[event[1]["task"]] = event[1]

    def _room(self) -> int:
        """How many runs the workers that there are now can execute at once."""
        if self.client.status not in ("running", "connecting"):
            raise _lost()
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        if not self.gpus:
            return sum(worker["nthreads"] for worker in workers)
        each = [worker["resources"].get(launchers.GPU, 0) for worker in workers]
        return sum(int(gpus // self.gpus) for gpus in each)

    def _submit(self, job: Job) -> None:
        resources = {launchers.GPU: self.gpus} if self.gpus else None
        future = self.client.submit(perform, job, pure=False, resources=resources)
        self.running[future] = job

    def _collect(self) -> None:
        """Take the outcomes of the tasks that have ended, or wait a moment for one."""
        from distributed import wait

        if not self.running:
            time.sleep(_POLL)
            return
        try:
            wait(list(self.running), timeout=_POLL, return_when="FIRST_COMPLETED")
        except TimeoutError:
            return
        except CancelledError as error:
            raise _lost() from error
        for future in [future for future in self.running if future.done()]:
            job = self.running.pop(future)
            outcome = self._outcome(future, job)
            if outcome.status == ELSEWHERE:
                self.elsewhere[job.task] = job
            else:
                self._end(outcome, job)

    def _outcome(self, future: Any, job: Job) -> Outcome:
        """How a task ended, also if its worker died with it.

        Raises:
            StoreError: if the store cannot be written.
        """
        from distributed import KilledWorker

        if future.cancelled():
            raise _lost()
        error = future.exception()
        if error is None:
            outcome: Outcome = future.result()
            return outcome
        if isinstance(error, StoreError):
            raise error
        if not isinstance(error, KilledWorker):
            return self._failed(job, f"{type(error).__name__}: {cut(str(error), 300)}")
        return self._failed(job, "its worker died again and again, as where memory runs out")

    def _failed(self, job: Job, message: str) -> Outcome:
        """Record a task that could not do so itself, unless another batch has it meanwhile."""
        with self.store.lease([job.task]) as held:
            for record in self.store.tasks(keys=sorted(held)):
                self.store.save_task(record._replace(status="failed", message=message))
        return Outcome(job.task, "failed", message)

    def _end(self, outcome: Outcome, job: Job) -> None:
        self.outcomes[job.task] = outcome
        self.said.pop(job.task, None)
        self.board.finished()
        if outcome.status != "done":
            self.board.message(f"{job.name}: {outcome.status}: {outcome.message}")

    def _given_back(self) -> Iterator[Job]:
        """Tasks that another batch had and has no more: ended there, or to be done here."""
        if not self.elsewhere:
            return
        held = self.store.leased(list(self.elsewhere))
        free = [job for key, job in self.elsewhere.items() if key not in held]
        ended = {r.task: r for r in self.store.tasks(keys=[job.task for job in free])}
        for job in free:
            del self.elsewhere[job.task]
            record = ended.get(job.task)
            if record is None or record.status == "running":  # the other one died
                yield job
            else:
                self._end(Outcome(job.task, record.status, record.message, record.executed), job)

    def _lines(self, waiting: int, room: int) -> list[str]:
        """What is running, and what is waited for, as texts for the board."""
        lines = []
        for job in self.running.values():
            event = self.said.get(job.task)
            lines.append(f"{job.name} ({event['where']}): {event['now']}" if event else job.name)
        if self.elsewhere:
            lines.append(f"another batch executes {counted(len(self.elsewhere), 'run')}")
        if waiting and not room:
            lines.append("waiting for the first worker")
        return lines


@contextmanager
def _client(options: Options) -> Iterator[Any]:
    """A client of the scheduler that was named, or of a cluster that lives as long as this."""
    import dask
    from distributed import Client

    with dask.config.set({"distributed.comm.timeouts.connect": f"{_CONNECT:g}s"}), _quiet():
        if options.scheduler is not None:
            try:
                client = Client(options.scheduler, timeout=_CONNECT)
            except (OSError, ValueError) as error:
                raise ValueError(
                    f"--scheduler {shown(options.scheduler)} does not answer "
                    f"({cut(str(error), 200)}); start one with `dask scheduler`"
                ) from error
            with client:
                yield client
            return
        with _uninterrupted():
            cluster = launchers.start(options.launcher, options.request)
            client = _connected(cluster, options.launcher)
        try:
            with client:
                yield client
        finally:
            cluster.close(timeout=_CONNECT)


def _connected(cluster: Any, launcher: str) -> Any:
    """A client of a cluster that has just been started; closes the cluster if it is none."""
    from distributed import Client

    try:
        return Client(cluster)
    except Exception as error:
        with suppress(Exception):  # it did not start, so it may not close either
            cluster.close(timeout=_CONNECT)
        reason = cut(f"{type(error).__name__}: {error}", 200)
        raise ValueError(f"the cluster of launcher {launcher} did not start ({reason})") from error


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits until the cluster is there, and is for this process alone.

    Threads and workers that start inside inherit that SIGINT does not reach them, so that none of
    them prints a traceback; they end with this process.
    """
    if not hasattr(signal, "pthread_sigmask"):  # not on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _lost() -> ValueError:
    return ValueError(
        "the connection to the scheduler is lost; finished runs are kept, and the same command "
        "carries on"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Dask's own lines on stderr: what matters is in the outcomes."""
    names = [name for name in logging.root.manager.loggerDict if name.startswith("distributed")]
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _job(task: Task, plan: Plan, store: Store, options: Options) -> Job:
    folder = store.folder.resolve()
    return Job(
        task.key,
        plan.sweep.name,
        task.name,
        str(task.notebook.resolve()),
        dict(task.parameters) | {"out": str(folder)},
        str(folder),
        store.url,
        str(plan.folder.resolve()),
        options.request.cores,
        options.timeout,
        plan.records[task.key].started if task.key in plan.records else None,
    )


def _lacking(store: Store, records: Iterable[TaskRecord]) -> set[str]:
    """Finished tasks whose executed notebook is gone, or some of whose runs are lost or damaged."""
    done = [record for record in records if record.status == "done"]
    used = store.runs_of([record.task for record in done])
    there = _whole(store, list(dict.fromkeys(run for runs in used.values() for run in runs)))
    return {
        record.task
        for record in done
        if not (record.executed and (store.folder / record.executed).is_file())
        or not there.issuperset(used.get(record.task, ()))
    }


def _whole(store: Store, runs: Sequence[str]) -> set[str]:
    """The runs among these whose rows verify."""
    found: set[str] = set()
    with Bar(len(runs), "verifying stored runs", "runs", leave=False) as bar:
        for start in range(0, len(runs), _VERIFIED_AT_ONCE):
            part = runs[start : start + _VERIFIED_AT_ONCE]
            found |= store.status(part).keys()
            bar.update(len(part))
    return found


def _typical(sweep: Sweep, store: Store) -> float | None:
    """Median seconds of the finished tasks of the sweep's notebooks on its data sets."""
    wanted = {(t.notebook.name, t.parameters.get("dataset")) for t in sweep.tasks}
    took = [
        record.seconds
        for record in store.tasks(status="done")
        if record.seconds and (record.notebook, record.parameters.get("dataset")) in wanted
    ]
    return median(took) if took else None


def _relative(path: Path, folder: Path) -> str:
    with suppress(ValueError):
        return str(path.resolve().relative_to(folder.resolve()))
    return str(path)
