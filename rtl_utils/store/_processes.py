"""Who this process is, and whether another one lives."""

import os
import socket
from pathlib import Path
from typing import NamedTuple

_STARTED = 19  # field of /proc/PID/stat behind the name, from 0
_STATE = 0


class Process(NamedTuple):
    """A process as others can name it.

    Args:
        host: name of its machine.
        place: where its number counts: one boot of one machine, and one container there.
        number: of the process.
        started: when, as the machine counts; empty where it does not say.
    """

    host: str
    place: str
    number: int
    started: str


def this() -> Process:
    """The calling process."""
    number = os.getpid()
    return Process(socket.gethostname(), _place(), number, _stat(number)[1])


def lives(process: Process) -> bool | None:
    """Whether a process lives.

    Returns:
        None for one of another machine or container, which nobody here can see.
    """
    if process.place != _place():
        return None
    try:
        os.kill(process.number, 0)
    except ProcessLookupError:
        return False
    except (OverflowError, OSError):  # of another user
        pass
    state, started = _stat(process.number)
    return state != "Z" and started == process.started


def _place() -> str:
    parts = [socket.gethostname()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:  # not Linux
        pass
    return " ".join(parts)


def _stat(number: int) -> tuple[str, str]:
    """State and start of a process; empty where there is no /proc."""
    try:
        text = Path(f"/proc/{number}/stat").read_bytes().decode(errors="replace")
    except OSError:
        return "", ""
    fields = text.rpartition(")")[2].split()  # its name may hold anything
    return fields[_STATE], fields[_STARTED]
