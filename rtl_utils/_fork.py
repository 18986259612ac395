"""The program that `rtl_utils.forks` starts: it imports what notebooks import, and forks kernels.

Run by its path, as `_launch` is. Its arguments are the number of the socket over which it is asked,
the process that asks, and the folder of the kernel that is asked for first. Every request and every
answer is a line of JSON.
"""

import gc
import importlib
import importlib.util
import json
import logging
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).resolve().parent
_PATIENCE = 3.0  # seconds that kernels may take to end with the server
_LIBRARIES = (
    "IPython.core.completerlib",
    "IPython.core.debugger",
    "IPython.core.logger",
    "IPython.core.oinspect",
    "IPython.extensions.storemagic",
    "ipykernel.ipkernel",
    "ipykernel.kernelapp",
    "ipywidgets",
    "lime.lime_tabular",
    "loky",
    "matplotlib.backends.backend_agg",  # the inline backend itself is set up as it is imported
    "matplotlib.font_manager",
    "matplotlib.pyplot",
    "ot",
    "pandas",
    "scipy.stats",
    "sklearn.datasets",
    "sklearn.manifold",
    "sqlalchemy.dialects.postgresql",
    "sqlalchemy.dialects.sqlite",
    "statsmodels.stats.power",
    "torch",
    "tornado.platform.asyncio",
    "tornado.queues",
    "tqdm.auto",
)
# modules of the package that start kernels; no notebook imports them
_RUNNERS = {
    "app",
    "batch",
    "cli",
    "forks",
    "grid",
    "headless",
    "kernels",
    "launchers",
    "report",
    "sheets",
}


def main() -> None:
    """Serve until the one who asks closes the socket or ends; in a fork, be the kernel."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    asker = int(sys.argv[2])
    server = _Server(connection, os.pidfd_open(os.getppid()))
    request = None
    if os.getppid() == asker:
        _import()
        request = server.serve()
    if request is not None:
        _become(request)
        launch = importlib.import_module("rtl_utils._launch")
        launch.main(_ended([server.owner, server.handle]), _logs())
    elif os.getppid() != asker:  # it is gone, perhaps before it asked for its first kernel
        shutil.rmtree(sys.argv[3], ignore_errors=True)


class _Server:
    """Forks kernels and knows how they ended."""

    def __init__(self, connection: socket.socket, owner: int) -> None:
        self.connection = connection
        self.owner = owner
        self.handle = os.pidfd_open(os.getpid())
        self.kernels: dict[int, str] = {}  # process -> its own folder

    def answer(self, message: dict[str, Any], *handles: int) -> None:
        """Send an answer, with the numbers of open files; nobody may listen any more."""
        text = json.dumps(message).encode() + b"\n"
        with suppress(OSError):
            socket.send_fds(self.connection, [text], list(handles))

    def serve(self) -> dict[str, Any] | None:
        """Answer requests; in a fork, return the request for this kernel, else None at the end."""
        self.answer({"ready": True})
        lines = self.connection.makefile("rb")
        both = select.poll()
        both.register(self.connection, select.POLLIN)
        both.register(self.owner, select.POLLIN)
        while all(number != self.owner for number, _ in both.poll()):
            line = lines.readline()
            if not line.endswith(b"\n"):  # closed, perhaps within a request
                break
            request = json.loads(line)
            if "ended" in request:
                self._tell(request["ended"])
            elif self._fork(request) == 0:
                lines.close()
                self.connection.close()
                return dict(request)
        self._end()
        return None

    def _fork(self, request: dict[str, Any]) -> int:
        threads = len(os.listdir("/proc/self/task"))
        if threads > 1:  # its locks might be held for ever in a fork
            self.answer({"failed": f"it has {threads} threads"})
            return -1
        try:
            pid = os.fork()
        except OSError as error:  # too many processes, or too little memory
            self.answer({"failed": str(error)})
            return -1
        if pid == 0:
            os.setsid()
            return 0
        self.kernels[pid] = request["environment"]["RTL_KERNEL"].split("\n", 1)[0]
        handle = os.pidfd_open(pid)
        self.answer({"pid": pid}, handle)
        os.close(handle)
        return pid

    def _tell(self, pid: int) -> None:
        """Say how a kernel ended, and forget it."""
        del self.kernels[pid]
        _, status = os.waitpid(pid, 0)
        self.answer({"status": os.waitstatus_to_exitcode(status)})

    def _end(self) -> None:
        """End the kernels that are left: the one who asked for them is gone."""
        until = time.monotonic() + _PATIENCE
        number = signal.SIGTERM
        while self.kernels:
            for pid, own in list(self.kernels.items()):
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, number)
                if os.waitpid(pid, os.WNOHANG)[0]:
                    self._end_rest(pid, own)
            time.sleep(0.05)
            if time.monotonic() > until:
                number = signal.SIGKILL

    def _end_rest(self, pid: int, own: str) -> None:
        """End the workers of a kernel that has ended."""
        del self.kernels[pid]
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGTERM)
        shutil.rmtree(own, ignore_errors=True)


def _import() -> None:
    """Import what notebooks import, with as few effects as a kernel's own imports have."""
    if importlib.util.find_spec("rtl_utils") is None:  # `rtl` is run from a folder, not installed
        sys.path.append(str(_PACKAGE.parent))
    for name in _LIBRARIES:
        with suppress(ImportError):
            importlib.import_module(name)
    for name in _own_modules():
        with suppress(ImportError):
            importlib.import_module(name)
    os.chdir("/")  # the first kernel's folder is in nobody's way
    gc.collect()
    gc.freeze()  # a collection in a fork would copy every page that it looks at


