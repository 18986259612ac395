"""Notebooks run headless, in real kernels."""

import json
import os
import re
import sys
import threading
from pathlib import Path

import nbformat
import pytest
from small_notebooks import PICTURE, TRAINING, descendants, outputs, pictures, printed, write

from rtl_utils import folders, headless, kernels, methods

SHOW = (
    "import os, sys, warnings\n"
    "print(n, dataset, sys.executable, os.getcwd(), [k for k in os.environ if 'JUPYTER' in k])"
)
HOSTILE = {  # what a user's environment may hold
    "MPLBACKEND": "Agg",
    "PYTHONWARNINGS": "error",
    "PYTHONOPTIMIZE": "2",
    "TQDM_DISABLE": "",
    "JUPYTER_DEFAULT_PROVISIONER_NAME": "no-such-provisioner",
}


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """Settings of a user that would change or stop every notebook if a kernel read them."""
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)
    places = {
        "MATPLOTLIBRC": ("matplotlibrc", "text.usetex: True\nbackend: pdf\n"),
        "MPLCONFIGDIR": ("matplotlibrc", "text.usetex: True\n"),
        "XDG_CONFIG_HOME": ("matplotlib/matplotlibrc", "text.usetex: True\n"),
        "IPYTHONDIR": ("profile_default/startup/00.py", "import matplotlib\nn = 'leaked'\n"),
        "JUPYTER_CONFIG_DIR": ("jupyter_config.py", "raise ValueError('leaked')\n"),
    }
    for name, (file, text) in places.items():
        path = tmp_path / name / file
        path.parent.mkdir(parents=True)
        path.write_text(text)
        monkeypatch.setenv(name, str(tmp_path / name))
    config = tmp_path / "IPYTHONDIR" / "profile_default" / "ipython_config.py"
    config.write_text("c.InlineBackend.figure_formats = {'svg'}\n")
    startup = tmp_path / "startup.py"
    startup.write_text("raise SystemExit('leaked')\n")
    monkeypatch.setenv("PYTHONSTARTUP", str(startup))
    kernel = tmp_path / "JUPYTER_PATH" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    foreign = {"argv": ["/bin/false"], "display_name": "Foreign", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(foreign))
    monkeypatch.setenv("JUPYTER_PATH", str(kernel.parent.parent))
    for folder in (tmp_path, tmp_path / "notebooks"):
        folder.mkdir(exist_ok=True)
        (folder / "matplotlibrc").write_text("text.usetex: True\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.kernel
def test_a_kernel_is_this_interpreter_and_nothing_of_the_users_reaches_it(hostile):
    warn = "warnings.warn('a')\nassert __debug__\nplt.rcParams['text.usetex']"
    path = write(hostile / "notebooks" / "01_a.ipynb", SHOW, PICTURE, warn, "0 / 1")
    done = headless.execute(path, {"n": 3}, hostile / "out")
    expected = f"3 digits {sys.executable} {path.parent} ['JUPYTER_RUNTIME_DIR']\n"
    assert printed(done) == expected
    assert len(pictures(done)) == 1
    assert [o.data["text/plain"] for o in outputs(done) if o.output_type == "execute_result"] == [
        "False",
        "0.0",
    ]


@pytest.mark.kernel
@pytest.mark.parametrize("backend", ["TkAgg", "QtAgg", "pdf", "no-such-backend"])
def test_pictures_whatever_mplbackend_says(backend, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", backend)
    done = headless.execute(write(tmp_path / "01_a.ipynb", PICTURE), {}, tmp_path / "out")
    assert len(pictures(done)) == 1


@pytest.mark.kernel
@pytest.mark.parametrize(
    "name", ["two words", "50 %", "a?b=c#d", "{n}", "{", "übung 例", "s3:", "~"]
)
def test_any_folder_name_is_a_name(name, tmp_path, monkeypatch):
    course = tmp_path / name
    course.mkdir()
    path = write(course / "01_a.ipynb", "import os\nprint(os.getcwd(), os.environ['RTL_DATA'])")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RTL_DATA", name)  # as a user names it; the kernel runs in another folder
    done = headless.execute(path, {}, Path(name, "out"))
    assert printed(done) == f"{course} {course}\n"
    assert [p.name for p in (course / "out").iterdir()] == ["01_a.ipynb"]


@pytest.mark.kernel
def test_threads_execute_at_once_and_leave_the_process_as_it_was(tmp_path):
    cell = "import time\ntime.sleep(1)\nprint(n, os.getcwd())"
    paths = []
    for k in range(3):
        (tmp_path / str(k)).mkdir()
        paths.append(write(tmp_path / str(k) / f"0{k}.ipynb", "import os", cell))
    before = dict(os.environ), os.getcwd()
    done = {}

    def run(k):
        done[k] = headless.execute(paths[k], {"n": k}, tmp_path / "out")

    threads = [threading.Thread(target=run, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {k: printed(path) for k, path in done.items()} == {
        k: f"{k} {tmp_path / str(k)}\n" for k in range(3)
    }
    assert (dict(os.environ), os.getcwd()) == before


@pytest.mark.kernel
def test_one_notebook_into_one_folder_twice_at_once_is_refused(tmp_path):
    path = write(tmp_path / "01_a.ipynb", "import time\ntime.sleep(3)\nprint(n)")
    refused = []

    def run(k):
        try:
            done = headless.execute(path, {"n": k}, tmp_path / "out")
            assert printed(done) == f"{k}\n"
        except ValueError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=run, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 2
    assert "another run is writing" in refused[0]
    run(5)  # and afterwards it is free
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["01_a.ipynb"]


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("import os\nos.kill(os.getpid(), 9)", "its kernel died, killed by SIGKILL"),
        ("import os\nos._exit(3)", "its kernel died, with exit status 3"),
        ("import ctypes\nctypes.string_at(0)", "its kernel died, killed by SIGSEGV"),
        ("raise ValueError('a\\n' * 9 + 'b')", "ValueError: a a a a a a a a a b"),
        ("n = (", "SyntaxError: incomplete input"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("import sys\nsys.exit(4)", "SystemExit: 4"),
    ],
)
def test_a_stopped_notebook_names_itself_cell_and_reason(cell, reason, tmp_path):
    before = descendants(os.getpid())  # workers of other tests
    path = write(tmp_path / "01_a.ipynb", "print('so far')", cell, "print('never')")
    with pytest.raises(headless.NotebookFailed) as caught:
        headless.execute(path, {}, tmp_path / "out")
    message = str(caught.value)
    assert message.startswith(f"01_a stopped in cell [3]: {reason}")
    assert message.endswith(f"(its cells so far: {tmp_path / 'out' / '01_a.partial.ipynb'})")
    assert printed(tmp_path / "out" / "01_a.partial.ipynb") == "so far\n"
    assert set(descendants(os.getpid())) <= set(before)
    write(path, "print('again')")
    headless.execute(path, {}, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["01_a.ipynb"]


@pytest.mark.kernel
def test_a_kernel_that_does_not_start_is_a_sentence(tmp_path, monkeypatch):
    path = write(tmp_path / "01_a.ipynb")
    monkeypatch.setenv("PYTHONHOME", str(tmp_path))  # a broken installation
    with pytest.raises(headless.NotebookFailed, match="01_a stopped as its kernel did not start: "):
        headless.execute(path, {}, tmp_path / "out")


@pytest.mark.kernel
def test_progress_is_shown_and_not_stored(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("rtl_utils.progress._LINES", (0.5, 1.0))
    path = write(tmp_path / "01_a.ipynb", TRAINING)
    done = headless.execute(path, {"n": 5}, tmp_path / "out")
    assert not outputs(done)
    shown = capfd.readouterr().err
    assert shown.startswith("01_a: starts\n")
    assert "01_a: cell 4 of 4, backbones 0/2 runs (0:" in shown
    assert shown.splitlines()[-1].startswith("01_a: done (0:")


@pytest.mark.kernel
def test_what_is_done_inside_a_training_is_shown_with_the_time_left_and_not_stored(tmp_path):
    half = tmp_path / "half"
    call = (
        "import os, time\nfrom rtl_utils.training._workers import report, spread\n"
        "def job(path):\n    report(0.5)\n    while not os.path.exists(path): time.sleep(0.1)\n"
        f"spread(job, [({str(half)!r},)] * 2, lambda job, result: None, [1, 1], 'transfers')"
    )
    shown = []

    def show(progress):
        shown.append(progress.now)
        if "50%" in progress.now:
            half.touch()  # now the jobs may end

    path = write(tmp_path / "01_a.ipynb", call)
    done = headless.execute(path, {}, tmp_path / "out", show=show, limits=kernels.Limits(2, 60))
    said = [text for text in shown if "50%" in text]
    assert re.fullmatch(r"transfers 0/2 runs, 50%, about \d+:\d\d left", said[0])
    assert not outputs(done)
    assert " left" not in done.read_text()


@pytest.mark.kernel
def test_a_worker_that_dies_is_told_on_stderr(tmp_path):
    die = "import os, pathlib\ndef job(path):\n    if not os.path.exists(path):\n"
    die += "        pathlib.Path(path).touch()\n        os.kill(os.getpid(), 9)\n    return 7\n"
    call = "from rtl_utils.training._workers import spread\n"
    call += "spread(job, [('dead',)], lambda k, result: print(result), [1], 'jobs')"
    done = headless.execute(write(tmp_path / "01_a.ipynb", die, call), {}, tmp_path / "out")
    assert printed(done) == "7\n"
    (stream,) = [o.text for o in outputs(done) if o.output_type == "stream" and o.name == "stderr"]
    assert stream == "a worker process died; 1 trainings start again\n"


@pytest.mark.kernel
def test_refreshed_outputs_are_fit_to_be_committed(tmp_path):
    bar = "from tqdm.notebook import tqdm\nfor _ in tqdm(range(2)): pass"
    cells = ["import sys\nprint('kept')\nprint('not', file=sys.stderr)", bar, PICTURE]
    path = write(tmp_path / "01_a.ipynb", *cells)
    headless.refresh(path, tmp_path / "out")
    notebook = nbformat.read(path, as_version=4)
    assert printed(path) == "kept\n"
    assert len(outputs(path)) == 2
    assert len(pictures(path)) == 1
    assert notebook.metadata.rtl.executed_from == headless.source_hash(notebook.cells)
    assert "papermill" not in path.read_text()
    write(path, "import os\nprint(os.path.expanduser('~/data'))")
    with pytest.raises(ValueError, match="01_a shows a folder of this machine in cell"):
        headless.refresh(path, tmp_path / "out")


def test_hash_follows_code_cells_and_versions_alone(tmp_path, monkeypatch):
    notebook = nbformat.read(write(tmp_path / "01_a.ipynb", "print(1)"), as_version=4)
    first = headless.source_hash(notebook.cells)
    notebook.cells[0].source = "# Another title"
    assert headless.source_hash(notebook.cells) == first
    notebook.cells[2].source = "print(2)"
    assert headless.source_hash(notebook.cells) != first
    notebook.cells[2].source = "print(1)"
    raised = methods.METHODS["ut"].__class__(**vars(methods.METHODS["ut"]) | {"version": 99})
    monkeypatch.setitem(methods.METHODS, "ut", raised)
    assert headless.source_hash(notebook.cells) != first


def test_every_room_with_a_version_is_in_the_hash():
    found = {
        line.split()[0]
        for path in Path(headless.__file__).parent.rglob("*.py")
        for line in path.read_text().splitlines()
        if line.startswith("VERSION")
    }
    assert found == {"VERSION"}
    rooms = {
        path.relative_to(Path(headless.__file__).parent).parts[0].removesuffix(".py")
        for path in Path(headless.__file__).parent.rglob("*.py")
        if "\nVERSION" in path.read_text()
    }
    assert {f"rtl_utils.{room}" for room in rooms} <= set(headless.versions())


def test_parameters_are_read_from_their_cells(tmp_path):
    path = write(tmp_path / "01_a.ipynb", parameters="a = [1, None]  # x\nb: float = -1.5\n")
    assert headless.default_parameters(path) == {"a": [1, None], "b": -1.5}
    notebook = nbformat.read(path, as_version=4)
    injected = nbformat.v4.new_code_cell("# Parameters\nb = 2\n")
    injected.metadata.tags = ["injected-parameters"]
    notebook.cells.insert(2, injected)
    nbformat.write(notebook, path)
    assert headless.parameters_of(path) == {"a": [1, None], "b": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "is not a notebook"),
        ("[", "is not a notebook"),
        ('{"cells": []}', "must have one cell tagged `parameters`; it has 0"),
        ("", "is not a notebook"),
    ],
)
def test_what_is_no_notebook_is_a_sentence(text, message, tmp_path):
    (tmp_path / "01_a.ipynb").write_text(text)
    with pytest.raises(ValueError, match=message):
        headless.execute(tmp_path / "01_a.ipynb", {}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), "\udcff", 10**5000, {1, 2}, object(), [[float("nan")]]],
    ids=["nan", "inf", "no UTF-8", "5,001 digits", "set", "object", "nested nan"],
)
def test_a_value_that_no_notebook_can_hold_is_refused_before_the_kernel(value, tmp_path):
    path = write(tmp_path / "01_a.ipynb")
    with pytest.raises(ValueError, match="the value of 'n' must be") as caught:
        headless.execute(path, {"n": value}, tmp_path / "out")
    assert len(str(caught.value)) < 300
    assert not (tmp_path / "out").exists()


def test_an_unknown_parameter_is_refused_before_the_kernel(tmp_path):
    path = write(tmp_path / "01_a.ipynb")
    with pytest.raises(ValueError, match="'seedz' is not a parameter of 01_a; it has dataset, n"):
        headless.execute(path, {"seedz": [1]}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_matplotlibs_fonts_are_listed_once_for_all_kernels(tmp_path):
    first, second = (kernels.environment(tmp_path / k, tmp_path)["MPLCONFIGDIR"] for k in "ab")
    assert first == second == str(folders.root() / "runs" / ".matplotlib")


def test_relative_paths_hold_in_the_kernels_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"a{os.pathsep}/b")
    monkeypatch.setenv("RTL_DATA", f"my{os.pathsep}data")
    environment = kernels.environment(tmp_path, tmp_path)
    assert environment["PYTHONPATH"] == f"{tmp_path / 'a'}{os.pathsep}/b"
    assert environment["RTL_DATA"] == str(tmp_path / f"my{os.pathsep}data")


def test_a_notebook_is_never_executed_over_itself(tmp_path):
    path = write(tmp_path / "01_a.ipynb")
    before = path.read_text()
    with pytest.raises(ValueError, match="holds the notebooks themselves"):
        headless.execute(path, {}, tmp_path)
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["01_a.ipynb"]
