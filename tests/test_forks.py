"""Kernels forked from a warm process: as plain ones for notebooks, and nothing is left of them."""

import json
import os
import re
import subprocess
import sys
import threading
from contextlib import closing

import pytest
from small_notebooks import (
    PICTURE,
    TRAINING,
    descendants,
    lives,
    outputs,
    pictures,
    printed,
    semaphores,
    wait_for,
    workers,
    write,
)

from rtl_utils import headless
from rtl_utils.forks import ForkServer
from rtl_utils.kernels import Limits

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not ForkServer.available(), reason="needs Linux"),
]
# what a notebook can see of its kernel; X is its own folder
SEES = """
import gc, json, logging, multiprocessing, os, resource, signal, sys, tempfile, threading
import matplotlib, numpy, torch
own = os.environ["JUPYTER_RUNTIME_DIR"]
seen = {
    "python": [sys.executable, str(sys.flags), sys.argv[0], len(sys.argv), sys.path],
    "module": [__name__, repr(sys.modules["__main__"]), "__file__" in globals()],
    "IPython": [repr(type(x)) for x in (get_ipython(), sys.displayhook, sys.stdout, sys.stderr)],
    "streams": [repr(x) for x in (sys.__stdin__, sys.__stdout__, sys.__stderr__, sys.stdin)],
    "read": os.read(0, 10).decode(),
    "environment": dict(os.environ),
    "matplotlib": {k: str(v) for k, v in matplotlib.rcParams.items()},
    "files": [matplotlib.matplotlib_fname(), matplotlib.get_configdir(), matplotlib.get_cachedir()],
    "folders": [os.getcwd(), tempfile.gettempdir()],
    "threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
    "running": sorted(thread.name for thread in threading.enumerate()),
    "signals": [str(signal.getsignal(s)).split(" at ")[0] for s in sorted(signal.valid_signals())],
    "blocked": str(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "limits": [resource.getrlimit(k) for k in range(10)],
    "garbage": [gc.isenabled(), gc.get_threshold()],
    "group": os.getpid() == os.getpgrp() == os.getsid(0),
    "processes": [multiprocessing.get_start_method(), str(multiprocessing.current_process())[:20]],
    "log": sorted({str(h) for k in logging.root.manager.loggerDict if k.startswith("torch")
                   for h in logging.getLogger(k).handlers}),
    "numbers": [str(torch.get_default_dtype()), str(numpy.geterr()), torch.is_grad_enabled()],
}
print(json.dumps(seen).replace(own, "X"))
"""
# an owner: executes the notebooks of a folder in forked kernels, as long as it lives
OWNER = """
import sys
from pathlib import Path
from rtl_utils import forks, headless
notebook = Path(sys.argv[1])
server = forks.ForkServer(2)
headless.execute(notebook, {"n": 600}, notebook.parent / "out", forks=server, show=lambda _: None)
"""


@pytest.fixture(scope="module")
def forks():
    with closing(ForkServer(2)) as server:
        yield server


def execute(path, forks, parameters=None, folder=None, **options):
    """The executed notebook; the kernel is forked if `forks` is given."""
    name = f"{path.stem}-{'forked' if forks else 'plain'}.ipynb"
    options = {"limits": Limits(2), "show": lambda _: None, "name": name, "forks": forks} | options
    return headless.execute(path, parameters or {}, folder or path.parent / "out", **options)


def texts(path):
    """The outputs of a notebook without what differs from kernel to kernel."""
    return [re.sub(r"ipykernel_\d+|0x[0-9a-f]+|T_[0-9a-f]{5}", "", str(o)) for o in outputs(path)]


def stopped(path, server, *arguments, **options):
    """Why a notebook stopped, and the processes that it had."""
    seen = set()

    def show(progress):
        seen.update(descendants(os.getpid()) if server.process is None else kernels_of(server))

    with pytest.raises(headless.NotebookFailed) as caught:
        execute(path, server, *arguments, show=show, **options)
    return caught.value.reason, seen


def kernels_of(server):
    """The kernels that a server forked, and their workers."""
    return descendants(server.process.pid)


def none_lives(processes):
    return not any(map(lives, processes))


