"""Jobs spread over processes of one thread each: every core busy, a progress bar over all, a dead process's jobs done again."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch
from loky import get_reusable_executor
from tqdm.auto import tqdm

_ATTEMPTS = 3  # a job that kills its process every time must not do so for ever


def usable_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spread(call: Callable, jobs: Sequence[tuple], done: Callable[[int, Any], None], sizes: Sequence[int], label: str) -> None:
    """Call `call(*job)` for every job in a process of one thread, as many at a time as there are cores.

    done: called here with a job's index and result as soon as it ends; sizes: what a job counts on the progress bar; label: of the bar.
    A job's exception is raised here, and the jobs that wait are dropped. Raises BrokenProcessPool if processes die three times.
    """
    waiting = set(range(len(jobs)))
    with tqdm(total=sum(sizes), desc=label, unit="run") as bar:
        for attempt in range(_ATTEMPTS):
            executor = get_reusable_executor(max_workers=min(len(jobs), usable_cores()), timeout=300, reuse=attempt == 0)
            futures = {executor.submit(_in_one_thread, call, jobs[k]): k for k in sorted(waiting)}
            try:
                for future in as_completed(futures):
                    k = futures[future]
                    done(k, future.result())
                    waiting.discard(k)
                    bar.update(sizes[k])
                return
            except BrokenProcessPool:
                if attempt == _ATTEMPTS - 1:
                    raise
                bar.write(f"a worker process died; {sum(sizes[k] for k in waiting)} trainings start again")
            finally:
                for future in futures:  # after an interrupt or an error, what waits must not go on in the background
                    future.cancel()


def _in_one_thread(call: Callable, job: tuple) -> Any:
    torch.set_num_threads(1)  # at mini-batches of 16, two processes of one thread beat one of two
    return call(*job)
