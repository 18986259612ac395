"""The `rtl` command as a user calls it, in a process of its own."""

import json
import os
import pty
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_notebooks import (
    PARAMETERS,
    PICTURE,
    TRAINING,
    descendants,
    lives,
    pictures,
    printed,
    rtl,
    semaphores,
    start,
    wait_for,
    workers,
    write,
)

from rtl_utils import cli, folders, headless
from rtl_utils.cli._console import read_value
from rtl_utils.cli._notebooks import plans
from rtl_utils.data import DATASETS
from rtl_utils.runs import Run, reads
from rtl_utils.store import FINAL, Store
from rtl_utils.training import Sgd

ROOT = Path(__file__).resolve().parent.parent
SYNTHETIC = PARAMETERS.replace("digits", "synthetic")


@pytest.fixture
def course(tmp_path):
    """Two small notebooks, one of them on the synthetic task."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    write(folder / "01_synthetic.ipynb", "print(dataset)", parameters=SYNTHETIC)
    write(folder / "02_images.ipynb", "print(dataset, n)", PICTURE)
    return folder


def title(out):
    return re.search("<title>(.*?)</title>", (out / "index.html").read_text())[1]


def is_one_sentence(message):
    """Whether stderr's last line is a complaint of `rtl`, and no other line is a traceback's."""
    last = message.splitlines()[-1]
    return last.startswith("rtl: ") and len(last) <= 1_000 and "Traceback" not in message


# What a run leaves


@pytest.mark.kernel
@pytest.mark.parametrize(
    "arguments", [("--dataset", "cifar100"), ("-p", "dataset", "cifar100"), ("-p", "n", "[4]")]
)
def test_the_whole_course_runs_on_images_and_the_page_names_what_it_ran_on(
    arguments, course, tmp_path
):
    out = tmp_path / "out"
    if "n" in arguments:
        done = rtl(course, "run", *arguments, "--out", out)
        assert title(out) == "Robust transfer learning · synthetic task · cluttered digits"
        assert printed(out / "02_images.ipynb") == "digits [4]\n"
    else:
        done = rtl(course, "run", *arguments, "--out", out)
        assert title(out) == "Robust transfer learning · synthetic task · CIFAR-100"
        assert printed(out / "02_images.ipynb") == "cifar100 1\n"
        assert "01_synthetic has one data set, synthetic, and keeps it\n" in done.stderr
    assert done.returncode == 0, done.stderr
    assert printed(out / "01_synthetic.ipynb") == "synthetic\n"
    assert done.stdout.splitlines() == [
        f"Executed notebooks: {out}",
        f"Every figure and table: {out / 'index.html'}",
    ]
    page = (out / "index.html").read_text()
    assert page.count("data:image/png;base64,") == len(pictures(out / "02_images.ipynb")) == 1
    assert not re.search(r"""(src|href)=["']?https?:|<script|@import|url\(""", page)
    assert sorted(p.name for p in out.iterdir()) == [
        "01_synthetic.ipynb",
        "02_images.ipynb",
        "index.html",
    ]


@pytest.mark.kernel
def test_a_page_without_a_figure_does_not_promise_any(course, tmp_path):
    done = rtl(course, "run", "--notebook", "01", "--out", tmp_path / "out")
    assert done.returncode == 0
    assert title(tmp_path / "out") == "Robust transfer learning · synthetic task"
    assert "Every figure" not in done.stdout
    assert "No notebook shows a figure or a table" in done.stdout


@pytest.mark.kernel
def test_a_failing_run_leaves_no_page_of_an_earlier_one(course, tmp_path):
    out = tmp_path / "out"
    assert rtl(course, "run", "--out", out).returncode == 0
    write(course / "02_images.ipynb", "raise ValueError('no luck')")
    failed = rtl(course, "run", "--out", out)
    assert failed.returncode == 1
    assert "rtl: 02_images stopped in cell [2]: ValueError: no luck" in failed.stderr
    assert is_one_sentence(failed.stderr)
    assert sorted(p.name for p in out.iterdir()) == [
        "01_synthetic.ipynb",
        "02_images.partial.ipynb",
    ]


