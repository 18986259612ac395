"""`rtl app` in a process of its own: the page in a real browser, and what else may be asked for."""

import json
import os
import re
import signal
import socket
import sys
import tempfile
from contextlib import suppress
from urllib.parse import urlsplit

import browser
import psutil
import pytest
from playwright.sync_api import expect
from small_app import Server, page_of, soon, start
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from rtl_utils import cli
from rtl_utils.app import PORT

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

SLIDER = """
import ipywidgets as widgets
slider = widgets.FloatSlider(max=1, step=0.1, description="tau")
label = widgets.Label("tau is 0.0")
slider.observe(lambda change: setattr(label, "value", f"tau is {slider.value:.1f}"), "value")
button = widgets.Button(description="Fail")
def fail(_):
    raise ValueError("no such tau")
button.on_click(fail)
widgets.VBox([slider, label, button])
"""
BAD = """
import time
import warnings
from pathlib import Path
while not Path({go!r}).exists():
    time.sleep(0.05)
warnings.warn("old")
raise ValueError("the <b>runs</b> are missing")
"""
BUSY = """
import threading
import time
import ipywidgets as widgets
label = widgets.Label("ready")
button = widgets.Button(description="Train")
def train(_):
    def steps():
        for step in range(20):
            label.value = f"step {step}"
            time.sleep(0.25)
        label.value = "trained"
    threading.Thread(target=steps).start()
button.on_click(train)
widgets.VBox([label, button])
"""
IDLE = 3.0  # seconds; a training takes longer


def served(tmp_path_factory, cell, *arguments):
    with Server(page_of(tmp_path_factory.mktemp("page"), cell), *arguments) as server:
        yield server


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    yield from served(tmp_path_factory, SLIDER)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    yield from served(tmp_path_factory, SLIDER, "--host", "0.0.0.0")


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    yield from served(tmp_path_factory, BUSY, "--visitors", "1", "--idle", str(IDLE / 60))


@pytest.fixture(scope="module")
def chromium():
    with browser.chromium() as started:
        yield started


def slide(page, steps=1):
    """Move the slider by its keys."""
    page.locator(".noUi-handle").focus(timeout=60_000)
    for _ in range(steps):
        page.keyboard.press("ArrowRight")


def shown(page, text):
    expect(page.get_by_text(text)).to_be_visible(timeout=60_000)


def test_the_slider_of_the_page_works_and_the_page_is_complete(small, chromium):
    with browser.visit(chromium, small.address) as (page, errors, foreign):
        slide(page, 3)
        shown(page, "tau is 0.3")
        assert page.title() == "A small page"
        assert page.locator("html").get_attribute("lang") == "en"
        assert page.locator("h1").inner_text() == "A small page"
        assert "FloatSlider" not in page.content()
        expect(page.locator("#starting")).to_have_count(0)
        assert errors == foreign == []


def test_a_phone_shows_the_page_in_its_width(small, chromium):
    with browser.visit(chromium, small.address, 390, 844) as (page, _, _):
        slide(page)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        box = page.locator(".widget-slider").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390


def test_two_visitors_do_not_disturb_each_other(small, chromium):
    with (
        browser.visit(chromium, small.address) as (one, *_),
        browser.visit(chromium, small.address) as (other, *_),
    ):
        slide(one, 2)
        shown(one, "tau is 0.2")
        slide(other, 5)
        shown(other, "tau is 0.5")
        shown(one, "tau is 0.2")


def test_a_failing_callback_shows_no_traceback_and_stops_nothing(small, chromium):
    with browser.visit(chromium, small.address) as (page, errors, _):
        page.get_by_role("button", name="Fail").click(timeout=60_000)
        slide(page, 4)  # answered after the failure
        shown(page, "tau is 0.4")
        text = page.locator("body").inner_text()
        assert "Traceback" not in text and "ValueError" not in text
        assert errors == []


def test_a_closed_page_takes_its_kernel_along(small, chromium):
    with browser.visit(chromium, small.address) as (page, *_):
        slide(page)
        shown(page, "tau is 0.1")
        kernel = page.evaluate("document.documentElement.outerHTML.match(/ended.([0-9a-f-]+)/)[1]")
        assert small.has(kernel)
        page.goto("about:blank")
        assert soon(lambda: not small.has(kernel))