@pytest.mark.slow
def test_a_notebook_sees_no_difference(forks, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("RTL_DATA", "data")
    asks = "try:\n    input()\nexcept Exception as error:\n    print(error)"
    warns = "import warnings\nwarnings.warn('a')\nassert __debug__\n1 / 3"
    cells = [SEES, PICTURE, warns, "!echo $RTL_TASK", asks, "print(os.getppid())"]
    path = write(tmp_path / "01_a.ipynb", *cells)
    limits = Limits(2, environment={"RTL_TASK": "abc", "TMPDIR": str(tmp_path)})
    forked, plain = (execute(path, server, limits=limits) for server in (forks, None))
    first, second = (json.loads(outputs(done)[0].text) for done in (forked, plain))
    for name, value in second.items():
        assert first[name] == value, name
    assert texts(forked)[1:-1] == texts(plain)[1:-1]
    assert len(pictures(forked)) == 1
    assert outputs(forked)[-1].text == f"{forks.process.pid}\n"
    assert outputs(plain)[-1].text == f"{os.getpid()}\n"


def test_kernels_forked_at_once_draw_numbers_of_their_own(forks, tmp_path):
    drawn = "import random, numpy, torch\n"
    drawn += "print(random.random(), numpy.random.rand(), torch.rand(1).item(), os.getppid())"
    paths = [write(tmp_path / f"0{k}.ipynb", "import os", drawn) for k in range(3)]
    done = {}

    def run(k):
        done[k] = printed(execute(paths[k], forks)).split()

    threads = [threading.Thread(target=run, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    *numbers, parents = zip(*done.values(), strict=True)
    assert [len(set(same)) for same in numbers] == [3, 3, 3]
    assert set(parents) == {str(forks.process.pid)}
    assert not kernels_of(forks)


@pytest.mark.slow
def test_a_notebook_of_the_course_trains_and_comes_out_the_same(forks, tmp_path):
    (path,) = headless.find("03")
    values = {"seeds": [0], "epochs": 1, "taus": [1], "n_train": 5, "out": str(tmp_path / "runs")}
    forked = execute(path, forks, values, tmp_path)  # trains in two workers
    plain = execute(path, None, values, tmp_path)  # with the same store
    assert texts(forked) == texts(plain)
    assert "All checks passed." in printed(forked)
    assert not kernels_of(forks)


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("import os\nos.kill(os.getpid(), 9)", "its kernel died, killed by SIGKILL, as the system"),
        ("import os\nos._exit(3)", "its kernel died, with exit status 3"),
        ("import ctypes\nctypes.string_at(0)", "its kernel died, killed by SIGSEGV"),
    ],
)
def test_a_forked_kernel_that_dies_says_how(cell, reason, forks, tmp_path):
    said, _ = stopped(write(tmp_path / "01_a.ipynb", cell), forks)
    assert said.startswith(f"in cell [2]: {reason}")
    assert not kernels_of(forks)


@pytest.mark.slow
def test_a_forked_kernel_that_listens_to_nothing_is_ended(forks, tmp_path):
    deaf = "import os, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    deaf += "os.kill(os.getpid(), signal.SIGSTOP)"
    path = write(tmp_path / "01_a.ipynb", deaf)
    said, seen = stopped(path, forks, limits=Limits(1, seconds=2))
    assert said.endswith("it ran longer than 2 s")
    assert seen and none_lives(seen)


@pytest.mark.slow
def test_kernels_end_with_their_server_and_plain_ones_follow(tmp_path):
    with closing(ForkServer(2)) as server:
        path = write(tmp_path / "01_a.ipynb", "print('so far')", TRAINING)
        killer = threading.Thread(
            target=lambda: (
                wait_for(lambda: server.process and len(workers(server.process.pid)) == 2),
                server.process.kill(),
            )
        )
        killer.start()
        said, seen = stopped(path, server, {"n": 600})
        killer.join()
        assert said == "in cell [4]: its kernel died, with the process that it was forked from"
        assert len(seen) >= 3, "a kernel and its two workers"
        assert none_lives(seen)
        assert not semaphores(seen)
        write(path, "import os\nprint(os.getppid())")
        assert printed(execute(path, server)) == f"{os.getpid()}\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("running", "least"),
    [(descendants, 1), (workers, 2)],
    ids=["as the server starts", "as workers train"],
)
def test_nothing_is_left_of_an_owner_that_is_killed(running, least, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    path = write(tmp_path / "01_a.ipynb", TRAINING)
    owner = subprocess.Popen([sys.executable, "-c", OWNER, path])
    assert wait_for(lambda: len(running(owner.pid)) == least)
    assert list(tmp_path.glob("rtl-*"))
    left = descendants(owner.pid)
    owner.kill()
    owner.wait()
    assert wait_for(lambda: none_lives(left), 20)
    assert wait_for(lambda: not semaphores(left), 20)
    assert wait_for(lambda: not list(tmp_path.glob("rtl-*")), 20)


def test_a_closed_server_forks_no_more(tmp_path):
    server = ForkServer(1)
    server.close()
    path = write(tmp_path / "01_a.ipynb", "import os\nprint(os.getppid())")
    assert printed(execute(path, server)) == f"{os.getpid()}\n"
    assert server.process is None


@pytest.mark.parametrize(
    "broken",
    [
        "raise RuntimeError('broken')",
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()",
    ],
    ids=["raises", "starts a thread"],
)
def test_a_server_that_cannot_fork_is_asked_once(broken, tmp_path, monkeypatch, caplog):
    (tmp_path / "ipywidgets.py").write_text(broken)  # a module that the server imports
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    caplog.set_level("DEBUG", "rtl_utils.forks")
    path = write(tmp_path / "01_a.ipynb", "import os\nprint(os.getppid())")
    with closing(ForkServer(1)) as server:
        assert printed(execute(path, server)) == f"{os.getpid()}\n"
        started = server.process
        assert server.fork([], {}, tmp_path, tmp_path / "log") is None
        assert server.process is started
    assert [record.levelname for record in caplog.records if record.name == "rtl_utils.forks"] == [
        "DEBUG"
    ]
    assert started.poll() is not None


def test_a_kernel_that_needs_another_start_than_the_server_is_plain(forks, tmp_path):
    cell = "import os\nprint(os.getppid(), os.environ['PYTHONHASHSEED'])"
    path = write(tmp_path / "01_a.ipynb", cell)
    limits = Limits(1, environment={"PYTHONHASHSEED": "7"})
    assert printed(execute(path, forks, limits=limits)) == f"{os.getpid()} 7\n"
    write(path, "import os\nprint(os.getppid())")
    assert printed(execute(path, forks)) == f"{forks.process.pid}\n", "the next one is forked"
