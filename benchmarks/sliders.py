"""How fast the sliders answer: in a kernel, in a browser, and while a race trains."""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import Page, sync_playwright

from rtl_utils import kernels

Figure = dict[str, Any]
MOVES = 60
VISITS = 5
RACING = 6.0  # seconds of a race that are looked at

CELL = """
import ipywidgets
from rtl_utils import widgets
race = widgets.RacePanel()
race.entries.epochs.value = race.entries.epochs.max
ipywidgets.VBox([widgets.PathPanel(), race])
"""
# in the kernel: from the value of the slider to the message for the canvas
TIMED = """
import json, time
from rtl_utils import widgets
path, ball = widgets.PathPanel(), widgets.BallPanel()
def timed(slider, values):
    times = []
    for value in values:
        start = time.perf_counter()
        slider.value = value
        times.append(time.perf_counter() - start)
    return times
def drawn():
    start = time.perf_counter()
    path.picture()
    return time.perf_counter() - start
tau = timed(path.tau, [move * 7 % 21 / 20 for move in range(1, 61)])
pair = timed(path.pair, range(2, 41))
image = timed(ball.image, range(2, 41))
print(json.dumps([tau, pair, image, [drawn() for _ in range(5)]]))
"""
SERVER = """
import sys
from pathlib import Path
from rtl_utils import app
app.serve(lambda address: print(address, flush=True), print, Path(sys.argv[1]), port=0)
"""
# when the slider was moved, and when the canvas showed which tau
WATCH = """() => {
  window.moved = [];
  window.drawn = [];
  addEventListener("pointermove", () => moved.push(performance.now()), true);
  for (const scene of document.querySelectorAll(".rtl-scene")) {
    const seen = () => drawn.push([performance.now(), scene.textContent, scene === document
      .querySelector(".rtl-scene")]);
    new MutationObserver(seen).observe(scene, { attributeFilter: ["data-drawn"] });
  }
}"""


def measured() -> dict[str, Figure]:
    """Name of each claim -> what was measured, and the limit."""
    figures = in_the_kernel()
    with tempfile.TemporaryDirectory() as place, _address(Path(place)) as (address, ready):
        figures["`rtl app`: from the command to its address"] = ready
        with _browser() as browser:
            figures["from a visit to the first picture"] = visits(browser, address)
            page = _opened(browser, address)
            page.evaluate(WATCH)
            figures["tau slider to picture, dragged in the browser"] = _moves(page, "")
            figures |= racing(page)
    return figures


def in_the_kernel() -> dict[str, Figure]:
    """Milliseconds from a value to the canvas's message, in a real kernel."""
    notebook = new_notebook(cells=[new_code_cell(TIMED)])
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "timed.ipynb")
        nbformat.write(notebook, path)
        kernels.execute(path, {}, Path(place), lambda _: None)
        done = nbformat.read(Path(place, kernels.EXECUTED), as_version=4)
    tau, pair, image, drawn = json.loads(done.cells[0].outputs[-1].text)
    anew = f"a figure of Matplotlib drawn anew: {1000 * statistics.median(drawn):.0f} ms"
    batch = "each predicted for the whole grid of tau, three networks"
    places = "each predicted for every place of the ball, three networks"
    return {
        "tau slider to picture, in the kernel": _latency(tau, 100, anew),
        "a new image pair on the path, in the kernel": _latency(pair, 100, batch),
        "a new image under the ball, in the kernel": _latency(image, 100, places),
    }


def visits(browser: Any, address: str) -> Figure:
    """Seconds from a visit to the first picture; a kernel waits for the next visitor.

    Args:
        browser: that visits.
        address: of the page.
    """
    times = []
    for _ in range(VISITS):
        time.sleep(3)  # as between two visitors, in which the next kernel starts
        start = time.perf_counter()
        page = _opened(browser, address)
        times.append(time.perf_counter() - start)
        page.goto("about:blank")
    return {
        "unit": "s",
        "value": statistics.median(times),
        "limit": 10,
        "smaller_is_better": True,
        "baseline": None,
        "against": f"longest of {VISITS}: {max(times):.2f} s",
    }


def racing(page: Page) -> dict[str, Figure]:
    """Pictures per second of a race on the digits, and how the tau slider answers meanwhile."""
    page.get_by_role("button", name="Train", exact=True).click()
    page.get_by_text("Both train in step").wait_for(timeout=120_000)
    page.evaluate("drawn.length = 0")
    page.wait_for_timeout(1000 * RACING)
    alone = page.evaluate("drawn.filter(([, , path]) => !path).length") / RACING
    beside = _moves(page, ", while a race trains")
    page.get_by_role("button", name="Stop", exact=True).click()
    return {
        "pictures of a race (digits, `small`)": {
            "unit": "per second",
            "value": alone,
            "limit": 5,
            "smaller_is_better": False,
            "baseline": None,
            "against": f"over {RACING:g} s, both methods training",
        },
        "tau slider to picture in the browser, while a race trains": beside,
    }


def _moves(page: Page, what: str) -> Figure:
    """Milliseconds from a move of the mouse to the picture of that tau."""
    handle = page.get_by_role("slider", name="tau").first
    track = handle.locator("xpath=ancestor::*[contains(@class, 'noUi-target')]").bounding_box()
    assert track is not None
    y = track["y"] + track["height"] / 2
    handle.hover()
    page.mouse.down()
    page.mouse.move(track["x"], y)
    page.get_by_text("tau = 0.00", exact=True).wait_for()
    times = []
    for move in range(1, MOVES + 1):
        # up and down again; a step of tau is 1 / 20
        step = move % 40 if move % 40 <= 20 else 40 - move % 40
        page.evaluate("moved.length = drawn.length = 0")
        page.mouse.move(track["x"] + track["width"] * step / 20, y)
        wanted = f"tau = {step / 20:.2f}"
        seen = f"drawn.find(([, text]) => text.includes('{wanted}'))"
        page.wait_for_function(f"() => {seen}", timeout=10_000, polling=10)
        times.append(page.evaluate(f"{seen}[0] - moved[0]") / 1000)
    page.mouse.up()
    return _latency(times, 250, f"{len(times)} moves{what}")


def _latency(times: list[float], limit: float, beside: str) -> Figure:
    """A line on latencies in seconds: their 95th percentile against a limit in milliseconds."""
    found = [1000 * seconds for seconds in sorted(times)]
    return {
        "unit": "ms",
        "value": statistics.quantiles(found, n=20)[-1],
        "limit": limit,
        "smaller_is_better": True,
        "baseline": None,
        "against": f"median {statistics.median(found):.1f} ms; {beside}",
    }


@contextmanager
def _address(place: Path) -> Iterator[tuple[str, Figure]]:
    """Address of a page with the path and a race, and how long it took to be there."""
    path = place / "page.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell(CELL)]), path)
    start = time.perf_counter()
    command = [sys.executable, "-c", SERVER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        ready = {
            "unit": "s",
            "value": time.perf_counter() - start,
            "limit": 10,
            "smaller_is_better": True,
            "baseline": None,
            "against": "the page can then be asked for",
        }
        yield address, ready
        process.terminate()


@contextmanager
def _browser() -> Iterator[Any]:
    """Headless Chromium."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        raise FileNotFoundError("the row `sliders` needs a browser: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


def _opened(browser: Any, address: str) -> Page:
    """A page that shows its first picture."""
    page: Page = browser.new_page(viewport={"width": 1280, "height": 720})
    page.goto(address, wait_until="commit")
    page.locator(".rtl-chart canvas").first.wait_for(timeout=60_000)
    return page
