"""The web server of a page: Voila's rendering, behind a gate that lets only its visitors in.

Voila turns the notebook into a page and carries messages between widgets and kernels. What may be
asked for, by whom, and what is answered otherwise, is decided here.
"""

import asyncio
import logging
import secrets
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader
from jupyter_server.base.handlers import FileFindHandler, JupyterHandler
from jupyter_server.services.kernels.handlers import KernelHandler
from jupyterlab_server.themes_handler import ThemesHandler
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest, split_host_and_port
from tornado.iostream import StreamClosedError
from tornado.web import Application, RequestHandler
from traitlets.config import Config
from voila.app import Voila
from voila.configuration import VoilaConfiguration
from voila.notebook_renderer import NotebookRenderer
from voila.static_file_handler import MultiStaticFileHandler
from voila.tornado.kernel_websocket_handler import VoilaKernelWebsocketHandler
from voila.utils import get_page_config, get_voila_labextensions_path
from voila.voila_identity_provider import VoilaIdentityProvider

from rtl_utils.app._kernels import Kernels
from rtl_utils.app._limits import Limits
from rtl_utils.forks import ForkServer
from rtl_utils.messages import cut

_TEMPLATES = Path(__file__).with_name("templates")
_EVERY = 0.25  # seconds between two looks at the kernels
_LONGEST = 300  # characters of an error in the terminal
_ID = r"(?P<kernel_id>\w+-\w+-\w+-\w+-\w+)"
_EXTENSIONS = [
    "@jupyter-widgets/jupyterlab-manager",
    "@voila-dashboards/widgets-manager8",
    "anywidget",
]
# what a browser may load for the page: nothing from another machine
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline' blob:; img-src 'self' data: blob:; font-src 'self' data:; "
    "frame-ancestors 'none'; form-action 'self'"
)
_WORDS = {
    404: "There is nothing at this address. The page itself is at /.",
    500: "The page could not be made; the terminal in which it was started says why.",
    503: "Every place on this page is taken. Try again in a few minutes.",
}
_FOREIGN = "This page only answers to the machine that it runs on, and to no other page."
_NO_TOKEN = "This page needs its token: open the whole address that the terminal shows."
_LOG = logging.getLogger("rtl_utils.app")


class Gate(NamedTuple):
    """Who may ask for anything.

    Args:
        port: that the server listens on.
        token: that visitors must know; "" on loopback, where none is needed.
    """

    port: int
    token: str

    @property
    def cookie(self) -> str:
        """Name of the cookie that remembers the token; cookies do not tell ports apart."""
        return f"rtl-app-{self.port}"

    def refusal(self, request: HTTPServerRequest) -> str | None:
        """Why this request is refused, in words; None if it is not."""
        origin = request.headers.get("Origin")
        if origin is not None and origin.split("://")[-1].lower() != request.host.lower():
            return _FOREIGN
        if _embedded(request):
            return _FOREIGN
        if not self.token:
            return None if is_loopback(split_host_and_port(request.host)[0]) else _FOREIGN
        remembered = request.cookies.get(self.cookie)
        known = self.knows(request) or (remembered and self._equal(remembered.value))
        return None if known else _NO_TOKEN

    def knows(self, request: HTTPServerRequest) -> bool:
        """Whether the address of a request carries the token."""
        given = request.query_arguments.get("token", [b""])[0]
        return bool(self.token) and self._equal(given.decode(errors="replace"))

    def _equal(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), self.token.encode())