@pytest.mark.kernel
def test_a_dying_kernel_is_one_sentence_and_status_1(course, tmp_path):
    write(course / "02_images.ipynb", "import os\nos.kill(os.getpid(), 9)")
    failed = rtl(course, "run", "--notebook", "02", "--out", tmp_path / "out")
    assert failed.returncode == 1
    assert "02_images stopped in cell [2]: its kernel died, killed by SIGKILL" in failed.stderr
    assert is_one_sentence(failed.stderr)


@pytest.mark.kernel
def test_a_long_error_is_cut_in_the_middle(course, tmp_path):
    write(course / "02_images.ipynb", "raise ValueError('a' * 10**5 + 'the end')")
    failed = rtl(course, "run", "--notebook", "02", "--out", tmp_path / "out")
    assert is_one_sentence(failed.stderr)
    assert "the end (its cells so far: " in failed.stderr


@pytest.mark.kernel
def test_warnings_as_errors_are_no_concern_of_rtl(course, tmp_path):
    environment = {"PYTHONWARNINGS": "error", "PYTHONDEVMODE": "1"}
    done = rtl(course, "run", "--out", tmp_path / "out", environment=environment)
    assert done.returncode == 0, done.stderr


# Two at once


@pytest.mark.kernel
def test_a_second_run_into_the_same_folder_is_refused(course, tmp_path):
    write(course / "02_images.ipynb", "import time\ntime.sleep(n)")
    out = tmp_path / "out"
    first = start(course, "run", "-p", "n", "60", "--out", out, "--notebook", "02")
    assert wait_for(lambda: descendants(first.pid))
    second = rtl(course, "run", "--out", out, "--notebook", "01")
    assert second.returncode == 2
    assert f"another run is writing {out / 'index.html'}" in second.stderr
    assert is_one_sentence(second.stderr)
    first.kill()
    first.communicate()
    third = rtl(course, "run", "-p", "n", "0", "--out", out, "--notebook", "02")
    assert third.returncode == 0, "a killed run must not keep its folder"
    assert sorted(p.name for p in out.iterdir()) == ["02_images.ipynb", "index.html"]


# Signals


