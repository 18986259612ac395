"""Kernels that are the same whatever the user's environment holds, and that leave nothing behind.

A notebook runs in a kernel of this very interpreter, with a folder of its own for its settings.
The kernel and all its workers form one process group, which ends with the notebook, with an
interruption, or with this process.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from jupyter_core.utils import ensure_event_loop
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.execute import execute_notebook
from papermill.iorw import papermill_io

from rtl_utils import folders, progress
from rtl_utils.forks import Forked, ForkServer

EXECUTED = "executed.ipynb"
LOG = "log"
_ROOM = 1 << 16  # bytes that a kernel writes before its first cell
_START = 120  # seconds that a kernel may take to start
_OUTPUT = 60  # seconds in which the outputs of a finished cell must arrive
_PATIENCE = 5.0  # seconds that a kernel may take to end by itself, and then by a signal
_KILL = 3.0  # seconds after which a kernel that is to end at once is killed
_INTERVAL = 0.1  # seconds between two readings of its progress
# what may not reach a kernel: it would change outputs, pictures, warnings or the interpreter
_DROPPED = ("IPY", "JPY_", "JUPYTER", "MATPLOTLIB", "MPL", "PYTHON", "QT_API", "SPYDER", "TQDM")
_KEPT = {  # where Python itself and its packages lie
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONHASHSEED",
    "PYTHONHOME",
    "PYTHONNOUSERSITE",
    "PYTHONPATH",
    "PYTHONPYCACHEPREFIX",
    "PYTHONUSERBASE",
}
# What Dask sets for its workers. It gives memory back at once, so that each step of a training asks
# the system anew for the room of its tensors: almost half of a sweep's time (man 3 mallopt).
_DASKS = ("MALLOC_TRIM_THRESHOLD_", "65536")
_ENGINE = "rtl"
_PROGRAM = Path(__file__).with_name("_launch.py")
_SPEC = KernelSpec(argv=[], display_name="Python 3", language="python")
_LOG = logging.getLogger("rtl_utils.kernels")
_LOG.addHandler(logging.NullHandler())
_LOG.propagate = False


class KernelDied(RuntimeError):
    """The kernel ended before its notebook did; the message says how, as part of a sentence."""


class TimedOut(RuntimeError):
    """The notebook took longer than it may; the message says where, as part of a sentence."""


class Limits(NamedTuple):
    """What a kernel may use.

    Args:
        cores: processor cores for it and its workers; None: what the machine has.
        seconds: how long the notebook may take, with the start of its kernel; None: any time.
        environment: further environment variables of the kernel.
    """

    cores: int | None = None
    seconds: float | None = None
    environment: Mapping[str, str] = {}


class Progress(NamedTuple):
    """Where a notebook is.

    Args:
        done: cells that are finished.
        total: cells that there are; 0 before the kernel has started.
        now: what the progress bars of the running cell say.
    """

    done: int
    total: int
    now: str


def execute(
    notebook: Path,
    parameters: Mapping[str, Any],
    own: Path,
    on_progress: Callable[[Progress], object],
    limits: Limits = Limits(),
    forks: ForkServer | None = None,
) -> None:
    """Execute a notebook in a kernel of its own, which runs in the notebook's folder.

    May be called from any thread and from several at once: it changes nothing of this process.

    Args:
        notebook: to be executed; it is not changed.
        parameters: names and values for the cell below the one tagged `parameters`.
        own: a new folder for the kernel's settings and for EXECUTED, the notebook with its outputs,
            which is there also if a cell raises.
        on_progress: called a few times per second with how far it is.
        limits: cores, seconds and further environment variables.
        forks: forks the kernel if it can, which saves seconds; None: the kernel starts afresh.

    Raises:
        papermill.PapermillExecutionError: if a cell raises.
        KernelDied: if the kernel dies, or does not start.
        TimedOut: if it takes longer than `limits.seconds`.
        ValueError: for limits that are none.
        OSError: if a file cannot be written.
    """
    _check(limits)
    _Execution(notebook, parameters, own, limits, forks).run(on_progress)


def environment(own: Path, working: Path) -> dict[str, str]:
    """The environment variables of a kernel.

    Args:
        own: the kernel's folder.
        working: its working directory.

    Returns:
        This process's variables without those that change how Python, IPython, Jupyter, matplotlib
        or tqdm behave, and without Dask's setting of the memory allocator; with paths that hold
        in another working directory.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if (name in _KEPT or not name.startswith(_DROPPED)) and (name, value) != _DASKS
    }
    for name in ("PYTHONPATH", "RTL_DATA"):  # the kernel runs in another folder
        if kept.get(name):
            kept[name] = _absolute(kept[name], os.pathsep if name == "PYTHONPATH" else None)
    return kept | {
        "PYTHONUTF8": "1",
        "RTL_KERNEL": f"{own}\n{working}",
        progress.FILE: str(own / "progress"),
        "IPYTHONDIR": str(own / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(own),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "MPLCONFIGDIR": str(_matplotlib_folder(own)),
    }


def _check(limits: Limits) -> None:
    """Raises ValueError for limits under which nothing can run."""
    if limits.cores is not None and limits.cores < 1:
        raise ValueError(f"a kernel needs at least 1 core; got {limits.cores}")
    if limits.seconds is not None and not limits.seconds > 0:
        raise ValueError(f"a notebook needs more than 0 seconds; got {limits.seconds}")


def _limited(limits: Limits) -> dict[str, str]:
    """The environment variables that limits add."""
    names = ("LOKY_MAX_CPU_COUNT", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    cores = {} if limits.cores is None else dict.fromkeys(names, str(limits.cores))
    return cores | dict(limits.environment)


def _absolute(paths: str, separator: str | None) -> str:
    """Absolute paths for relative ones; None where there is one path, whatever is in its name."""
    if separator is None:
        return os.path.abspath(paths)
    return separator.join(map(os.path.abspath, paths.split(separator)))


def _matplotlib_folder(own: Path) -> Path:
    """Folder for matplotlib's list of fonts, which takes seconds to make; kept from run to run."""
    kept = folders.root() / "runs" / ".matplotlib"
    with suppress(OSError):
        kept.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=kept):
            return kept
    return own


class _Manager(AsyncKernelManager):
    """A kernel of this interpreter, forked if it can be; no kernel specification is looked for."""

    def __init__(self, own: Path, forks: ForkServer | None) -> None:
        super().__init__(connection_file=str(own / "kernel.json"), transport=_transport(own))
        self._own = own
        self._forks = forks
        self._local = LocalProvisioner(kernel_id=own.name, kernel_spec=_SPEC, parent=self)
        self.provisioner = self._local
        self.process: subprocess.Popen[bytes] | Forked | None = None  # known also after its end

    @property
    def kernel_spec(self) -> KernelSpec:
        return _SPEC

    def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
        # literally: the base class takes {braces} in a folder's name for fields
        arguments = ["-f", self.connection_file, *(extra_arguments or [])]
        # -P keeps the program's folder off the path, where `statistics` is not Python's
        return [sys.executable, "-P", str(_PROGRAM), *arguments]

    async def _async_launch_kernel(self, kernel_cmd: list[str], **kw: Any) -> None:
        forked = None
        if self._forks is not None:
            arguments = kernel_cmd[kernel_cmd.index(str(_PROGRAM)) :]
            log = self._own / LOG
            forked = self._forks.fork(arguments, kw["env"], self._own, log)
        if forked is None:
            await super()._async_launch_kernel(kernel_cmd, **kw)
            self.process = self._local.process
        else:  # what the base class keeps of a process that it started
            self.process = forked
            self._local.process = forked  # type: ignore[assignment]
            self._local.pid = self._local.pgid = forked.pid
            self._reconcile_connection_info(self._local.connection_info)


class _Client(PapermillNotebookClient):  # type: ignore[misc]  # no annotations
    """Runs cells; what a cell prints is one output, however its kernel cuts it into messages."""

    def output(self, outs: list[Any], *arguments: Any) -> Any:
        """Append a message's output, or add its text to the stream before it."""
        added = super().output(outs, *arguments)
        if len(outs) > 1 and all(output["output_type"] == "stream" for output in outs[-2:]):
            last, new = outs[-2:]
            if last["name"] == new["name"]:
                last["text"] += new["text"]
                outs.pop()
        return added


class _Engine(NBClientEngine):  # type: ignore[misc]  # papermill has no annotations
    """Papermill's way of running cells, in a kernel of ours."""

    @classmethod
    def execute_managed_notebook(
        cls, nb_man: Any, kernel_name: str, *, execution: "_Execution", **_: Any
    ) -> None:
        execution.cells(nb_man)


class _Files:
    """How papermill reads and writes absolute paths; its own way changes the working directory."""

    def read(self, path: str) -> str:
        return Path(path).read_text(encoding="utf-8")

    def write(self, text: str, path: str) -> None:
        temporary = f"{path}.partial"
        Path(temporary).write_text(text, encoding="utf-8")
        os.replace(temporary, path)

    def listdir(self, path: str) -> list[str]:
        return [os.path.join(path, name) for name in os.listdir(path)]

    def pretty_path(self, path: str) -> str:
        return path


papermill_engines.register(_ENGINE, _Engine)
papermill_io.register("/", _Files())


class _Execution:
    """One notebook in one kernel: a thread runs the cells; the caller's follows and stops it."""

    def __init__(
        self,
        notebook: Path,
        parameters: Mapping[str, Any],
        own: Path,
        limits: Limits,
        forks: ForkServer | None,
    ) -> None:
        self.notebook = notebook
        self.parameters = parameters
        self.own = own
        self.limits = limits
        self.manager = _Manager(own, forks)
        self.cell = 0
        self.total = 0
        self.code_cell = 0
        self.error: BaseException | None = None
        self.finished = False  # all cells are
        self.stopped = False

    def run(self, on_progress: Callable[[Progress], object]) -> None:
        """See `execute`."""
        began = time.monotonic()
        late = False
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            while thread.is_alive() and not late:
                thread.join(_INTERVAL)
                on_progress(Progress(self.cell, self.total, progress.read(self.own / "progress")))
                late = not self.finished and self._is_late(time.monotonic() - began)
        finally:
            self._stop(thread)
        if late and (thread.is_alive() or self.error is not None):
            where = f"in cell [{self.code_cell}]" if self.code_cell else "before its first cell"
            limit = f"{self.limits.seconds:g} s"
            raise TimedOut(f"{where}: it ran longer than {limit}") from self.error
        if self.error is not None:
            raise self.error

    def _is_late(self, seconds: float) -> bool:
        return self.limits.seconds is not None and seconds > self.limits.seconds

    def _stop(self, thread: threading.Thread) -> None:
        """End the kernel if its notebook is not finished: interrupted, or too late."""
        self.stopped = True
        now = time.monotonic()
        kill, until = now + _KILL, now + 2 * _PATIENCE
        while thread.is_alive() and (now := time.monotonic()) < until:
            self._end_group(signal.SIGTERM if now < kill else signal.SIGKILL)
            thread.join(_INTERVAL)

    def _run(self) -> None:
        try:
            execute_notebook(
                _literal(self.notebook),
                _literal(self.own / EXECUTED),
                dict(self.parameters),
                engine_name=_ENGINE,
                kernel_name="python3",
                language="python",
                progress_bar=False,
                autosave_cell_every=0,
                execution=self,
            )
        except BaseException as error:
            full = _full(self.own) if self.code_cell == 0 else None  # whatever came of it
            self.error = full or error
        finally:
            ensure_event_loop().close()

    def cells(self, nb_man: Any) -> None:
        """Run the cells: what papermill's engine does."""
        self.total = len(nb_man.nb.cells)
        client = _Client(
            nb_man,
            km=self.manager,
            kernel_name="python3",
            startup_timeout=_START,
            iopub_timeout=_OUTPUT,
            timeout=None,
            extra_arguments=["--IPKernelApp.log_level=40"],  # else it warns of its open ports
            on_cell_start=self._cell_started,
            log=_LOG,
        )
        try:
            with (self.own / LOG).open("w") as log:
                self._client(client, log)
            self.finished = True
        finally:
            self._end(client)

    def _client(self, client: "_Client", log: TextIO) -> None:
        env = environment(self.own, self.notebook.resolve().parent) | _limited(self.limits)
        try:
            client.execute(env=env, cwd=str(self.own), stdout=subprocess.DEVNULL, stderr=log)
        except (RuntimeError, TimeoutError) as error:  # of nbclient: the kernel died or is silent
            process = self.manager.process
            raise KernelDied(self._death(process.poll() if process else None, error)) from error

    def _cell_started(self, cell: Mapping[str, Any], cell_index: int) -> None:
        self.cell = cell_index
        self.code_cell += cell["cell_type"] == "code"
        if self.stopped:
            raise KernelDied("was interrupted")

    def _death(self, status: int | None, error: Exception) -> str:
        """How the kernel ended, as part of a sentence."""
        if self.code_cell == 0:
            lines = (self.own / LOG).read_text(errors="replace").strip().splitlines()
            return f"as its kernel did not start: {lines[-1] if lines else error}"
        if status is None:
            return f"in cell [{self.code_cell}]: its kernel does not answer ({error})"
        how = f"with exit status {status}"
        if isinstance(self.manager.process, Forked) and self.manager.process.lost:
            how = "with the process that it was forked from"
        elif status < 0:
            how = f"killed by {signal.Signals(-status).name}"
            if status == -signal.SIGKILL:
                how += ", as the system does where memory runs out"
        return f"in cell [{self.code_cell}]: its kernel died, {how}"

    def _end(self, client: "_Client") -> None:
        """End the kernel: by a request, else by a signal; then the rest of its process group."""
        process = self.manager.process
        if client.kc is not None:
            if process is not None and process.poll() is None and not self.stopped:
                client.kc.shutdown()
                self._wait(process)
            client.kc.stop_channels()
        if process is not None:
            self._end_group(signal.SIGTERM)
            self._wait(process)
            if process.poll() is None:
                process.kill()
                process.wait()
            self._wait_for_group()
        ensure_event_loop().run_until_complete(self.manager.cleanup_resources())

    def _wait(self, process: "subprocess.Popen[bytes] | Forked") -> None:
        until = time.monotonic() + _PATIENCE
        while process.poll() is None and time.monotonic() < until and not self.stopped:
            time.sleep(_INTERVAL / 2)

    def _wait_for_group(self) -> None:
        """Wait for the workers, then for the process that removes their semaphores."""
        until = time.monotonic() + _PATIENCE / 2
        while self._end_group(0) and time.monotonic() < until:
            time.sleep(_INTERVAL / 2)
        self._end_group(signal.SIGKILL)

    def _end_group(self, number: int) -> bool:
        """Send a signal to the kernel and all that it started; False if none of them is left."""
        process = self.manager.process
        if process is None:
            return False
        try:
            os.killpg(process.pid, number)
        except (ProcessLookupError, PermissionError):  # macOS: zombies may not be signalled
            return False
        return True


def _transport(own: Path) -> str:
    """Sockets in the kernel's own folder where there are some: another may take a port first."""
    try:
        with socket.socket(socket.AF_UNIX) as tried:
            name = own / "kernel-ipc-0"
            tried.bind(str(name))
        name.unlink()
    except (AttributeError, OSError):  # on Windows; a long path; a file system without sockets
        return "tcp"
    return "ipc"


def _full(folder: Path) -> OSError | None:
    """What is wrong with a folder into which not even a kernel's few files can be written."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_ROOM))
    except OSError as error:
        return error
    return None


def _literal(path: Path) -> str:
    """The path for papermill, which takes {braces} for fields to be filled in."""
    return str(path.resolve()).replace("{", "{{").replace("}", "}}")
