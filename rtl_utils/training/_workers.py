"""Jobs spread over processes of one thread each.

Every core is busy, one progress bar counts all jobs and what is done of those that run, and a dead
process's jobs are done again.
"""

import errno
import os
import pickle
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cloudpickle
import torch
from loky import cpu_count, get_reusable_executor
from loky.backend import resource_tracker

from rtl_utils.progress import Bar

_ATTEMPTS = 3  # a job that kills its process every time must not do so for ever
_FULL = {errno.ENOSPC, errno.EDQUOT}
_IDLE = 300  # seconds after which a process without a job ends
_LOOK = 0.5  # seconds between two looks at how far the jobs are
_REPORT: list[str | None] = [None]  # in a worker: the file that says how far its job is


def usable_cores() -> int:
    """Processor cores that this process may use, as the container and LOKY_MAX_CPU_COUNT say."""
    return int(cpu_count())


def spread(
    call: Callable[..., Any],
    jobs: Sequence[tuple[Any, ...]],
    done: Callable[[int, Any], None],
    sizes: Sequence[int],
    label: str,
) -> None:
    """Call `call(*job)` for every job in a process of one thread, one process per core.

    Args:
        call: a function that can be pickled.
        jobs: its arguments, one tuple per job.
        done: called here with a job's index and result as soon as it ends.
        sizes: what each job counts on the progress bar.
        label: of the bar.

    Raises:
        BrokenProcessPool: if processes die three times.
        Exception: what a job raises; the other jobs are dropped.
    """
    waiting = set(range(len(jobs)))
    with Bar(sum(sizes), label, "runs") as bar, _reports(len(jobs)) as reports:
        for attempt in range(_ATTEMPTS):
            executor = get_reusable_executor(
                max_workers=min(len(jobs), usable_cores()),
                timeout=_IDLE,
                reuse=attempt == 0,
                initializer=_prepare,
                initargs=(os.getpid(),),
            )
            futures = {
                executor.submit(_into_file, call, jobs[k], reports[k]): k for k in sorted(waiting)
            }
            try:
                for future in _as_completed(futures, reports, sizes, bar):
                    k = futures[future]
                    done(k, _from_file(future.result()))
                    waiting.discard(k)
                    bar.update(sizes[k])
                return
            except BrokenProcessPool:
                _forget(futures)
                if attempt == _ATTEMPTS - 1:
                    raise
                again = sum(sizes[k] for k in waiting)
                bar.message(f"a worker process died; {again} trainings start again")
            except BaseException:
                # what runs or waits must not go on unseen, and the next call must not wait for it
                executor.shutdown(wait=True, kill_workers=True)
                _forget(futures)
                raise


def report(share: float) -> None:
    """Say, inside a job of `spread`, how much of it is done.

    Args:
        share: from 0 to 1.
    """
    if _REPORT[0] is not None:
        with suppress(OSError):  # a full disk: no reason to stop a training
            Path(_REPORT[0]).write_text(str(share), encoding="utf-8")


@contextmanager
def _reports(jobs: int) -> Iterator[list[str | None]]:
    """A file per job that says how far it is; None for each where no file can be written."""
    try:
        folder = tempfile.mkdtemp(prefix="rtl-reports-")
    except OSError:  # a full disk, which the first result tells
        yield [None] * jobs
        return
    resource_tracker.register(folder, "folder")  # which removes it if this process is killed
    try:
        yield [os.path.join(folder, str(job)) for job in range(jobs)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        resource_tracker.unregister(folder, "folder")


def _as_completed(
    futures: Mapping[Future[str], int],
    reports: Sequence[str | None],
    sizes: Sequence[int],
    bar: Bar,
) -> Iterator[Future[str]]:
    """The futures as they complete; meanwhile the bar says how far the others are."""
    running = set(futures)
    while running:
        completed, running = wait(running, timeout=_LOOK, return_when=FIRST_COMPLETED)
        yield from completed
        bar.begun(sum(sizes[futures[f]] * _reported(reports[futures[f]]) for f in running))


def _reported(file: str | None) -> float:
    """The share that a job has reported; 0 before its first word."""
    with suppress(OSError, ValueError):  # none yet, or it is just being written
        return float(Path(file or "").read_text(encoding="utf-8"))
    return 0.0


def _into_file(call: Callable[..., Any], job: tuple[Any, ...], report_to: str | None) -> str:
    """Run one job, and return the file that holds its result.

    Through the pipe goes a name only: a process that dies while it sends more than the pipe takes
    at once leaves the reader waiting for the rest for ever.

    Raises:
        OSError: if the disk of the temporary folder is full; nothing is left behind.
    """
    _REPORT[0] = report_to
    result = cloudpickle.dumps(call(*job))  # a callback may be a class of the notebook
    path = None
    try:
        handle, path = tempfile.mkstemp(prefix="rtl-result-")
        with open(handle, "wb") as file:
            file.write(result)
    except BaseException as error:
        if path is not None:
            Path(path).unlink(missing_ok=True)
        if isinstance(error, OSError) and (path is None or error.errno in _FULL):
            folder = os.environ.get("TMPDIR") or tempfile.gettempdir()
            raise OSError(
                f"{folder}: the disk of the temporary folder is full; free some space or set "
                "TMPDIR to another folder, and run the same command again; finished runs are kept"
            ) from error
        raise
    return path


def _from_file(path: str) -> Any:
    with open(path, "rb") as file:
        result = pickle.load(file)  # written by this program's own worker
    os.unlink(path)
    return result


def _forget(futures: Iterable[Future[str]]) -> None:
    """Remove the results that nobody will read."""
    for future in futures:
        if future.done() and not future.cancelled() and future.exception() is None:
            Path(future.result()).unlink(missing_ok=True)


def _prepare(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted, and ends this process
    torch.set_num_threads(1)  # at mini-batches of 16, two processes of one thread beat one of two
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int, every: float = 1.0) -> None:
    """End this process when its parent is gone: loky's outlive a parent that is killed."""
    while os.getppid() == parent:
        time.sleep(every)
    os._exit(1)
