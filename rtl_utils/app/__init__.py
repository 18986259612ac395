"""The course's sliders as a web page: each visitor has a kernel, and needs nothing but a browser.

Voila serves it, since a panel that is written once with ipywidgets then is the same in a notebook
and on the page; Solara and Panel would want the panels written anew.
"""

import errno
import secrets
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rtl_utils.app._limits import Limits
from rtl_utils.messages import shown

__all__ = ["HOST", "PAGE", "PORT", "Limits", "serve"]

HOST = "127.0.0.1"
PAGE = Path(__file__).with_name("page.ipynb")
PORT = 8866
_FURTHER = 50  # ports that are tried after PORT


def serve(
    ready: Callable[[str], object],
    notice: Callable[[str], object],
    notebook: Path = PAGE,
    host: str = HOST,
    port: int | None = None,
    limits: Limits = Limits(),
) -> None:
    """Serve a notebook as a page until this thread is interrupted.

    On loopback everybody of this machine may visit it. On any other address visitors need the token
    that the address carries.

    Args:
        ready: called with the address, once, when the page can be opened.
        notice: called with a sentence for the terminal: an error, or a visitor who was refused.
        notebook: what its cells show is the page.
        host: address of this machine to listen on.
        port: to listen on, 0 for any free one; None: PORT, or the next free one.
        limits: of the visitors.

    Raises:
        ValueError: for limits that are none, a port that cannot be had, or a host that this
            machine does not have; or without Voila.
        FileNotFoundError: if there is no such notebook.
    """
    _check(notebook, limits)
    try:
        from rtl_utils.app._server import Gate, Server, is_loopback
    except ModuleNotFoundError as error:
        needed = "the page needs Voila: pip install 'rtl-utils[app]'"
        raise ValueError(f"{needed} ({error})") from error
    sockets = _listen(host, port)
    bound = sockets[0].getsockname()[1]
    token = "" if is_loopback(host) else secrets.token_urlsafe()
    address = f"http://{_name(host)}:{bound}/" + (f"?token={token}" if token else "")
    gate = Gate(bound, token)
    server = Server(notebook, sockets, gate, limits, lambda: ready(address), notice)
    # in a thread: an interruption reaches the main one, and must find no library's code there
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(server.run)
        try:
            running.result()
        finally:
            server.stop()


def _check(notebook: Path, limits: Limits) -> None:
    """Raises for a notebook or limits that cannot be."""
    if not notebook.is_file():
        raise FileNotFoundError(f"there is no notebook {shown(str(notebook))} to be the page")
    if limits.visitors < 1:
        raise ValueError(f"a page needs room for at least 1 visitor; got {limits.visitors}")
    if not 0 < limits.idle < float("inf"):
        raise ValueError(
            f"the idle time must be a finite number of minutes above 0; got {limits.idle / 60:g}"
        )


def _listen(host: str, port: int | None) -> list[socket.socket]:
    """Sockets that listen on a port."""
    from tornado.netutil import bind_sockets

    if port is not None and not 0 <= port <= 65535:
        raise ValueError(f"the port must be from 0 to 65535; got {port}")
    unknown = "the host must be an address or a name of this machine"
    try:
        found = host and socket.getaddrinfo(host, None)
    except (OSError, UnicodeError):
        found = ""
    if not found:
        raise ValueError(f"{unknown}; got {shown(host)}")
    for tried in range(PORT, PORT + _FURTHER + 1) if port is None else [port]:
        try:
            return bind_sockets(tried, host)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise ValueError(f"{unknown}; got {shown(host)}") from None
            if error.errno != errno.EADDRINUSE:
                problem = f"port {tried} cannot be listened on: {error.strerror}"
                raise ValueError(problem) from None
    taken = f"port {port} is" if port is not None else f"ports {PORT} to {PORT + _FURTHER} are"
    raise ValueError(f"{taken} taken; choose another with --port, or 0 for any free one")


def _name(host: str) -> str:
    """How an address on the page's machine is written by others."""
    if host in ("0.0.0.0", "::"):
        return _outward()
    return f"[{host}]" if ":" in host else host


def _outward() -> str:
    """This machine's address as other machines see it; its name where there is no network.

    Names are often known to the machine alone. Nothing is sent: a datagram socket is only routed.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as routed:
        try:
            routed.connect(("192.0.2.1", 9))  # an address of documentation, RFC 5737
        except OSError:
            return socket.gethostname()
        return str(routed.getsockname()[0])
