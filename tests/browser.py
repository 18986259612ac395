"""Real headless Chromium for tests of pages: what a page shows, logs and asks for."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
LOCAL = ("http://127.0.0.1:", "file://", "data:", "blob:", "about:")


class Watched(NamedTuple):
    """A page, and what went on in it.

    Args:
        page: open in the browser.
        errors: of its console, and exceptions that nobody caught.
        foreign: addresses on other machines that it asked for.
    """

    page: Page
    errors: list[str]
    foreign: list[str]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Headless Chromium: Debian's package, or what else is installed."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"needs a browser, one of {', '.join(NAMES)}: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def visit(
    browser: Browser, address: str, width: int = 1280, height: int = 720
) -> Iterator[Watched]:
    """A page of this size, opened as by a new visitor; returns before it is complete.

    Wait for what the page is to show: its network is never idle while its kernel lives.
    """
    context = browser.new_context(viewport={"width": width, "height": height})
    watched = Watched(context.new_page(), [], [])

    def logged(message: ConsoleMessage) -> None:
        if message.type == "error":
            watched.errors.append(f"{message.text} ({message.location['url']})")

    def asked(request: Request) -> None:
        if not request.url.startswith(LOCAL):
            watched.foreign.append(request.url)

    watched.page.on("console", logged)
    watched.page.on("pageerror", lambda error: watched.errors.append(str(error)))
    watched.page.on("request", asked)
    watched.page.on("websocket", lambda socket: watched.foreign.extend(_foreign(socket.url)))
    watched.page.goto(address, wait_until="commit")
    yield watched
    context.close()


def _foreign(address: str) -> list[str]:
    return [] if address.startswith("ws://127.0.0.1:") else [address]