@pytest.fixture
def training(tmp_path):
    """A course whose notebook trains for ten minutes."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    write(folder / "01_long.ipynb", TRAINING, parameters="n = 600  # seconds\n")
    return folder


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGINT, 130),
        (signal.SIGTERM, 143),
        (signal.SIGHUP, 129),
        (signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_a_signal_ends_the_kernel_its_workers_and_the_pipe(number, status, training, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {"TMPDIR": str(temporary)}
    process = start(training, "run", "--out", tmp_path / "out", environment=environment)
    assert wait_for(lambda: len(workers(process.pid)) == 2)
    family = descendants(process.pid)
    assert semaphores(family)
    time.sleep(1)
    began = time.monotonic()
    process.send_signal(number)
    _, complaints = process.communicate(timeout=10)  # returns when nothing holds its pipes
    assert wait_for(lambda: not any(map(lives, family)), seconds=5)
    assert time.monotonic() - began < 6
    assert process.returncode == status
    last = complaints.splitlines()[-1]
    if number != signal.SIGKILL:
        assert last == "rtl: stopped; the same command carries on where it stopped"
        assert all(line.startswith("01_long: ") for line in complaints.splitlines()[:-1])
    assert not semaphores(family)
    assert wait_for(lambda: not list(temporary.iterdir()), seconds=5)


@pytest.mark.kernel
def test_a_signal_while_the_kernel_starts(course, tmp_path):
    process = start(course, "run", "--out", tmp_path / "out", "--notebook", "02")
    assert wait_for(lambda: descendants(process.pid))
    process.send_signal(signal.SIGINT)
    _, complaints = process.communicate(timeout=20)
    assert process.returncode == 130
    assert is_one_sentence(complaints)


@pytest.mark.kernel
def test_ctrl_c_in_a_terminal_is_one_line(training, tmp_path):
    terminal, side = pty.openpty()
    process = start(training, "run", "--out", tmp_path, stdin=side, stdout=side, stderr=side)
    os.close(side)
    assert wait_for(lambda: len(workers(process.pid)) == 2)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    seen = b""
    while True:
        try:
            seen += os.read(terminal, 10_000)
        except OSError:  # its other side is closed
            break
    os.close(terminal)
    assert process.wait(10) == 130
    text = seen.decode()
    assert "01_long" in text
    assert "backbones 0/2" in text
    lines = [line for line in re.split("[\r\n]+", text) if line and not line.startswith("01_long")]
    assert [line.strip("\x1b[A") for line in lines] == [
        "rtl: stopped; the same command carries on where it stopped"
    ]


@pytest.mark.kernel
def test_rtl_whose_reader_is_gone_ends_quietly(course, tmp_path):
    process = start(course, "run", "--out", tmp_path / "out")
    process.stdout.close()
    complaints = process.stderr.read()
    assert process.wait(60) == 2
    assert is_one_sentence(complaints)
    process.stderr.close()


# Bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--notebook", "17"), "no notebook starts with '17'; there are 01_synthetic"),
        (
            ("run", "--notebook", "02", "-p", "seedz", "[0]"),
            "'seedz' is not a parameter of 02_images",
        ),
        (("run", "--dataset", "imagenet"), "dataset must be one of digits, cifar100"),
        (
            ("run", "-p", "dataset", "imagenet"),
            "dataset must be one of digits, cifar100 in 02_images",
        ),
        (("run", "-p", "dataset", '["digits"]'), "dataset must be one of digits, cifar100"),
        (("run", "--dataset", "digits", "-p", "dataset", "cifar100"), "are not the same"),
        (("run", "--device", "cpu", "-p", "device", "cuda"), "--device cpu and -p device 'cuda'"),
        (("run", "--device", "cpu"), "'device' is not a parameter of 01_synthetic"),
        (("run", "-p", "n", "1", "-p", "n", "2"), "-p 'n' is given twice"),
        (("run", "-p", "n", "1e400"), "-p 'n': numbers must be finite"),
        (("run", "-p", "n", "NaN"), "-p 'n': numbers must be finite"),
        (("run", "-p", "n", "[[-Infinity]]"), "-p 'n': numbers must be finite"),
        (("run", "-p", "n", "9" * 5_000), "-p 'n': numbers must be finite"),
        (("run", "-p", "n", "[" * 50_000), "-p 'n': the value is nested too deeply"),
        (("run", "-p", "n", '"\\ud800"'), "the value of 'n' must be"),
        (("run", "-p", "n", "\udcff"), "the value of 'n' must be"),
        (("run", "-p", "\udcff", "1"), "is not a parameter of 01_synthetic"),
        (("run", "-p", "n"), "expected 2 arguments"),
        (("run", "--out", ""), "--out must name a folder"),
        (("run", "--out", "/dev/null"), "--out must name a folder; '/dev/null' is a file"),
        (("run", "--out", "/proc/nowhere"), "No such file or directory: /proc/nowhere"),
        (("run", "--out", "/dev/null/below"), "Not a directory: /dev/null/below"),
        (("run", "--out", "a" * 5_000), "File name too long: "),
        (("export", "rows.csv", "--out", "/nowhere"), "/nowhere holds no results.db"),
        (("export", "", "--out", "/nowhere"), "name the file to write"),
        (("data", "pack", "/"), "name the file to write; '/' is a folder"),
        (("data", "pack", ""), "name the file to write"),
        (("refresh", "--notebook", "x"), "no notebook starts with 'x'"),
        (("x" * 9_999,), "invalid choice: 'xxx"),
        ((), "the following arguments are required: COMMAND"),
    ],
    ids=lambda value: (
        None if isinstance(value, str) else " ".join(value)[:30].encode(errors="replace").decode()
    ),
)
def test_bad_input_is_one_sentence(arguments, message, course, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(folders, "notebooks", lambda: course)
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    complaint = capsys.readouterr().err
    assert message in complaint
    assert is_one_sentence(complaint)


def test_no_bad_input_reaches_a_kernel_or_raises(course, capsys, monkeypatch, tmp_path):
    """Fuzz: whatever is typed, `rtl` answers with a status and a sentence."""
    monkeypatch.setattr(folders, "notebooks", lambda: course)
    monkeypatch.setattr(folders, "root", lambda: tmp_path)
    monkeypatch.chdir(tmp_path)
    executed = []

    def execute(path, parameters, folder):
        headless.check_parameters(path, parameters)
        executed.append(json.loads(json.dumps(parameters, allow_nan=False)))
        folder.mkdir(parents=True, exist_ok=True)
        return headless.put(path.read_text(), folder / path.name)

    monkeypatch.setattr(headless, "execute", execute)
    monkeypatch.setattr("rtl_utils.data.pack", lambda path: path)
    strange = st.text(st.characters(codec=None, exclude_characters="\0"), max_size=20)
    numbers = st.floats().map(str) | st.integers().map(str) | st.integers(1, 6_000).map("9".__mul__)
    values = strange | numbers | st.recursive(strange, st.lists, max_leaves=5).map(json.dumps)
    options = ["-p", "--out", "--notebook", "--dataset", "-h", "--version", "--", "-"]
    words = st.sampled_from(
        [*options, "pack", "digits", "n", "dataset", "01", "{n}", "%s", "..", "/"]
    )
    named = st.tuples(st.just("-p"), st.sampled_from(["n", "dataset", ""]) | strange, values)

    @settings(max_examples=300, suppress_health_check=list(HealthCheck))
    @given(
        st.sampled_from(["run", "run", "export", "data", "x"]),
        st.lists(
            st.one_of(words.map(lambda w: (w,)), values.map(lambda v: (v,)), named), max_size=6
        ),
    )
    def check(command, parts):
        status = cli.main([command, *(word for part in parts for word in part)])
        complaint = capsys.readouterr().err
        assert status in (0, 1, 2)
        assert status == 0 or is_one_sentence(complaint)
        assert all(len(line) <= 1_000 for line in complaint.splitlines())

    check()
    assert executed, "nothing was right, so nothing was tried"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[0, 1]", [0, 1]),
        ("flowers", "flowers"),
        ("null", None),
        ("-1e-3", -0.001),
        ('"3"', "3"),
        ("[0,", "[0,"),
        ("", ""),
        ('{"a": [true]}', {"a": [True]}),
    ],
)
def test_parameters_are_json_or_text(text, value):
    assert read_value("n", text) == value


def test_a_new_data_set_of_images_is_one_of_the_command(monkeypatch):
    monkeypatch.setitem(DATASETS, "mine", DATASETS["digits"])
    (notebook,) = headless.find("03")
    assert plans([notebook], "mine", {}) == [(notebook, {"dataset": "mine"})]
    with pytest.raises(ValueError, match=r"one of digits, cifar100, mine in 03_.*got 'synthetic'"):
        plans([notebook], "synthetic", {})


@pytest.mark.kernel
@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["run", "--datasets", "x"]])
def test_help_and_complaints_do_not_wait_for_torch(arguments):
    program = f"""
