"""Kernels forked from a warm process: what takes a notebook seconds to import is imported once.

A server, a process of one thread that has imported what notebooks import, forks a kernel per
request. Whatever goes wrong with it, a plain kernel can be started instead.
"""

import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

_START = 120.0  # seconds that the server may take for its imports
_ANSWER = 60.0  # seconds that it may take for an answer, on a machine that is busy
_END = 10.0  # seconds that it may take to end, with its kernels
_LONGEST = 1 << 16  # bytes of an answer
_PROGRAM = Path(__file__).with_name("_fork.py")
# what a program reads as it starts: a kernel with other values than the server's is started afresh
_READ_AT_START = ("GOMP_", "KMP_", "LD_", "MALLOC_", "MPL", "PYTHON", "PYTORCH", "TORCH")
_ONE_THREAD = {  # a fork has only the thread that forks
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
_LOG = logging.getLogger("rtl_utils.forks")
_LOG.addHandler(logging.NullHandler())


class _Silent(Exception):
    """The server does not answer, or it says that something failed."""


class Forked:
    """A forked kernel, as `subprocess.Popen` shows a process; its parent is the server.

    Args:
        pid: of the process.
        handle: a pidfd of it.
        server: that forked it, and knows its exit status.
    """

    stdin = None
    stdout = None
    stderr = None

    def __init__(self, pid: int, handle: int, server: "ForkServer") -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.lost = False  # the server ended, and its kernels with it: nobody knows the exit status
        self._handle = handle
        self._server = server
        self._lock = threading.Lock()

    def __del__(self) -> None:
        with suppress(OSError):
            os.close(self._handle)

    def poll(self) -> int | None:
        """Exit status, negative for a signal's number; None while the process runs."""
        return self.wait(0)

    def wait(self, timeout: float | None = None) -> int | None:
        """Exit status; None if the process still runs after `timeout` seconds."""
        with self._lock:
            if self.returncode is None and _readable(self._handle, timeout):
                status = self._server.status(self.pid)
                self.lost = status is None
                self.returncode = -signal.SIGKILL if status is None else status
            return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, number)

    def terminate(self) -> None:
        """Ask the process to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the process."""
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """Forks kernels from a process that has imported what notebooks import.

    The process starts with the first kernel. It ends with `close`, or when this process ends, and
    takes its kernels with it.

    Args:
        cores: of a kernel whose environment does not say how many it has.
    """

    def __init__(self, cores: int) -> None:
        self.cores = cores
        self.process: subprocess.Popen[bytes] | None = None
        self._environment: dict[str, str] = {}
        self._connection: socket.socket | None = None
        self._usable = self.available()  # for further kernels
        self._lock = threading.Lock()

    @staticmethod
    def available() -> bool:
        """Whether kernels can be forked here: on Linux."""
        return sys.platform == "linux" and hasattr(os, "pidfd_open")

    def fork(
        self, arguments: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path
    ) -> Forked | None:
        """Fork a kernel.

        Args:
            arguments: its program and that program's arguments.
            environment: its environment variables.
            folder: its working directory.
            log: the file that its stderr goes to.

        Returns:
            None if that fails, or if the kernel needs another start than the server had.
        """
        request = {
            "arguments": list(arguments),
            "environment": dict(environment),
            "folder": str(folder),
            "log": str(log),
            "cores": _cores(environment) or self.cores,
        }
        with self._lock:
            if not self._usable:
                return None
            try:
                if self.process is None:
                    self._start(environment, folder)
                if _read_at_start(environment) != _read_at_start(self._environment):
                    return None
                answer, handle = self._ask(request)
            except _Silent as error:
                self._give_up(error)
                return None
        if handle is None:
            return None
        os.set_inheritable(handle, False)
        return Forked(answer["pid"], handle, self)

    def status(self, pid: int) -> int | None:
        """Exit status of a kernel that has ended; None if nobody knows it any more."""
        with self._lock:
            try:
                answer, _ = self._ask({"ended": pid})
            except _Silent as error:
                self._give_up(error)
                return None
        return int(answer["status"])

    def close(self) -> None:
        """End the server and its kernels."""
        with self._lock:
            self._end()

    def _start(self, environment: Mapping[str, str], folder: Path) -> None:
        """Start the server, and wait until it has imported everything."""
        self._environment = dict(environment)
        self._connection, theirs = socket.socketpair()
        numbers = [str(theirs.fileno()), str(os.getpid())]
        command = [sys.executable, "-P", str(_PROGRAM), *numbers, str(folder)]
        with theirs:
            try:
                self.process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd=folder,
                    env=dict(environment) | _ONE_THREAD,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            except OSError as error:
                raise _Silent(str(error)) from error
        self._answer(_START)

    def _ask(self, request: Mapping[str, Any]) -> tuple[dict[str, Any], int | None]:
        """The server's answer, and the open file that came with it.

        Raises:
            _Silent: if there is none, or if it says that something failed.
        """
        if self._connection is None:
            raise _Silent("there is no server")
        try:
            self._connection.settimeout(_ANSWER)
            self._connection.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            self._disconnect()
            raise _Silent(f"the server does not listen ({error})") from error
        return self._answer(_ANSWER)

    def _answer(self, seconds: float) -> tuple[dict[str, Any], int | None]:
        if self._connection is None:
            raise _Silent("there is no server")
        try:
            self._connection.settimeout(seconds)
            text, handles, _, _ = socket.recv_fds(self._connection, _LONGEST, 1)
            answer = json.loads(text)
        except (OSError, ValueError) as error:  # it is stuck, or has ended
            self._disconnect()
            raise _Silent(f"the server does not answer ({error})") from error
        if "failed" in answer:
            raise _Silent(answer["failed"])
        return answer, handles[0] if handles else None

    def _give_up(self, error: Exception) -> None:
        """Ask for no further kernels; those that are there go on."""
        if self._usable:
            self._usable = False
            _LOG.debug("kernels are not forked any more: %s", error)

    def _disconnect(self) -> None:
        """Leave a server that is stuck or has ended, which ends it and its kernels."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _end(self) -> None:
        self._usable = False
        self._disconnect()
        if self.process is not None:
            try:
                self.process.wait(_END)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def _readable(handle: int, seconds: float | None) -> bool:
    """Whether the process of a pidfd has ended, after so many seconds at most."""
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(None if seconds is None else 1000 * seconds))


def _read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that a program reads as it starts, but those that a fork is given anew."""
    anew = ("PYTHONPATH", "MPLCONFIGDIR")
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(_READ_AT_START) and name not in anew
    }


def _cores(environment: Mapping[str, str]) -> int | None:
    """The cores that an environment gives to numerical libraries, if it gives a number."""
    first = environment.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None
