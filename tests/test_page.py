"""Every panel on the real page: `rtl app`, its kernels, and headless Chromium.

Screenshots of the panels are written to `runs/screenshots`; those of the README are copies.
"""

import re
from collections.abc import Iterator

import browser
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect
from small_app import Server

from rtl_utils import folders
from rtl_utils.app import PAGE
from rtl_utils.widgets import recordings

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

SCREENSHOTS = folders.root() / "runs" / "screenshots"
PANELS = {
    "The path": "path",
    "Epochs and tau": "epochs",
    "The race": "race",
    "The ball": "ball",
    "Images per class": "sizes",
    "How many seeds?": "seeds",
    "LIME": "lime",
    "The response": "surface",
}
LONG = 60_000  # milliseconds; the machine may be busy


@pytest.fixture(scope="module")
def app():
    with Server(PAGE) as server:
        yield server


@pytest.fixture(scope="module")
def chromium():
    with browser.chromium() as launched:
        yield launched


@pytest.fixture
def visited(app, chromium):
    """A page that nobody has touched."""
    yield from complete(app, chromium)


@pytest.fixture(scope="module")
def projector(app, chromium):
    """A page on which one panel after the other is shown."""
    yield from complete(app, chromium)


@pytest.fixture(scope="module")
def phone(app, chromium):
    """The same on a narrow screen."""
    yield from complete(app, chromium, 390, 844)


def complete(app: Server, chromium: Browser, *size: int) -> Iterator[Page]:
    """A page that shows its first panel, and on which nothing may go wrong."""
    with browser.visit(chromium, app.address, *size) as watched:
        expect(watched.page.locator(".rtl-chart canvas").first).to_be_visible(timeout=LONG)
        yield watched.page
        assert not watched.errors
        assert not watched.foreign


def show(page: Page, panel: str) -> None:
    page.get_by_role("button", name=panel, exact=True).click()
    expect(page.get_by_role("heading", name=panel_title(panel))).to_be_visible(timeout=LONG)
    expect(page.locator(".rtl-chart canvas").first).to_be_visible(timeout=LONG)


def panel_title(panel: str) -> re.Pattern:
    return re.compile(rf"^{re.escape(panel)}", re.IGNORECASE)


def chart(page: Page, title: str):
    """The canvas below this title."""
    figure = page.locator(".rtl-chart").filter(has=page.get_by_text(title, exact=True))
    return figure.locator("canvas").first


def pixels(page: Page, title: str) -> str:
    return chart(page, title).evaluate("canvas => canvas.toDataURL()")


def changes(page: Page, before: str, position: int) -> None:
    """Wait until the chart at this position has other pixels."""
    page.wait_for_function(
        "([before, k]) => document.querySelectorAll('.rtl-chart canvas')[k].toDataURL() != before",
        arg=[before, position],
        timeout=LONG,
    )


def shown(page: Page, position: int) -> str:
    canvas = page.locator(".rtl-chart canvas").nth(position)
    return canvas.evaluate("canvas => canvas.toDataURL()")


def said(page: Page, title: str) -> dict[str, float]:
    """What a chart of shares says to a screen reader, by label."""
    text = chart(page, title).get_attribute("aria-label")
    return {name: float(value) for name, value in re.findall(r"(\S+) (\d+) %", text)}