import sys
from rtl_utils import cli
cli.main({arguments})
print(sorted({{"torch", "numpy", "nbformat", "papermill"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.kernel
def test_a_batch_does_not_wait_for_scikit_learn_which_few_of_its_runs_need():
    program = "import sys\nfrom rtl_utils import batch, settings\nprint('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


@pytest.mark.kernel
def test_a_full_disk_is_one_sentence(course, tmp_path):
    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, 4_000))

    write(course / "02_images.ipynb", "print('a' * 9_000)")
    out = tmp_path / "out"
    full = rtl(course, "run", "--notebook", "02", "--out", out, preexec_fn=small_files)
    assert full.returncode == 2
    assert "File too large" in full.stderr
    assert is_one_sentence(full.stderr)
    assert not list(out.iterdir())


# Export and data


@pytest.fixture
def store(tmp_path):
    """A store of two runs and one of an earlier version, and one whose record nobody knows."""
    store = Store(tmp_path / "runs")
    for seed in (0, 1):
        run = Run("digits", "digits-0-4", None, "backbone", seed, sgd=Sgd(epochs=3))
        spec = json.loads(json.dumps(vars(run), default=vars))
        store.save(run.key, spec, [("val_accuracy", FINAL, 0.5)], reads=reads(run))
    store.save("0" * 16, spec, [("val_accuracy", FINAL, 0.1)])
    store.save("1" * 16, {"method": "unknown"}, [])
    return store


def test_export_writes_every_run_of_this_version(store, tmp_path, capsys):
    path = tmp_path / "missing" / "folder {n}" / "rows.csv"
    assert cli.main(["export", str(path), "--out", str(store.folder)]) == 0
    assert (
        f"Written: {path} (2 runs; 2 of earlier versions are left out)" in capsys.readouterr().out
    )
    assert path.read_text().count("digits,digits-0-4") == 2


@pytest.mark.parametrize("path", ["/", ".", "/dev/null/rows.csv", "/proc/rows.csv"])
def test_export_to_what_cannot_be_written_is_one_sentence(path, store, capsys):
    assert cli.main(["export", path, "--out", str(store.folder)]) == 2
    assert is_one_sentence(capsys.readouterr().err)


@pytest.mark.parametrize(
    "content", [b"", b"not a database" * 99, b"SQLite format 3\0" + b"x" * 999]
)
def test_export_of_what_is_no_store_is_one_sentence(content, tmp_path, capsys):
    (tmp_path / "results.db").write_bytes(content)
    assert cli.main(["export", str(tmp_path / "rows.csv"), "--out", str(tmp_path)]) == 2
    assert is_one_sentence(capsys.readouterr().err)
    assert not (tmp_path / "rows.csv").exists()


@pytest.mark.slow
def test_pack_writes_the_real_images_again(tmp_path, real_cifar100, capsys):
    assert cli.main(["data", "pack", str(tmp_path / "copy.npz")]) == 0
    with (
        np.load(real_cifar100 / "cifar100.npz") as old,
        np.load(tmp_path / "copy.npz", allow_pickle=False) as new,
    ):
        assert set(old) == set(new)
        assert all((old[name] == new[name]).all() for name in old)


def test_pack_to_what_cannot_be_written_is_one_sentence(small_cifar100, capsys):
    small_cifar100()
    assert cli.main(["data", "pack", "/dev/null/copy.npz"]) == 2
    assert is_one_sentence(capsys.readouterr().err)


# The package and its Makefile


@pytest.mark.kernel
@pytest.mark.slow
def test_the_wheel_works_outside_a_checkout(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(ROOT / "rtl_utils", source / "rtl_utils")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w", tmp_path, source]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--target", site, wheel], check=True)

    def call(*arguments):
        environment = os.environ | {"PYTHONPATH": str(site)}
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=environment
        )

    imported = call("-c", "import rtl_utils; print(rtl_utils.__file__); rtl_utils.load")
    assert imported.stdout.startswith(str(site)), imported.stderr
    assert call("-m", "rtl_utils.cli", "--help").returncode == 0
    outside = call("-m", "rtl_utils.cli", "run")
    assert outside.returncode == 2
    assert "rtl: the notebooks are part of the course's checkout" in outside.stderr
    assert is_one_sentence(outside.stderr)