def test_a_page_says_that_it_starts_and_in_a_sentence_that_its_cell_failed(tmp_path, chromium):
    with (
        Server(page_of(tmp_path, BAD.format(go=str(tmp_path / "go")))) as server,
        browser.visit(chromium, server.address) as (page, errors, _),
    ):
        expect(page.locator("#starting")).to_have_text("Starting …", timeout=60_000)
        (tmp_path / "go").touch()
        expect(page.locator("main [role=alert]")).to_have_text(
            "the <b>runs</b> are missing", timeout=60_000
        )
        expect(page.locator("#starting")).to_have_count(0)
        text = page.locator("body").inner_text()
        assert "Traceback" not in text and "warn" not in text
        assert errors == []
        assert server.stop() == [
            "rtl: a cell of the page failed: ValueError: the <b>runs</b> are missing",
            "rtl: stopped",
        ]
        expect(page.locator("#ended")).to_have_text(
            "This page has ended. Reload it to start again.", timeout=60_000
        )


def test_a_page_whose_connection_breaks_is_ended_within_the_idle_time(strict):
    kernel = strict.kernel()
    with connect(f"ws://127.0.0.1:{strict.port}/api/kernels/{kernel}/channels"):
        assert strict.has(kernel)
    assert soon(lambda: not strict.has(kernel))


def test_places_are_bounded_and_an_idle_page_gives_its_own_back(strict, chromium):
    with browser.visit(chromium, strict.address) as (page, *_):
        page.get_by_role("button", name="Train").click(timeout=60_000)
        status, _, text = strict.ask()
        assert status == 503
        assert "Every place on this page is taken. Try again in a few minutes." in text
        assert strict.process.stderr.readline() == (
            "rtl: a visitor was refused: its place is taken; --visitors 1 says how many\n"
        )
        shown(page, "trained")  # it lasts longer than a page may be idle
        expect(page.locator("#ended")).to_have_text(
            "This page was idle for 3 s. Reload it to start again.", timeout=60_000
        )
        assert soon(lambda: strict.ask()[0] == 200)


@pytest.mark.parametrize(
    "path",
    [
        "/page.ipynb",
        "/files/page.ipynb",
        "/voila/files/page.ipynb",
        "/voila/files/../page.ipynb",
        "/voila/render/page.ipynb",
        "/voila/tree",
        "/voila/static/../../../../../../../../etc/passwd",
        "/voila/static/..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/voila/static/%2fetc%2fpasswd",
        "/voila/templates/lab/static/../../../../../../../../../etc/passwd",
        "/voila/templates/base/static/voila.js",
        "/voila/labextensions/../../../etc/passwd",
        "/voila/api/themes/..%2f..%2f..%2fetc/passwd",
        "/voila/api/contents/",
        "/api/contents",
        "/api/contents/page.ipynb",
        "/api/kernels",
        "/api/sessions",
        "/api/terminals",
        "/nbconvert/html/page.ipynb",
        "/lab",
        "/login",
    ],
)
def test_nothing_but_the_page_is_served(path, small):
    status, _, text = small.ask(path)
    assert status == 404
    assert "There is nothing at this address." in text
    assert "root:" not in text


def test_no_kernel_can_be_started_but_by_the_page(small):
    assert small.ask("/api/kernels", "POST", json.dumps({"name": "python3"}))[0] == 404
    assert small.ask("/", "POST")[0] == 404


def message(kind, **content):
    header = {"msg_id": kind, "msg_type": kind, "username": "", "session": "s", "version": "5.3"}
    parts = {"parent_header": {}, "metadata": {}, "content": content, "buffers": []}
    return json.dumps({"header": header, "channel": "shell"} | parts)


def test_a_page_cannot_make_its_kernel_execute_code(small, tmp_path):
    kernel = small.kernel()
    code = f"open({str(tmp_path / 'written')!r}, 'w')"
    with connect(f"ws://127.0.0.1:{small.port}/api/kernels/{kernel}/channels") as channels:
        channels.send(message("execute_request", code=code, silent=False))
        channels.send(message("comm_info_request"))  # answered after what was sent before it
        while json.loads(channels.recv(timeout=60))["msg_type"] != "comm_info_reply":
            continue
    assert not (tmp_path / "written").exists()


