"""`rtl app`: the course's sliders as a page."""

import argparse
import sys
from typing import Any

from rtl_utils import app as pages
from rtl_utils.cli._console import complain, say

_LIMITS = pages.Limits()


def add_app(commands: Any) -> None:
    app = commands.add_parser("app", help="serve the sliders as a page, until Ctrl-C ends it")
    app.add_argument(
        "--host",
        default=pages.HOST,
        metavar="HOST",
        help=f"address to listen on (default: {pages.HOST}, this machine alone); on any other, "
        "visitors need the token that the printed address carries",
    )
    app.add_argument(
        "--port",
        type=int,
        metavar="N",
        help=f"port to listen on, 0 for any free one (default: {pages.PORT}, or the next free one)",
    )
    app.add_argument(
        "--visitors",
        type=int,
        default=_LIMITS.visitors,
        metavar="N",
        help=f"how many pages may be open at once (default: {_LIMITS.visitors}); each has a "
        "process of its own",
    )
    app.add_argument(
        "--idle",
        type=float,
        default=_LIMITS.idle / 60,
        metavar="MINUTES",
        help="minutes without any use after which a page is ended (default: "
        f"{_LIMITS.idle / 60:g})",
    )
    app.set_defaults(call=_app)


def _app(options: argparse.Namespace) -> int:
    limits = pages.Limits(options.visitors, 60 * options.idle)
    pages.serve(_show, complain, pages.PAGE, options.host, options.port, limits)
    return 0


def _show(address: str) -> None:
    """Print the address at once, also into a pipe."""
    say(address)
    if sys.stdout is not None:
        sys.stdout.flush()
