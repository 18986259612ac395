"""Jobs spread over real processes: results, deaths, interruptions, and what is left behind."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool

import psutil
import pytest
import torch
from small_notebooks import descendants, lives, semaphores, wait_for, workers

from rtl_utils.training import _workers

pytestmark = pytest.mark.kernel


def square(x):
    return x * x, os.getpid(), torch.get_num_threads()


def fail(x):
    if x == 0:
        raise ValueError("no luck")
    time.sleep(60)


def die(marker):
    """Kill the process that runs this job, the first time."""
    if not os.path.exists(marker):
        with open(marker, "w") as file:
            file.write(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    return marker


def die_always():
    os.kill(os.getpid(), signal.SIGKILL)


def spread(call, jobs):
    results = {}
    _workers.spread(call, jobs, results.__setitem__, [1] * len(jobs), "jobs")
    return results


def test_every_job_once_in_processes_of_one_thread():
    results = spread(square, [(x,) for x in range(7)])
    assert {k: value[0] for k, value in results.items()} == {k: k * k for k in range(7)}
    assert {threads for _, _, threads in results.values()} == {1}
    assert os.getpid() not in {process for _, process, _ in results.values()}


def test_a_dead_workers_jobs_are_done_again(tmp_path, capfd):
    markers = [str(tmp_path / str(k)) for k in range(2)]
    assert spread(die, [(marker,) for marker in markers]) == dict(enumerate(markers))
    assert "a worker process died; " in capfd.readouterr().err


def test_a_job_that_always_kills_its_process_is_given_up():
    with pytest.raises(BrokenProcessPool):
        spread(die_always, [()])


def test_after_an_error_nothing_goes_on_and_the_next_call_does_not_wait():
    with pytest.raises(ValueError, match="no luck"):
        spread(fail, [(1,), (0,), (1,), (1,)])
    started = time.monotonic()
    spread(square, [(1,), (2,)])
    assert time.monotonic() - started < 30


INTERRUPTED = """
import os, signal, threading, time
from rtl_utils.training import _workers
if __name__ == "__main__":
    def interrupt():
        while not os.path.exists("started"): time.sleep(0.1)
        os.killpg(0, signal.SIGINT) if {whole_group} else os.kill(os.getpid(), signal.SIGINT)
    def job(k):
        open("started", "w").close()
        time.sleep(600)
    threading.Thread(target=interrupt).start()
    try:
        _workers.spread(job, [(k,) for k in range(4)], print, [1] * 4, "jobs")
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    _workers.spread(abs, [(-7,), (-8,)], print, [1] * 2, "jobs")
"""


@pytest.mark.parametrize("whole_group", [True, False], ids=["as Jupyter", "this process"])
def test_after_an_interruption_the_next_call_does_not_wait(whole_group, tmp_path):
    program = INTERRUPTED.format(whole_group=whole_group)
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        start_new_session=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split("\n")) == ["", "0 7", "1 8", "interrupted"]
    assert "Traceback" not in done.stderr


LONG = """
import time
from rtl_utils.training import _workers
if __name__ == "__main__":
    _workers.spread(time.sleep, [(600,), (600,)], print, [1, 1], "jobs")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_the_process_that_started_them(number):
    process = subprocess.Popen(
        [sys.executable, "-c", LONG], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert wait_for(lambda: len(workers(process.pid)) == 2)
    family = [psutil.Process(process.pid), *descendants(process.pid)]
    assert semaphores(family)
    time.sleep(5)  # until they watch
    process.send_signal(number)
    process.communicate(timeout=10)  # nothing holds its pipes
    assert wait_for(lambda: not any(map(lives, family)), seconds=5)
    assert not semaphores(family)


CALLBACK_OF_A_NOTEBOOK = """
import torch
from rtl_utils import Path, Replica, Sgd, build, fit, load
from rtl_utils.data import subset
from rtl_utils.schedules import CONSTANT

class Notes:
    def __init__(self): self.done = []
    def __call__(self, net, path, tau, done, epochs): self.done.append(done)

if __name__ == "__main__":
    task = subset(load("digits", "digits-0-4", 0), 4, 0)
    sgd = Sgd(epochs=2, batch_size=10)
    group = [
        Replica(build(task, (2, 2, 2, 2), seed), Path(task), CONSTANT, seed, sgd, Notes())
        for seed in (0, 1)
    ]
    fit(group)
    print([replica.callback.done for replica in group])
"""


@pytest.mark.kernel
def test_callback_of_a_class_of_the_notebook_comes_back_from_its_process(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(CALLBACK_OF_A_NOTEBOOK)
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[[0, 1, 2], [0, 1, 2]]\n"