class Server:
    """Serves one notebook as a page, until it is told to stop.

    Args:
        notebook: the page.
        sockets: that listen.
        gate: who is let in.
        limits: of the visitors.
        ready: called once, when the page can be asked for.
        notice: called with a sentence for the terminal: an error, or a visitor who was refused.
    """

    def __init__(
        self,
        notebook: Path,
        sockets: Sequence[socket.socket],
        gate: Gate,
        limits: Limits,
        ready: Callable[[], object],
        notice: Callable[[str], object],
    ) -> None:
        self._notebook = notebook
        self._sockets = sockets
        self._gate = gate
        self._limits = limits
        self._ready = ready
        self._notice = notice
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Make `run` return; may be called from any thread."""
        self._stopped.set()

    def run(self) -> None:
        """Serve; afterwards no kernel is left."""
        with _in_lines(self._notice):
            asyncio.run(self._serve())

    async def _serve(self) -> None:
        forks = ForkServer(cores=1)  # visitors share the processor
        with tempfile.TemporaryDirectory(prefix="rtl-app-") as folder:
            page = _Page(self._notebook, folder, self._limits, forks, self._notice)
            site = _Site(self._gate, page)
            server = HTTPServer(site)
            server.add_sockets(self._sockets)
            try:
                page.kernel_manager.prepare()
                self._ready()
                while not self._stopped.is_set():
                    await page.kernel_manager.cull()
                    await asyncio.sleep(_EVERY)
            finally:
                server.stop()
                await page.kernel_manager.close()
                await server.close_all_connections()


def _embedded(request: HTTPServerRequest) -> bool:
    """Whether another site's page asks for this, without its visitor having followed a link.

    Browsers say so; a picture or a frame of another site would take a visitor's place.
    """
    headers = request.headers
    if headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin"):
        return False
    return (headers.get("Sec-Fetch-Mode"), headers.get("Sec-Fetch-Dest")) != (
        "navigate",
        "document",
    )


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is that of the machine itself."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


@contextmanager
def _in_lines(notice: Callable[[str], object]) -> Iterator[None]:
    """Errors that the libraries log, each in one line; nothing else that they log."""

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error = record.exc_info[1] if record.exc_info else None
            if isinstance(error, asyncio.CancelledError):  # a request that was open at the end
                return
            text = record.getMessage().strip().split("\n")[0]
            notice(cut(f"{text}: {error!r}" if error else text, _LONGEST))

    lines = Lines(logging.ERROR)
    loggers = [_LOG, logging.getLogger("tornado")]
    before = [logger.propagate for logger in loggers]
    for logger in loggers:
        logger.addHandler(lines)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, propagate in zip(loggers, before, strict=True):
            logger.removeHandler(lines)
            logger.propagate = propagate


class _Page(Voila):  # type: ignore[misc]  # Voila has no annotations
    """Voila with our kernels and template, and none of the user's configuration.

    Args:
        notebook: the page.
        folder: for the kernels' files.
        limits: of the visitors.
        forks: forks the kernels.
        notice: called with a sentence for the terminal.
    """

    def __init__(
        self,
        notebook: Path,
        folder: str,
        limits: Limits,
        forks: ForkServer,
        notice: Callable[[str], object],
    ) -> None:
        config = Config()
        config.VoilaConfiguration.allow_template_override = "NO"
        config.VoilaConfiguration.allow_theme_override = "NO"
        config.VoilaConfiguration.extension_allowlist = _EXTENSIONS
        config.VoilaConfiguration.multi_kernel_manager_class = Kernels
        config.VoilaConfiguration.show_tracebacks = True  # the template makes sentences of them
        config.VoilaExecutor.on_cell_error = _cell_error(notice)
        self.limits = limits
        self.forks = forks
        self.notice = notice
        super().__init__(
            log=_LOG,
            config=config,
            notebook_path=str(notebook),
            connection_dir=folder,
            identity_provider_class=VoilaIdentityProvider,
        )
        self.voila_configuration = VoilaConfiguration(parent=self)
        self.setup_template_dirs()
        self.template_paths.insert(0, str(_TEMPLATES))

    def init_handlers(self) -> list[Any]:
        """What can be asked for; all else is not there."""
        files = {"path": self.labextensions_path, "no_cache_paths": ["/"]}
        themes = {
            "path": self.themes_dir,
            "themes_url": "/voila/api/themes",
            "labextensions_path": get_voila_labextensions_path(),
            "no_cache_paths": ["/"],
        }
        return [
            (r"/", _PageHandler),
            (rf"/ended/{_ID}", _EndedHandler),
            (rf"/api/kernels/{_ID}", KernelHandler),
            (rf"/api/kernels/{_ID}/channels", _ChannelsHandler),
            (rf"/voila/api/shutdown/{_ID}", _LeftHandler),
            (r"/voila/api/themes/(.*)", _ThemesHandler, themes),
            (r"/voila/labextensions/(.*)", _FilesHandler, files),
            (r"/voila/static/(.*)", _StaticHandler, {"paths": self.static_paths}),
            (r"/voila/templates/lab/static/(.*)", _StaticHandler, {"paths": self.static_paths}),
        ]

    async def renderer(self, handler: JupyterHandler) -> NotebookRenderer:
        """What makes the page for one visitor."""
        shared = {"base_url": self.base_url, "voila_configuration": self.voila_configuration}
        renderer = NotebookRenderer(
            request_handler=handler,
            traitlet_config=self.config,
            notebook_path=Path(self.notebook_path).name,
            template_paths=self.template_paths,
            config_manager=self.config_manager,
            contents_manager=self.contents_manager,
            kernel_spec_manager=self.kernel_spec_manager,
            page_config=get_page_config(settings=handler.settings, log=_LOG, **shared),
            **shared,
        )
        await renderer.initialize()
        return renderer


def _cell_error(notice: Callable[[str], object]) -> Callable[..., None]:
    """What tells the terminal of an error; a plain function, since configurations are copied."""

    def tell(cell: Any, cell_index: int, execute_reply: Any) -> None:
        error = execute_reply["content"]
        notice(cut(f"a cell of the page failed: {error['ename']}: {error['evalue']}", _LONGEST))

    return tell


class _Site(Application):
    """The page, behind the gate."""

    def __init__(self, gate: Gate, page: _Page) -> None:
        settings = page.init_settings() | {
            "default_handler_class": _NothingHandler,
            "log_function": lambda handler: None,
            "gate": gate,
            "page": page,
        }
        super().__init__(page.init_handlers(), **settings)
        self._gate = gate

    def find_handler(self, request: HTTPServerRequest, **given: Any) -> Any:
        """What answers a request: the gate, or what lies behind it."""
        refusal = self._gate.refusal(request)
        if refusal is not None:
            return self.get_handler_delegate(request, _RefusingHandler, {"words": refusal})
        if self._gate.knows(request):
            return self.get_handler_delegate(request, _TokenHandler)
        return super().find_handler(request, **given)


class _InWords(RequestHandler):
    """Answers an error with a small page of one sentence."""

    def write_error(self, status_code: int, **_: Any) -> None:
        if status_code == 403:  # a path that leads out of a folder, or a method that is not there
            status_code = 404
            self.set_status(status_code)
        self.say(_WORDS.get(status_code, f"The page cannot answer this: {self._reason}."))

    def say(self, words: str) -> None:
        """Finish with a page that says this."""
        templates = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True)
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Content-Security-Policy", _POLICY)
        self.finish(templates.get_template("message.html.j2").render(words=words))


class _NothingHandler(_InWords):
    def prepare(self) -> None:
        self.send_error(404)


class _RefusingHandler(_InWords):
    def initialize(self, words: str) -> None:
        self._words = words

    def prepare(self) -> None:
        self.set_status(403)
        self.say(self._words)


class _TokenHandler(RequestHandler):
    """Remembers the token, and leads to the page without it in the address."""

    def get(self) -> None:
        gate: Gate = self.settings["gate"]
        self.set_cookie(gate.cookie, gate.token, httponly=True, samesite="Lax")
        self.redirect("/")


class _PageHandler(_InWords, JupyterHandler):
    """The page, sent while it is made: its head first, so that the visitor sees that it starts."""

    async def get(self) -> None:
        page: _Page = self.settings["page"]
        kernels: Kernels = page.kernel_manager
        renderer = await page.renderer(self)
        kernel_id, kernel = kernels.admit()
        renderer.resources["kernel_id"] = kernel_id
        self.set_header("Cache-Control", "no-store")
        # some browsers do not count a websocket among what 'self' is
        policy = f"{_POLICY}; connect-src 'self' ws://{self.request.host}"
        self.set_header("Content-Security-Policy", policy)
        try:
            async for piece, _ in renderer.generate_content_generator(kernel_id, kernel):
                self.write(piece)
                await self.flush()
        except StreamClosedError:  # the visitor has left, which is noticed as on a complete page
            return
        except Exception as error:
            page.notice(f"the page could not be made: {error!r}")
            kernels.end(kernel_id, _WORDS[500])

    def write_error(self, status_code: int, **given: Any) -> None:
        if status_code == 503:
            visitors = self.settings["page"].limits.visitors
            places = "all its places are" if visitors > 1 else "its place is"
            self.settings["page"].notice(
                f"a visitor was refused: {places} taken; --visitors {visitors} says how many"
            )
        super().write_error(status_code, **given)


class _EndedHandler(RequestHandler):
    """Answers when a kernel ends, with a sentence for its page."""

    async def get(self, kernel_id: str) -> None:
        words = await asyncio.shield(self.settings["kernel_manager"].ended(kernel_id))
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        with suppress(StreamClosedError):  # the page was closed meanwhile
            await self.finish(words)


class _LeftHandler(RequestHandler):
    """Called by a page as it is closed."""

    def post(self, kernel_id: str) -> None:
        self.settings["kernel_manager"].end(kernel_id)
        self.set_status(204)


class _ChannelsHandler(_InWords, VoilaKernelWebsocketHandler):  # type: ignore[misc]
    """The connection of a page to its kernel."""

    async def open(self, kernel_id: str) -> None:
        ended = self.settings["kernel_manager"].ended(kernel_id)
        ended.add_done_callback(lambda _: self.close())
        await super().open(kernel_id)

    def on_message(self, ws_message: Any) -> None:
        if self.ws_connection is not None:  # else it was closed while this was on its way
            super().on_message(ws_message)


class _FilesHandler(_InWords, FileFindHandler):
    pass


class _ThemesHandler(_InWords, ThemesHandler):
    pass


class _StaticHandler(_InWords, MultiStaticFileHandler):  # type: ignore[misc]
    pass