def test_other_sites_reach_neither_the_page_nor_a_kernel(small):
    kernel = small.kernel()
    foreign = {"Host": f"evil.example:{small.port}"}
    assert small.ask(**foreign)[0] == 403
    for origin in ("http://evil.example", "null", f"http://127.0.0.1:{small.port + 1}"):
        assert small.ask(Origin=origin)[0] == 403
        with pytest.raises(InvalidStatus, match="403"):
            connect(
                f"ws://127.0.0.1:{small.port}/api/kernels/{kernel}/channels",
                additional_headers={"Origin": origin},
            )
    assert (
        small.ask(f"/voila/api/shutdown/{kernel}", "POST", Origin="http://evil.example")[0] == 403
    )
    assert small.has(kernel)
    assert small.ask(Origin=f"http://127.0.0.1:{small.port}")[0] == 200
    picture = {
        "Sec_Fetch_Site": "cross-site",
        "Sec_Fetch_Mode": "no-cors",
        "Sec_Fetch_Dest": "image",
    }
    assert small.ask(**picture)[0] == 403, "a picture of another site takes a place"
    link = {
        "Sec_Fetch_Site": "cross-site",
        "Sec_Fetch_Mode": "navigate",
        "Sec_Fetch_Dest": "document",
    }
    assert small.ask(**link)[0] == 200


def test_another_address_than_loopback_needs_the_token(guarded, chromium):
    parts = urlsplit(guarded.address)
    assert parts.hostname != "127.0.0.1"
    with socket.create_connection((parts.hostname, parts.port), timeout=10):
        pass  # whoever is told this address reaches the page
    token = parts.query.removeprefix("token=")
    for path in (
        "/",
        "/?token=",
        "/?token=wrong",
        f"/?token={token[:-1]}",
        "/voila/static/voila.js",
    ):
        status, _, text = guarded.ask(path)
        assert status == 403
        assert "This page needs its token: open the whole address" in text
    status, headers, _ = guarded.ask(f"/?token={token}")
    assert (status, headers["Location"]) == (302, "/")
    cookie = headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert guarded.ask("/voila/static/voila.js", Cookie=cookie.split(";")[0])[0] == 200
    assert guarded.ask(Cookie=f"rtl-app-{guarded.port}=wrong")[0] == 403
    with browser.visit(chromium, f"http://127.0.0.1:{guarded.port}/?token={token}") as visited:
        slide(visited.page)
        shown(visited.page, "tau is 0.1")
        assert "token" not in visited.page.url
        assert visited.errors == visited.foreign == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_says_where_the_page_is_and_leaves_nothing_behind(number, status):
    with tempfile.TemporaryDirectory(prefix="rtl-", dir="/tmp") as folder, socket.socket() as other:
        with suppress(OSError):  # another program has it
            other.bind(("127.0.0.1", PORT))
            other.listen()
        command = [sys.executable, "-m", "rtl_utils.cli", "app"]
        process = start(command, env=os.environ | {"TMPDIR": folder})
        port = int(re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\n", process.stdout.readline())[1])
        assert PORT < port <= PORT + 50  # the next free one
        parent = psutil.Process(process.pid)
        if number == signal.SIGINT:  # else it ends while the first kernel still starts
            assert soon(lambda: len(parent.children(recursive=True)) == 2)
        children = parent.children(recursive=True)
        process.send_signal(number)
        rest, complaint = process.communicate(timeout=30)
        assert (process.returncode, rest, complaint) == (status, "", "rtl: stopped\n")
        assert psutil.wait_procs(children, timeout=10)[1] == []
        assert os.listdir(folder) == []


def test_a_port_that_was_asked_for_is_not_replaced_where_it_is_taken(small, capsys):
    assert cli.main(["app", "--port", str(small.port)]) == 2
    assert capsys.readouterr().err == (
        f"rtl: port {small.port} is taken; choose another with --port, or 0 for any free one\n"
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--port", "65536"], "the port must be from 0 to 65535; got 65536"),
        (["--port", "x"], "argument --port: invalid int value: 'x'"),
        (["--visitors", "0"], "a page needs room for at least 1 visitor; got 0"),
        (["--idle", "0"], "the idle time must be a finite number of minutes above 0; got 0"),
        (["--idle", "nan"], "the idle time must be a finite number of minutes above 0; got nan"),
        (["--host", "no.such.invalid"], "an address or a name of this machine; got 'no.such.inv"),
        (["--host", ""], "the host must be an address or a name of this machine; got ''"),
        (["--host", "192.0.2.1"], "must be an address or a name of this machine; got '192.0.2.1'"),
    ],
)
def test_bad_values_are_one_sentence(arguments, complaint, capsys):
    assert cli.main(["app", *arguments]) == 2
    written = capsys.readouterr()
    assert complaint in written.err
    assert written.err.count("\n") == 1 and written.out == ""


def test_without_voila_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "rtl_utils.app._server", raising=False)
    monkeypatch.setitem(sys.modules, "voila.app", None)
    assert cli.main(["app"]) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("rtl: the page needs Voila: pip install 'rtl-utils[app]' (")
    assert complaint.count("\n") == 1
