"""`rtl app` in a process of its own, for tests of its pages."""

import http.client
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

# `rtl` with another page than the course's
PROGRAM = """
import sys
from pathlib import Path
from rtl_utils import app, cli
app.PAGE = Path(sys.argv[1])
sys.exit(cli.main(["app", *sys.argv[2:]]))
"""


class Server:
    """`rtl app` on a notebook, as a running process that has said where it is."""

    def __init__(self, page: Path, *arguments: str) -> None:
        command = [sys.executable, "-c", PROGRAM, str(page), "--port", "0", *arguments]
        self.process = start(command)
        self.address = self.process.stdout.readline().strip()
        self.port = urlsplit(self.address).port

    def ask(self, path="/", method="GET", body=None, **headers):
        """Status, headers and text of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
        connection.close()
        return answer.status, answer.headers, text

    def kernel(self) -> str:
        """Id of the kernel of a new visitor, who takes the page and opens no connection."""
        return re.search(r"ended/([0-9a-f-]+)", self.ask()[2])[1]

    def has(self, kernel: str) -> bool:
        return self.ask(f"/api/kernels/{kernel}")[0] == 200

    def stop(self) -> list[str]:
        """End it, and return the lines that it wrote to stderr."""
        self.process.send_signal(signal.SIGINT)
        return self.process.communicate(timeout=60)[1].splitlines()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.returncode is None:
            self.stop()


def start(command, **options):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, **pipes, **options)


def soon(true: Callable[[], object], seconds: float = 30) -> bool:
    """Whether this becomes true in this time."""
    until = time.monotonic() + seconds
    while not (now := true()) and time.monotonic() < until:
        time.sleep(0.05)
    return bool(now)


def page_of(folder: Path, cell: str) -> Path:
    """A notebook of one cell."""
    page = folder / "page.ipynb"
    notebook = new_notebook(cells=[new_code_cell(cell)], metadata={"title": "A small page"})
    nbformat.write(notebook, page)
    return page


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])