def screenshot(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def test_the_tau_slider_changes_image_and_bars(visited):
    page = visited
    images = [shown(page, k) for k in range(4)]
    tau = page.get_by_role("slider", name="tau")
    tau.focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    expect(page.get_by_text("tau = 0.70", exact=True)).to_be_visible()
    changes(page, images[1], 1)
    changes(page, images[3], 3)
    assert [shown(page, 0), shown(page, 2)] == [images[0], images[2]], "an end has changed"
    label = said(page, "soft label")
    assert sorted(label.values())[-2:] in ([30.0, 70.0], [0.0, 100.0])


def test_the_mouse_drags_tau_to_its_end(visited):
    page = visited
    handle = page.get_by_role("slider", name="tau").bounding_box()
    x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(1, 41):  # faster than a kernel answers: the last value must win
        page.mouse.move(x + 10 * step, y)
    page.mouse.up()
    expect(page.get_by_text("tau = 1.00", exact=True)).to_be_visible()
    page.wait_for_function(
        """() => {
          const [, mixed, target] = document.querySelectorAll('.rtl-chart canvas');
          return mixed.toDataURL() == target.toDataURL();
        }""",
        timeout=LONG,
    )


def test_the_heat_map_follows_the_chosen_model(visited):
    page = visited
    show(page, "The ball")
    recording = recordings.stored()
    _, target = recording.clean_tasks
    maps = {}
    for name, button in (("ft", "fine-tuning"), ("ut", "uncoupled transfer")):
        page.get_by_role("button", name=button, exact=True).click()
        title = f"{button}: probability of 4/9"
        expect(page.get_by_text(title, exact=True)).to_be_visible(timeout=LONG)
        maps[name] = pixels(page, title)
    assert maps["ft"] != maps["ut"]
    page.get_by_role("button", name="taken away", exact=True).click()
    for name, title in (("backbone", "backbone"), ("ut", "uncoupled transfer")):
        expected = recordings.answers(recording.at(20)[name], target.x_val[:1])[0]
        names = ("0/5", "1/6", "2/7", "3/8", "4/9")
        rounded = dict(zip(names, np.round(100 * expected).tolist(), strict=True))
        page.wait_for_function(
            """([title, text]) => [...document.querySelectorAll('.rtl-chart')].some(
                 (figure) => figure.textContent == title
                   && figure.querySelector('canvas').ariaLabel.includes(text))""",
            arg=[title, f"4/9 {rounded['4/9']:.0f} %"],
            timeout=LONG,
        )
        assert said(page, title) == pytest.approx(rounded, abs=1)


def test_a_race_starts_pauses_resumes_stops_and_replays(visited):
    page = visited
    show(page, "The race")
    last_value(page, "epochs")
    choose(page, "images per class", "50")
    before = shown(page, 0)
    press(page, "Train")
    changes(page, before, 0)  # the stored race is gone
    drawn = number_drawn(page)
    page.wait_for_function(f"() => {DRAWN} > {drawn} + 5", timeout=LONG)
    press(page, "Pause")
    expect(page.get_by_role("button", name="Resume", exact=True)).to_be_visible()
    expect(page.get_by_text("paused")).to_be_visible(timeout=LONG)
    still = when_still(page)
    page.wait_for_timeout(1_000)  # in which some seven pictures would be drawn
    assert number_drawn(page) == still, "it went on while it was paused"
    press(page, "Resume")
    page.wait_for_function(f"() => {DRAWN} > {still} + 3", timeout=LONG)
    press(page, "Stop")
    expect(page.get_by_text(re.compile("Stopped after"))).to_be_visible(timeout=LONG)
    screenshot(page, "race-stopped")
    curves, confusion = shown(page, 0), shown(page, 4)
    epoch = page.get_by_role("slider", name="epoch shown")
    epoch.focus()
    page.keyboard.press("Home")
    changes(page, confusion, 4)
    changes(page, curves, 0)


def test_a_bad_entry_shows_its_message_and_nothing_is_trained(visited):
    page = visited
    show(page, "The race")
    taus = page.get_by_label("taus")
    taus.fill("0, 0.7, 0.5, 1")
    taus.press("Enter")
    press(page, "Train")
    message = page.get_by_text(re.compile(r"taus must rise"))
    expect(message).to_be_visible(timeout=LONG)
    assert "Traceback" not in page.content()
    expect(page.get_by_role("button", name="Train", exact=True)).to_be_enabled(timeout=LONG)


def test_two_pages_do_not_disturb_each_other(app, chromium, visited):
    with browser.visit(chromium, app.address) as other:
        expect(other.page.locator(".rtl-chart canvas").first).to_be_visible(timeout=LONG)
        before = shown(visited, 1)
        other.page.get_by_role("slider", name="tau").focus()
        other.page.keyboard.press("End")
        expect(other.page.get_by_text("tau = 1.00", exact=True)).to_be_visible(timeout=LONG)
        visited.get_by_role("slider", name="image pair").focus()
        visited.keyboard.press("ArrowRight")  # answered after what the other page did
        expect(visited.get_by_text("tau = 0.50", exact=True)).to_be_visible()
        changes(visited, before, 1)
        expect(other.page.get_by_role("slider", name="image pair")).to_have_attribute(
            "aria-valuenow", "1.0"
        )


@pytest.mark.parametrize("panel", PANELS)
def test_every_panel_fits_a_projector_and_names_its_controls(projector, panel):
    page = projector
    show(page, panel)
    screenshot(page, PANELS[panel])
    unnamed = page.locator(
        ":is(.noUi-handle, [contenteditable=true], .progress, .widget-toggle-buttons)"
        ":is(:not([aria-label]), [aria-label=''])"
    )
    expect(unnamed).to_have_count(0)
    headings = page.locator("h1, h2, h3").evaluate_all("found => found.map((h) => h.tagName)")
    assert headings == ["H1", "H2"]
    for kind in ("input", "select"):
        for control in page.locator(f".rtl-panel {kind}:visible").all():
            named = control.evaluate("c => c.ariaLabel || (c.labels && c.labels.length) || c.title")
            assert named, control.evaluate("c => c.outerHTML")
    pressed = page.locator("button[aria-pressed=true]").all_inner_texts()
    assert pressed[0] == panel
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= 1280, "it must be scrolled sideways"


@pytest.mark.parametrize("panel", PANELS)
def test_every_panel_fits_a_phone(phone, panel):
    show(phone, panel)
    screenshot(phone, f"{PANELS[panel]}-phone")
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390


DRAWN = "Number(document.querySelector('.rtl-scene').dataset.drawn)"


def number_drawn(page: Page) -> int:
    return page.evaluate(DRAWN)


def when_still(page: Page) -> int:
    """The number of pictures, once it has not changed for half a second."""
    drawn = number_drawn(page)
    while True:
        page.wait_for_timeout(500)
        if (now := number_drawn(page)) == drawn:
            return now
        drawn = now


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def choose(page: Page, name: str, option: str) -> None:
    page.get_by_label(name).select_option(option)


def last_value(page: Page, name: str) -> None:
    """Move a slider to its end by its keys."""
    page.get_by_role("slider", name=name, exact=True).focus()
    page.keyboard.press("End")