@pytest.fixture
def moved(tmp_path):
    """A checkout with an environment that only says what it was asked: make(*arguments)."""
    checkout = tmp_path / "check out"
    commands = checkout / ".venv" / "bin"
    commands.mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, checkout)
    (commands / "python").write_text(
        f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} "$@"\necho "$RTL_DATA" "$@"\n'
    )
    (commands / "python").chmod(0o755)
    (commands / "rtl").write_text(f"#!{commands}/python\n")
    (checkout / ".venv" / ".ready").touch()

    def make(*arguments, folder=checkout, **environment):
        command = ["make", "-s", *arguments]
        return subprocess.run(
            command, cwd=folder, capture_output=True, text=True, env=os.environ | environment
        )

    return make


@pytest.mark.kernel
def test_make_passes_folders_with_spaces_on(moved, tmp_path):
    told = moved("run", "DATASET=cifar100", RTL_DATA="/x/my data")
    assert told.stdout == "/x/my data -m rtl_utils.cli run --dataset cifar100\n"
    assert moved("run", "RTL_DATA=/x/my data").stdout == "/x/my data -m rtl_utils.cli run\n"
    lab = moved("lab", RTL_DATA="my  data").stdout  # JupyterLab's kernels run in another folder
    assert lab == f"{tmp_path}/check out/my  data -m jupyterlab --notebook-dir=notebooks\n"
    told = moved("lab", RTL_DATA="").stdout
    assert told == " -m jupyterlab --notebook-dir=notebooks\n"


@pytest.mark.kernel
def test_make_in_a_renamed_checkout_says_what_to_do(moved, tmp_path):
    (tmp_path / "check out").rename(tmp_path / "renamed")
    told = moved("run", folder=tmp_path / "renamed")
    assert told.returncode == 2
    assert told.stdout == ""
    assert "this checkout was moved or renamed" in told.stderr
    assert "call `rm -rf .venv`, then make again" in told.stderr
