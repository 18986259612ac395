"""Small notebooks, and `rtl` on them in a process of its own, for the tests of the runner."""

import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

PARAMETERS = 'dataset = "digits"  # images\nn = 1  # a number\n'
PICTURE = "import matplotlib.pyplot as plt\nplt.plot([1, 2], [3, 4])\nplt.show()"
TRAINING = (  # two workers that take n seconds
    "import time\nfrom rtl_utils.training._workers import spread\n"
    "spread(time.sleep, [(n,), (n,)], lambda job, result: None, [1, 1], 'backbones')"
)
# `rtl` with other notebooks than the course's
_PROGRAM = """
import sys
from pathlib import Path
from rtl_utils import cli, folders
folders.notebooks = lambda: Path(sys.argv[1])
sys.exit(cli.main(sys.argv[2:]))
"""


def write(path, *cells, parameters=PARAMETERS):
    """A notebook with a title, a parameters cell and these code cells; returns its path."""
    tagged = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    content = [new_markdown_cell("# A title"), tagged, *map(new_code_cell, cells)]
    nbformat.write(new_notebook(cells=content), path)
    return path


def printed(path):
    """What the code cells of an executed notebook wrote to stdout."""
    return "".join(
        o.text for o in outputs(path) if o.output_type == "stream" and o.name == "stdout"
    )


def outputs(path):
    cells = nbformat.read(path, as_version=4).cells
    return [output for cell in cells for output in cell.get("outputs", [])]


def pictures(path):
    return [output for output in outputs(path) if "image/png" in output.get("data", {})]


def start(folder, *arguments, environment=None, **options):
    """`rtl` on the notebooks of a folder, as a running process."""
    command = [sys.executable, "-c", _PROGRAM, str(folder), *map(os.fspath, arguments)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(command, text=True, env=os.environ | (environment or {}), **streams)


def rtl(folder, *arguments, **options):
    """`rtl` on the notebooks of a folder, when it has ended."""
    process = start(folder, *arguments, **options)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def wait_for(condition, seconds=180):
    """Wait until it is true, and return what it says."""
    until = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < until:
        time.sleep(0.1)
    return found


def descendants(pid):
    """A process's children, theirs and so on, that live."""
    try:
        return [p for p in psutil.Process(pid).children(recursive=True) if lives(p)]
    except psutil.NoSuchProcess:
        return []


def workers(pid):
    """The worker processes among a process's descendants."""
    found = []
    for process in descendants(pid):
        try:
            if "popen_loky" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def lives(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def semaphores(processes):
    """Files in shared memory that loky made for one of these processes."""
    return [path for p in processes for path in Path("/dev/shm").glob(f"sem.loky-{p.pid}-*")]