def _own_modules() -> list[str]:
    """The package's modules that a notebook may import."""
    found = ["rtl_utils._launch"]
    for path in sorted(_PACKAGE.rglob("*.py")):
        parts = path.relative_to(_PACKAGE.parent).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if not _RUNNERS & set(parts) and not any(part.startswith("_") for part in parts):
            found.append(".".join(parts))
    return found


def _become(request: dict[str, Any]) -> None:
    """Make of this fork what a program started with the request's arguments would be."""
    _with_server()
    _redirect(request["log"])
    before = os.environ.get("PYTHONPATH", "")
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.argv[:] = request["arguments"]
    given = os.environ.get("PYTHONPATH", "")
    if given != before:
        old = before.split(os.pathsep) if before else []
        rest = [path for path in sys.path if path not in old]
        sys.path[:] = [*filter(None, given.split(os.pathsep)), *rest]
    _refresh(request["cores"])


def _with_server() -> None:
    """End this process at once when the server does, whatever it computes then."""
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _redirect(log: str) -> None:
    """The streams of a plain kernel: nothing to read, stderr to its log."""
    streams = (
        os.open(os.devnull, os.O_RDONLY),
        os.open(os.devnull, os.O_WRONLY),
        os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
    )
    for number, opened in enumerate(streams):
        os.dup2(opened, number)
        os.close(opened)


def _refresh(cores: int) -> None:
    """Forget what was read from the server's environment or drawn at random."""
    import multiprocessing.process

    import matplotlib
    import numpy as np
    import threadpoolctl
    import torch

    time.tzset()
    tempfile.tempdir = None
    multiprocessing.process.ORIGINAL_DIR = os.getcwd()  # type: ignore[attr-defined]
    for cached in (matplotlib.get_configdir, matplotlib.get_cachedir):
        getattr(cached, "cache_clear", lambda: None)()
    np.random.seed()
    torch.default_generator.seed()  # Python's own generator does so by itself
    torch.set_num_threads(cores)
    if cores > 1:  # the server's numerical libraries started with one thread each
        threadpoolctl.threadpool_limits(cores)


def _logs() -> Callable[[], None]:
    """What makes the loggers of this moment write to the stderr of a later one, the kernel's."""
    loggers = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict)]
    handlers = {handler for logger in loggers for handler in logger.handlers}

    def move() -> None:
        for handler in handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is sys.__stderr__:
                handler.setStream(sys.stderr)

    return move


def _ended(handles: list[int]) -> Callable[[], None]:
    """What waits for the end of one of these processes."""
    poll = select.poll()
    for handle in handles:
        poll.register(handle, select.POLLIN)

    def wait() -> None:
        while not poll.poll():
            continue

    return wait


if __name__ == "__main__":
    main()
