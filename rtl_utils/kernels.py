"""Kernels that are the same whatever the user's environment holds, and that leave nothing behind.

A notebook runs in a kernel of this very interpreter, with a folder of its own for its settings.
The kernel and all its workers form one process group, which ends with the notebook, with an
interruption, or with this process.
"""

import logging
import os
import signal
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

from rtl_utils import folders, progress

EXECUTED = "executed.ipynb"
_START = 120  # seconds that a kernel may take to start
_OUTPUT = 60  # seconds in which the outputs of a finished cell must arrive
_PATIENCE = 5.0  # seconds that a kernel may take to end by itself, and then by a signal
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
_ENGINE = "rtl"
_SPEC = KernelSpec(argv=[], display_name="Python 3", language="python")
_LOG = logging.getLogger("rtl_utils.kernels")
_LOG.addHandler(logging.NullHandler())
_LOG.propagate = False


class KernelDied(RuntimeError):
    """The kernel ended before its notebook did; the message says how, as part of a sentence."""


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
) -> None:
    """Execute a notebook in a kernel of its own, which runs in the notebook's folder.

    May be called from several threads at once: it changes nothing of this process.

    Args:
        notebook: to be executed; it is not changed.
        parameters: names and values for the cell below the one tagged `parameters`.
        own: a new folder for the kernel's settings and for EXECUTED, the notebook with its outputs,
            which is there also if a cell raises.
        on_progress: called a few times per second with how far it is.

    Raises:
        papermill.PapermillExecutionError: if a cell raises.
        KernelDied: if the kernel dies, or does not start.
        OSError: if a file cannot be written.
    """
    _Execution(notebook, parameters, own).run(on_progress)


def environment(own: Path, working: Path) -> dict[str, str]:
    """The environment variables of a kernel.

    Args:
        own: the kernel's folder.
        working: its working directory.

    Returns:
        This process's variables without those that change how Python, IPython, Jupyter, matplotlib
        or tqdm behave; with paths that hold in another working directory.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or not name.startswith(_DROPPED)
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
    """A kernel of this interpreter; no kernel specification is looked for."""

    def __init__(self, own: Path) -> None:
        super().__init__(connection_file=str(own / "kernel.json"))
        self._local = LocalProvisioner(kernel_id=own.name, kernel_spec=_SPEC, parent=self)
        self.provisioner = self._local
        self.process: subprocess.Popen[bytes] | None = None  # known also after its end

    @property
    def kernel_spec(self) -> KernelSpec:
        return _SPEC

    def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
        # literally: the base class takes {braces} in a folder's name for fields
        program = Path(__file__).with_name("_launch.py")
        arguments = ["-f", self.connection_file, *(extra_arguments or [])]
        # -P keeps the program's folder off the path, where `statistics` is not Python's
        return [sys.executable, "-P", str(program), *arguments]

    async def _async_launch_kernel(self, kernel_cmd: list[str], **kw: Any) -> None:
        await super()._async_launch_kernel(kernel_cmd, **kw)
        self.process = self._local.process


class _Engine(NBClientEngine):  # type: ignore[misc]  # papermill has no annotations
    """Papermill's way of running cells, in a kernel of ours."""

    @classmethod
    def execute_managed_notebook(
        cls, nb_man: Any, kernel_name: str, *, execution: "_Execution", **_: Any
    ) -> None:
        execution.cells(nb_man)


papermill_engines.register(_ENGINE, _Engine)


class _Execution:
    """One notebook in one kernel: a thread runs the cells; the caller's follows and stops it."""

    def __init__(self, notebook: Path, parameters: Mapping[str, Any], own: Path) -> None:
        self.notebook = notebook
        self.parameters = parameters
        self.own = own
        self.manager = _Manager(own)
        self.cell = 0
        self.total = 0
        self.code_cell = 0
        self.error: BaseException | None = None
        self.stopped = False

    def run(self, on_progress: Callable[[Progress], object]) -> None:
        """See `execute`."""
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(_INTERVAL)
                on_progress(Progress(self.cell, self.total, progress.read(self.own / "progress")))
        finally:
            self._stop(thread)
        if self.error is not None:
            raise self.error

    def _stop(self, thread: threading.Thread) -> None:
        """End the kernel if its notebook is not finished: the user interrupted."""
        self.stopped = True
        until = time.monotonic() + 2 * _PATIENCE
        while thread.is_alive() and time.monotonic() < until:
            self._end_group(signal.SIGTERM)
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
            self.error = error
        finally:
            ensure_event_loop().close()

    def cells(self, nb_man: Any) -> None:
        """Run the cells: what papermill's engine does."""
        self.total = len(nb_man.nb.cells)
        client = PapermillNotebookClient(
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
            with (self.own / "log").open("w") as log:
                self._client(client, log)
        finally:
            self._end(client)

    def _client(self, client: PapermillNotebookClient, log: TextIO) -> None:
        env = environment(self.own, self.notebook.resolve().parent)
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
            lines = (self.own / "log").read_text(errors="replace").strip().splitlines()
            return f"as its kernel did not start: {lines[-1] if lines else error}"
        if status is None:
            return f"in cell [{self.code_cell}]: its kernel does not answer ({error})"
        how = f"with exit status {status}"
        if status < 0:
            how = f"killed by {signal.Signals(-status).name}"
        if status == -signal.SIGKILL:
            how += ", as the system does where memory runs out"
        return f"in cell [{self.code_cell}]: its kernel died, {how}"

    def _end(self, client: PapermillNotebookClient) -> None:
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

    def _wait(self, process: "subprocess.Popen[bytes]") -> None:
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


def _literal(path: Path) -> str:
    """The path for papermill, which takes {braces} for fields to be filled in."""
    return str(path.resolve()).replace("{", "{{").replace("}", "}}")
