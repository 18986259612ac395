"""Kernels with limits: cores, seconds, environment; stuck kernels; folders without room."""

import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading

import pytest
from small_notebooks import TRAINING, descendants, lives, outputs, printed, semaphores, write

from rtl_utils import headless
from rtl_utils.kernels import Limits, Progress

# executes a notebook where no file may be larger than so many bytes, as on a disk that is full
FULL = """
import resource, sys, tempfile
from pathlib import Path
from rtl_utils import headless
notebook, bytes_ = Path(sys.argv[1]), int(sys.argv[2])
tempfile.gettempdir()  # there was room, and it is known
resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, bytes_))
try:
    headless.execute(notebook, {}, notebook.parent / "out", show=print)
except OSError as error:
    print(error)
"""


@pytest.mark.kernel
def test_limits_reach_the_kernel_and_its_workers(tmp_path):
    names = ["LOKY_MAX_CPU_COUNT", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"]
    cell = (
        f"import os, json\nprint(json.dumps([os.environ.get(k) for k in {[*names, 'RTL_TASK']}]))"
    )
    cores = "import loky\nprint(loky.cpu_count())"
    path = write(tmp_path / "01_a.ipynb", cell, cores)
    limits = Limits(1, environment={"RTL_TASK": "abc"})
    lines = printed(headless.execute(path, {}, tmp_path / "out", limits=limits)).splitlines()
    assert json.loads(lines[0]) == ["1"] * 4 + ["abc"]
    assert lines[1] == "1"


@pytest.mark.kernel
@pytest.mark.slow
def test_a_notebook_that_takes_too_long_is_ended_with_its_workers(tmp_path):
    path = write(tmp_path / "01_a.ipynb", "print('so far')", TRAINING)
    seen = []

    def show(progress):
        seen.extend(descendants(os.getpid()))

    before = descendants(os.getpid())
    with pytest.raises(headless.NotebookFailed) as caught:
        headless.execute(path, {"n": 600}, tmp_path / "out", limits=Limits(2, seconds=6), show=show)
    error = caught.value
    kept = tmp_path / "out" / "01_a.partial.ipynb"
    assert (error.status, error.kept) == ("timeout", kept)
    assert error.reason == "in cell [4]: it ran longer than 6 s"
    assert str(error) == f"01_a stopped {error.reason} (its cells so far: {kept})"
    assert printed(kept) == "so far\n"
    started = set(seen) - set(before)
    assert len(started) >= 3, "a kernel and its two workers"
    assert not [process for process in started if lives(process)]
    assert not semaphores(started)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(cores=0), "a kernel needs at least 1 core; got 0"),
        (Limits(seconds=0), "a notebook needs more than 0 seconds; got 0"),
        (Limits(seconds=float("nan")), "a notebook needs more than 0 seconds; got nan"),
    ],
)
def test_limits_under_which_nothing_runs_are_refused(limits, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        headless.execute(write(tmp_path / "01_a.ipynb"), {}, tmp_path / "out", limits=limits)


def test_limits_and_failures_travel_to_other_processes(tmp_path):
    assert pickle.loads(pickle.dumps(Limits(2, 3.5, {"A": "b"}))) == Limits(2, 3.5, {"A": "b"})
    error = headless.NotebookFailed("01_a stopped", "in cell [2]", "timeout", tmp_path)
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert vars(again) == vars(error)


@pytest.mark.kernel
def test_progress_goes_to_who_asks_for_it_and_what_is_printed_is_one_output(tmp_path, capfd):
    cell = "import sys, time\nfor k in range(3):\n    print(k)\n    sys.stdout.flush()\n"
    cell += "    time.sleep(0.3)"
    seen = []
    done = headless.execute(
        write(tmp_path / "01_a.ipynb", cell), {}, tmp_path / "out", show=seen.append
    )
    assert capfd.readouterr().err == ""
    assert all(isinstance(progress, Progress) for progress in seen)
    assert {2} <= {progress.done for progress in seen} <= {0, 1, 2}
    assert seen[-1].total == 3
    assert [output.text for output in outputs(done)] == ["0\n1\n2\n"], "three messages"


@pytest.mark.kernel
def test_threads_execute_under_names_of_their_own_and_change_nothing_here(tmp_path):
    path = write(tmp_path / "01_a.ipynb", "import time\ntime.sleep(0.5)\nprint(n)")
    names = ["a=0.ipynb", "a=0.5.ipynb"]
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "a=0.5.partial.ipynb").touch()  # nobody's but a=0.5's
    (folder / "a=0.partial.ipynb").touch()
    before = (dict(os.environ), os.getcwd(), tempfile.tempdir, *map(signal.getsignal, (2, 15, 17)))
    done = {}

    def run(k):
        done[k] = headless.execute(path, {"n": k}, folder, name=names[k], show=lambda _: None)

    run(0)
    assert sorted(p.name for p in folder.iterdir()) == ["a=0.5.partial.ipynb", "a=0.ipynb"]
    threads = [threading.Thread(target=run, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = (dict(os.environ), os.getcwd(), tempfile.tempdir, *map(signal.getsignal, (2, 15, 17)))
    assert after == before
    assert {k: printed(path) for k, path in done.items()} == {0: "0\n", 1: "1\n"}
    assert sorted(p.name for p in folder.iterdir()) == sorted(names)


@pytest.mark.parametrize("name", ["a", "a.txt", "../a.ipynb", ".ipynb", "a/b.ipynb"])
def test_a_name_that_is_no_file_name_of_a_notebook_is_refused(name, tmp_path):
    path = write(tmp_path / "01_a.ipynb")
    with pytest.raises(ValueError, match="name a file such as a"):
        headless.execute(path, {}, tmp_path / "out", name=name)
    assert not (tmp_path / "out").exists()


@pytest.mark.kernel
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limits")
@pytest.mark.parametrize("room", [0, 3000], ids=["at the start", "later"])
def test_a_full_folder_for_temporary_files_is_one_sentence(room, tmp_path):
    path = write(tmp_path / "01_a.ipynb", "print('x' * 4000)")
    done = subprocess.run(
        [sys.executable, "-c", FULL, path, str(room)],
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    assert done.stderr == ""
    assert f"too large: '{tmp_path}/rtl-" in done.stdout.splitlines()[-1]


def test_a_folder_for_temporary_files_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/proc")  # not even root can write there
    with pytest.raises(OSError, match="'/proc/rtl-"):
        headless.execute(write(tmp_path / "01_a.ipynb"), {}, tmp_path / "out")
